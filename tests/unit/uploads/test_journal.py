"""What was committed outlives everything, and nothing else does.  Here processes crash."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from rucio_fs.did import DID, DIDType
from rucio_fs.errors import Unreachable, UsageError
from rucio_fs.uploads import journal as module
from rucio_fs.uploads.journal import VERSION, Journal
from rucio_fs.uploads.records import Collection, Record, State
from tests.unit.uploads.conftest import new_record

RUN = DID("s", "run")


def reopened(path: Path) -> Journal:
    """As the next mount finds it; closed, so that it can be looked at only."""
    journal = Journal.open(path)
    journal.close()
    return journal


def crashed(journal: Journal, place: Path) -> Journal:
    """As the next mount finds what is on disk at this very moment."""
    place.mkdir(exist_ok=True)
    copy = place / journal.path.name
    for suffix in ("", "-wal"):
        original = journal.path.with_name(journal.path.name + suffix)
        if original.exists():
            shutil.copy(original, place / original.name)
    return reopened(copy)


def facts(journal: Journal) -> dict[str, Any]:
    return {
        "records": {key: one.dump() for key, one in journal.records.items()},
        "collections": {did: one.dump() for did, one in journal.collections.items()},
        "litter": journal.litter,
    }


@pytest.fixture
def full_disk(journal: Journal) -> Iterator[None]:
    """The disk takes not a byte more for the journal."""
    with _full(journal):
        yield


@contextmanager
def _full(journal: Journal) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    wal = journal.path.with_name(f"{journal.path.name}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + 100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


# --- what is kept ---------------------------------------------------------------------------------


async def test_a_new_journal_is_empty_and_another_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with closing(Journal.open(path)) as journal:
        assert facts(journal) == {"records": {}, "collections": {}, "litter": set()}
        assert journal.next_id() == 1
        await journal.commit(new_record(journal.next_id(), state=State.STORED))
        journal.put_collection(Collection(RUN, DIDType.CONTAINER, None, True, {"A": "1"}))
        journal.add_litter("https://a/b")
        await journal.commit()
        kept = facts(journal)
    found = reopened(path)
    assert facts(found) == kept
    assert found.records[2].state is State.STORED
    assert found.next_id() == 3
    assert repr(found) == f"<Journal {path}: 1 uploads>"


async def test_what_was_removed_is_gone(journal: Journal) -> None:
    record = new_record(journal.next_id())
    journal.add_litter("https://a/b")
    await journal.commit(record)
    journal.remove(record)
    journal.remove_litter("https://a/b")
    await journal.commit()
    assert facts(reopened(journal.path)) == {"records": {}, "collections": {}, "litter": set()}


async def test_what_came_and_went_before_the_commit_never_was(journal: Journal) -> None:
    record = new_record(1)
    journal.put(record)
    journal.remove(record)
    journal.remove(record)
    await journal.commit()
    assert facts(reopened(journal.path))["records"] == {}


async def test_a_record_is_kept_as_it_is_when_the_commit_begins(journal: Journal) -> None:
    record = new_record(1)
    journal.put(record)
    record.error = "later"
    await journal.commit()
    assert reopened(journal.path).records[1].error == "later"


async def test_odd_names_are_kept(journal: Journal) -> None:
    record = new_record(1, path="s/caf\udce9\n", metadata={"k": "\ud800"})
    await journal.commit(record)
    assert reopened(journal.path).records[1].dump() == record.dump()


# --- crashes --------------------------------------------------------------------------------------


async def test_before_a_commit_the_old_state_is_kept_after_it_the_new(
    journal: Journal, tmp_path: Path
) -> None:
    record = new_record(1)
    await journal.commit(record)
    record.state = State.QUEUED
    journal.put(record)
    journal.put(new_record(2))
    journal.add_litter("https://a/b")
    before = crashed(journal, tmp_path / "before")
    assert before.records.keys() == {1}
    assert before.records[1].state is State.STAGED
    assert before.litter == set()
    await journal.commit()
    assert facts(crashed(journal, tmp_path / "after")) == facts(journal)


async def test_of_a_commit_that_is_cut_nothing_counts(journal: Journal, tmp_path: Path) -> None:
    """Wherever the log of the database ends, the journal is as of one of the commits."""
    wal = journal.path.with_name(f"{journal.path.name}-wal")
    states: list[dict[int, str]] = [{}]
    for number in range(1, 4):
        record = new_record(number, error="x" * 3000)
        await journal.commit(record, *(Record.load(one) for one in states[-1].values()))
        states.append({key: one.dump() for key, one in journal.records.items()})
    place = tmp_path / "cut"
    place.mkdir()
    seen = set()
    for length in range(0, wal.stat().st_size + 1, 1021):
        for name in os.listdir(place):
            (place / name).unlink()
        shutil.copy(journal.path, place / "j")
        (place / "j-wal").write_bytes(wal.read_bytes()[:length])
        try:
            found = reopened(place / "j")
        except UsageError:  # not even the first commit's tables are there
            pytest.fail(f"unreadable when cut at {length}")
        state = {key: one.dump() for key, one in found.records.items()}
        assert state in states
        seen.add(len(state))
    assert {0, 1, 2} <= seen


def test_the_database_waits_for_the_disk(journal: Journal) -> None:
    """No test can cut the power."""
    assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


_CHILD = """
import sys, trio
from pathlib import Path
from rucio_fs.uploads.journal import Journal
from tests.unit.uploads.conftest import new_record

async def main():
    journal = Journal.open(Path(sys.argv[1]))
    async def work(kind):
        while True:
            record = new_record(journal.next_id(), error="x" * 500)
            await journal.commit(record)
            print(record.id, flush=True)
    async with trio.open_nursery() as nursery:
        for kind in range(5):
            nursery.start_soon(work, kind)
trio.run(main)
"""


@pytest.mark.parametrize("count", [1, 40, 150])
def test_a_mount_that_is_killed_loses_nothing_that_counts(tmp_path: Path, count: int) -> None:
    path = tmp_path / "j"
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(count)]
    child.send_signal(signal.SIGKILL)
    told += child.stdout.readlines()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    whole = {int(line) for line in told if line.endswith("\n")}
    assert len(whole) >= count
    assert reopened(path).records.keys() >= whole


# --- many commits, few transactions ---------------------------------------------------------------


async def test_commits_that_come_together_are_few(journal: Journal) -> None:
    async def commit(number: int) -> None:
        await journal.commit(new_record(number))
        assert number in reopened(journal.path).records

    async with trio.open_nursery() as nursery:
        for number in range(1, 101):
            nursery.start_soon(commit, number)
    assert journal.commits <= 3
    assert len(reopened(journal.path).records) == 100


async def test_nothing_changed_nothing_written(journal: Journal) -> None:
    await journal.commit()
    assert journal.commits == 0


async def test_who_is_cancelled_has_committed_all_the_same(journal: Journal) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.commit(new_record(1))
    assert reopened(journal.path).records.keys() == {1}


async def test_what_changes_during_a_commit_is_for_the_next(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record, other = new_record(1), new_record(2)

    async def slowly(call: Any) -> Any:
        record.error = "changed meanwhile"
        journal.put(record)
        journal.remove(other)
        return await in_thread(call)

    in_thread = module.in_thread
    monkeypatch.setattr(module, "in_thread", slowly)
    await journal.commit(record, other)
    between = crashed(journal, tmp_path / "between")
    assert between.records[1].error == ""
    assert 2 in between.records
    monkeypatch.setattr(module, "in_thread", in_thread)
    await journal.commit()
    after = reopened(journal.path)
    assert after.records[1].error == "changed meanwhile"
    assert 2 not in after.records


# --- disks that refuse ----------------------------------------------------------------------------


async def test_a_full_disk_leaves_the_changes_for_the_next_commit(
    journal: Journal, tmp_path: Path
) -> None:
    record, gone = new_record(1, error="x" * 9000), new_record(2)
    journal.add_litter("https://old")
    await journal.commit(record, gone)
    with _full(journal):
        record.state = State.QUEUED
        journal.remove(gone)
        journal.put_collection(Collection(RUN, DIDType.DATASET))
        journal.add_litter("https://new")
        journal.remove_litter("https://old")
        for _ in range(2):
            with pytest.raises(Unreachable, match=f"journal of uploads {journal.path}"):
                await journal.commit(record)
        before = crashed(journal, tmp_path / "crashed")
        assert before.records[1].state is State.STAGED
        assert before.records.keys() == {1, 2}
        assert before.litter == {"https://old"}
        record.error = "newer"
        journal.remove_litter("https://new")
    await journal.commit()
    found = reopened(journal.path)
    assert found.records.keys() == {1}
    assert (found.records[1].state, found.records[1].error) == (State.QUEUED, "newer")
    assert found.collections.keys() == {RUN}
    assert found.litter == set()
    assert journal.commits == 2


async def test_what_has_changed_while_the_disk_refused_is_what_counts(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = new_record(1)
    journal.add_litter("https://old")

    async def refuse(call: Any) -> Any:
        journal.remove(gone)
        journal.remove_litter("https://old")
        journal.put_collection(Collection(RUN, DIDType.CONTAINER))
        raise sqlite3.OperationalError("disk I/O error")

    in_thread = module.in_thread
    monkeypatch.setattr(module, "in_thread", refuse)
    journal.put_collection(Collection(RUN, DIDType.DATASET))
    with pytest.raises(Unreachable, match="disk I/O error"):
        await journal.commit(gone)
    monkeypatch.setattr(module, "in_thread", in_thread)
    await journal.commit()
    found = reopened(journal.path)
    assert found.records == {}
    assert found.litter == set()
    assert found.collections[RUN].type is DIDType.CONTAINER


async def test_all_who_commit_together_hear_that_the_disk_is_full(
    journal: Journal, full_disk: None
) -> None:
    heard = []

    async def commit(number: int) -> None:
        try:
            await journal.commit(new_record(number, error="x" * 9000))
        except Unreachable:
            heard.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(1, 6):
            nursery.start_soon(commit, number)
    assert sorted(heard) == [1, 2, 3, 4, 5]


async def test_what_cannot_be_written_takes_nothing_else_along(journal: Journal) -> None:
    bad = new_record(1)
    bad.metadata = {"a": object()}
    with pytest.raises(TypeError):
        await journal.commit(bad, new_record(2))
    bad.metadata = None
    await journal.commit()
    assert reopened(journal.path).records.keys() == {1, 2}


# --- what is no journal ---------------------------------------------------------------------------


def test_a_journal_of_another_version_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "j"
    reopened(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=rf"journal {VERSION + 1}, not {VERSION}") as caught:
        Journal.open(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_database_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE recipes (id INTEGER)")
        database.commit()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="move it away"):
        Journal.open(path)
    assert path.read_bytes() == before


def test_garbage_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(UsageError, match="move it away"):
        Journal.open(path)
    assert path.read_bytes() == b"garbage" * 1000


@pytest.mark.parametrize("text", ["", "garbage", "[]", "{}", '{"did": 5}', '"x"', "null", "[" * 10])
@pytest.mark.parametrize("table", ["uploads", "collections"])
def test_rows_that_mean_nothing(tmp_path: Path, table: str, text: str) -> None:
    path = tmp_path / "j"
    reopened(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"INSERT INTO {table} VALUES (1, ?)", (text,))
        database.commit()
    with pytest.raises(UsageError, match="move it away"):
        Journal.open(path)


def test_a_journal_whose_middle_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "j"
    reopened(path)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(UsageError, match="move it away"):
        Journal.open(path)


def test_where_no_journal_can_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unable to open"):
        Journal.open(tmp_path)
    with pytest.raises(UsageError, match="unable to open"):
        Journal.open(tmp_path / "missing" / "j")


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    """What is left when a mount dies while it makes one."""
    path = tmp_path / "j"
    path.touch()
    assert facts(reopened(path)) == facts(reopened(path))
    assert reopened(path).records == {}


# --- a disk that is full of files ---------------------------------------------------------------


async def test_a_full_disk_has_room_for_the_journal(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved goes to the lake, and makes room."""
    kept = next(journal.path.parent.glob("*.reserve"))
    assert kept.stat().st_blocks
    write = journal._write

    def full(*args: Any) -> None:
        if kept.exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        write(*args)

    monkeypatch.setattr(journal, "_write", full)
    await journal.commit(new_record(1))
    assert list(crashed(journal, tmp_path / "copy").records) == [1]
    assert kept.stat().st_blocks, "it is taken again once there is room"


async def test_other_troubles_leave_that_room_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = next(journal.path.parent.glob("*.reserve"))

    def readonly(*args: Any) -> None:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise error

    monkeypatch.setattr(journal, "_write", readonly)
    with pytest.raises(Unreachable):
        await journal.commit(new_record(1))
    assert kept.stat().st_blocks


def test_a_disk_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says the same of it as of a full one; the room is given up for it once."""
    reopened(tmp_path / "j")
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR

    def broken(journal: Journal) -> None:
        raise error

    monkeypatch.setattr(Journal, "_load", broken)
    with pytest.raises(UsageError, match="disk I/O error"):
        Journal.open(tmp_path / "j")
