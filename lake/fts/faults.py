"""The injected faults: who is hit, how often, and the hall where stalled transfers wait."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lake.fts.records import Injection, Kind

if TYPE_CHECKING:
    from collections.abc import Set

    from lake.fts.cancelling import Cancellation


@dataclass
class _Order:
    """An injection and how many hits it has left (None: no end)."""

    injection: Injection
    left: int | None

    def hits(self, source: str, destination: str) -> bool:
        return self.injection.match in source or self.injection.match in destination


@dataclass(frozen=True)
class Taken:
    """What hits one transfer: at most one injection of each kind."""

    injections: dict[Kind, Injection]
    releases: int  # how often stalls had been released by then, see `Faults.stall`

    def get(self, kind: Kind) -> Injection | None:
        """Return the injection of *kind*, if any."""
        return self.injections.get(kind)


class Faults:
    """All injections of one service.  Safe from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._orders: list[_Order] = []
        self._stalled: list[str] = []
        # Raised by one with every release: a transfer stays stalled while it is what it was when
        # the stall was taken.  So a release between taking and waiting is not missed.
        self._releases = 0

    def add(self, injection: Injection) -> None:
        """Spoil transfers that start from now on."""
        with self._changed:
            self._orders.append(_Order(injection, injection.times))

    def active(self) -> list[Injection]:
        """Return the injections that can still hit something, oldest first."""
        with self._changed:
            return [order.injection for order in self._orders]

    def take(self, source: str, destination: str, kinds: Set[Kind]) -> Taken:
        """Return what of *kinds* hits this transfer, the oldest of each, and count the hits."""
        taken: dict[Kind, Injection] = {}
        with self._changed:
            for order in self._orders:
                kind = order.injection.kind
                if kind in kinds and kind not in taken and order.hits(source, destination):
                    taken[kind] = order.injection
                    if order.left is not None:
                        order.left -= 1
            self._orders = [order for order in self._orders if order.left != 0]
            return Taken(taken, self._releases)

    def stall(self, destination: str, taken: Taken, cancellation: Cancellation) -> None:
        """Wait for `release` or `clear`.  Raises: TransferCanceledError."""
        cancellation.call_on_cancel(self._wake)
        with self._changed:
            self._stalled.append(destination)
            self._changed.notify_all()
            try:
                self._changed.wait_for(
                    lambda: self._releases != taken.releases or cancellation.is_set
                )
            finally:
                self._stalled.remove(destination)
        cancellation.check()

    def wait_stalled(self, count: int, seconds: float) -> list[str]:
        """Wait at most *seconds* until *count* transfers are stalled; return their destinations."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._stalled) >= count, seconds)
            return list(self._stalled)

    def release(self) -> None:
        """Let stalled transfers go on and forget the stalls, also those that hit nothing yet."""
        self._drop({Kind.STALL, Kind.STALL_STAGING})

    def clear(self) -> None:
        """Forget every injection and let stalled transfers go on."""
        self._drop(set(Kind))

    def _drop(self, kinds: set[Kind]) -> None:
        with self._changed:
            self._orders = [o for o in self._orders if o.injection.kind not in kinds]
            self._releases += 1
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
