"""From a DID to its bytes: ask for the replicas, decide, open it or say why not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import assert_never

from rucio_fs.availability import (
    Arriving,
    Decision,
    Elsewhere,
    Forbidden,
    Local,
    Nowhere,
    Site,
    Unmapped,
    decide,
)
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.did import DID, FileReplicas, Identity
from rucio_fs.errors import Corrupt, NoReplica, NotFound, NotYetHere, RucioFsError, Unreachable
from rucio_fs.sources.base import Source
from rucio_fs.sources.local import LocalSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What would happen if the file were opened now."""

    file: FileReplicas
    decision: Decision
    error: RucioFsError | None


class Opener:
    """Opens files for the tree.  Stateless: one instance serves all opens."""

    def __init__(
        self, catalogue: CachedCatalogue, site: Site, *, timeout: float, now_ttl: float
    ) -> None:
        self._catalogue = catalogue
        self._site = site
        self._timeout = timeout
        self._now_ttl = now_ttl

    async def open(self, who: Identity, did: DID) -> Source:
        """The bytes of *did* from the nearest place.

        Raises: NotYetHere (replicas elsewhere only), NoReplica, Corrupt (the local copy is
        missing or has another size than the catalogue says), and what the catalogue raises.
        """
        known = await self._catalogue.replicas(who, did)
        try:
            return await self._open(known.value)
        except (Corrupt, NotYetHere, NoReplica):
            # Replicas move.  Before this is said to a user it has to be true of now.
            fresh = await self._catalogue.replicas(who, did, max_age=self._now_ttl)
            if fresh.value == known.value:
                raise
            return await self._open(fresh.value)

    async def prospect(self, who: Identity, did: DID) -> Prospect:
        """What `open` would find now; opens the local copy for a moment to look at its size."""
        file = (await self._catalogue.replicas(who, did, max_age=self._now_ttl)).value
        error: RucioFsError | None = None
        try:
            (await self._open(file)).close()
        except RucioFsError as exc:
            error = exc
        return Prospect(file, decide(file, self._site), error)

    async def _open(self, file: FileReplicas) -> Source:
        decision = decide(file, self._site)
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
            case Elsewhere(rses):
                raise NotYetHere(
                    f"{file.did} has no replica at this site"
                    f" ({self._site.rse or self._site.name or 'no site is configured'});"
                    f" it is at {', '.join(rses)}: bring it here with a replication rule"
                )
            case Nowhere(states):
                listed = ", ".join(f"{rse} {state}" for rse, state in states.items())
                raise NoReplica(f"{file.did} has no available replica ({listed or 'none at all'})")
            case _:
                assert_never(decision)

    async def _open_local(self, file: FileReplicas, local: Local) -> Source:
        reasons: list[str] = []
        unreachable = False
        for copy in local.copies:
            try:
                return await LocalSource.open(copy.path, file.size, self._timeout)
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
