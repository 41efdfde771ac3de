"""Answers in memory, and questions on their way: the machinery below `cache.CachedCatalogue`.

* Concurrent identical questions are one question.  It runs in the nursery given at construction, so
  that a caller who gives up does not take the answer from the others.
* An answer counts for the time it came with; after that it is asked again, and if Rucio cannot be
  reached the old one is served, which `Health` counts.
* "Not found" is remembered briefly, a failure never.  LRU by bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import trio
from cachetools import LRUCache

from rucio_fs.catalogue.health import Health
from rucio_fs.config import CacheConfig
from rucio_fs.errors import NotFound, RucioFsError, Unreachable

log = logging.getLogger(__name__)
T = TypeVar("T")
Key = tuple[Any, ...]

SMALL = 1200
"""Bytes that an answer about one DID takes with its key (measured with pympler: 0.7 to 1.1 kB)."""


BURST = 0.05
"""Seconds after a failure, or another one like it, in which the same question fails at once."""


class Known(NamedTuple, Generic[T]):
    """An answer, and for how many seconds it still counts (0 for an old one served in need)."""

    value: T
    ttl: float


class Worth(NamedTuple):
    """How long (s) an answer counts, and how many bytes it takes."""

    ttl: float
    nbytes: int


@dataclass(slots=True)
class _Entry:
    value: Any  # the answer, or the NotFound that was the answer
    nbytes: int
    asked_at: float
    fresh_until: float


@dataclass(slots=True, eq=False)
class _Flight:
    """One question on its way to Rucio, and everybody who waits for it."""

    landed: trio.Event = field(default_factory=trio.Event)
    entry: _Entry | None = None
    error: RucioFsError | None = None

    def fail(self, error: RucioFsError) -> None:
        self.error = error
        self.landed.set()

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error.copy() from self.error


class Memory:
    """Keeps what was asked.  Times are trio's clock, in s."""

    def __init__(self, config: CacheConfig, nursery: trio.Nursery) -> None:
        self._config = config
        self._nursery = nursery
        self._store: LRUCache[Key, _Entry] = LRUCache(config.size, getsizeof=lambda e: e.nbytes)
        self._flights: dict[Key, _Flight] = {}
        self._in_the_air: set[_Flight] = set()  # also those that `forget` has let go of
        self._is_ending = False
        self._failure: tuple[Key, RucioFsError] | None = None
        self._failed_at = 0.0
        self.forgotten = 0  # how often somebody asked to forget: an answer of before is no news
        self.health = Health()

    def __repr__(self) -> str:
        return f"<Memory of {len(self._store)} answers, {len(self._flights)} on their way>"

    async def ask(
        self,
        key: Key,
        fetch: Callable[[], Awaitable[T]],
        appraise: Callable[[T], Worth],
        max_age: float | None = None,
    ) -> Known[T]:
        """The answer to *key*, fetched unless a fresh one is here or on its way.

        With *max_age* (s) it is at most that old, and a failure is not covered up.

        Raises: what *fetch* raises.
        """
        entry = self._fresh(key, max_age)
        if entry is not None:
            self.health.hits += 1
            return _known(entry)
        self.health.misses += 1
        old = self._store.get(key) if max_age is None else None
        if old is not None and isinstance(old.value, NotFound):
            old = None  # a name may have come into being since: an old "not found" helps nobody
        flight = self._flights.get(key) or self._launch(key, lambda: self._fetch(fetch, appraise))
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
        flight.raise_error()
        raise AssertionError("a flight lands with an entry or an error")

    async def once(self, key: Key, act: Callable[[], Awaitable[None]]) -> bool:
        """Run *act*, or wait for the one that runs under *key*; say whether *act* ran.

        What the run raised is raised here, but for a `NotFound` of somebody else's run: that is
        about what he asked.  In a `BURST` of questions, as ``ls -l`` makes one for each file, a
        failure answers all of them: else each would wait for Rucio as long as the first did.
        """

        async def fetch() -> None:
            await act()

        joined = self._flights.get(key)
        if joined is None and self._failure is not None and self._failure[0] == key:
            now = trio.current_time()
            is_burst, self._failed_at = now - self._failed_at <= BURST, now
            if is_burst:
                raise self._failure[1].copy()
            self._failure = None
        flight = joined or self._launch(key, fetch)
        await flight.landed.wait()
        if joined is None or not isinstance(flight.error, NotFound):
            if flight.error is not None and not isinstance(flight.error, NotFound):
                self._failure, self._failed_at = (key, flight.error), trio.current_time()
            flight.raise_error()
        return joined is None

    def try_again(self, key: Key) -> None:
        """Forget that *key* has failed: a new burst begins."""
        if self._failure is not None and self._failure[0] == key:
            self._failure = None

    def at_hand(self, key: Key) -> Known[Any] | None:
        """A fresh answer that is no "not found"; asks nobody."""
        entry = self._fresh(key, None)
        return None if entry is None or isinstance(entry.value, NotFound) else _known(entry)

    def last(self, key: Key) -> Any:
        """The last answer however old, None if there is none or it was "not found"."""
        entry = self._store.get(key)
        return None if entry is None or isinstance(entry.value, NotFound) else entry.value

    def keep(self, key: Key, value: object, worth: Worth, asked_at: float) -> None:
        """Keep an answer that came with another question, asked at *asked_at*."""
        self._keep(key, _entry(value, worth, asked_at))

    def forget(self, is_meant: Callable[[Key], bool]) -> None:
        """Drop the answers whose keys are meant; those on their way serve their askers only."""
        self.forgotten += 1
        for key in [key for key in (*self._store, *self._flights) if is_meant(key)]:
            self._store.pop(key, None)
            self._flights.pop(key, None)

    def stop(self) -> None:
        """The mount ends: whoever waits for an answer, or would, is told so at once."""
        self._is_ending = True
        for flight in self._in_the_air:
            flight.fail(_ending())

    def status(self) -> dict[str, Any]:
        """Numbers for `.rucio/status`; sizes in bytes."""
        return {
            "entries": len(self._store),
            "bytes": int(self._store.currsize),
            "limit": int(self._store.maxsize),
            "asking": len(self._flights),
            **self.health.counts(),
        }

    def _fresh(self, key: Key, max_age: float | None) -> _Entry | None:
        entry: _Entry | None = self._store.get(key)
        if entry is None:
            return None
        now = trio.current_time()
        if now >= entry.fresh_until or (max_age is not None and now - entry.asked_at > max_age):
            return None
        return entry

    def _launch(self, key: Key, fetch: Callable[[], Awaitable[_Entry | None]]) -> _Flight:
        flight = _Flight()
        if self._is_ending:
            flight.fail(_ending())
        else:
            self._flights[key] = flight
            self._in_the_air.add(flight)
            self._nursery.start_soon(self._fly, key, flight, fetch)
        return flight

    async def _fly(
        self, key: Key, flight: _Flight, fetch: Callable[[], Awaitable[_Entry | None]]
    ) -> None:
        try:
            flight.entry = await fetch()
            self.health.succeeded()
        except Unreachable as exc:
            self.health.failed(exc)
            flight.error = exc
        except RucioFsError as exc:
            flight.error = exc
        except trio.Cancelled:
            flight.error = _ending()
            raise
        except Exception as exc:
            # A bug in one answer must not end the nursery, and with it the mount.
            log.exception("bug while asking Rucio for %s", key)
            flight.error = RucioFsError(f"internal error: {exc!r}")
        finally:
            # atomic: no await until the event is set.  After `forget` the key may be another
            # flight's, or nobody's: then the answer still serves its waiters but is not kept.
            if self._flights.get(key) is flight:
                del self._flights[key]
                if flight.entry is not None:
                    self._keep(key, flight.entry)
            self._in_the_air.discard(flight)
            flight.landed.set()

    async def _fetch(
        self, fetch: Callable[[], Awaitable[T]], appraise: Callable[[T], Worth]
    ) -> _Entry:
        asked_at = trio.current_time()
        try:
            value = await fetch()
        except NotFound as exc:
            # A copy: the original's traceback would keep the whole conversation in memory.
            return _entry(NotFound(*exc.args), Worth(self._config.missing_ttl, SMALL), asked_at)
        return _entry(value, appraise(value), asked_at)

    def _keep(self, key: Key, entry: _Entry) -> None:
        if entry.nbytes > self._store.maxsize:
            log.info("%s is larger than the whole cache (%d bytes): not kept", key, entry.nbytes)
            self._store.pop(key, None)
        else:
            self._store[key] = entry


def _entry(value: object, worth: Worth, asked_at: float) -> _Entry:
    return _Entry(value, worth.nbytes + SMALL, asked_at, trio.current_time() + worth.ttl)


def _known(entry: _Entry) -> Known[Any]:
    if isinstance(entry.value, NotFound):
        raise NotFound(*entry.value.args) from entry.value
    return Known(entry.value, max(0.0, entry.fresh_until - trio.current_time()))


def _ending() -> RucioFsError:
    return Unreachable("the mount is ending")
