"""A directory that belongs to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from rucio_fs.errors import UsageError

LOCK = "lock"
"""The file in it that is locked, and says by whom."""


@contextlib.contextmanager
def held(directory: Path, what: str, key: str) -> Iterator[int]:
    """Lock *directory*, made if it is not there, and give the descriptor that holds the lock.

    It is closed if the block fails, else by the caller.  *what* it is and the *key* of the
    configuration that names it are for messages.  Blocking.

    Raises: UsageError (another process has it, it cannot be written, an OSError in the block)
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise UsageError(f"{what} {directory}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _first_line(directory / LOCK) or "another process"
            raise UsageError(
                f"{what} {directory} is used by {holder}: give each mount one of its own ({key})"
            ) from None
        yield lock
    except OSError as exc:
        os.close(lock)
        raise UsageError(f"{what} {directory}: {exc.strerror}") from exc
    except BaseException:
        os.close(lock)
        raise
    with contextlib.suppress(OSError):  # the disk may be full
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"the mount with pid {os.getpid()}\n".encode(), 0)


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
