"""One open file that is streamed."""

from __future__ import annotations

from typing import Protocol

import trio

from rucio_fs.errors import RucioFsError
from rucio_fs.sources.base import Data, Source
from rucio_fs.streams.window import Window

_BURST = 1.0  # s; a read that comes so soon after one that failed is the kernel's next attempt


class Read(Protocol):
    """What a reader needs of the stream it belongs to."""

    async def read(self, reader: StreamSource, offset: int, size: int) -> Data: ...
    async def agrees_with(self, reader: StreamSource, copy: Source) -> bool: ...
    def leave(self, reader: StreamSource) -> None: ...


class StreamSource:
    """A `Source` over a stream that it shares with the file's other readers.

    *window* is its access pattern, *at* where it read last, *reach* the range that was fetched for
    it last.  It *has_read* something, and *has_end* if that was the end of the file.  *error* ends
    it: what it was given turned out to be wrong.
    """

    def __init__(self, name: str, size: int, stream: Read) -> None:
        self.size = size
        self.window = Window()
        self.at = 0
        self.reach = (0, 0)
        self.has_read = False
        self.has_end = False
        self.error: RucioFsError | None = None
        self._name = name
        self._stream = stream
        self._failure: RucioFsError | None = None
        self._failed_at = float("-inf")

    def __repr__(self) -> str:
        return f"<StreamSource of {self._name}>"

    def reaches(self, start: int, end: int) -> bool:
        """Whether it is near the range, and probably wants it."""
        return start < self.reach[1] and end > self.reach[0]

    def reads_next(self, start: int, end: int) -> bool:
        """Whether the range was fetched for it and is not behind it already."""
        return start < self.reach[1] and end > self.at

    async def read(self, offset: int, size: int) -> Data:
        """Return the bytes at *offset*; see `Source.read`.

        Raises: NoSource, Corrupt (the file turned out to be another one than the catalogue says),
        Denied, Unreachable, TooSlow.
        """
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if self._failure is not None:
            # The kernel asks again for every page of what it has read ahead, one after the other,
            # and the caller would wait the whole deadline for each.
            since, self._failed_at = trio.current_time() - self._failed_at, trio.current_time()
            if since <= _BURST:
                raise self._failure.copy()
        try:
            data = await self._stream.read(self, offset, size)
        except RucioFsError as exc:
            self._failure, self._failed_at = exc, trio.current_time()
            raise
        self._failure = None
        return data

    async def agrees_with(self, copy: Source) -> bool:
        """Whether *copy* has the bytes that were given; see `relay.Beginning.agrees_with`."""
        return await self._stream.agrees_with(self, copy)

    def close(self) -> None:
        self._stream.leave(self)
