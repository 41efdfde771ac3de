"""The kernel's requests for extended attributes, for mounts that have them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import pyfuse3

from rucio_fs.errors import NoAttribute, NotOffered, Stale
from rucio_fs.nodes.base import Node
from rucio_fs.operations import Operations, handler

_USER_PREFIX = b"user."
_OURS = b"user.rucio."


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
            value = await node.xattr(self.identity(ctx), os.fsdecode(name))
        return os.fsencode(value)

    @handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        node = self.inodes.node(inode)
        with self.interrupts.watch(ctx.pid):
            names = await node.xattr_names(self.identity(ctx))
        return [os.fsencode(name) for name in names]

    @handler
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        node: Node = self.inodes.node(inode)
        if not name.startswith(_OURS) and not self._is_kept(inode, name):
            raise NotOffered(f"{os.fsdecode(name)} cannot be set")
        with self.interrupts.watch(ctx.pid):
            await node.set_xattr(self.identity(ctx), os.fsdecode(name), os.fsdecode(value))

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        node = self.inodes.node(inode)
        if not name.startswith(_OURS) and not self._is_kept(inode, name):
            kind = NoAttribute if name.startswith(_USER_PREFIX) else NotOffered
            raise kind(f"{os.fsdecode(name)} is not kept here")
        with self.interrupts.watch(ctx.pid):
            await node.remove_xattr(self.identity(ctx), os.fsdecode(name))
