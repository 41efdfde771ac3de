"""How nodes look to the kernel: `Attr` as pyfuse3's attributes, and a setattr as a `Change`."""

from __future__ import annotations

import os
import stat

import pyfuse3

from rucio_fs.nodes.base import Attr, Change


class Presentation:
    """Owner of what is shown, and the bits (*umask*) that are taken away from its modes."""

    def __init__(self, uid: int, gid: int, umask: int = 0) -> None:
        self.uid = uid
        self.gid = gid
        self.umask = umask

    def entry(self, ino: int, attr: Attr, ttl: float) -> pyfuse3.EntryAttributes:
        """What the kernel is told of inode *ino*; *ttl* (s) is that of its name."""
        return self.fill(blank(), ino, attr, ttl)

    def fill(
        self, entry: pyfuse3.EntryAttributes, ino: int, attr: Attr, ttl: float
    ) -> pyfuse3.EntryAttributes:
        """The same in an *entry* that is there already."""
        mode, size, mtime_ns, attr_ttl, atime_ns, ctime_ns, blocks, nlink, uid, gid = attr
        entry.st_ino = ino
        entry.st_mode = pyfuse3.ModeT(mode & ~self.umask)
        entry.st_size = size
        entry.st_blocks = (size + 511) >> 9 if blocks is None else blocks
        entry.st_mtime_ns = mtime_ns
        entry.st_atime_ns = mtime_ns if atime_ns is None else atime_ns
        entry.st_ctime_ns = mtime_ns if ctime_ns is None else ctime_ns
        # 1 also for directories: "how many subdirectories" is not known, and find trusts it.
        entry.st_nlink = 1 if nlink is None else nlink
        entry.st_uid = self.uid if uid is None else uid
        entry.st_gid = self.gid if gid is None else gid
        entry.attr_timeout = attr_ttl
        entry.entry_timeout = ttl
        return entry

    def change(self, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> Change:
        """What a setattr asks for."""
        # Whoever is shown as the owner of everything is this process to the disk.
        uid, gid = attr.st_uid, attr.st_gid
        return Change(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            uid=(os.geteuid() if uid == self.uid else uid) if fields.update_uid else None,
            gid=(os.getegid() if gid == self.gid else gid) if fields.update_gid else None,
        )


def blank() -> pyfuse3.EntryAttributes:
    """Attributes of nothing yet."""
    entry = pyfuse3.EntryAttributes()
    entry.st_blksize = 1 << 20  # what cp and cat read at a time
    entry.generation = 0  # a number is never given to another node in a mount's life
    return entry
