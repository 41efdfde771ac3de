"""A storage that holds files, and does with each request what a script says."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lake.tls import Tls
from tests.unit.serving import Handler, HangUp, Serving

BEFORE = -1
"""For `Fault.stalls`, `Fault.resets` and `Fault.cuts`: before there is any answer."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with an answer.  Numbers are bytes of its body."""

    status: int = 0  # instead of the file, with `body`
    headers: Mapping[str, str] = field(default_factory=dict)  # more of them, or others
    body: bytes = b""
    stalls: int | None = None  # silent after so many, until `Storage.release` is set
    resets: int | None = None
    cuts: int | None = None  # closed in order, but too early
    lacks: int = 0  # a clean answer, as if the file ended earlier
    whole: bool = False  # 200: takes no notice of Range
    chunked: bool = False
    unending: bool = False  # chunked, without the last chunk
    unsized: bool = False  # ended by the end of the connection
    surplus: bytes = b""  # comes after what was asked for
    closes: bool = False  # afterwards, without having said so
    wrong: bool = False  # another byte at the end of each


FINE = Fault()


@dataclass(frozen=True)
class Request:
    """One that came.  *subject* is the name on the client's certificate."""

    path: str
    headers: Mapping[str, str]
    connection: int
    subject: str = ""

    @property
    def range(self) -> str:
        return self.headers.get("Range", "").removeprefix("bytes=")

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


class Storage(Serving):
    """Serves *files* by path on a free loopback port.

    Requests take the faults that `plan` was given one after the other, then `usual`.  With *tokens*
    a request has to carry one of them.  *finished* counts requests that were answered to the end,
    *sent* the bytes of bodies.
    """

    def __init__(self, tls: Tls | None = None, host: str = "127.0.0.1") -> None:
        self.files: dict[str, bytes] = {}
        self.usual: Fault | Callable[[Request], Fault] = FINE
        self.tokens: set[str] | None = None
        self.requests: list[Request] = []
        self.finished = 0
        self.sent = 0
        self._script: list[Fault] = []
        context = None
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.host_certificate, tls.host_key)
            context.load_verify_locations(tls.ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
        super().__init__(_Handler, context, host)

    def plan(self, *faults: Fault) -> None:
        """What becomes of the requests to come."""
        self._script += faults

    @property
    def ranges(self) -> list[str]:
        return [request.range for request in self.requests]

    # --- for the handlers ------------------------------------------------------------------------

    def fault_of(self, request: Request) -> Fault:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
            if self.tokens is not None and request.token not in self.tokens:
                return Fault(status=401)
            if self._script:
                return self._script.pop(0)
        return self.usual if isinstance(self.usual, Fault) else self.usual(request)


class _Handler(Handler):
    def do_GET(self) -> None:
        storage: Storage = self.server.owner
        headers = {name.title(): value for name, value in self.headers.items()}
        fault = storage.fault_of(Request(self.path, headers, self.number, self._subject()))
        try:
            self._answer(storage, fault)
        except (HangUp, OSError):
            self.close_connection = True
        else:
            self.close_connection |= fault.closes or fault.unsized
            storage.note(finished=1)

    def _subject(self) -> str:
        if not isinstance(self.connection, ssl.SSLSocket):
            return ""
        found: Any = (self.connection.getpeercert() or {}).get("subject", ())
        return "".join(value for part in found for _, value in part)

    def _answer(self, storage: Storage, fault: Fault) -> None:
        data = storage.files.get(self.path.partition("?")[0])
        if fault.status or data is None:
            self._say(fault.status or 404, {"Content-Length": len(fault.body)}, fault)
            self._send(fault.body, fault)
            return
        data = data[: len(data) - fault.lacks] if fault.lacks else data
        start, end = self._range(len(data))
        if fault.whole:
            start, end = 0, len(data)
        body = data[start:end] + fault.surplus
        if fault.wrong:
            body = body[:-1] + bytes([body[-1] ^ 0xFF])
        headers: dict[str, object] = {}
        if not fault.whole:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data) + fault.lacks}"
        if fault.chunked or fault.unending:
            headers["Transfer-Encoding"] = "chunked"
        elif not fault.unsized:
            headers["Content-Length"] = end - start
        self._say(200 if fault.whole else 206, headers, fault)
        self._send(body, fault)

    def _range(self, size: int) -> tuple[int, int]:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), min(size, int(last) + 1 if last else size)

    def _say(self, status: int, headers: Mapping[str, object], fault: Fault) -> None:
        self._trouble(BEFORE, fault)
        self.send_response(status)
        for name, value in {**headers, **fault.headers}.items():
            if value != "":
                self.send_header(name, str(value))
        self.end_headers()

    def _send(self, body: bytes, fault: Fault) -> None:
        is_chunked = fault.chunked or fault.unending
        places = {at for at in (fault.stalls, fault.resets, fault.cuts) if at is not None}
        sent = 0
        for at in sorted({at for at in places if 0 <= at < len(body)} | {len(body)}):
            for begin in range(sent, at, 1 << 16):
                part = body[begin : min(at, begin + (1 << 16))]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
                self.server.owner.note(sent=len(part))
            sent = at
            self._trouble(at, fault)
        if fault.chunked:
            self.wfile.write(b"0\r\n\r\n")
        if fault.unending:
            raise HangUp

    def _trouble(self, at: int, fault: Fault) -> None:
        if fault.stalls == at:
            self.server.owner.release.wait(30)
        if fault.resets == at:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise HangUp
        if fault.cuts == at:
            raise HangUp
