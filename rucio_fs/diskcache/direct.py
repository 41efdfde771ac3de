"""Writing past the page cache, where the filesystem lets us.

The mount's own page cache has these bytes already, and a second copy is a waste of memory; pages
that the system has not at hand cost ten times what writing does.
"""

from __future__ import annotations

import errno
import os
import threading

_ALIGNED = 4096  # bytes, that such writes and their offsets are multiples of


class DirectWriter:
    """Writes to the open file *fd*, from any thread, disjoint ranges also at once."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._opening = threading.Lock()
        self._direct_fd: int | None = None  # opened with the first write that it is good for
        self._is_refused = False

    def __repr__(self) -> str:
        way = "page cache" if self._is_refused else "past the page cache"
        return f"<DirectWriter to {self.fd}: {way}>"

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of *data*.  Raises: OSError, after which some of it may be written."""
        while data:
            count = self._write_some(offset, data)
            offset, data = offset + count, data[count:]

    def close(self) -> None:
        """Give back what was opened here; nothing may be written any more."""
        if self._direct_fd is not None:
            os.close(self._direct_fd)
        self._direct_fd, self._is_refused = None, True

    def _write_some(self, offset: int, data: memoryview) -> int:
        whole = len(data) // _ALIGNED * _ALIGNED
        if whole and not offset % _ALIGNED and not self._is_refused:
            try:
                return os.pwrite(self._open(), data[:whole], offset)
            except OSError as exc:
                # What is told here is how this filesystem wants it; what is wrong with the disk
                # the second way tells as well.
                if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.EACCES):
                    raise
                self._is_refused = True
        return os.pwrite(self.fd, data, offset)

    def _open(self) -> int:
        with self._opening:
            if self._direct_fd is None:
                flags = os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC
                # Through its descriptor: its name may be another file's by now.
                self._direct_fd = os.open(f"/proc/self/fd/{self.fd}", flags)
            return self._direct_fd
