"""Finding the mount of a path by the mount table and symlinks alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rucio_fs.commands import places
from rucio_fs.commands.places import Where
from rucio_fs.errors import UsageError

OURS = "50 27 0:51 / {} rw,nosuid,nodev,relatime - fuse.rucio-fs rucio rw,user_id=0,group_id=0"
TMPFS = "52 27 0:53 / {} rw - tmpfs none rw"

Table = Callable[..., None]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(os.path.realpath(tmp_path))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, base: Path) -> Table:
    """Sets the mount table: ``table((OURS, path), (TMPFS, path))``."""

    def fill(*entries: tuple[str, Path]) -> None:
        root = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
        lines = [root, *(line.format(str(path).replace(" ", "\\040")) for line, path in entries)]
        file = base / "mountinfo"
        file.write_text("\n".join(lines) + "\n")
        monkeypatch.setattr(places, "_MOUNTINFO", file)

    return fill


def test_paths_in_a_mount(table: Table, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnt = base / "m nt"
    table((OURS, mnt))
    mnt.mkdir()
    (base / "link").symlink_to("m nt/s")
    (base / "to-link").symlink_to(base / "link")
    monkeypatch.chdir(base)
    for path, inside in [
        (mnt, ""), (Path("m nt/s/d"), "/s/d"), (Path("./x/../m nt//s"), "/s"),
        (Path("link/d"), "/s/d"), (Path("to-link/d/../e"), "/s/e"),
    ]:  # fmt: skip
        assert places.locate(path) == Where(str(mnt), f"{mnt}{inside}")
    # Names that look like ours.
    (base / "m ntx").mkdir()
    for path in (base, base / "m ntx", mnt / "..", Path("link/../..")):
        with pytest.raises(UsageError, match=r": not inside a rucio-fs mount$"):
            places.locate(path)


def test_what_is_not_there_is_in_no_mount(table: Table, base: Path) -> None:
    table((OURS, base / "mnt"))
    for path in (base / "no", base / "no" / "such"):
        with pytest.raises(UsageError, match=f"^{path}: no such file or directory$"):
            places.locate(path)


def test_symlinks_are_not_followed_inside(table: Table, base: Path) -> None:
    table((OURS, base / "mnt"))
    (base / "mnt").mkdir()
    (base / "mnt" / "link").symlink_to("/etc")
    assert places.locate(base / "mnt" / "link" / "x").path == f"{base}/mnt/link/x"


def test_a_loop_of_symlinks_ends(table: Table, base: Path) -> None:
    table((OURS, base / "mnt"))
    (base / "a").symlink_to("b")
    (base / "b").symlink_to("a")
    with pytest.raises(UsageError):
        places.locate(base / "a")


def test_the_inner_and_the_later_mount_count(table: Table, base: Path) -> None:
    outer, inner = base / "mnt", base / "mnt" / "inner"
    table((OURS, outer), (OURS, inner))
    assert places.locate(inner / "x").mountpoint == str(inner)
    assert places.ours() == [str(outer), str(inner)]
    table((OURS, outer), (TMPFS, outer))  # hidden
    with pytest.raises(UsageError):
        places.locate(outer)
    assert places.ours() == []
    table((OURS, outer), (OURS, outer))
    assert places.ours() == [str(outer)]


def test_a_working_directory_that_is_gone(
    table: Table, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table()
    gone = base / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="working directory is gone"):
        places.locate(Path("x"))
