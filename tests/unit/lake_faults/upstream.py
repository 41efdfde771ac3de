"""A small real HTTP server that the proxy under test stands before."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

PLAIN = bytes(range(256)) * 40
ROWS = [b'{"row": %d}\n' % number for number in range(1000)]
BIG = b"0123456789abcdef" * (12 * 65536)


class Upstream:
    """Serves, on a free loopback port:

    ``/plain`` with Content-Length, ``/rows`` chunked, a chunk a row, ``/big`` 12 MiB chunked,
    ``/gated`` whose second chunk waits for `gate`, ``/close`` ended by the connection's close,
    ``/early`` which refuses without reading the body, ``/drop`` which hangs up without an answer,
    ``/once`` which closes after its answer without having said so, POST and PUT echo the body.
    """

    def __init__(self, cert: Path | None = None, key: Path | None = None) -> None:
        self.gate = threading.Event()
        self.seen: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.upstream = self
        self._scheme = "http"
        if cert and key:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            self._server.tls = context
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    upstream: Upstream
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        # Here, in the handler's thread, a handshake that is broken off holds up nobody.
        with self.tls.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The proxy breaks connections; that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.upstream.connections += 1

    def parse_request(self) -> bool:
        done = super().parse_request()
        if done:
            self.server.upstream.seen.append((self.command, self.path))
            self.server.upstream.headers.append(dict(self.headers.items()))
        return done

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/rows":
                self._chunks(ROWS)
            case "/big":
                self._chunks([BIG[i : i + 65536] for i in range(0, len(BIG), 65536)])
            case "/gated":
                self._chunks([b"first\n"], end=False)
                self.wfile.flush()
                self.server.upstream.gate.wait(30)
                self.wfile.write(b"7\r\nsecond\n\r\n0\r\n\r\n")
            case "/close":
                self.send_response(200)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(PLAIN)
            case "/drop":
                self.close_connection = True
            case "/once":
                self._plain(PLAIN)
                self.close_connection = True
            case _:
                self._plain(PLAIN)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.path == "/early":
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            return
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._plain(body)

    do_PUT = do_POST

    def _plain(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Rucio-Auth-Token", "secret")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _chunks(self, chunks: list[bytes], end: bool = True) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if end:
            self.wfile.write(b"0\r\n\r\n")
