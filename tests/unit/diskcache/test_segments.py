"""Ranges and their checksums against a list with a flag for each byte."""

from __future__ import annotations

import zlib
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rucio_fs.checksums import adler32
from rucio_fs.diskcache import segments
from rucio_fs.diskcache.segments import Segment, Segments

SIZE = 60
DATA = bytes((i * 37 + 11) & 0xFF for i in range(SIZE))
RANGES = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), RANGES),
        st.tuples(st.just("remove"), st.integers(0, SIZE)),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=40,
)


def segment(start: int, end: int) -> Segment:
    return Segment(start, end, adler32(DATA[start:end]))


class Model:
    """A flag for each byte."""

    def __init__(self) -> None:
        self.is_there = [False] * SIZE

    def add(self, start: int, end: int) -> bool:
        if start >= end or any(self.is_there[start:end]):
            return False
        self.is_there[start:end] = [True] * (end - start)
        return True

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        gaps = []
        for is_there, group in groupby(range(start, end), lambda i: self.is_there[i]):
            places = list(group)
            if not is_there:
                gaps.append((places[0], places[-1] + 1))
        return gaps

    def covered_until(self, offset: int) -> int:
        while offset < SIZE and self.is_there[offset]:
            offset += 1
        return offset


def agree(found: Segments, model: Model) -> None:
    assert found.nbytes == sum(model.is_there)
    assert [found.at(i) is not None for i in range(SIZE)] == model.is_there
    for start in range(0, SIZE + 1, 3):
        assert found.covered_until(start) == model.covered_until(start)
        for end in range(0, SIZE + 1, 4):
            gaps = model.missing(start, end)
            assert found.missing(start, end) == gaps
            assert found.covers(start, end) is not bool(gaps)
    for first, second in pairwise(found):
        assert first.end <= second.start
    for one in found:
        assert one.adler32 == zlib.adler32(DATA[one.start : one.end])
        assert found.at(one.start) == found.at(one.end - 1) == one
    whole = zlib.adler32(DATA) if all(model.is_there) else None
    assert found.adler32(SIZE) == whole


@pytest.mark.parametrize("largest", [1, 7, 16, 1 << 20])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_they_are_what_a_flag_for_each_byte_is(
    monkeypatch: pytest.MonkeyPatch, largest: int, steps: list[tuple[str, object]]
) -> None:
    monkeypatch.setattr(segments, "LARGEST", largest)
    found, model = Segments(), Model()
    for what, where in steps:
        if what == "add":
            assert isinstance(where, tuple)
            assert found.add(segment(*where)) is model.add(*where)
        elif what == "clear":
            found.clear()
            model.is_there = [False] * SIZE
        else:
            assert isinstance(where, int)
            one = found.at(where)
            if one is not None:
                found.remove(one)
                model.is_there[one.start : one.end] = [False] * (one.end - one.start)
        agree(found, model)
    agree(Segments(found), model)


@settings(deadline=None)
@given(
    cuts=st.sets(st.integers(1, SIZE - 1), max_size=20),
    order=st.randoms(use_true_random=False),
)
def test_in_any_order_they_become_the_whole(cuts: set[int], order: object) -> None:
    edges = sorted({0, SIZE, *cuts})
    parts = list(pairwise(edges))
    order.shuffle(parts)  # type: ignore[attr-defined]
    found = Segments()
    for start, end in parts[:-1]:
        assert found.add(segment(start, end))
        assert found.adler32(SIZE) is None
    assert found.add(segment(*parts[-1]))
    assert found.adler32(SIZE) == zlib.adler32(DATA)
    assert list(found) == [segment(0, SIZE)]


def test_neighbours_are_joined_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proving a byte means reading its segment."""
    monkeypatch.setattr(segments, "LARGEST", 10)
    found = Segments(segment(i, i + 3) for i in range(0, 30, 3))
    assert all(one.end - one.start <= 10 for one in found)
    assert len(found) < 10
    assert found.covered_until(0) == 30


def test_one_that_is_larger_than_the_limit_stays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LARGEST", 10)
    found = Segments([segment(0, 1), segment(1, 30), segment(30, 31)])
    assert [one[:2] for one in found] == [(0, 1), (1, 30), (30, 31)]


def test_removing_what_is_not_there() -> None:
    found = Segments([segment(0, 10)])
    with pytest.raises(ValueError):
        found.remove(segment(0, 9))
    assert found.nbytes == 10


def test_a_file_without_bytes_has_a_checksum() -> None:
    assert Segments().adler32(0) == zlib.adler32(b"")


def test_a_look_at_a_part_does_not_walk_through_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read asks; a terabyte has 100,000 segments."""
    monkeypatch.setattr(segments, "LARGEST", 1)
    found = Segments(segment(i, i + 1) for i in range(SIZE))
    seen: list[int] = []

    class Counting(list[Segment]):
        def __getitem__(self, index: Any) -> Any:
            where = range(len(self))[index]
            seen.extend(where if isinstance(where, range) else [where])
            return super().__getitem__(index)

    found._all = Counting(found._all)
    assert found.covers(5, 7)
    assert len(seen) < 5
