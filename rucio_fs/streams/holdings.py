"""What of a file is at hand: pieces in memory, and what the cache on disk has."""

from __future__ import annotations

import mmap
from itertools import count
from math import inf

from rucio_fs.diskcache.entry import Entry
from rucio_fs.sources.base import Data
from rucio_fs.sources.pagecache import LARGEST_READ
from rucio_fs.streams.judging import CACHE
from rucio_fs.streams.pieces import Piece

_scratch = memoryview(mmap.mmap(-1, LARGEST_READ))  # fresh memory costs more than the copy


class Holdings:
    """The *pieces* of one file, in order and disjoint, over its *entry* in the cache.

    *clock* counts what is used when, of all files.
    """

    def __init__(self, size: int, entry: Entry | None, clock: count[int]) -> None:
        self.pieces: list[Piece] = []
        self.entry = entry
        self._size = size
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Holdings: {len(self.pieces)} pieces, {self.entry!r}>"

    def add(self, piece: Piece) -> None:
        piece.used_at = next(self._clock)
        position = sum(one.start < piece.start for one in self.pieces)
        self.pieces.insert(position, piece)

    def piece_at(self, offset: int) -> Piece | None:
        for piece in self.pieces:
            if piece.start <= offset < piece.end:
                return piece
        return None

    def between(self, start: int, end: int) -> list[Piece]:
        """Pieces with a byte between *start* and *end*."""
        return [piece for piece in self.pieces if piece.start < end and piece.end > start]

    def rses(self, start: int, end: int) -> set[str]:
        """Whose bytes are at hand of a range, which is all here; what is on disk is `CACHE`'s."""
        pieces = self.between(start, end)
        in_memory = sum(min(end, one.end) - max(start, one.start) for one in pieces)
        rses = {rse for piece in pieces for rse in piece.rses}
        return rses if in_memory == end - start else {*rses, CACHE}

    def is_on_disk(self, piece: Piece) -> bool:
        return self.entry is not None and self.entry.stored.covers(piece.start, piece.end)

    def covered_until(self, offset: int, limit: float = inf) -> int:
        """End of what is here or on its way from *offset* on without a gap.

        *limit*: as in `Segments.covered_until`.
        """
        while True:
            piece = self.piece_at(offset)
            after = piece.end if piece is not None else offset
            if self.entry is not None:
                after = self.entry.stored.covered_until(after, limit)
            if after == offset or after >= limit:
                return after
            offset = after

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges that are neither here nor on their way."""
        gaps: list[tuple[int, int]] = []
        while start < end:
            covered = self.covered_until(start, end)
            if covered > start:
                start = covered
                continue
            stop = min(end, self._next_piece(start))
            if self.entry is not None:
                stop = self.entry.stored.missing(start, stop)[0][1]
            gaps.append((start, stop))
            start = stop
        return gaps

    async def read(self, offset: int, end: int) -> Data | None:
        """The bytes if all of them are here; None if some are not, or not any more."""
        piece = self.piece_at(offset)
        if piece is not None and piece.end >= end and piece.has(end):
            piece.used_at = next(self._clock)
            return piece.view(offset, end)  # atomic: handed on before anybody else runs
        if self.entry is not None and piece is None:
            size = end - offset
            data = self.entry.at_hand(offset, size) or await self.entry.read(offset, size)
            if data is not None:
                return data
        return self._together(offset, end) or await self._joined(offset, end)

    def _together(self, offset: int, end: int) -> memoryview | None:
        """The bytes from pieces alone; as those of `PageCache.read`, to be handed on at once."""
        size = end - offset
        if size > LARGEST_READ:
            return None
        at = 0
        for piece in self.between(offset, end):
            stop = min(end, piece.end)
            if piece.start > offset + at or not piece.has(stop):
                return None
            part = piece.view(offset + at, stop)
            _scratch[at : at + len(part)] = part
            at += len(part)
            piece.used_at = next(self._clock)
        return _scratch[:size] if at == size else None

    async def _joined(self, offset: int, end: int) -> bytes | None:
        """The bytes from memory and disk."""
        parts: list[bytes] = []
        while offset < end:
            piece = self.piece_at(offset)
            if piece is not None:
                stop = min(end, piece.end)
                if not piece.has(stop):
                    return None
                piece.used_at = next(self._clock)
                parts.append(bytes(piece.view(offset, stop)))
            elif self.entry is not None:
                stop = min(
                    end, self.entry.stored.covered_until(offset, end), self._next_piece(offset)
                )
                part = await self.entry.read(offset, stop - offset) if stop > offset else None
                if part is None:
                    return None
                parts.append(part)
            else:
                return None
            offset = stop
        return b"".join(parts)

    def _next_piece(self, offset: int) -> int:
        later = (one.start for one in self.pieces if one.start > offset)
        return min(later, default=self._size)
