"""A server that answers as told, byte for byte: as Rucio, proxies and broken networks do."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Answer = bytes | None  # None: silence until the end of the test


def answer(
    body: bytes | str = b"",
    status: str = "200 OK",
    kind: str | None = "application/json",
    *,
    length: int | None = -1,
    **headers: str,
) -> bytes:
    """One HTTP answer; *length* -1 is the true Content-Length, None leaves it out."""
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}"]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def stream(*rows: Any, end: bytes = b"0\r\n\r\n", cut: int | None = None) -> bytes:
    """Rows as Rucio streams them: chunked, a line each.  *cut* keeps that many bytes of the body
    inside the chunks; *end* is the final chunk."""
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)[:cut]
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(line), line) for line in text.splitlines(keepends=True)
    )
    kind = "application/x-json-stream"
    head = answer(b"", kind=kind, length=None, Transfer_Encoding="chunked")
    return head + chunks + end


def error(status: str, name: str, text: str = "because", **headers: str) -> bytes:
    """An error as Rucio sends it."""
    body = json.dumps({"ExceptionClass": name, "ExceptionMessage": text})
    kind = "application/octet-stream"
    named = {"ExceptionClass": name, "ExceptionMessage": text} | headers
    return answer(body, status, kind, length=-1, **named)


def token(number: int = 1) -> bytes:
    return answer(b"", kind="application/octet-stream", X_Rucio_Auth_Token=f"token-{number}")


class Server:
    """Answers by path: the answers given to `on` in turn, the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self.bodies: defaultdict[str, list[Any]] = defaultdict(list)  # JSON, by path
        self.silent_after_cut = False  # keep the connection of an answer that is cut
        self._answers: dict[str, list[Answer]] = defaultdict(list)
        self._over = threading.Event()
        owner = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    while owner._serve(self):
                        pass
                except OSError:
                    pass  # the client went away

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"

    def on(self, path: str, *answers: Answer) -> None:
        self._answers[path] = list(answers)

    def count(self, path: str) -> int:
        return sum(1 for _, seen, _ in self.requests if seen == path)

    def _serve(self, handler: socketserver.StreamRequestHandler) -> bool:
        line = handler.rfile.readline().decode()
        if not line.strip():
            return False
        method, target, _ = line.split()
        headers: dict[str, str] = {}
        while (line := handler.rfile.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = handler.rfile.read(int(headers.get("content-length", 0)))
        path = target.partition("?")[0]
        if body:
            self.bodies[path].append(json.loads(body))
        self.requests.append((method, path, headers))
        answers = self._answers[path] or [error("404 NOT FOUND", "", "no such path")]
        chosen = answers.pop(0) if len(answers) > 1 else answers[0]
        if chosen is None:
            self._over.wait()
            return False
        handler.wfile.write(chosen)
        head, _, body = chosen.partition(b"\r\n\r\n")
        if b"chunked" in head:
            is_whole = body.endswith(b"0\r\n\r\n")
        else:
            is_whole = b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
        if not is_whole and self.silent_after_cut:
            self._over.wait()
        if not is_whole:
            handler.connection.shutdown(socket.SHUT_WR)
        return is_whole

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._listener.shutdown()
            self._listener.server_close()
            thread.join()
