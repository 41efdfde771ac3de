"""A mount's rules without a mount: `FakeRules`, a `RuleKeeper` that watches them, and openers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from rucio_fs import tracing
from rucio_fs.callers import Caller
from rucio_fs.config import OpeningConfig, RulesConfig, ScannersConfig
from rucio_fs.did import DID, DIDType, RuleTerms
from rucio_fs.errors import RucioFsError
from rucio_fs.rules import events, keeper, making, using, watcher
from rucio_fs.rules.delivery import Delivery
from rucio_fs.rules.guard import Guard
from rucio_fs.rules.keeper import RuleKeeper
from tests.fake_rules import TERMS, FakeRules, file_at_rem1, files_at_rem1
from tests.fakes import EPOCH_NS, MY, SECOND, FakeCatalogue, did

ANN = Caller(tid=100, uid=1000)
WAIT = 600.0


def now_ns() -> int:
    """The wall clock of these tests goes with trio's."""
    return EPOCH_NS + round(trio.current_time() * SECOND)


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time_ns=now_ns, time=lambda: now_ns() / SECOND)
    for module in (events, keeper, making, using, watcher, tracing):
        monkeypatch.setattr(module, "time", clock)


@dataclass
class Opens:
    """What became of opens that run in the background."""

    here: list[DID] = field(default_factory=list)
    errors: list[RucioFsError] = field(default_factory=list)
    waiting: int = 0

    scopes: list[trio.CancelScope] = field(default_factory=list)

    def cancel_scope(self) -> trio.CancelScope:
        self.scopes.append(trio.CancelScope())
        return self.scopes[-1]

    def give_up(self) -> None:
        """Whoever waits goes away, as on Ctrl-C."""
        for scope in self.scopes:
            scope.cancel()

    def kinds(self) -> set[type[RucioFsError]]:
        return {type(error) for error in self.errors}


@dataclass
class Bench:
    """A keeper that runs, the Rucio it asks, and what has arrived."""

    lake: FakeCatalogue
    rules: FakeRules
    keeper: RuleKeeper
    nursery: trio.Nursery
    arrived: list[DID] = field(default_factory=list)

    def files(self, count: int, prefix: str = "s:f") -> list[DID]:
        return files_at_rem1(self.lake, count, prefix)

    def file(self, name: str = "s:f") -> DID:
        return file_at_rem1(self.lake, name)

    async def open(
        self,
        file: DID,
        *,
        wait: float = WAIT,
        caller: Caller = ANN,
        through: DID | None = None,
    ) -> None:
        await self.keeper.bring(MY, caller, file, through=through, wait=wait)

    def start(
        self,
        *files: DID,
        wait: float = WAIT,
        caller: Caller = ANN,
        through: DID | None = None,
    ) -> Opens:
        """Open files in the background, all at once."""
        opens = Opens()
        for file in files:
            opens.waiting += 1
            self.nursery.start_soon(self._open, opens, file, wait, caller, through)
        return opens

    async def _open(
        self,
        opens: Opens,
        file: DID,
        wait: float,
        caller: Caller,
        through: DID | None,
    ) -> None:
        try:
            with opens.cancel_scope():
                await self.open(file, wait=wait, caller=caller, through=through)
                opens.here.append(file)
        except RucioFsError as exc:
            opens.errors.append(exc)
        finally:
            opens.waiting -= 1

    async def get(self, name: DID, type: DIDType = DIDType.FILE, **more: int) -> None:
        await self.keeper.request(MY, name, type, **more)

    def one(self, name: DID) -> Delivery:
        """What is on its way, found without a note that somebody looked."""
        return self.keeper.board._deliveries[MY, name]

    def states(self) -> dict[str, str]:
        return {facts["did"]: facts["state"] for facts in self.keeper.board.transfers()}

    def told(self) -> list[str]:
        """The events by name."""
        lines = self.keeper.board.events.read(0, 1 << 30).decode().splitlines()
        return [line.split('"event": "')[1].split('"')[0] for line in lines]


Make = Callable[..., Bench]


@pytest.fixture
def clock() -> MockClock:
    """Time goes on when nothing else does.  pytest-trio wants each test to name it."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
def lake() -> FakeCatalogue:
    return FakeCatalogue()


@pytest.fixture
def rules(lake: FakeCatalogue) -> FakeRules:
    return FakeRules(lake, now_ns)


@pytest.fixture
def make(rules: FakeRules, nursery: trio.Nursery) -> Make:
    """Makes benches: ``make(max_waiting=1, grouping=10, terms=..., programs=...)``."""

    def bench(
        *,
        terms: RuleTerms = TERMS,
        programs: Callable[[int], frozenset[str]] = lambda tid: frozenset({"python3"}),
        max_waiting: int = 10_000,
        grouping: int = 0,
        scanners: ScannersConfig | None = None,
    ) -> Bench:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock), "the test does not take the fixture `clock`"
        arrived: list[DID] = []
        made = RuleKeeper(
            rules,
            terms,
            Guard(scanners or ScannersConfig(rate=0), programs),
            OpeningConfig(max_waiting=max_waiting),
            RulesConfig(grouping=grouping),
            nursery,
            lambda delivery: arrived.append(delivery.did),
        )
        nursery.start_soon(made.run)
        return Bench(rules.lake, rules, made, nursery, arrived)

    return bench


@pytest.fixture
def bench(make: Make) -> Bench:
    return make()


__all__ = ["ANN", "MY", "TERMS", "WAIT", "Bench", "Make", "Opens", "did", "now_ns"]
