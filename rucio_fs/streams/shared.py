"""What all streams of a mount have in common: memory, connections, a disk that may be slow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import trio

from rucio_fs.did import FileReplicas
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import RucioFsError
from rucio_fs.streams.buffers import Buffers
from rucio_fs.streams.fetching import Fetcher
from rucio_fs.streams.pieces import Piece

_KEEPING = 0.5  # of the memory may wait for a disk that is slow
_SLOW_DISK = 0.5  # s to write one piece; a disk of 200 MB/s takes a tenth


class Share(NamedTuple):
    """What one stream may have fetched ahead."""

    nbytes: int
    requests: int


class Spare(NamedTuple):
    """Memory of a piece that can be given up; it *is_ahead* of a reader, or was used then."""

    is_ahead: bool
    used_at: int
    nbytes: int
    give_up: Callable[[], None]


@dataclass(slots=True)
class Shared:
    """What all streams of a mount have in common.

    *share* says how many bytes one stream may have fetched ahead now, and in how many requests.
    Told are: *on_wrong* of a file whose bytes were wrong, with words and the RSEs they came from;
    *on_read* of the first read of a reader that went well, and of each that failed.  *deadline* (s)
    is that of a read.  *clock* counts uses of memory, *keeping* holds what is being written to
    disk, and since when.
    """

    fetcher: Fetcher
    buffers: Buffers
    store: Store | None
    nursery: trio.Nursery
    deadline: float
    share: Callable[[], Share]
    on_wrong: Callable[[FileReplicas, str, frozenset[str]], None]
    on_read: Callable[[FileReplicas, RucioFsError | None], None]
    clock: count[int] = field(default_factory=count)
    keeping: dict[Piece, float] = field(default_factory=dict)

    def is_disk_slow(self) -> bool:
        """Whether what waits for the disk takes much of the memory, and has for a while.

        As long as the disk keeps up, more or less, fetching waits for it: else it would have holes
        of what a reader reads at full speed.
        """
        oldest = next(iter(self.keeping.values()), float("inf"))
        if trio.current_time() - oldest < _SLOW_DISK:
            return False
        return sum(map(len, self.keeping)) > self.buffers.limit * _KEEPING
