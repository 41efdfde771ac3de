"""The policy `both`: reading starts at once, and goes on with the local copy when it has come."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake
from lake.fts.client import FtsControl
from tests.conftest import Mounter
from tests.fuse.clients import eventually
from tests.fuse.streaming import MIB, Far, Placed
from tests.lake.rules import RuleLab
from tests.mounting import DEADLINE, Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

BOTH = {"policy": "both", "streaming.window": MIB, "opening.rule_min_size": MIB}

# Reads to the middle, waits for a line on stdin, reads the rest.
READ_IN_TWO = """
import hashlib, sys
with open(sys.argv[1], "rb", buffering=0) as file:
    digest = hashlib.sha256(file.read(3 << 20))
    print("half", flush=True)
    sys.stdin.readline()
    while data := file.read(1 << 20):
        digest.update(data)
print(digest.hexdigest(), flush=True)
"""


@pytest.fixture(scope="module")
def far(lake: Lake) -> Iterator[Far]:
    far = Far(lake, ())
    far.all.append(far.endpoints.add(*lake.webdav("rem1", tls=True)))
    far.place(0)  # makes the scope
    yield far
    far.close()


@pytest.fixture
def mount(mounter: Mounter) -> Mount:
    return mounter(**BOTH, expect_warnings=True)


def reading(mount: Mount, placed: Placed) -> subprocess.Popen[str]:
    """A program that has read to the middle."""
    path: Path = mount.path / placed.scope / placed.name
    reader = subprocess.Popen(
        ["python3", "-S", "-c", READ_IN_TWO, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd="/",
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "half\n"
    return reader


def finish(reader: subprocess.Popen[str]) -> str:
    return reader.communicate("\n", timeout=DEADLINE)[0].strip()


def test_the_local_copy_takes_over_in_the_middle(mount: Mount, far: Far, lab: RuleLab) -> None:
    placed = far.place(40 * MIB)
    reader = reading(mount, placed)
    eventually(lambda: mount.status()["opening"]["switched"], lambda count: count == 1)
    received = mount.status()["streaming"]["received"]
    assert finish(reader) == placed.right[1]
    assert mount.status()["streaming"]["received"] == received < 40 * MIB
    did = f"{placed.scope}:{placed.name}"
    assert len(lab.rules(did)) == 1
    assert mount.xattr("source", placed.scope, placed.name) == "COLO"
    assert placed.read(mount) == placed.right


def test_wrong_bytes_do_not_go_on_with_the_right_ones_of_the_copy(
    mount: Mount, far: Far, fts: FtsControl
) -> None:
    placed = far.place(40 * MIB)
    fts.stall()
    placed.spoil(far.endpoints, far.all[0], 5)
    reader = reading(mount, placed)
    fts.wait_stalled()
    placed.spoil(far.endpoints, far.all[0], 5)  # it is repaired, and then brought
    fts.release()
    problems = mount.path / ".rucio" / "problems"
    eventually(
        lambda: mount.run("cat", problems).stdout,
        lambda text: f"{placed.scope}:{placed.name}" in text and "the copy that has come" in text,
    )
    assert finish(reader) == "", "it got an error"
    assert reader.returncode != 0
    assert placed.read(mount) == placed.right
    assert mount.status()["opening"]["switched"] == 0


def test_with_transfers_that_stall_the_read_ends_by_streaming(
    mount: Mount, far: Far, fts: FtsControl
) -> None:
    fts.stall()
    placed = far.place(12 * MIB)
    reader = reading(mount, placed)
    did = f"{placed.scope}:{placed.name}"
    eventually(
        lambda: mount.xattr("state", placed.scope, placed.name), lambda s: s == "REPLICATING"
    )
    assert finish(reader) == placed.right[1]
    assert mount.status()["opening"]["switched"] == 0
    assert did in mount.run("cat", mount.path / ".rucio" / "transfers").stdout


def test_a_small_file_makes_no_rule(mount: Mount, far: Far, lab: RuleLab) -> None:
    placed = far.place(MIB - 1)
    assert placed.read(mount) == placed.right
    large = far.place(MIB)
    assert large.read(mount) == large.right
    eventually(lambda: lab.rules(f"{large.scope}:{large.name}"), lambda rules: len(rules) == 1)
    assert lab.rules(f"{placed.scope}:{placed.name}") == []


def test_a_rule_that_is_refused_fails_no_read(mount: Mount, far: Far, lab: RuleLab) -> None:
    with lab.quota("root", "COLO", 100):
        placed = far.place(2 * MIB)
        assert placed.read(mount) == placed.right
        eventually(
            lambda: mount.xattr("error", placed.scope, placed.name),
            lambda error: "quota" in error,
        )


def test_scanners_stream_and_make_no_rule(mounter: Mounter, far: Far, lab: RuleLab) -> None:
    mount = mounter(**BOTH, scanners__programs="python*", expect_warnings=True)
    placed = far.place(2 * MIB)
    assert placed.read(mount) == placed.right
    assert lab.rules(f"{placed.scope}:{placed.name}") == []
