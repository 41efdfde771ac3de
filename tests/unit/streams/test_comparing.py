"""Comparing what was received with a copy: all of it, also what comes meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rucio_fs.checksums import adler32
from rucio_fs.diskcache.segments import Segment, Segments
from rucio_fs.errors import Unreachable
from rucio_fs.sources.base import Data
from rucio_fs.streams import comparing
from rucio_fs.streams.comparing import difference
from tests.unit.streams.conftest import noise

SIZE = 1000
DATA = noise(SIZE)


class Copy:
    """Remembers what was read; *on_read* happens meanwhile."""

    def __init__(self, data: bytes, on_read: Callable[[int], None] = lambda at: None) -> None:
        self.size = len(data)
        self.data = data
        self.on_read = on_read
        self.read_bytes = 0

    async def read(self, offset: int, size: int) -> Data:
        self.on_read(offset)
        self.read_bytes += size
        return self.data[offset : offset + size]

    def close(self) -> None: ...


def segment(start: int, end: int) -> Segment:
    return Segment(start, end, adler32(DATA[start:end]))


@given(
    ranges=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=8),
    first=st.integers(0, 8),
    wrong=st.none() | st.integers(0, SIZE - 1),
    step=st.integers(1, 300),
)
async def test_it_tells_a_difference_wherever_it_is(
    ranges: list[tuple[int, int]], first: int, wrong: int | None, step: int
) -> None:
    """Also where some of it is received while the rest is compared."""
    pieces = [segment(100 * at, min(SIZE, 100 * (at + count))) for at, count in ranges]
    received = Segments(pieces[:first])
    later = pieces[first:]

    def receive(at: int) -> None:
        if later:
            received.add(later.pop())

    data = DATA if wrong is None else DATA[:wrong] + bytes([DATA[wrong] ^ 1]) + DATA[wrong + 1 :]
    copy = Copy(data, receive)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "_STEP", step)
        found = await difference(lambda: received, copy, lambda: False)
    if wrong is None or not received.covers(wrong, wrong + 1):
        assert found is None
    else:
        assert found is not None
        assert found.start <= wrong < found.end


async def test_what_a_reader_reads_on_meanwhile_is_all_that_is_read_more() -> None:
    received = Segments([segment(0, 100)])
    ends = list(range(100, SIZE, 100))

    def receive(at: int) -> None:
        if ends:
            end = ends.pop(0)
            received.add(segment(end, end + 100))

    copy = Copy(DATA, receive)
    assert await difference(lambda: received, copy, lambda: False) is None
    assert copy.read_bytes == received.nbytes == SIZE


async def test_nothing_is_compared_for_nobody() -> None:
    copy = Copy(DATA)
    assert await difference(lambda: Segments(), copy, lambda: False) is None
    assert copy.read_bytes == 0


async def test_it_ends_when_nobody_asks_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_STEP", 100)
    copy = Copy(b"?" * SIZE)
    received = Segments([segment(0, SIZE)])
    assert await difference(lambda: received, copy, lambda: copy.read_bytes >= 300) is None
    assert copy.read_bytes == 300


async def test_others_run_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_STEP", 100)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        received = Segments([segment(0, SIZE)])
        assert await difference(lambda: received, Copy(DATA), lambda: False) is None
        nursery.cancel_scope.cancel()
    assert turns >= SIZE // 200


async def test_a_copy_that_cannot_be_read_says_so() -> None:
    def fails(at: int) -> None:
        raise Unreachable("the disk is gone")

    with pytest.raises(Unreachable):
        await difference(lambda: [segment(0, SIZE)], Copy(DATA, fails), lambda: False)
