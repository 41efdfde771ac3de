"""Files that lie on this machine: the mounted tree of the colocated RSE.

What is in the page cache is read at once in the event loop; what is not, and opening, goes to a
worker thread, since the tree may be a network filesystem that takes its time or hangs.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from typing import TypeVar

import trio

from rucio_fs.errors import Corrupt, NotFound, TooSlow, Unreachable
from rucio_fs.sources.base import Data
from rucio_fs.sources.pagecache import PageCache

T = TypeVar("T")

_threads = trio.CapacityLimiter(32)  # hung ones must not use up those that talk to Rucio


class LocalSource:
    """One open local file whose size was found to be what the catalogue says."""

    def __init__(self, path: str, fd: int, size: int, timeout: float) -> None:
        self.path = path
        self.size = size
        self._fd = fd
        self._timeout = timeout
        self._pages = PageCache(fd)

    def __repr__(self) -> str:
        return f"<LocalSource {self.path}>"

    @classmethod
    async def open(cls, path: str, size: int, timeout: float) -> LocalSource:
        """Open *path*, which has to be a regular file of *size* bytes.

        *timeout* (s) bounds this and each later read.

        Raises: NotFound, Corrupt (not *size* bytes), Unreachable (any other trouble), TooSlow.
        """

        def open_checked() -> LocalSource:
            # O_NONBLOCK: a FIFO put in the file's place must not hold the thread for ever.
            source = cls(
                path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), size, timeout
            )
            try:
                source._check()
            except BaseException:
                source.close()  # not by __del__: the traceback holds it as long as it lives
                raise
            return source

        return await _in_thread(open_checked, path, timeout)

    def _check(self) -> None:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            raise Corrupt(f"{self.path} is not a regular file")
        if found.st_size != self.size:
            raise Corrupt(f"{self.path} has {found.st_size} bytes, the catalogue says {self.size}")

    async def read(self, offset: int, size: int) -> Data:
        """Return the bytes at *offset*; see `Source.read`."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        try:
            found = self._pages.read(offset, size)
        except OSError as exc:
            raise Unreachable(f"read {self.path}: {exc.strerror}") from exc
        if found is not None:
            return found  # atomic: handed to the kernel before anybody else runs
        return await _in_thread(lambda: self._read_all(offset, size), self.path, self._timeout)

    def _read_all(self, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing:
            part = os.pread(self._fd, missing, offset + size - missing)
            if not part:
                raise Corrupt(
                    f"{self.path} ended at {offset + size - missing}, the catalogue says"
                    f" {self.size} bytes: it was changed while open"
                )
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # the descriptor is gone all the same
                os.close(fd)

    def __del__(self) -> None:
        # An open that finished after its caller had given up: nobody else knows of this one.
        self.close()


async def _in_thread(call: Callable[[], T], path: str, timeout: float) -> T:
    try:
        with trio.fail_after(timeout):
            return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=_threads)
    except FileNotFoundError as exc:
        raise NotFound(f"{path} does not exist") from exc
    except OSError as exc:
        raise Unreachable(f"{path}: {exc.strerror}") from exc
    except trio.TooSlowError as exc:
        raise TooSlow(f"{path}: the local storage did not answer in {timeout:g} s") from exc
