"""The kernel's requests, translated: bytes <-> str, ino <-> node, exceptions -> errno.  No policy.

Beside `mount`, this module alone knows pyfuse3, with `presentation` and `xattrs`.  Any exception
but FUSEError from a handler ends the mount, hence `handler` on every one of them except `forget`
(which cannot fail) and `getxattr` for foreign names (which must cost nothing).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio

from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.errors import NameTooLong, ReadOnly, RucioFsError
from rucio_fs.filenames import MAX_BYTES
from rucio_fs.handles import HandleTable, OpenDir
from rucio_fs.inodes import InodeTable
from rucio_fs.interrupts import Interrupts
from rucio_fs.nodes.base import Attr, Dir, Entry, Node, OpenFile, Vanished
from rucio_fs.presentation import Presentation, blank

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Self = TypeVar("Self", bound="Operations")

_DOTS = 2  # "." and ".." come before the entries of a directory


def handler(
    method: Callable[Concatenate[Self, P], Awaitable[T]],
) -> Callable[Concatenate[Self, P], Coroutine[Any, Any, T]]:
    """Turn every exception of *method* into an errno; log it at the level its class deserves."""
    name = method.__name__

    @functools.wraps(method)
    async def wrapped(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except RucioFsError as exc:
            if type(exc) is RucioFsError:
                log.error("%s: %s", name, exc)
            else:
                log.log(exc.level, "%s: %s", name, exc)
            raise pyfuse3.FUSEError(exc.errno) from exc
        except Exception as exc:
            log.exception("bug in %s%r", name, args[:2])
            raise pyfuse3.FUSEError(errno.EIO) from exc

    return wrapped


class Operations(pyfuse3.Operations):
    """The handlers.  One instance is one mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self, root: Dir, presentation: Presentation, who: Identity, disk: Node | None = None
    ) -> None:
        """*disk* is the node whose space ``df`` shows for all of the mount."""
        super().__init__()
        self.inodes = InodeTable(root)
        self.handles = HandleTable()
        self.interrupts = Interrupts()
        self.negotiated = trio.Event()
        self._presentation = presentation
        self._who = who
        self._disk = disk
        # One object for all entries of a directory: pyfuse3 copies it into the reply at once.
        self._scratch = blank()

    def init(self) -> None:
        """The kernel has said INIT; after this task's turn it knows our answer."""
        self.negotiated.set()

    # --- names and attributes ------------------------------------------------------------------

    @handler
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        filename = self._filename(name)
        parent = self.inodes.dir(parent_inode)
        with self.interrupts.watch(ctx.pid):
            found = await parent.child(self.identity(ctx), filename)
        return self._shown(found)

    @handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        node = self.inodes.node(inode)
        with self.interrupts.watch(ctx.pid):
            attr = await node.attr(self.identity(ctx))
        return self._presentation.entry(inode, attr, 0.0)

    @handler
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        # Asked by access(2) and chdir(2) only; False becomes EACCES.
        return await self.inodes.node(inode).allows(mode)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, nlookup in inode_list:
            try:
                self.inodes.forget(ino, nlookup)
            except Exception:
                log.exception("bug in forget(%d, %d)", ino, nlookup)

    @handler
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        node = self.inodes.node(inode)
        who = self.identity(ctx)
        opened = None if fh is None else self.handles.file(fh)
        await node.set_attr(who, self._presentation.change(attr, fields), opened, _caller(ctx))
        return self._presentation.entry(inode, await node.attr(who), 0.0)

    # --- directories ---------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        node = self.inodes.dir(inode)
        who = self.identity(ctx)
        with self.interrupts.watch(ctx.pid):
            entries = await node.children(who)
        return self.handles.add_dir(OpenDir(node, who, entries))

    @handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        opened = self.handles.dir(fh)
        if start_id == 0:
            if opened.is_read:  # rewinddir
                opened.entries = await opened.node.children(opened.who)
            opened.is_read = True
        position = start_id
        for dots in (b".", b"..")[position:]:
            position += 1
            ino = self.inodes.number(opened.node)
            here = self._presentation.fill(self._scratch, ino, _DOT_ATTR, 0.0)
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(dots), here, position):
                return
        self._show(token, opened.entries, position - _DOTS)

    def _show(self, token: pyfuse3.ReaddirToken, entries: Sequence[Entry], start: int) -> None:
        """Fill the reply with *entries* from *start* on, as many as it takes."""
        # atomic: references are counted only for the entries that go out
        counted: list[int] = []
        fill, scratch = self._presentation.fill, self._scratch
        try:
            for index in range(start, len(entries)):
                try:
                    filename, node, attr, ttl = entries[index]
                except Vanished:
                    continue
                ino = self.inodes.ref(node)
                counted.append(ino)
                if not pyfuse3.readdir_reply(
                    token,
                    pyfuse3.FileNameT(os.fsencode(filename)),
                    fill(scratch, ino, attr, ttl),
                    index + _DOTS + 1,
                ):
                    self.inodes.forget(counted.pop(), 1)
                    return
        except Exception:
            for ino in counted:  # the kernel gets the error and none of them
                self.inodes.forget(ino, 1)
            raise

    @handler
    async def releasedir(self, fh: int) -> None:
        self.handles.pop_dir(fh)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.handles.dir(fh).node.fsync(data_only=datasync)

    # --- files ---------------------------------------------------------------------------------

    @handler
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        node = self.inodes.file(inode)
        if flags & (os.O_WRONLY | os.O_RDWR) and not node.is_writable:
            raise ReadOnly(f"{node.key} cannot be written")
        with self.interrupts.watch(ctx.pid):
            opened = await node.open(self.identity(ctx), flags, _caller(ctx))
        return self._opened(opened)

    def _opened(self, opened: OpenFile) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(
            fh=self.handles.add_file(opened),
            direct_io=opened.direct_io,
            keep_cache=opened.keep_cache,
        )

    @handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # pyfuse3 takes any buffer and copies it before this task yields.
        return await self.handles.file(fh).read(off, size)  # type: ignore[return-value]

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self.handles.file(fh).write(off, buf)

    @handler
    async def flush(self, fh: int) -> None:
        await self.handles.file(fh).flush()

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.handles.file(fh).fsync(data_only=datasync)

    @handler
    async def release(self, fh: int) -> None:
        self.handles.pop_file(fh).close()

    # --- changes to directories ----------------------------------------------------------------

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        made, opened = await parent.create(self.identity(ctx), filename, mode, flags, _caller(ctx))
        return self._opened(opened), self._shown(made)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        return self._shown(await parent.mknod(self.identity(ctx), filename, mode, _caller(ctx)))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        return self._shown(await parent.mkdir(self.identity(ctx), filename, mode, _caller(ctx)))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        to = os.fsdecode(target)
        return self._shown(await parent.symlink(self.identity(ctx), filename, to, _caller(ctx)))

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node, filename = self.inodes.node(inode), self._filename(new_name)
        parent = self.inodes.dir(new_parent_inode)
        return self._shown(await parent.link(self.identity(ctx), node, filename))

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        await parent.unlink(self.identity(ctx), filename)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        await parent.rmdir(self.identity(ctx), filename)

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        parent, old = self.inodes.dir(parent_inode_old), self._filename(name_old)
        new_parent, new = self.inodes.dir(parent_inode_new), self._filename(name_new)
        await parent.rename(self.identity(ctx), old, new_parent, new, flags)

    @handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return os.fsencode(await self.inodes.node(inode).readlink(self.identity(ctx)))

    @handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_namemax = MAX_BYTES
        # pyfuse3 does not say of which inode this is asked: one disk stands for the whole mount.
        space = None if self._disk is None else await self._disk.space()
        if space is not None:
            found.f_bsize = found.f_frsize = space.block_size
            found.f_blocks, found.f_bfree, found.f_bavail = space[1:4]
            found.f_files, found.f_ffree, found.f_favail = space[4], space[5], space[5]
        return found

    # --- helpers -------------------------------------------------------------------------------

    def identity(self, ctx: pyfuse3.RequestContext) -> Identity:
        return self._who

    def _filename(self, name: bytes) -> str:
        if len(name) > MAX_BYTES:
            raise NameTooLong(f"a name of {len(name)} bytes; {MAX_BYTES} is the limit")
        return os.fsdecode(name)

    def _shown(self, found: Entry) -> pyfuse3.EntryAttributes:
        """What the kernel is told of *found*; the last act of a handler, since it counts."""
        entry = self._presentation.entry(0, found.attr, found.ttl)
        entry.st_ino = pyfuse3.InodeT(self.inodes.ref(found.node))
        return entry

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        # Not left out: the kernel itself would then answer ENODATA for system.posix_acl_access,
        # and `ls -l` asks of every file until it hears that the filesystem knows no such thing.
        raise pyfuse3.FUSEError(errno.EOPNOTSUPP)


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.pid, ctx.uid)


_DOT_ATTR = Attr(0o040555)
