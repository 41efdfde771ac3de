"""Reading a descriptor without stopping the event loop.

What is in the page cache is read at once (a thread hop costs 130-180 us, such a read 10).
"""

from __future__ import annotations

import errno
import mmap
import os

LARGEST_READ = 1 << 20
"""Bytes; the kernel asks for no more than the read-ahead of the mount."""

_scratch = memoryview(mmap.mmap(-1, LARGEST_READ))
_UNKNOWN = (errno.EOPNOTSUPP, errno.EINVAL)  # e.g. a FUSE filesystem below us


class PageCache:
    """What is at hand of the file *fd*."""

    __slots__ = ("_fd", "_is_known")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_known = hasattr(os, "RWF_NOWAIT")

    def read(self, offset: int, size: int) -> memoryview | None:
        """The bytes, all of them in memory, or None.

        They are overwritten by the next read of any file: to be handed on before anybody else runs.

        Raises: OSError
        """
        if not self._is_known or size > LARGEST_READ:
            return None
        try:
            found = os.preadv(self._fd, [_scratch[:size]], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as exc:
            if exc.errno not in _UNKNOWN:
                raise
            self._is_known = False
            return None
        return _scratch[:size] if found == size else None
