"""The file on this machine that is put on a storage: exactly as many bytes as were promised."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Self

from rucio_fs.depot.failures import Unreadable


class Staged:
    """*size* bytes of a file, read by offset: a descriptor's own offset is not touched.

    Raises: Unreadable (from every method; also if the file has not *size* bytes).
    """

    def __init__(self, file: Path | int, size: int) -> None:
        self.size = size
        self._file = file
        self._fd = -1

    def __repr__(self) -> str:
        return f"<Staged {self._name()}: {self.size} bytes>"

    def __enter__(self) -> Self:
        try:
            # O_NONBLOCK: a FIFO put in the file's place must not hold the thread for ever.
            self._fd = (
                self._file
                if isinstance(self._file, int)
                else os.open(self._file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            )
            found = os.fstat(self._fd)
        except OSError as exc:
            self.__exit__()
            raise Unreadable(f"{self._name()} cannot be read: {exc.strerror}") from exc
        if not stat.S_ISREG(found.st_mode):
            self.__exit__()
            raise Unreadable(f"{self._name()} is not a regular file")
        if found.st_size != self.size:
            self.__exit__()
            raise self._changed(found.st_size)
        return self

    def __exit__(self, *_: object) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0 and not isinstance(self._file, int):
            os.close(fd)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill *buffer* with what is at *offset*, as far as the file goes; return how much."""
        wanted = min(len(buffer), self.size - offset)
        try:
            count = os.preadv(self._fd, [buffer[:wanted]], offset)
        except OSError as exc:
            raise Unreadable(f"{self._name()} cannot be read: {exc.strerror}") from exc
        if not count and wanted:
            raise self._changed(offset)
        return count

    def _changed(self, size: int) -> Unreadable:
        return Unreadable(
            f"{self._name()} has {size} bytes, {self.size} were to be put: it was changed meanwhile"
        )

    def _name(self) -> str:
        return f"descriptor {self._file}" if isinstance(self._file, int) else str(self._file)
