"""Many askers, few calls: while some calls run, further keys gather for the next one.

Nobody waits for company: a single question goes out at once.  Five hundred that come together
become a handful of calls.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import trio

from rucio_fs.errors import RucioFsError, Unreachable

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Wish(Generic[V]):
    __slots__ = ("answer", "landed")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.answer: V | RucioFsError = Unreachable("no answer")


class Gatherer(Generic[K, V]):
    """Asks *fetch* for many keys at once, at most *limit* of them, in at most *at_once* calls.

    *fetch* gives for each key its value or its error, and may raise one for all of them.  It runs
    in *nursery*: an asker who gives up takes nothing from the others.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[K]], Awaitable[Mapping[K, V | RucioFsError]]],
        nursery: trio.Nursery,
        *,
        limit: int,
        at_once: int,
    ) -> None:
        self._fetch = fetch
        self._nursery = nursery
        self._limit = limit
        self._at_once = at_once
        self._running = 0
        self._wishes: dict[K, _Wish[V]] = {}

    async def ask(self, key: K) -> V:
        """Value of *key*.  Raises: its error."""
        wish = self._wishes.get(key)
        if wish is None:
            wish = self._wishes[key] = _Wish()
            self._launch()
        await wish.landed.wait()
        if isinstance(wish.answer, RucioFsError):
            raise wish.answer.copy() from wish.answer
        return wish.answer

    def _launch(self) -> None:
        # atomic: what is taken here is in nobody else's call
        while self._wishes and self._running < self._at_once:
            keys = list(self._wishes)[: self._limit]
            taken = {key: self._wishes.pop(key) for key in keys}
            self._running += 1
            self._nursery.start_soon(self._call, taken)

    async def _call(self, taken: Mapping[K, _Wish[V]]) -> None:
        answers: Mapping[K, V | RucioFsError] = {}
        failure: RucioFsError | None = None
        try:
            answers = await self._fetch(list(taken))
        except RucioFsError as exc:
            failure = exc
        except Exception as exc:
            # A bug in one answer must not end the nursery, and with it the mount.
            log.exception("bug while asking for %s", next(iter(taken)))
            failure = RucioFsError(f"internal error: {exc!r}")
        finally:
            self._running -= 1
            for key, wish in taken.items():
                wish.answer = failure or answers.get(key, wish.answer)
                wish.landed.set()
            self._launch()
