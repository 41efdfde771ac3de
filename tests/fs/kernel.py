"""The kernel's side of `Operations`, without a kernel: it looks up, reads, counts and forgets."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyfuse3
import pytest

from rucio_fs.xattrs import OperationsWithXattrs

ROOM = 1 << 30


class Context(pyfuse3.RequestContext):
    """Who asks; pyfuse3 alone can fill in a real one, and nothing looks into it."""


@dataclass(frozen=True)
class Shown:
    """An entry as readdir showed it."""

    name: bytes
    ino: int
    mode: int
    size: int
    mtime_ns: int
    entry_timeout: float
    attr_timeout: float
    next_id: int


@dataclass
class Token(pyfuse3.ReaddirToken):
    """The buffer of one readdir call, with room for so many entries."""

    room: int
    shown: list[Shown] = field(default_factory=list)


def readdir_reply(token: Token, name: bytes, attr: pyfuse3.EntryAttributes, next_id: int) -> bool:
    if len(token.shown) == token.room:
        return False
    token.shown.append(
        Shown(
            name,
            attr.st_ino,
            attr.st_mode,
            attr.st_size,
            attr.st_mtime_ns,
            attr.entry_timeout,
            attr.attr_timeout,
            next_id,
        )
    )
    return True


@contextlib.contextmanager
def fails_with(number: int) -> Iterator[None]:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        yield
    found = errno.errorcode.get(caught.value.errno)
    assert found == errno.errorcode[number]


class Kernel:
    """Counts references as the kernel does: what was replied, and nothing that failed."""

    def __init__(self, operations: OperationsWithXattrs) -> None:
        self.operations = operations
        self.refs: Counter[int] = Counter()
        self.ctx = Context()

    async def lookup(self, parent: int, name: str | bytes) -> pyfuse3.EntryAttributes:
        entry = await self.operations.lookup(parent, pyfuse3.FileNameT(os.fsencode(name)), self.ctx)
        self.refs[entry.st_ino] += 1
        return entry

    async def walk(self, path: str) -> pyfuse3.EntryAttributes:
        """Look up each component of *path*, as every system call does."""
        entry = await self.operations.getattr(pyfuse3.ROOT_INODE, self.ctx)
        for component in path.split("/"):
            entry = await self.lookup(entry.st_ino, component)
        return entry

    async def ino(self, path: str) -> int:
        return (await self.walk(path)).st_ino if path else pyfuse3.ROOT_INODE

    async def readdir(self, fh: int, offset: int, room: int = ROOM) -> list[Shown]:
        """One call; what it shows is referred to from then on."""
        token = Token(room)
        await self.operations.readdir(fh, offset, token)
        for entry in token.shown:
            if entry.name not in (b".", b".."):
                self.refs[entry.ino] += 1
        return token.shown

    async def read_all(self, fh: int, room: int = ROOM) -> list[Shown]:
        """The whole directory, in as many calls as it takes."""
        shown: list[Shown] = []
        offset = 0
        while page := await self.readdir(fh, offset, room):
            shown += page
            offset = page[-1].next_id
        return shown

    async def listdir(self, path: str, room: int = ROOM) -> list[str]:
        """Names in the directory, the dots left out."""
        fh = await self.operations.opendir(await self.ino(path), self.ctx)
        shown = await self.read_all(fh, room)
        await self.operations.releasedir(fh)
        assert [entry.name for entry in shown[:2]] == [b".", b".."]
        return [os.fsdecode(entry.name) for entry in shown[2:]]

    async def open(self, path: str, flags: int = os.O_RDONLY) -> pyfuse3.FileInfo:
        return await self.operations.open(await self.ino(path), flags, self.ctx)

    async def cat(self, path: str) -> bytes:
        info = await self.open(path)
        data, offset = b"", 0
        while piece := bytes(await self.operations.read(info.fh, offset, 4096)):
            data += piece
            offset += len(piece)
        await self.operations.release(info.fh)
        return data

    async def getxattr(self, path: str, name: str) -> str:
        value = await self.operations.getxattr(await self.ino(path), name.encode(), self.ctx)
        return value.decode()

    async def forget_everything(self) -> None:
        """As the kernel does when its memory is wanted, in one request."""
        await self.operations.forget([(ino, count) for ino, count in self.refs.items() if count])
        self.refs.clear()
