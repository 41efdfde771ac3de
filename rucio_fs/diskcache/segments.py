"""Which ranges of a file are there, each with the checksum of its bytes.  Pure.

One structure for three questions: what has to be fetched, is a range on disk still what was
written, and is the whole file the one that the catalogue describes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

from rucio_fs import checksums

LARGEST = 8 << 20
"""Bytes up to which neighbours become one segment: proving a byte means reading its segment."""


class Segment(NamedTuple):
    """The bytes from *start* up to *end* and their adler32."""

    start: int
    end: int
    adler32: int


class Segments:
    """Disjoint segments in order.  Small neighbours are joined."""

    def __init__(self, segments: Iterable[Segment] = ()) -> None:
        self._starts: list[int] = []
        self._all: list[Segment] = []
        self.nbytes = 0
        for segment in segments:
            self.add(segment)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._all)

    def __repr__(self) -> str:
        return f"<Segments: {self.nbytes} bytes in {len(self)}>"

    def add(self, segment: Segment) -> bool:
        """Take *segment* in, unless it is empty or a byte of it is there; say whether it was."""
        start, end, _ = segment
        if start >= end or self.missing(start, end) != [(start, end)]:
            return False
        self.nbytes += end - start
        index = bisect_left(self._starts, start)
        if index < len(self._all) and self._fits(segment, self._all[index]):
            segment = _joined(segment, self._all[index])
            self._drop(index)
        if index and self._fits(self._all[index - 1], segment):
            index -= 1
            segment = _joined(self._all[index], segment)
            self._drop(index)
        self._starts.insert(index, segment.start)
        self._all.insert(index, segment)
        return True

    def remove(self, segment: Segment) -> None:
        """Drop one of those that are there.  Raises: ValueError"""
        self._drop(self._all.index(segment))
        self.nbytes -= segment.end - segment.start

    def clear(self) -> None:
        self._starts.clear()
        self._all.clear()
        self.nbytes = 0

    def at(self, offset: int) -> Segment | None:
        """The segment with the byte at *offset*."""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and offset < self._all[index].end:
            return self._all[index]
        return None

    def covered_until(self, offset: int, limit: float = inf) -> int:
        """End of the bytes that are there from *offset* on without a gap; *offset* if none is.

        Who needs to know no more than whether that is beyond *limit* need not wait for the end.
        """
        index = bisect_right(self._starts, offset) - 1
        if index < 0 or offset >= self._all[index].end:
            return offset
        while (
            self._all[index].end < limit
            and index + 1 < len(self._all)
            and self._starts[index + 1] == self._all[index].end
        ):
            index += 1
        return self._all[index].end

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The gaps between *start* and *end*."""
        gaps: list[tuple[int, int]] = []
        index = max(0, bisect_right(self._starts, start) - 1)
        while start < end and index < len(self._all):
            segment = self._all[index]
            if segment.start >= end:
                break
            if segment.start > start:
                gaps.append((start, segment.start))
            start = max(start, segment.end)
            index += 1
        if start < end:
            gaps.append((start, end))
        return gaps

    def covers(self, start: int, end: int) -> bool:
        return not self.missing(start, end)

    def adler32(self, size: int) -> int | None:
        """Checksum of a file of *size* bytes; None while something of it is missing."""
        if self.nbytes != size:
            return None
        value = checksums.EMPTY
        for start, end, adler32 in self._all:
            value = checksums.combine(value, adler32, end - start)
        return value

    def _fits(self, first: Segment, second: Segment) -> bool:
        return first.end == second.start and second.end - first.start <= LARGEST

    def _drop(self, index: int) -> None:
        del self._starts[index], self._all[index]


def _joined(first: Segment, second: Segment) -> Segment:
    adler32 = checksums.combine(first.adler32, second.adler32, second.end - second.start)
    return Segment(first.start, second.end, adler32)
