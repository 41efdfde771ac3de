"""What is on its way, what became of it, and how long such things take."""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio
from cachetools import LRUCache

from rucio_fs.did import DID, Identity
from rucio_fs.errors import RucioFsError
from rucio_fs.rules.delivery import Delivery, State
from rucio_fs.rules.events import Events

log = logging.getLogger(__name__)

REMEMBERED = 1000
"""DIDs of which it is remembered why they were refused last."""

_FINISHED = 50  # deliveries whose duration says how long the next one takes


class Board:
    """The deliveries of a mount, one for a DID.

    *on_arrival* is called with a delivery when its data is here.
    """

    def __init__(
        self, on_arrival: Callable[[Delivery], None], events: Events | None = None
    ) -> None:
        self.on_arrival = on_arrival
        self.events = events if events is not None else Events()
        self._deliveries: dict[tuple[Identity, DID], Delivery] = {}
        self._refusals: LRUCache[tuple[Identity, DID], RucioFsError] = LRUCache(REMEMBERED)
        self._durations: deque[float] = deque(maxlen=_FINISHED)

    def __len__(self) -> int:
        return len(self._deliveries)

    def get(self, who: Identity, did: DID) -> Delivery | None:
        return self._deliveries.get((who, did))

    def add(self, delivery: Delivery) -> None:
        """A new attempt: why the last one was refused does not count any more."""
        self._deliveries[delivery.who, delivery.did] = delivery
        self._refusals.pop((delivery.who, delivery.did), None)

    def drop(self, delivery: Delivery) -> None:
        if self._deliveries.get((delivery.who, delivery.did)) is delivery:
            del self._deliveries[delivery.who, delivery.did]

    def all(self) -> Sequence[Delivery]:
        """The oldest first."""
        return sorted(self._deliveries.values(), key=lambda one: one.since)

    def refusal(self, who: Identity, did: DID) -> RucioFsError | None:
        """Why *did* could not be brought when that was tried last."""
        error: RucioFsError | None = self._refusals.get((who, did))
        return error

    def eta(self, delivery: Delivery) -> float | None:
        """Seconds until it will probably be here; None if nothing tells."""
        elapsed = trio.current_time() - delivery.began_at
        if delivery.state is not State.REPLICATING or elapsed <= 0:
            return None
        if not delivery.is_file:
            arrived = delivery.here.bytes - delivery.bytes_at_first
            if not delivery.bytes or arrived <= 0:
                return None
            return (delivery.bytes - delivery.here.bytes) * elapsed / arrived
        if not self._durations:
            return None
        left = statistics.median(self._durations) - elapsed
        return left if left > 0 else None

    def transfers(self) -> list[dict[str, Any]]:
        """Everything on its way, the oldest first, for `.rucio/transfers`."""
        return [
            delivery.progress(self.eta(delivery))
            | {"waiting": delivery.waiting, "uids": sorted(delivery.uids)}
            for delivery in self.all()
        ]

    def changed(self, delivery: Delivery) -> None:
        """A delivery stands differently: remember it, and say so where people look."""
        key = (delivery.who, delivery.did)
        state, error = delivery.state, delivery.error
        if delivery.is_over:
            self.drop(delivery)
            if error is not None:
                self._refusals[key] = error
        if state is State.AVAILABLE:
            took = trio.current_time() - delivery.began_at
            if delivery.is_file and delivery.rule_id is not None:
                self._durations.append(took)
            self.on_arrival(delivery)
        self.events.note(
            "refused" if delivery.is_over and error is not None else state.value.lower(),
            delivery.did,
            rule_id=delivery.rule_id,
            state=state.value,
            error=None if error is None else str(error),
        )
        if error is not None:
            self.events.problem(delivery.did, state.value, str(error), delivery.rule_id)
            # Whoever waits is told, and that is logged.
            log.log(logging.DEBUG if delivery.waiting else error.level, "%s", error)
