"""Opening a file that is elsewhere: what is looked at in which order, until its bytes are read."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.availability import Bring, Policy, Site
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.config import CacheConfig
from rucio_fs.did import DID, FileReplicas, Replica
from rucio_fs.errors import Corrupt, NoReplica, NotYetHere, OnTape, QuotaExceeded
from rucio_fs.opening import Bringing, Opener
from rucio_fs.rules.using import Using
from rucio_fs.sources.local import LocalSource
from rucio_fs.tracing import Tracer
from tests.fake_rules import TERMS
from tests.fakes import MY
from tests.unit.rules.conftest import ANN, Bench, Make

DATA = b"hello\n"
BRINGS = Policy(brings=True)


@dataclass
class Desk:
    """An opener over a keeper's bench; what arrives at COLO is a file in *storage*."""

    bench: Bench
    opener: Opener
    using: Using
    cache: CachedCatalogue
    storage: Path

    def file(self, name: str = "s:f") -> DID:
        return self.bench.lake.file(name, DATA, replicas={"REM1": f"davs://rem1/{name}"})

    def path(self, file: DID) -> Path:
        return self.storage / file.name

    def arrive(self, file: DID, data: bytes = DATA) -> None:
        self.path(file).write_bytes(data)
        self.bench.rules.arrive(file)

    async def read(self, file: DID, *, nonblocking: bool = False) -> bytes:
        opened = await self.opener.open(MY, file, caller=ANN, nonblocking=nonblocking)
        try:
            return bytes(await opened.source.read(0, 100))
        finally:
            opened.close()


MakeDesk = Callable[..., Desk]


@pytest.fixture
def make_desk(make: Make, tmp_path: Path, nursery: trio.Nursery) -> MakeDesk:
    def desk(*, policy: Policy = BRINGS, wait: float = 600.0) -> Desk:
        bench = make()
        cache = CachedCatalogue(bench.lake, CacheConfig(), nursery)
        # As in a mount: what arrives makes the catalogue ask again.
        bench.keeper.board.on_arrival = lambda one: cache.forget_replicas(one.did)
        bench.rules.pfn = lambda did: (tmp_path / did.name).as_uri()
        using = Using(bench.rules, bench.keeper.finder, TERMS, bench.keeper.board.events)
        opener = Opener(
            cache,
            Site.of("site", "COLO", {}, (PurePosixPath(tmp_path),)),
            timeout=math.inf,  # the clock jumps while a thread is at work
            now_ttl=2.0,
            policy=policy,
            bringing=Bringing(bench.keeper, using, wait) if policy.brings else None,
            tracer=Tracer(bench.rules, "root", "site"),
        )
        return Desk(bench, opener, using, cache, tmp_path)

    return desk


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    return make_desk()


async def test_what_is_here_is_opened_without_rules(clock: MockClock, desk: Desk) -> None:
    file = desk.file()
    desk.arrive(file)
    assert await desk.read(file) == DATA
    assert desk.bench.lake.calls == {"replicas": 1}
    assert desk.bench.rules.calls == {}


async def test_what_is_elsewhere_is_brought_and_read(clock: MockClock, desk: Desk) -> None:
    file = desk.file()
    desk.bench.nursery.start_soon(_later, 20, desk.arrive, file)
    assert await desk.read(file) == DATA
    assert trio.current_time() == pytest.approx(21, abs=3)
    assert len(desk.bench.rules.ids(file)) == 1
    # Where it was before, and where it is now that it has come.
    assert desk.bench.lake.calls == {"replicas": 2}


async def _later(seconds: float, act: Callable[[DID], object], file: DID) -> None:
    await trio.sleep(seconds)
    act(file)


async def test_a_file_that_comes_for_somebody_else_is_waited_for(
    clock: MockClock, desk: Desk
) -> None:
    file = desk.file()
    rule_id = desk.bench.rules.add(file, account="alice")
    desk.bench.nursery.start_soon(_later, 20, desk.arrive, file)
    assert await desk.read(file) == DATA
    assert desk.bench.rules.ids() == [rule_id]


async def test_nobody_who_does_not_want_to_is_made_wait(clock: MockClock, desk: Desk) -> None:
    file = desk.file()
    with pytest.raises(NotYetHere) as caught:
        await desk.read(file, nonblocking=True)
    assert caught.value.errno == errno.EAGAIN
    assert trio.current_time() == 0
    await trio.sleep(1)
    assert len(desk.bench.rules.ids(file)) == 1, "it comes all the same"
    desk.arrive(file)
    await trio.sleep(40)
    assert await desk.read(file, nonblocking=True) == DATA


async def test_the_wait_is_the_configured_one(clock: MockClock, make_desk: MakeDesk) -> None:
    desk = make_desk(wait=100.0)
    with pytest.raises(NotYetHere, match="not here after 100 s"):
        await desk.read(desk.file())
    assert trio.current_time() == pytest.approx(100)


async def test_a_refusal_is_told(clock: MockClock, desk: Desk) -> None:
    desk.bench.rules.quota = 1
    with pytest.raises(QuotaExceeded):
        await desk.read(desk.file())


# --- what has come and cannot be seen yet --------------------------------------------------------


async def test_a_file_that_is_seen_a_moment_later(
    clock: MockClock, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS remembers for a while that it was not there."""
    file = desk.file()
    looks = 0
    really_open = LocalSource.open

    async def see(path: str, size: int, timeout: float) -> LocalSource:
        nonlocal looks
        looks += 1
        if looks == 3:
            desk.path(file).write_bytes(DATA)
        return await really_open(path, size, timeout)

    monkeypatch.setattr(LocalSource, "open", see)
    desk.bench.nursery.start_soon(_later, 10, desk.bench.rules.arrive, file)
    assert await desk.read(file) == DATA
    assert looks == 3
    assert trio.current_time() >= 12, "a second between two looks"


@pytest.mark.parametrize("data", [None, b"short"])
async def test_a_file_that_is_never_seen_is_an_alarm(
    clock: MockClock, desk: Desk, data: bytes | None
) -> None:
    file = desk.file()
    if data is not None:
        desk.path(file).write_bytes(data)
    desk.bench.nursery.start_soon(_later, 10, desk.bench.rules.arrive, file)
    with pytest.raises(Corrupt, match="local copy cannot be used"):
        await desk.read(file)
    assert trio.current_time() >= 12, "after a few looks"
    assert len(desk.bench.rules.ids(file)) == 1


async def test_what_comes_and_goes_is_not_chased_for_ever(clock: MockClock, desk: Desk) -> None:
    """Its RSE is closed for reading: AVAILABLE, but nobody lists it."""
    file = desk.file()
    really_where = desk.bench.lake._where

    def hide(did: DID) -> FileReplicas:
        found = really_where(did)
        replicas = tuple(one for one in found.replicas if one.rse != "COLO")
        return replace(found, replicas=replicas, states={"REM1": "AVAILABLE"})

    desk.bench.lake._where = hide  # type: ignore[method-assign]
    desk.arrive(file)
    with pytest.raises(NotYetHere, match="does not list it"):
        await desk.read(file)
    assert desk.bench.rules.calls["add_rules"] == 0
    assert desk.bench.rules.calls["states_at"] <= 5


# --- what is not brought -------------------------------------------------------------------------


async def test_where_nothing_is_brought_no_rule_is_asked_for(
    clock: MockClock, make_desk: MakeDesk
) -> None:
    """opening.policy = stream"""
    desk = make_desk(policy=Policy(brings=False))
    file, coming = desk.file(), desk.file("s:coming")
    desk.bench.rules.add(coming)
    for one in (file, coming):
        with pytest.raises(NotYetHere):
            await desk.read(one)
    assert desk.bench.rules.calls == {}


async def test_tapes_are_mounted_for_nobody_who_opens(
    clock: MockClock, make_desk: MakeDesk
) -> None:
    desk = make_desk()
    file = desk.bench.lake.file("s:old", DATA)
    tape = Replica("TAPE", "davs://tape/old", is_tape=True)
    desk.bench.lake._records[file].replicas.append((tape, "AVAILABLE"))
    with pytest.raises(OnTape, match="TAPE"):
        await desk.read(file)
    assert desk.bench.rules.calls == {}

    desk = make_desk(policy=Policy(brings=True, recalls=True))
    desk.bench.nursery.start_soon(_later, 20, desk.arrive, file)
    assert await desk.read(file) == DATA


async def test_what_is_nowhere_is_not_asked_for(clock: MockClock, desk: Desk) -> None:
    with pytest.raises(NoReplica):
        await desk.read(desk.bench.lake.file("s:lost", DATA))
    assert desk.bench.rules.calls == {}


async def test_a_path_that_must_not_be_opened_brings_nothing(clock: MockClock, desk: Desk) -> None:
    file = desk.file()
    desk.bench.lake.replica(file, "COLO", "file:///etc/passwd")
    with pytest.raises(Corrupt, match="not opened"):
        await desk.read(file)
    assert desk.bench.rules.calls == {}


async def test_looking_brings_nothing(clock: MockClock, desk: Desk) -> None:
    prospect = await desk.opener.prospect(MY, desk.file())
    assert (prospect.decision, prospect.error) == (Bring(("REM1",)), None)
    assert desk.bench.rules.calls == {}


# --- use and traces ------------------------------------------------------------------------------


async def test_a_file_is_in_use_from_its_open_to_its_close(clock: MockClock, desk: Desk) -> None:
    file = desk.file()
    desk.bench.nursery.start_soon(_later, 20, desk.arrive, file)
    scope = trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await desk.opener.open(MY, file)

    desk.bench.nursery.start_soon(give_up)
    await trio.sleep(1)
    assert desk.using._users == {(MY, file): 1}, "while it is waited for, too"
    scope.cancel()
    await trio.sleep(1)
    assert desk.using._users == {}
    opened = await desk.opener.open(MY, file)
    assert desk.using._users == {(MY, file): 1}
    opened.close()
    assert desk.using._users == {}


async def test_what_fails_is_not_in_use_and_leaves_no_trace(clock: MockClock, desk: Desk) -> None:
    desk.bench.rules.quota = 1
    with pytest.raises(QuotaExceeded):
        await desk.read(desk.file())
    assert desk.using._users == {}
    tracer = desk.opener._tracer
    assert tracer is not None
    assert len(tracer._queue) == 0


async def test_a_close_leaves_a_trace(clock: MockClock, desk: Desk) -> None:
    file = desk.file()
    desk.arrive(file)
    group = desk.bench.lake.dataset("s:d", file)
    opened = await desk.opener.open(MY, file, through=group)
    tracer = desk.opener._tracer
    assert tracer is not None
    assert len(tracer._queue) == 0
    opened.close()
    ((who, trace),) = tracer._queue
    assert who == MY
    expected = {"filename": "f", "dataset": "d", "remoteSite": "COLO", "filesize": len(DATA)}
    assert {key: trace[key] for key in expected} == expected
