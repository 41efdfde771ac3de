"""HTTP/1.1 on the wire: heads and bodies, read and written as they come.

Only framing (RFC 9112): no policy, no faults.  Bodies are handed on piece by piece as they
arrive, never collected, so a proxy made of this adds nothing to the time to the first byte.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_READ = 1 << 18
_MAX_HEAD = 1 << 18


class WireError(Exception):
    """The peer closed in the middle, or does not speak HTTP/1."""


@dataclass(frozen=True)
class Head:
    """A start line and headers.  Names keep their case, values are text without the line end."""

    start: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """Return the values of *name*, in lower case and joined by commas; "" if absent."""
        return ",".join(v for k, v in self.headers if k.lower() == name.lower()).lower()

    def text(self, name: str) -> str:
        """Return the first value of *name* as it stands; "" if absent."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), "")

    def without(self, name: str) -> Head:
        """Return a copy without *name*."""
        kept = tuple((k, v) for k, v in self.headers if k.lower() != name.lower())
        return Head(self.start, kept)

    def having(self, name: str, value: str) -> Head:
        """Return a copy in which *name* has this one value."""
        return Head(self.start, (*self.without(name).headers, (name, value)))

    def encode(self) -> bytes:
        """Return it as bytes, with the empty line at the end."""
        lines = [self.start, *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def method(self) -> str:
        """Of a request."""
        return self.start.split(" ", 1)[0]

    @property
    def target(self) -> str:
        """Of a request: path and query."""
        return self.start.split(" ", 2)[1]

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.start.split(" ", 2)[1])

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can be used again after this message."""
        if "HTTP/1.0" in self.start:
            return "keep-alive" in self.get("connection")
        return "close" not in self.get("connection")


class Framing(Enum):
    """How the end of a body is told."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


def request_framing(head: Head) -> tuple[Framing, int]:
    """Return the framing of a request's body and, for LENGTH, its bytes."""
    if "chunked" in head.get("transfer-encoding"):
        return Framing.CHUNKED, 0
    length = int(head.get("content-length") or 0)
    return (Framing.LENGTH, length) if length else (Framing.NONE, 0)


def response_framing(head: Head, method: str) -> tuple[Framing, int]:
    """Return the framing of the body of the answer to a *method* request."""
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return Framing.NONE, 0
    if "chunked" in head.get("transfer-encoding"):
        return Framing.CHUNKED, 0
    if length := head.get("content-length"):
        return Framing.LENGTH, int(length)
    return Framing.CLOSE, 0


class Wire:
    """One connection, for one reading task and one writing task at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        # drain() then waits until the kernel has everything: a reset discards what it has not.
        # Not 0: asyncio's TLS transport pauses at `size >= high` and would never resume.
        writer.transport.set_write_buffer_limits(high=1, low=0)

    @property
    def is_stale(self) -> bool:
        """True if an idle connection cannot be used again: the peer closed it, or has spoken."""
        return self._reader.at_eof() or self._writer.is_closing() or bool(self._buffer)

    async def read_some(self) -> bytes:
        """Return what has come, b"" at the end of the stream."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        return await self._reader.read(_READ)

    async def read_head(self) -> Head | None:
        """Return the next head, None if the peer closed before it.  Raises: WireError."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise WireError("head too long")
            if not await self._fill():
                if self._buffer.strip():
                    raise WireError("closed within a head")
                return None
        lines = bytes(self._buffer[:end]).decode("latin-1").lstrip("\r\n").split("\r\n")
        del self._buffer[: end + 4]
        if "HTTP/1." not in lines[0]:
            raise WireError(f"not HTTP/1: {lines[0][:80]!r}")
        pairs = (line.partition(":") for line in lines[1:])
        return Head(lines[0], tuple((name, value.strip()) for name, _, value in pairs))

    async def read_body(self, framing: Framing, length: int) -> AsyncGenerator[bytes, None]:
        """Yield the body piece by piece as it arrives.  Raises: WireError if it breaks off."""
        if framing is Framing.LENGTH:
            while length:
                if not self._buffer and not await self._fill():
                    raise WireError(f"closed {length} bytes before the end of a body")
                piece = bytes(self._buffer[:length])
                del self._buffer[: len(piece)]
                length -= len(piece)
                yield piece
        elif framing is Framing.CHUNKED:
            decoder = _Chunks()
            while not decoder.is_done:
                if not self._buffer and not await self._fill():
                    raise WireError("closed within a chunked body")
                if piece := decoder.feed(self._buffer):
                    yield piece
                elif not decoder.is_done and not await self._fill():
                    raise WireError("closed within a chunked body")
        elif framing is Framing.CLOSE:
            while piece := await self.read_some():
                yield piece

    async def write(self, data: bytes) -> None:
        """Send *data*; returns when the kernel has it.  Raises: OSError."""
        self._writer.write(data)
        await self._writer.drain()

    async def wait_gone(self) -> None:
        """Return when the peer has closed.  What it sends meanwhile is kept, up to a limit."""
        with suppress(OSError):
            while len(self._buffer) < _MAX_HEAD and await self._fill():
                pass
        if not self._reader.at_eof() and self._reader.exception() is None:
            # Too much unread to look further; the caller's other reasons to go on decide.
            await asyncio.Event().wait()

    def end(self) -> None:
        """Tell the peer that nothing more comes, and go on reading."""
        with suppress(OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()

    def reset(self) -> None:
        """Close with a TCP RST."""
        sock: socket.socket | None = self._writer.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Close in order; what was written is still sent."""
        self._writer.close()

    def abort(self) -> None:
        """Close now, whatever is still to be sent."""
        self._writer.transport.abort()

    async def _fill(self) -> bool:
        data = await self._reader.read(_READ)
        self._buffer += data
        return bool(data)


def encode_chunk(piece: bytes) -> bytes:
    """Return *piece*, which must not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_CHUNK = b"0\r\n\r\n"


class _Chunks:
    """Incremental decoder of a chunked body.

    Rucio sends one small chunk for each row, 130 000 of them for a large scope: everything that
    is in the buffer is decoded at once, without a task switch for each chunk.
    """

    def __init__(self) -> None:
        self._left = -1  # bytes left of the current chunk's data; -1: a size line comes
        self._in_trailer = False
        self.is_done = False

    def feed(self, buffer: bytearray) -> bytes:
        """Take from *buffer* what is complete and return the data in it, maybe none.

        A part of a size line stays in the buffer: feed again when there is more.
        """
        pieces: list[bytes] = []
        position, size = 0, len(buffer)
        while not self.is_done:
            if self._left > 0:
                piece = buffer[position : position + self._left]
                if not piece:
                    break
                pieces.append(bytes(piece))
                position += len(piece)
                self._left -= len(piece)
            elif self._left == 0:
                if size - position < 2:
                    break
                position += 2  # the line end after the data
                self._left = -1
            else:
                end = buffer.find(b"\r\n", position)
                if end < 0:
                    break
                line = bytes(buffer[position:end])
                position = end + 2
                if self._in_trailer:
                    self.is_done = not line
                    continue
                try:
                    self._left = int(line.split(b";", 1)[0], 16)
                except ValueError as error:
                    raise WireError(f"bad chunk size {line[:40]!r}") from error
                if self._left == 0:
                    self._left, self._in_trailer = -1, True
        del buffer[:position]
        return b"".join(pieces)
