"""Whether the bytes of a file are the ones that the catalogue describes.  Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rucio_fs import checksums
from rucio_fs.diskcache.segments import Segment, Segments

CACHE = "the cache"
"""Stands among RSEs for bytes that were received before: nobody knows of which RSE they are."""


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
        self.forgotten = 0  # bytes, received and then in doubt
        self._size = size
        self._wanted = checksums.parse(adler32)
        self._received = Segments(known)
        self.rses = frozenset({CACHE} if self._received.nbytes else ())  # whose bytes were received
        # What is still missing is fetched, and was not compared.
        self.is_right = is_right and self._received.nbytes == size
        self.is_right |= self._wanted is not None and self._found() == self._wanted

    def __repr__(self) -> str:
        return f"<Judge of {self._received.nbytes} of {self._size} bytes>"

    @property
    def received(self) -> int:
        """Bytes, each counted once."""
        return self._received.nbytes

    @property
    def segments(self) -> Iterable[Segment]:
        """What was received."""
        return self._received

    @property
    def awaits_verdict(self) -> bool:
        """Whether it will be known once all is received, and is not yet."""
        return not self.is_right and self._wanted is not None

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of which it is not known what came; none once the file is right."""
        return [] if self.is_right else self._received.missing(start, end)

    def receive(self, segment: Segment, rses: Iterable[str]) -> str | None:
        """Take in what came from *rses*; say what is wrong with the file, if that shows now."""
        self._received.add(segment)
        self.rses |= frozenset(rses)
        if not self.awaits_verdict:
            return None
        found = self._found()
        if found is None:
            return None
        if found != self._wanted:
            return f"the file has adler32 {found:08x}, the catalogue says {self._wanted:08x}"
        self.is_right = True
        return None

    def reach(self, start: int, end: int) -> tuple[int, int]:
        """The range that has checksums in common with one; nothing where that is not known."""
        if self._received.missing(start, end) == [(start, end)]:
            return start, start
        first, last = self._received.at(start), self._received.at(end - 1)
        return first.start if first else start, last.end if last else end

    def doubt(self, start: int, end: int) -> list[tuple[int, int]]:
        """A range is fetched again, and need not be what it was.

        The ranges that are not known any more beside it: they had a checksum in common with it.
        """
        if self._received.missing(start, end) == [(start, end)]:
            return []
        self.is_right = False
        beside: list[tuple[int, int]] = []
        for segment in list(self._received):
            if segment.start < end and segment.end > start:
                self._received.remove(segment)
                self.forgotten += segment.end - segment.start
                beside += [(segment.start, start), (end, segment.end)]
        return [(first, last) for first, last in beside if first < last]

    def begin_anew(self) -> None:
        """What was received was wrong."""
        self._received.clear()
        self.forgotten = 0
        self.rses = frozenset()
        self.is_right = False

    def _found(self) -> int | None:
        return self._received.adler32(self._size)
