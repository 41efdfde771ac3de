"""A reader that goes on at a better place: no read fails for that, and no source is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from rucio_fs.errors import Corrupt, NoSource, RucioFsError, TooSlow, Unreachable
from rucio_fs.relay import Relay
from rucio_fs.sources.base import Data, Source
from rucio_fs.streams.reader import StreamSource
from tests.unit.streams.conftest import (
    FILE,
    KIB,
    MIB,
    Bench,
    MakeBench,
    noise,
    read_all,
    until,
)
from tests.unit.streams.storage_server import Fault, Storage

SIZE = 1000
DATA = noise(SIZE)


@dataclass(eq=False)
class Place:
    """A source whose reads wait for *gate*, and then fail with *error*.

    Asked whether a copy agrees with what it gave, it does what *compares* does.
    """

    name: str
    gate: trio.Event | None = None
    error: RucioFsError | None = None
    size: int = SIZE
    compares: Callable[[Source], Awaitable[bool]] | None = None
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

    async def agrees_with(self, copy: Source) -> bool:
        return self.compares is None or await self.compares(copy)

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

    async def change_over(self, place: Place) -> Place:
        await self.relay.change_over(place)
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
    near = await race.change_over(Place("near"))
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
        near = await race.change_over(Place("near"))
        assert race.far.closed == 0
        await race.read()
        assert near.reads == 1
        race.far.gate.set()
    assert race.far.closed == 1
    assert race.far.reads == 2


async def test_a_third_place(race: Race) -> None:
    near = await race.change_over(Place("near"))
    nearer = await race.change_over(Place("nearer"))
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
    near = await race.change_over(Place("near", error=error))
    await race.read()
    assert [near.reads, near.closed] == [1, 1]
    assert [one.reads for one in race.again] == [1]
    assert not race.relay.has_switched, "so that another copy is taken when it comes"
    assert "near" in caplog.text
    await race.read()
    assert [one.reads for one in race.again] == [2]
    assert near.reads == 1


async def test_and_fails_where_it_began_too(race: Race) -> None:
    near = await race.change_over(Place("near", error=Unreachable("x")))
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
    near = await race.change_over(Place("near", gate=trio.Event(), error=Unreachable("x")))
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
        await race.change_over(near)
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
        near = await race.change_over(Place("near"))
        race.far.gate.set()
    race.relay.close()
    assert near.closed == 1


async def test_both_places_fail_one_after_the_other(race: Race) -> None:
    race.far.gate, race.far.error = trio.Event(), Unreachable("x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        near = await race.change_over(Place("near", error=Unreachable("x")))
        race.far.gate.set()
    assert (near.closed, len(race.again)) == (1, 1)


async def test_a_copy_comes_while_it_goes_back(race: Race) -> None:
    near = await race.change_over(Place("near", error=Unreachable("x")))
    race.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        nearer = await race.change_over(Place("nearer"))
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
        near = await race.change_over(Place("near"))
        nursery.cancel_scope.cancel()
    assert race.far.closed == 1
    race.relay.close()
    assert near.closed == 1


# --- whether the better place has the same -------------------------------------------------------


async def test_a_place_that_does_not_agree_is_not_gone_over_to(race: Race) -> None:
    asked: list[Source] = []

    async def compares(copy: Source) -> bool:
        asked.append(copy)
        return False

    race.far.compares = compares
    near = Place("near")
    assert not await race.relay.change_over(near)
    assert asked == [near]
    assert (near.closed, race.far.closed, race.relay.has_switched) == (1, 0, False)
    await race.read()
    assert race.far.reads == 1


async def test_a_place_that_cannot_be_compared_is_not_gone_over_to(race: Race) -> None:
    async def compares(copy: Source) -> bool:
        raise Unreachable("near is gone")

    race.far.compares = compares
    near = Place("near")
    with pytest.raises(Unreachable):
        await race.relay.change_over(near)
    assert (near.closed, race.far.closed, race.relay.has_switched) == (1, 0, False)
    await race.read()


async def test_reading_goes_on_while_it_is_compared(race: Race) -> None:
    gate = trio.Event()

    async def compares(copy: Source) -> bool:
        await gate.wait()
        return True

    race.far.compares = compares
    near, late = Place("near"), Place("late")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.relay.change_over, near)
        nursery.start_soon(race.relay.change_over, late)
        await trio.testing.wait_all_tasks_blocked()
        await race.read()
        assert (race.far.reads, near.reads) == (1, 0)
        gate.set()
    race.relay.close()
    assert (near.closed, late.closed) == (1, 1)


async def test_closing_while_it_is_compared(race: Race) -> None:
    gate = trio.Event()

    async def compares(copy: Source) -> bool:
        await gate.wait()
        return True

    race.far.compares = compares
    near = Place("near")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.relay.change_over, near)
        await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        gate.set()
    assert (near.closed, near.reads) == (1, 0)


async def test_what_a_left_place_gives_is_read_again(race: Race) -> None:
    """It was not there yet when the two were compared."""
    race.far.gate = trio.Event()
    near = Place("near")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        await race.change_over(near)
        race.far.gate.set()
    assert (race.far.reads, near.reads, race.far.closed) == (1, 1, 1)
    race.relay.close()
    assert near.closed == 1


# --- closing -------------------------------------------------------------------------------------


async def test_it_is_closed_once(race: Race) -> None:
    race.relay.close()
    race.relay.close()
    assert race.far.closed == 1
    near = await race.change_over(Place("near"))
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
        await race.change_over(near)
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        assert near.gate is not None
        near.gate.set()
        race.far.gate.set()
    assert (race.far.closed, near.closed) == (1, 1)


async def test_closing_while_it_goes_back(race: Race) -> None:
    near = await race.change_over(Place("near", error=Unreachable("x")))
    race.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, race, Unreachable)
        await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        race.gate.set()
    assert near.closed == 1
    assert [one.closed for one in race.again] == [1]


async def test_a_read_that_fails_after_closing_opens_nothing(race: Race) -> None:
    near = await race.change_over(Place("near", gate=trio.Event(), error=Unreachable("x")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, race, Unreachable)
        await trio.testing.wait_all_tasks_blocked()
        race.relay.close()
        assert near.gate is not None
        near.gate.set()
    assert near.closed == 1
    assert race.again == []


async def test_the_second_try_of_a_read_is_not_closed_under_it(race: Race) -> None:
    await race.change_over(Place("near", error=Unreachable("x")))
    gate = trio.Event()

    async def reopen() -> Place:
        race.again.append(Place("far again", gate=gate))
        return race.again[-1]

    race.relay._reopen = reopen
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.read)
        await trio.testing.wait_all_tasks_blocked()
        nearer = await race.change_over(Place("nearer"))
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
                    await race.change_over(gated(Place("near")))
                case "bad":
                    await race.change_over(gated(Place("bad", error=Unreachable("x"))))
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
    assert await relay.change_over(near)
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


class Near(Place):
    """A copy of the whole file."""

    def __init__(self, data: bytes, **more: Any) -> None:
        super().__init__("near", size=len(data), **more)
        self.data = data

    async def read(self, offset: int, size: int) -> Data:
        await super().read(offset, size)
        return self.data[offset : offset + size]


@dataclass
class Streamed:
    """A file at a storage whose bytes are wrong at first, and how it is read."""

    bench: Bench
    storage: Storage
    data: bytes = field(default_factory=lambda: noise(2 * MIB))

    def __post_init__(self) -> None:
        self.file = self.bench.put(self.data, self.storage)

    def spoil(self) -> None:
        self.storage.files["/f"] = b"?" + self.data[1:]

    async def open(self) -> StreamSource:
        return await self.bench.open(self.file)

    async def relay(self) -> Relay:
        return Relay(await self.open(), self.open, lambda: None)


async def is_corrupt(relay: Relay, offset: int) -> bool:
    try:
        await relay.read(offset, 1000)
    except Corrupt:
        return True
    return False


@pytest.fixture
def streamed(make_bench: MakeBench, storage: Storage) -> Streamed:
    return Streamed(make_bench(window=0), storage)


async def test_wrong_bytes_do_not_go_on_with_right_ones(streamed: Streamed) -> None:
    streamed.spoil()
    relay, other = await streamed.relay(), await streamed.relay()
    await relay.read(0, MIB)
    near = [Near(streamed.data) for _ in range(2)]
    assert not await relay.change_over(near[0])
    assert not await other.change_over(near[1]), "the kernel may have shown them to him"
    assert [one.closed for one in near] == [1, 1]
    assert await is_corrupt(relay, MIB)
    assert await is_corrupt(other, MIB)
    ((_, message),) = streamed.bench.wrong
    assert message.startswith("s:f from RSE0: the copy that has come has other bytes between 0 and")
    assert not streamed.bench.streams.may_be_kept(FILE)
    for one in (relay, other):
        one.close()


async def test_wrong_bytes_that_were_given_on_their_way_are_compared(streamed: Streamed) -> None:
    streamed.spoil()
    streamed.storage.usual = Fault(stalls=200_000)
    relay, other = await streamed.relay(), await streamed.relay()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(is_corrupt, other, 0)
        await until(streamed.storage, lambda found: bool(found.requests))
        nursery.start_soon(other.read, 0, MIB)
        await until(streamed.storage, lambda found: found.sent >= 200_000)
        await relay.read(0, 1000)
        assert not await relay.change_over(Near(streamed.data))
        assert await is_corrupt(relay, MIB)
        nursery.cancel_scope.cancel()
    streamed.storage.release.set()
    for one in (relay, other):
        one.close()


async def test_right_bytes_go_on_at_the_copy(streamed: Streamed) -> None:
    relay = await streamed.relay()
    assert bytes(await relay.read(0, MIB)) == streamed.data[:MIB]
    near = Near(streamed.data)
    assert await relay.change_over(near)
    assert near.reads == 1, "no more than was received is compared"
    assert bytes(await relay.read(MIB, MIB)) == streamed.data[MIB:]
    assert streamed.bench.streams.may_be_kept(FILE)
    relay.close()
    assert streamed.bench.wrong == []


async def test_what_was_not_given_or_is_right_is_not_compared(streamed: Streamed) -> None:
    relay = await streamed.relay()
    near = Near(streamed.data)
    assert await relay.change_over(near)
    assert near.reads == 0
    relay.close()
    relay = await streamed.relay()
    assert await read_all(relay) == streamed.data
    near = Near(streamed.data)
    assert await relay.change_over(near)
    assert near.reads == 0
    relay.close()


async def test_a_copy_that_cannot_be_read_leaves_the_stream(streamed: Streamed) -> None:
    relay = await streamed.relay()
    await relay.read(0, MIB)
    with pytest.raises(TooSlow):
        await relay.change_over(Near(streamed.data, error=TooSlow("x")))
    assert await read_all(relay) == streamed.data
    relay.close()


async def test_who_closes_the_file_ends_the_comparing(streamed: Streamed) -> None:
    relay = await streamed.relay()
    await relay.read(0, MIB)
    near = Near(streamed.data, gate=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.change_over, near)
        await trio.testing.wait_all_tasks_blocked(0.01)
        relay.close()
        assert near.gate is not None
        near.gate.set()
    assert (near.closed, near.reads) == (1, 1)


async def test_what_is_read_while_it_is_compared_is_compared_too(streamed: Streamed) -> None:
    relay = await streamed.relay()
    await relay.read(0, 64 * KIB)
    near = Near(streamed.data, gate=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.change_over, near)
        await trio.testing.wait_all_tasks_blocked(0.01)
        streamed.storage.files["/f"] = bytes(2 * MIB)
        await relay.read(MIB, 64 * KIB)
        assert near.gate is not None
        near.gate.set()
    assert await is_corrupt(relay, 0)
    relay.close()
