"""`rucio-fs doctor`: files that are well, lost or wrong, and what Rucio is told of them."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lake import Lake
from lake.faults import Fault, Status
from tests.conftest import Mounter
from tests.faulty import FaultyMount
from tests.fuse.streaming import Far, Placed
from tests.fuse.test_commands import Done, complaint, rucio_fs
from tests.lake.rules import RuleLab
from tests.mounting import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

NOWHERE = {"site": "", "rse": ""}  # a machine without a storage beside it


@pytest.fixture(scope="module")
def far(lake: Lake) -> Iterator[Far]:
    far = Far(lake)
    yield far
    far.close()


@pytest.fixture
def lost(lab: RuleLab, scope: str, request: pytest.FixtureRequest) -> str:
    """A file at REM1 whose copy beside us has gone, and Rucio does not know."""
    (did,) = lab.files(scope, prefix=f"lost{abs(hash(request.node.name))}")
    lab.replicas([did], "COLO")
    lab.lose(did, "COLO")
    return did


def suspicions(lab: RuleLab, did: str) -> Mapping[str, int]:
    """How often replicas of a file were declared suspicious, by RSE; none may be called bad."""
    name = dict(zip(("scope", "name"), did.split(":", 1), strict=True))
    rows = lab.rows("/replicas/bad/states")
    states = [row for row in rows if name.items() <= row.items()]
    assert {row["state"] for row in states} <= {"SUSPICIOUS"}
    return Counter(row["rse"] for row in states)


def documents(done: Done) -> Sequence[dict[str, Any]]:
    return done.json()


def lines(done: Done) -> set[str]:
    return {" ".join(line.split()) for line in done.out.splitlines()}


# --- what is said --------------------------------------------------------------------------------


def test_a_file_that_is_well(mounter: Mounter, lake: Lake) -> None:
    path = mounter().path / "sky" / "exp0001_g.fits"
    done = rucio_fs("doctor", path)
    assert (done.code, done.err) == (0, "")
    expected = {
        str(path), "DID sky:exp0001_g.fits", "size 77.8 kB", "state AVAILABLE", "locality LOCAL",
        "read from COLO", "replica COLO AVAILABLE", "replica REM1 AVAILABLE",
    }  # fmt: skip
    assert expected <= lines(done)
    (copy,) = [line for line in lines(done) if line.startswith("local copy ")]
    assert copy.startswith(f"local copy {lake.store('COLO')}/")
    assert copy.endswith(": can be read, and has the right size")


def test_a_file_that_is_streamed(mounter: Mounter, far: Far) -> None:
    mount, placed = mounter(**NOWHERE), far.place(5000)
    assert placed.read(mount) == placed.right
    (found,) = documents(rucio_fs("doctor", "--json", far.path(mount, placed)))
    assert (found["exit"], found["error"], found["locality"]) == (0, None, "REMOTE")
    assert found["source"] in found["replicas"]
    assert found["replicas"] == {one.rse: "AVAILABLE" for one in far.all}
    assert (found["local"], found["bytes"], found["cached_bytes"]) == (None, 5000, 5000)
    assert (found["problems"], found["suspects"]) == ([], [])


def test_a_rule_that_is_stuck_is_a_problem(mounter: Mounter, lab: RuleLab, scope: str) -> None:
    mount = mounter(policy="replicate", expect_warnings=True)
    (did,) = lab.files(scope, prefix="stuck")
    path = mount.path / scope / did.split(":")[1]
    with lab.quota("root", "COLO", 0):
        assert rucio_fs("get", path).code == 1
    (found,) = documents(rucio_fs("doctor", "--json", path))
    assert [problem["did"] for problem in found["problems"]] == [did]
    assert "quota" in found["problems"][0]["error"]
    assert found["suspects"] == []


def test_directories_and_foreign_paths_are_wrong_calls(mounter: Mounter) -> None:
    mount = mounter()
    said = complaint(rucio_fs("doctor", mount.path / "sky" / "night-001"), 2)
    assert "is a directory, and files are looked at; run: find " in said
    assert "not inside a rucio-fs mount" in complaint(rucio_fs("doctor", "/etc"), 2)
    assert "not from Rucio" in complaint(rucio_fs("doctor", mount.path / "README.txt"), 1)
    bare = mounter(xattrs=False)
    said = complaint(rucio_fs("doctor", bare.path / "sky" / "exp0001_g.fits"), 1)
    assert "xattrs=false" in said


def test_a_server_that_hangs_hangs_nobody(mounter: Mounter) -> None:
    mount = mounter()
    mount.signal(signal.SIGSTOP)
    try:
        said = complaint(rucio_fs("doctor", mount.path / "sky" / "exp0001_g.fits"), 1)
        assert "does not answer; run: rucio-fs umount" in said
    finally:
        mount.signal(signal.SIGCONT)


# --- what is reported ----------------------------------------------------------------------------


def test_a_lost_copy_is_reported_if_asked_for(mounter: Mounter, lab: RuleLab, lost: str) -> None:
    mount = mounter(expect_warnings=True)
    path = mount.path.joinpath(*lost.split(":", 1))
    done = rucio_fs("doctor", path)
    assert (done.code, done.err) == (3, "")
    assert any(line.startswith("suspect COLO: ") for line in lines(done)), done.out
    assert not any(line.startswith("error ") for line in lines(done)), "REM1 has it"
    assert "read from REM1" in lines(done)
    assert mount.xattr("source", *lost.split(":", 1)) == "REM1"
    assert "its local copy cannot be used: COLO: " in mount.xattr(
        "local_error", *lost.split(":", 1)
    )
    assert suspicions(lab, lost) == {}

    assert mount.run("cat", path).returncode == 0
    (problem,) = documents(rucio_fs("doctor", "--json", path))[0]["problems"]
    assert problem["state"] == "DAMAGED"
    assert problem["error"].endswith("; it is streamed from REM1")

    done = rucio_fs("doctor", "--report-suspicious", path, path)
    assert (done.code, done.err) == (3, "")
    assert sum(line.split()[:1] == ["declared"] for line in done.out.splitlines()) == 2
    assert suspicions(lab, lost) == {"COLO": 1}
    assert mount.xattr("replicas", *lost.split(":", 1)) == "COLO=AVAILABLE,REM1=AVAILABLE"
    assert f"{lost} at COLO is declared suspicious: " in mount.log_text()


def test_a_lost_copy_that_nothing_replaces(mounter: Mounter, lost: str) -> None:
    mount = mounter(policy="replicate", expect_warnings=True)
    path = mount.path.joinpath(*lost.split(":", 1))
    assert mount.run("cat", path).stderr.rpartition(": ")[2].strip() == "Input/output error"
    (found,) = documents(done := rucio_fs("doctor", "--json", path))
    assert (done.code, found["source"]) == (1, None)
    assert "its local copy cannot be used" in found["error"]
    (problem,) = found["problems"]
    assert (problem["state"], problem["error"]) == ("UNREADABLE", found["error"])
    assert [one["rse"] for one in found["suspects"]] == ["COLO"]
    assert lost in rucio_fs("status").out


def wrong(mount: Mount, far: Far) -> tuple[Placed, str]:
    """A file that was read although one storage has other bytes; and the RSE of that."""
    placed = far.place(300_000)
    source = placed.source(mount)
    placed.spoil(far.endpoints, source, 123)
    assert placed.read(mount) == placed.right
    return placed, source.rse


def test_wrong_bytes_are_reported_if_asked_for(mounter: Mounter, far: Far, lab: RuleLab) -> None:
    mount = mounter(**NOWHERE, expect_warnings=True)
    placed, rse = wrong(mount, far)
    path, did = far.path(mount, placed), f"{placed.scope}:{placed.name}"
    done = rucio_fs("doctor", "--json", path)
    (found,) = documents(done)
    assert (done.code, found["exit"], found["error"]) == (3, 3, None)
    (problem,) = found["problems"]
    assert problem["state"] == "WRONG_BYTES"
    (suspect,) = found["suspects"]
    assert (suspect["rse"], suspect["is_declared"]) == (rse, False)
    assert "the catalogue says" in suspect["reason"]
    assert suspicions(lab, did) == {}

    done = rucio_fs("doctor", "--json", "--report-suspicious", path)
    (found,) = documents(done)
    assert (done.code, found["suspects"][0]["is_declared"]) == (3, True)
    assert suspicions(lab, did) == {rse: 1}


def test_the_attribute_needs_no_command(mounter: Mounter, lab: RuleLab, scope: str) -> None:
    mount = mounter(expect_warnings=True)
    (did,) = lab.files(scope, prefix="by-hand")
    path = mount.path.joinpath(*did.split(":", 1))

    def declare(rse: str, path: Path) -> str:
        value = json.dumps({"rse": rse, "reason": "x" * 1000})
        done = mount.run("setfattr", "-n", "user.rucio.suspicious", "-v", value, path)
        return done.stderr.rpartition(": ")[2].strip()

    assert declare("REM1", path) == ""
    assert declare("REM2", path) == "No such attribute"
    assert declare("NO-SUCH-RSE", path) == "Invalid argument"
    assert declare("REM1", path.parent) == "Operation not supported"
    assert suspicions(lab, did) == {"REM1": 1}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (503, "Rucio did not answer, and the declaration may have been made or not"),
        (401, "Rucio does not let this account declare replicas suspicious"),
    ],
)
def test_a_report_that_fails(lake: Lake, far: Far, lab: RuleLab, status: int, words: str) -> None:
    body = b'{"ExceptionClass": "AccessDenied", "ExceptionMessage": "no"}' if status == 401 else b""
    with FaultyMount(lake, {**NOWHERE, "policy": "stream"}) as faulty:
        placed, rse = wrong(faulty.mount, far)
        faulty.proxy.add(Fault(Status(status, body), "POST", "/replicas/suspicious"))
        path = far.path(faulty.mount, placed)
        done = rucio_fs("doctor", "--report-suspicious", path)
        said = complaint(done, 1)
        assert said.startswith(f"{path}: replica at {rse}: {words}")
        assert f"suspect {rse}: " in "\n".join(lines(done))
        assert suspicions(lab, f"{placed.scope}:{placed.name}") == {}
        faulty.check_log()
