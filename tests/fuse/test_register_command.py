"""`rucio-fs register`: files that lie on a mounted RSE become DIDs, on a mount of a real lake."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lake import Lake
from lake.rses import hash_path
from tests.conftest import Mounter
from tests.fuse.calls import CallLog
from tests.fuse.changing import Changer
from tests.fuse.saving import Saving
from tests.fuse.test_commands import Done, complaint, rucio_fs

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

RSE = "COLO_NDSCRATCHDISK"
COUNT = 300
Maker = Callable[..., Saving]


@pytest.fixture
def site(lake: Lake, mounter: Mounter, rest: Changer, new_scope: str, tmp_path: Path) -> Maker:
    def make(account: str = "root", scope: str = new_scope, **options: object) -> Saving:
        mount = mounter(
            config=lake.client_config(account),
            scratch__dir=tmp_path / "scratch",
            scratch__rse="COLO_SCRATCHDISK",
            **options,
        )
        return Saving(mount, lake, scope, rest)

    return make


@pytest.fixture
def data(lake: Lake, new_scope: str) -> Path:
    """A directory on the storage with 300 files, of a name that no other test has."""
    top = lake.store(RSE) / f"data-{new_scope}"
    for number in range(COUNT):
        path = top / ("sub" if number % 3 else ".") / f"f{number:03d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(number))
    for directory in (top, top / "sub"):
        directory.chmod(0o755)
    return top


def register(one: Saving, *arguments: str | Path, rse: str = RSE) -> Done:
    """The command as it is called where there are several mounts."""
    options = ("--mount", one.mount.path, "--rse", rse, "--scope", one.scope)
    return rucio_fs("register", *options, *arguments)


def _content(number: int) -> bytes:
    return hashlib.sha256(f"{number}".encode()).digest() * (number + 1)


def _seen(top: Path) -> dict[str, tuple[int, int, int, int]]:
    """What would tell of a change to any file or directory below *top*."""
    found = {}
    for directory, _, names in os.walk(top):
        for path in [directory, *(f"{directory}/{name}" for name in names)]:
            status = os.stat(path)
            found[path] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@pytest.mark.parametrize("account", ["root", "alice"])
def test_a_tree_is_registered_where_it_lies(
    site: Maker, data: Path, calls: CallLog, account: str
) -> None:
    one = site(account, "user.alice") if account == "alice" else site()
    before = _seen(data)
    with calls.counted() as asked:
        done = register(one, "-r", data)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1].startswith(f"in the lake: {COUNT} files, ")
    assert asked.total() <= 60, asked
    assert _seen(data) == before
    top = data.name
    assert one.members(top) == [f"{top}/sub", f"{top}__root"]
    assert len(one.members(f"{top}/sub")) == COUNT - COUNT // 3
    known = one.known(f"{top}/sub/f001")
    assert known is not None
    assert (known["bytes"], known["adler32"]) == (64, one.adler32(_content(1)))
    assert known["states"] == {RSE: "AVAILABLE"}
    (rule,) = one.rules(f"{top}/sub")
    assert (rule["rse_expression"], rule["account"], rule["state"]) == (RSE, account, "OK")
    # What is registered is read as every file, from where it lies.
    read = one.mount.run("cat", one.mount.path / one.scope / f"{top}%2Ff000")
    assert read.stdout.encode("utf-8", "surrogateescape") == _content(0)
    again = register(one, "-r", "--json", data)
    (report,) = json.loads(again.out)
    assert (report["exit"], report["registered"], report["failed"]) == (0, COUNT, 0)
    assert len(one.rules(f"{top}/sub")) == 1


def test_what_is_registered_is_brought_elsewhere_and_stays(site: Maker, data: Path) -> None:
    one = site()
    path = data / "f000"
    done = register(one, "--dataset", "few", "--rule", "REM1", path)
    assert (done.code, done.err) == (0, "")
    one.check("f000", _content(0), rse="REM1", dataset="few")
    known = one.known("f000")
    assert known is not None
    assert known["states"] == {"REM1": "AVAILABLE", RSE: "AVAILABLE"}
    assert [rule["rse_expression"] for rule in one.rules("f000")] == [RSE]
    one.lake.run_daemons()
    assert path.read_bytes() == _content(0)


def test_what_cannot_be_registered_is_told(site: Maker, data: Path, tmp_path: Path) -> None:
    one = site(expect_warnings=True)
    assert "is a directory: register it with -r" in complaint(register(one, data), 1)
    elsewhere = tmp_path / "file"
    elsewhere.write_bytes(b"x")
    said = complaint(register(one, elsewhere), 1)
    assert f"{elsewhere} does not lie at {RSE}, whose files are below " in said
    (data / "bad name").write_bytes(b"x")
    said = complaint(register(one, data / "bad name"), 1)
    assert "a PFN takes letters, digits" in said
    said = complaint(register(one, data / "bad name", rse="NOPE"), 1)
    assert "NOPE" in said
    assert "a PFN takes" not in said, "that was the other request"
    waited = rucio_fs("uploads", "--wait", one.mount.path)
    assert waited.code == 1
    (line,) = waited.err.splitlines()
    assert line.startswith(f"rucio-fs: error: {data}/bad name")
    assert f"--rse {RSE} '{data}/bad name'" in line
    assert "rucio-fs register " in line
    missing = complaint(register(one, data / "missing"), 1)
    assert missing.endswith("missing: No such file or directory")
    # Another file of a name that Rucio knows.
    assert register(one, data / "f000").code == 0
    (data / "other").mkdir()
    (data / "other/f000").write_bytes(b"other")
    said = complaint(register(one, data / "other/f000"), 1)
    assert "is in Rucio with 32 bytes" in said


def test_a_deterministic_storage_has_files_where_it_looks_for_them(site: Maker, lake: Lake) -> None:
    one = site(expect_warnings=True)
    store = lake.store("COLO_SCRATCHDISK")
    right, wrong = store / hash_path(one.scope, "right"), store / one.scope / "wrong"
    for path in (right, wrong):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")
    done = register(one, right, wrong, rse="")  # the mount finds it
    said = complaint(done, 1)
    assert f"{wrong} is not where COLO_SCRATCHDISK keeps {one.scope}:wrong: that is " in said
    one.check("right", b"bytes", rse="COLO_SCRATCHDISK")
    assert one.known("wrong") is None
