"""A reader that goes on at a better place: no read fails for that, and no source is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from rucio_fs.errors import Corrupt, NoSource, RucioFsError, TooSlow, Unreachable
from rucio_fs.relay import Relay
from rucio_fs.sources.base import Data
from tests.unit.streams.conftest import Bench, noise, read_all
from tests.unit.streams.storage_server import Storage

SIZE = 1000
DATA = noise(SIZE)


@dataclass(eq=False)
class Place:
    """A source whose reads wait for *gate*, and then fail with *error*."""

    name: str
    gate: trio.Event | None = None
    error: RucioFsError | None = None
    size: int = SIZE
    reads: int = 0
    reading: int = 0
    closed: int = 0

    async def read(self, offset: int, size: int) -> Data:
        assert not self.closed, f"{self.name} is read after it was closed"
        self.reads += 1
        self.reading += 1
        try:
            await trio.lowlevel.checkpoint()
            if self.gate is not None:
                await self.gate.wait()
            assert not self.closed, f"{self.name} is closed under a read"
        finally:
            self.reading -= 1
        if self.error is not None:
            raise self.error.copy()
        return DATA[offset : offset + size]

    def close(self) -> None:
        assert not self.reading
        self.closed += 1

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass
class Race:
    """A relay, and all places that it has been given."""

    relay: Relay
    far: Place
    again: list[Place] = field(default_factory=list)  # by `reopen`
    gate: trio.Event | None = None  # that `reopen` waits for
    error: RucioFsError | None = None  # that it raises
    told: int = 0  # reads

    def switch(self, place: Place) -> Place:
        self.relay.switch(place)
        return place

    async def read(self) -> None:
        assert bytes(await self.relay.read(100, 50)) == DATA[100:150]


@pytest.fixture
def race() -> Iterator[Race]:
    made = make()
    yield made
    made.relay.close()
    closed = [one.closed for one in (made.far, *made.again)]
    assert closed == [1] * len(closed)


def make() -> Race:
    far = Place("far")

    async def reopen() -> Place:
        if made.gate is not None:
            await made.gate.wait()
        if made.error is not None:
            raise made.error
        made.again.append(Place(f"far again {len(made.again)}"))
        return made.again[-1]

    def on_read() -> None:
        made.told += 1

    made = Race(Relay(far, reopen, on_read), far)
    return made


async def fails(race: Race, kind: type[RucioFsError]) -> None:
    with pytest.raises(RucioFsError) as caught:
        await race.read()
    assert type(caught.value) is kind


# --- where the bytes come from -------------------------------------------------------------------


async def test_it_reads_where_it_began(race: Race) -> None:
    assert race.relay.size == SIZE
    assert "far" in repr(race.relay)
    await race.read()
    await race.read()
    assert (race.far.reads, race.told) == (2, 2)
    assert not race.relay.has_switched


async def test_it_goes_on_at_the_better_place(race: Race) -> None:
    await race.read()
    near = race.switch(Place("near"))
    assert race.relay.has_switched
    assert (race.far.closed, near.closed) == (1, 0)
    await race.read()
    assert (race.far.reads, near.reads) == (1, 1)
    assert "near" in repr(race.relay)
    race.relay.close()
    assert near.closed == 1


async def test_what_is_being_read_goes_on_where_it_is(race: Race) -> None:
    race.far.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        near = race.switch(Place("near"))
        assert race.far.closed == 0
        await race.read()
        assert near.reads == 1
        race.far.gate.set()
    assert race.far.closed == 1
    assert race.far.reads == 2


async def test_a_third_place(race: Race) -> None:
    near = race.switch(Place("near"))
    nearer = race.switch(Place("nearer"))
    assert (near.closed, nearer.closed) == (1, 0)
    await race.read()
    race.relay.close()
    assert nearer.closed == 1


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Unreachable("x"), TooSlow("x"), Corrupt("x"), NoSource("x")])
async def test_a_failure_where_it_began_is_the_callers(race: Race, error: RucioFsError) -> None:
    race.far.error = error
    await fails(race, type(error))
    assert race.again == []
    race.far.error = None
    await race.read()


@pytest.mark.parametrize("error", [Unreachable("x"), TooSlow("x"), Corrupt("x")])
async def test_a_better_place_that_fails_is_left(
    race: Race, error: RucioFsError, caplog: pytest.LogCaptureFixture
) -> None:
    near = race.switch(Place("near", error=error))
    await race.read()
    assert [near.reads, near.closed] == [1, 1]
    assert [one.reads for one in race.again] == [1]
    assert not race.relay.has_switched, "so that another copy is taken when it comes"
    assert "near" in caplog.text
    await race.read()
    assert [one.reads for one in race.again] == [2]
    assert near.reads == 1


async def test_and_fails_where_it_began_too(race: Race) -> None:
    near = race.switch(Place("near", error=Unreachable("x")))
    race.error = NoSource("nobody has it")
    await fails(race, NoSource)
    assert near.closed == 0
    race.error = None
    await race.read()
    assert near.closed == 1
    race.again[0].error = TooSlow("x")
    await fails(race, TooSlow)
    assert len(race.again) == 1


async def test_many_reads_fail_there_at_once(race: Race) -> None:
    near = race.switch(Place("near", gate=trio.Event(), error=Unreachable("x")))
    race.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        assert near.gate is not None
        near.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        race.gate.set()
    assert near.closed == 1
    assert [one.closed for one in race.again].count(0) == 1


async def test_a_read_that_fails_where_it_was_is_done_at_the_better_place(
    race: Race, caplog: pytest.LogCaptureFixture
) -> None:
    race.far.gate, race.far.error = trio.Event(), Unreachable("x")
    near = Place("near")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        race.switch(near)
        race.far.gate.set()
    assert (near.reads, race.far.closed, race.again) == (1, 1, [])
    assert race.relay.has_switched
    assert caplog.text == "", "the better place has not failed"
    race.relay.close()
    assert near.closed == 1


async def test_wrong_bytes_are_not_gone_over(race: Race) -> None:
    """Who has been given wrong ones must not go on with the right ones of another place."""
    race.far.gate, race.far.error = trio.Event(), Corrupt("what was read is wrong")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, race, Corrupt)
        await trio.testing.wait_all_tasks_blocked()
        near = race.switch(Place("near"))
        race.far.gate.set()
    race.relay.close()
    assert near.closed == 1


async def test_both_places_fail_one_after_the_other(race: Race) -> None:
    race.far.gate, race.far.error = trio.Event(), Unreachable("x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        near = race.switch(Place("near", error=Unreachable("x")))
        race.far.gate.set()
    assert (near.closed, len(race.again)) == (1, 1)


async def test_a_copy_comes_while_it_goes_back(race: Race) -> None:
    near = race.switch(Place("near", error=Unreachable("x")))
    race.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        nearer = race.switch(Place("nearer"))
        race.gate.set()
    assert (near.closed, nearer.reads) == (1, 1)
    assert [one.closed for one in race.again] == [1], "it is not needed any more"
    race.relay.close()
    assert nearer.closed == 1


async def test_a_caller_who_gives_up_holds_nothing(race: Race) -> None:
    race.far.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        near = race.switch(Place("near"))
        nursery.cancel_scope.cancel()
    assert race.far.closed == 1
    race.relay.close()
    assert near.closed == 1


# --- closing -------------------------------------------------------------------------------------


async def test_it_is_closed_once(race: Race) -> None:
    race.relay.close()
    race.relay.close()
    assert race.far.closed == 1
    near = race.switch(Place("near"))
    assert near.closed == 1, "it came too late"


async def test_closing_waits_for_reads(race: Race) -> None:
    race.far.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        assert race.far.closed == 0
        race.far.gate.set()
    assert race.far.closed == 1


async def test_closing_while_both_are_read(race: Race) -> None:
    race.far.gate = trio.Event()
    near = Place("near", gate=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        race.switch(near)
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        assert near.gate is not None
        near.gate.set()
        race.far.gate.set()
    assert (race.far.closed, near.closed) == (1, 1)


async def test_closing_while_it_goes_back(race: Race) -> None:
    near = race.switch(Place("near", error=Unreachable("x")))
    race.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, race, Unreachable)
        await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        race.gate.set()
    assert near.closed == 1
    assert [one.closed for one in race.again] == [1]


async def test_a_read_that_fails_after_closing_opens_nothing(race: Race) -> None:
    near = race.switch(Place("near", gate=trio.Event(), error=Unreachable("x")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, race, Unreachable)
        await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        assert near.gate is not None
        near.gate.set()
    assert near.closed == 1
    assert race.again == []


async def test_the_second_try_of_a_read_is_not_closed_under_it(race: Race) -> None:
    race.switch(Place("near", error=Unreachable("x")))
    gate = trio.Event()

    async def reopen() -> Place:
        race.again.append(Place("far again", gate=gate))
        return race.again[-1]

    race.relay._reopen = reopen
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        nearer = race.switch(Place("nearer"))
        assert race.again[0].closed == 0
        race.relay.close()
        gate.set()
    assert race.again[0].closed == 1
    assert nearer.closed == 1


# --- anything ------------------------------------------------------------------------------------

STEPS = st.sampled_from(["read", "read", "switch", "bad", "go", "go", "close"])


@given(steps=st.lists(STEPS, max_size=25))
@settings(max_examples=150, deadline=None)
async def test_whatever_happens_each_place_is_closed_once(steps: list[str]) -> None:
    """And none while it is read, and none is read afterwards: see `Place`."""
    race = make()
    gates: list[trio.Event] = []
    places = [race.far]
    outcomes: list[str] = []

    def gated(place: Place) -> Place:
        gates.append(trio.Event())
        place.gate = gates[-1]
        places.append(place)
        return place

    async def reopen() -> Place:
        await trio.lowlevel.checkpoint()
        return gated(Place("again"))

    async def read() -> None:
        try:
            await race.read()
            outcomes.append("right")
        except Unreachable:
            outcomes.append("failed")

    race.relay._reopen = reopen
    reads = 0
    async with trio.open_nursery() as nursery:
        for step in steps:
            match step:
                case "read" if not race.relay.is_closed:
                    reads += 1
                    nursery.start_soon(read)
                case "switch":
                    race.switch(gated(Place("near")))
                case "bad":
                    race.switch(gated(Place("bad", error=Unreachable("x"))))
                case "go" if gates:
                    gates.pop(0).set()
                case "close":
                    race.relay.close()
            await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        while gates or len(outcomes) < reads:
            for gate in gates:
                gate.set()
            gates.clear()
            await trio.testing.wait_all_tasks_blocked()
    assert [place.closed for place in places] == [1] * len(places)
    assert len(outcomes) == reads


# --- with streams --------------------------------------------------------------------------------


async def test_a_stream_is_left_for_a_copy_and_come_back_to(bench: Bench, storage: Storage) -> None:
    data = noise(300_000)
    file = bench.put(data, storage)

    async def reopen() -> Any:
        return await bench.open(file)

    relay = Relay(await reopen(), reopen, lambda: None)
    assert bytes(await relay.read(0, 1000)) == data[:1000]

    class Copy(Place):
        async def read(self, offset: int, size: int) -> Data:
            await super().read(0, 0)
            return data[offset : offset + size]

    near = Copy("near", size=len(data))
    relay.switch(near)
    await bench.settled()
    assert bench.streams.status()["files"] == 0
    assert bench.lent == 0
    assert bytes(await relay.read(1000, 1000)) == data[1000:2000]
    near.error = Unreachable("the disk is gone")
    assert await read_all(relay) == data
    assert near.closed == 1
    relay.close()
    await bench.settled()
    assert bench.streams.status()["files"] == 0
