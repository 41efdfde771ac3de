"""What is in the lake gives its space in staging back, and nothing else does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.uploads import giving_up
from rucio_fs.uploads.giving_up import GivingUp, punch
from rucio_fs.uploads.resuming import resume
from tests.unit.uploads.bench import Bench

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

    def killed(path: Path, ino: int, mtime_ns: int) -> None:
        raise OSError(5, "killed")

    monkeypatch.setattr(giving_up, "punch", killed)
    assert await giver(bench).look() == 0
    await bench.restart()
    resume(bench.staged.tree, bench.ledger, bench.settling, frozenset())
    assert bench.record("s/run/a").is_given_up


def test_another_file_of_its_name_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    punch(tmp_path / "f", 1, 0)
    assert (tmp_path / "f").read_bytes() == DATA
    (tmp_path / "link").symlink_to(tmp_path / "f")
    with pytest.raises(OSError, match="symbolic"):
        punch(tmp_path / "link", os.stat(tmp_path / "f").st_ino, 0)
