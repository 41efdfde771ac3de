"""A staging area in a temporary directory, a lake in memory, and the engine between them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from rucio_fs import checksums
from rucio_fs.did import DID
from rucio_fs.rules.events import Events
from rucio_fs.uploads.attributes import ScratchAttributes
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.engine import Engine
from rucio_fs.uploads.journal import Journal
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.naming import top_of
from rucio_fs.uploads.options import Options
from rucio_fs.uploads.overseer import UploadOverseer
from rucio_fs.uploads.records import Record, State
from rucio_fs.uploads.settling import Settling
from tests.fake_depot import FakeDepot
from tests.fake_registry import FakeRegistry
from tests.fake_rules import TERMS, FakeRules
from tests.fakes import MY, FakeCatalogue

_NOBODY = 65534
BASE = Options(rse="COLO")
DELAY = 5.0


@dataclass
class FakeStaged:
    """Files are written by tests as they are; nobody has them open but in *writing*."""

    tree: Path
    writing: set[int] = field(default_factory=set)
    unfinished: dict[int, str] = field(default_factory=dict)

    def is_open_for_writing(self, ino: int) -> bool:
        return ino in self.writing

    def finished(self, ino: int) -> None:
        del self.unfinished[ino]


class Bench:
    """One mount's uploads; `restart` is what a killed mount is followed by."""

    def __init__(self, directory: Path, nursery: trio.Nursery, **changes: Any) -> None:
        self.directory = directory
        self.nursery = nursery
        self.staged = FakeStaged(directory / "tree")
        self.staged.tree.mkdir(exist_ok=True)
        self.lake = FakeCatalogue()
        self.lake.scope("s")
        self.rules = FakeRules(self.lake)
        self.registry = FakeRegistry(self.lake, self.rules)
        self.depot = FakeDepot()
        self.changes = changes
        self.events = Events()
        self.scope = trio.CancelScope()
        self._start()

    def _start(self) -> None:
        self.journal = Journal.open(self.directory / "journal.sqlite")
        self.ledger = Ledger(self.journal)
        self.settling = Settling(DELAY, 600.0)
        context = Context(
            MY,
            self.staged,
            self.ledger,
            self.lake,
            self.registry,
            self.rules,
            self.depot,
            TERMS,
            self.events,
            BASE,
        )
        self.context = replace(context, **self.changes)
        self.engine = Engine(self.context, self.settling, 4)

    def run(self) -> None:
        self.scope = trio.CancelScope()
        self.nursery.start_soon(self._run, self.scope)

    async def _run(self, scope: trio.CancelScope) -> None:
        with scope:
            await self.engine.run()

    async def stop(self) -> None:
        """As kill -9 does: what is not in the journal is forgotten."""
        self.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        self.journal.close()

    async def restart(self) -> None:
        await self.stop()
        self._start()

    # --- what users do -----------------------------------------------------------------------

    def save(self, path: str, data: bytes = b"data") -> DID:
        """Write a file; return the DID that it is to become."""
        target = self.staged.tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.settling.changed(top_of(path))
        scope, _, name = path.partition("/")
        return DID(scope, name)

    @property
    def overseer(self) -> UploadOverseer:
        """What a mount tells of each change in scratch."""
        attributes = ScratchAttributes(
            self.staged.tree, self.ledger, self.settling, self.engine.write_down
        )

        async def carry_out(*order: object) -> bool:
            return False

        return UploadOverseer(
            self.ledger, self.settling, attributes, carry_out, self.engine.write_down
        )

    def remove(self, path: str) -> None:
        """``rm`` in the mount."""
        overseer, ino = self.overseer, self.ino(path)
        overseer.before_unlink(path, ino)
        (self.staged.tree / path).unlink()
        overseer.removed(path, ino)
        overseer.changed(path)

    def rename(self, path: str, new: str) -> None:
        """``mv`` in the mount."""
        overseer = self.overseer
        overseer.before_rename(path, self.ino(path), False, None)
        (self.staged.tree / path).rename(self.staged.tree / new)
        overseer.renamed(path, new)
        for one in (path, new):
            overseer.changed(one)

    def ino(self, path: str) -> int:
        return os.stat(self.staged.tree / path).st_ino

    def record(self, path: str) -> Record:
        record = self.ledger.at(path)
        assert record is not None, f"{path} has no upload"
        return record

    def states(self) -> dict[str, str]:
        return {one.path: one.shown for one in self.ledger}

    async def until(self, path: str, *states: State | str) -> Record:
        """Wait until the upload of *path* is in one of *states*."""
        with trio.fail_after(100_000):
            while True:
                record = self.ledger.at(path)
                if record is not None and (record.state in states or record.shown in states):
                    return record
                with trio.move_on_after(0.1):  # progress is no news
                    await self.ledger.news()

    async def done(self, *paths: str) -> None:
        for path in paths:
            await self.until(path, State.DONE)

    # --- what is to be so --------------------------------------------------------------------

    def is_in_lake(self, did: DID, data: bytes, rse: str = "COLO") -> bool:
        """Whether Rucio knows the file, once, with its replica, and its bytes are there."""
        known = self.lake._records[did].info
        (url,) = [url for url in self.depot.objects if url.endswith(f"/{did.name}")]
        return (
            known.size == len(data)
            and checksums.parse(known.adler32) == checksums.adler32(data)
            and self.lake.states(did).get(rse) == "AVAILABLE"
            and self.depot.objects[url] == data
        )

    def litter(self) -> list[str]:
        return [url for url in self.depot.objects if ".rucio-fs-" in url]


names = map("f{}".format, itertools.count())


def numbered(count: int) -> Iterator[str]:
    return (f"s/run/f{number:05d}" for number in range(count))


@contextlib.contextmanager
def as_nobody(bench: Bench) -> Iterator[None]:
    """As a user without rights, who owns all of the staging area."""
    for path in (bench.directory, *bench.directory.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY)
    for parent in bench.directory.parents[:-2]:
        parent.chmod(0o755)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
