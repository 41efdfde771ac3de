"""Directories come when they were left alone for 5 s, and at the latest after 60 s."""

from __future__ import annotations

import math
import time

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rucio_fs.uploads.settling import Settling


@pytest.fixture
def settling() -> Settling:
    return Settling(5, 60)


async def times(settling: Settling, count: int) -> list[tuple[str, float]]:
    start = trio.current_time()
    return [(await settling.next(), trio.current_time() - start) for _ in range(count)]


async def test_after_some_quiet(settling: Settling, clock: MockClock) -> None:
    settling.changed("s/a")
    assert "s/a" in settling
    assert len(settling) == 1
    assert await times(settling, 1) == [("s/a", 5)]
    assert "s/a" not in settling
    assert len(settling) == 0


async def test_each_change_begins_the_quiet_anew(settling: Settling, clock: MockClock) -> None:
    settling.changed("s/a")
    await trio.sleep(3)
    settling.changed("s/a")
    assert await times(settling, 1) == [("s/a", 5)]


async def test_one_that_is_never_quiet_comes_all_the_same(
    settling: Settling, nursery: trio.Nursery, clock: MockClock
) -> None:
    async def work() -> None:
        while True:
            settling.changed("s/a")
            await trio.sleep(1)

    nursery.start_soon(work)
    found = await times(settling, 2)
    assert [top for top, _ in found] == ["s/a", "s/a"]
    first, second = (when for _, when in found)
    assert first == pytest.approx(60, abs=1)
    assert second - first == pytest.approx(60, abs=1.5)
    nursery.cancel_scope.cancel()


async def test_who_waits_hears_of_the_first_change(
    settling: Settling, nursery: trio.Nursery, clock: MockClock
) -> None:
    found: list[tuple[str, float]] = []

    async def wait() -> None:
        found.extend(await times(settling, 1))

    nursery.start_soon(wait)
    await trio.sleep(100)
    settling.changed("s/a")
    await trio.sleep(6)
    assert found == [("s/a", 105)]


async def test_a_change_while_it_is_waited_for_puts_it_off(
    settling: Settling, nursery: trio.Nursery, clock: MockClock
) -> None:
    async def change() -> None:
        await trio.sleep(4)
        settling.changed("s/a")

    settling.changed("s/a")
    nursery.start_soon(change)
    assert await times(settling, 1) == [("s/a", 9)]


async def test_the_one_that_is_quiet_longest_comes_first(
    settling: Settling, clock: MockClock
) -> None:
    for top in ("s/a", "s/b", "s/c"):
        settling.changed(top)
        await trio.sleep(1)
    settling.changed("s/a")
    assert await times(settling, 3) == [("s/b", 3), ("s/c", 4), ("s/a", 5)]


async def test_a_busy_one_comes_when_its_patience_ends_though_others_are_quiet(
    settling: Settling, clock: MockClock
) -> None:
    for _ in range(58):
        settling.changed("s/busy")
        await trio.sleep(1)
    settling.changed("s/quiet")
    settling.changed("s/busy")
    assert await times(settling, 2) == [("s/busy", 2), ("s/quiet", 5)]


async def test_what_is_hurried_comes_at_once(settling: Settling, clock: MockClock) -> None:
    settling.changed("s/a")
    settling.hurry("s/b")
    settling.hurry("s/a")
    settling.changed("s/b")
    assert sorted(await times(settling, 2)) == [("s/a", 0), ("s/b", 0)]
    settling.changed("s/b")  # once: the next change waits again
    assert await times(settling, 1) == [("s/b", 5)]


async def test_hurrying_wakes_who_waits(
    settling: Settling, nursery: trio.Nursery, clock: MockClock
) -> None:
    async def hurry() -> None:
        await trio.sleep(2)
        settling.hurry("s/a")

    settling.changed("s/a")
    nursery.start_soon(hurry)
    assert await times(settling, 1) == [("s/a", 2)]


async def test_nothing_is_lost_when_who_waits_is_cancelled(
    settling: Settling, clock: MockClock
) -> None:
    settling.changed("s/a")
    with trio.move_on_after(1):
        await settling.next()
    assert await times(settling, 1) == [("s/a", 4)]


async def test_each_comes_to_one_of_many_who_wait(
    settling: Settling, nursery: trio.Nursery, clock: MockClock
) -> None:
    found: list[str] = []

    async def wait() -> None:
        while True:
            found.append(await settling.next())

    for _ in range(3):
        nursery.start_soon(wait)
    for number in range(5):
        settling.changed(f"s/{number}")
    await trio.sleep(5)
    await wait_all_tasks_blocked()
    assert sorted(found) == [f"s/{number}" for number in range(5)]
    nursery.cancel_scope.cancel()


async def test_nothing_is_due_where_nothing_was_done(settling: Settling, clock: MockClock) -> None:
    with trio.move_on_after(1e6) as waiting:
        await settling.next()
    assert waiting.cancelled_caught
    assert settling._earliest()[0] == math.inf


async def test_ten_thousand_directories_settle_in_no_time(
    settling: Settling, clock: MockClock
) -> None:
    """Each costs the same, however many there are."""
    for number in range(10_000):
        settling.changed(f"s/{number}")
    begun = time.perf_counter()
    for _ in range(10_000):
        await settling.next()
    assert time.perf_counter() - begun < 3  # it takes 0.1 s, and looking at all each time 10
