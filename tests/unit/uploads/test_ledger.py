"""The ledger against a model that looks at everything each time, and what it wakes and cancels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from rucio_fs.uploads.journal import Journal
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.records import Record, State
from tests.unit.uploads.conftest import NewRecord, new_record

STATES = st.sampled_from(State)
SPOTS = st.integers(0, 1 << 20)
PATHS = st.sampled_from(["s/a", "s/b", "s/a/x", "s/a/y", "s/ab", "s/c"])


@dataclass
class Known:
    """What the model knows of a record.  *until*: it was put off so long."""

    record: Record
    state: State
    path: str
    is_stopped: bool = False
    until: float = float("-inf")
    is_running: bool = False
    error: str = ""
    attempts: int = 0


class Scope:
    """What the model knows of a cancel scope: trio's own asks the event loop."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Books(RuleBasedStateMachine):
    """*gone* are records that were dropped: whoever still has one changes nothing with it."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.patches = (
            patch.object(trio, "current_time", lambda: self.now),
            patch.object(trio, "CancelScope", Scope),
        )
        for one in self.patches:
            one.start()
        self.journal = Journal.open(Path(tempfile.mkdtemp(dir=self.directory)) / "j")
        self.ledger = Ledger(self.journal)
        self.known: dict[int, Known] = {}
        self.gone: list[Record] = []
        self.running: dict[int, Scope] = {}
        self.litter: set[str] = set()

    def teardown(self) -> None:
        self.journal.close()
        for one in self.patches:
            one.stop()

    def pick(self, spot: int) -> Known:
        return list(self.known.values())[spot % len(self.known)]

    def forget(self, one: Known) -> None:
        scope = self.running.pop(one.record.id, None)
        assert scope is None or scope.is_cancelled
        del self.known[one.record.id]
        self.gone.append(one.record)
        if one.record.temp_url:
            self.litter.add(one.record.temp_url)

    # --- what happens ----------------------------------------------------------------------------

    @rule(path=PATHS, state=STATES, is_stopped=st.booleans(), has_url=st.booleans())
    def add(self, path: str, state: State, is_stopped: bool, has_url: bool) -> None:
        if any(one.path == path for one in self.known.values()):
            return
        number = self.journal.next_id()
        record = new_record(number, path=path, state=state, is_stopped=is_stopped)
        record.temp_url = f"https://x/{number}" if has_url else ""
        self.ledger.add(record)
        self.known[number] = Known(record, state, path, is_stopped)

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS, state=STATES)
    def advance(self, spot: int, state: State) -> None:
        one = self.pick(spot)
        self.ledger.advance(one.record, state)
        one.state, one.is_stopped, one.until = state, False, float("-inf")
        one.error, one.attempts = "", 0

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS, state=STATES)
    def back(self, spot: int, state: State) -> None:
        one = self.pick(spot)
        self.ledger.back(one.record, state)
        one.state, one.until = state, float("-inf")

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS)
    def stop(self, spot: int) -> None:
        one = self.pick(spot)
        self.ledger.stop(one.record, "why")
        one.is_stopped, one.error, one.until = True, "why", float("-inf")

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS)
    def retry(self, spot: int) -> None:
        one = self.pick(spot)
        self.ledger.retry(one.record)
        one.is_stopped, one.attempts, one.until = False, 0, float("-inf")

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS, seconds=st.integers(-1, 5))
    def postpone(self, spot: int, seconds: int) -> None:
        one = self.pick(spot)
        self.ledger.postpone(one.record, "later", self.now + seconds)
        one.until, one.error, one.attempts = self.now + seconds, "later", one.attempts + 1

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS, seconds=st.integers(-1, 5))
    def defer(self, spot: int, seconds: int) -> None:
        one = self.pick(spot)
        self.ledger.defer(one.record, self.now + seconds)
        one.until = self.now + seconds

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS, path=PATHS)
    def move(self, spot: int, path: str) -> None:
        one = self.pick(spot)
        if one.path and all(other.path != path for other in self.known.values()):
            self.ledger.moved(one.record, path)
            one.path = path

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS)
    def drop(self, spot: int) -> None:
        one = self.pick(spot)
        self.ledger.drop(one.record)
        self.forget(one)

    @precondition(lambda self: self.known)
    @rule(spot=SPOTS)
    def let_go(self, spot: int) -> None:
        one = self.pick(spot)
        self.ledger.let_go(one.record)
        if one.state is State.DONE or one.is_stopped:
            self.forget(one)
        else:
            one.path = ""

    @rule(state=STATES, limit=st.integers(1, 3))
    def begin(self, state: State, limit: int) -> None:
        for record in self.ledger.due(state, limit):
            self.running[record.id] = cast(Any, self.ledger.begin(record))
            self.known[record.id].is_running = True

    @precondition(lambda self: self.running)
    @rule(spot=SPOTS)
    def end(self, spot: int) -> None:
        number = list(self.running)[spot % len(self.running)]
        scope = self.running.pop(number)
        assert not scope.is_cancelled
        self.ledger.end(self.known[number].record)
        self.known[number].is_running = False

    @precondition(lambda self: self.gone)
    @rule(spot=SPOTS, path=PATHS, state=STATES)
    def touch_what_is_gone(self, spot: int, path: str, state: State) -> None:
        record = self.gone[spot % len(self.gone)]
        self.ledger.end(record)
        for change in (self.ledger.advance, self.ledger.back):
            change(record, state)
        self.ledger.stop(record, "gone")
        self.ledger.postpone(record, "gone", self.now)
        self.ledger.defer(record, self.now)
        self.ledger.retry(record)
        self.ledger.moved(record, path)
        self.ledger.let_go(record)
        self.ledger.drop(record)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        """Of what is in the journal; nothing runs then, and nothing is put off."""
        if self.running:
            return
        self.ledger = Ledger(self.journal)
        for one in self.known.values():
            one.until = float("-inf")

    # --- what has to be so -----------------------------------------------------------------------

    @invariant()
    def the_journal_holds_what_is_known(self) -> None:
        assert list(self.journal.records) == [*self.known]
        assert len(self.ledger) == len(self.known)
        assert {one.id for one in self.ledger} == self.known.keys()
        assert self.journal.litter == self.litter
        for one in self.known.values():
            record = one.record
            assert self.ledger.is_known(record)
            seen = (record.state, record.path, record.is_stopped, record.error, record.attempts)
            assert seen == (one.state, one.path, one.is_stopped, one.error, one.attempts)
        assert not any(self.ledger.is_known(one) for one in self.gone)
        assert self.ledger._not_before.keys() <= self.known.keys()

    @invariant()
    def files_are_found(self) -> None:
        for path in ("", "s", "s/a", "s/a/x", "s/a/y", "s/ab", "s/b", "s/c"):
            found = self.ledger.at(path)
            there = [one.record for one in self.known.values() if path and one.path == path]
            assert ([] if found is None else [found]) == there
        for one in self.known.values():
            found = self.ledger.of_file(one.record.ino)
            assert found is (one.record if one.path else None)
        for record in self.gone:
            assert self.ledger.of_file(record.ino) is None
        below = {one.id for one in self.ledger.below("s/a")}
        paths = ("s/a", "s/a/x", "s/a/y")
        assert below == {key for key, one in self.known.items() if one.path in paths}

    @invariant()
    def what_is_to_be_done_is_found(self) -> None:
        for state in State:
            some = [one for one in self.known.values() if one.state is state]
            assert self.ledger.count(state) == len(some)
            active = [one for one in some if not one.is_stopped]
            assert self.ledger.is_active(state) == bool(active)
            due = {one.record.id for one in active if not one.is_running and one.until <= self.now}
            assert {one.id for one in self.ledger.due(state, 100)} == due
            assert len(self.ledger.due(state, 1)) == min(1, len(due))
            later = [one.until for one in some if one.until > self.now]
            assert self.ledger.next_due(state) == min(later, default=float("inf"))


def test_any_order_of_everything(tmp_path: Path) -> None:
    Books.directory = tmp_path
    run_state_machine_as_test(
        Books, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


# --- what the model does not see ------------------------------------------------------------------


async def test_the_longest_ready_comes_first(
    ledger: Ledger, record: NewRecord, clock: MockClock
) -> None:
    one, two, three = (record(f"s/{name}", State.QUEUED) for name in "abc")
    assert ledger.due(State.QUEUED, 2) == [one, two]
    ledger.defer(one, trio.current_time() + 5)
    ledger.begin(two)
    ledger.end(two)
    assert ledger.due(State.QUEUED, 9) == [three, two]
    await trio.sleep(5)
    assert ledger.due(State.QUEUED, 9) == [three, two, one]


async def test_a_time_that_comes_is_told_once(
    ledger: Ledger, record: NewRecord, clock: MockClock
) -> None:
    """It may come between two looks of somebody who goes to sleep then; and he must not spin."""
    one, other = record("s/a", State.QUEUED), record("s/b", State.QUEUED)
    begun = trio.current_time()
    ledger.defer(one, begun + 5)
    ledger.defer(other, begun + 9)
    assert ledger.due(State.QUEUED, 9) == []
    assert ledger.next_due(State.QUEUED) == begun + 5
    await trio.sleep(6)
    assert ledger.next_due(State.QUEUED) == begun + 6
    assert ledger.next_due(State.QUEUED) == begun + 9
    assert ledger.due(State.QUEUED, 9) == [one]


async def test_what_was_put_off_in_another_state_is_not_waited_for(
    ledger: Ledger, record: NewRecord, clock: MockClock
) -> None:
    one, until = record("s/a", State.STORED), trio.current_time() + 5
    ledger.defer(one, until)
    ledger.back(one, State.QUEUED)
    ledger.defer(one, until)
    assert ledger.next_due(State.STORED) == float("inf")
    assert ledger.next_due(State.QUEUED) == until


async def test_who_waits_hears_of_changes(
    ledger: Ledger, record: NewRecord, nursery: trio.Nursery
) -> None:
    heard: list[str] = []

    async def listen() -> None:
        while True:
            await ledger.news()
            heard.append("news")

    nursery.start_soon(listen)
    await wait_all_tasks_blocked()
    one = record("s/a", State.QUEUED)
    changes: tuple[Callable[[], None], ...] = (
        lambda: None,  # what was added is heard of
        lambda: ledger.advance(one, State.UPLOADING),
        lambda: ledger.back(one, State.QUEUED),
        lambda: ledger.stop(one, "why"),
        lambda: ledger.retry(one),
        lambda: ledger.postpone(one, "why", 0),
        lambda: ledger.end(one),
        lambda: ledger.let_go(one),
        lambda: ledger.drop(one),
    )
    for change in changes:
        change()
        await wait_all_tasks_blocked()
        assert heard == ["news"]
        heard.clear()
    nursery.cancel_scope.cancel()


async def test_work_on_what_is_dropped_ends(ledger: Ledger, record: NewRecord) -> None:
    one, other = record("s/a", State.UPLOADING), record("s/b", State.UPLOADING)
    with ledger.begin(one) as scope, trio.fail_after(5):
        ledger.drop(other)
        assert not scope.cancel_called
        ledger.drop(one)
        await trio.sleep_forever()
    assert scope.cancelled_caught
    ledger.end(one)
    assert ledger.due(State.UPLOADING, 9) == []
    assert list(ledger) == []


async def test_what_it_came_to_while_somebody_worked_is_due_when_he_ends(
    ledger: Ledger, record: NewRecord
) -> None:
    one = record("s/a", State.UPLOADING)
    ledger.begin(one)
    ledger.advance(one, State.PLACING)
    assert ledger.due(State.PLACING, 9) == []
    ledger.end(one)
    assert ledger.due(State.PLACING, 9) == [one]


async def test_the_file_of_a_number_that_the_disk_gives_again(
    ledger: Ledger, record: NewRecord
) -> None:
    old = record("s/a", State.RULED, ino=5)
    ledger.let_go(old)
    new = record("s/a", State.QUEUED, ino=5)
    ledger.advance(old, State.DONE)
    ledger.drop(old)
    assert ledger.of_file(5) is new
    assert ledger.at("s/a") is new


async def test_all_of_it_is_durable_with_the_next_commit(
    ledger: Ledger, record: NewRecord, journal: Journal
) -> None:
    one, two, three = (record(f"s/{name}", State.QUEUED) for name in "abc")
    await journal.commit()
    ledger.advance(one, State.UPLOADING)
    ledger.stop(two, "why")
    ledger.drop(three)
    await journal.commit()
    ledger.moved(one, "s/d")
    ledger.retry(two)
    ledger.postpone(two, "again", 5)
    await journal.commit()
    with_new = Journal.open(journal.path)
    with_new.close()
    found = with_new.records
    assert found.keys() == {one.id, two.id}
    assert (found[one.id].state, found[one.id].path) == (State.UPLOADING, "s/d")
    assert (found[two.id].is_stopped, found[two.id].error) == (False, "again")
    assert repr(Ledger(with_new)) == "<Ledger: 1 QUEUED, 1 UPLOADING>"
