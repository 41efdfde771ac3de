"""Scratch that lies on a mounted RSE: what is saved there is on storage already.

The storage's server, another user as a rule, reads the files and removes them in the end; so what
is sealed is opened to it, as far as the directory that operators have made is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from rucio_fs.errors import Refused, UsageError
from rucio_fs.uploads.places import Place
from rucio_fs.uploads.records import Record

_TREE = "tree"


class InPlace:
    """The tree of a staging area, which lies at *place*."""

    def __init__(self, place: Place, tree: Path) -> None:
        self.place = place
        self._tree = tree
        self._model = stat.S_IMODE(tree.stat().st_mode)

    def __repr__(self) -> str:
        return f"<InPlace {self._tree} at {self.place.rse}>"

    def pfn(self, record: Record) -> str:
        """Raises: Refused"""
        return self.place.pfn(self._tree / record.path)

    def seal(self, record: Record) -> bool:
        """Open the file to the storage's server; False: it is not any more what was queued.

        Its directories, too, as far as they are below the tree: who removes a file writes to them.
        Quick: between this and the change of its state nothing else happens.

        Raises: Refused (it cannot be opened so)
        """
        path = self._tree / record.path
        if not is_same(path, record):
            return False
        try:
            _open_up(path, self._model & 0o044)
            for directory in path.parents:
                if directory == self._tree:
                    break
                _open_up(directory, self._model & (stat.S_ISGID | 0o077))
        except OSError as exc:
            raise Refused(
                f"{exc.filename} cannot be opened to the storage's server ({exc.strerror}): have"
                " it belong to the user of this mount"
            ) from exc
        return True

    def is_there(self, record: Record) -> bool:
        return is_same(self._tree / record.path, record)


def is_same(path: Path, record: Record) -> bool:
    """Whether the file of *record* is there, as it was read."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    seen = (found.st_size, found.st_mtime_ns)
    return seen == (record.size, record.mtime_ns) and found.st_ino == (record.ino or found.st_ino)


def _open_up(path: Path, bits: int) -> None:
    """Raises: OSError"""
    mode = stat.S_IMODE(path.stat().st_mode)
    if bits & ~mode:
        path.chmod(mode | bits)


class Lock:
    """Keeps a second mount off *tree*, as far as its filesystem has locks.  Raises: UsageError"""

    def __init__(self, tree: Path) -> None:
        self._fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise UsageError(
                f"scratch.dir = {tree} is used by another mount: give each one of its own"
            ) from None
        except OSError:  # NFS locks no directory
            return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)


def prepare(state: Path, tree: Path) -> None:
    """Have the staging area in *state*, on this machine's own disk, hold its files in *tree*.

    The journal is nothing that the storage should see, or clean up.  Raises: UsageError
    """
    if not tree.is_dir():
        raise UsageError(
            f"scratch.dir = {tree} is no directory: make it on the storage, and let this user and"
            " that of the storage's server write there (docs/CONFIGURATION.md)"
        )
    link = state / _TREE
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if link.is_dir() and not link.is_symlink():
            link.rmdir()
        if not link.is_symlink():
            link.symlink_to(tree)
    except OSError as exc:
        raise UsageError(
            f"{link}: {exc.strerror}; what was saved there has to be in the lake before scratch"
            " is registered in place, or name another scratch.journal_dir"
        ) from exc
    if Path(os.readlink(link)) != tree:
        raise UsageError(
            f"{state} is the journal of scratch in {os.readlink(link)}, not in {tree}: name"
            " another scratch.journal_dir"
        )


def refuse_link(state: Path) -> None:
    """Nothing is uploaded from what is in place already.  Raises: UsageError"""
    link = state / _TREE
    if link.is_symlink():
        raise UsageError(
            f"scratch in {state} was registered in place, in {os.readlink(link)}: set"
            " scratch.in_place, or name another scratch.dir"
        )
