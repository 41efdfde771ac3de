"""What is in the directories of the staging area: finding, making, moving, removing."""

from __future__ import annotations

import contextlib
import os
import stat

from rucio_fs.errors import StagingError
from rucio_fs.scratch import syscalls
from rucio_fs.scratch.area import LAKE_MARK, NEW_DIR, Area, on_disk
from rucio_fs.scratch.items import Item
from rucio_fs.scratch.openlog import OpenLog
from rucio_fs.scratch.threads import in_thread

_MANY_BLOCKS = 1 << 18  # of 512 bytes; freeing 128 MiB takes 30 ms, and only the disk bounds files

_unlink = on_disk(os.unlink)

Found = tuple[Item, os.stat_result]


class Directories:
    """Methods raise StagingError for what the disk refuses, and NotFound."""

    def __init__(self, area: Area, open_log: OpenLog) -> None:
        self._area = area
        self._log = open_log

    def scopes(self) -> list[str]:
        """Names of the scope directories that are on disk."""
        try:
            with os.scandir(self._area.tree) as entries:
                return sorted(one.name for one in entries if one.is_dir(follow_symlinks=False))
        except OSError as exc:
            raise StagingError.of(exc) from exc

    @on_disk
    def find(self, parent: Item, name: str) -> Found:
        found = os.lstat(self._area.below(parent, name))
        return self._area.items.at(parent, name, found.st_ino), found

    @on_disk
    def names(self, item: Item) -> list[str]:
        """Names in a directory; none in one that is removed, or a scope that is not on disk."""
        if item.removed is not None:
            return []
        try:
            return os.listdir(self._area.path(item))
        except FileNotFoundError:
            if item.is_scope:
                return []
            raise

    @on_disk
    def mkdir(self, parent: Item, name: str, mode: int) -> Found:
        self._area.make(parent, name, lambda path: os.mkdir(path, mode))
        if mode & self._area.umask:  # the kernel has applied the caller's, ours is no matter
            os.chmod(self._area.below(parent, name), mode)
        return self._made(parent, name)

    @on_disk
    def symlink(self, parent: Item, name: str, target: str) -> Found:
        self._area.make(parent, name, lambda path: os.symlink(target, path))
        return self._made(parent, name)

    async def unlink(self, parent: Item, name: str) -> None:
        """Raises: Sealed"""
        item, found = self.find(parent, name)
        path, on_area = item.path, self._area.path(item)
        self._area.overseer.before_unlink(path, item.ino)
        if found.st_blocks < _MANY_BLOCKS or item.fds:
            _unlink(on_area)
        else:
            await in_thread(lambda: _unlink(on_area))
        self._gone(item, found)
        self._area.overseer.removed(path, item.ino)
        self._area.overseer.changed(path)

    @on_disk
    def rmdir(self, parent: Item, name: str) -> None:
        """Raises: Sealed"""
        item, found = self.find(parent, name)
        path = item.path
        self._area.overseer.before_rmdir(path)
        os.rmdir(self._area.path(item))
        self._gone(item, found)
        self._area.overseer.changed(path)

    @on_disk
    def rename(self, parent: Item, name: str, new_parent: Item, new_name: str, flags: int) -> None:
        """Move what is called *name*; *flags* are those of renameat2(2).  Raises: Sealed"""
        area, overseer = self._area, self._area.overseer
        item, moved = self.find(parent, name)
        there = self._find_or_none(new_parent, new_name)
        old_path, new_path = item.path, f"{new_parent.path}/{new_name}"
        is_dir = stat.S_ISDIR(moved.st_mode)
        is_exchange = bool(flags & syscalls.EXCHANGE)
        if there is None or is_exchange or there[0] is item:
            overseer.before_rename(old_path, item.ino, is_dir, None)
        else:
            overseer.before_rename(old_path, item.ino, is_dir, (new_path, there[0].ino))
        if there is not None and is_exchange:
            other, found = there
            overseer.before_rename(new_path, other.ino, stat.S_ISDIR(found.st_mode), None)
        old = area.path(item)
        area.make(new_parent, new_name, lambda new: syscalls.rename(old, new, flags))
        if there is not None and there[0] is not item:
            other, found = there
            if is_exchange:
                other.parent, other.name = parent, name
            else:
                self._gone(other, found)
                if not is_dir:
                    overseer.removed(new_path, other.ino)
        item.parent, item.name = new_parent, new_name
        (overseer.exchanged if is_exchange else overseer.renamed)(old_path, new_path)
        overseer.changed(old_path)
        overseer.changed(new_path)

    @on_disk
    def adopt(self, parent: Item, name: str) -> Found:
        """The directory of a collection that is in the lake, made unless something is there."""
        with contextlib.suppress(FileExistsError):
            self._area.make(parent, name, lambda path: os.mkdir(path, NEW_DIR))
            with contextlib.suppress(OSError):  # a disk without attributes forgets whence it came
                os.setxattr(self._area.below(parent, name), LAKE_MARK, b"1")
        return self.find(parent, name)

    def may_be_in_lake(self, parent: Item) -> bool:
        """Whether a name that is missing from *parent* may be that of a collection."""
        if parent.is_scope:
            return True
        try:
            return bool(os.getxattr(self._area.path(parent), LAKE_MARK))
        except OSError:
            return False

    def _made(self, parent: Item, name: str) -> Found:
        item, found = self.find(parent, name)
        self._area.changed(item)
        return item, found

    def _find_or_none(self, parent: Item, name: str) -> Found | None:
        try:
            found = os.lstat(self._area.below(parent, name))
        except FileNotFoundError:
            return None
        return self._area.items.at(parent, name, found.st_ino), found

    def _gone(self, item: Item, found: os.stat_result) -> None:
        """Its name is gone; *found* is what it was."""
        item.removed = found
        if not item.writers:  # nobody will finish what an earlier mount has left
            self._log.closed(item.ino)
