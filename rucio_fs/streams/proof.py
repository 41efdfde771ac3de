"""That what readers are given is the file of the catalogue.

Nothing is given that the judge does not know: else a file whose reader has come to the end could
not be compared, or would be compared without what was given.  What shows to be wrong is told in
words; what becomes of that is the stream's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rucio_fs import checksums
from rucio_fs.did import FileReplicas
from rucio_fs.diskcache.segments import Segment
from rucio_fs.sources.base import Data
from rucio_fs.sources.pagecache import LARGEST_READ
from rucio_fs.streams.holdings import Holdings
from rucio_fs.streams.judging import Judge
from rucio_fs.streams.pieces import Piece


class Proof:
    """What is known of the bytes of *file*, of which *holdings* are at hand.

    *version* counts the times that they turned out to be wrong.
    """

    def __init__(self, file: FileReplicas, holdings: Holdings) -> None:
        self.version = 0
        self._size = file.size
        self._holdings = holdings
        self._entry = entry = holdings.entry
        self._judge = Judge(
            file.size,
            file.adler32,
            entry.stored if entry is not None else (),
            is_right=entry is not None and entry.is_whole,
        )
        self._times_wrong = entry.times_wrong if entry is not None else 0  # as far as it was told

    def __repr__(self) -> str:
        return f"<Proof by {self._judge!r}>"

    @property
    def received(self) -> int:
        """Bytes, each counted once."""
        return self._judge.received

    @property
    def unproved(self) -> int:
        """Bytes that were received, and wait to be compared; a file without a checksum has none.

        Those that had to be received again count twice: what was given of them first is not known
        any more.
        """
        judge = self._judge
        return judge.received + judge.forgotten if judge.awaits_verdict else 0

    @property
    def segments(self) -> Iterable[Segment]:
        """What was received."""
        return self._judge.segments

    @property
    def is_right(self) -> bool:
        """Whether all of it is here, and is the file of the catalogue."""
        return self._judge.is_right

    @property
    def rses(self) -> frozenset[str]:
        """Whose bytes were received, with `CACHE` for those that were there before."""
        return self._judge.rses

    def begin_anew(self) -> None:
        """What was received was wrong."""
        self.version += 1
        self._judge.begin_anew()

    def take_in(self, start: int, end: int, data: Data) -> str | None:
        """Have the judge know bytes before they are given; say what is wrong if that shows now."""
        entry = self._entry
        if entry is not None and entry.times_wrong != self._times_wrong:
            self._times_wrong = entry.times_wrong
            return "all of it was in the cache, and is not what the catalogue says"
        return self._know(start, end, data)

    def arrived(self, piece: Piece, adler32: int) -> str | None:
        """Have the judge know a piece that is whole; say what is wrong if that shows now."""
        for start, end in self._judge.missing(piece.start, piece.end):
            if end - start < len(piece):  # some of it was given on its way
                adler32 = checksums.adler32(piece.view(start, end))
            words = self._receive(Segment(start, end, adler32), piece.rses)
            if words is not None:
                return words
        return None

    @contextmanager
    def kept_beside(self, start: int, end: int) -> Iterator[None]:
        """Keep in memory, for a moment, what `doubt` of a range needs to see again."""
        pieces = self._holdings.between(*self._judge.reach(start, end))
        for piece in pieces:
            piece.pins += 1
        try:
            yield
        finally:
            for piece in pieces:
                piece.pins -= 1

    def doubt(self, start: int, end: int) -> None:
        """A range is about to be fetched again: all else that was given is to stay known.

        What is on disk can wait for that until it is needed.
        """
        for first, last in self._judge.doubt(start, end):
            for piece in self._holdings.between(first, last):
                if piece.is_done:
                    begin, stop = max(first, piece.start), min(last, piece.end)
                    # With the range itself unknown there is no verdict.
                    self._know(begin, stop, piece.view(begin, stop))

    def gaps(self) -> list[tuple[int, int]]:
        """What is not known yet, if all of the file is here or on its way; nothing if it is not.

        Nor where it is known already whether the file is right, or never will be.
        """
        gaps = self._judge.missing(0, self._size) if self._judge.awaits_verdict else []
        is_near = all(self._holdings.covered_until(*gap) >= gap[1] for gap in gaps)
        return gaps if is_near else []

    def at_hand(self, gaps: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
        """A part of *gaps* that is wholly here; None if they wait for what is on its way.

        It had its checksum in common with neighbours that were fetched again.
        """
        for start, end in gaps:
            for first in range(start, end, LARGEST_READ):
                last = min(end, first + LARGEST_READ)
                if all(piece.is_done for piece in self._holdings.between(first, last)):
                    return first, last
        return None

    def _know(self, start: int, end: int, data: Data) -> str | None:
        for first, last in self._judge.missing(start, end):
            adler32 = checksums.adler32(memoryview(data)[first - start : last - start])
            rses = self._holdings.rses(first, last)
            words = self._receive(Segment(first, last, adler32), rses)
            if words is not None:
                return words
        return None

    def _receive(self, segment: Segment, rses: Iterable[str]) -> str | None:
        words = self._judge.receive(segment, rses)
        entry = self._entry
        if self._judge.is_right and entry is not None and not entry.is_whole:
            entry.is_whole = entry.is_dirty = True
        return words
