"""`.rucio/cache` and `rucio-fs cache` on a mount that streams."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lake import Lake
from tests.conftest import Mounter
from tests.fuse.clients import eventually
from tests.fuse.streaming import MIB, Far, Placed
from tests.fuse.test_commands import complaint, rucio_fs
from tests.mounting import DEADLINE, Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

NOWHERE = {"site": "", "rse": ""}  # a machine without a storage beside it
SIZE = 2 * MIB + 345


@pytest.fixture(scope="module")
def far(lake: Lake) -> Iterator[Far]:
    far = Far(lake, ("nginx",))
    yield far
    far.close()


@pytest.fixture
def mount(mounter: Mounter) -> Mount:
    return mounter(**NOWHERE)


@pytest.fixture
def cached(far: Far, mount: Mount) -> Placed:
    """A file that was read, and is whole in the cache and closed."""
    return fill(far, mount)


def fill(far: Far, mount: Mount) -> Placed:
    before = facts(mount)["files"]
    placed = far.place(SIZE)
    assert placed.read(mount) == placed.right
    full = {"files": before + 1, "open": 0, "is_clearing": False}
    eventually(lambda: facts(mount), lambda seen: full.items() <= seen.items())
    assert cached_bytes(mount, placed) == SIZE
    return placed


def cached_bytes(mount: Mount, placed: Placed) -> int:
    return int(str(mount.xattr("cached_bytes", placed.scope, placed.name)))


def file(mount: Mount) -> Path:
    return mount.path / ".rucio" / "cache"


def facts(mount: Mount) -> dict[str, Any]:
    done = mount.run("cat", file(mount))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def order(mount: Mount, text: str, redirection: str = ">") -> str:
    """What a shell complains of that writes an order."""
    shell = f'env printf %b "$1" {redirection} "$0"'  # the shell's own calls it an I/O error
    return mount.run("sh", "-c", shell, file(mount), text).stderr


def in_cache(mount: Mount) -> list[Path]:
    """Files of the cache directory that have bytes of files."""
    directory = Path(facts(mount)["directory"])
    return [path for path in directory.glob("??/*") if not path.name.endswith(".map")]


# --- the file ------------------------------------------------------------------------------------


def test_the_file_tells_what_the_status_tells(mount: Mount, cached: Placed) -> None:
    assert "cache" in mount.ls(".rucio")
    assert facts(mount) == mount.status()["diskcache"] | {"is_clearing": False}
    assert facts(mount)["bytes"] >= SIZE


@pytest.mark.parametrize("redirection", [">", ">>", "1<>"])
@pytest.mark.parametrize("text", ["clear", "clear\\n"])
def test_writing_clear_empties_it(
    mount: Mount, cached: Placed, text: str, redirection: str
) -> None:
    assert order(mount, text, redirection) == ""
    assert facts(mount)["files"] == facts(mount)["bytes"] == 0
    assert in_cache(mount) == []
    assert cached_bytes(mount, cached) == 0
    assert cached.read(mount) == cached.right


def test_writing_verify_begins_a_verification(mount: Mount, cached: Placed) -> None:
    assert facts(mount)["verification"] is None
    assert order(mount, "verify\\n") == ""
    found = eventually(lambda: facts(mount)["verification"], lambda one: not one["is_running"])
    expected = {"files": 1, "done": 1, "bytes": SIZE, "damaged_bytes": 0, "is_running": False}
    assert found == expected


def test_other_orders_are_invalid(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE, expect_warnings=True)
    fill(far, mount)
    for text in ("clean", "\\n", "clear verify"):
        assert "Invalid argument" in order(mount, text)
    assert "takes clear or verify, not 'clear verify'" in mount.log_text()
    assert order(mount, "") == ""  # which only truncates
    assert mount.python("show(os.truncate(os.path.join(ROOT, '.rucio/cache'), 0))") is None
    assert facts(mount)["bytes"] >= SIZE


@pytest.mark.parametrize("options", [{"diskcache.size": 0, **NOWHERE}, {"policy": "replicate"}])
def test_a_mount_without_a_cache_has_no_such_file(
    mounter: Mounter, options: dict[str, object]
) -> None:
    mount = mounter(**options)
    assert "cache" not in mount.ls(".rucio")
    for command in ("status", "clear", "verify"):
        said = complaint(rucio_fs("cache", command, mount.path), 1)
        assert said.startswith(f"{mount.path}: this mount has no cache on disk: ")


# --- the commands --------------------------------------------------------------------------------


def test_status(mount: Mount, far: Far, cached: Placed) -> None:
    done = rucio_fs("cache", "status", far.path(mount, cached))
    assert (done.code, done.err) == (0, "")
    lines = [line.split(maxsplit=1) for line in done.out.splitlines()[1:]]
    shown = dict(lines)
    assert done.out.startswith(f"{mount.path}\n")
    assert shown["directory"] == facts(mount)["directory"]
    assert shown["used"].startswith("2.1 MB of ")
    assert shown["files"] == "1, 0 of them open"
    found = rucio_fs("cache", "status", "--json", mount.path)
    assert json.loads(found.out) == {"mountpoint": str(mount.path)} | facts(mount)


def test_clear_says_what_was_freed(mount: Mount, cached: Placed) -> None:
    done = rucio_fs("cache", "clear", mount.path)
    assert (done.code, done.out, done.err) == (0, "2.1 MB freed\n", "")
    assert in_cache(mount) == []
    assert rucio_fs("cache", "clear", mount.path).out == "0 B freed\n"
    assert cached.read(mount) == cached.right


def test_clear_beneath_a_reader(mount: Mount, far: Far, cached: Placed) -> None:
    """What is open is emptied too, and read on from its storage."""
    code = """
import hashlib, subprocess
with open(os.path.join(ROOT, *ARGS[:2]), "rb", buffering=0) as file:
    digest = hashlib.sha256(file.read(5000))
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with open(os.path.join(ROOT, ".rucio/cache"), "w") as cache:
        cache.write("clear")
    while data := file.read(1 << 20):
        digest.update(data)
show(digest.hexdigest())
"""
    assert mount.python(code, cached.scope, cached.name) == cached.right[1]


def test_verify_finds_and_drops_what_was_damaged(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE, expect_warnings=True)
    placed, other = fill(far, mount), fill(far, mount)
    done = rucio_fs("cache", "verify", mount.path)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "nothing is damaged: 2 files, 4.2 MB"

    (damaged, *_) = sorted(in_cache(mount))
    with damaged.open("r+b") as disk:
        disk.seek(SIZE - 1)
        byte = disk.read(1)
        disk.seek(SIZE - 1)
        disk.write(bytes([byte[0] ^ 1]))
    said = complaint(rucio_fs("cache", "verify", mount.path), 3)
    assert (
        said == f"{mount.path}: 2.1 MB were damaged and dropped; they are fetched again when read"
    )
    assert "2.1 MB damaged" in rucio_fs("cache", "status", mount.path).out
    found = rucio_fs("cache", "verify", "--json", mount.path)
    document = json.loads(found.out)
    assert (found.code, document["exit"], document["damaged_bytes"]) == (0, 0, 0)
    for one in (placed, other):
        assert one.read(mount) == one.right


def test_a_server_that_hangs_or_died_hangs_nobody(lake: Lake, mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE)
    mount.signal(signal.SIGSTOP)
    try:
        for command in ("status", "clear", "verify"):
            said = complaint(rucio_fs("cache", command, mount.path), 1)
            assert said == (
                f"{mount.path}: the server of this mount does not answer;"
                f" run: rucio-fs umount {mount.path}"
            )
    finally:
        mount.signal(signal.SIGCONT)
    dead = Mount(lake.client_config(), NOWHERE)
    try:
        dead.process.kill()
        dead.process.wait(DEADLINE)
        for command in ("status", "clear", "verify"):
            assert "has died" in complaint(rucio_fs("cache", command, dead.path), 1)
    finally:
        dead.close()
        dead.remove()
