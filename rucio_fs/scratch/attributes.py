"""What staged files are: modes, owners, times, sizes, extended attributes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os

from rucio_fs.errors import NoAttribute, NotPermitted, StagingError, Stale
from rucio_fs.scratch.area import Area, follows, on_disk
from rucio_fs.scratch.items import Item

OVERSEEN = "user.rucio."
"""Prefix of the attributes that the overseer answers for."""

_RESERVED = "user.rucio-fs."  # notes of this program, nobody else's


class Attributes:
    """Methods raise StagingError for what the disk refuses, NotFound, and Stale."""

    def __init__(self, area: Area) -> None:
        self._area = area

    @on_disk
    def stat(self, item: Item) -> os.stat_result | None:
        """What the disk says of *item*; None for a scope that is not on disk."""
        if item.fds:
            return os.fstat(item.fds[-1])
        if item.removed is not None:
            return item.removed
        try:
            found = os.lstat(self._area.path(item))
        except FileNotFoundError:
            if item.is_scope:
                return None
            raise
        if item.ino and found.st_ino != item.ino:
            raise Stale(f"scratch/{item.path} is not what it was")
        return found

    def allows(self, item: Item, mask: int) -> bool:
        """Whether this process may do what *mask*, of R_OK, W_OK and X_OK, says."""
        if item.removed is not None or item.is_scope:
            return True
        return os.access(self._area.path(item), mask)

    @on_disk
    def readlink(self, item: Item) -> str:
        return os.readlink(self._area.path(item))

    @on_disk
    def set_mode(self, item: Item, mode: int) -> None:
        """Not of a symbolic link, which has none."""
        os.chmod(self._target(item), mode)
        self._area.changed(item)

    @on_disk
    def set_owner(self, item: Item, uid: int | None, gid: int | None) -> None:
        target = self._target(item)
        ids = (-1 if uid is None else uid, -1 if gid is None else gid)
        os.chown(target, *ids, follow_symlinks=follows(target))
        self._area.changed(item)

    @on_disk
    def set_times(self, item: Item, atime_ns: int | None, mtime_ns: int | None) -> None:
        target = self._target(item)
        now = os.stat(target, follow_symlinks=follows(target))
        times = (
            now.st_atime_ns if atime_ns is None else atime_ns,
            now.st_mtime_ns if mtime_ns is None else mtime_ns,
        )
        os.utime(target, ns=times, follow_symlinks=follows(target))
        self._area.changed(item)

    # --- extended attributes ---------------------------------------------------------------------

    @on_disk
    def xattr_names(self, item: Item) -> list[str]:
        """Those that somebody has set, as they are on disk."""
        target = self._area.target(item)
        try:
            names = os.listxattr(target, follow_symlinks=follows(target))
        except FileNotFoundError:
            if item.is_scope:
                return []
            raise
        return [one for one in names if one.startswith("user.") and not _is_kept_from(one)]

    @on_disk
    def xattr(self, item: Item, name: str) -> bytes:
        """Raises: NoAttribute"""
        if not _is_kept_from(name):
            target = self._area.target(item)
            with contextlib.suppress(FileNotFoundError):  # a scope that is not on disk
                return os.getxattr(target, name, follow_symlinks=follows(target))
        raise NoAttribute(f"scratch/{item.path} has no attribute {name}")

    @on_disk
    def set_xattr(self, item: Item, name: str, value: bytes) -> None:
        """Raises: NotPermitted"""
        if _is_kept_from(name):
            raise NotPermitted(f"{name}: {_RESERVED}* is rucio-fs's own")
        target = self._target(item)
        try:
            os.setxattr(target, name, value, follow_symlinks=follows(target))
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
            # Not the disk is full, but the block that one file's attributes have to fit in.
            failed = StagingError.of(exc)
            failed.level = logging.INFO
            raise failed from exc
        self._area.changed(item)

    @on_disk
    def remove_xattr(self, item: Item, name: str) -> None:
        """Raises: NoAttribute"""
        if _is_kept_from(name):
            raise NoAttribute(f"scratch/{item.path} has no attribute {name}")
        target = self._target(item)
        os.removexattr(target, name, follow_symlinks=follows(target))
        self._area.changed(item)

    def _target(self, item: Item) -> int | str:
        """What is about to be changed; a scope is made for it."""
        self._area.make_scope(item)
        return self._area.target(item)


def _is_kept_from(name: str) -> bool:
    """Whether *name* is none that users have on disk."""
    return name.startswith((OVERSEEN, _RESERVED))
