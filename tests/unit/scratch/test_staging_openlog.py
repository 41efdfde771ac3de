"""What the next mount learns of files that were open for writing when this one ended."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rucio_fs.diskcache.maps import this_boot
from rucio_fs.errors import StagingError
from rucio_fs.scratch import openlog
from rucio_fs.scratch.openlog import OpenLog
from rucio_fs.scratch.staging import Staging

WRITE = os.O_WRONLY | os.O_CREAT

# Does things in a staging area and is killed; prints what it opened.
_KILLED = """
import os, signal, sys
from pathlib import Path
from rucio_fs.scratch.staging import Staging
staging = Staging.open(Path(sys.argv[1]))
top = staging.items.scope("s")
def create(name, parent=top):
    return staging.files.create(parent, name, 0o644, os.O_WRONLY | os.O_CREAT)
{code}
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(area: Path, code: str) -> None:
    """Do *code* in a process that is killed then."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED.format(code=code), str(area)], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr


def paths(area: Path) -> list[str]:
    """What the next mount finds unfinished; it ends well."""
    staging = Staging.open(area)
    try:
        found = sorted(staging.unfinished.values())
        for ino, path in staging.unfinished.items():
            assert os.lstat(staging.tree / path).st_ino == ino
        return found
    finally:
        staging.close()


@pytest.fixture
def log(tmp_path: Path) -> OpenLog:
    (tmp_path / "tree").mkdir()
    return OpenLog(tmp_path / "open.log", tmp_path / "tree")


def test_only_what_was_open_is_unfinished(area: Path) -> None:
    killed(area, "create('open'); create('closed')[2].close()")
    assert paths(area) == ["s/open"]


def test_it_is_found_where_it_was_moved_to(area: Path) -> None:
    code = """
d = staging.directories.mkdir(top, 'd', 0o755)[0]
create('f', d); create('g \\udcff\\n"', d)
staging.directories.rename(top, 'd', top, 'e', 0)
"""
    killed(area, code)
    assert paths(area) == ["s/e/f", 's/e/g \udcff\n"']


def test_it_stays_unfinished_until_somebody_has_looked(area: Path) -> None:
    killed(area, "create('f'); create('g'); create('h'); create('i')")
    assert len(paths(area)) == 4
    staging = Staging.open(area)
    top = staging.items.scope("s")
    inos = {path: ino for ino, path in staging.unfinished.items()}
    staging.finished(inos["s/f"])
    item, _ = staging.directories.find(top, "g")
    staging.files.open(item, os.O_WRONLY).close()
    staging.directories.rename(top, "f", top, "h", 0)
    assert sorted(staging.unfinished.values()) == ["s/i"]
    staging.close()
    assert paths(area) == ["s/i"]


def test_one_that_is_open_when_the_mount_is_told_to_end_is_unfinished(area: Path) -> None:
    staging = Staging.open(area)
    top = staging.items.scope("s")
    _, _, closed = staging.files.create(top, "closed", 0o644, WRITE)
    closed.close()
    _, _, opened = staging.files.create(top, "open", 0o644, WRITE)
    staging.stop()
    opened.close()
    staging.close()
    assert paths(area) == ["s/open"]


def test_a_removed_file_is_no_matter(area: Path) -> None:
    killed(area, "import trio; create('f'); trio.run(staging.directories.unlink, top, 'f')")
    assert paths(area) == []


def test_a_line_that_is_not_whole_says_nothing(area: Path) -> None:
    killed(area, "create('f'); create('g')")
    with (area / "open.log").open("ab") as log:
        log.write(b'+17 "s/half\n-x\n+18 {}\n+19 "\\x"\n\x00\xff\n')
    assert paths(area) == ["s/f", "s/g"]


def test_the_log_begins_anew_when_it_is_long(log: OpenLog, tmp_path: Path) -> None:
    kept = tmp_path / "tree" / "kept"
    kept.touch()
    log.opened(kept.stat().st_ino, "kept")
    size = 0
    for _ in range(60):
        log.opened(1, "x" * 20_000)
        log.closed(1)
        size = max(size, (tmp_path / "open.log").stat().st_size)
    assert size > 1_000_000
    assert (tmp_path / "open.log").stat().st_size < 500_000
    found = openlog.OpenLog(tmp_path / "open.log", tmp_path / "tree").unfinished
    assert list(found.values()) == ["kept"]


def test_what_cannot_be_logged_is_not_opened(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes) -> int:
        return len(data) - 1

    top = staging.items.scope("s")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StagingError, match="No space left"):
            staging.files.create(top, "f", 0o644, WRITE)
    assert staging.directories.names(top) == []
    staging.files.create(top, "f", 0o644, WRITE)[2].close()
    item, _ = staging.directories.find(top, "f")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StagingError, match="No space left"):
            staging.files.open(item, WRITE)
    assert item.fds == []
    assert not staging.is_open_for_writing(item.ino)
    staging.files.open(item, os.O_WRONLY).close()


_DIES = """
real = os.open
def die(path, flags, *rest, **others):
    {first}
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("first", "code", "is_left"),
    [
        ("pass", "os.open = die; create('f')", False),
        ("real(path, flags, *rest, **others)", "os.open = die; create('f')", True),
        (
            "real(path, flags, *rest, **others)",
            "item, _, file = create('f'); file.close(); os.open = die;"
            " staging.files.open(item, os.O_WRONLY | os.O_TRUNC)",
            True,
        ),
    ],
    ids=["before it is made", "when it is made", "when it is cut"],
)
def test_a_kill_before_it_is_known_to_be_open(
    area: Path, first: str, code: str, is_left: bool
) -> None:
    killed(area, _DIES.format(first=first) + code)
    assert paths(area) == (["s/f"] if is_left else [])


def test_what_was_not_made_after_all_is_no_matter(area: Path) -> None:
    """It was there before, and whole."""
    killed(area, "create('f')[2].close()\ntry: create('f', 0o1000 | top) \nexcept: pass")
    killed(
        area,
        "try: staging.files.create(top, 'f', 0o644, os.O_WRONLY | os.O_CREAT | os.O_EXCL)\n"
        "except Exception: pass",
    )
    assert paths(area) == []


# --- the machine -------------------------------------------------------------------------------


def boot(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(openlog, "this_boot", lambda: name)


def ended(area: Path) -> bool:
    """Whether the next mount finds that the machine went down; it ends well."""
    staging = Staging.open(area)
    staging.close()
    return staging.was_cut


def test_a_kill_is_no_power_failure(area: Path) -> None:
    killed(area, "create('f')")
    assert not ended(area)


def test_a_new_boot_after_a_good_end(area: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ended(area)
    boot(monkeypatch, "next")
    assert not ended(area)


def test_a_new_boot_without_an_end(area: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(area, "create('f')")
    boot(monkeypatch, "next")
    assert ended(area)
    assert ended(area), "a mount that came to nothing has looked at nothing"
    staging = Staging.open(area)
    staging.doubt({})
    staging.close()
    assert not ended(area), "the mount in between has ended well"


def test_a_power_failure_is_not_forgotten_by_a_kill(
    area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(area, "pass")
    log_file = area / "open.log"
    text = log_file.read_text().replace(this_boot(), "an earlier boot")
    log_file.write_text(text)
    killed(area, "assert staging.was_cut")
    killed(area, "assert staging.was_cut; staging.doubt({})")
    killed(area, "assert not staging.was_cut")


def test_boots_that_cannot_be_told_apart_count_as_cut(
    area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(monkeypatch, "")
    Staging.open(area)._log  # noqa: B018 - and nobody closes it
    (area / "lock").unlink()
    assert ended(area)


# --- writes that fail -----------------------------------------------------------------------------


def full(*args: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_file_of_which_a_write_has_failed_is_unfinished(
    area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for the next mount, until somebody has written it anew."""
    staging = Staging.open(area)
    scope = staging.items.scope("s")
    item, _, file = staging.files.create(scope, "f", 0o644, WRITE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StagingError):
            await file.write(0, b"data")
    await file.write(0, b"less")
    file.close()
    assert staging.unfinished == {item.ino: "s/f"}
    staging.close()
    assert paths(area) == ["s/f"]
    staging = Staging.open(area)
    again = staging.files.open(staging.items.at(staging.items.scope("s"), "f", item.ino), WRITE)
    await again.write(0, b"data")
    again.close()
    staging.close()
    assert paths(area) == []


async def test_a_file_that_is_emptied_after_that_is_written_anew(
    area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Staging.open(area)
    item, _, file = staging.files.create(staging.items.scope("s"), "f", 0o644, WRITE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StagingError):
            await file.write(0, b"data")
    staging.files.truncate(item, 0, file)
    file.close()
    assert staging.unfinished == {}
    staging.close()


async def test_a_file_that_could_not_be_synced_is_unfinished(
    area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Staging.open(area)
    item, _, file = staging.files.create(staging.items.scope("s"), "f", 0o644, WRITE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StagingError):
            await file.fsync(data_only=False)
    file.close()
    assert staging.unfinished == {item.ino: "s/f"}
    staging.close()


def test_a_file_that_could_not_be_made_is_not_there(
    area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has it open, so that nobody would ever write it."""
    staging = Staging.open(area)
    monkeypatch.setattr(staging._log, "opened", full)
    with pytest.raises(StagingError):
        staging.files.create(staging.items.scope("s"), "f", 0o644, WRITE)
    assert not (staging.tree / "s/f").exists()
    staging.close()
