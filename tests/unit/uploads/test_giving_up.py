"""What is in the lake gives its space in staging back, and nothing else does."""

from __future__ import annotations

import errno
import os
import time

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.errors import Unreachable
from rucio_fs.uploads import giving_up
from rucio_fs.uploads.giving_up import GivingUp
from rucio_fs.uploads.records import Record
from rucio_fs.uploads.resuming import resume
from tests.unit.uploads.bench import Bench, as_nobody

DATA = os.urandom(100_000)


class Opened:
    """Which files are open."""

    def __init__(self) -> None:
        self.inos: set[int] = set()

    def __call__(self, ino: int) -> bool:
        return ino in self.inos


def blocks(bench: Bench, path: str) -> int:
    return os.stat(bench.staged.tree / path).st_blocks


def giver(
    bench: Bench, *, keep: float = 0.0, min_free: int = 0, opened: Opened | None = None
) -> GivingUp:
    return GivingUp(bench.context, opened or Opened(), keep=keep, min_free=min_free)


async def test_the_space_is_given_back_and_the_file_looks_the_same(
    clock: MockClock, bench: Bench
) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    before = os.stat(bench.staged.tree / "s/run/a")
    assert await giver(bench).look() == 1
    after = os.stat(bench.staged.tree / "s/run/a")
    assert after.st_blocks == 0 < before.st_blocks
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert bench.record("s/run/a").is_given_up
    assert await giver(bench).look() == 0, "once"


async def test_it_is_kept_as_long_as_it_is_to_be(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    assert await giver(bench, keep=3600).look() == 0
    bench.record("s/run/a").done_at = time.time() - 3601
    assert await giver(bench, keep=3600).look() == 1


async def test_a_full_disk_is_freed_before_that(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    assert await giver(bench, keep=3600, min_free=1).look() == 0
    assert await giver(bench, keep=3600, min_free=1 << 60).look() == 1


async def test_its_user_may_want_it_longer(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/.rucio-upload.toml", b'keep = "1h"')
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    assert await giver(bench).look() == 0


async def test_its_user_may_want_it_no_longer(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/.rucio-upload.toml", b"keep = 0")
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    assert await giver(bench, keep=3600).look() == 1


async def test_what_is_kept_for_long_is_in_nobodys_way(clock: MockClock, bench: Bench) -> None:
    bench.save("s/long/.rucio-upload.toml", b'keep = "365d"')
    bench.save("s/long/a", DATA)
    await bench.done("s/long/a")
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    assert await giver(bench).look() == 1
    assert blocks(bench, "s/long/a") > blocks(bench, "s/run/a") == 0


async def test_what_is_open_stays(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    opened = Opened()
    opened.inos.add(bench.ino("s/run/a"))
    assert await giver(bench, opened=opened).look() == 0
    assert (bench.staged.tree / "s/run/a").read_bytes() == DATA
    opened.inos.clear()
    assert await giver(bench, opened=opened).look() == 1


async def test_what_is_not_in_the_lake_stays(clock: MockClock, bench: Bench) -> None:
    bench.depot.blocked = trio.Event()
    bench.save("s/run/a", DATA)
    await bench.until("s/run/a", "UPLOADING 50%")
    assert await giver(bench, min_free=1 << 60).look() == 0
    assert (bench.staged.tree / "s/run/a").read_bytes() == DATA
    bench.depot.blocked.set()


@pytest.mark.parametrize("state", ["UNAVAILABLE", "BAD", None])
async def test_what_the_lake_has_lost_stays(
    clock: MockClock, bench: Bench, state: str | None
) -> None:
    """As of now, not as of when it was uploaded."""
    did = bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    if state is None:
        bench.lake.delete(did)
    else:
        bench.lake.replica(did, "COLO", state=state)
    assert await giver(bench).look() == 0
    assert (bench.staged.tree / "s/run/a").read_bytes() == DATA


async def test_it_is_known_to_the_next_mount_before_it_is_done(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros are never read: a mount that is killed in between reads it from the lake."""
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")

    def killed(fd: int) -> None:
        raise OSError(5, "killed")

    monkeypatch.setattr(giving_up, "punch", killed)
    assert await giver(bench).look() == 0
    await bench.restart()
    resume(bench.staged.tree, bench.ledger, bench.settling, frozenset())
    assert bench.record("s/run/a").is_given_up


@pytest.mark.parametrize("what", ["another file", "a symbolic link"])
async def test_another_file_of_its_name_is_not_touched(
    clock: MockClock, bench: Bench, what: str
) -> None:
    """The staging area is a directory that others can reach, too."""
    bench.save("s/run/a", b"of the lake")
    await bench.done("s/run/a")
    path, other = bench.staged.tree / "s/run/a", bench.staged.tree / "s/other"
    other.write_bytes(DATA)
    path.unlink()
    if what == "another file":
        other.rename(path)
    else:
        path.symlink_to(other)
    assert await giver(bench).look() == 0
    assert path.read_bytes() == DATA
    assert not bench.record("s/run/a").is_given_up


async def test_a_file_that_takes_its_name_meanwhile_is_not_touched(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk gives the number of a removed file to the next one that is made."""
    bench.save("s/run/a", b"of the lake")
    await bench.done("s/run/a")
    path = bench.staged.tree / "s/run/a"
    commit = bench.journal.commit

    async def meanwhile(*records: Record) -> None:
        await commit(*records)
        if records and records[0].is_given_up:
            path.unlink()
            path.write_bytes(DATA)

    monkeypatch.setattr(bench.journal, "commit", meanwhile)
    await giver(bench).look()
    assert path.read_bytes() == DATA


async def test_a_time_that_was_set_meanwhile_stays(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    os.utime(bench.staged.tree / "s/run/a", (1, 1))
    assert await giver(bench).look() == 1
    assert os.stat(bench.staged.tree / "s/run/a").st_mtime == 1


async def test_a_file_that_is_read_only_gives_its_space_back(
    clock: MockClock, bench: Bench
) -> None:
    """git's objects are, and what ``cp -p`` has copied."""
    path = bench.staged.tree / "s/run/a"
    bench.save("s/run/a", DATA)
    path.chmod(0o444)
    await bench.done("s/run/a")
    with as_nobody(bench):
        assert await giver(bench).look() == 1
    assert (blocks(bench, "s/run/a"), path.stat().st_mode & 0o777) == (0, 0o444)


async def test_what_could_not_be_freed_is_freed_later(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(giving_up, "punch", fails)
        giving = giver(bench)
        assert await giving.look() == 0
    assert await giving.look() == 1
    assert blocks(bench, "s/run/a") == 0


async def test_what_a_killed_mount_has_not_freed_is_freed_by_the_next(
    clock: MockClock, bench: Bench
) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    bench.record("s/run/a").is_given_up = True
    giving = giver(bench)
    assert [await giving.look(), await giving.look()] == [1, 0]
    assert blocks(bench, "s/run/a") == 0


async def test_what_a_killed_mount_has_not_freed_waits_for_rucio(
    clock: MockClock, bench: Bench
) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")
    bench.record("s/run/a").is_given_up = True
    giving = giver(bench, keep=3600)
    bench.lake.error = Unreachable("Rucio is away")
    with pytest.raises(Unreachable):
        await giving.look()
    bench.lake.error = None
    assert await giving.look() == 1
    assert blocks(bench, "s/run/a") == 0


async def test_what_was_given_up_is_never_taken_for_a_new_file(
    clock: MockClock, bench: Bench
) -> None:
    """Also with attributes that take a block, and another time: it would be a file of zeros."""
    bench.save("s/run/a", DATA)
    path = bench.staged.tree / "s/run/a"
    os.setxattr(path, "user.comment", b"c" * 900)
    await bench.done("s/run/a")
    assert await giver(bench).look() == 1
    os.utime(path, (1, 1))
    await bench.restart()
    resume(bench.staged.tree, bench.ledger, bench.settling, frozenset())
    assert bench.record("s/run/a").is_given_up


async def test_a_disk_without_holes_keeps_all(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.save("s/run/a", DATA)
    await bench.done("s/run/a")

    def fails(fd: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(giving_up, "punch", fails)
    giving = giver(bench)
    assert await giving.look() == 0
    assert not bench.record("s/run/a").is_given_up, "it is read here"
    calls, commits = bench.lake.calls.total(), bench.journal.commits
    assert await giving.look() == 0
    assert (bench.lake.calls.total(), bench.journal.commits) == (calls, commits), "tried once"
