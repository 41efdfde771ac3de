"""Any order of everything that can happen to a cache, with the disk looked at after each step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rucio_fs.diskcache import maps, segments
from rucio_fs.diskcache.entry import Entry
from rucio_fs.diskcache.store import Store
from tests.unit.diskcache.conftest import (
    BLOCK,
    KIB,
    Sample,
    damage,
    is_right,
    keep,
    kill,
    map_of,
    on_disk,
    right_bytes,
    sample,
)

SAMPLES = [
    sample(f"f{number}", size, number)
    for number, size in enumerate((5, 4 * KIB, 50_000, 200_000, 300_000, 300_000, 700_000))
]
FILES = st.integers(0, len(SAMPLES) - 1)
SPOTS = st.floats(0, 1)
LIMITS = st.sampled_from([0, 200 * KIB, 600 * KIB, 1200 * KIB, 1 << 30])
SLACK = 16 * BLOCK
"""Bytes: tables that the filesystem makes when it writes pages back, after it was asked."""


class Cache(RuleBasedStateMachine):
    """*held* are entries in use, each as often as it is listed.

    Of *suspect* files wrong bytes may be read: they were damaged in this boot.  Of *rotten* ones
    some may be lost.
    """

    parent: Path

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=self.parent))
        self.boot = 0
        self.limit = 600 * KIB
        self.held: list[tuple[Entry, Sample]] = []
        self.suspect: set[str] = set()
        self.rotten: set[str] = set()
        maps.this_boot, self._this_boot = lambda: str(self.boot), maps.this_boot
        self.store = Store.open(self.directory, self.limit, 0)

    def teardown(self) -> None:
        kill(self.store)
        maps.this_boot = self._this_boot
        shutil.rmtree(self.directory)

    def run(self, *steps: Callable[[], Awaitable[object]]) -> None:
        """All at once, while the limits are watched."""

        async def watch(step: Callable[[], Awaitable[object]]) -> None:
            await step()
            self.limits_are_kept()

        async def together() -> None:
            async with trio.open_nursery() as nursery:
                for step in steps:
                    nursery.start_soon(watch, step)

        trio.run(together)

    # --- what users do ---------------------------------------------------------------------------

    @rule(numbers=st.lists(FILES, min_size=1, max_size=3))
    def open(self, numbers: list[int]) -> None:
        async def one(what: Sample) -> None:
            entry = await self.store.use(what.file)
            assert entry is not None
            self.held.append((entry, what))

        self.run(*(partial(one, SAMPLES[number]) for number in numbers))

    @precondition(lambda self: self.held)
    @rule(
        places=st.lists(st.tuples(SPOTS, SPOTS, SPOTS), min_size=1, max_size=5),
        is_cleared=st.booleans(),
    )
    def write(self, places: list[tuple[float, float, float]], is_cleared: bool) -> None:
        async def one(spot: float, first: float, last: float) -> None:
            entry, what = self._pick(spot)
            start, end = sorted((int(first * len(what.data)), int(last * len(what.data))))
            before = entry._generation
            is_kept = await keep(self.store, entry, what, start, end)
            if is_kept and before == entry._generation:
                assert entry.stored.covers(start, end)

        steps: list[Callable[[], Awaitable[object]]] = [partial(one, *place) for place in places]
        if is_cleared:
            steps.insert(1, self.store.clear)
        self.run(*steps)

    @precondition(lambda self: self.held)
    @rule(spot=SPOTS, first=SPOTS, last=SPOTS)
    def read(self, spot: float, first: float, last: float) -> None:
        async def one() -> None:
            entry, what = self._pick(spot)
            if what.key in self.suspect:
                return
            start, end = sorted((int(first * len(what.data)), int(last * len(what.data))))
            claims = entry.stored.covers(start, end)
            is_here = await is_right(entry, what, [(start, end)])
            assert is_here is claims or what.key in self.rotten

        self.run(one)

    @precondition(lambda self: self.held)
    @rule(spots=st.lists(SPOTS, min_size=1, max_size=3))
    def close_files(self, spots: list[float]) -> None:
        gone = [self._pop(spot) for spot in spots[: len(self.held)]]
        self.run(*(partial(self.store.give_back, entry) for entry in gone))

    @rule()
    def clear(self) -> None:
        self.run(self.store.clear)
        self.suspect.clear()
        self.rotten.clear()
        assert all(entry.stored.nbytes == 0 for entry, _ in self.held)
        assert all(self.store.cached_bytes(one.file) == 0 for one in SAMPLES)

    @rule()
    def save(self) -> None:
        async def all_of_it() -> None:
            for entry in list(self.store._open.values()):
                await entry.save()

        self.run(all_of_it)

    @rule(number=FILES)
    def verify(self, number: int) -> None:
        self.run(self.store.verify, lambda: self._look(SAMPLES[number]))
        self.suspect.clear()
        self.rotten.clear()

    async def _look(self, what: Sample) -> None:
        entry = await self.store.use(what.file)
        assert entry is not None
        if what.key not in self.suspect:
            await right_bytes(entry, what)
        await self.store.give_back(entry)

    # --- what happens to it ----------------------------------------------------------------------

    @rule(limit=LIMITS)
    def restart(self, limit: int) -> None:
        claims = self._claims()
        self.run(self.store.close)
        self._begin(limit)
        assert self._claims() == claims, "nothing is lost"
        self._make_room()

    @rule(limit=LIMITS, is_reboot=st.booleans())
    def crash(self, limit: int, is_reboot: bool) -> None:
        claims = self._claims()
        kill(self.store)
        if is_reboot:
            self.boot += 1
            self.suspect.clear()
        self._begin(limit)
        assert all(self._claims()[key] <= claims[key] for key in claims)
        self._make_room()

    @rule(number=FILES, spot=SPOTS)
    def bit_rots(self, number: int, spot: float) -> None:
        what = SAMPLES[number]
        path = self.store._path(what.key)
        entry = self.store._open.get(what.key)
        found = maps.read(map_of(path))
        there = list(entry.stored) if entry else list(found.segments) if found else []
        if there:
            segment = there[int(spot * (len(there) - 1))]
            damage(path, segment.start + int(spot * (segment.end - segment.start - 1)))
            self.suspect.add(what.key)
            self.rotten.add(what.key)

    def _begin(self, limit: int) -> None:
        self.held.clear()
        self.limit = limit
        self.store = Store.open(self.directory, limit, 0)

    def _make_room(self) -> None:
        async def once() -> None:
            await self.store._evict(0)

        trio.run(once)

    def _claims(self) -> dict[str, int]:
        return {one.key: self.store.cached_bytes(one.file) for one in SAMPLES}

    def _pop(self, spot: float) -> Entry:
        return self.held.pop(int(spot * (len(self.held) - 1)))[0]

    def _pick(self, spot: float) -> tuple[Entry, Sample]:
        return self.held[int(spot * (len(self.held) - 1))]

    # --- what is always so -----------------------------------------------------------------------

    @invariant()
    def limits_are_kept(self) -> None:
        assert self.store.used <= self.limit
        found = on_disk(self.directory)
        assert found <= max(self.limit, BLOCK), "the lock alone is always there"

    @invariant()
    def what_is_there_counts(self) -> None:
        assert on_disk(self.directory) <= self.store.used + BLOCK + SLACK
        assert self.store._reserved == 0
        assert self.store._resting_bytes == sum(
            one.occupied.nbytes for one in self.store._resting.values()
        )

    @invariant()
    def what_is_open_stays(self) -> None:
        for entry, what in self.held:
            assert os.fstat(entry._fd).st_nlink == 1
            assert self.store._open[what.key] is entry
            assert os.fstat(entry._fd).st_size == len(what.data)
        users = sum(entry.users for entry in self.store._open.values())
        assert users == len(self.held)
        assert not self.store._open.keys() & self.store._resting.keys()

    @invariant()
    def nothing_is_there_that_nobody_knows(self) -> None:
        known = {*self.store._open, *self.store._resting}
        found = {path.name for path in self.directory.glob("??/*") if "." not in path.name}
        assert found == known


@pytest.mark.parametrize("largest", [64 * KIB, 8 << 20])
def test_any_order_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: list[str], largest: int
) -> None:
    monkeypatch.setattr(segments, "LARGEST", largest)
    monkeypatch.setattr(Cache, "parent", tmp_path, raising=False)
    run_state_machine_as_test(
        Cache, settings=settings(max_examples=40, stateful_step_count=40, deadline=None)
    )
