"""Memory for what is on its way, reused: fresh pages cost as much as receiving the bytes does."""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Callable

SMALLEST = 1 << 16
"""Bytes; ranges are fetched in multiples of it."""

LARGEST = 8 << 20
"""Bytes of the largest range that is fetched in one request."""


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
        self._idle: defaultdict[int, list[memoryview]] = defaultdict(list)
        self._idle_bytes = 0

    def __repr__(self) -> str:
        return f"<Buffers: {self.lent} bytes lent, {self._idle_bytes} idle>"

    def take(self, size: int, *, is_urgent: bool) -> memoryview | None:
        """At least *size* bytes; None where the limit is reached, unless it *is_urgent*."""
        size = _rounded(size)
        if self.lent + size > self.limit:
            self._reclaim(self.lent + size - self.limit, is_urgent)
        if self.lent + size > self.limit and not is_urgent:
            return None
        self.lent += size
        if self._idle[size]:
            self._idle_bytes -= size
            return self._idle[size].pop()
        self._trim(self.limit - self.lent)
        return memoryview(mmap.mmap(-1, size))

    def give(self, buffer: memoryview) -> None:
        """Take back what `take` gave; nobody looks at it any more."""
        size = len(buffer)
        self.lent -= size
        self._idle[size].append(buffer)
        self._idle_bytes += size
        self._trim(self.limit - self.lent)

    def clear(self) -> None:
        """Give what is idle back to the system: nothing is streamed any more."""
        self._trim(0)

    def _trim(self, allowed: int) -> None:
        for buffers in self._idle.values():
            while buffers and self._idle_bytes > max(0, allowed):
                self._idle_bytes -= len(buffers.pop())


def _rounded(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())
