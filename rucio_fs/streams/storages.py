"""The storages as we have met them: how fast, how reliable, how many requests each bears."""

from __future__ import annotations

import trio
from cachetools import LRUCache

from rucio_fs.webdav.addresses import Origin

_REMEMBERED = 1000  # storages; a lake has hundreds
_FIRST_SETBACK, _LONGEST_SETBACK = 0.5, 30.0  # s; doubled with each failure
_LONGEST_PAUSE = 2.0  # s until it is tried again all the same where nobody else has the file
_SLOW = 4.0  # times slower than another one that has the file: then that one is asked first
_MEASURED = 1 << 18  # bytes; a smaller range tells the latency, not the rate
_WEIGHT = 0.3  # of the latest measurement


class Storage:
    """One server.  Times are trio's clock, in s; *rate* is bytes/s of one request, 0: not known.

    It is asked after others until *set_back_until*, and not at all before *try_again_at*.
    Requests that a reader waits for have places of their own, so that those made ahead do not
    stand in their way.
    """

    def __init__(self, connections: int) -> None:
        self.ahead = trio.CapacityLimiter(connections)
        self.urgent = trio.CapacityLimiter(connections)
        self.rate = 0.0
        self.set_back_until = float("-inf")
        self.try_again_at = float("-inf")
        self._failures = 0

    def __repr__(self) -> str:
        return f"<Storage: {self.rate:.3g} B/s, {self._failures} failures>"

    def succeeded(self, nbytes: int, seconds: float) -> None:
        self._failures = 0
        self.set_back_until = self.try_again_at = float("-inf")
        if nbytes >= _MEASURED and seconds > 0:
            rate = nbytes / seconds
            self.rate = rate if not self.rate else _WEIGHT * rate + (1 - _WEIGHT) * self.rate

    def failed(self, retry_after: float | None = None) -> None:
        """Ask others first for a while; *retry_after* is how long the server wants it (s)."""
        now = trio.current_time()
        if now >= self.set_back_until:  # what fails together is one failure
            self._failures += 1
        asked = min(_LONGEST_SETBACK, retry_after or 0.0)
        pause = min(_LONGEST_SETBACK, _FIRST_SETBACK * 2 ** min(self._failures - 1, 10))
        self.set_back_until = max(self.set_back_until, now + max(pause, asked))
        again_in = max(min(pause, _LONGEST_PAUSE), asked)
        self.try_again_at = max(self.try_again_at, now + again_in)

    def is_slow(self, best: float) -> bool:
        """Whether it is much slower than the *best* rate there is."""
        return 0 < self.rate * _SLOW < best


class Storages:
    """All of them.  *connections* a storage and *total* at once."""

    def __init__(self, connections: int, total: int) -> None:
        self._connections = connections
        self._known: LRUCache[Origin, Storage] = LRUCache(_REMEMBERED)
        self.total = trio.CapacityLimiter(total)

    def of(self, origin: Origin) -> Storage:
        found: Storage | None = self._known.get(origin)
        if found is None:
            found = self._known[origin] = Storage(self._connections)
        return found
