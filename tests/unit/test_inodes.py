"""The inode table against the simplest model there is: a Counter of references per node."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from rucio_fs import inodes
from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.errors import IsADir, NotADir, Stale
from rucio_fs.inodes import ROOT, InodeTable, hash_key
from rucio_fs.nodes.base import Attr, Dir, Entry, File, Key, OpenFile


class ADir(Dir):
    def __init__(self, *key: str) -> None:
        self._key = key

    @property
    def key(self) -> Key:
        return self._key

    async def attr(self, who: Identity) -> Attr:
        raise NotImplementedError

    async def child(self, who: Identity, filename: str) -> Entry:
        raise NotImplementedError

    async def children(self, who: Identity) -> list[Entry]:
        raise NotImplementedError


class AFile(File):
    def __init__(self, *key: str) -> None:
        self._key = key

    @property
    def key(self) -> Key:
        return self._key

    async def attr(self, who: Identity) -> Attr:
        raise NotImplementedError

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        raise NotImplementedError


@pytest.fixture
def table() -> InodeTable:
    return InodeTable(ADir("root"))


class Machine(RuleBasedStateMachine):
    """The kernel looks nodes up and forgets them, some at a time, in any order."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.table = InodeTable(ADir("root"))
        self.count: Counter[int] = Counter()
        self.keys: dict[int, Key] = {}

    @rule(target=held, name=st.sampled_from("abcdef"))
    def look_up(self, name: str) -> int:
        node = AFile("file", name)
        ino = self.table.ref(node)
        assert ino != ROOT
        assert self.table.node(ino) is node, "the newest view is kept"
        assert self.keys.setdefault(ino, node.key) == node.key, "a number in use went to another"
        self.count[ino] += 1
        return ino

    @rule(name=st.sampled_from("abcdef"))
    def ask_for_the_number(self, name: str) -> None:
        number = self.table.number(AFile("file", name))
        assert self.keys.get(number, ("file", name)) == ("file", name)

    @rule(ino=consumes(held))
    def forget_one(self, ino: int) -> None:
        self._forget(ino, 1)

    @rule(ino=held)
    def forget_all_of_one(self, ino: int) -> None:
        if self.count[ino]:
            self._forget(ino, self.count[ino])

    @rule()
    def look_up_the_root(self) -> None:
        assert self.table.ref(ADir("root")) == ROOT

    @rule(nlookup=st.integers(1, 1000))
    def forget_the_root(self, nlookup: int) -> None:
        self.table.forget(ROOT, nlookup)
        assert self.table.dir(ROOT).key == ("root",)

    def _forget(self, ino: int, nlookup: int) -> None:
        if self.count[ino] < nlookup:
            return
        self.table.forget(ino, nlookup)
        self.count[ino] -= nlookup
        if not self.count[ino]:
            del self.count[ino], self.keys[ino]

    @invariant()
    def holds_what_the_kernel_holds(self) -> None:
        assert self.table.lookups() == self.count.total()
        assert len(self.table) == 1 + len(self.count)
        for ino, key in self.keys.items():
            assert self.table.node(ino).key == key


class WithoutCollisions(Machine):
    @invariant()
    def one_number_per_node(self) -> None:
        assert len(set(self.keys.values())) == len(self.keys)


class WithCollisions(Machine):
    """Six nodes whose hashes are two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(inodes, "hash_key", lambda key: 2 + ord(key[-1]) % 2)

    def teardown(self) -> None:
        self._patch.undo()


TestWithoutCollisions = WithoutCollisions.TestCase
TestWithCollisions = WithCollisions.TestCase


# --- single properties -------------------------------------------------------------------------


def test_equal_keys_are_one_inode_in_every_mount(table: InodeTable) -> None:
    other = InodeTable(ADir("root"))
    assert table.ref(AFile("file", "s", "n")) == other.ref(AFile("file", "s", "n"))
    assert table.ref(AFile("file", "s", "n")) != table.ref(AFile("file", "s", "m"))


def test_a_number_is_the_same_after_forget(table: InodeTable) -> None:
    ino = table.ref(AFile("file", "s", "n"))
    table.forget(ino, 1)
    assert table.ref(AFile("file", "s", "n")) == ino


def test_numbers_are_told_without_counting(table: InodeTable) -> None:
    number = table.number(AFile("file", "s", "n"))
    assert table.lookups() == 0
    with pytest.raises(Stale):
        table.node(number)
    assert table.ref(AFile("file", "s", "n")) == number
    assert table.number(ADir("root")) == ROOT


@pytest.mark.parametrize("key", [(), ("",), ("file", "s", "\udc80"), ("a", "b"), ("a\0b",)])
def test_a_hash_is_a_positive_signed_number_that_is_not_the_roots(key: Key) -> None:
    assert ROOT < hash_key(key) < 2**63


@pytest.mark.parametrize("digest", [b"\0" * 8, b"\0" * 7 + b"\2", b"\xff" * 8])
def test_no_digest_is_the_roots_number(monkeypatch: pytest.MonkeyPatch, digest: bytes) -> None:
    hashed = SimpleNamespace(digest=lambda: digest)
    monkeypatch.setattr(inodes, "blake2b", lambda *args, **kwargs: hashed)
    assert ROOT < hash_key(("file", "s", "n")) < 2**63


def test_a_forgotten_inode_is_stale(table: InodeTable) -> None:
    ino = table.ref(AFile("f"))
    table.forget(ino, 1)
    for find in (table.node, table.dir, table.file):
        with pytest.raises(Stale):
            find(ino)


def test_files_and_directories_are_told_apart(table: InodeTable) -> None:
    file, directory = table.ref(AFile("f")), table.ref(ADir("d"))
    assert table.file(file).key == ("f",)
    assert table.dir(directory).key == ("d",)
    with pytest.raises(NotADir):
        table.dir(file)
    with pytest.raises(IsADir):
        table.file(directory)


def test_one_forget_too_many_is_noticed_and_leaves_nothing(table: InodeTable) -> None:
    ino = table.ref(AFile("f"))
    with pytest.raises(AssertionError):
        table.forget(ino, 2)
    assert len(table) == 1
    with pytest.raises(KeyError):
        table.forget(ino, 1)
