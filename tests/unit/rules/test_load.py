"""How much Rucio is asked: by what has to be known, and not by how many wait."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DIDType
from rucio_fs.rules.making import BATCH
from tests.fakes import MY
from tests.unit.rules.conftest import Bench, Make

RATE = 2.0  # requests a second, whatever waits


@pytest.mark.parametrize("files", [1, 10, 500, 3000])
@pytest.mark.parametrize("collections", [0, 3])
async def test_so_many_requests_a_second_and_no_more(
    clock: MockClock, bench: Bench, files: int, collections: int
) -> None:
    opens = bench.start(*bench.files(files))
    for number in range(collections):
        group = bench.lake.dataset(f"s:d{number}", *bench.files(5, f"s:d{number}."))
        await bench.get(group, DIDType.DATASET)
    await trio.sleep(10)
    assert opens.waiting == files
    bench.rules.calls.clear()
    await trio.sleep(60)
    assert bench.rules.calls.total() <= RATE * 60
    if collections == 0:
        assert bench.rules.calls["states_at"] >= 6 * -(-files // 1000), "it is looked at"
        assert set(bench.rules.calls) == {"states_at", "rule"}


async def test_five_hundred_opens_are_a_handful_of_requests(clock: MockClock, bench: Bench) -> None:
    files = bench.files(500)
    opens = bench.start(*files)
    await trio.sleep(0.5)
    assert opens.waiting == 500
    assert len(bench.rules.ids()) == 500
    # The first two go out alone, the others gather while those are under way.
    assert bench.rules.dids["add_rules"] == 500
    assert bench.rules.calls["add_rules"] <= 2 + 500 // BATCH
    assert bench.rules.calls["states_at"] <= 2 + 500 // BATCH + 1, "and perhaps a round"
    assert bench.rules.calls.keys() <= {"add_rules", "states_at"}


async def test_opens_that_come_one_by_one_share_requests(clock: MockClock, bench: Bench) -> None:
    """While two requests are under way all others gather for the next."""
    bench.rules.delay = 1.0
    files = bench.files(60)
    for file in files:
        bench.start(file)
        await trio.sleep(0.01)
    await trio.sleep(10)
    assert len(bench.rules.ids()) == 60
    assert bench.rules.calls["add_rules"] <= 4


async def test_what_is_on_its_way_by_others_is_asked_for_once(
    clock: MockClock, bench: Bench
) -> None:
    """A dataset's rule brings them already: no rules are read to know that they come."""
    files = bench.files(500)
    bench.rules.add(bench.lake.dataset("s:d", *files))
    opens = bench.start(*files)
    await trio.sleep(0.5)
    assert opens.waiting == 500
    assert bench.rules.calls["rules_of"] <= 1
    assert bench.rules.calls.total() <= 10 + 4


async def test_a_long_wait_is_looked_at_less_often(clock: MockClock, bench: Bench) -> None:
    bench.start(*bench.files(10), wait=3600)
    await trio.sleep(10)
    counts = []
    for _ in range(5):
        bench.rules.calls.clear()
        await trio.sleep(60)
        counts.append(bench.rules.calls["states_at"])
    assert counts[0] >= 15
    assert max(counts[1:]) <= 10, "every ten seconds"


async def test_a_new_wait_is_not_slow_because_of_old_ones(clock: MockClock, bench: Bench) -> None:
    bench.start(*bench.files(10), wait=3600)
    await trio.sleep(600)
    file = bench.file()
    opens = bench.start(file)
    await trio.sleep(2)
    bench.rules.arrive(file)
    await trio.sleep(2.5)
    assert opens.here == [file]


async def test_a_new_wait_is_young_though_the_file_is_long_on_its_way(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    bench.start(file, wait=3600)
    await trio.sleep(600)
    opens = bench.start(file)
    await trio.sleep(2)
    bench.rules.arrive(file)
    await trio.sleep(2.5)
    assert opens.here == [file]


async def test_what_nobody_waits_for_is_looked_at_twice_a_minute(
    clock: MockClock, bench: Bench
) -> None:
    opens = bench.start(*bench.files(10))
    await trio.sleep(5)
    opens.give_up()
    await trio.sleep(60)
    bench.rules.calls.clear()
    await trio.sleep(600)
    assert 17 <= bench.rules.calls["states_at"] <= 21


async def test_nothing_on_its_way_is_nothing_asked(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    bench.start(file)
    await trio.sleep(5)
    bench.rules.arrive(file)
    await trio.sleep(5)
    bench.rules.calls.clear()
    await trio.sleep(3600)
    assert bench.rules.calls == {}


async def test_who_looks_on_sees_what_is_true(clock: MockClock, bench: Bench) -> None:
    """Nobody waits for a dataset, but its progress is read every few seconds."""
    files = bench.files(4)
    group = bench.lake.dataset("s:d", *files)
    await bench.get(group, DIDType.DATASET)
    await trio.sleep(100)
    seen: list[int] = []
    for file in files:
        bench.rules.arrive(file)
        for _ in range(3):
            await trio.sleep(2)
            found = bench.keeper.delivery(MY, group)
            if found is not None:
                seen.append(found.here.files)
    assert set(seen) >= {1, 2, 3}
    assert seen == sorted(seen)
    assert bench.arrived == [group]


async def test_ten_thousand_are_ten_requests_a_round(clock: MockClock, make: Make) -> None:
    bench = make(max_waiting=20_000)
    files = bench.files(10_000)
    bench.rules.add(bench.lake.dataset("s:d", *files))
    opens = bench.start(*files, wait=3600)
    await trio.sleep(5)
    assert opens.waiting == 10_000
    bench.rules.calls.clear()
    await trio.sleep(60)
    rounds = bench.rules.calls["states_at"] / 10
    assert rounds >= 5
    assert bench.rules.calls.total() <= RATE * 60
    bench.rules.arrive("s:d")
    await trio.sleep(15)
    assert len(opens.here) == 10_000
