"""Whether the bytes of a file are the ones that the catalogue describes.  Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rucio_fs import checksums
from rucio_fs.diskcache.segments import Segment, Segments


class Judge:
    """Collects the checksums of a file's ranges until they make up the whole.

    *adler32* is the catalogue's; without one nothing can be judged.  *known* are ranges that were
    received before, *is_right* if they were compared already.
    """

    def __init__(
        self,
        size: int,
        adler32: str | None,
        known: Iterable[Segment] = (),
        *,
        is_right: bool = False,
    ) -> None:
        self.rses: frozenset[str] = frozenset()  # whose bytes were received
        self._size = size
        self._wanted = checksums.parse(adler32)
        self._received = Segments(known)
        # What is still missing is fetched, and was not compared.
        self.is_right = is_right and self._received.nbytes == size
        self.is_right |= self._wanted is not None and self._found() == self._wanted

    def __repr__(self) -> str:
        return f"<Judge of {self._received.nbytes} of {self._size} bytes>"

    @property
    def received(self) -> int:
        """Bytes, each counted once."""
        return self._received.nbytes

    def receive(self, segment: Segment, rses: Iterable[str]) -> str | None:
        """Take in what came from *rses*; say what is wrong with the file, if that shows now."""
        self._received.add(segment)
        self.rses |= frozenset(rses)
        if self.is_right or self._wanted is None:
            return None
        found = self._found()
        if found is None:
            return None
        if found != self._wanted:
            return f"the file has adler32 {found:08x}, the catalogue says {self._wanted:08x}"
        self.is_right = True
        return None

    def doubt(self, start: int, end: int) -> None:
        """A range is fetched again, and need not be what it was."""
        if self._received.missing(start, end) == [(start, end)]:
            return
        self.is_right = False
        for segment in list(self._received):
            if segment.start < end and segment.end > start:
                self._received.remove(segment)

    def begin_anew(self) -> None:
        """What was received was wrong."""
        self._received.clear()
        self.rses = frozenset()
        self.is_right = False

    def knows_soon(self, coming: Iterable[tuple[int, int]]) -> bool:
        """Whether it will be known once the ranges *coming* are in, and is not yet."""
        if self.is_right or self._wanted is None:
            return False
        ranges = sorted(coming)
        gaps = self._received.missing(0, self._size)
        return bool(gaps) and all(_is_within(gap, ranges) for gap in gaps)

    def _found(self) -> int | None:
        return self._received.adler32(self._size)


def _is_within(gap: tuple[int, int], ranges: Iterable[tuple[int, int]]) -> bool:
    start, end = gap
    for first, last in ranges:
        if first <= start < last:
            start = last
    return start >= end
