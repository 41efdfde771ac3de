"""HTTP control of a running `FaultProxy`, on a port of its own; `client.FaultControl` speaks it.

GET, POST, DELETE /faults       list, add (answers with its id), clear
DELETE            /faults/<id>  remove one
GET, DELETE       /requests     what reached the proxy; forget it
GET               /proxy        {"url": ...}
DELETE            /connections  reset every open client connection
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from lake.faults.actions import Fault

if TYPE_CHECKING:
    from types import TracebackType

    from lake.faults.proxy import FaultProxy
    from lake.faults.table import Handle


class ControlServer:
    """Serves control of *proxy* on *host*:*port* (0: any free port) in a thread of its own."""

    def __init__(self, proxy: FaultProxy, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = _Server((host, port), _Handler)
        self._server.proxy = proxy
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultProxy


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """List."""
        if self.path == "/proxy":
            self._reply(200, {"url": self.server.proxy.url})
        elif self.path == "/faults":
            self._reply(200, [_view(handle) for handle in self.server.proxy.faults])
        elif self.path == "/requests":
            self._reply(200, [record.to_json() for record in self.server.proxy.requests])
        else:
            self._reply(404, {"message": self.path})

    def do_POST(self) -> None:
        """Add a fault."""
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/faults":
            self._reply(404, {"message": self.path})
            return
        try:
            handle = self.server.proxy.add(Fault.from_json(json.loads(raw)))
        except (KeyError, TypeError, ValueError) as error:
            self._reply(400, {"message": repr(error)})
        else:
            self._reply(200, _view(handle))

    def do_DELETE(self) -> None:
        """Clear or remove."""
        proxy = self.server.proxy
        kind, _, name = self.path.strip("/").partition("/")
        if self.path == "/faults":
            proxy.clear()
        elif self.path == "/requests":
            proxy.clear_requests()
        elif self.path == "/connections":
            proxy.drop_connections()
        elif kind == "faults" and (found := [h for h in proxy.faults if str(h.id) == name]):
            found[0].remove()
        else:
            self._reply(404, {"message": self.path})
            return
        self._reply(200, {})

    def log_message(self, format: str, *args: Any) -> None:
        """Keep no access log."""

    def _reply(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _view(handle: Handle) -> dict[str, Any]:
    return {"id": handle.id, "hits": handle.hits, "fault": handle.fault.to_json()}
