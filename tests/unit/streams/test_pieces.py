"""A range on its way: filled by a thread, waited for by tasks, given up by either."""

from __future__ import annotations

import threading

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from rucio_fs.errors import Unreachable
from rucio_fs.streams.buffers import SMALLEST
from rucio_fs.streams.pieces import Piece, aligned

START, END = 1000, 2000


def piece(start: int = START, end: int = END, *, is_urgent: bool = False) -> Piece:
    return Piece(start, end, memoryview(bytearray(end - start)), is_urgent=is_urgent)


class Thread:
    """A worker that does one thing after the other, each when it is told to."""

    def __init__(self, one: Piece) -> None:
        self.piece = one
        self.goes_on = True

    async def fill(self, got: int) -> None:
        def fill() -> None:
            self.piece.buffer[:got] = b"x" * got
            self.goes_on = self.piece.progress(got)

        await trio.to_thread.run_sync(fill)


async def test_it_is_there_at_once_what_has_come_already() -> None:
    one = piece()
    await Thread(one).fill(500)
    await one.until(1000)
    await one.until(1500)
    assert one.waiting == 0
    assert one.has(1500)
    assert not one.has(1501)


async def test_who_waits_for_a_part_does_not_wait_for_the_whole(nursery: trio.Nursery) -> None:
    one, came = piece(), []

    async def wait(end: int) -> None:
        await one.until(end)
        came.append(end)

    for end in (1100, 1500, 2000, 1500, 1001):
        nursery.start_soon(wait, end)
    await wait_all_tasks_blocked()
    assert one.waiting == 5
    thread = Thread(one)
    for got, expected in [
        (0, []),
        (99, [1001]),
        (100, [1001, 1100]),
        (499, [1001, 1100]),
        (999, [1001, 1100, 1500, 1500]),
        (1000, [1001, 1100, 1500, 1500, 2000]),
    ]:
        await thread.fill(got)
        await wait_all_tasks_blocked()
        assert sorted(came) == expected
    assert one.waiting == 0
    assert thread.goes_on


@pytest.mark.parametrize("step", [1, 7, 100, 999])
async def test_no_progress_is_overlooked(step: int) -> None:
    """A thread that runs as fast as it can, against tasks that begin to wait at any moment."""
    one = piece(0, 20_000)
    begin = threading.Event()

    def run() -> None:
        begin.wait(60)
        for got in range(0, 20_000, step):
            one.progress(got)
        one.progress(20_000)

    async def wait(number: int) -> None:
        for end in range(number, 20_001, 331):
            await one.until(end)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, run)
            for number in range(1, 50):
                nursery.start_soon(wait, number)
            await wait_all_tasks_blocked()
            begin.set()
    assert one.waiting == 0


async def test_the_loop_is_not_told_of_what_nobody_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, told = piece(), []
    monkeypatch.setattr(one, "_tell", lambda: told.append(one.got))
    thread = Thread(one)
    for got in (100, 500, 999):
        await thread.fill(got)
    await wait_all_tasks_blocked()
    assert told == []
    await thread.fill(1000)
    await wait_all_tasks_blocked()
    assert told == [1000]


async def test_a_failure_is_everybodys_but_of_those_who_have_their_bytes(
    nursery: trio.Nursery,
) -> None:
    one, errors = piece(), []

    async def wait(end: int) -> None:
        try:
            await one.until(end)
        except Unreachable as exc:
            errors.append(exc)

    await Thread(one).fill(300)
    for end in (1200, 1500, 2000):
        nursery.start_soon(wait, end)
    await wait_all_tasks_blocked()
    one.finish(Unreachable("gone"))
    await wait_all_tasks_blocked()
    assert [str(error) for error in errors] == ["gone", "gone"]
    assert errors[0] is not errors[1], "one would collect the tracebacks of all"
    assert one.is_done
    assert one.waiting == 0
    await one.until(1300)
    with pytest.raises(Unreachable):
        await one.until(1301)


async def test_whoever_gives_up_does_not_wait_any_more() -> None:
    one = piece()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.until, 1500)
        await wait_all_tasks_blocked()
        assert one.waiting == 1
        nursery.cancel_scope.cancel()
    assert one.waiting == 0


async def test_its_memory_can_be_taken_when_nobody_needs_it(nursery: trio.Nursery) -> None:
    one, seen = piece(), []
    seen.append(one.is_idle)
    nursery.start_soon(one.until, 2000)
    await wait_all_tasks_blocked()
    one.is_done = True
    seen.append(one.is_idle)  # somebody waits
    one.pins += 1
    one.got = 1000
    one.finish()
    await wait_all_tasks_blocked()
    seen.append(one.is_idle)  # somebody writes it to disk
    one.pins -= 1
    seen.append(one.is_idle)
    assert seen == [False, False, False, True]


async def test_a_view_is_counted_from_its_start() -> None:
    one = piece()
    one.buffer[:] = bytes(i & 0xFF for i in range(1000))
    assert bytes(one.view(1000, 1003)) == b"\x00\x01\x02"
    assert bytes(one.view(1010, 1012)) == b"\x0a\x0b"
    assert len(one) == 1000
    assert repr(one) == "<Piece 1000-2000: 0 bytes>"


# --- given up ------------------------------------------------------------------------------------


async def test_a_thread_notices_at_its_next_progress() -> None:
    one = piece()
    thread = Thread(one)
    await thread.fill(10)
    assert thread.goes_on
    one.cancel()
    await thread.fill(20)
    assert not thread.goes_on


async def test_a_thread_that_waits_is_woken_up() -> None:
    one, waits = piece(), trio.Event()
    ended = threading.Event()
    token = trio.lowlevel.current_trio_token()

    def receive() -> None:
        one.aborts_by(ended.set)
        token.run_sync_soon(waits.set)
        assert ended.wait(60)
        one.aborts_by(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, receive)
        await waits.wait()
        one.cancel()
    one.cancel()  # has no one to wake up, and may come twice


async def test_one_that_was_given_up_before_it_began_to_wait() -> None:
    one, calls = piece(), []
    one.cancel()
    one.aborts_by(lambda: calls.append("late"))
    one.aborts_by(None)
    assert calls == ["late"]
    assert one.scope.cancel_called


async def test_the_connection_is_not_ended_after_the_thread_has_let_it_go() -> None:
    """By then it may be another piece's."""
    one = piece()
    is_aborting, lets_go, has_let_go = (threading.Event() for _ in range(3))
    log: list[str] = []

    def abort() -> None:
        is_aborting.set()
        # The thread comes meanwhile; it must not get through.
        assert lets_go.wait(60)
        has_let_go.wait(0.1)
        log.append("aborted")

    def let_go() -> None:
        assert is_aborting.wait(60)
        lets_go.set()
        one.aborts_by(None)
        log.append("let go")
        has_let_go.set()

    one.aborts_by(abort)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, let_go)
        await wait_all_tasks_blocked()
        one.cancel()
    assert log == ["aborted", "let go"]


@pytest.mark.parametrize("delay", range(30))
async def test_giving_up_at_any_moment_ends_every_wait(delay: int) -> None:
    """The thread registers and lets go again and again, and is given up in between."""
    one = piece()
    aborted, began = threading.Event(), threading.Event()

    def receive() -> None:
        while True:
            one.aborts_by(aborted.set)
            began.set()
            if one.is_cancelled:
                assert aborted.wait(60)
                one.aborts_by(None)
                return
            one.aborts_by(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, receive)
        while not began.is_set():
            await trio.lowlevel.checkpoint()
        for _ in range(delay):
            await trio.lowlevel.checkpoint()
        one.cancel()


# --- what is fetched -----------------------------------------------------------------------------


@given(start=st.integers(0, 1 << 40), length=st.integers(1, 1 << 24), rest=st.integers(0, 1 << 24))
def test_ranges_are_aligned_and_inside_the_file(start: int, length: int, rest: int) -> None:
    end, size = start + length, start + length + rest
    first, last = aligned(start, end, size)
    assert first <= start < end <= last <= size
    assert first % SMALLEST == 0
    assert last % SMALLEST == 0 or last == size
    assert start - first < SMALLEST
    assert last - end < SMALLEST


async def test_bytes_that_are_wrong_are_given_to_nobody() -> None:
    """Also not to who was told a moment ago that they are here."""
    one = piece()
    heard: list[str] = []

    async def wait() -> None:
        try:
            await one.until(END)
        except Unreachable as exc:
            heard.append(str(exc))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        one.got = len(one)
        one.finish()
        one.void()
    assert heard == ["its bytes are wrong"]
    assert not one.has(START + 1)
