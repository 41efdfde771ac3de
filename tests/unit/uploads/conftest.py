"""A staging tree with its journal and ledger, and records as they come."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DID
from rucio_fs.uploads import (
    collecting,
    giving_up,
    leaving,
    queueing,
    registering,
    registrations,
)
from rucio_fs.uploads import journal as journals
from rucio_fs.uploads.journal import Journal
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.records import Record, State
from tests.unit.uploads.bench import Bench

NewRecord = Callable[..., Record]
MakeBench = Callable[..., Bench]


def new_record(number: int, **facts: Any) -> Record:
    """The record *number*, of a file of its own unless *facts* say otherwise."""
    path = f"s/run/{number}.dat"
    known: dict[str, Any] = {"path": path, "ino": 1000 + number, "did": DID("s", path[2:])}
    known |= {"size": 100, "mtime_ns": 1, "ctime_ns": 1, "since": 0.0}
    return Record(number, **(known | facts))


@pytest.fixture
def clock() -> MockClock:
    """Time goes on when nothing else does.  pytest-trio wants each test to name it."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in threads would not be waited for by that clock."""

    async def at_once(call: Callable[[], Any]) -> Any:
        await trio.lowlevel.checkpoint()
        return call()

    for module in (journals, giving_up, leaving, registering, registrations):
        monkeypatch.setattr(module, "in_thread", at_once)
    monkeypatch.setattr(queueing, "_in_thread", at_once)


@pytest.fixture
async def make(tmp_path: Path, nursery: trio.Nursery, no_threads: None) -> AsyncIterator[MakeBench]:
    """Makes uploads that run: ``make(base=Options(...))``; see `Context` for what can be said."""
    made: list[Bench] = []

    def bench(**changes: Any) -> Bench:
        made.append(Bench(tmp_path, nursery, **changes))
        made[-1].run()
        return made[-1]

    yield bench
    for one in made:
        await one.stop()


@pytest.fixture
def bench(make: MakeBench) -> Bench:
    return make()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path / "uploads.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def ledger(journal: Journal) -> Ledger:
    return Ledger(journal)


@pytest.fixture
def record(ledger: Ledger) -> NewRecord:
    """Adds a record to the ledger: ``record("s/run/a", State.QUEUED, ino=5)``."""

    def add(path: str, state: State, **facts: Any) -> Record:
        number = ledger.journal.next_id()
        did = DID(*path.split("/", 1))
        one = new_record(number, **({"path": path, "did": did, "state": state} | facts))
        ledger.add(one)
        return one

    return add


def save(tree: Path, path: str, data: bytes | str = b"data", **said: str) -> Path:
    """Make a file in *tree*, with the options that were *said* of it."""
    target = tree / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data.encode() if isinstance(data, str) else data)
    say(target, **said)
    return target


def say(path: Path, **said: str) -> None:
    for key, value in said.items():
        os.setxattr(path, collecting.KEPT + key, os.fsencode(value))


@pytest.fixture
def no_xattrs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The staging disk has no extended attributes."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    for name in ("listxattr", "getxattr", "setxattr", "removexattr"):
        monkeypatch.setattr(os, name, refuse)
