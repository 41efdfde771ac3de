"""Filling one piece of a file: from the best replica, from the next one if that fails, in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from rucio_fs.checksums import adler32
from rucio_fs.did import DID
from rucio_fs.errors import Denied, NoSource, RucioFsError, Unreachable
from rucio_fs.streams.answers import Range
from rucio_fs.streams.candidates import Candidate, Candidates
from rucio_fs.streams.failures import Failure, Unauthorized
from rucio_fs.streams.pieces import Piece
from rucio_fs.streams.pool import Pool
from rucio_fs.streams.storages import Storages
from rucio_fs.webdav.credentials import Credentials

log = logging.getLogger(__name__)

_TOKEN_LOOK = 1.0  # s between two looks for a renewed token


@dataclass(slots=True)
class Counters:
    """What the streams of a mount have moved, for `.rucio/status`."""

    received: int = 0  # bytes
    failures: int = 0


class Fetcher:
    """Fetches ranges for all streams of a mount.  *deadline* (s) is for one piece."""

    def __init__(
        self, pool: Pool, storages: Storages, credentials: Credentials, deadline: float
    ) -> None:
        self.counters = Counters()
        self._pool = pool
        self._storages = storages
        self._credentials = credentials
        self._deadline = deadline
        # As many threads as requests: who may run is the business of the storages' limiters.
        self._threads = trio.CapacityLimiter(1_000_000)

    async def fill(
        self,
        did: DID,
        size: int,
        piece: Piece,
        candidates: Candidates,
        ask_again: Callable[[], Awaitable[bool]],
    ) -> int:
        """Fill *piece* of the file *did*, which has *size* bytes; return the piece's adler32.

        *ask_again* asks Rucio for the replicas of now once all have failed, and says whether there
        is one that has not.

        Raises: NoSource (no replica can be read), Denied (credentials are refused), Unreachable
        (not in time).
        """
        deadline = trio.current_time() + self._deadline
        refused: dict[Candidate, str] = {}  # what it was shown
        while True:
            candidate = await self._choose(did, candidates, refused, deadline, ask_again)
            shown = self._credentials.shown(candidate.where)
            try:
                value = await self._attempt(piece, size, candidate)
                if value is not None:
                    return value
            except Failure as failure:
                self.counters.failures += 1
                log.info("%s from %s: %s", did, candidate.rse, failure)
                candidates.failed(candidate, failure)
                if isinstance(failure, Unauthorized):
                    if shown or self._credentials.shown(candidate.where):
                        refused[candidate] = shown
                    else:
                        candidate.last_words += "; no credentials are configured for it"
                        candidates.give_up(candidate)
                elif not failure.is_final:
                    candidate.storage.failed(failure.retry_after)

    async def _choose(
        self,
        did: DID,
        candidates: Candidates,
        refused: dict[Candidate, str],
        deadline: float,
        ask_again: Callable[[], Awaitable[bool]],
    ) -> Candidate:
        """Whom to ask now; waits while nobody can be asked but somebody may be soon."""
        while True:
            usable = candidates.usable()
            if not usable:
                if not await ask_again():
                    raise NoSource(f"{did} cannot be read: {candidates.reasons() or 'no replica'}")
                usable = candidates.usable()
            now = trio.current_time()
            welcome = [
                one
                for one in usable
                if one not in refused or refused[one] != self._credentials.shown(one.where)
            ]
            if welcome:
                first = min(welcome, key=lambda one: max(one.storage.try_again_at, now))
                pause = max(0.0, first.storage.try_again_at - now)
                if not pause and now < deadline:
                    return first
            else:
                pause = _TOKEN_LOOK
            if now + pause >= deadline:
                raise self._too_late(did, candidates, is_refused=bool(usable) and not welcome)
            await trio.sleep(pause)

    def _too_late(self, did: DID, candidates: Candidates, *, is_refused: bool) -> RucioFsError:
        if is_refused:
            return Denied(
                f"{did} cannot be read: {candidates.reasons()}; no renewed token came within"
                f" {self._deadline:g} s"
            )
        return Unreachable(
            f"{did} cannot be read now, after {self._deadline:g} s: {candidates.reasons()}"
        )

    async def _attempt(self, piece: Piece, size: int, candidate: Candidate) -> int | None:
        """What is missing of *piece* from one replica; None if others now find that it fails.

        Raises: Failure
        """
        storage = candidate.storage
        places = storage.urgent if piece.is_urgent else storage.ahead
        known = storage.set_back_until
        async with places, self._storages.total:
            if storage.set_back_until > known:
                return None
            before = piece.got
            wanted = Range(piece.start + before, piece.end, size, skips=candidate.whole_only)
            piece.rses.add(candidate.rse)

            def receive() -> tuple[int, float]:
                began = time.perf_counter()
                self._pool.fetch(
                    candidate.where,
                    wanted,
                    piece.buffer[before : len(piece)],
                    self._credentials.headers,
                    lambda got: piece.progress(before + got),
                    piece.aborts_by,
                )
                took = time.perf_counter() - began
                return adler32(piece.buffer[: len(piece)]), took

            try:
                # Not abandoned when cancelled: the thread writes into memory that is given back.
                value, took = await trio.to_thread.run_sync(receive, limiter=self._threads)
            finally:
                self.counters.received += piece.got - before
                if piece.is_cancelled:  # that the connection was ended says nothing of the storage
                    await trio.lowlevel.checkpoint()
        storage.succeeded(piece.got - before, took)
        return value
