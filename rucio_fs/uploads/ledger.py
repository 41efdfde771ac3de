"""The uploads of a mount as they stand: found by file, by path, and by what is to be done next.

Nothing here awaits: every method is atomic under trio.  None takes longer the more uploads there
are, but for those that say so.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice

import trio

from rucio_fs.uploads.journal import Journal
from rucio_fs.uploads.records import Record, State


class Ledger:
    """The records of the *journal*, indexed, and what runs for them now.

    *on_stop* is told of each record that only a user can help.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.on_stop: Callable[[Record], None] = lambda record: None
        self._by_ino: dict[int, Record] = {}
        self._by_path: dict[str, Record] = {}
        self._counts = dict.fromkeys(State, 0)
        self._stopped = dict.fromkeys(State, 0)
        self._ready: dict[State, dict[int, Record]] = {state: {} for state in State}
        self._later: dict[State, list[tuple[float, int]]] = {state: [] for state in State}
        self._not_before: dict[int, float] = {}
        self._running: dict[int, trio.CancelScope] = {}
        self._change = trio.Event()
        self.arrivals = dict.fromkeys(State, 0)  # how often a record became due in a state
        for record in journal.records.values():
            self._enter(record)

    def __len__(self) -> int:
        return len(self.journal.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self.journal.records.values()))

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {one.name}" for one, count in self._counts.items() if count)
        return f"<Ledger: {counts or 'empty'}>"

    def of_file(self, ino: int, path: str | None = None) -> Record | None:
        """The record of the file with that number of the disk's, now called *path*.

        What Rucio has removed has given its number back, which may be another file's by now.
        """
        record = self._by_ino.get(ino)
        if record is not None and record.is_released and path not in (None, record.path):
            self.let_go(record)
            return None
        return record

    def at(self, path: str) -> Record | None:
        return self._by_path.get(path)

    def below(self, path: str) -> list[Record]:
        """The records of *path* itself and of what lies below it.  Looks at all."""
        start = f"{path}/"
        return [one for one in self if one.path == path or one.path.startswith(start)]

    def in_state(self, state: State) -> list[Record]:
        """Looks at all."""
        return [one for one in self if one.state is state]

    def count(self, state: State) -> int:
        return self._counts[state]

    def is_known(self, record: Record) -> bool:
        """Whether it was not dropped meanwhile."""
        return record.id in self.journal.records

    # --- what is to be done ----------------------------------------------------------------------

    def due(self, state: State, limit: int) -> list[Record]:
        """Records in *state* that somebody may work on now, the longest ready first."""
        self._ripen(state)
        return list(islice(self._ready[state].values(), limit))

    def each_due(self, state: State) -> Iterator[Record]:
        """The same one by one, for who takes the first that suits; nothing changes meanwhile."""
        self._ripen(state)
        return iter(self._ready[state].values())

    def next_due(self, state: State) -> float:
        """When (trio's clock) another record in *state* becomes due; inf: none does by itself.

        One that has just become due is told of once: who waits for more than that does not spin.
        """
        if self._ripen(state):
            return trio.current_time()
        later = self._later[state]
        return later[0][0] if later else float("inf")

    def is_active(self, *states: State) -> bool:
        """Whether anything in one of *states* may still go on by itself."""
        return any(self._counts[state] > self._stopped[state] for state in states)

    async def news(self) -> None:
        """Wait until something has changed."""
        await self._change.wait()

    def tell(self) -> None:
        self._change.set()
        self._change = trio.Event()

    # --- changes; durable with the journal's next commit -----------------------------------------

    def add(self, record: Record) -> None:
        self.journal.put(record)
        self._enter(record)
        self.tell()

    def advance(self, record: Record, state: State) -> None:
        """*record* has come as far as *state*; what was in its way is overcome."""
        if self.is_known(record):
            self._leave(record)
            record.state = state
            record.error, record.is_stopped, record.attempts = "", False, 0
            self._enter(record)
            self.journal.put(record)
            self.tell()

    def back(self, record: Record, state: State) -> None:
        """*record* has to begin again at *state*."""
        if self.is_known(record):
            self._leave(record)
            record.state = state
            self._enter(record)
            self.journal.put(record)
            self.tell()

    def stop(self, record: Record, error: str) -> None:
        """Only a user can help: *error* says how."""
        if self.is_known(record):
            self._leave(record)
            record.error, record.is_stopped = error, True
            self._enter(record)
            self.journal.put(record)
            self.on_stop(record)
            self.tell()

    def postpone(self, record: Record, error: str, until: float) -> None:
        """It is tried again at *until* (trio's clock)."""
        if self.is_known(record):
            record.error = error
            record.attempts += 1
            self.defer(record, until)
            self.journal.put(record)
            self.tell()

    def defer(self, record: Record, until: float) -> None:
        """Nothing is wrong with it; it is looked at again at *until* (trio's clock)."""
        if self.is_known(record):
            self._ready[record.state].pop(record.id, None)
            self._not_before[record.id] = until
            heapq.heappush(self._later[record.state], (until, record.id))

    def retry(self, record: Record) -> None:
        """A user has asked for another attempt."""
        if self.is_known(record):
            self._leave(record)
            record.is_stopped, record.attempts = False, 0
            self._enter(record)
            self.journal.put(record)
            self.tell()

    def moved(self, record: Record, path: str) -> None:
        """Its file has another name."""
        if self.is_known(record):
            self._forget_file(record)
            record.path = path
            self._find_by_file(record)
            self.journal.put(record)

    def drop(self, record: Record) -> None:
        """The file has changed: what was done for it does not count any more."""
        if not self.is_known(record):
            return
        scope = self._running.get(record.id)
        if scope is not None:
            scope.cancel()
        if record.temp_url:
            self.journal.add_litter(record.temp_url)
        if record.is_placed and record.state is State.STORED:
            self.journal.add_litter(record.url)  # Rucio has refused it, and knows nothing of it
        self._leave(record)
        self.journal.remove(record)
        self.tell()

    def let_go(self, record: Record) -> None:
        """Its file was removed from staging; the lake has the bytes, and it goes on there."""
        if record.state is State.DONE or record.is_stopped:  # nobody could help it any more
            self.drop(record)
        elif self.is_known(record):
            self._forget_file(record)
            record.path = ""
            self.journal.put(record)
            self.tell()

    # --- what runs -------------------------------------------------------------------------------

    def begin(self, record: Record) -> trio.CancelScope:
        """Somebody works on *record*; the scope is cancelled when it is dropped."""
        self._ready[record.state].pop(record.id, None)
        scope = self._running[record.id] = trio.CancelScope()
        return scope

    def end(self, record: Record) -> None:
        self._running.pop(record.id, None)
        if self.is_known(record):
            self._make_ready(record)
        self.tell()

    # --- the indices -----------------------------------------------------------------------------

    def _enter(self, record: Record) -> None:
        self._counts[record.state] += 1
        self._stopped[record.state] += record.is_stopped
        self._find_by_file(record)
        self._make_ready(record)

    def _leave(self, record: Record) -> None:
        self._counts[record.state] -= 1
        self._stopped[record.state] -= record.is_stopped
        self._ready[record.state].pop(record.id, None)
        self._not_before.pop(record.id, None)
        self._forget_file(record)

    def _find_by_file(self, record: Record) -> None:
        if record.path:
            self._by_ino[record.ino] = record
            self._by_path[record.path] = record

    def _forget_file(self, record: Record) -> None:
        if self._by_ino.get(record.ino) is record:
            del self._by_ino[record.ino]
        if self._by_path.get(record.path) is record:
            del self._by_path[record.path]

    def _ripen(self, state: State) -> bool:
        """Make ready whose time has come, and forget times that count no more; whether any came."""
        later, now = self._later[state], trio.current_time()
        has_come = False
        while later:
            until, key = later[0]
            record = self.journal.records.get(key)
            if record is None or record.state is not state or self._not_before.get(key) != until:
                heapq.heappop(later)
            elif until <= now:
                heapq.heappop(later)
                del self._not_before[key]
                self._make_ready(record)
                has_come = True
            else:
                break
        return has_come

    def _make_ready(self, record: Record) -> None:
        is_busy = record.id in self._running or record.id in self._not_before
        if not record.is_stopped and not is_busy:
            self._ready[record.state][record.id] = record
            self.arrivals[record.state] += 1
