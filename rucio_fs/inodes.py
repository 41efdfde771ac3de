"""Inode numbers and the kernel's lookup counts.

A number is a hash of the node's key, so that it is the same after a restart and in every mount of
the lake.  Only nodes the kernel refers to are held.  Nothing here awaits: every method is atomic
under trio.
"""

from __future__ import annotations

from hashlib import blake2b

from rucio_fs.errors import IsADir, NotADir, Stale
from rucio_fs.nodes.base import Dir, File, Key, Node

ROOT = 1
_BITS = 63  # some programs keep inode numbers in a signed 64-bit integer


class _Slot:
    __slots__ = ("lookups", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.lookups = 0


class InodeTable:
    """ino <-> node, for as long as the kernel remembers the number."""

    def __init__(self, root: Dir) -> None:
        self._slots: dict[int, _Slot] = {ROOT: _Slot(root)}
        self._root_key = root.key

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        return f"<InodeTable of {len(self)}>"

    def node(self, ino: int) -> Node:
        """The node with number *ino*.  Raises: Stale for a number that was never handed out."""
        try:
            return self._slots[ino].node
        except KeyError:
            raise Stale(f"inode {ino} is not known") from None

    def dir(self, ino: int) -> Dir:
        node = self.node(ino)
        if not isinstance(node, Dir):
            raise NotADir(f"{node.key} is not a directory")
        return node

    def file(self, ino: int) -> File:
        node = self.node(ino)
        if not isinstance(node, File):
            raise IsADir(f"{node.key} is a directory")
        return node

    def number(self, node: Node) -> int:
        """The number *node* has or would get; takes no reference."""
        return self._place(node.key)

    def ref(self, node: Node) -> int:
        """Count one lookup of *node* and return its number.

        The last act of a handler: what it counted, it has to tell the kernel.
        """
        ino = self._place(node.key)
        slot = self._slots.get(ino)
        if slot is None:
            slot = self._slots[ino] = _Slot(node)
        slot.node = node  # the newest view knows the newest listing
        slot.lookups += 1
        return ino

    def forget(self, ino: int, nlookup: int) -> None:
        """The kernel gives back *nlookup* references."""
        slot = self._slots[ino]
        slot.lookups -= nlookup
        if slot.lookups <= 0 and ino != ROOT:
            del self._slots[ino]
            assert slot.lookups == 0, f"inode {ino} forgotten too often"

    def lookups(self) -> int:
        """References that the kernel holds, the root's left out."""
        return sum(slot.lookups for ino, slot in self._slots.items() if ino != ROOT)

    def _place(self, key: Key) -> int:
        if key == self._root_key:
            return ROOT
        ino = hash_key(key)
        # Two keys with one hash: the later one takes the next free number, as in a hash table.
        while (slot := self._slots.get(ino)) is not None and slot.node.key != key:
            ino += 1
        return ino


def hash_key(key: Key) -> int:
    """63-bit hash of *key*, never 0 or the root's number."""
    digest = blake2b("\0".join(key).encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> (64 - _BITS)) | 2
