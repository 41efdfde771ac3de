"""An HTTP server in a thread, for storages whose every answer is scripted."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class HangUp(Exception):
    """The connection is to end here."""


class Serving:
    """Serves by *handler* on a free loopback port, from construction until `close`.

    *open* counts the connections there are, *most_open* and *connections* those there were at once
    and in all.  Handlers that wait for *release* go on when it is set.
    """

    def __init__(self, handler: type[Handler], tls: ssl.SSLContext | None, host: str) -> None:
        self.release = threading.Event()
        self.open = 0
        self.most_open = 0
        self.connections = 0
        self.host = host
        self.changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.owner = self
        self._server.tls = tls
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return self.at(self.host)

    def at(self, host: str) -> str:
        return f"{'http' if self._server.tls is None else 'https'}://{host}:{self.port}"

    def wait(self, condition: Callable[[Self], bool]) -> None:
        """Block until *condition* holds of this server."""
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), 20), "it never came to that"

    def hang_up(self) -> None:
        """End all connections, and wait until they are."""
        self._server.hang_up()
        self.wait(lambda serving: not serving.open)

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()  # waits for the handlers
        self._thread.join()

    def note(self, **counts: int) -> None:
        """Add to counters, named by their attributes; whoever waits looks again."""
        with self.changed:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)
            self.most_open = max(self.most_open, self.open)
            self.changed.notify_all()

    def begun(self) -> int:
        """A connection has come; its number."""
        with self.changed:
            self.note(open=1, connections=1)
            return self.connections


class Handler(BaseHTTPRequestHandler):
    """One connection, the *number*th."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.number = self.server.owner.begun()

    def finish(self) -> None:
        super().finish()
        self.server.owner.note(open=-1)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64
    owner: Any  # what the handlers serve from: a Serving of their own kind
    tls: ssl.SSLContext | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._live: set[socket.socket] = set()
        self._lock = threading.Lock()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            # Here, in the handler's thread, a handshake that is broken off holds up nobody.
            request = self.tls.wrap_socket(request, server_side=True)
        with self._lock:
            self._live.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            with self._lock:
                self._live.discard(request)
            request.close()

    def shutdown_request(self, request: Any) -> None:
        request.close()  # an orderly shutdown would come before a reset

    def hang_up(self) -> None:
        with self._lock:
            for one in self._live:
                try:
                    socket.socket.shutdown(one, socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up; that is what is tested."""
