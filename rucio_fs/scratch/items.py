"""What the kernel refers to in the staging area, whatever becomes of its name.

An item is found by the disk's inode number and knows its parent and name, so that a directory is
moved by changing one item.  Items live as long as a node or an open file holds them.
"""

from __future__ import annotations

import os
from weakref import WeakValueDictionary


class Item:
    """A file, directory or link of the staging area; or the area itself, or one of its scopes.

    *ino* is the disk's number, 0 for the area and its scopes, which are known by name.  *fds* are
    the descriptors that have it open, *writers* how many of them may write.  It *lacks* bytes if
    one of those could not be written since it was opened.
    """

    __slots__ = (
        "__weakref__",
        "fds",
        "ino",
        "lacks",
        "name",
        "parent",
        "removed",
        "serial",
        "writers",
    )

    def __init__(self, ino: int, serial: int, parent: Item | None, name: str) -> None:
        self.ino = ino
        self.serial = serial
        self.parent = parent
        self.name = name
        self.fds: list[int] = []
        self.writers = 0
        self.lacks = False
        self.removed: os.stat_result | None = None

    def __repr__(self) -> str:
        return f"<Item {self.ino} {self.path}{' (removed)' if self.removed else ''}>"

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from everything else that lives at the same time; the same next time."""
        if not self.ino:
            return ("scratch", self.path)
        if self.serial:
            return ("scratch", "", str(self.ino), str(self.serial))
        return ("scratch", "", str(self.ino))

    @property
    def path(self) -> str:
        """Where it is, or was last, relative to the area."""
        parent = self.parent
        if parent is None:
            return ""
        names = [self.name]
        while parent.parent is not None:
            names.append(parent.name)
            parent = parent.parent
        names.reverse()
        return "/".join(names)

    @property
    def is_scope(self) -> bool:
        return not self.ino and self.parent is not None


class Items:
    """Every item that somebody holds."""

    def __init__(self) -> None:
        self.root = Item(0, 0, None, "")
        self._scopes: dict[str, Item] = {}
        self._present: WeakValueDictionary[int, Item] = WeakValueDictionary()
        self._alive: WeakValueDictionary[tuple[int, int], Item] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._alive)

    def scope(self, name: str) -> Item:
        """The item of the scope directory *name*, which need not be on disk."""
        try:
            return self._scopes[name]
        except KeyError:
            return self._scopes.setdefault(name, Item(0, 0, self.root, name))

    def knows_scope(self, name: str) -> bool:
        return name in self._scopes

    def is_open(self, ino: int) -> bool:
        """Whether somebody has the file with that number on disk open."""
        item = self._present.get(ino)
        return item is not None and item.removed is None and bool(item.fds)

    def at(self, parent: Item, name: str, ino: int) -> Item:
        """The item of what was just found on disk under *name*."""
        item = self._present.get(ino)
        if item is not None and item.removed is None:
            item.parent, item.name = parent, name
            return item
        # The disk gives a number away again once its file is gone, and the kernel may still refer
        # to that one.
        serial = 0
        while (ino, serial) in self._alive:
            serial += 1
        item = Item(ino, serial, parent, name)
        self._present[ino] = self._alive[ino, serial] = item
        return item
