"""`get`, `wait`, `release` and `status` as a user types them, on a mount of a real Rucio."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from lake import Lake
from lake.fts.client import FtsControl
from tests.conftest import Mounter
from tests.lake.rest import eventually
from tests.lake.rules import RuleLab
from tests.mounting import DEADLINE, Mount, clean_environment

pytestmark = pytest.mark.fuse

# A shell that starts the tests with & makes its children ignore SIGINT.
COMMAND = ["env", "--default-signal=INT", sys.executable, "-bb", "-m", "rucio_fs"]
STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Done(NamedTuple):
    """What a command left: its exit code, its output, and its errors without the program's name."""

    code: int
    out: str
    err: str

    def json(self) -> list[dict[str, Any]]:
        found = json.loads(self.out)
        assert isinstance(found, list)
        return found


def rucio_fs(*arguments: str | Path) -> Done:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd="/",
        env=clean_environment(),
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def complaint(done: Done, code: int) -> str:
    """The one line of a command that failed with *code*."""
    assert done.code == code, done
    assert done.err.startswith("rucio-fs: error: ")
    assert len(done.err.splitlines()) == 1
    return done.err.removeprefix("rucio-fs: error: ").rstrip("\n")


class Data(NamedTuple):
    """A dataset of three files that are at REM1 alone.  *word* is in their names alone."""

    did: str
    files: list[str]
    path: Path
    word: str


@pytest.fixture
def mount(mounter: Mounter) -> Mount:
    return mounter(expect_warnings=True, policy="both")


@pytest.fixture
def make(lab: RuleLab, scope: str, mount: Mount) -> Callable[[], Data]:
    """Makes a dataset that no other test uses."""

    def data() -> Data:
        word = f"w{uuid4().hex[:10]}"
        files = lab.files(scope, count=3, dataset=f"{word}.set", prefix=word)
        return Data(f"{scope}:{word}.set", files, mount.path / scope / f"{word}.set", word)

    return data


# --- get, wait, release --------------------------------------------------------------------------


def test_a_dataset_is_brought_and_given_back(
    make: Callable[[], Data], lab: RuleLab, mount: Mount
) -> None:
    data = make()
    assert "is a directory; name it with -r" in complaint(rucio_fs("get", data.path), 2)
    assert "nothing brings it" in complaint(rucio_fs("wait", "-r", data.path), 1)
    assert lab.rules(data.did) == []

    done = rucio_fs("get", "-r", data.path)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1].startswith(f"{data.path}: AVAILABLE, 3 files, 3.0 kB")
    assert set(lab.states(data.did).values()) == {"AVAILABLE"}
    (rule,) = lab.rules(data.did)
    read = mount.run("cat", *sorted(data.path / did.split(":")[1] for did in data.files))
    assert read.returncode == 0

    assert rucio_fs("wait", "-r", data.path).code == 0
    assert rucio_fs("get", "-r", "-q", data.path) == Done(0, "", "")
    assert [known["id"] for known in lab.rules(data.did)] == [rule["id"]]
    shown = rucio_fs("status", data.path)
    assert shown.code == 0
    assert f"rule      {rule['id']}" in shown.out

    said = f"{data.path}: 1 rule given back\n"
    assert rucio_fs("release", data.path) == Done(0, said, "")
    eventually(lambda: lab.rules(data.did), lambda rules: rules == [])
    assert "no rule on it was made by rucio-fs" in complaint(rucio_fs("release", data.path), 1)


def test_what_is_wanted_again_at_once_stays(
    make: Callable[[], Data], lab: RuleLab, lake: Lake
) -> None:
    """Though Rucio has not removed yet what was given back."""
    data = make()
    assert rucio_fs("get", "-r", data.path).code == 0
    lake.pause_daemons("cleaner")
    try:
        assert rucio_fs("release", data.path).code == 0
        assert rucio_fs("get", "-r", data.path).code == 0
    finally:
        lake.resume_daemons("cleaner")
    lake.run_daemons()
    assert len(lab.rules(data.did)) == 1
    assert set(lab.states(data.did).values()) == {"AVAILABLE"}


def test_a_rule_lives_as_long_as_was_said(make: Callable[[], Data], lab: RuleLab) -> None:
    data = make()
    (found,) = rucio_fs("get", "--no-wait", "-r", "--lifetime", "2h", "--json", data.path).json()
    (rule,) = lab.rules(data.did)
    assert (found["did"], found["rule_id"], found["exit"]) == (data.did, rule["id"], 0)
    made, ends = lab.rule(rule["id"])["created_at"], lab.rule(rule["id"])["expires_at"]
    hours = (_seconds(ends) - _seconds(made)) / 3600
    assert round(hours) == 2


def test_ctrl_c_leaves_the_rules(make: Callable[[], Data], lab: RuleLab, fts: FtsControl) -> None:
    data = make()
    fts.stall(data.word)
    with subprocess.Popen(
        [*COMMAND, "get", "-r", str(data.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=clean_environment(),
    ) as getting:
        assert getting.stdout is not None
        assert "REPLICATING" in getting.stdout.readline()
        getting.send_signal(signal.SIGINT)
        _, err = getting.communicate(timeout=DEADLINE)
    assert getting.returncode == 130
    assert err.startswith("\nrucio-fs: interrupted; 1 path on the way, whose rules stay")
    assert len(err.splitlines()) == 2

    late = rucio_fs("wait", "-r", "--timeout", "1s", data.path)
    assert "the time is over: it is REPLICATING, 0 of 3 files are here" in complaint(late, 4)
    fts.clear()
    assert rucio_fs("wait", "-r", data.path).code == 0
    assert len(lab.rules(data.did)) == 1


def test_of_a_dataset_some_come_and_one_is_stuck(make: Callable[[], Data], fts: FtsControl) -> None:
    data = make()
    fts.fail(data.files[1].split(":")[1], reason="TRANSFER [70] the disk is on fire")
    done = rucio_fs("get", "-r", "--json", data.path)
    message = complaint(done, 3)
    assert message.startswith(f"{data.path}: 2 of 3 files are here, 1 stuck: ")
    assert "the disk is on fire" in message
    (found,) = done.json()
    assert (found["state"], found["exit"], found["files_here"], found["files_stuck"]) == (
        "STUCK", 3, 2, 1,
    )  # fmt: skip
    files = [data.path / did.split(":")[1] for did in data.files]
    done = rucio_fs("get", *files, "/etc")
    assert done.code == 3
    assert sorted(done.err.splitlines())[0] == (
        "rucio-fs: error: /etc: not inside a rucio-fs mount"
    )
    assert len(done.err.splitlines()) == 2


def test_what_rucio_refuses(make: Callable[[], Data], lab: RuleLab) -> None:
    data = make()
    with lab.quota("root", "COLO", 0):
        message = complaint(rucio_fs("get", "-r", data.path), 1)
    assert "quota" in message
    assert lab.rules(data.did) == []


def test_scopes_and_mounts_that_bring_nothing(
    make: Callable[[], Data], scope: str, mounter: Mounter, mount: Mount
) -> None:
    data = make()
    assert "a whole scope is not brought" in complaint(rucio_fs("get", "-r", mount.path / scope), 1)
    other = mounter(policy="stream")
    path = other.path / scope / f"{data.word}.set"
    assert "this mount brings nothing" in complaint(rucio_fs("get", "-r", path), 1)


def test_on_a_terminal_there_are_bars(make: Callable[[], Data]) -> None:
    data = make()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "get", "-r", str(data.path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd="/",
        env=clean_environment(COLUMNS="120", TERM="xterm"),
    ) as getting:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert getting.wait(DEADLINE) == 0
    os.close(ours)
    text = shown.decode()
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back
    last = STEERING.sub("", text).strip().splitlines()[-1]
    assert re.search(r"3/3 files .*AVAILABLE$", last.strip()), last


def test_nobody_reads_what_is_shown(make: Callable[[], Data]) -> None:
    data = make()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "get", "-r", "--json", str(data.path)],
        stdout=writing, stderr=subprocess.PIPE, timeout=DEADLINE, cwd="/",
        env=clean_environment(),
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


# --- status --------------------------------------------------------------------------------------


def status_of(mount: Mount) -> dict[str, Any]:
    """What `status` says of *mount*; others on this machine may be anyhow."""
    found = rucio_fs("status", "--json").json()
    return next(one for one in found if one["mountpoint"] == str(mount.path))


def test_status_shows_transfers_and_problems(
    make: Callable[[], Data], mount: Mount, fts: FtsControl
) -> None:
    stalled, failing = make(), make()
    fts.stall(stalled.word)
    fts.fail(failing.word)
    assert rucio_fs("get", "--no-wait", "-r", stalled.path).code == 0
    assert rucio_fs("get", "-r", failing.path).code == 1
    facts = status_of(mount)
    assert facts["status"]["rucio"]["state"] == "ok"
    states = {one["did"]: one["state"] for one in facts["transfers"]}
    assert states == {stalled.did: "REPLICATING", failing.did: "STUCK"}
    assert failing.did in {one["did"] for one in facts["problems"]}
    shown = rucio_fs("status").out
    block = shown[shown.index(f"{mount.path}\n") :].split("\n\n")[0]
    assert re.search(rf"{stalled.did} +REPLICATING +0/3", block)
    assert "problems, the newest first" in block


def test_a_server_that_hangs_or_died_hangs_nobody(make: Callable[[], Data], mount: Mount) -> None:
    data = make()
    mount.signal(signal.SIGSTOP)
    try:
        for command in ("status", "release", "refresh"):
            said = complaint(rucio_fs(command, data.path), 1)
            assert "does not answer; run: rucio-fs umount" in said
        assert status_of(mount)["state"] == "hanging"
        late = rucio_fs("wait", "-r", "--timeout", "1s", data.path)
        assert "the time is over" in complaint(late, 4)
    finally:
        mount.signal(signal.SIGCONT)
    assert eventually(lambda: status_of(mount)["state"], lambda state: state == "ok")


@pytest.fixture
def dead(lake: Lake) -> Iterator[Mount]:
    """A mount whose server has died."""
    mount = Mount(lake.client_config(), {"site": "HERE", "rse": "COLO"})
    mount.process.kill()
    mount.process.wait(DEADLINE)
    yield mount
    mount.close()
    mount.remove()


def test_a_server_that_died(dead: Mount) -> None:
    said = f"the server of this mount has died; run: rucio-fs umount {dead.path}"
    for command in ("get", "wait", "release", "status", "refresh"):
        assert complaint(rucio_fs(command, dead.path / "x"), 1) == f"{dead.path}/x: {said}"
    assert (status_of(dead)["state"], status_of(dead)["error"]) == ("dead", said)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: nobody has the other end open any more
        return b""


def _seconds(time: str) -> float:
    return parsedate_to_datetime(time.replace("UTC", "GMT")).timestamp()
