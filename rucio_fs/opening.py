"""From a DID to its bytes: where is it, have it brought, open it or say why not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import trio

from rucio_fs.availability import (
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
    Unmapped,
    decide,
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
from rucio_fs.rules.keeper import RuleKeeper
from rucio_fs.rules.using import Using
from rucio_fs.sources.base import Source
from rucio_fs.sources.local import LocalSource
from rucio_fs.tracing import Tracer

log = logging.getLogger(__name__)

_TRIES = 4  # looks at the replicas in one open; they move
_SETTLING = 1.0  # s between two looks for a file that has just come: NFS remembers it was not there


@dataclass(frozen=True, slots=True)
class Prospect:
    """What would happen if the file were opened now."""

    file: FileReplicas
    decision: Decision
    error: RucioFsError | None


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file; `close` has to be called once."""

    source: Source
    on_close: Callable[[], None]

    def close(self) -> None:
        self.source.close()
        self.on_close()


@dataclass(frozen=True, slots=True)
class Bringing:
    """What an open needs to have a file brought.  *wait* is in s."""

    keeper: RuleKeeper
    using: Using
    wait: float


class Opener:
    """Opens files for the tree.  Stateless: one instance serves all opens."""

    def __init__(
        self,
        catalogue: CachedCatalogue,
        site: Site,
        *,
        timeout: float,
        now_ttl: float,
        policy: Policy | None = None,
        bringing: Bringing | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._site = site
        self._timeout = timeout
        self._now_ttl = now_ttl
        self._policy = policy or Policy()
        self._bringing = bringing
        self._tracer = tracer

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

        def on_close() -> None:
            if using is not None:
                using.drop(who, did)
            if self._tracer is not None:
                self._tracer.read(who, did, through, rse, source.size, began)

        return Opened(source, on_close)

    async def prospect(self, who: Identity, did: DID) -> Prospect:
        """What `open` would find now; opens the local copy for a moment to look at its size.

        *error* is None also for what would have to be brought first.
        """
        file = (await self._catalogue.replicas(who, did, max_age=self._now_ttl)).value
        decision = decide(file, self._site, self._policy)
        error: RucioFsError | None = None
        if not self._brings(decision):
            try:
                source, _ = await self._open(file, decision)
                source.close()
            except RucioFsError as exc:
                error = exc
        return Prospect(file, decision, error)

    def _brings(self, decision: Decision) -> bool:
        return self._bringing is not None and (
            isinstance(decision, Bring) or (isinstance(decision, Arriving) and self._policy.brings)
        )

    async def _obtain(
        self, who: Identity, did: DID, caller: Caller, through: DID | None, nonblocking: bool
    ) -> tuple[LocalSource, str]:
        """An open local copy and its RSE."""
        known = (await self._catalogue.replicas(who, did)).value
        was_brought = False
        for tries_left in reversed(range(_TRIES)):
            decision = decide(known, self._site, self._policy)
            max_age = self._now_ttl
            if self._bringing is not None and self._brings(decision):
                wait = 0.0 if nonblocking else self._bringing.wait
                await self._bringing.keeper.bring(who, caller, did, through=through, wait=wait)
                was_brought, max_age = True, 0.0
            else:
                try:
                    return await self._open(known, decision)
                except (Corrupt, NotYetHere, NoReplica, OnTape) as exc:
                    if not tries_left:
                        raise
                    if isinstance(exc, Corrupt):  # an alarm; Rucio may just have deleted the copy
                        max_age = 0.0
                    if was_brought:
                        await trio.sleep(_SETTLING)
                        max_age = 0.0
                    # Replicas move.  Before this is said to a user it has to be true of now.
                    now = await self._catalogue.replicas(who, did, max_age=max_age)
                    if now.value == known and not was_brought:
                        raise
                    known = now.value
                    continue
            known = (await self._catalogue.replicas(who, did, max_age=max_age)).value
        raise NotYetHere(
            f"{did} came to the site, but Rucio does not list it there: its RSE is closed for"
            " reading, or it was deleted at once; try again later"
        )

    async def _open(self, file: FileReplicas, decision: Decision) -> tuple[LocalSource, str]:
        match decision:
            case Local():
                return await self._open_local(file, decision)
            case Forbidden(reason):
                raise Corrupt(f"{file.did} is not opened: {reason}")
            case Unmapped(rse, pfn):
                raise NotYetHere(
                    f"{file.did} is at {rse} as {pfn}, which is no path of this machine: set"
                    " site.name to the RSE's site attribute, or map the PFN in site.paths"
                )
            case Arriving(rse):
                raise NotYetHere(f"{file.did} is being copied to {rse}; try again later")
            case Elsewhere(rses) | Bring(rses):
                raise NotYetHere(
                    f"{file.did} has no replica at this site"
                    f" ({self._site.rse or self._site.name or 'no site is configured'});"
                    f" it is at {', '.join(rses)}: bring it here with a replication rule"
                )
            case Nearline(rses):
                raise OnTape(
                    f"{file.did} is only on tape ({', '.join(rses)}), which no open has mounted;"
                    " rucio-fs get asks for it, opening.recall = true lets every open do so"
                )
            case Nowhere(states):
                listed = ", ".join(f"{rse} {state}" for rse, state in states.items())
                if not listed:
                    listed = "none at all, or at RSEs that are closed for reading"
                raise NoReplica(f"{file.did} has no available replica ({listed})")
            case _:
                assert_never(decision)

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
