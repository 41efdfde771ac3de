"""Memory for what is on its way, reused: fresh pages cost as much as receiving the bytes does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rucio_fs.streams import arena
from rucio_fs.streams.arena import Arena

SMALLEST = 1 << 16
"""Bytes; ranges are fetched in multiples of it."""

LARGEST = arena.SIZE
"""Bytes of the largest range that is fetched in one request."""

# Part of the limit; above it, memory that can be spared is used again before more is asked of the
# system: it costs less than pages that nobody has touched.
_MODEST = 4


class _Loan(NamedTuple):
    arena: Arena
    offset: int
    buffer: memoryview


class Buffers:
    """Lends memory in powers of two, *limit* bytes in all if that can be kept.

    *reclaim* is called when that is not enough, with how much is missing and whether that is
    urgent; it gives back what it can spare of what was lent, at least as many bytes as it is asked
    for where it has them.
    """

    def __init__(self, limit: int, reclaim: Callable[[int, bool], None]) -> None:
        self.limit = limit
        self.lent = 0
        self._reclaim = reclaim
        self._arenas: list[Arena] = []
        self._loans: dict[int, _Loan] = {}  # by the identity of their buffers

    def __repr__(self) -> str:
        return f"<Buffers: {self.lent} of {self.held} bytes lent>"

    @property
    def held(self) -> int:
        """Bytes that were asked of the system."""
        return len(self._arenas) * arena.SIZE

    def take(self, size: int, *, is_urgent: bool) -> memoryview | None:
        """At least *size* bytes; None where the limit is reached, unless it *is_urgent*."""
        size = _rounded(size)
        if self.lent + size > self.limit:
            self._reclaim(self.lent + size - self.limit, is_urgent)
        if self.lent + size > self.limit and not is_urgent:
            return None
        best = self._best(size)
        if best is None and self.held >= self.limit // _MODEST:
            self._reclaim(size, False)
            best = self._best(size)
        if best is None:
            best = Arena()
            self._arenas.append(best)
        self.lent += size
        offset, buffer = best.take(size)
        self._loans[id(buffer)] = _Loan(best, offset, buffer)
        return buffer

    def _best(self, size: int) -> Arena | None:
        """The arena with the smallest part that is large enough, so that large ones stay whole."""
        best = min(self._arenas, key=lambda one: one.fit(size), default=None)
        return best if best is not None and best.fit(size) <= arena.SIZE else None

    def give(self, buffer: memoryview) -> None:
        """Take back what `take` gave; nobody looks at it any more."""
        loan = self._loans.pop(id(buffer))
        self.lent -= len(buffer)
        loan.arena.give(loan.offset, len(buffer))
        if self.held - arena.SIZE >= self.limit:
            self._trim(loan.arena)

    def clear(self) -> None:
        """Give what is idle back to the system: nothing is streamed any more."""
        self._trim(*self._arenas)

    def _trim(self, *arenas: Arena) -> None:
        for one in arenas:
            if one.free == arena.SIZE:
                self._arenas.remove(one)


def _rounded(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())
