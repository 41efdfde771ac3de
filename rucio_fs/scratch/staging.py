"""The staging area: an ordinary directory on the local disk, whose filesystem makes it POSIX.

Here is what the rest of the program holds: the lock against a second mount, what an earlier mount
has left, and the parts that do the work.  All but fsync and large reads and writes is done in the
event loop: a local disk answers from memory, and a thread hop costs more than it does.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from rucio_fs.holding import held
from rucio_fs.scratch import syscalls
from rucio_fs.scratch.area import Area, on_disk
from rucio_fs.scratch.attributes import Attributes
from rucio_fs.scratch.directories import Directories
from rucio_fs.scratch.items import Item, Items
from rucio_fs.scratch.opening import Files
from rucio_fs.scratch.openlog import OpenLog, sync_directory
from rucio_fs.scratch.overseeing import Overseer
from rucio_fs.scratch.threads import in_thread

log = logging.getLogger(__name__)

_TREE, _OPEN_LOG = "tree", "open.log"


class Staging:
    """The staging area in *directory*, from `open` until `close`.

    *tree* holds the files, as SCOPE/NAME...; paths are relative to it.
    """

    def __init__(self, directory: Path, lock: int, open_log: OpenLog) -> None:
        self.directory = directory
        self._lock = lock
        self._log = open_log
        self._area = Area(directory / _TREE)
        self.attributes = Attributes(self._area)
        self.directories = Directories(self._area, open_log)
        self.files = Files(self._area, open_log)

    def __repr__(self) -> str:
        return f"<Staging {self.directory}>"

    @classmethod
    def open(cls, directory: Path) -> Staging:
        """The staging area in *directory*, made if it is not there.  Blocking.

        Raises: UsageError (another mount has it, it cannot be written)
        """
        with held(directory, "scratch directory", "scratch.dir") as lock:
            (directory / _TREE).mkdir(mode=0o700, exist_ok=True)
            open_log = OpenLog(directory / _OPEN_LOG, directory / _TREE)
        return cls(directory, lock, open_log)

    def stop(self) -> None:
        """The mount ends: files that are closed from now on were not closed by who wrote them."""
        self.files.stop()

    def close(self) -> None:
        """The mount has ended well.  Blocking, until what was written is on disk."""
        try:
            syscalls.sync(self._lock)
        except OSError as exc:
            log.warning("scratch directory %s: %s", self.directory, exc.strerror)
        self._log.close()
        os.close(self._lock)

    # --- for the uploads -------------------------------------------------------------------------

    @property
    def tree(self) -> Path:
        return self._area.tree

    @property
    def overseer(self) -> Overseer:
        """Who is told of changes; to be set before the mount begins."""
        return self._area.overseer

    @overseer.setter
    def overseer(self, overseer: Overseer) -> None:
        self._area.overseer = overseer

    @property
    def unfinished(self) -> Mapping[int, str]:
        """Inode number -> path of files that were open for writing when the last mount ended.

        One is taken out by `finished`, by its removal, or by being written and closed again.
        """
        return self._log.unfinished

    def finished(self, ino: int) -> None:
        """What the last mount left open was looked at."""
        self._log.closed(ino)

    @property
    def was_cut(self) -> bool:
        """The machine went down under a mount: what was written then may not be on disk."""
        return self._log.was_cut

    def doubt(self, files: Mapping[int, str]) -> None:
        """After the machine went down: *files*, by number, may not be what was written.

        All others were looked at.
        """
        self._log.doubt(files)

    def is_open_for_writing(self, ino: int) -> bool:
        return self.files.is_open_for_writing(ino)

    # --- for the nodes ---------------------------------------------------------------------------

    @property
    def items(self) -> Items:
        return self._area.items

    @on_disk
    def statvfs(self) -> os.statvfs_result:
        return os.statvfs(self._area.tree)

    async def fsync_dir(self, item: Item) -> None:
        """Return when the names in the directory are on disk.  Raises: StagingError"""

        @on_disk
        def sync() -> None:
            with contextlib.suppress(FileNotFoundError):  # a scope that is not on disk yet
                sync_directory(self._area.path(item))

        if item.removed is None:
            await in_thread(sync)
