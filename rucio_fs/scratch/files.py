"""One open file of the staging area.

Small writes and what is in the page cache are done in the event loop, where they take some
microseconds and a thread hop 150; larger writes, cold reads and fsync in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rucio_fs.errors import StagingError
from rucio_fs.scratch import syscalls
from rucio_fs.scratch.items import Item
from rucio_fs.scratch.threads import in_thread
from rucio_fs.sources.base import Data
from rucio_fs.sources.pagecache import PageCache

SMALL = 64 << 10
"""Bytes; copying so much to the page cache takes 20 us."""

_EARLY = 16 << 20  # bytes written in order, with which the disk then begins

# The kernel says where to append, syncs by itself, and asks for any alignment.
_DROPPED = os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_DIRECT | os.O_NONBLOCK | os.O_NOCTTY
_OURS = os.O_CLOEXEC | os.O_NOFOLLOW


def backing_flags(flags: int) -> int:
    """What the file below is opened with, for *flags* of open(2)."""
    return flags & ~_DROPPED | _OURS


def writes(flags: int) -> bool:
    """Whether *flags* of open(2) let bytes be changed."""
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)


class StagedFile:
    """The descriptor *fd* of *item*; *on_close* is called once with this."""

    __slots__ = ("_begun", "_end", "_on_close", "_pages", "fd", "is_writer", "item")

    def __init__(
        self, item: Item, fd: int, *, is_writer: bool, on_close: Callable[[StagedFile], None]
    ) -> None:
        self.item = item
        self.fd = fd
        self.is_writer = is_writer
        self._on_close = on_close
        self._pages = PageCache(fd)
        self._end = 0  # of the last large write
        self._begun = 0  # up to here the disk has been told

    def __repr__(self) -> str:
        return f"<StagedFile {self.item.path}>"

    async def read(self, offset: int, size: int) -> Data:
        """See `Source.read`.  Raises: StagingError"""
        try:
            # The kernel asks for whole pages, and only its own idea of the size stops it.
            size = min(size, os.fstat(self.fd).st_size - offset)
            if size <= 0:
                return b""
            found = self._pages.read(offset, size)
            if found is not None:
                return found  # atomic: handed to the kernel before anybody else runs
            return await in_thread(lambda: _read_all(self.fd, offset, size))
        except OSError as exc:
            raise self._failed(exc) from exc

    async def write(self, offset: int, data: bytes) -> int:
        """Write *data* at *offset*; how many bytes of it there was room for, at least one.

        Raises: StagingError
        """
        try:
            if len(data) < SMALL:
                return _write_all(self.fd, offset, data)
            return await in_thread(lambda: self._write_much(offset, data))
        except OSError as exc:
            self.item.lacks = True
            raise self._failed(exc) from exc

    def _write_much(self, offset: int, data: bytes) -> int:
        """Write; of a large file the disk has most by the time that it is closed."""
        written = _write_all(self.fd, offset, data)
        if offset != self._end:
            self._begun = offset
        self._end = offset + written
        if self._end - self._begun >= _EARLY:
            syscalls.begin_sync(self.fd, self._begun, self._end - self._begun)
            self._begun = self._end
        return written

    async def fsync(self, *, data_only: bool) -> None:
        """Return when it is on disk.  Raises: StagingError"""
        sync = os.fdatasync if data_only else os.fsync
        try:
            await in_thread(lambda: sync(self.fd))
        except OSError as exc:
            self.item.lacks |= self.is_writer
            raise self._failed(exc) from exc

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.item.fds.remove(fd)
            os.close(fd)
            self._on_close(self)

    def _failed(self, exc: OSError) -> StagingError:
        return StagingError(f"scratch/{self.item.path}: {exc.strerror}", exc.errno or 0)


def _read_all(fd: int, offset: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size and (part := os.pread(fd, size, offset)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_all(fd: int, offset: int, data: bytes) -> int:
    written = os.pwrite(fd, data, offset)
    if written == len(data):
        return written
    view = memoryview(data)
    while written < len(data):
        try:
            written += os.pwrite(fd, view[written:], offset + written)
        except OSError:
            break  # what was written counts; the caller meets the error with the rest
    return written
