"""A storage that takes files, and does with each request what a script says."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from lake.tls import Tls
from tests.unit.serving import Handler, HangUp, Serving

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


class Store(Serving):
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
        self._script: list[Turn] = []
        context = None
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.host_certificate, tls.host_key)
        super().__init__(_Handler, context, host)

    @property
    def told(self) -> list[str]:
        """The requests that came, as "METHOD /path"."""
        return [f"{one.method} {one.path}" for one in self.requests]

    def plan(self, *turns: Turn) -> None:
        """What becomes of the requests to come."""
        self._script += turns

    # --- for the handlers ------------------------------------------------------------------------

    def turn_of(self, request: Request) -> Turn:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
            return self._script.pop(0) if self._script else FINE


class _Handler(Handler):
    def handle_expect_100(self) -> bool:
        return True  # we do that ourselves

    def _any(self) -> None:
        headers = {name.title(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self.number)
        turn = self.server.owner.turn_of(request)
        try:
            self._take(request, turn)
        except (HangUp, OSError):
            self.close_connection = True
        self.server.owner.note()

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
            self.server.owner.release.wait(30)
        if turn.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if turn.status:
            self._say(turn.status, turn.headers, turn.body, turn)
        elif not turn.ends and not turn.resets:
            self._do(request, body, turn)
        if turn.holds:
            self.server.owner.release.wait(30)
        if turn.late:
            self.server.owner.release.wait(30)
            self.wfile.write(turn.late)
            self.server.owner.note(late=1)
        if turn.drains:
            self._received(length - wanted)
        elif turn.ends or turn.resets or wanted < length:
            raise HangUp

    def _received(self, wanted: int) -> list[bytes]:
        parts = []
        while wanted:
            part = self.rfile.read(min(wanted, _STEP))
            if not part:
                raise HangUp
            self.server.owner.note(received=len(part))
            parts.append(part)
            wanted -= len(part)
        return parts

    def _do(self, request: Request, body: bytes, turn: Turn) -> None:
        store: Store = self.server.owner
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
        store: Store = self.server.owner
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
            raise HangUp


def _above(path: str) -> str:
    return path.rpartition("/")[0] + "/"
