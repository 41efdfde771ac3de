"""A storage that takes files, and does with each request what a script says."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from lake.tls import Tls

_STEP = 1 << 16  # bytes received, and sent, at once


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What becomes of one request.  As it is: what any storage would do."""

    status: int = 0  # answered instead
    reason: str = "because"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: int | None = None  # bytes of the request's body that are read before; None: all
    says: tuple[str, ...] = ()  # status lines that come before anything else, such as 102
    is_deaf: bool = False  # knows no Expect
    is_silent: bool = False  # instead of an answer, until `Store.release` is set
    holds: bool = False  # the connection, after an answer, without reading on
    drains: bool = False  # reads on after an answer, and throws it away
    ends: bool = False  # the connection, without an answer unless there is a status
    resets: bool = False  # the same, rudely
    late: bytes = b""  # comes after the answer, once `Store.release` is set
    cuts: int | None = None  # bytes of the answer's body after which the connection ends
    is_chunked: bool = False


FINE = Turn()


@dataclass(frozen=True)
class Request:
    """One that came."""

    method: str
    path: str  # as it was sent
    headers: Mapping[str, str]
    connection: int

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


class Store:
    """Serves *files* by their unquoted path on a free loopback port.

    Requests take the turns that `plan` was given one after the other, then `FINE`.  If it
    *is_strict*, directories have to be there (Apache), else they are made (XRootD).
    """

    def __init__(self, tls: Tls | None = None, host: str = "localhost") -> None:
        self.files: dict[str, bytes] = {}
        self.directories: set[str] = {"/"}
        self.is_strict = False
        self.heeds_overwrite = True
        self.digest = ""  # what HEAD tells who wants a digest
        self.requests: list[Request] = []
        self.received = 0  # bytes of bodies
        self.late = 0  # times that something came too late
        self.open = 0  # connections
        self.most_open = 0
        self.connections = 0
        self.release = threading.Event()
        self.host = host
        self._script: list[Turn] = []
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.store = self
        self._scheme = "http"
        if tls is not None:
            self._server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._server.tls.load_cert_chain(tls.host_certificate, tls.host_key)
            self._scheme = "https"
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
    def url(self) -> str:
        return self.at(self.host)

    def at(self, host: str) -> str:
        return f"{self._scheme}://{host}:{self._server.server_port}"

    @property
    def told(self) -> list[str]:
        """The requests that came, as "METHOD /path"."""
        return [f"{one.method} {one.path}" for one in self.requests]

    def plan(self, *turns: Turn) -> None:
        """What becomes of the requests to come."""
        self._script += turns

    def wait(self, condition: Callable[[Store], bool]) -> None:
        """Block until *condition* holds of this store."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), 20), "it never came to that"

    def hang_up(self) -> None:
        """End all connections, and wait until they are."""
        self._server.hang_up()
        self.wait(lambda store: not store.open)

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()  # waits for the handlers
        self._thread.join()

    # --- for the handlers ------------------------------------------------------------------------

    def turn_of(self, request: Request) -> Turn:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            return self._script.pop(0) if self._script else FINE

    def note(self, *, received: int = 0, opened: int = 0, late: int = 0) -> int:
        with self._changed:
            self.late += late
            self.received += received
            self.open += opened
            self.most_open = max(self.most_open, self.open)
            self.connections += max(0, opened)
            self._changed.notify_all()
            return self.connections


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64
    store: Store
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


class _HangUp(Exception):
    """The connection is to end here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.number = self.server.store.note(opened=1)

    def finish(self) -> None:
        super().finish()
        self.server.store.note(opened=-1)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_expect_100(self) -> bool:
        return True  # we do that ourselves

    def _any(self) -> None:
        headers = {name.title(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self.number)
        turn = self.server.store.turn_of(request)
        try:
            self._take(request, turn)
        except (_HangUp, OSError):
            self.close_connection = True
        self.server.store.note()

    do_PUT = do_HEAD = do_GET = do_DELETE = do_MOVE = do_MKCOL = _any

    def _take(self, request: Request, turn: Turn) -> None:
        for line in turn.says:
            self.wfile.write(f"HTTP/1.1 {line}\r\nX: y\r\n\r\n".encode())
        length = int(request.headers.get("Content-Length", 0))
        wanted = length if turn.after is None else min(turn.after, length)
        if wanted and "Expect" in request.headers and not turn.is_deaf:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b"".join(self._received(wanted))
        if turn.is_silent:
            self.server.store.release.wait(30)
        if turn.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if turn.status:
            self._say(turn.status, turn.headers, turn.body, turn)
        elif not turn.ends and not turn.resets:
            self._do(request, body, turn)
        if turn.holds:
            self.server.store.release.wait(30)
        if turn.late:
            self.server.store.release.wait(30)
            self.wfile.write(turn.late)
            self.server.store.note(late=1)
        if turn.drains:
            self._received(length - wanted)
        elif turn.ends or turn.resets or wanted < length:
            raise _HangUp

    def _received(self, wanted: int) -> list[bytes]:
        parts = []
        while wanted:
            part = self.rfile.read(min(wanted, _STEP))
            if not part:
                raise _HangUp
            self.server.store.note(received=len(part))
            parts.append(part)
            wanted -= len(part)
        return parts

    def _do(self, request: Request, body: bytes, turn: Turn) -> None:
        store = self.server.store
        path = unquote(urlsplit(request.path).path)
        match request.method:
            case "PUT" if store.is_strict and _above(path) not in store.directories:
                self._say(409, {}, b"no parent", turn)
            case "PUT":
                status = 204 if path in store.files else 201
                store.files[path] = body
                self._say(status, {}, b"", turn)
            case "MKCOL" if path in store.directories:
                self._say(405, {}, b"", turn)
            case "MKCOL" if _above(path.rstrip("/")) not in store.directories:
                self._say(409, {}, b"", turn)
            case "MKCOL":
                store.directories.add(path)
                self._say(201, {}, b"", turn)
            case "MOVE":
                self._say(self._move(path, request.headers), {}, b"", turn)
            case _ if path not in store.files:
                self._say(404, {}, b"no such file", turn)
            case "DELETE":
                del store.files[path]
                self._say(204, {}, b"", turn)
            case _:
                headers = dict(turn.headers)
                if store.digest and "Want-Digest" in request.headers:
                    headers["Digest"] = store.digest
                self._say(200, headers, store.files[path], turn)

    def _move(self, path: str, headers: Mapping[str, str]) -> int:
        store = self.server.store
        destination = headers["Destination"].encode("latin-1").decode()  # XRootD gets it so
        target = unquote(urlsplit(destination).path)
        if path not in store.files:
            return 404
        if target in store.files and headers["Overwrite"] == "F" and store.heeds_overwrite:
            return 412
        if store.is_strict and _above(target) not in store.directories:
            return 409
        store.files[target] = store.files.pop(path)
        return 201

    def _say(self, status: int, headers: Mapping[str, str], body: bytes, turn: Turn) -> None:
        self.send_response_only(status, turn.reason)  # names no Server
        sent = {"Content-Length": str(len(body)), **headers}
        if turn.is_chunked:
            sent = {"Transfer-Encoding": "chunked", **headers}
        for name, value in sent.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if turn.is_chunked:
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        else:
            self.wfile.write(body[: turn.cuts])
        if turn.cuts is not None:
            raise _HangUp


def _above(path: str) -> str:
    return path.rpartition("/")[0] + "/"
