"""File handles: what the kernel has open.  Plain dictionaries; nothing here awaits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rucio_fs.did import Identity
from rucio_fs.errors import Stale
from rucio_fs.nodes.base import Dir, Entry, OpenFile


@dataclass(slots=True)
class OpenDir:
    """A directory being read: its snapshot, and for whom (readdir carries no caller).

    *is_read* tells a rewind, which has to see a fresh snapshot, from the first read.
    """

    node: Dir
    who: Identity
    entries: Sequence[Entry]
    is_read: bool = False


class HandleTable:
    """fh -> open file or directory.  A number is never used twice in a mount's life."""

    def __init__(self) -> None:
        self._next = itertools.count(1)
        self._files: dict[int, OpenFile] = {}
        self._dirs: dict[int, OpenDir] = {}

    def __repr__(self) -> str:
        return f"<HandleTable of {len(self._files)} files, {len(self._dirs)} directories>"

    @property
    def open_files(self) -> int:
        return len(self._files)

    def add_file(self, opened: OpenFile) -> int:
        fh = next(self._next)
        self._files[fh] = opened
        return fh

    def add_dir(self, opened: OpenDir) -> int:
        fh = next(self._next)
        self._dirs[fh] = opened
        return fh

    def file(self, fh: int) -> OpenFile:
        try:
            return self._files[fh]
        except KeyError:
            raise Stale(f"file handle {fh} is not open") from None

    def dir(self, fh: int) -> OpenDir:
        try:
            return self._dirs[fh]
        except KeyError:
            raise Stale(f"directory handle {fh} is not open") from None

    def pop_file(self, fh: int) -> OpenFile:
        opened = self.file(fh)
        del self._files[fh]
        return opened

    def pop_dir(self, fh: int) -> None:
        self.dir(fh)
        del self._dirs[fh]

    def close_all(self) -> None:
        """At the end of the mount: nobody will release these."""
        for opened in self._files.values():
            opened.close()
        self._files.clear()
        self._dirs.clear()
