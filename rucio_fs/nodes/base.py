"""What every part of the tree is made of: `Dir`, `File`, `OpenFile`.

Nodes are views: a key and references to services, no state and no idea of inode numbers.
`operations` asks them, and asks no kind beyond Dir and File; a new subtree is a new module.
The defaults raise our errors, never ENOSYS (which would switch the operation off for the mount).
"""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.errors import NoAttribute, NotOffered, ReadOnly
from rucio_fs.sources.base import Data

Key = tuple[str, ...]
"""What a node is, e.g. ("file", scope, name).  Equal keys are one inode, in every mount."""


class Attr(NamedTuple):
    """What ``stat`` shows.  *ttl*: how long (s) the kernel may answer in our place."""

    mode: int
    size: int = 0
    mtime_ns: int = 0
    ttl: float = 0.0


class Entry(NamedTuple):
    """A node under its name in a directory.  *ttl*: how long (s) that name counts."""

    filename: str
    node: Node
    attr: Attr
    ttl: float


class Node(ABC):
    __slots__ = ()
    is_writable: bool = False

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

    async def truncate(self, who: Identity) -> None:
        """Cut to 0 bytes."""
        raise ReadOnly(f"{self.key} cannot be changed")


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
        """


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
        raise ReadOnly("this file cannot be written")

    def close(self) -> None:  # noqa: B027 - most files have nothing to give back
        """Called once, when the last descriptor is gone."""


def dir_attr(mtime_ns: int, ttl: float) -> Attr:
    return Attr(stat.S_IFDIR | 0o555, 0, mtime_ns, ttl)


def file_attr(size: int, mtime_ns: int, ttl: float) -> Attr:
    return Attr(stat.S_IFREG | 0o444, size, mtime_ns, ttl)
