"""Opening staged files, and knowing which are open for writing."""

from __future__ import annotations

import contextlib
import os

from rucio_fs.scratch.area import Area, on_disk
from rucio_fs.scratch.files import StagedFile, backing_flags, writes
from rucio_fs.scratch.items import Item
from rucio_fs.scratch.openlog import OpenLog


class Files:
    """Methods raise StagingError for what the disk refuses, NotFound, Sealed, and Stale."""

    def __init__(self, area: Area, open_log: OpenLog) -> None:
        self._area = area
        self._log = open_log
        self._written: set[int] = set()
        self._is_stopped = False

    def is_open_for_writing(self, ino: int) -> bool:
        return ino in self._written

    def stop(self) -> None:
        """The mount ends: what is closed from now on was not closed by who wrote it."""
        self._is_stopped = True

    @on_disk
    def open(self, item: Item, flags: int) -> StagedFile:
        """Open for *flags* of open(2); O_TRUNC cuts."""
        if writes(flags) and item.removed is None:
            self._area.overseer.before_write(item.path, item.ino)
        target, flags = self._area.target(item), backing_flags(flags)
        if isinstance(target, int):  # its name is gone, but somebody has it open
            target, flags = f"/proc/self/fd/{target}", flags & ~os.O_NOFOLLOW
        is_first = writes(flags) and not item.writers
        if is_first:  # before it is cut: a kill may come in between
            self._log.opened(item.ino, item.path)
            item.lacks = False
        try:
            fd = os.open(target, flags)
        except OSError:
            if is_first:
                self._log.not_opened(item.ino)
            raise
        return self._opened(item, fd, flags)

    @on_disk
    def create(
        self, parent: Item, name: str, mode: int, flags: int
    ) -> tuple[Item, os.stat_result, StagedFile]:
        """Make a file and open it; or open what has just appeared, unless *flags* have O_EXCL."""
        how = backing_flags(flags) | os.O_CREAT | os.O_EXCL
        self._log.making(f"{parent.path}/{name}")
        try:
            fd = self._area.make(parent, name, lambda path: os.open(path, how, mode))
        except FileExistsError:
            self._log.not_made()
            if flags & os.O_EXCL:
                raise
            found = os.lstat(self._area.below(parent, name))
            item = self._area.items.at(parent, name, found.st_ino)
            file = self.open(item, flags & ~os.O_CREAT)
            return item, os.fstat(file.fd), file
        except OSError:
            self._log.not_made()
            raise
        try:
            if mode & self._area.umask:  # the kernel has applied the caller's, ours is no matter
                os.fchmod(fd, mode)
            found = os.fstat(fd)
            item = self._area.items.at(parent, name, found.st_ino)
            if writes(flags):
                self._log.opened(item.ino, item.path)
            else:
                self._log.not_made()  # it is as empty as it is to be
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(self._area.below(parent, name))
            raise
        file = self._opened(item, fd, flags)
        self._area.changed(item)
        return item, found, file

    @on_disk
    def truncate(self, item: Item, size: int, file: StagedFile | None) -> None:
        """Cut to *size* bytes or lengthen to them, through *file* if that may write."""
        if item.removed is None:
            self._area.overseer.before_write(item.path, item.ino)
        if file is not None and file.is_writer:
            os.ftruncate(file.fd, size)
        else:
            target = self._area.target(item)
            os.truncate(f"/proc/self/fd/{target}" if isinstance(target, int) else target, size)
        item.lacks &= size > 0  # who empties it begins again
        self._area.changed(item)

    def _opened(self, item: Item, fd: int, flags: int) -> StagedFile:
        is_writer = writes(flags)
        if is_writer:
            self._written.add(item.ino)
        item.writers += is_writer
        item.fds.append(fd)
        return StagedFile(item, fd, is_writer=is_writer, on_close=self._closed)

    def _closed(self, file: StagedFile) -> None:
        item = file.item
        if not file.is_writer or self._is_stopped:
            return
        item.writers -= 1
        if not item.writers:
            self._written.discard(item.ino)
            if item.lacks and item.removed is None:
                self._log.left(item.ino, item.path)
            else:
                self._log.closed(item.ino)
        self._area.changed(item)
