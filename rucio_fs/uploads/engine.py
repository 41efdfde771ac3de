"""Uploads as tasks: each step takes what is due for it, and what it has come to is durable.

A step knows nothing of the others: it finds its records by their state, so that a mount that was
killed goes on where it was.  Rucio and each storage are left alone for a while when they fail.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence

import trio

from rucio_fs.depot.failures import Full, Unauthorized
from rucio_fs.errors import Corrupt, Differs, LoginFailed, RucioFsError, Unreachable
from rucio_fs.uploads import naming
from rucio_fs.uploads.checking import Checker
from rucio_fs.uploads.confirming import Confirmer
from rucio_fs.uploads.context import BATCH, Context, is_passing
from rucio_fs.uploads.leaving import Leaver
from rucio_fs.uploads.pausing import Pause, backoff
from rucio_fs.uploads.queueing import Queue
from rucio_fs.uploads.records import Record, State
from rucio_fs.uploads.registering import Registrar
from rucio_fs.uploads.settling import Settling
from rucio_fs.uploads.storing import Changed, Storer

log = logging.getLogger(__name__)

_COMPANY = 1.0  # s that a request waits for more files that are on their way to it ...
_MUCH_COMPANY, _MANY = 5.0, 200  # ... and where they are so many
_OFTEN = 3  # failures, after which others of the same storage come first
_ATTEMPTS = 5  # of a file that arrives damaged, before somebody is asked
_FIRST_LOOK, _LONGEST_LOOK = 0.3, 30.0  # s between two looks whether a rule is done
_LOOKED_AT = 1000  # uploads in one of those looks

Step = Callable[[Sequence[Record]], Awaitable[None]]


class Engine:
    """Everything that is done for uploads.  One instance and one `run` task a mount.

    *connections* is how many files are on their way at once.
    """

    def __init__(self, context: Context, settling: Settling, connections: int) -> None:
        self.rucio = Pause()
        self.storages: defaultdict[str, Pause] = defaultdict(Pause)
        self._failures: Counter[int] = Counter()  # of their storage, by id of the record
        # What was there when no file was found that can be stored.
        self._in_vain: dict[State, tuple[int, set[str]]] = {}
        self._context = context
        self._ledger = context.ledger
        self._ledger.on_stop = self._has_problem
        self._settling = settling
        self._connections = connections
        self._queue = Queue(context)
        self._leaver = Leaver(context)
        self._checker = Checker(context, self._told, self._changed)
        self._registrar = Registrar(context, self._told, self._leaver, self._changed)
        self._storer = Storer(context)
        self._confirmer = Confirmer(context, self._leaver)
        self._is_ending = False
        self.is_looking = False  # what is found there is on its way to be checked
        self.is_registering: Callable[[], bool] = lambda: False  # what was saved by others
        self._at_work = 0
        self._unwritten = trio.Event()

    def __repr__(self) -> str:
        return f"<Engine of {self._ledger!r}>"

    async def run(self) -> None:
        """Upload what is and comes, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._looks)
            for _ in range(self._connections):
                nursery.start_soon(self._stores)
            earlier: tuple[State, ...] = ()
            for state, step in (
                (State.QUEUED, self._checker.check),
                (State.STORED, self._registrar.register),
                (State.REGISTERED, self._registrar.attach),
                (State.ATTACHED, self._registrar.rule),
            ):
                nursery.start_soon(self._steps, state, step, earlier)
                earlier = (state, State.UPLOADING, State.PLACING)
            nursery.start_soon(self._confirms)
            nursery.start_soon(self._leaver.run)
            nursery.start_soon(self._cleans)
            nursery.start_soon(self._writes_down)

    async def finish(self, seconds: float) -> None:
        """Begin nothing any more, and wait at most so long for what is under way."""
        self._is_ending = True
        self._ledger.tell()
        with trio.move_on_after(seconds):
            while self._at_work:
                await self._ledger.news()

    def retry(self, path: str = "") -> int:
        """Try again what has stopped, all of it or what is at or below *path*; how many."""
        self.rucio.end()
        for pause in self.storages.values():
            pause.end()
        stopped = [
            one
            for one in (self._ledger.below(path) if path else self._ledger)
            if (one.is_stopped or one.error) and (one.path or one.state > State.STAGED)
        ]  # not what `register` has refused: it is looked at when it is asked for again
        for record in stopped:
            if record.state is State.STAGED:
                self._settling.hurry(naming.top_of(record.path))
            else:
                self._ledger.retry(record)
        self._ledger.tell()
        return len(stopped)

    # --- looking at what was saved ---------------------------------------------------------------

    async def _looks(self) -> None:
        while True:
            top = await self._settling.next()
            self.is_looking = True
            await self._until(
                lambda: self.rucio.is_over and not self._is_ending,
                lambda: self._later(self.rucio),
            )
            with _AtWork(self):
                try:
                    await self._queue.look(top)
                except RucioFsError as exc:
                    self._rucio_failed(exc)
                    self._settling.changed(top)
                except OSError as exc:
                    log.warning("scratch/%s cannot be looked at now: %s", top, exc)
                    self._settling.changed(top)
                except Exception:
                    log.exception("bug while looking at scratch/%s", top)
                finally:
                    self.is_looking = False

    # --- to storage ------------------------------------------------------------------------------

    async def _stores(self) -> None:
        while True:
            record = self._next_to_store()
            if record is None:
                times = [self._ledger.next_due(one) for one in (State.UPLOADING, State.PLACING)]
                times += [one.until for one in self.storages.values() if not one.is_over]
                with trio.move_on_at(min(times)):
                    await self._ledger.news()
                continue
            with _AtWork(self), self._ledger.begin(record):
                await self._store(record)
            self._ledger.end(record)
            self.write_down()  # what is not on disk of it is found out again

    def _next_to_store(self) -> Record | None:
        if self._is_ending:
            return None
        away = {rse for rse, pause in self.storages.items() if not pause.is_over}
        last: Record | None = None
        for number in [one for one in self._failures if one not in self._ledger.journal.records]:
            del self._failures[number]
        for state in (State.PLACING, State.UPLOADING):
            # A storage that is away hides none of the others, nor does what fails alone; and many
            # files that wait for it are not looked at with each one that is saved.
            due, seen = self._ledger.each_due(state), (self._ledger.arrivals[state], away)
            if seen == self._in_vain.get(state):
                continue
            self._in_vain.pop(state, None)
            for record in due:
                if record.rse not in away:
                    if self._failures[record.id] < _OFTEN:
                        return record
                    last = last or record
            if last is None:
                self._in_vain[state] = seen
        return last

    async def _store(self, record: Record) -> None:
        ledger, pause = self._ledger, self.storages[record.rse]
        try:
            await self._storer.store(record)
            pause.succeeded()
            del self._failures[record.id]
        except Changed as exc:
            log.info("%s", exc)
            ledger.drop(record)
            self._settling.changed(naming.top_of(record.path))
        except (Unreachable, LoginFailed, Unauthorized, Full) as exc:
            log.log(exc.level, "%s cannot be uploaded now: %s", record.did, exc)
            record.error, record.sent = str(exc), 0
            self._has_problem(record)
            pause.failed(str(exc))
            self._failures[record.id] += 1
        except (Differs, Corrupt) as exc:
            log.log(exc.level, "%s", exc)
            if isinstance(exc, Corrupt) and record.attempts + 1 < _ATTEMPTS:
                later = trio.current_time() + backoff(record.attempts + 1)
                ledger.postpone(record, str(exc), later)
                self._has_problem(record)
            else:
                self._give_place_up(record)
                ledger.stop(record, str(exc))
        except RucioFsError as exc:
            log.log(exc.level, "%s cannot be uploaded: %s", record.did, exc)
            self._give_place_up(record)
            ledger.stop(record, f"{record.did}: {exc}")
        except Exception as exc:
            log.exception("bug while uploading %s", record.did)
            ledger.postpone(record, f"internal error: {exc!r}", trio.current_time() + 60)

    def _give_place_up(self, record: Record) -> None:
        """What was sent is of no use; the file may be changed and renamed again."""
        if record.temp_url:
            self._ledger.journal.add_litter(record.temp_url)
        record.temp_url = ""
        self._ledger.back(record, State.QUEUED)

    # --- to Rucio --------------------------------------------------------------------------------

    async def _steps(self, state: State, step: Step, earlier: Sequence[State]) -> None:
        """Take *step* for records in *state*; those in *earlier* states are waited for a little."""
        while True:
            await self._until(
                lambda: self.rucio.is_over and not self._is_ending and self._ledger.due(state, 1),
                lambda: min(self._ledger.next_due(state), self._later(self.rucio)),
            )
            coming = sum(map(self._ledger.count, earlier))
            with trio.move_on_after(_COMPANY if coming < _MANY else _MUCH_COMPANY):
                while self._ledger.count(state) < BATCH and self._is_more_to_come(earlier):
                    await self._ledger.news()
            if records := self._ledger.due(state, BATCH):
                await self._step(records, step)

    def _is_more_to_come(self, earlier: Sequence[State]) -> bool:
        return self.is_looking or self.is_registering() or self._ledger.is_active(*earlier)

    async def _step(self, records: Sequence[Record], step: Step) -> None:
        with _AtWork(self):
            for record in records:
                self._ledger.begin(record)
            try:
                await step(records)
                self.rucio.succeeded()
            except RucioFsError as exc:
                self._rucio_failed(exc)
            except Exception as exc:
                log.exception("bug while telling Rucio of %s", records[0].did)
                self.rucio.failed(f"internal error: {exc!r}")
            # On disk before the next step takes them up.
            await self._commit()
            for record in records:
                self._ledger.end(record)

    def _told(self, record: Record, error: RucioFsError) -> None:
        """Something is in the way of one record."""
        words = str(error)
        if str(record.did) not in words:
            words = f"{record.did}: {words}"
        if is_passing(error):
            later = trio.current_time() + backoff(record.attempts + 1)
            self._ledger.postpone(record, words, later)
            self._has_problem(record)
        else:
            if isinstance(error, Differs) and record.state is State.STORED:
                # Rucio knows another file of that name: what was placed is nobody's, but what lies
                # in place is its user's.
                if record.is_placed:
                    self._ledger.journal.add_litter(record.url)
                    record.is_placed = False
                if not record.lies_at:
                    record.is_in_place = False
                    self._ledger.back(record, State.QUEUED)
            self._ledger.stop(record, words)
        log.log(error.level, "%s", words)

    def _has_problem(self, record: Record) -> None:
        """What is in its way is told in `.rucio/problems`, too."""
        if record.did.scope:  # else it has no name there; `.rucio/uploads` shows its path
            self._context.events.problem(
                record.did, record.shown, record.error, record.rule_id or None
            )

    def _changed(self, record: Record) -> None:
        """Its file is not what was queued: it is looked at again."""
        self._settling.changed(naming.top_of(record.path))

    async def _confirms(self) -> None:
        while True:
            await self._until(
                lambda: (
                    self.rucio.is_over and not self._is_ending and self._ledger.due(State.RULED, 1)
                ),
                lambda: min(self._ledger.next_due(State.RULED), self._later(self.rucio)),
            )
            await trio.sleep(_FIRST_LOOK)
            records = self._ledger.due(State.RULED, _LOOKED_AT)
            if records:
                await self._step(records, self._confirmer.confirm)
            now = trio.current_time()
            for record in records:
                if record.state is State.RULED:
                    record.attempts += 1
                    pause = min(_LONGEST_LOOK, _FIRST_LOOK * 1.3 ** min(record.attempts, 40))
                    self._ledger.defer(record, now + pause)

    def _rucio_failed(self, error: RucioFsError) -> None:
        log.log(error.level, "uploads wait for Rucio: %s", error)
        self.rucio.failed(str(error))

    # --- what is left behind ---------------------------------------------------------------------

    async def _cleans(self) -> None:
        """Delete from storage what uploads that were given up have left there."""
        pause = Pause()
        tries: Counter[str] = Counter()
        waiting: list[str] = []
        while True:
            journal = self._ledger.journal
            if not journal.litter or not pause.is_over:
                with trio.move_on_at(pause.until if journal.litter else float("inf")):
                    await self._ledger.news()
                continue
            if not waiting:  # none is in the way of the others: what fails comes last
                waiting = sorted(journal.litter, key=tries.__getitem__, reverse=True)
            if (url := waiting.pop()) not in journal.litter:
                continue
            try:
                await self._context.depot.delete(url)
            except RucioFsError as exc:
                if is_passing(exc):
                    tries[url] += 1
                    pause.failed(str(exc))
                    continue
                log.warning("%s is left on storage: %s", url.partition("?")[0], exc)
            except Exception as exc:
                log.exception("bug while removing what an upload has left on storage")
                tries[url] += 1
                pause.failed(f"internal error: {exc!r}")
                continue
            pause.succeeded()
            del tries[url]
            journal.remove_litter(url)
            await self._commit()

    def write_down(self) -> None:
        """The journal is to be told soon of what somebody has changed who cannot wait for it."""
        self._unwritten.set()

    async def _writes_down(self) -> None:
        while True:
            await self._unwritten.wait()
            self._unwritten = trio.Event()
            await self._commit()

    # --- helpers ---------------------------------------------------------------------------------

    async def _until(self, is_so: Callable[[], object], look_at: Callable[[], float]) -> None:
        """Wait until *is_so*; it may become so at *look_at*, or with any news of the ledger."""
        while not is_so():
            with trio.move_on_at(look_at()):
                await self._ledger.news()

    def _later(self, pause: Pause) -> float:
        return float("inf") if pause.is_over else pause.until

    async def _commit(self) -> None:
        try:
            await self._ledger.journal.commit()
        except Unreachable as exc:
            log.error("%s", exc)


class _AtWork:
    """Somebody is doing what should come to its end before the mount does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        self._engine._at_work += 1

    def __exit__(self, *exc: object) -> None:
        self._engine._at_work -= 1
        self._engine._ledger.tell()
