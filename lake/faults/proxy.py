"""`FaultProxy`: the listener, its thread, and the faults' switchboard.

Why one of our own: toxiproxy is a Go program and knows bytes, not requests; mitmproxy brings some
40 packages and can neither end a body unnoticed nor refuse on a port it keeps; proxy.py passes
whole buffers and has no place for a stall in the middle of an answer; pytest-httpserver answers
for itself instead of standing before a real server.  What is needed is small, and asyncio makes
its hard part, letting go of everything at close, a matter of cancelling tasks.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from lake.faults.actions import TCP_ACTIONS, Fault, Refuse
from lake.faults.exchange import HttpSession
from lake.faults.table import Handle, RequestRecord, Table
from lake.faults.tunnel import TcpSession
from lake.faults.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_log = logging.getLogger(__name__)

# Starting and stopping takes milliseconds; a bug must not hang a test run.
_PATIENCE = 5.0
_LIMIT = 1 << 20


@dataclass(frozen=True)
class Tls:
    """Certificate and key (PEM files) with which the proxy ends its clients' TLS."""

    cert: Path
    key: Path


class FaultProxy:
    """Stands before *upstream* on *host*:*port* (0: any free port).

    *upstream* is ``http://h:p``, ``https://h:p`` or ``tcp://h:p``.  HTTP is understood if the
    upstream is ``http``, or ``https`` with *tls* (the upstream's certificate is not verified).
    ``https`` without *tls*, and ``tcp``, pass as bytes: faults then hit connections, only those
    in `actions.TCP_ACTIONS` are allowed, and `method` and `path` must be None.

    All methods are safe from any thread.  A fault acts on what arrives after `add` returns.
    """

    def __init__(
        self, upstream: str, tls: Tls | None = None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        parts = urlsplit(upstream)
        if parts.scheme not in ("http", "https", "tcp") or not parts.hostname:
            raise ValueError(f"not an http, https or tcp URL: {upstream}")
        self.is_http = parts.scheme == "http" or (parts.scheme == "https" and tls is not None)
        self._upstream = (
            parts.hostname,
            parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0),
        )
        self._upstream_tls = parts.scheme == "https" and self.is_http
        self._client_tls = tls
        # What a client writes: TLS that passes unopened is still https to it.
        encrypted = tls is not None or parts.scheme == "https"
        self._scheme = "tcp" if parts.scheme == "tcp" else "https" if encrypted else "http"
        self._host = host
        self.port = port
        self._table = Table(self._on_change)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._placeholder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._sessions: dict[asyncio.Task[None], Wire] = {}

    @property
    def url(self) -> str:
        """Where clients go instead of *upstream*, without a slash at the end."""
        return f"{self._scheme}://{self._host}:{self.port}"

    @property
    def requests(self) -> list[RequestRecord]:
        """What has reached the proxy since the start or `clear_requests`, oldest first."""
        return self._table.records()

    @property
    def faults(self) -> list[Handle]:
        """What was added and not removed, spent ones too, oldest first."""
        return self._table.handles()

    def add(self, fault: Fault) -> Handle:
        """Put *fault* in force.  Raises: ValueError for a fault that TCP level cannot do."""
        if not self.is_http and (
            not isinstance(fault.action, TCP_ACTIONS) or fault.method or fault.path
        ):
            raise ValueError(f"at TCP level there are no requests to do this to: {fault}")
        return self._table.add(fault)

    def clear(self) -> None:
        """Take all faults away; what they hold goes on, a refused port listens again."""
        self._table.clear()

    def clear_requests(self) -> None:
        """Forget what has reached the proxy."""
        self._table.clear_records()

    def wait_requests(self, count: int, timeout: float = 10.0) -> list[RequestRecord]:
        """Wait until *count* requests have arrived; return all.  Raises: TimeoutError."""
        self._table.wait_records(count, timeout)
        return self._table.records()

    def drop_connections(self) -> None:
        """Reset every open client connection, as a network that breaks would."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._reset_sessions)

    def start(self) -> Self:
        """Listen; `url` and `port` are good from now on.  Raises: OSError if the port is taken."""
        # Bound but never listening: it keeps the port ours while Refuse has closed the listener,
        # and the kernel answers connections to it with "connection refused".
        placeholder = self._bind(self.port)
        self.port = placeholder.getsockname()[1]
        self._placeholder = placeholder
        loop = self._loop = asyncio.new_event_loop()
        loop.set_exception_handler(_log_quietly)
        self._thread = threading.Thread(
            target=loop.run_forever, name=f"fault-proxy-{self.port}", daemon=True
        )
        self._thread.start()
        try:
            self._on_change(())
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop listening, break every connection, release every waiter.  Harmless if repeated."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = self._thread = None
        try:
            asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result(_PATIENCE)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_PATIENCE)
            loop.close()
            if self._placeholder is not None:
                self._placeholder.close()
                self._placeholder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Two sockets on one port: the placeholder and, most of the time, the listener.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((self._host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _on_change(self, removed: Sequence[Handle]) -> None:
        """Wait until the loop has taken note: after `add(Fault(Refuse()))` nobody gets in."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._apply(removed), self._loop).result(_PATIENCE)

    async def _apply(self, removed: Sequence[Handle]) -> None:
        for handle in removed:
            handle.removed.set()
        is_down = any(_is_outage(handle.fault) for handle in self._table.handles())
        if is_down and self._server is not None:
            self._server.close()
            self._server = None
            self._reset_sessions()
        elif not is_down and self._server is None:
            self._server = await asyncio.start_server(
                self._accept, sock=self._bind(self.port), ssl=self._server_context(), limit=_LIMIT
            )

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Wire(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._sessions[task] = client
        try:
            if self._table.take(None, "", lambda fault: isinstance(fault.action, Refuse)):
                client.reset()
                return
            session = HttpSession if self.is_http else TcpSession
            await session(client, self._connect, self._table).run()
        except asyncio.CancelledError:
            client.reset()
        finally:
            # The transport may still be sending; close() must be able to break it.
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            del self._sessions[task]

    async def _connect(self) -> Wire:
        context = ssl._create_unverified_context() if self._upstream_tls else None
        reader, writer = await asyncio.open_connection(*self._upstream, ssl=context, limit=_LIMIT)
        return Wire(reader, writer)

    def _server_context(self) -> ssl.SSLContext | None:
        if self._client_tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._client_tls.cert, self._client_tls.key)
        return context

    def _reset_sessions(self) -> None:
        for wire in self._sessions.values():
            wire.reset()

    async def _shut_down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._sessions)
        self._reset_sessions()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Aborted transports close their sockets in a callback of their own.
        for _ in range(3):
            await asyncio.sleep(0)


def _is_outage(fault: Fault) -> bool:
    return isinstance(fault.action, Refuse) and fault.times is None and fault.nth is None


def _log_quietly(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Note what asyncio complains of: failed handshakes and broken pipes are the point here."""
    _log.debug("%s", context.get("message"), exc_info=context.get("exception"))
