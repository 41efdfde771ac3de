"""Whether what came is the file: known as soon as it can be, and never before."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rucio_fs.checksums import adler32
from rucio_fs.diskcache.segments import Segment, Segments
from rucio_fs.streams.judging import CACHE, Judge

SIZE = 100
DATA = bytes((i * 37 + 5) & 0xFF for i in range(SIZE))
BAD = DATA[:50] + b"!" + DATA[51:]
SUM = f"{adler32(DATA):08x}"


def segment(start: int, end: int, data: bytes = DATA) -> Segment:
    return Segment(start, end, adler32(data[start:end]))


def judge(*known: tuple[int, int], is_right: bool = False, adler: str | None = SUM) -> Judge:
    return Judge(SIZE, adler, [segment(*one) for one in known], is_right=is_right)


@given(cuts=st.sets(st.integers(1, SIZE - 1), max_size=10), order=st.randoms())
def test_it_is_right_once_all_is_here_in_any_order(cuts: set[int], order: object) -> None:
    ranges = list(pairwise(sorted({0, SIZE, *cuts})))
    order.shuffle(ranges)  # type: ignore[attr-defined]
    one = judge()
    for number, (start, end) in enumerate(ranges, 1):
        assert not one.is_right
        assert one.receive(segment(start, end), [f"RSE{number}"]) is None
    assert one.is_right
    assert one.received == SIZE
    assert one.rses == {f"RSE{number}" for number in range(1, len(ranges) + 1)}


@given(place=st.integers(0, SIZE - 1), cuts=st.sets(st.integers(1, SIZE - 1), max_size=10))
def test_one_wrong_byte_shows_with_the_last_piece(place: int, cuts: set[int]) -> None:
    bad = DATA[:place] + bytes([DATA[place] ^ 0x40]) + DATA[place + 1 :]
    ranges = list(pairwise(sorted({0, SIZE, *cuts})))
    one = judge()
    words = [one.receive(segment(start, end, bad), ["A"]) for start, end in ranges]
    assert words[:-1] == [None] * (len(words) - 1)
    assert words[-1] == (
        f"the file has adler32 {adler32(bad):08x}, the catalogue says {adler32(DATA):08x}"
    )
    assert not one.is_right
    one.begin_anew()
    assert one.received == 0
    assert one.rses == frozenset()
    assert one.receive(segment(0, SIZE), ["B"]) is None
    assert one.is_right


def test_the_same_bytes_twice_count_once() -> None:
    one = judge()
    one.receive(segment(0, 50), ["A"])
    one.receive(segment(0, 50), ["B"])
    assert one.received == 50
    assert one.receive(segment(50, SIZE), ["A"]) is None
    assert one.is_right


def test_without_a_checksum_nothing_is_judged() -> None:
    for adler in (None, "", "unknown", "100000000"):
        one = judge(adler=adler)
        assert not one.awaits_verdict
        assert one.receive(segment(0, SIZE, BAD), ["A"]) is None
        assert not one.is_right


def test_the_catalogues_spelling_does_not_matter() -> None:
    for adler in (SUM.upper(), SUM.lstrip("0")):
        one = judge(adler=adler)
        one.receive(segment(0, SIZE), ["A"])
        assert one.is_right


# --- what was known before -----------------------------------------------------------------------


def test_what_was_compared_before_is_right() -> None:
    one = judge((0, SIZE), is_right=True)
    assert one.is_right
    assert not one.awaits_verdict
    assert one.missing(0, SIZE) == []


def test_what_is_missing_of_what_was_right_is_to_be_compared() -> None:
    """The cache may have dropped some of it, and the gap is filled from anywhere."""
    one = judge((0, 60), is_right=True)
    assert not one.is_right
    assert one.awaits_verdict
    assert one.missing(0, SIZE) == [(60, SIZE)]
    assert one.receive(segment(60, SIZE, b"?" * SIZE), ["A"]) is not None
    again = judge((0, 60), is_right=True)
    assert again.receive(segment(60, SIZE), ["A"]) is None
    assert again.is_right


def test_all_of_it_from_several_streams_is_compared_at_once() -> None:
    """No piece will come that could bring the verdict: nobody must wait for it."""
    one = judge((0, 30), (30, SIZE))
    assert one.is_right
    assert not one.awaits_verdict


def test_nobody_waits_for_a_verdict_that_will_not_come() -> None:
    wrong = Judge(SIZE, SUM, [segment(0, SIZE, BAD)])
    assert not wrong.is_right
    assert wrong.missing(0, SIZE) == []


def test_a_judge_does_not_touch_what_it_was_shown() -> None:
    stored = Segments([segment(0, 60)])
    one = Judge(SIZE, SUM, stored)
    one.receive(segment(60, SIZE), ["A"])
    one.begin_anew()
    assert stored.nbytes == 60


def test_of_what_was_known_before_nobody_knows_whose_it_is() -> None:
    one = judge((0, 60))
    one.receive(segment(60, SIZE, BAD), ["A"])
    assert one.rses == {"A", CACHE}
    one.begin_anew()
    one.receive(segment(0, SIZE), ["A"])
    assert one.rses == {"A"}


# --- what is fetched again -----------------------------------------------------------------------


def test_what_is_fetched_again_is_judged_again() -> None:
    one = judge((0, SIZE), is_right=True)
    assert one.doubt(20, 40) == [(0, 20), (40, SIZE)]
    assert not one.is_right
    assert one.received == 0, "its checksum is that of a larger range"
    assert one.receive(segment(0, SIZE, BAD), ["A"]) is not None


def test_what_is_fetched_for_the_first_time_puts_nothing_in_doubt() -> None:
    one = judge((0, 50))
    assert one.reach(50, SIZE) == (50, 50)
    assert one.doubt(50, SIZE) == []
    assert one.received == 50
    one.receive(segment(50, SIZE), ["A"])
    assert one.is_right


@given(
    known=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=6),
    start=st.integers(0, 99),
    length=st.integers(1, 50),
)
def test_nothing_of_what_is_fetched_again_is_taken_as_known(
    known: list[tuple[int, int]], start: int, length: int
) -> None:
    one = judge(*((first * 10, min(SIZE, (first + count) * 10)) for first, count in known))
    end = min(SIZE, start + length)
    before = one.received
    first, last = one.reach(start, end)
    beside = one.doubt(start, end)
    assert first <= start
    assert all(first <= one and other <= last for one, other in beside)
    forgotten = [(first, last) for first, last in beside if first >= end or last <= start]
    assert forgotten == beside
    assert before - one.received - sum(last - first for first, last in beside) <= length
    assert one._received.missing(start, end) == [(start, end)]
    if one.received < SIZE:
        assert not one.is_right


# --- whether to wait -----------------------------------------------------------------------------


@given(
    received=st.sets(st.integers(0, 9)),
    start=st.integers(0, SIZE - 1),
    length=st.integers(1, SIZE),
)
def test_what_is_missing_is_what_did_not_come(received: set[int], start: int, length: int) -> None:
    one = judge(*((10 * number, 10 * number + 10) for number in sorted(received)))
    end = min(SIZE, start + length)
    found = {at for first, last in one.missing(start, end) for at in range(first, last)}
    unknown = {at for at in range(start, end) if at // 10 not in received}
    assert found == unknown
    assert one.awaits_verdict is (len(received) < 10)


def test_an_empty_file_is_right_by_itself() -> None:
    assert Judge(0, "00000001").is_right
    assert not Judge(0, "00000002").is_right
    assert Judge(0, "00000002").missing(0, 0) == []


def test_its_numbers() -> None:
    assert repr(judge((0, 60))) == "<Judge of 60 of 100 bytes>"
