"""The directory that files are staged in: where items are on disk, and who is told of changes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from rucio_fs.errors import NotFound, StagingError, Stale
from rucio_fs.scratch.items import Item, Items
from rucio_fs.scratch.overseeing import Indifferent, Overseer

P = ParamSpec("P")
T = TypeVar("T")

LAKE_MARK = "user.rucio-fs.lake"
"""On the backing directory of a collection that was in the lake before it was here."""

NEW_DIR = 0o755
"""Mode of directories that nobody has made here: those of scopes, and of collections."""


def on_disk(method: Callable[P, T]) -> Callable[P, T]:
    """Turn what the disk refuses into an error of ours with the same errno."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except FileNotFoundError as exc:
            raise NotFound(f"{exc.filename} does not exist") from exc
        except OSError as exc:
            raise StagingError.of(exc) from exc

    return wrapped


class Area:
    """The files below *tree*, as SCOPE/NAME...  Methods raise OSError as it comes."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.items = Items()
        self.overseer: Overseer = Indifferent()
        self._base = str(tree)
        self.umask = os.umask(0o077)
        os.umask(self.umask)

    def __repr__(self) -> str:
        return f"<Area {self.tree}>"

    def path(self, item: Item) -> str:
        """Where *item* is on disk.  Raises: NotFound (it is removed)"""
        if item.removed is not None:
            raise NotFound(f"scratch/{item.path} is removed")
        return f"{self._base}/{item.path}" if item.parent is not None else self._base

    def below(self, parent: Item, name: str) -> str:
        return f"{self.path(parent)}/{name}"

    def target(self, item: Item) -> int | str:
        """What system calls find *item* by: its path, or what has it open if that is gone.

        Raises: Stale (it is removed, and nobody has it open)
        """
        if item.removed is None:
            return self.path(item)
        if item.fds:
            return item.fds[-1]
        raise Stale(f"scratch/{item.path} is removed")

    def make(self, parent: Item, name: str, call: Callable[[str], T]) -> T:
        """What *call* returns for the path of *name*; the scope's directory is made for it."""
        path = self.below(parent, name)
        try:
            return call(path)
        except FileNotFoundError:
            if not self.make_scope(parent):
                raise
            return call(path)

    def make_scope(self, item: Item) -> bool:
        """Make the directory of a scope; whether that was needed."""
        if not item.is_scope:
            return False
        try:
            os.mkdir(self.path(item), NEW_DIR)
        except FileExistsError:
            return False
        self.overseer.changed(item.path)
        return True

    def changed(self, item: Item) -> None:
        if item.removed is None:
            self.overseer.changed(item.path)


def follows(target: int | str) -> bool:
    """What ``follow_symlinks`` has to be: a link is meant itself, and a descriptor takes no No."""
    return isinstance(target, int)
