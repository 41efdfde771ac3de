"""How far ahead is fetched for whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rucio_fs.streams.window import NEAR, Window

MIB = 1 << 20
LIMIT = 64 * MIB
FAR = 1 << 40


def test_a_sequential_reader_is_given_twice_of_what_it_has_read_up_to_the_limit() -> None:
    window = Window()
    aheads = [window.ahead(offset * MIB, MIB, LIMIT) for offset in range(40)]
    assert aheads[:4] == [2 * MIB, 4 * MIB, 6 * MIB, 8 * MIB]
    assert aheads == sorted(aheads)
    assert aheads[31:] == [LIMIT] * 9


def test_the_start_of_a_file_costs_little() -> None:
    assert Window().ahead(0, 4096, LIMIT) == 8192


def test_reads_that_overtake_each_other_are_one_stream() -> None:
    """The kernel sends its read-ahead in pieces, by several threads."""
    window = Window()
    order = [1, 0, 2, 4, 3, 5, 7, 6]
    for number in order:
        window.ahead(number * 128 * 1024, 128 * 1024, LIMIT)
    assert window.is_sequential
    assert window.ahead(MIB, 0, LIMIT) == 2 * MIB


def test_a_reader_that_jumps_is_given_what_it_asks_for() -> None:
    window = Window()
    for number in (5, 900, 2, 77, 31):
        assert window.ahead(number * 100 * MIB, 4096, LIMIT) == 0
        assert not window.is_sequential


def test_after_a_jump_it_begins_anew() -> None:
    window = Window()
    for offset in range(0, 40 * MIB, MIB):
        window.ahead(offset, MIB, LIMIT)
    assert window.ahead(FAR, MIB, LIMIT) == 0
    assert window.ahead(FAR + MIB, MIB, LIMIT) == 2 * MIB


def test_reading_something_again_is_no_progress_and_no_jump() -> None:
    window = Window()
    for offset in range(0, 4 * MIB, MIB):
        window.ahead(offset, MIB, LIMIT)
    for _ in range(10):
        assert window.ahead(2 * MIB, MIB, LIMIT) == 8 * MIB
    assert window.ahead(4 * MIB, MIB, LIMIT) == 10 * MIB


def test_the_distance_that_is_still_near() -> None:
    for step, is_near in [(NEAR, True), (NEAR + 1, False)]:
        window = Window()
        window.ahead(0, MIB, LIMIT)
        assert (window.ahead(MIB + step, 4096, LIMIT) > 0) is is_near


@given(
    reads=st.lists(st.tuples(st.integers(0, 10 * MIB), st.integers(0, MIB)), max_size=50),
    limit=st.integers(0, LIMIT),
)
def test_never_beyond_the_limit_nor_more_than_twice_the_way_it_has_come(
    reads: list[tuple[int, int]], limit: int
) -> None:
    window = Window()
    for offset, size in reads:
        ahead = window.ahead(offset, size, limit)
        assert 0 <= ahead <= limit
        assert ahead <= 2 * max(end for end in (start + size for start, size in reads))
        assert "Window" in repr(window)


@given(
    start=st.integers(2 * NEAR, FAR),
    sizes=st.lists(st.integers(1, MIB), min_size=1, max_size=30),
)
def test_wherever_it_begins_a_sequential_reader_gains_speed(start: int, sizes: list[int]) -> None:
    window = Window()
    offset, read = start, 0
    for number, size in enumerate(sizes):
        ahead = window.ahead(offset, size, FAR)
        read += size if number else 0  # the first one was a jump
        assert ahead == 2 * read
        offset += size
