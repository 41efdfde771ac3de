"""A mount that is killed at any moment loses nothing that was closed, and uploads nothing twice.

RUCIO_FS_TEST_KILLS sets how often; RUCIO_FS_TEST_SEED repeats the moments of an earlier run.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lake import Lake
from tests.fuse.changing import Changer
from tests.fuse.saving import Saving
from tests.mounting import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

KILLS = int(os.environ.get("RUCIO_FS_TEST_KILLS", "6"))
_LONGEST = 2.5  # s from the mount to its end; an upload takes about one

# Writes files until its mount dies, and says which it has closed.  Names and bytes follow from the
# number of the round; some are in a dataset, some are written again under another name.
_WRITER = """
import hashlib, os, sys, time
root, number = sys.argv[1:]
os.makedirs(f"{root}/run{number}/sub", exist_ok=True)
for i in range(120):
    name = f"run{number}/{'sub/' if i % 3 == 0 else ''}f{i:04d}"
    data = hashlib.sha256(f"{number} {name}".encode()).digest() * (1 + i * 977 % 5000)
    path = f"{root}/{name}"
    target = path + ".part" if i % 4 == 0 else path
    with open(target, "wb", buffering=0) as file:
        for at in range(0, len(data), 60_000):
            file.write(data[at : at + 60_000])
        if i % 5 == 0:
            os.fsync(file.fileno())
    if target != path:
        os.rename(target, path)
    print(name, flush=True)
    time.sleep(0.01)  # so that some are still to be written when others are uploaded
"""


def data_of(name: str) -> bytes:
    """What the writer has written."""
    name = name.removesuffix(".part")  # killed before it was renamed
    number = name.split("/")[0].removeprefix("run")
    i = int(name[-4:])
    return hashlib.sha256(f"{number} {name}".encode()).digest() * (1 + i * 977 % 5000)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Mounts:
    """Mounts one after the other over one staging area, at one place."""

    def __init__(self, lake: Lake, rest: Changer, scope: str, directory: Path) -> None:
        self._lake = lake
        self._rest = rest
        self._scope = scope
        self._mountpoint = directory / "mnt"
        self.area = directory / "scratch"

    def begin(self) -> Saving:
        options = {
            "site": "HERE",
            "rse": "COLO",
            "policy": "stream",
            "storages.ca": self._lake.ca_file,
            "scratch.dir": self.area,
            "scratch.rse": "COLO_SCRATCHDISK",
            "scratch.delay": "0.1s",
            "scratch.stop_timeout": "1s",
        }
        mount = Mount(self._lake.client_config(), options, directory=self._mountpoint)
        return Saving(mount, self._lake, self._scope, self._rest)

    def write(self, site: Saving, number: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(site.path()), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def kill(self, site: Saving) -> None:
        site.mount.process.kill()
        site.mount.process.wait()
        subprocess.run(["umount", "-l", str(site.mount.path)], check=True, timeout=30)
        site.mount.remove()


def test_kills_at_random_moments_lose_nothing(
    lake: Lake, rest: Changer, new_scope: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("RUCIO_FS_TEST_SEED", str(random.randrange(10**6))))
    print("RUCIO_FS_TEST_SEED =", seed)
    moments = random.Random(seed)
    mounts = Mounts(lake, rest, new_scope, tmp_path)
    closed: set[str] = set()
    for number in range(KILLS):
        site = mounts.begin()
        writer = mounts.write(site, number)
        time.sleep(moments.uniform(0, _LONGEST))  # the moment is what is tested
        mounts.kill(site)
        closed |= set(writer.communicate(timeout=60)[0].split())
    site = mounts.begin()
    try:
        left = site.settled(60.0 + 10.0 * KILLS)
        listed = {one["path"].partition("/")[2]: one for one in left["uploads"]}
        staged: dict[str, str] = {}
        for number in range(KILLS):  # not all bytes of a long run at once
            found = site.files(f"run{number}")
            staged |= {name: digest_of(data) for name, data in found.items()}
        _check(site, closed, listed, staged)
    finally:
        assert site.mount.close() == 0
        site.mount.remove()


def _check(
    site: Saving, closed: set[str], listed: dict[str, object], staged: dict[str, str]
) -> None:
    known = {row["name"]: row for row in site.all_known()}
    missing = [name for name in closed if name not in known and name not in listed]
    assert missing == [], "closed, and neither in the lake nor listed"
    wrong = [
        name
        for name in closed
        if name in known and known[name]["adler32"] != site.adler32(data_of(name))
    ]
    assert wrong == []
    assert {name for name in listed if staged.get(name) is None} == set()
    for name, row in known.items():
        assert name in closed or _is_whole(name, staged), f"{name} was not closed"
        assert site.stored(name, "COLO_SCRATCHDISK").read_bytes() == data_of(name)
        assert row["states"]["COLO_SCRATCHDISK"] == "AVAILABLE"
    print(f"{len(closed)} closed, {len(known)} in the lake, {len(listed)} listed")
    assert len(known) >= len(closed) * 0.9, "most were closed long before"
    assert site.litter() == []


def _is_whole(name: str, staged: dict[str, str]) -> bool:
    """A file that was closed, though its writer did not live to say so."""
    return staged.get(name) == digest_of(data_of(name))
