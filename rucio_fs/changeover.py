"""Files that are streamed while a copy is on its way, and read from that once it has come."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable

import trio

from rucio_fs.callers import Caller
from rucio_fs.did import DID, Identity
from rucio_fs.errors import RucioFsError
from rucio_fs.relay import Beginning, Relay
from rucio_fs.rules.keeper import RuleKeeper
from rucio_fs.sources.base import Source
from rucio_fs.sources.local import LocalSource

log = logging.getLogger(__name__)

_INTEREST = 5.0  # s between two notes that somebody would like a copy to come

Copy = Callable[[], Awaitable[tuple[LocalSource, str]]]
"""Opens the local copy, and says of which RSE it is."""


class Changeover:
    """Has copies made and changes open files over to them; what takes time runs in *nursery*.

    *find* asks where the file is now; its answer is None if it is not here.
    """

    def __init__(
        self,
        keeper: RuleKeeper,
        nursery: trio.Nursery,
        find: Callable[[Identity, DID], Awaitable[Copy | None]],
    ) -> None:
        self.switched = 0  # open files, to the copy that a rule has brought
        self._keeper = keeper
        self._nursery = nursery
        self._find = find
        self._relays: defaultdict[tuple[Identity, DID], set[Relay]] = defaultdict(set)

    def __repr__(self) -> str:
        return f"<Changeover: {sum(map(len, self._relays.values()))} open files>"

    def begin(
        self,
        who: Identity,
        did: DID,
        caller: Caller,
        through: DID | None,
        source: Beginning,
        reopen: Callable[[], Awaitable[Beginning]],
    ) -> Source:
        """*source*, a stream of *did*, until a copy is here; the rule for it is made meanwhile."""
        relay = Relay(source, reopen, self._interest(who, did))
        self._relays[who, did].add(relay)
        self._nursery.start_soon(self._bring, who, did, caller, through)
        return relay

    def forget(self, who: Identity, did: DID, source: Source) -> None:
        """It was closed."""
        relays = self._relays.get((who, did))
        if relays is not None and isinstance(source, Relay):
            relays.discard(source)
            if not relays:
                del self._relays[who, did]

    def arrived(self, who: Identity, did: DID) -> None:
        """A copy has come: who streams it goes on with that."""
        if self._relays.get((who, did)):
            self._nursery.start_soon(self._change_over, who, did)

    async def _bring(self, who: Identity, did: DID, caller: Caller, through: DID | None) -> None:
        try:
            await self._keeper.bring(who, caller, did, through=through, wait=0.0)
        except RucioFsError as exc:
            # Also that it is not here yet.  What keeps it away is told by user.rucio.error.
            log.debug("%s is streamed meanwhile: %s", did, exc)
        else:
            await self._change_over(who, did)

    def _interest(self, who: Identity, did: DID) -> Callable[[], None]:
        """What tells, at each read, that somebody would like the copy to come."""
        told_at = float("-inf")

        def on_read() -> None:
            nonlocal told_at
            now = trio.current_time()
            if now - told_at >= _INTEREST:
                told_at = now
                self._keeper.delivery(who, did)

        return on_read

    async def _change_over(self, who: Identity, did: DID) -> None:
        try:
            open_copy = await self._find(who, did)
            for relay in list(self._relays.get((who, did), ())):
                if open_copy is not None and not relay.has_switched:
                    source, rse = await open_copy()
                    if await relay.change_over(source):
                        self.switched += 1
                        log.info("%s has come to %s and is read there from now on", did, rse)
        except RucioFsError as exc:
            log.info("%s has come, but is streamed on: %s", did, exc)
