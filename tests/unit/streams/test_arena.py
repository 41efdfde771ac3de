"""Memory that is lent in parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rucio_fs.streams.arena import SIZE, Arena

_SIZES = [SIZE >> shift for shift in range(8)]


def test_the_smallest_part_that_is_large_enough_is_lent() -> None:
    arena = Arena()
    assert arena.fit(SIZE) == SIZE
    offset, part = arena.take(SIZE // 4)
    assert len(part) == SIZE // 4
    assert [arena.fit(size) for size in _SIZES[:4]] == [2 * SIZE, SIZE // 2, SIZE // 4, SIZE // 4]
    arena.give(offset, SIZE // 4)
    assert arena.fit(1 << 16) == SIZE, "it is whole again"
    assert repr(arena) == "<Arena: 0 bytes lent>"


@given(st.lists(st.tuples(st.sampled_from(_SIZES), st.booleans(), st.integers(0, 99)), max_size=60))
def test_no_byte_is_lent_twice_or_lost(steps: list[tuple[int, bool, int]]) -> None:
    arena = Arena()
    lent: list[tuple[int, int]] = []
    for size, gives, number in steps:
        if gives and lent:
            arena.give(*lent.pop(number % len(lent)))
        elif arena.fit(size) <= SIZE:
            offset, part = arena.take(size)
            assert len(part) == size
            assert offset % size == 0
            assert all(offset + size <= at or at + length <= offset for at, length in lent)
            lent.append((offset, size))
        assert arena.free == SIZE - sum(size for _, size in lent)
    for loan in lent:
        arena.give(*loan)
    assert arena.fit(SIZE) == SIZE
