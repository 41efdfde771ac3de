"""Scratch in the tree: one directory for each scope that the account may write to, and what people
make below.  Thin: `scratch.staging` does everything, and tells its overseer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import overload

from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.errors import (
    NotFound,
    NotOffered,
    NotPermitted,
)
from rucio_fs.nodes.base import (
    Attr,
    Change,
    Dir,
    Entry,
    File,
    Key,
    Node,
    OpenFile,
    Space,
    Vanished,
)
from rucio_fs.scratch.attributes import OVERSEEN
from rucio_fs.scratch.directories import Found
from rucio_fs.scratch.files import StagedFile, writes
from rucio_fs.scratch.items import Item
from rucio_fs.scratch.overseeing import Given
from rucio_fs.scratch.staging import Staging
from rucio_fs.sources.base import Data

TTL = 1.0
"""s that the kernel may answer for scratch; what it changes itself it forgets at once."""

_ROOT_UID = 0


@dataclass(frozen=True)
class ScratchServices:
    """What these nodes need.

    *scopes* tells those that files may be saved in, *born_ns* is shown for what is not on disk.
    *admits* is asked about each path where a file is about to be made: it raises what is against
    that, and waits for nobody.
    """

    staging: Staging
    scopes: Callable[[Identity], Awaitable[Sequence[str]]]
    born_ns: int
    admits: Callable[[str], None] = lambda path: None


class _Scratch(Node):
    """What files, directories and links share: an item of the staging area."""

    __slots__ = ("_services", "item")
    is_writable = True
    keeps_xattrs = True

    def __init__(self, services: ScratchServices, item: Item) -> None:
        self._services = services
        self.item = item

    @property
    def key(self) -> Key:
        return self.item.key

    @property
    def _staging(self) -> Staging:
        return self._services.staging

    async def attr(self, who: Identity) -> Attr:
        found = self._staging.attributes.stat(self.item)
        if found is None:
            return missing_scope(self._services)
        return attr_of(self.item, found)

    async def set_attr(
        self, who: Identity, change: Change, opened: OpenFile | None, caller: Caller
    ) -> None:
        """Raises: Sealed, NotPermitted, StagingError"""
        attributes = self._staging.attributes
        if change.size is not None:
            file = opened.file if isinstance(opened, OpenScratch) else None
            self._staging.files.truncate(self.item, change.size, file)
        if change.uid is not None or change.gid is not None:
            self._check_owner(change, caller)
            attributes.set_owner(self.item, change.uid, change.gid)
        if change.mode is not None:  # after the owner, whose change takes bits away
            attributes.set_mode(self.item, change.mode)
        if change.atime_ns is not None or change.mtime_ns is not None:
            attributes.set_times(self.item, change.atime_ns, change.mtime_ns)

    def _check_owner(self, change: Change, caller: Caller) -> None:
        """Root alone gives files away; a mount of root's could do so for others too."""
        if caller.uid == _ROOT_UID:
            return
        found = self._staging.attributes.stat(self.item)
        if found is not None and (
            change.uid not in (None, found.st_uid) or change.gid not in (None, found.st_gid)
        ):
            raise NotPermitted(f"scratch/{self.item.path}: only root changes owners")

    async def allows(self, mask: int) -> bool:
        return self._staging.attributes.allows(self.item, mask)

    async def space(self) -> Space:
        return space_of(self._staging)

    # --- extended attributes ---------------------------------------------------------------------

    async def xattr_names(self, who: Identity) -> Sequence[str]:
        item = self.item
        overseen = await self._staging.overseer.xattr_names(who, item.path, item.ino)
        return [*self._staging.attributes.xattr_names(item), *overseen]

    async def xattr(self, who: Identity, name: str) -> str:
        item = self.item
        if name.startswith(OVERSEEN):
            return await self._staging.overseer.xattr(who, item.path, item.ino, name)
        return os.fsdecode(self._staging.attributes.xattr(item, name))

    async def set_xattr(self, who: Identity, name: str, value: str) -> None:
        item = self.item
        if name.startswith(OVERSEEN):
            await self._staging.overseer.set_xattr(who, item.path, item.ino, name, value)
        else:
            self._staging.attributes.set_xattr(item, name, os.fsencode(value))

    async def remove_xattr(self, who: Identity, name: str) -> None:
        item = self.item
        if name.startswith(OVERSEEN):
            await self._staging.overseer.set_xattr(who, item.path, item.ino, name, "")
        else:
            self._staging.attributes.remove_xattr(item, name)


class ScratchFile(_Scratch, File):
    __slots__ = ()

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        """Raises: Sealed, StagingError, and what the overseer raises"""
        item = self.item
        if not writes(flags) and item.removed is None:
            given = await self._staging.overseer.open_given_up(who, item.path, item.ino, caller)
            if given is not None:
                return given if isinstance(given, OpenFile) else _OpenElsewhere(given)
        return OpenScratch(self._staging.files.open(item, flags))


class ScratchLink(_Scratch):
    """A symbolic link.  It stays here: the lake has none."""

    __slots__ = ()

    async def readlink(self, who: Identity) -> str:
        return self._staging.attributes.readlink(self.item)

    async def set_attr(
        self, who: Identity, change: Change, opened: OpenFile | None, caller: Caller
    ) -> None:
        if change.mode is not None or change.size is not None:
            raise NotOffered(f"scratch/{self.item.path}: a symbolic link has no mode of its own")
        await super().set_attr(who, change, opened, caller)


class ScratchDir(_Scratch, Dir):
    """A directory below a scope, or the scope's own, which comes to be when it is written in."""

    __slots__ = ()

    async def child(self, who: Identity, filename: str) -> Entry:
        directories = self._staging.directories
        try:
            return self._entry(filename, directories.find(self.item, filename))
        except NotFound:
            if not directories.may_be_in_lake(self.item):
                raise
            if not await self._staging.overseer.lookup_dir(who, f"{self.item.path}/{filename}"):
                raise
            return self._entry(filename, directories.adopt(self.item, filename))

    async def children(self, who: Identity) -> Sequence[Entry]:
        return _Listing(self, self._staging.directories.names(self.item))

    def entry(self, filename: str) -> Entry:
        """What is called *filename* now.  Raises: NotFound"""
        return self._entry(filename, self._staging.directories.find(self.item, filename))

    def _entry(self, filename: str, found: Found) -> Entry:
        item, status = found
        kind: type[_Scratch] = ScratchFile
        if stat.S_ISDIR(status.st_mode):
            kind = ScratchDir
        elif stat.S_ISLNK(status.st_mode):
            kind = ScratchLink
        return Entry(filename, kind(self._services, item), attr_of(item, status), TTL)

    # --- changes ---------------------------------------------------------------------------------

    async def create(
        self, who: Identity, filename: str, mode: int, flags: int, caller: Caller
    ) -> tuple[Entry, OpenFile]:
        self._services.admits(f"{self.item.path}/{filename}")
        item, status, file = self._staging.files.create(
            self.item, filename, stat.S_IMODE(mode), flags
        )
        return self._entry(filename, (item, status)), OpenScratch(file)

    async def mknod(self, who: Identity, filename: str, mode: int, caller: Caller) -> Entry:
        if not stat.S_ISREG(mode):
            raise NotPermitted(
                f"scratch/{self.item.path}/{filename}: there are no devices, pipes and sockets here"
            )
        entry, opened = await self.create(who, filename, mode, os.O_WRONLY | os.O_EXCL, caller)
        opened.close()
        return entry

    async def mkdir(self, who: Identity, filename: str, mode: int, caller: Caller) -> Entry:
        mode = stat.S_IMODE(mode)
        return self._entry(filename, self._staging.directories.mkdir(self.item, filename, mode))

    async def symlink(self, who: Identity, filename: str, target: str, caller: Caller) -> Entry:
        return self._entry(filename, self._staging.directories.symlink(self.item, filename, target))

    async def link(self, who: Identity, node: Node, filename: str) -> Entry:
        raise NotPermitted(
            f"scratch/{self.item.path}/{filename}: there are no hard links here, since a file"
            " becomes one DID; copy it instead"
        )

    async def unlink(self, who: Identity, filename: str) -> None:
        await self._staging.directories.unlink(self.item, filename)

    async def rmdir(self, who: Identity, filename: str) -> None:
        self._staging.directories.rmdir(self.item, filename)

    async def rename(
        self, who: Identity, filename: str, new_parent: Dir, new_filename: str, flags: int
    ) -> None:
        if not isinstance(new_parent, ScratchDir):
            raise new_parent.refusal(new_filename)
        self._staging.directories.rename(self.item, filename, new_parent.item, new_filename, flags)

    async def fsync(self, *, data_only: bool) -> None:
        await self._staging.fsync_dir(self.item)


class OpenScratch(OpenFile):
    """A staged file.  Every change comes through the kernel, which may keep its pages."""

    __slots__ = ("file",)
    keep_cache = True

    def __init__(self, file: StagedFile) -> None:
        self.file = file

    async def read(self, offset: int, size: int) -> Data:
        return await self.file.read(offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        return await self.file.write(offset, data)

    async def fsync(self, *, data_only: bool) -> None:
        await self.file.fsync(data_only=data_only)

    def close(self) -> None:
        self.file.close()


class _OpenElsewhere(OpenFile):
    """A file whose bytes are in the lake only; they are the ones that were written here."""

    __slots__ = ("_given",)
    keep_cache = True

    def __init__(self, given: Given) -> None:
        self._given = given

    async def read(self, offset: int, size: int) -> Data:
        return await self._given.read(offset, size)

    def close(self) -> None:
        self._given.close()


class _Listing(Sequence[Entry]):
    """The names in a directory at one time, each looked at when the kernel is told of it.

    Not before: attributes that are older than the kernel's own would undo what it knows.
    """

    def __init__(self, directory: ScratchDir, names: list[str]) -> None:
        self._directory = directory
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        """Raises: Vanished"""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            return self._directory.entry(self._names[index])
        except NotFound as exc:
            raise Vanished(self._names[index]) from exc


def attr_of(item: Item, found: os.stat_result) -> Attr:
    return Attr(
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        TTL,
        found.st_atime_ns,
        found.st_ctime_ns,
        found.st_blocks,
        # What was kept of a removed one is older than its removal.
        0 if item.removed is not None else found.st_nlink,
        None if found.st_uid == _UID else found.st_uid,
        None if found.st_gid == _GID else found.st_gid,
    )


def missing_scope(services: ScratchServices) -> Attr:
    return Attr(stat.S_IFDIR | 0o755, 0, services.born_ns, TTL)


def space_of(staging: Staging) -> Space:
    found = staging.statvfs()
    return Space(
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
    )


_UID, _GID = os.geteuid(), os.getegid()  # this process, whom the mount's own owner stands for
