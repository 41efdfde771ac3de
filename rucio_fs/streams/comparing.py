"""Whether another source has the bytes that were received."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from rucio_fs import checksums
from rucio_fs.diskcache.segments import Segment
from rucio_fs.sources.base import Source

_STEP = 1 << 20  # bytes that are read at once; others run in between


async def difference(
    received: Callable[[], Iterable[Segment]], source: Source, is_over: Callable[[], bool]
) -> Segment | None:
    """A segment that *source* has otherwise; None if it is the same, or nobody asks any more.

    What is received meanwhile is compared too: at the end there is nothing that was not, until
    somebody else runs.

    Raises: what reading *source* raises.
    """
    same: dict[int, Segment] = {}  # by their start
    while fresh := [one for one in received() if same.get(one.start) != one]:
        for segment in fresh:
            at, adler32 = segment.start, checksums.EMPTY
            # It has grown: only what was joined to it is read.
            while (part := same.get(at)) is not None and part.end <= segment.end:
                adler32 = checksums.combine(adler32, part.adler32, part.end - at)
                at = part.end
            for start in range(at, segment.end, _STEP):
                size = min(_STEP, segment.end - start)
                value = checksums.adler32(await source.read(start, size))
                adler32 = checksums.combine(adler32, value, size)
                await trio.lowlevel.checkpoint()  # what is in memory is read without one
                if is_over():
                    return None
            if adler32 != segment.adler32:
                return segment
            same[segment.start] = segment
    return None
