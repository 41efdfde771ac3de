"""A stretch of memory in huge pages, lent in parts."""

from __future__ import annotations

import mmap
from collections import defaultdict
from contextlib import suppress

SIZE = 8 << 20
"""Bytes of an arena."""


class Arena:
    """Lends parts whose sizes are powers of two, each at a multiple of its size: a buddy system.

    In pages of 4 KiB, first touching the memory costs a fifth of what streaming a file does, and
    the kernel has to look each page up whenever it reads or writes past its cache.  Shared memory,
    Python's default, gets huge pages nowhere (``shmem_enabled`` is ``never``).
    Source: Linux, Documentation/admin-guide/mm/transhuge.rst.
    """

    def __init__(self) -> None:
        memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._memory = memoryview(memory)
        self._free: defaultdict[int, set[int]] = defaultdict(set, {SIZE: {0}})

    def __repr__(self) -> str:
        return f"<Arena: {SIZE - self.free} bytes lent>"

    @property
    def free(self) -> int:
        """Bytes that are not lent."""
        return sum(size * len(offsets) for size, offsets in self._free.items())

    def fit(self, size: int) -> int:
        """Bytes of the smallest free part that has *size*; more than SIZE if there is none."""
        while size <= SIZE and not self._free[size]:
            size *= 2
        return size

    def take(self, size: int) -> tuple[int, memoryview]:
        """A part of *size* bytes, for which it has to be fit; and its offset, to give it back."""
        found = self.fit(size)
        offset = min(self._free[found])
        self._free[found].remove(offset)
        while found > size:
            found //= 2
            self._free[found].add(offset + found)
        return offset, self._memory[offset : offset + size]

    def give(self, offset: int, size: int) -> None:
        """Take back what `take` gave."""
        while size < SIZE and offset ^ size in self._free[size]:
            self._free[size].remove(offset ^ size)
            offset &= ~size
            size *= 2
        self._free[size].add(offset)
