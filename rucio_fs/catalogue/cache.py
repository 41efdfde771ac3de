"""The catalogue as the tree asks it: every answer from `Memory` while it counts.

Here is what each kind of question deserves: how long its answer lives (`CacheConfig`), how it is
checked, and that questions about the members of one directory are asked by the thousand.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import trio

from rucio_fs.catalogue.base import BULK_LIMIT, Catalogue, Listing
from rucio_fs.catalogue.health import Health
from rucio_fs.catalogue.memory import SMALL, Key, Known, Memory, Worth
from rucio_fs.config import CacheConfig
from rucio_fs.did import DID, DIDInfo, DIDType, FileReplicas, Identity
from rucio_fs.errors import Refused, RucioFsError, Unreachable
from rucio_fs.gathering import Gatherer

log = logging.getLogger(__name__)

_SINGLE_FILES = 4  # questions for replicas at once; what comes while they run is one more

_REPLICA, _STATE = 160, 70  # bytes that one of them takes in memory, its PFN left out


class CachedCatalogue:
    """Answers from memory where they are fresh enough, else from *inner*.

    *max_age* (s), where a method takes it, asks for an answer at most that old; it then fails as
    Rucio fails instead of serving an older one.
    """

    def __init__(self, inner: Catalogue, config: CacheConfig, nursery: trio.Nursery) -> None:
        self._inner = inner
        self._config = config
        self._memory = Memory(config, nursery)
        self._replicas: Gatherer[tuple[Identity, DID], FileReplicas] = Gatherer(
            self._ask_replicas, nursery, limit=BULK_LIMIT, at_once=_SINGLE_FILES
        )

    @property
    def health(self) -> Health:
        return self._memory.health

    @property
    def file_ttl(self) -> float:
        """How long (s) the attributes of a file count: a file DID never changes."""
        return self._config.file_ttl

    def status(self) -> dict[str, Any]:
        """Numbers for `.rucio/status`."""
        return self._memory.status()

    # --- questions -----------------------------------------------------------------------------

    async def scopes(self, who: Identity, *, max_age: float | None = None) -> Known[Sequence[str]]:
        return await self._memory.ask(
            ("scopes", who),
            lambda: self._inner.scopes(who),
            lambda scopes: Worth(self._config.scopes_ttl, 100 * len(scopes)),
            max_age,
        )

    async def scope_content(self, who: Identity, scope: str) -> Known[Listing]:
        return await self._memory.ask(
            ("scope", who, scope),
            lambda: self._inner.scope_content(who, scope),
            lambda listing: Worth(self._config.open_ttl, listing.nbytes),
        )

    async def content(self, who: Identity, did: DID) -> Known[Listing]:
        return await self._memory.ask(
            ("content", who, did),
            lambda: self._whole_content(who, did),
            lambda listing: Worth(self._content_ttl(who, did), listing.nbytes),
        )

    async def opened_content(
        self, who: Identity, did: DID, known: Known[Listing]
    ) -> Known[Listing]:
        """The members of *did* if it has been opened again since it was *known*, else *known*.

        For a name that is missing: the listing of a closed collection lives long.  One cheap
        question tells, asked at most once per `missing_ttl`.
        """
        if known.ttl <= self._config.open_ttl:
            return known
        info = (await self.info(who, did, max_age=self._config.missing_ttl)).value
        if not info.is_open:
            return known
        self._memory.forget(lambda key: key == ("content", who, did))
        return await self.content(who, did)

    async def info(
        self, who: Identity, did: DID, *, max_age: float | None = None
    ) -> Known[DIDInfo]:
        return await self._memory.ask(
            ("info", who, did), lambda: self._inner.info(who, did), self._info_worth, max_age
        )

    async def metadata(self, who: Identity, did: DID) -> dict[str, str]:
        known = await self._memory.ask(
            ("metadata", who, did),
            lambda: self._inner.metadata(who, did),
            lambda found: Worth(self._config.now_ttl, _size_of_texts(found)),
            self._config.now_ttl,
        )
        return dict(known.value)

    async def replicas(
        self, who: Identity, did: DID, *, max_age: float | None = None
    ) -> Known[FileReplicas]:
        return await self._memory.ask(
            ("replicas", who, did),
            lambda: self._replicas.ask((who, did)),
            lambda file: Worth(self._config.replicas_ttl, _size_of_replicas(file)),
            max_age,
        )

    async def replicas_over(
        self, who: Identity, did: DID, schemes: Sequence[str], *, max_age: float | None = None
    ) -> Known[FileReplicas]:
        """As `replicas`, with PFNs of some schemes only."""
        return await self._memory.ask(
            ("replicas", who, tuple(schemes), did),
            lambda: self._inner.replicas_over(who, did, schemes),
            lambda file: Worth(self._config.replicas_ttl, _size_of_replicas(file)),
            max_age,
        )

    async def declare_suspicious(self, who: Identity, did: DID, rse: str, reason: str) -> None:
        """Passed on at once; nothing that is remembered changes with it."""
        await self._inner.declare_suspicious(who, did, rse, reason)

    def scope_listing_at_hand(self, who: Identity, scope: str) -> Known[Listing] | None:
        """The listing of *scope* if it is in memory and fresh; asks nobody."""
        return self._memory.at_hand(("scope", who, scope))

    def info_at_hand(self, who: Identity, did: DID) -> Known[DIDInfo] | None:
        """What `info` says if it is in memory and fresh; asks nobody."""
        return self._memory.at_hand(("info", who, did))

    # --- members of a directory ----------------------------------------------------------------

    def look_anew(self, who: Identity, listing: Listing) -> None:
        """Somebody reads the directory from its start: what failed before is asked again."""
        self._memory.try_again(_members_key(who, listing))

    async def member_info(
        self, who: Identity, listing: Listing, position: int, *, alone: bool = False
    ) -> Known[DIDInfo]:
        """`info` of the collection at *position*, asked for with those of its neighbours.

        *alone*: as in `mtime_ns`.  Raises: as `info`.
        """
        did = listing.members[position].did
        if alone and not listing.asked_alone:
            listing.asked_alone = True
        elif self.info_at_hand(who, did) is None and self.health.trouble is None:
            has_old = self._memory.last(("info", who, did)) is not None
            with trio.move_on_after(self._config.stale_after if has_old else math.inf):
                await self._learn_around(who, listing, position, has_old=has_old)
        return await self.info(who, did)

    async def mtime_ns(
        self, who: Identity, listing: Listing, position: int, *, alone: bool = False
    ) -> int:
        """Modification time of one file of *listing*.

        Asks for a thousand members at a time, since whoever wants one (``ls -l``) wants all;
        with *alone* (a path somebody named) the first question is for this member only.

        Raises: as `info`.
        """
        did = listing.members[position].did
        if alone and not listing.asked_alone and listing.mtime_ns(position) is None:
            listing.asked_alone = True
            listing.learn({did: (await self.info(who, did)).value}, [position])
        while (mtime_ns := listing.mtime_ns(position)) is None:
            await self._memory.once(
                _members_key(who, listing),
                lambda: self._learn(who, listing, listing.without_mtime(position)),
            )
        return mtime_ns

    async def _learn_around(
        self, who: Identity, listing: Listing, position: int, *, has_old: bool
    ) -> None:
        """Ask for the collection at *position* and whatever follows it that is not known."""
        did = listing.members[position].did
        is_asked = False
        while not is_asked and self.info_at_hand(who, did) is None:
            asked = list(islice(self._unknown(who, listing, position), BULK_LIMIT))
            try:
                is_asked = await self._memory.once(
                    _members_key(who, listing), partial(self._learn, who, listing, asked)
                )
            except Unreachable:
                if not has_old:
                    raise
                return

    def _unknown(self, who: Identity, listing: Listing, start: int) -> Iterator[int]:
        for position in range(start, len(listing)):
            member = listing.members[position]
            known: object
            if member.type is DIDType.FILE:
                known = listing.mtime_ns(position)
            else:
                known = self.info_at_hand(who, member.did)
            if known is None:
                yield position

    async def _learn(self, who: Identity, listing: Listing, positions: list[int]) -> None:
        """One bulk call about the members at *positions*; the first has to be known afterwards."""
        dids = [listing.members[position].did for position in positions]
        asked_at, forgotten = trio.current_time(), self._memory.forgotten
        infos = await self._infos(who, dids)
        listing.learn(infos, positions)
        if forgotten == self._memory.forgotten:
            for did, info in infos.items():
                if info.type is not DIDType.FILE:  # a file's time and size are in the listing
                    self._memory.keep(("info", who, did), info, self._info_worth(info), asked_at)
        if listing.mtime_ns(positions[0]) is None:
            # bulkmeta leaves out what it does not know; only the single call says "not found".
            info = await self._inner.info(who, dids[0])
            listing.learn({dids[0]: info}, [positions[0]])

    async def _infos(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, DIDInfo]:
        """`infos` also of DIDs whose names Rucio's schema does not (any more) let through.

        One of them makes Rucio refuse the whole bulk call; asked alone it is answered.
        """
        try:
            return await self._inner.infos(who, dids)
        except Refused:
            if len(dids) == 1:
                return {dids[0]: await self._inner.info(who, dids[0])}
        middle = len(dids) // 2
        first = await self._infos(who, dids[:middle])
        return {**first, **await self._infos(who, dids[middle:])}

    async def _ask_replicas(
        self, keys: Sequence[tuple[Identity, DID]]
    ) -> Mapping[tuple[Identity, DID], FileReplicas | RucioFsError]:
        """Replicas of one file, or of those that a burst of opens has asked for."""
        found: dict[tuple[Identity, DID], FileReplicas | RucioFsError] = {}
        if len(keys) > 1:
            for who in {who for who, _ in keys}:
                dids = [did for asker, did in keys if asker == who]
                # Names that Rucio's schema refuses spoil a bulk call: then each is asked alone.
                with suppress(Refused):
                    files = await self._inner.replicas_of(who, dids)
                    found |= {(who, did): file for did, file in files.items()}
        for who, did in keys:
            if (who, did) not in found:
                try:
                    found[who, did] = await self._inner.replicas(who, did)
                except RucioFsError as exc:
                    found[who, did] = exc
        return found

    # --- forgetting ----------------------------------------------------------------------------

    def forget(self, did: DID) -> None:
        """Ask again for everything about *did*; also a question on its way does not count."""
        self._memory.forget(lambda key: key[-1] == did)

    def forget_replicas(self, did: DID) -> None:
        """Ask again where *did* is: a copy has come."""
        self._memory.forget(lambda key: key[0] == "replicas" and key[-1] == did)

    def forget_scope(self, scope: str) -> None:
        self._memory.forget(lambda key: key[0] == "scope" and key[-1] == scope)

    def forget_all(self) -> None:
        self._memory.forget(lambda _: True)

    def stop(self) -> None:
        """The mount ends: whoever waits for an answer, or would, is told so at once."""
        self._memory.stop()

    # --- what the kinds deserve ----------------------------------------------------------------

    async def _whole_content(self, who: Identity, did: DID) -> Listing:
        """The members of *did*, checked against the length of a closed dataset if that is known.

        An answer cut at the end of a line looks whole in HTTP.  Two equal ones are believed: then
        it is Rucio's own count that is off.
        """
        listing = await self._inner.content(who, did)
        expected = self._expected_length(who, did)
        if expected is None or expected == len(listing):
            return listing
        again = await self._inner.content(who, did)
        if len(again) != expected and len(again) != len(listing):
            raise Unreachable(
                f"listing {did} gave {len(listing)}, then {len(again)} of {expected} members;"
                " try again"
            )
        if len(again) != expected:
            log.warning("%s lists %d members, Rucio counts %d", did, len(again), expected)
        return again

    def _expected_length(self, who: Identity, did: DID) -> int | None:
        info: DIDInfo | None = self._memory.last(("info", who, did))
        if info is None or info.is_open or info.type is not DIDType.DATASET:
            return None
        return info.length

    def _content_ttl(self, who: Identity, did: DID) -> float:
        info: DIDInfo | None = self._memory.last(("info", who, did))
        is_closed = info is not None and not info.is_open
        return self._config.closed_ttl if is_closed else self._config.open_ttl

    def _info_worth(self, info: DIDInfo) -> Worth:
        if info.type is DIDType.FILE:
            return Worth(self._config.file_ttl, SMALL)
        return Worth(self._config.open_ttl if info.is_open else self._config.closed_ttl, SMALL)


def _members_key(who: Identity, listing: Listing) -> Key:
    return ("members", who, listing.ref)


def _size_of_texts(found: Mapping[str, str]) -> int:
    """Bytes in memory: what users keep as metadata may be as large as they like."""
    return SMALL + sum(sys.getsizeof(key) + sys.getsizeof(text) for key, text in found.items())


def _size_of_replicas(file: FileReplicas) -> int:
    """Bytes in memory: `SMALL` holds one or two replicas, and some files are everywhere."""
    pfns = sum(_REPLICA + len(replica.pfn) for replica in file.replicas)
    return SMALL + pfns + _STATE * len(file.states)
