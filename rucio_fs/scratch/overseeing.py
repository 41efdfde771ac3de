"""`Overseer`: who is told of everything that happens in the staging area, and may forbid it.

The staging area knows files and nothing of the lake; the uploads plug in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.errors import NoAttribute, NotOffered
from rucio_fs.sources.base import Data


class Given(Protocol):
    """Bytes of a file that are elsewhere: an `OpenFile`, or a `Source`."""

    async def read(self, offset: int, size: int) -> Data: ...
    def close(self) -> None: ...


class Overseer(Protocol):
    """Paths are relative to the staging tree, as in "user.alice/run1/a.dat"; *ino* is the disk's.

    The plain calls are quick and call nothing of the staging area that changes it.  What is raised
    before a change forbids it: `Sealed`, as a rule.
    """

    def changed(self, path: str, /) -> None:
        """Something is new at *path*: made, closed after writing, moved, removed, attributes set.

        After a removal and at the old path of a move there is nothing any more.
        """
        ...

    def before_write(self, path: str, ino: int, /) -> None:
        """Its bytes are about to change: it is opened for writing, or cut.  Raises: Sealed"""
        ...

    def before_rename(
        self, path: str, ino: int, is_dir: bool, over: tuple[str, int] | None, /
    ) -> None:
        """It is about to be moved, *over* what is there.  Raises: Sealed

        The move may still fail.  Of an exchange both are told, each over nothing.
        """
        ...

    def renamed(self, old_path: str, new_path: str, /) -> None: ...

    def exchanged(self, one: str, other: str, /) -> None: ...

    def before_unlink(self, path: str, ino: int, /) -> None:
        """A file or symbolic link is about to lose its name.  Raises: Sealed"""
        ...

    def removed(self, path: str, ino: int, /) -> None:
        """A file or symbolic link has lost its name; whoever has it open goes on using it."""
        ...

    def before_rmdir(self, path: str, /) -> None:
        """Raises: Sealed"""
        ...

    async def lookup_dir(self, who: Identity, path: str, /) -> bool:
        """Whether *path*, which is not staged, is a collection of the lake: it then appears here.

        Asked for names directly below a scope, or below a directory that has appeared so.
        """
        ...

    async def xattr_names(self, who: Identity, path: str, ino: int, /) -> Sequence[str]:
        """Those of user.rucio.* that have a value."""
        ...

    async def xattr(self, who: Identity, path: str, ino: int, name: str, /) -> str:
        """Value of *name*, one of user.rucio.*.  Raises: NoAttribute"""
        ...

    async def set_xattr(self, who: Identity, path: str, ino: int, name: str, value: str, /) -> None:
        """Set *name*, one of user.rucio.*; an empty *value* takes it away."""
        ...

    async def open_given_up(
        self, who: Identity, path: str, ino: int, caller: Caller, /
    ) -> Given | None:
        """What reads a file whose bytes were given up here; None if they are still here."""
        ...


class Indifferent:
    """Allows everything and knows nothing."""

    def changed(self, path: str) -> None:
        pass

    def before_write(self, path: str, ino: int) -> None:
        pass

    def before_rename(
        self, path: str, ino: int, is_dir: bool, over: tuple[str, int] | None
    ) -> None:
        pass

    def renamed(self, old_path: str, new_path: str) -> None:
        pass

    def exchanged(self, one: str, other: str) -> None:
        pass

    def before_unlink(self, path: str, ino: int) -> None:
        pass

    def removed(self, path: str, ino: int) -> None:
        pass

    def before_rmdir(self, path: str) -> None:
        pass

    async def lookup_dir(self, who: Identity, path: str) -> bool:
        return False

    async def xattr_names(self, who: Identity, path: str, ino: int) -> Sequence[str]:
        return ()

    async def xattr(self, who: Identity, path: str, ino: int, name: str) -> str:
        raise NoAttribute(f"scratch/{path} has no attribute {name}")

    async def set_xattr(self, who: Identity, path: str, ino: int, name: str, value: str) -> None:
        raise NotOffered(f"{name} cannot be set on scratch/{path}")

    async def open_given_up(
        self, who: Identity, path: str, ino: int, caller: Caller
    ) -> Given | None:
        return None
