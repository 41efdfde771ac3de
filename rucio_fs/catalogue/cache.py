"""The catalogue with a memory: single flight, a lifetime per kind, LRU by bytes.

What is kept here and nowhere else:

* Concurrent identical questions are one question.  It runs in the nursery given at construction, so
  that a caller who gives up does not take the answer from the others.
* An answer counts for the time its kind deserves (`CacheConfig`); after that it is asked again, and
  if Rucio cannot be reached the old one is served and `Health` says so.
* "Not found" is remembered briefly, a failure never.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import trio
from cachetools import LRUCache

from rucio_fs.catalogue.base import BULK_LIMIT, Catalogue, Listing
from rucio_fs.catalogue.health import Health
from rucio_fs.config import CacheConfig
from rucio_fs.did import DID, DIDInfo, DIDType, FileReplicas, Identity
from rucio_fs.errors import NotFound, RucioFsError, Unreachable

log = logging.getLogger(__name__)
T = TypeVar("T")
Key = tuple[Any, ...]

_SMALL = 1200
"""Bytes that an answer about one DID takes with its key (measured with pympler: 0.7 to 1.1 kB)."""


class Known(NamedTuple, Generic[T]):
    """An answer, and for how many seconds it still counts (0 for an old one served in need)."""

    value: T
    ttl: float


@dataclass(slots=True)
class _Entry:
    value: Any  # the answer, or the NotFound that was the answer
    nbytes: int
    asked_at: float
    fresh_until: float


@dataclass(slots=True)
class _Flight:
    """One question on its way to Rucio, and everybody who waits for it."""

    landed: trio.Event = field(default_factory=trio.Event)
    entry: _Entry | None = None
    error: RucioFsError | None = None


class CachedCatalogue:
    """Answers from memory where they are fresh enough, else from *inner*.

    *max_age* (s), where a method takes it, asks for an answer at most that old; it then fails as
    Rucio fails instead of serving an older one.
    """

    def __init__(self, inner: Catalogue, config: CacheConfig, nursery: trio.Nursery) -> None:
        self._inner = inner
        self._config = config
        self._nursery = nursery
        self._store: LRUCache[Key, _Entry] = LRUCache(config.size, getsizeof=lambda e: e.nbytes)
        self._flights: dict[Key, _Flight] = {}
        self._forgotten = 0  # how often somebody asked to forget something
        self._is_ending = False
        self.health = Health()

    @property
    def file_ttl(self) -> float:
        """How long (s) the attributes of a file count: a file DID never changes."""
        return self._config.file_ttl

    # --- questions -----------------------------------------------------------------------------

    async def scopes(self, who: Identity, *, max_age: float | None = None) -> Known[Sequence[str]]:
        return await self._ask(
            ("scopes", who),
            lambda: self._inner.scopes(who),
            lambda scopes: (self._config.scopes_ttl, 100 * len(scopes)),
            max_age,
        )

    async def scope_content(self, who: Identity, scope: str) -> Known[Listing]:
        return await self._ask(
            ("scope", who, scope),
            lambda: self._inner.scope_content(who, scope),
            lambda listing: (self._config.open_ttl, listing.nbytes),
        )

    async def content(self, who: Identity, did: DID) -> Known[Listing]:
        return await self._ask(
            ("content", who, did),
            lambda: self._whole_content(who, did),
            lambda listing: (self._collection_ttl(who, did), listing.nbytes),
        )

    async def info(
        self, who: Identity, did: DID, *, max_age: float | None = None
    ) -> Known[DIDInfo]:
        return await self._ask(
            ("info", who, did), lambda: self._inner.info(who, did), self._info_ttl, max_age
        )

    async def metadata(self, who: Identity, did: DID) -> dict[str, str]:
        known = await self._ask(
            ("metadata", who, did),
            lambda: self._inner.metadata(who, did),
            lambda _: (self._config.now_ttl, _SMALL),
            self._config.now_ttl,
        )
        return dict(known.value)

    async def replicas(
        self, who: Identity, did: DID, *, max_age: float | None = None
    ) -> Known[FileReplicas]:
        return await self._ask(
            ("replicas", who, did),
            lambda: self._inner.replicas(who, did),
            lambda _: (self._config.replicas_ttl, _SMALL),
            max_age,
        )

    def scope_listing_at_hand(self, who: Identity, scope: str) -> Known[Listing] | None:
        """The listing of *scope* if it is in memory and fresh; asks nobody."""
        entry = self._fresh(("scope", who, scope), None)
        return None if entry is None else _known(entry)

    def info_at_hand(self, who: Identity, did: DID) -> Known[DIDInfo] | None:
        """What `info` says if it is in memory and fresh; asks nobody."""
        entry = self._fresh(("info", who, did), None)
        return None if entry is None or isinstance(entry.value, NotFound) else _known(entry)

    async def member_info(
        self, who: Identity, listing: Listing, position: int, *, alone: bool = False
    ) -> Known[DIDInfo]:
        """`info` of the collection at *position*, asked for with those of its neighbours.

        *alone*: as in `mtime_ns`.  Raises: as `info`.
        """
        did = listing.members[position].did
        key = ("info", who, did)
        if alone and not listing.asked_alone:
            listing.asked_alone = True
        elif self._fresh(key, None) is None and self.health.trouble is None:
            old = self._store.get(key)
            patience = math.inf if old is None else self._config.stale_after
            with trio.move_on_after(patience):
                await self._learn_around(who, listing, position)
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
            key = ("mtimes", who, listing.ref)
            joined = self._flights.get(key)
            flight = joined or self._launch(
                key, partial(self._learn, who, listing, listing.without_mtime(position))
            )
            await flight.landed.wait()
            if joined is None or not isinstance(flight.error, NotFound):
                _raise_error(flight)  # not found is the member it was launched for, no other
        return mtime_ns

    async def _learn_around(self, who: Identity, listing: Listing, position: int) -> None:
        """Ask for the collection at *position* and whatever follows it that is not known."""
        key, did = ("mtimes", who, listing.ref), listing.members[position].did
        flight = self._flights.get(key)
        if flight is not None:
            await flight.landed.wait()
        if self.info_at_hand(who, did) is None:
            asked = list(islice(self._unknown(who, listing, position), BULK_LIMIT))
            flight = self._flights.get(key) or self._launch(
                key, partial(self._learn, who, listing, asked)
            )
            await flight.landed.wait()
            if isinstance(flight.error, Unreachable) and ("info", who, did) not in self._store:
                _raise_error(flight)

    def _unknown(self, who: Identity, listing: Listing, start: int) -> Iterator[int]:
        for position in range(start, len(listing)):
            member = listing.members[position]
            if member.type is DIDType.FILE:
                known: object = listing.mtime_ns(position)
            else:
                known = self._fresh(("info", who, member.did), None)
            if known is None:
                yield position

    # --- forgetting ----------------------------------------------------------------------------

    def forget(self, did: DID) -> None:
        """Ask again for everything about *did*; also a question on its way does not count."""
        self._forgotten += 1
        for key in [*self._store, *self._flights]:
            if key[-1] == did:
                self._drop(key)

    def forget_scope(self, scope: str) -> None:
        self._forgotten += 1
        for key in [*self._store, *self._flights]:
            if key[0] == "scope" and key[-1] == scope:
                self._drop(key)

    def forget_all(self) -> None:
        self._forgotten += 1
        for key in [*self._store, *self._flights]:
            self._drop(key)

    def stop(self) -> None:
        """The mount ends: whoever waits for an answer, or would, is told so at once."""
        self._is_ending = True
        for flight in self._flights.values():
            flight.error = Unreachable("the mount is ending")
            flight.landed.set()

    def _drop(self, key: Key) -> None:
        self._store.pop(key, None)
        self._flights.pop(key, None)

    def status(self) -> dict[str, Any]:
        """Numbers for `.rucio/status`."""
        return {
            "entries": len(self._store),
            "bytes": int(self._store.currsize),
            "limit": int(self._store.maxsize),
            "asking": len(self._flights),
            **self.health.counts(),
        }

    # --- how one question is answered ----------------------------------------------------------

    async def _ask(
        self,
        key: Key,
        fetch: Callable[[], Awaitable[T]],
        ttl_and_bytes: Callable[[T], tuple[float, int]],
        max_age: float | None = None,
    ) -> Known[T]:
        entry = self._fresh(key, max_age)
        if entry is not None:
            self.health.hits += 1
            return _known(entry)
        self.health.misses += 1
        old = self._store.get(key) if max_age is None else None
        if old is not None and isinstance(old.value, NotFound):
            old = None  # a name may have come into being since: an old "not found" helps nobody
        flight = self._flights.get(key) or self._launch(
            key, lambda: self._fetch(fetch, ttl_and_bytes)
        )
        if old is None:
            await flight.landed.wait()
        else:
            with trio.move_on_after(self._config.stale_after):
                await flight.landed.wait()
        if flight.entry is not None:
            return _known(flight.entry)
        if old is not None and (flight.error is None or isinstance(flight.error, Unreachable)):
            # Rucio is slow or away.  The next caller shall not wait for it all over again.
            old.fresh_until = trio.current_time() + self._config.stale_retry
            self.health.stale += 1
            return Known(_known(old).value, 0.0)
        _raise_error(flight)
        raise AssertionError("a flight lands with an entry or an error")

    def _fresh(self, key: Key, max_age: float | None) -> _Entry | None:
        entry: _Entry | None = self._store.get(key)
        if entry is None:
            return None
        now = trio.current_time()
        if now >= entry.fresh_until or (max_age is not None and now - entry.asked_at > max_age):
            return None
        return entry

    def _launch(self, key: Key, fetch: Callable[[], Awaitable[_Entry]]) -> _Flight:
        if self._is_ending:
            flight = _Flight(error=Unreachable("the mount is ending"))
            flight.landed.set()
            return flight
        flight = self._flights[key] = _Flight()
        self._nursery.start_soon(self._fly, key, flight, fetch)
        return flight

    async def _fly(self, key: Key, flight: _Flight, fetch: Callable[[], Awaitable[_Entry]]) -> None:
        try:
            flight.entry = await fetch()
            self.health.succeeded()
        except Unreachable as exc:
            self.health.failed(exc)
            flight.error = exc
        except RucioFsError as exc:
            flight.error = exc
        except trio.Cancelled:
            flight.error = Unreachable("the mount is ending")
            raise
        except Exception as exc:
            # A bug in one answer must not end the cache's nursery, and with it the mount.
            log.exception("bug while asking Rucio for %s", key)
            flight.error = RucioFsError(f"internal error: {exc!r}")
        finally:
            # atomic: no await until the event is set.  After `forget` the key may be another
            # flight's, or nobody's: then the answer still serves its waiters but is not kept.
            if self._flights.get(key) is flight:
                del self._flights[key]
                self._keep(key, flight.entry)
            flight.landed.set()

    def _keep(self, key: Key, entry: _Entry | None) -> None:
        if entry is None or entry.nbytes == 0:
            return
        if entry.nbytes > self._store.maxsize:
            log.info("%s is larger than the whole cache (%d bytes): not kept", key, entry.nbytes)
            self._store.pop(key, None)
            return
        self._store[key] = entry

    async def _fetch(
        self,
        fetch: Callable[[], Awaitable[T]],
        ttl_and_bytes: Callable[[T], tuple[float, int]],
    ) -> _Entry:
        asked_at = trio.current_time()
        try:
            value: Any = await fetch()
            ttl, nbytes = ttl_and_bytes(value)
        except NotFound as exc:
            # A copy: the original's traceback would keep the whole conversation in memory.
            value, ttl, nbytes = NotFound(*exc.args), self._config.missing_ttl, _SMALL
        return _Entry(value, nbytes + _SMALL, asked_at, trio.current_time() + ttl)

    # --- what the kinds need -------------------------------------------------------------------

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
        entry = self._store.get(("info", who, did))
        if entry is None or not isinstance(entry.value, DIDInfo):
            return None
        info = entry.value
        return info.length if info.type is DIDType.DATASET and not info.is_open else None

    def _collection_ttl(self, who: Identity, did: DID) -> float:
        entry = self._store.get(("info", who, did))
        is_closed = (
            entry is not None and isinstance(entry.value, DIDInfo) and not entry.value.is_open
        )
        return self._config.closed_ttl if is_closed else self._config.open_ttl

    def _info_ttl(self, info: DIDInfo) -> tuple[float, int]:
        if info.type is DIDType.FILE:
            return self._config.file_ttl, _SMALL
        return self._config.open_ttl if info.is_open else self._config.closed_ttl, _SMALL

    async def _learn(self, who: Identity, listing: Listing, positions: list[int]) -> _Entry:
        dids = [listing.members[position].did for position in positions]
        asked_at, forgotten = trio.current_time(), self._forgotten
        infos = await self._inner.infos(who, dids)
        listing.learn(infos, positions)
        if forgotten == self._forgotten:
            for did, info in infos.items():
                if info.type is not DIDType.FILE:  # a file's time and size are in the listing
                    ttl, nbytes = self._info_ttl(info)
                    entry = _Entry(info, nbytes + _SMALL, asked_at, trio.current_time() + ttl)
                    self._keep(("info", who, did), entry)
        first = positions[0]
        if listing.mtime_ns(first) is None:
            # bulkmeta leaves out what it does not know; only the single call says "not found".
            info = await self._inner.info(who, dids[0])
            listing.learn({dids[0]: info}, [first])
        return _Entry(None, 0, 0.0, 0.0)


def _known(entry: _Entry) -> Known[Any]:
    if isinstance(entry.value, NotFound):
        raise NotFound(*entry.value.args) from entry.value
    return Known(entry.value, max(0.0, entry.fresh_until - trio.current_time()))


def _raise_error(flight: _Flight) -> None:
    if flight.error is not None:
        # A copy: one exception raised in many tasks would collect all their tracebacks.
        raise type(flight.error)(*flight.error.args) from flight.error
