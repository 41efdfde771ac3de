"""System calls that Python does not have: renameat2(2), syncfs(2) and sync_file_range(2)."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

NOREPLACE = 1
EXCHANGE = 2

_AT_FDCWD = -100
_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *arguments: Any) -> Any:
    found = getattr(_libc, name, None)
    if found is not None:
        found.argtypes, found.restype = arguments, ctypes.c_int
    return found


# musl has none of the first
_renameat2 = _function(
    "renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)
_syncfs = _function("syncfs", ctypes.c_int)
_sync_file_range = _function(
    "sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
)


def rename(old: str, new: str, flags: int = 0) -> None:
    """Move *old* to *new*.  Raises: OSError, EINVAL where the disk or libc knows no *flags*"""
    if not flags:
        os.rename(old, new)
        return
    if _renameat2 is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), old)
    if _renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old)


def sync(fd: int) -> None:
    """Return when everything that was written to the filesystem of *fd* is on disk.

    Raises: OSError
    """
    if _syncfs is None:
        os.sync()
    elif _syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def begin_sync(fd: int, offset: int, size: int) -> None:
    """Have the disk begin with *size* bytes that were written; how it ends is for fsync to tell."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)
