"""Connections that are kept open between requests."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from rucio_fs.webdav.addresses import Origin

C = TypeVar("C")


class _Kept(NamedTuple, Generic[C]):
    connection: C
    since: float
    rests_until: float


class Idle(Generic[C]):
    """Idle connections by origin.  For many threads.

    *end* is called with each that is not kept any longer.
    """

    def __init__(self, end: Callable[[C], None]) -> None:
        self._end = end
        self._kept: defaultdict[Origin, list[_Kept[C]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._is_closed = False

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def take(self, origin: Origin) -> C | None:
        """The one that was used last, of those that have rested."""
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(origin, [])
            for one in reversed(kept):
                if one.rests_until <= now:
                    kept.remove(one)
                    return one.connection
        return None

    def keep(self, origin: Origin, connection: C, rest: float = 0.0) -> None:
        """Have *connection* for a later request, not before *rest* (s) is over."""
        now = time.monotonic()
        with self._lock:
            if not self._is_closed:
                self._kept[origin].append(_Kept(connection, now, now + rest))
                return
        self._end(connection)

    def end_older(self, than: float) -> None:
        """End those that nobody has used for that long (s)."""
        latest = time.monotonic() - than
        old: list[_Kept[C]] = []
        with self._lock:
            for origin, kept in list(self._kept.items()):
                old += [one for one in kept if one.since <= latest]
                self._kept[origin] = [one for one in kept if one.since > latest]
                if not self._kept[origin]:
                    del self._kept[origin]
        for one in old:
            self._end(one.connection)

    def close(self) -> None:
        """End all, and those that come later at once."""
        with self._lock:
            self._is_closed = True
        self.end_older(0)
