"""Files that are read where they are: never a wrong byte, whatever the storages do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake
from lake.faults import (
    Action,
    Corrupt,
    Cut,
    DropHeader,
    Fault,
    Latency,
    Refuse,
    ReplaceHeader,
    Reset,
    Stall,
    Status,
    Timeout,
)
from tests.conftest import Mounter
from tests.fuse.clients import eventually
from tests.fuse.streaming import MIB, READ, Far, Placed
from tests.mounting import DEADLINE, Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

NOWHERE = {"site": "", "rse": ""}  # a machine without a storage beside it
SHORT = {"streaming.timeout": 1, "streaming.deadline": 5}
LARGE, SMALL = 3 * MIB + 12345, 200_000


@pytest.fixture(scope="module")
def far_storages(lake: Lake) -> Iterator[Far]:
    far = Far(lake)
    yield far
    far.close()


@pytest.fixture
def far(far_storages: Far) -> Iterator[Far]:
    """Two storages elsewhere, in order at the beginning and at the end."""
    yield far_storages
    far_storages.clear()


@pytest.fixture
def mount(mounter: Mounter) -> Mount:
    """One that has no experience with the storages yet.  Faults are tried on it, so it warns."""
    return mounter(**NOWHERE, **SHORT, expect_warnings=True)


@pytest.fixture
def quiet(mounter: Mounter) -> Mount:
    return mounter(**NOWHERE)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4095, 65536, 65537, MIB, LARGE])
def test_a_file_is_read_where_it_is(quiet: Mount, far: Far, size: int) -> None:
    placed = far.place(size)
    assert placed.read(quiet) == placed.right


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("server", ["nginx", "apache", "colo", "rem1"])
def test_every_kind_of_storage_is_read(
    lake: Lake, quiet: Mount, far: Far, server: str, tls: bool
) -> None:
    endpoint = far.endpoints.add(*lake.webdav(server, tls=tls))
    placed = far.place(LARGE, [endpoint])
    assert placed.read(quiet) == placed.right
    random = """
with open(os.path.join(ROOT, *ARGS[:2]), "rb", buffering=0) as file:
    show([os.pread(file.fileno(), 5000, offset).hex() for offset in ARGS[2]])
"""
    offsets = [2 * MIB + 1, 17, MIB - 1, LARGE - 4000]
    expected = [placed.data[offset : offset + 5000].hex() for offset in offsets]
    other = far.place(LARGE, [endpoint])
    found = quiet.python(random, other.scope, other.name, offsets)
    assert found == [other.data[offset : offset + 5000].hex() for offset in offsets] != expected


def test_a_storage_whose_certificate_is_not_trusted(lake: Lake, mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE, storages__ca="/etc/ssl/certs", expect_warnings=True)
    placed = far.place(SMALL, [far.endpoints.add(*lake.webdav("nginx", tls=True))])
    assert placed.read(mount) == {"errno": "EIO"}
    assert "is not trusted" in mount.log_text()
    assert "storages.ca" in mount.log_text()


def test_reading_again_asks_no_storage(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE)
    placed = far.place(LARGE)
    assert placed.read(mount) == placed.right
    eventually(
        lambda: mount.xattr("cached_bytes", placed.scope, placed.name),
        lambda cached: cached == str(LARGE),
    )
    before = far.requests()
    mount.python(
        "fd = os.open(os.path.join(ROOT, *ARGS), os.O_RDONLY)\n"
        "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)\nshow(None)",
        placed.scope,
        placed.name,
    )
    assert placed.read(mount) == placed.right
    assert far.requests() == before


def test_sixteen_readers_move_the_bytes_once(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE)
    placed = far.place(8 * MIB)
    program = (
        "import hashlib, sys\nprint(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
    )
    readers = [
        subprocess.Popen(
            ["python3", "-S", "-c", program, str(far.path(mount, placed))],
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        for _ in range(16)
    ]
    seen = {reader.communicate(timeout=DEADLINE)[0].strip() for reader in readers}
    assert seen == {placed.right[1]}
    assert mount.status()["streaming"]["received"] == 8 * MIB


def test_a_look_at_the_start_or_the_end_moves_little(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE)
    head, tail = far.place(40 * MIB), far.place(40 * MIB)
    read = "fd = os.open(os.path.join(ROOT, *ARGS[1:]), os.O_RDONLY)\n"
    start = mount.python(read + "show(os.pread(fd, 100, 0).hex())", 0, head.scope, head.name)
    assert start == head.data[:100].hex()
    assert mount.status()["streaming"]["received"] <= 4 * MIB
    at = 40 * MIB - 70_000
    end = mount.python(
        read + "show([os.pread(fd, 8, ARGS[0] + 69992).hex(), os.pread(fd, 70000, ARGS[0]).hex()])",
        at,
        tail.scope,
        tail.name,
    )
    assert end == [tail.data[-8:].hex(), tail.data[at:].hex()]
    assert mount.status()["streaming"]["received"] <= 8 * MIB


def test_a_reader_that_is_killed_leaves_nothing_behind(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE, streaming__idle=0)
    placed = far.place(64 * MIB)
    for proxy in far.proxies.values():
        proxy.add(Fault(Latency(0.2)))
    reader = subprocess.Popen(["cat", far.path(mount, placed)], stdout=subprocess.DEVNULL, cwd="/")
    eventually(lambda: mount.status()["streaming"]["connections"], lambda count: count > 0)
    reader.send_signal(signal.SIGKILL)
    reader.wait(DEADLINE)
    left = eventually(
        lambda: mount.status()["streaming"],
        lambda status: (status["files"], status["memory"], status["connections"]) == (0, 0, 0),
    )
    assert left["received"] < 64 * MIB


# --- storages in trouble -------------------------------------------------------------------------

TROUBLE: dict[str, Action] = {
    "500": Status(500),
    "503": Status(503, headers={"Retry-After": "1"}),
    "404": Status(404),
    "403": Status(403),
    "refuses": Refuse(),
    "is silent": Timeout(),
    "stalls": Stall(after_bytes=0),
    "stalls in the middle": Stall(after_bytes=100_000),
    "resets": Reset(),
    "resets in the middle": Reset(after_bytes=100_000),
    "sends short": Cut(after_bytes=100_000, framing="broken"),
    "says it is short": Cut(after_bytes=100_000, framing="clean"),
    "redirects in circles": Status(307, headers={"Location": "/elsewhere"}),
    "sends another range": ReplaceHeader("Content-Range", "bytes 0-99/100"),
    "has another size": ReplaceHeader("Content-Range", "bytes 0-199999/7"),
    "packs it": ReplaceHeader("Content-Encoding", "gzip"),
}
# What a client cannot tell from the file, but for its checksum.
LIES: dict[str, Action] = {"sends a wrong byte": Corrupt(offset=1000)}


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("trouble", [*TROUBLE])
def test_another_replica_helps_out(mount: Mount, far: Far, trouble: str, size: int) -> None:
    placed = far.place(size)
    first = far.proxy(placed.source(mount))
    handle = first.add(Fault(TROUBLE[trouble]))
    assert placed.read(mount) == placed.right
    assert handle.hits > 0 or trouble == "refuses"


# Those that give a part of what is asked for are got at in the end, part by part.
@pytest.mark.parametrize(
    "trouble", [one for one in TROUBLE if one not in ("resets in the middle", "sends short")]
)
def test_without_another_replica_it_is_an_error_in_time(
    mount: Mount, far: Far, trouble: str
) -> None:
    placed = far.place(LARGE, far.all[:1])
    far.proxy(far.all[0]).add(Fault(TROUBLE[trouble]))
    seen = placed.read(mount)
    assert isinstance(seen, dict)
    assert seen["errno"] in ("EIO", "EREMOTEIO", "ETIMEDOUT"), seen
    assert f"{placed.scope}:{placed.name}" in mount.log_text()
    assert far.all[0].rse in mount.log_text()
    error = mount.xattr("error", placed.scope, placed.name)
    assert far.all[0].rse in error
    assert json.loads(mount.run("cat", mount.path / ".rucio/problems").stdout)[0]["error"] == error
    far.clear()
    eventually(lambda: placed.read(mount), lambda seen: seen == placed.right)
    assert mount.xattr("error", placed.scope, placed.name) == {"errno": "ENODATA"}


# To the client, these are the state of the file, not of the storage; or, for 403, no other answer
# can come without credentials.
LASTING = {
    *("404", "403", "redirects in circles"),
    *("sends another range", "has another size", "packs it", "says it is short"),
}


@pytest.mark.parametrize("trouble", sorted(TROUBLE.keys() - LASTING))
def test_trouble_that_passes_is_not_noticed(mount: Mount, far: Far, trouble: str) -> None:
    placed = far.place(LARGE, far.all[:1])
    far.proxy(far.all[0]).add(Fault(TROUBLE[trouble], times=2))
    assert placed.read(mount) == placed.right


def test_a_storage_that_goes_away_and_comes_back(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE, expect_warnings=True)
    placed = far.place(LARGE, far.all[:1])
    outage = far.proxy(far.all[0]).add(Fault(Refuse()))
    with subprocess.Popen(
        ["sha256sum", far.path(mount, placed)], stdout=subprocess.PIPE, text=True, cwd="/"
    ) as reader:
        eventually(lambda: mount.status()["streaming"]["failures"], lambda count: count > 1)
        outage.remove()
        assert str(reader.communicate(timeout=DEADLINE)[0]).split()[0] == placed.right[1]


def test_a_storage_without_ranges(mount: Mount, far: Far) -> None:
    placed = far.place(LARGE, far.all[:1])
    far.proxy(far.all[0]).add(Fault(DropHeader("Range", on="request")))
    assert placed.read(mount) == placed.right
    code = (
        "fd = os.open(os.path.join(ROOT, *ARGS), os.O_RDONLY)\nshow(os.pread(fd, 9, 2000000).hex())"
    )
    other = far.place(LARGE, far.all[:1])
    found = mount.python(code, other.scope, other.name)
    assert found == other.data[2_000_000:2_000_009].hex()


@pytest.mark.parametrize("how", ["on storage", "on the way"])
def test_wrong_bytes_of_a_small_file_are_replaced_unnoticed(
    mount: Mount, far: Far, how: str
) -> None:
    placed = far.place(SMALL)
    first = placed.source(mount)
    if how == "on storage":
        placed.spoil(far.endpoints, first, 777)
    else:
        far.proxy(first).add(Fault(Corrupt(offset=777)))
    assert placed.read(mount) == placed.right
    assert (
        f"{placed.scope}:{placed.name} from {first.rse}: the file has adler32" in mount.log_text()
    )


def test_a_read_that_was_given_wrong_bytes_fails_and_the_next_is_right(
    mount: Mount, far: Far
) -> None:
    placed = far.place(LARGE)
    first = placed.source(mount)
    placed.spoil(far.endpoints, first, 5)
    assert placed.read(mount) in ({"errno": "EIO"}, placed.right)
    assert placed.read(mount) == placed.right
    problems = mount.run("cat", mount.path / ".rucio" / "problems").stdout
    assert f"{placed.scope}:{placed.name}" in problems
    assert first.rse in problems
    assert "WRONG_BYTES" in problems


def test_nobody_reads_wrong_bytes_from_the_kernel_unnoticed(mount: Mount, far: Far) -> None:
    """Two have a file open.  The first reads wrong bytes, which the kernel keeps for both."""
    placed = far.place(LARGE)
    placed.spoil(far.endpoints, placed.source(mount), 5)
    program = """
import hashlib
path = os.path.join(ROOT, *ARGS)
first, second = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
try:
    while os.read(first, 1 << 20):
        pass
except OSError:
    pass
digest, size = hashlib.sha256(), 0
while data := os.read(second, 1 << 20):
    digest.update(data)
    size += len(data)
show([size, digest.hexdigest()])
"""
    found = mount.python(program, placed.scope, placed.name)
    assert found in ({"errno": "EIO"}, placed.right)
    assert placed.read(mount) == placed.right


def test_nor_those_that_an_earlier_reader_has_left_there(mounter: Mounter, far: Far) -> None:
    """Without a cache: of what was given before nothing is known at the next open."""
    mount = mounter(**NOWHERE, expect_warnings=True, **{"diskcache.size": 0})
    placed = far.place(8 * MIB)
    placed.spoil(far.endpoints, placed.source(mount), 5)
    program = """
with open(os.path.join(ROOT, *ARGS), "rb", buffering=0) as file:
    show(len(file.read(1 << 20)))
"""
    mount.python(program, placed.scope, placed.name)
    assert placed.read(mount) in ({"errno": "EIO"}, placed.right)
    assert placed.read(mount) == placed.right


def test_wrong_bytes_everywhere_are_never_given_for_the_file(mount: Mount, far: Far) -> None:
    for size in (SMALL, LARGE):
        placed = far.place(size)
        for endpoint in placed.endpoints:
            placed.spoil(far.endpoints, endpoint, 50)
        for _ in range(3):
            assert placed.read(mount) == {"errno": "EIO"}


def test_a_checksum_that_the_catalogue_has_wrong(mount: Mount, far: Far) -> None:
    placed = far.place(SMALL, adler32="12345678")
    assert placed.read(mount) == {"errno": "EIO"}
    assert "the catalogue says 12345678" in mount.log_text()


def test_a_size_that_the_catalogue_has_wrong(mount: Mount, far: Far) -> None:
    placed = far.place(SMALL, registered=SMALL - 1000)
    assert placed.read(mount) == {"errno": "EIO"}
    assert f"has {SMALL} bytes, the catalogue says {SMALL - 1000}" in mount.log_text()


# --- beside a storage of one's own ---------------------------------------------------------------


def test_a_damaged_local_copy_is_streamed_from_elsewhere(lake: Lake, mounter: Mounter) -> None:
    mount = mounter(expect_warnings=True)
    read = "show(len(open(os.path.join(ROOT, *ARGS), 'rb').read()))"
    assert mount.python(read, "lab", "missing.dat") == mount.stat("lab", "missing.dat")["size"]
    assert "it is streamed from REM1" in mount.log_text()


# --- the cache on disk ---------------------------------------------------------------------------


def test_two_mounts_do_not_share_a_cache(lake: Lake, mounter: Mounter, tmp_path: Path) -> None:
    mounter(**NOWHERE, diskcache__dir=tmp_path / "cache")
    with pytest.raises(AssertionError, match="is used by the mount with pid"):
        Mount(lake.client_config(), {**NOWHERE, "diskcache.dir": tmp_path / "cache"})


def test_what_is_cached_outlives_the_mount(
    lake: Lake, mounter: Mounter, far: Far, tmp_path: Path
) -> None:
    placed = far.place(LARGE)
    options = {**NOWHERE, "policy": "stream", "diskcache.dir": tmp_path / "cache"}
    first = Mount(lake.client_config(), options)
    try:
        assert placed.read(first) == placed.right
        first.close()
    finally:
        first.remove()
    before = far.requests()
    second = mounter(**NOWHERE, diskcache__dir=tmp_path / "cache")
    assert placed.read(second) == placed.right
    assert far.requests() == before


def test_a_mount_that_is_killed_leaves_only_right_bytes(
    lake: Lake, mounter: Mounter, far: Far, tmp_path: Path
) -> None:
    placed = far.place(24 * MIB)
    options = {
        **{**NOWHERE, "policy": "stream", "diskcache.dir": tmp_path / "cache"},
        "streaming.window": MIB,
    }
    for received in (2, 9, 20):
        mount = Mount(lake.client_config(), options)
        try:
            with subprocess.Popen(
                ["cat", far.path(mount, placed)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
            ):
                eventually(
                    lambda mount=mount: mount.status()["streaming"]["received"],  # type: ignore[misc]
                    lambda seen, least=received: seen >= least * MIB // 4,  # type: ignore[misc]
                )
                mount.process.kill()
                mount.process.wait(DEADLINE)
        finally:
            mount.close()
            mount.remove()
    last = mounter(**NOWHERE, diskcache__dir=tmp_path / "cache")
    assert placed.read(last) == placed.right


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_fails_no_read(mounter: Mounter, far: Far, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    try:
        mount = mounter(
            **NOWHERE, diskcache__dir=disk / "cache", diskcache__min_free=0, expect_warnings=True
        )
        for _ in range(2):
            placed = far.place(12 * MIB)
            assert placed.read(mount) == placed.right
        assert shutil.disk_usage(disk).free < MIB
        mount.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_cache_that_is_too_small_fails_no_read(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE, diskcache__size=4 * MIB)
    files = [far.place(6 * MIB), far.place(MIB), far.place(2 * MIB), far.place(2 * MIB)]
    for placed in [*files, *files]:
        assert placed.read(mount) == placed.right
        assert mount.status()["diskcache"]["bytes"] <= 4 * MIB
    assert mount.status()["diskcache"]["evicted"] > 0


def test_a_mount_without_a_cache(mounter: Mounter, far: Far) -> None:
    mount = mounter(**NOWHERE, diskcache__size=0)
    placed = far.place(LARGE)
    assert placed.read(mount) == placed.right
    assert mount.xattr("cached_bytes", placed.scope, placed.name) == {"errno": "ENODATA"}
    assert mount.status()["diskcache"] is None


__all__ = ["READ", "Placed"]
