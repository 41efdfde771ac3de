"""From a DID to its bytes: where is it, have it brought, open it or say why not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import trio

from rucio_fs.availability import (
    Arriving,
    Bring,
    Decision,
    Elsewhere,
    Local,
    Policy,
    Site,
    Stream,
    decide,
    refusal,
    streamable,
)
from rucio_fs.callers import NOBODY, Caller
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.changeover import Changeover, Copy
from rucio_fs.copies import open_copy
from rucio_fs.did import DID, FileReplicas, Identity, Replica
from rucio_fs.errors import (
    Corrupt,
    NoReplica,
    NotYetHere,
    OnTape,
    RucioFsError,
)
from rucio_fs.rules.keeper import RuleKeeper
from rucio_fs.rules.using import Using
from rucio_fs.sources.base import Source
from rucio_fs.streams.reader import StreamSource
from rucio_fs.streams.streams import Streams
from rucio_fs.tracing import Tracer
from rucio_fs.webdav.addresses import SCHEMES

log = logging.getLogger(__name__)

_TRIES = 4  # looks at the replicas in one open; they move
_SETTLING = 1.0  # s between two looks for a file that has just come: NFS remembers it was not there


@dataclass(frozen=True, slots=True)
class Prospect:
    """What would happen if the file were opened now.

    *damage* says why the copy at the site is not read, *fallback* what is streamed in its place.
    """

    file: FileReplicas
    decision: Decision
    error: RucioFsError | None
    damage: RucioFsError | None = None
    fallback: tuple[Replica, ...] = ()


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


class Opener:
    """Opens files for the tree: one instance serves all opens.

    What goes on behind an open file (a rule is made, its copy arrives) runs in *nursery*.
    *on_problem* is told the state and the words of a copy at the site that is damaged.
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
        on_problem: Callable[[DID, str, str], None] = lambda did, state, words: None,
    ) -> None:
        self._catalogue = catalogue
        self._site = site
        self._timeout = timeout
        self._now_ttl = now_ttl
        self._policy = policy or Policy()
        self._bringing = bringing
        self._streams = streams
        self._tracer = tracer
        self._on_problem = on_problem
        self._changeover: Changeover | None = None
        if bringing is not None and streams is not None and nursery is not None:
            self._changeover = Changeover(bringing.keeper, nursery, self._find_copy)
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
            if self._changeover is not None:
                self._changeover.forget(who, did, source)
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
        file, decision = await self._decided(who, file, self._now_ttl)
        error: RucioFsError | None = None
        damage: RucioFsError | None = None
        fallback: tuple[Replica, ...] = ()
        if isinstance(decision, Local):
            try:
                source, _ = await open_copy(file, decision, self._timeout)
                source.close()
            except RucioFsError as exc:
                error = damage = exc
                fallback = self._others(file, exc)
            if fallback:
                error = self._streams.trouble(did) if self._streams is not None else None
        elif isinstance(decision, Stream):
            error = self._streams.trouble(did) if self._streams is not None else None
        elif not self._brings(decision):
            error = refusal(file, decision, self._site)
        return Prospect(file, decision, error, damage, fallback)

    async def _decided(
        self, who: Identity, file: FileReplicas, max_age: float | None = None
    ) -> tuple[FileReplicas, Decision]:
        """What is to be done for *file*, with the replicas in a form that suits it.

        What has to be asked for that is at most *max_age* (s) old, where that is said.
        """
        decision = decide(file, self._site, self._policy)
        if self._policy.streams and isinstance(decision, Bring | Elsewhere):
            # Rucio names one PFN for each RSE; its best may be one that is not read over HTTP.
            over_http = await self._catalogue.replicas_over(who, file.did, SCHEMES, max_age=max_age)
            if streamable(over_http.value):
                file = replace(file, replicas=over_http.value.replicas)
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
                        raise refusal(file, decision, self._site)
                    found = await open_copy(file, decision, self._timeout)
                    self.counters.local += 1
                    return found
                except (Corrupt, NotYetHere, NoReplica, OnTape) as exc:
                    if isinstance(exc, Corrupt):  # an alarm; Rucio may just have deleted the copy
                        max_age = 0.0
                    if was_brought:
                        await trio.sleep(_SETTLING)
                        max_age = 0.0
                    # Replicas move.  Before this is said to a user it has to be true of now.
                    now = (await self._catalogue.replicas(who, did, max_age=max_age)).value
                    _, news = await self._decided(who, now, max_age)
                    is_news = was_brought or (now, news) != (known, decision)
                    if not tries_left or not is_news:
                        return await self._elsewhere(who, now, exc, caller, through)
                    known = now
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
        others = self._others(file, error)
        if not others:
            if isinstance(error, Corrupt):
                self._on_problem(file.did, "UNREADABLE", str(error))
            raise error
        words = f"{error}; it is streamed from {others[0].rse}"
        log.error("%s", words)
        self._on_problem(file.did, "DAMAGED", words)
        return await self._open_stream(who, file, Stream(others), caller, through)

    def _others(self, file: FileReplicas, error: RucioFsError) -> tuple[Replica, ...]:
        """What is streamed where *error* is what is wrong with the copy at the site."""
        is_damage = isinstance(error, Corrupt)
        return streamable(file) if is_damage and self._policy.streams else ()

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
            return (await self._decided(who, now, self._now_ttl))[0]

        async def stream() -> StreamSource:
            return await streams.open(who, file, decision.replicas, of_now)

        source = await stream()
        self.counters.streamed += 1
        rse = decision.replicas[0].rse
        if decision.brings and self._changeover is not None:
            return self._changeover.begin(who, did, caller, through, source, stream), rse
        return source, rse

    # --- copies that come meanwhile --------------------------------------------------------------

    @property
    def switched(self) -> int:
        """How many open files have changed over to the copy that a rule has brought."""
        return 0 if self._changeover is None else self._changeover.switched

    def arrived(self, who: Identity, did: DID) -> None:
        """A copy has come: who streams it goes on with that."""
        if self._changeover is not None:
            self._changeover.arrived(who, did)

    async def _find_copy(self, who: Identity, did: DID) -> Copy | None:
        file = (await self._catalogue.replicas(who, did, max_age=0.0)).value
        decision = decide(file, self._site, self._policy)
        if not isinstance(decision, Local):
            return None
        return partial(open_copy, file, decision, self._timeout)
