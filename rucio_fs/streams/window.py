"""How far ahead of a reader it pays to fetch, told from what it has read so far.  Pure."""

from __future__ import annotations

NEAR = 1 << 20
"""Bytes between two reads that are still one stream: the kernel's read-ahead sends reads of up to
1 MiB that overtake each other."""


class Window:
    """The access pattern of one open file.

    A reader that goes on where it was is given twice of what it has read in one go, up to a limit;
    one that jumps is given what it asks for.  So ``head`` moves little, and a copy is at full
    speed after a few reads.
    """

    def __init__(self) -> None:
        self._next = 0  # where a sequential reader goes on
        self._run = 0  # bytes read in one go

    def __repr__(self) -> str:
        return f"<Window: {self._run} bytes up to {self._next}>"

    @property
    def is_sequential(self) -> bool:
        return self._run > 0

    def ahead(self, offset: int, size: int, limit: int) -> int:
        """Note a read of *size* bytes at *offset*; how many bytes after it to fetch, up to *limit*.

        What is not ahead of the reader does not count: a second reader of the same range, or one
        that steps back a little, keeps its pace.
        """
        end = offset + size
        if self._next - self._run - NEAR <= offset <= self._next + NEAR:
            self._run += max(0, end - self._next)
            self._next = max(self._next, end)
        else:
            self._run, self._next = 0, end
        return min(limit, 2 * self._run)
