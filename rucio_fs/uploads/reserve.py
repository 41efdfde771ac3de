"""Room on the staging disk that only the journal gets, so that a disk full of files can be emptied.

What is on a full disk goes to the lake, and is given up here then: both have to be written down.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

_LARGEST = 8 << 20  # bytes; some 10,000 uploads
_PART = 16  # of a small disk


class Reserve:
    """A file at *path* that takes the room until it is needed.  Blocking, but quick."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_held = False

    def hold(self) -> None:
        """Take the room, where that leaves as much again to others."""
        if self._is_held:
            return
        try:
            found = os.statvfs(self._path.parent)
            size = min(_LARGEST, found.f_blocks * found.f_frsize // _PART)
            there = self._path.stat().st_blocks * 512 if self._path.exists() else 0
            if size > there and found.f_bavail * found.f_frsize < 2 * size:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
            self._is_held = True
        except OSError as exc:
            log.info("%s takes no room: %s", self._path, exc.strerror)

    def let_go(self) -> bool:
        """Give the room to the journal; False if it has had it."""
        if not self._path.exists():
            return False
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._is_held = False
        log.warning("%s: the disk is full; the journal takes what was kept for it", self._path)
        return True
