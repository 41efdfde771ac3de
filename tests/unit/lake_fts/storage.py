"""A small WebDAV storage over a dictionary, with checksums, tokens and HTTP-TPC if wanted."""

from __future__ import annotations

import base64
import hashlib
import http.client
import socket
import threading
import zlib
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType


class Storage:
    """Files by path on a free loopback port.

    *server* is its ``Server`` header: XrootD ones do COPY and give checksums, others (nginx) do
    not.  *token*, if given, is demanded of every request.  `swallow` bytes of each PUT get lost.
    """

    def __init__(self, server: str = "XrootD", token: str | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.server = server
        self.token = token
        self.swallow = 0
        self.seen: list[tuple[str, str]] = []
        self.put_gate: threading.Event | None = None
        self.put_begun = threading.Event()
        self._open: list[socket.socket] = []
        self.connections = 0
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.storage = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, path: str) -> str:
        """Return what Rucio would call the file at *path*."""
        return f"dav://127.0.0.1:{self._http.server_port}{path}"

    def accepted(self, connection: socket.socket) -> None:
        """Take note of a client."""
        self.connections += 1
        self._open.append(connection)

    def hang_up(self) -> None:
        """Close every connection that is open, as an impatient server does."""
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.seen]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.put_gate is not None:
            self.put_gate.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    storage: Storage

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A cancelled transfer hangs up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.storage.accepted(self.connection)

    def version_string(self) -> str:
        return self.server.storage.server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        if not self._may():
            return
        content = self.server.storage.files.get(self.path)
        if content is None and not self.path.endswith("/"):
            self._reply(404)
            return
        content = content or b""
        digests = {}
        wanted = self.headers.get("Want-Digest", "")
        if self.server.storage.server == "XrootD" and wanted == "adler32":
            digests = {"Digest": f"adler32={zlib.adler32(content):08x}"}
        elif self.server.storage.server == "XrootD" and wanted == "md5":
            md5 = hashlib.md5(content, usedforsecurity=False).digest()
            digests = {"Digest": f"md5={base64.b64encode(md5).decode()}"}
        self._reply(200, headers={"Content-Length": str(len(content)), **digests})

    def do_GET(self) -> None:
        if self._may():
            content = self.server.storage.files.get(self.path)
            self._reply(404 if content is None else 200, content or b"")

    def do_PUT(self) -> None:
        storage = self.server.storage
        storage.put_begun.set()
        if storage.put_gate is not None:
            storage.put_gate.wait(30)
        length = int(self.headers["Content-Length"])
        # Before any refusal: closing on unread bytes would reset the client and lose the answer.
        content = self.rfile.read(length)
        if self._may() and len(content) == length:
            storage.files[self.path] = content[: length - storage.swallow]
            self._reply(201)

    def do_DELETE(self) -> None:
        if self._may():
            gone = self.server.storage.files.pop(self.path, None)
            self._reply(404 if gone is None else 204)

    def do_COPY(self) -> None:
        """Push, as XRootD does: with the token meant for the other side."""
        if not self._may():
            return
        target = urlsplit(self.headers["Destination"])
        token = self.headers.get("TransferHeaderAuthorization")
        headers = {"Authorization": token} if token else {}
        content = self.server.storage.files[self.path]
        with closing(http.client.HTTPConnection(str(target.hostname), target.port)) as connection:
            connection.request("PUT", target.path, content, headers)
            status = connection.getresponse().status
        end = b"success: Created" if status == 201 else b"failure: remote said %d" % status
        self._reply(201, b"Perf Marker\nTimestamp: 1\nEnd\n" + end)

    def _may(self) -> bool:
        storage = self.server.storage
        storage.seen.append((self.command, self.path))
        if storage.token and self.headers.get("Authorization") != f"Bearer {storage.token}":
            self._reply(403)
            return False
        return True

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header in (headers or {"Content-Length": str(len(body))}).items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)
