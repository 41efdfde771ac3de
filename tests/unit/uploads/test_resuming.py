"""What a mount makes of what the one before it has left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.records import Record, State
from rucio_fs.uploads.resuming import doubtful, resume
from rucio_fs.uploads.settling import Settling
from tests.unit.uploads.conftest import NewRecord, save

OPEN = [State.STAGED, State.QUEUED, State.UPLOADING]
SEALED = [one for one in State if one >= State.PLACING]


@pytest.fixture
async def settling() -> Settling:
    return Settling(5, 60)


def of_file(path: Path) -> dict[str, Any]:
    """What the record of a file says of it."""
    found = path.stat()
    return {
        "ino": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }


@pytest.mark.parametrize("state", State)
async def test_what_is_as_it_was_goes_on(
    tree: Path, ledger: Ledger, settling: Settling, record: NewRecord, state: State
) -> None:
    one = record("s/run/f", state, **of_file(save(tree, "s/run/f")))
    resume(tree, ledger, settling, frozenset())
    assert list(ledger) == [one]
    assert ledger.at("s/run/f") is one


def _other_bytes(path: Path) -> None:
    path.write_bytes(b"other")


def _other_time(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _other_mode(path: Path) -> None:
    path.chmod(0o600)


def _other_file(path: Path) -> None:
    save(path.parent, "new")
    (path.parent / "new").rename(path)


def _link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize("change", [_other_bytes, _other_time, _other_mode, _other_file, _link])
@pytest.mark.parametrize("state", OPEN)
async def test_what_has_changed_is_dropped(
    tree: Path, ledger: Ledger, settling: Settling, record: NewRecord, state: State, change: Any
) -> None:
    path = save(tree, "s/run/f")
    record("s/run/f", state, temp_url="https://x/temp", **of_file(path))
    change(path)
    resume(tree, ledger, settling, frozenset())
    assert list(ledger) == []
    assert ledger.journal.litter == {"https://x/temp"}


@pytest.mark.parametrize("state", OPEN)
async def test_what_is_gone_is_dropped(
    tree: Path, ledger: Ledger, settling: Settling, record: NewRecord, state: State
) -> None:
    record("s/run/f", state)
    resume(tree, ledger, settling, frozenset())
    assert list(ledger) == []


@pytest.mark.parametrize("state", OPEN)
async def test_what_was_being_written_is_dropped(
    tree: Path, ledger: Ledger, settling: Settling, record: NewRecord, state: State
) -> None:
    one = record("s/run/f", state, **of_file(save(tree, "s/run/f")))
    other = record("s/run/g", state, **of_file(save(tree, "s/run/g")))
    resume(tree, ledger, settling, frozenset([one.ino]))
    assert list(ledger) == [other]


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [_gone, _other_file])
@pytest.mark.parametrize("state", SEALED)
async def test_what_is_sealed_goes_on_without_its_file(
    tree: Path, ledger: Ledger, settling: Settling, record: NewRecord, state: State, change: Any
) -> None:
    """And seals no other file that the disk gives its number to."""
    path = save(tree, "s/run/f")
    one = record("s/run/f", state, url="https://x/f", **of_file(path))
    change(path)
    resume(tree, ledger, settling, frozenset())
    assert ledger.of_file(one.ino) is None
    assert ledger.at("s/run/f") is None
    assert list(ledger) == ([] if state is State.DONE else [one])
    assert one.state is state


@pytest.mark.parametrize("state", SEALED[:-1])
async def test_what_goes_on_without_its_file_does_so_again(
    tree: Path, ledger: Ledger, settling: Settling, record: NewRecord, state: State
) -> None:
    one: Record = record("s/run/f", state)
    ledger.let_go(one)
    resume(tree, ledger, settling, frozenset())
    assert list(ledger) == [one]


async def test_what_rucio_has_refused_may_have_changed(
    tree: Path, ledger: Ledger, settling: Settling, record: NewRecord
) -> None:
    path = save(tree, "s/run/f")
    one = record("s/run/f", State.STORED, **of_file(path))
    ledger.stop(one, "no such name here")
    resume(tree, ledger, settling, frozenset())
    assert list(ledger) == [one]
    _other_bytes(path)
    resume(tree, ledger, settling, frozenset())
    assert list(ledger) == []


async def test_every_directory_is_looked_at(tree: Path, ledger: Ledger, settling: Settling) -> None:
    for path in ("s/run/x/f", "s/f", "t/a/f"):
        save(tree, path)
    (tree / "s/link").symlink_to("run")
    resume(tree, ledger, settling, frozenset())
    assert set(settling._last) == {"s", "s/run", "t", "t/a"}


def test_after_the_machine_went_down_what_nobody_had_seen_is_doubtful(
    tree: Path, ledger: Ledger, record: NewRecord
) -> None:
    seen, unseen = save(tree, "s/run/seen"), save(tree, "s/run/unseen")
    record("s/run/seen", State.QUEUED, ino=seen.stat().st_ino)
    assert doubtful(tree, ledger) == {unseen.stat().st_ino: "s/run/unseen"}
