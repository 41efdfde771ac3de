"""Memory that is lent: never more than the limit but for those who wait, and used again."""

from __future__ import annotations

import ctypes
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rucio_fs.streams.buffers import LARGEST, SMALLEST, Buffers

MIB = 1 << 20


def nothing(nbytes: int, is_urgent: bool) -> None:
    pass


def taken(buffers: Buffers, size: int) -> memoryview:
    buffer = buffers.take(size, is_urgent=False)
    assert buffer is not None
    return buffer


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (0, SMALLEST),
        (1, SMALLEST),
        (SMALLEST, SMALLEST),
        (SMALLEST + 1, 2 * SMALLEST),
        (MIB - 1, MIB),
        (MIB, MIB),
        (MIB + 1, 2 * MIB),
        (LARGEST, LARGEST),
    ],
)
def test_powers_of_two_are_lent(size: int, length: int) -> None:
    buffers = Buffers(2 * LARGEST, nothing)
    assert len(taken(buffers, size)) == buffers.lent == length


def test_at_the_limit_only_who_waits_is_given_more() -> None:
    buffers = Buffers(2 * MIB, nothing)
    first = taken(buffers, MIB)
    taken(buffers, MIB)
    assert buffers.take(1, is_urgent=False) is None
    assert buffers.lent == 2 * MIB
    urgent = buffers.take(MIB, is_urgent=True)
    assert urgent is not None
    assert buffers.lent == 3 * MIB
    buffers.give(first)
    assert buffers.take(1, is_urgent=False) is None, "the limit is still reached"
    buffers.give(urgent)
    assert buffers.take(MIB, is_urgent=False) is not None


def test_what_others_can_spare_is_asked_for_first() -> None:
    lent: list[memoryview] = []
    asked = []

    def reclaim(nbytes: int, is_urgent: bool) -> None:
        asked.append(nbytes)
        while lent and nbytes > 0:
            nbytes -= len(lent[0])
            buffers.give(lent.pop(0))

    buffers = Buffers(4 * MIB, reclaim)
    lent += [taken(buffers, MIB) for _ in range(4)]
    assert asked == []
    assert len(taken(buffers, 2 * MIB)) == 2 * MIB
    assert asked == [2 * MIB]
    assert len(lent) == 2
    assert buffers.lent == 4 * MIB
    lent.clear()
    assert buffers.take(MIB, is_urgent=False) is None
    assert asked == [2 * MIB, MIB]


def test_who_waits_has_others_asked_as_well() -> None:
    asked: list[tuple[int, bool]] = []
    buffers = Buffers(MIB, lambda *words: asked.append(words))
    taken(buffers, MIB)
    assert buffers.take(MIB, is_urgent=True) is not None
    assert buffers.take(1, is_urgent=False) is None
    assert asked == [(MIB, True), (MIB + SMALLEST, False)], "and told whether it is urgent"


def test_memory_is_used_again() -> None:
    """Fresh pages cost as much as receiving the bytes."""
    buffers = Buffers(4 * MIB, nothing)
    first = taken(buffers, MIB)
    first[:4] = b"mark"
    buffers.give(first)
    assert bytes(taken(buffers, MIB)[:4]) == b"mark"
    assert bytes(taken(buffers, MIB)[:4]) == bytes(4), "that one is new"


def test_nobody_is_lent_what_another_has() -> None:
    buffers = Buffers(16 * MIB, nothing)
    lent = [taken(buffers, MIB) for _ in range(8)]
    for number, buffer in enumerate(lent):
        buffer[:] = bytes([number]) * MIB
    for buffer in lent[::2]:
        buffers.give(buffer)
    again = [taken(buffers, MIB) for _ in range(4)]
    for buffer in again:
        buffer[:] = b"\xff" * MIB
    assert [buffer[5] for buffer in lent[1::2]] == [1, 3, 5, 7]


def test_what_can_be_spared_is_used_before_more_is_asked_of_the_system() -> None:
    lent: list[memoryview] = []

    def reclaim(nbytes: int, is_urgent: bool) -> None:
        assert (nbytes, is_urgent) == (LARGEST, False)
        buffers.give(lent.pop(0))

    buffers = Buffers(8 * LARGEST, reclaim)
    lent += [taken(buffers, LARGEST) for _ in range(2)]
    for _ in range(5):
        lent += [taken(buffers, LARGEST)]
    assert buffers.held == 2 * LARGEST, "a quarter of the limit"


def test_small_parts_leave_room_for_large_ones() -> None:
    buffers = Buffers(2 * LARGEST, nothing)
    small = [taken(buffers, SMALLEST) for _ in range(3)]
    large = [taken(buffers, LARGEST // 2) for _ in range(3)]
    assert buffers.held == 2 * LARGEST
    for buffer in small + large:
        buffers.give(buffer)
    assert [len(taken(buffers, LARGEST)) for _ in range(2)] == [LARGEST, LARGEST]
    assert buffers.held == 2 * LARGEST, "what was lent in parts is whole again"


def test_what_is_held_above_the_limit_goes_back_to_the_system() -> None:
    buffers = Buffers(LARGEST, nothing)
    kept = taken(buffers, MIB)
    urgent = buffers.take(LARGEST, is_urgent=True)
    assert urgent is not None
    assert buffers.held == 2 * LARGEST
    buffers.give(urgent)
    assert buffers.held == LARGEST
    buffers.give(kept)
    assert buffers.held == LARGEST, "so much may be kept"


def test_what_is_idle_can_be_given_back_to_the_system() -> None:
    buffers = Buffers(4 * MIB, nothing)
    first = taken(buffers, MIB)
    first[:4] = b"mark"
    buffers.give(first)
    buffers.clear()
    assert buffers.held == 0
    assert bytes(taken(buffers, MIB)[:4]) == bytes(4)


def test_what_is_lent_stays_when_the_rest_is_given_back() -> None:
    buffers = Buffers(4 * MIB, nothing)
    kept = taken(buffers, MIB)
    buffers.clear()
    assert buffers.held == LARGEST
    kept[:] = b"x" * MIB
    buffers.give(kept)


def test_its_numbers() -> None:
    buffers = Buffers(4 * MIB, nothing)
    buffers.give(taken(buffers, MIB))
    taken(buffers, SMALLEST)
    assert repr(buffers) == "<Buffers: 65536 of 8388608 bytes lent>"


@given(
    limit=st.sampled_from([0, SMALLEST, 3 * SMALLEST, 8 * SMALLEST]),
    steps=st.lists(
        st.tuples(st.integers(1, 4 * SMALLEST), st.booleans(), st.integers(0, 9)), max_size=40
    ),
    spared=st.integers(0, 2),
)
def test_the_books_are_right_whatever_comes(
    limit: int, steps: list[tuple[int, bool, int]], spared: int
) -> None:
    lent: list[memoryview] = []

    def reclaim(nbytes: int, is_urgent: bool) -> None:
        assert nbytes > 0
        for _ in range(min(spared, len(lent))):
            buffers.give(lent.pop())

    buffers = Buffers(limit, reclaim)
    for size, is_urgent, number in steps:
        before = buffers.lent
        buffer = buffers.take(size, is_urgent=is_urgent)
        assert (buffer is not None) or not is_urgent
        if buffer is not None:
            assert len(buffer) >= size
            lent.append(buffer)
            assert is_urgent or buffers.lent <= limit
        else:
            assert buffers.lent <= before
        if lent and number < 4:
            buffers.give(lent.pop(number % len(lent)))
        assert buffers.lent == sum(map(len, lent))
        assert len({id(one) for one in lent}) == len(lent)
        spans = sorted(_span(one) for one in lent)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans)), "to one at a time"
        assert buffers.held % LARGEST == 0
        assert buffers.held >= buffers.lent
    for one in lent:
        buffers.give(one)
    buffers.clear()
    assert (buffers.lent, buffers.held) == (0, 0)


def _span(buffer: memoryview) -> tuple[int, int]:
    """Where it lies in memory."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return start, start + len(buffer)
