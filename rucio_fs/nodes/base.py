"""What every part of the tree is made of: `Dir`, `File`, `OpenFile`.

Nodes are views: a key and references to services, no state and no idea of inode numbers.
`operations` asks them, and asks no kind beyond Dir and File; a new subtree is a new module.
The defaults raise our errors, never ENOSYS (which would switch the operation off for the mount).
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.errors import NoAttribute, NotOffered, ReadOnly, RucioFsError
from rucio_fs.sources.base import Data

Key = tuple[str, ...]
"""What a node is, e.g. ("file", scope, name).  Equal keys are one inode, in every mount."""


class Attr(NamedTuple):
    """What ``stat`` shows.  *ttl*: how long (s) the kernel may answer in our place.

    None: it follows from the others (times from *mtime_ns*, *blocks* of 512 bytes from *size*), or
    is the mount's own (*uid*, *gid*).
    """

    mode: int
    size: int = 0
    mtime_ns: int = 0
    ttl: float = 0.0
    atime_ns: int | None = None
    ctime_ns: int | None = None
    blocks: int | None = None
    nlink: int | None = None
    uid: int | None = None
    gid: int | None = None


class Change(NamedTuple):
    """What ``chmod``, ``chown``, ``truncate`` and ``utimensat`` ask for; None: it stays.

    *uid* and *gid* are those of files on this machine.
    """

    mode: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    uid: int | None = None
    gid: int | None = None


class Space(NamedTuple):
    """What ``df`` shows, in blocks of *block_size* bytes and in files."""

    block_size: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int


class Entry(NamedTuple):
    """A node under its name in a directory.  *ttl*: how long (s) that name counts."""

    filename: str
    node: Node
    attr: Attr
    ttl: float


class Vanished(Exception):
    """The name of a snapshot's entry is gone by now: there is nothing to show."""


class Node(ABC):
    __slots__ = ()
    is_writable: bool = False
    keeps_xattrs: bool = False  # "user.*" beyond "user.rucio.*"; elsewhere asking costs nothing

    @property
    @abstractmethod
    def key(self) -> Key: ...

    @abstractmethod
    async def attr(self, who: Identity) -> Attr: ...

    async def xattr_names(self, who: Identity) -> Sequence[str]:
        """Names of the extended attributes that exist now, without a call per name."""
        return ()

    async def xattr(self, who: Identity, name: str) -> str:
        """Value of the extended attribute *name*, true of now and not of the cache.

        Raises: NoAttribute, and what the catalogue raises.
        """
        raise NoAttribute(name)

    async def set_xattr(self, who: Identity, name: str, value: str) -> None:
        raise NotOffered(f"{name} cannot be set")

    async def remove_xattr(self, who: Identity, name: str) -> None:
        raise ReadOnly(f"{name} cannot be removed")

    async def set_attr(
        self, who: Identity, change: Change, opened: OpenFile | None, caller: Caller
    ) -> None:
        """Carry out *change*; *opened* is the descriptor it came through, if any."""
        if change.size != 0:
            raise ReadOnly(f"{self.key} cannot be changed")
        await self.truncate(who)

    async def truncate(self, who: Identity) -> None:
        """Cut to 0 bytes."""
        raise ReadOnly(f"{self.key} cannot be changed")

    async def allows(self, mask: int) -> bool:
        """Whether ``access(2)`` succeeds for *mask*, of R_OK, W_OK and X_OK."""
        return not mask & os.W_OK or self.is_writable

    async def readlink(self, who: Identity) -> str:
        raise NotOffered(f"{self.key} is not a link")

    async def space(self) -> Space | None:
        """The disk below, None where there is none."""
        return None


class Dir(Node):
    __slots__ = ()

    @abstractmethod
    async def child(self, who: Identity, filename: str) -> Entry:
        """The node called *filename*.  Raises: NotFound, and what the catalogue raises."""

    @abstractmethod
    async def children(self, who: Identity) -> Sequence[Entry]:
        """A snapshot of the directory.

        Entries are made when they are looked at, so that a directory of 100,000 costs nothing
        until it is read.  An entry whose `Attr.ttl` is 0 may have attributes still to be asked for.
        Looking at one whose name is gone by then raises Vanished.
        """

    async def create(
        self, who: Identity, filename: str, mode: int, flags: int, caller: Caller
    ) -> tuple[Entry, OpenFile]:
        """Make and open the file *filename*; *mode* already lacks the caller's umask."""
        raise self.refusal(filename)

    async def mknod(self, who: Identity, filename: str, mode: int, caller: Caller) -> Entry:
        raise self.refusal(filename)

    async def mkdir(self, who: Identity, filename: str, mode: int, caller: Caller) -> Entry:
        raise self.refusal(filename)

    async def symlink(self, who: Identity, filename: str, target: str, caller: Caller) -> Entry:
        raise self.refusal(filename)

    async def link(self, who: Identity, node: Node, filename: str) -> Entry:
        raise self.refusal(filename)

    async def unlink(self, who: Identity, filename: str) -> None:
        raise self.refusal(filename)

    async def rmdir(self, who: Identity, filename: str) -> None:
        raise self.refusal(filename)

    async def rename(
        self, who: Identity, filename: str, new_parent: Dir, new_filename: str, flags: int
    ) -> None:
        """Move an entry to *new_parent*; *flags* are those of renameat2(2)."""
        raise self.refusal(filename)

    async def fsync(self, *, data_only: bool) -> None:
        """Return when the names in it are on disk."""

    def refusal(self, filename: str) -> RucioFsError:
        """Why nothing called *filename* is made, moved or removed here."""
        return ReadOnly(f"{self.key} is read-only: {filename!r}")


class File(Node):
    __slots__ = ()

    @abstractmethod
    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile: ...


class OpenFile(ABC):
    """The state of one ``open()``."""

    __slots__ = ()
    direct_io: bool = False
    keep_cache: bool = False

    @abstractmethod
    async def read(self, offset: int, size: int) -> Data:
        """See `Source.read`."""

    async def write(self, offset: int, data: bytes) -> int:
        """Write *data* at *offset*; how many bytes of it are written."""
        raise ReadOnly("this file cannot be written")

    async def flush(self) -> None:  # noqa: B027 - most files have nothing to report
        """Called at each ``close(2)`` of a descriptor, which gets what is raised here."""

    async def fsync(self, *, data_only: bool) -> None:  # noqa: B027 - as above
        """Return when what was written is on disk."""

    def close(self) -> None:  # noqa: B027 - most files have nothing to give back
        """Called once, when the last descriptor is gone."""


def dir_attr(mtime_ns: int, ttl: float) -> Attr:
    return Attr(stat.S_IFDIR | 0o555, 0, mtime_ns, ttl)


def file_attr(size: int, mtime_ns: int, ttl: float) -> Attr:
    return Attr(stat.S_IFREG | 0o444, size, mtime_ns, ttl)
