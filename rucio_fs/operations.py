"""The kernel's requests, translated: bytes <-> str, ino <-> node, exceptions -> errno.  No policy.

The only module beside `mount` that knows pyfuse3.  Any exception but FUSEError from a handler ends
the mount, hence `handler` on every one of them except `forget` (which cannot fail) and `getxattr`
for foreign names (which must cost nothing).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio

from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.errors import NameTooLong, NoAttribute, NotOffered, ReadOnly, RucioFsError, Stale
from rucio_fs.filenames import MAX_BYTES
from rucio_fs.handles import HandleTable, OpenDir
from rucio_fs.inodes import InodeTable
from rucio_fs.interrupts import Interrupts
from rucio_fs.nodes.base import Attr, Change, Dir, Entry, Node, OpenFile, Vanished

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Self = TypeVar("Self", bound="Operations")

_DOTS = 2  # "." and ".." come before the entries of a directory
_USER_PREFIX = b"user."
_OURS = b"user.rucio."


@dataclass(frozen=True, slots=True)
class Presentation:
    """How nodes are shown: owner, and the bits that are taken away from their modes."""

    uid: int
    gid: int
    umask: int = 0


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
        self._scratch = self._blank()

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
            found = await parent.child(self._identity(ctx), filename)
        return self._shown(found)

    @handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        node = self.inodes.node(inode)
        with self.interrupts.watch(ctx.pid):
            attr = await node.attr(self._identity(ctx))
        return self._entry(inode, attr, 0.0)

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
        who = self._identity(ctx)
        opened = None if fh is None else self.handles.file(fh)
        await node.set_attr(who, self._change(attr, fields), opened, _caller(ctx))
        return self._entry(inode, await node.attr(who), 0.0)

    def _change(self, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> Change:
        # Whoever is shown as the owner of everything is this process to the disk.
        shown, uid, gid = self._presentation, attr.st_uid, attr.st_gid
        return Change(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            uid=(os.geteuid() if uid == shown.uid else uid) if fields.update_uid else None,
            gid=(os.getegid() if gid == shown.gid else gid) if fields.update_gid else None,
        )

    # --- directories ---------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        node = self.inodes.dir(inode)
        who = self._identity(ctx)
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
            here = self._fill(self._scratch, self.inodes.number(opened.node), _DOT_ATTR, 0.0)
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(dots), here, position):
                return
        self._show(token, opened.entries, position - _DOTS)

    def _show(self, token: pyfuse3.ReaddirToken, entries: Sequence[Entry], start: int) -> None:
        """Fill the reply with *entries* from *start* on, as many as it takes."""
        # atomic: references are counted only for the entries that go out
        counted: list[int] = []
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
                    self._fill(self._scratch, ino, attr, ttl),
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
            opened = await node.open(self._identity(ctx), flags, _caller(ctx))
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
        made, opened = await parent.create(self._identity(ctx), filename, mode, flags, _caller(ctx))
        return self._opened(opened), self._shown(made)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        return self._shown(await parent.mknod(self._identity(ctx), filename, mode, _caller(ctx)))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        return self._shown(await parent.mkdir(self._identity(ctx), filename, mode, _caller(ctx)))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        to = os.fsdecode(target)
        return self._shown(await parent.symlink(self._identity(ctx), filename, to, _caller(ctx)))

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node, filename = self.inodes.node(inode), self._filename(new_name)
        parent = self.inodes.dir(new_parent_inode)
        return self._shown(await parent.link(self._identity(ctx), node, filename))

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        await parent.unlink(self._identity(ctx), filename)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        parent, filename = self.inodes.dir(parent_inode), self._filename(name)
        await parent.rmdir(self._identity(ctx), filename)

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
        await parent.rename(self._identity(ctx), old, new_parent, new, flags)

    @handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return os.fsencode(await self.inodes.node(inode).readlink(self._identity(ctx)))

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

    def _identity(self, ctx: pyfuse3.RequestContext) -> Identity:
        return self._who

    def _filename(self, name: bytes) -> str:
        if len(name) > MAX_BYTES:
            raise NameTooLong(f"a name of {len(name)} bytes; {MAX_BYTES} is the limit")
        return os.fsdecode(name)

    def _shown(self, found: Entry) -> pyfuse3.EntryAttributes:
        """What the kernel is told of *found*; the last act of a handler, since it counts."""
        entry = self._entry(0, found.attr, found.ttl)
        entry.st_ino = pyfuse3.InodeT(self.inodes.ref(found.node))
        return entry

    def _blank(self) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_blksize = 1 << 20  # what cp and cat read at a time
        entry.generation = 0  # a number is never given to another node in a mount's life
        return entry

    def _entry(self, ino: int, attr: Attr, ttl: float) -> pyfuse3.EntryAttributes:
        return self._fill(self._blank(), ino, attr, ttl)

    def _fill(
        self, entry: pyfuse3.EntryAttributes, ino: int, attr: Attr, ttl: float
    ) -> pyfuse3.EntryAttributes:
        mode, size, mtime_ns, attr_ttl, atime_ns, ctime_ns, blocks, nlink, uid, gid = attr
        shown = self._presentation
        entry.st_ino = ino
        entry.st_mode = pyfuse3.ModeT(mode & ~shown.umask)
        entry.st_size = size
        entry.st_blocks = (size + 511) >> 9 if blocks is None else blocks
        entry.st_mtime_ns = mtime_ns
        entry.st_atime_ns = mtime_ns if atime_ns is None else atime_ns
        entry.st_ctime_ns = mtime_ns if ctime_ns is None else ctime_ns
        # 1 also for directories: "how many subdirectories" is not known, and find trusts it.
        entry.st_nlink = 1 if nlink is None else nlink
        entry.st_uid = shown.uid if uid is None else uid
        entry.st_gid = shown.gid if gid is None else gid
        entry.attr_timeout = attr_ttl
        entry.entry_timeout = ttl
        return entry

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        # Not left out: the kernel itself would then answer ENODATA for system.posix_acl_access,
        # and `ls -l` asks of every file until it hears that the filesystem knows no such thing.
        raise pyfuse3.FUSEError(errno.EOPNOTSUPP)


class OperationsWithXattrs(Operations):
    """The same with extended attributes.

    A class of its own: listxattr and setxattr cannot be switched off for one mount.
    """

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        if not name.startswith(_OURS) and not self._is_kept(inode, name):
            # `ls -l` asks security.selinux and system.posix_acl_access of every file, until one
            # answer says that the filesystem knows no such thing; ENODATA would not say that.
            raise pyfuse3.FUSEError(
                errno.ENODATA if name.startswith(_USER_PREFIX) else errno.EOPNOTSUPP
            )
        return await self._getxattr(inode, name, ctx)

    def _is_kept(self, inode: int, name: bytes) -> bool:
        """Whether *name*, none of ours, is one that the node keeps."""
        if not name.startswith(_USER_PREFIX):
            return False
        try:
            return self.inodes.node(inode).keeps_xattrs
        except Stale:
            return False

    @handler
    async def _getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        node = self.inodes.node(inode)
        with self.interrupts.watch(ctx.pid):
            value = await node.xattr(self._identity(ctx), os.fsdecode(name))
        return os.fsencode(value)

    @handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        node = self.inodes.node(inode)
        with self.interrupts.watch(ctx.pid):
            names = await node.xattr_names(self._identity(ctx))
        return [os.fsencode(name) for name in names]

    @handler
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        node: Node = self.inodes.node(inode)
        if not name.startswith(_OURS) and not self._is_kept(inode, name):
            raise NotOffered(f"{os.fsdecode(name)} cannot be set")
        with self.interrupts.watch(ctx.pid):
            await node.set_xattr(self._identity(ctx), os.fsdecode(name), os.fsdecode(value))

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        node = self.inodes.node(inode)
        if not name.startswith(_OURS) and not self._is_kept(inode, name):
            kind = NoAttribute if name.startswith(_USER_PREFIX) else NotOffered
            raise kind(f"{os.fsdecode(name)} is not kept here")
        with self.interrupts.watch(ctx.pid):
            await node.remove_xattr(self._identity(ctx), os.fsdecode(name))


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.pid, ctx.uid)


_DOT_ATTR = Attr(0o040555)
