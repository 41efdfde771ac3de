"""From a DID to its bytes: where is it, have it brought, open it or say why not."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

import trio

from rucio_fs.availability import (
    STREAMED,
    Arriving,
    Bring,
    Decision,
    Elsewhere,
    Forbidden,
    Local,
    Nearline,
    Nowhere,
    Policy,
    Site,
    Stream,
    Unmapped,
    decide,
    streamable,
)
from rucio_fs.callers import NOBODY, Caller
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.did import DID, FileReplicas, Identity
from rucio_fs.errors import (
    Corrupt,
    NoReplica,
    NotFound,
    NotYetHere,
    OnTape,
    RucioFsError,
    Unreachable,
)
from rucio_fs.relay import Relay
from rucio_fs.rules.keeper import RuleKeeper
from rucio_fs.rules.using import Using
from rucio_fs.sources.base import Source
from rucio_fs.sources.local import LocalSource
from rucio_fs.streams.streams import Streams
from rucio_fs.tracing import Tracer

log = logging.getLogger(__name__)

_TRIES = 4  # looks at the replicas in one open; they move
_INTEREST = 5.0  # s between two notes that somebody would like a copy to come
_SETTLING = 1.0  # s between two looks for a file that has just come: NFS remembers it was not there


@dataclass(frozen=True, slots=True)
class Prospect:
    """What would happen if the file were opened now."""

    file: FileReplicas
    decision: Decision
    error: RucioFsError | None


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file; `close` has to be called once.

    *keeps_cache*: the kernel may keep the pages it has of the file.
    """

    source: Source
    on_close: Callable[[], None]
    keeps_cache: bool = True

    def close(self) -> None:
        self.source.close()
        self.on_close()


@dataclass(frozen=True, slots=True)
class Bringing:
    """What an open needs to have a file brought.  *wait* is in s."""

    keeper: RuleKeeper
    using: Using
    wait: float


@dataclass(slots=True)
class Counters:
    """How files were opened, for `.rucio/status`."""

    local: int = 0
    streamed: int = 0
    switched: int = 0  # to the copy that a rule has brought meanwhile


class Opener:
    """Opens files for the tree: one instance serves all opens.

    What goes on behind an open file (a rule is made, its copy arrives) runs in *nursery*.
    """

    def __init__(
        self,
        catalogue: CachedCatalogue,
        site: Site,
        *,
        timeout: float,
        now_ttl: float,
        policy: Policy | None = None,
        bringing: Bringing | None = None,
        streams: Streams | None = None,
        tracer: Tracer | None = None,
        nursery: trio.Nursery | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._site = site
        self._timeout = timeout
        self._now_ttl = now_ttl
        self._policy = policy or Policy()
        self._bringing = bringing
        self._streams = streams
        self._tracer = tracer
        self._nursery = nursery
        self._relays: defaultdict[tuple[Identity, DID], set[Relay]] = defaultdict(set)
        self.counters = Counters()

    async def open(
        self,
        who: Identity,
        did: DID,
        *,
        caller: Caller = NOBODY,
        through: DID | None = None,
        nonblocking: bool = False,
    ) -> Opened:
        """The bytes of *did* from the nearest place; waits for them to come unless *nonblocking*.

        *through* is the dataset it was found in.

        Raises: NotYetHere (not here in time), OnTape, NoReplica, Corrupt (the local copy is missing
        or has another size than the catalogue says), what `RuleKeeper.bring` and the catalogue
        raise.
        """
        began = time.time()
        using = self._bringing.using if self._bringing is not None else None
        if using is not None:
            using.hold(who, did)
        try:
            source, rse = await self._obtain(who, did, caller, through, nonblocking)
        except BaseException:
            if using is not None:
                using.drop(who, did)
            raise
        if using is not None:
            using.opened(who, did)

        def on_close() -> None:
            self._forget(who, did, source)
            if using is not None:
                using.drop(who, did)
            if self._tracer is not None:
                self._tracer.read(who, did, through, rse, source.size, began)

        keeps_cache = self._streams is None or self._streams.may_be_kept(did)
        return Opened(source, on_close, keeps_cache)

    async def prospect(self, who: Identity, did: DID) -> Prospect:
        """What `open` would find now; opens the local copy for a moment to look at its size.

        *error* is None also for what would have to be brought first; of what would be streamed it
        tells why the last read failed.
        """
        file = (await self._catalogue.replicas(who, did, max_age=self._now_ttl)).value
        file, decision = await self._decided(who, file)
        error: RucioFsError | None = None
        if isinstance(decision, Local):
            try:
                source, _ = await self._open_local(file, decision)
                source.close()
            except RucioFsError as exc:
                error = exc
        elif isinstance(decision, Stream):
            error = self._streams.trouble(did) if self._streams is not None else None
        elif not self._brings(decision):
            error = _refusal(file, decision, self._site)
        return Prospect(file, decision, error)

    async def _decided(self, who: Identity, file: FileReplicas) -> tuple[FileReplicas, Decision]:
        """What is to be done for *file*, with the replicas in a form that suits it."""
        decision = decide(file, self._site, self._policy)
        if self._policy.streams and isinstance(decision, Bring | Elsewhere):
            # Rucio names one PFN for each RSE; its best may be one that is not read over HTTP.
            over_http = (await self._catalogue.replicas_over(who, file.did, STREAMED)).value
            if streamable(over_http):
                file = replace(file, replicas=over_http.replicas)
                decision = decide(file, self._site, self._policy)
        return file, decision

    def cached_bytes(self, file: FileReplicas) -> int | None:
        """How much of *file* was streamed and is on this machine's disk; None: nothing is kept."""
        return None if self._streams is None else self._streams.cached_bytes(file)

    def _brings(self, decision: Decision) -> bool:
        return self._bringing is not None and (
            isinstance(decision, Bring) or (isinstance(decision, Arriving) and self._policy.brings)
        )

    async def _obtain(
        self, who: Identity, did: DID, caller: Caller, through: DID | None, nonblocking: bool
    ) -> tuple[Source, str]:
        """What the file can be read from, and its RSE."""
        known = (await self._catalogue.replicas(who, did)).value
        was_brought = False
        for tries_left in reversed(range(_TRIES)):
            file, decision = await self._decided(who, known)
            max_age = self._now_ttl
            if self._bringing is not None and self._brings(decision):
                wait = 0.0 if nonblocking else self._bringing.wait
                await self._bringing.keeper.bring(who, caller, did, through=through, wait=wait)
                was_brought, max_age = True, 0.0
            elif isinstance(decision, Stream):
                return await self._open_stream(who, file, decision, caller, through)
            else:
                try:
                    if not isinstance(decision, Local):
                        raise _refusal(file, decision, self._site)
                    found = await self._open_local(file, decision)
                    self.counters.local += 1
                    return found
                except (Corrupt, NotYetHere, NoReplica, OnTape) as exc:
                    if isinstance(exc, Corrupt):  # an alarm; Rucio may just have deleted the copy
                        max_age = 0.0
                    if was_brought:
                        await trio.sleep(_SETTLING)
                        max_age = 0.0
                    # Replicas move.  Before this is said to a user it has to be true of now.
                    now = await self._catalogue.replicas(who, did, max_age=max_age)
                    if not tries_left or (now.value == known and not was_brought):
                        return await self._elsewhere(who, now.value, exc, caller, through)
                    known = now.value
                    continue
            known = (await self._catalogue.replicas(who, did, max_age=max_age)).value
        raise NotYetHere(
            f"{did} came to the site, but Rucio does not list it there: its RSE is closed for"
            " reading, or it was deleted at once; try again later"
        )

    async def _elsewhere(
        self,
        who: Identity,
        file: FileReplicas,
        error: RucioFsError,
        caller: Caller,
        through: DID | None,
    ) -> tuple[Source, str]:
        """Stream what is damaged here from another place.  Raises: *error* where none has it."""
        others = streamable(file) if self._policy.streams else ()
        if not isinstance(error, Corrupt) or not others:
            raise error
        log.error("%s; it is streamed from %s", error, others[0].rse)
        return await self._open_stream(who, file, Stream(others), caller, through)

    # --- streams ---------------------------------------------------------------------------------

    async def _open_stream(
        self,
        who: Identity,
        file: FileReplicas,
        decision: Stream,
        caller: Caller,
        through: DID | None,
    ) -> tuple[Source, str]:
        assert self._streams is not None, "the policy says so"
        streams, did = self._streams, file.did

        async def of_now() -> FileReplicas:
            now = (await self._catalogue.replicas(who, did, max_age=self._now_ttl)).value
            return (await self._decided(who, now))[0]

        async def stream() -> Source:
            return await streams.open(who, file, decision.replicas, of_now)

        source = await stream()
        self.counters.streamed += 1
        rse = decision.replicas[0].rse
        if not decision.brings or self._bringing is None or self._nursery is None:
            return source, rse
        relay = Relay(source, stream, self._interest(who, did))
        self._relays[who, did].add(relay)
        self._nursery.start_soon(self._bring_behind, who, did, caller, through)
        return relay, rse

    async def _bring_behind(
        self, who: Identity, did: DID, caller: Caller, through: DID | None
    ) -> None:
        """Have a file brought that is streamed meanwhile."""
        assert self._bringing is not None
        try:
            await self._bringing.keeper.bring(who, caller, did, through=through, wait=0.0)
        except RucioFsError as exc:
            # Also that it is not here yet.  What keeps it away is told by user.rucio.error.
            log.debug("%s is streamed meanwhile: %s", did, exc)
        else:
            await self._hand_over(who, did)

    def _interest(self, who: Identity, did: DID) -> Callable[[], None]:
        """What tells, at each read, that somebody would like the copy to come."""
        told_at = float("-inf")

        def on_read() -> None:
            nonlocal told_at
            now = trio.current_time()
            if now - told_at >= _INTEREST and self._bringing is not None:
                told_at = now
                self._bringing.keeper.delivery(who, did)

        return on_read

    def arrived(self, who: Identity, did: DID) -> None:
        """A copy has come: who streams it goes on with that."""
        if self._nursery is not None and self._relays.get((who, did)):
            self._nursery.start_soon(self._hand_over, who, did)

    async def _hand_over(self, who: Identity, did: DID) -> None:
        try:
            file = (await self._catalogue.replicas(who, did, max_age=0.0)).value
            decision = decide(file, self._site, self._policy)
            for relay in list(self._relays.get((who, did), ())):
                if isinstance(decision, Local) and not relay.has_switched:
                    source, rse = await self._open_local(file, decision)
                    relay.switch(source)
                    self.counters.switched += 1
                    log.info("%s has come to %s and is read there from now on", did, rse)
        except RucioFsError as exc:
            log.info("%s has come, but is streamed on: %s", did, exc)

    def _forget(self, who: Identity, did: DID, source: Source) -> None:
        relays = self._relays.get((who, did))
        if relays is not None and isinstance(source, Relay):
            relays.discard(source)
            if not relays:
                del self._relays[who, did]

    # --- local copies ----------------------------------------------------------------------------

    async def _open_local(self, file: FileReplicas, local: Local) -> tuple[LocalSource, str]:
        reasons: list[str] = []
        unreachable = False
        for copy in local.copies:
            try:
                return await LocalSource.open(copy.path, file.size, self._timeout), copy.rse
            except (NotFound, Corrupt) as exc:
                reasons.append(f"{copy.rse}: {exc}")
            except Unreachable as exc:
                unreachable = True
                reasons.append(f"{copy.rse}: {exc}")
        message = (
            f"{file.did} is AVAILABLE in Rucio, but its local copy cannot be used:"
            f" {'; '.join(reasons)}. Tell the operators of the RSE"
        )
        raise Unreachable(message) if unreachable else Corrupt(message)


def _refusal(file: FileReplicas, decision: Decision, site: Site) -> RucioFsError:
    """Why a file that is neither here nor to be brought or streamed is not opened."""
    match decision:
        case Forbidden(reason):
            return Corrupt(f"{file.did} is not opened: {reason}")
        case Unmapped(rse, pfn):
            return NotYetHere(
                f"{file.did} is at {rse} as {pfn}, which is no path of this machine: set"
                " site.name to the RSE's site attribute, or map the PFN in site.paths"
            )
        case Arriving(rse):
            return NotYetHere(f"{file.did} is being copied to {rse}; try again later")
        case Elsewhere(rses) | Bring(rses):
            return NotYetHere(
                f"{file.did} has no replica at this site"
                f" ({site.rse or site.name or 'no site is configured'});"
                f" it is at {', '.join(rses)}: bring it here with a replication rule"
            )
        case Nearline(rses):
            return OnTape(
                f"{file.did} is only on tape ({', '.join(rses)}), which no open has mounted;"
                " rucio-fs get asks for it, opening.recall = true lets every open do so"
            )
        case Nowhere(states):
            listed = ", ".join(f"{rse} {state}" for rse, state in states.items())
            if not listed:
                listed = "none at all, or at RSEs that are closed for reading"
            return NoReplica(f"{file.did} has no available replica ({listed})")
        case Local() | Stream():
            raise AssertionError("it can be opened")
        case _:
            assert_never(decision)
