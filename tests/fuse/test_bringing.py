"""Opening a file that is elsewhere: one rule, however many open it, and all get its bytes."""

from __future__ import annotations

import hashlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lake import Lake
from lake.faults import Fault, Refuse
from lake.fts.client import FtsControl
from tests.conftest import Mounter
from tests.faulty import FaultyMount
from tests.fuse.clients import eventually
from tests.lake.rules import RuleLab
from tests.mounting import DEADLINE, Mount, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

PATIENCE = 90.0  # s; a transfer takes one where nothing else runs
REPLICATE = {"policy": "replicate"}


@pytest.fixture
def stalled(lake: Lake) -> Iterator[FtsControl]:
    """Transfers wait until `clear`."""
    fts = FtsControl(lake.fts_url)
    fts.stall()
    yield fts
    fts.clear()


@pytest.fixture(scope="module")
def mount(module_mounter: Mounter) -> Mount:
    return module_mounter(**REPLICATE)


def path(mount: Mount, did: str) -> Path:
    scope, _, name = did.partition(":")
    return mount.path / scope / name


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts client programs; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str | Path) -> subprocess.Popen[bytes]:
        client = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(LC_ALL="C.UTF-8"),
            cwd="/",
        )
        started.append(client)
        return client

    yield start
    for client in started:
        client.kill()
    for client in started:
        client.communicate(timeout=DEADLINE)


def end(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err.decode()


def waiting(mount: Mount) -> int:
    return int(mount.status()["opening"]["waiting"])


def our_rules(lab: RuleLab, did: str) -> list[str]:
    return [rule["id"] for rule in lab.rules(did) if rule["rse_expression"] == "COLO"]


def copying(lab: RuleLab, dids: Sequence[str]) -> set[str]:
    """Those of *dids* that are on their way."""
    body = {
        "dids": [dict(zip(("scope", "name"), did.split(":", 1), strict=True)) for did in dids],
        "rse_expression": "COLO",
        "all_states": True,
    }
    rows = lab.rows("/replicas/list", body)
    return {row["name"] for row in rows if row["states"].get("COLO") == "COPYING"}


# --- one file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rse", ["REM1", "REM2"])
def test_cat_brings_a_file_that_is_elsewhere(
    start: Start, lake: Lake, lab: RuleLab, scope: str, mount: Mount, rse: str
) -> None:
    (did,) = lab.files(scope, rse=rse, size=100_000, prefix=f"cat-{rse}")
    code, out, err = end(start("cat", path(mount, did)))
    assert (code, err) == (0, "")
    assert digest(out) == digest(lab.content(did))
    (rule_id,) = our_rules(lab, did)
    rule = lab.rule(rule_id)
    assert rule["state"] == "OK"
    assert rule["copies"] == 1
    assert rule["comments"] == f"rucio-fs on {socket.gethostname()} at {mount.path}"
    assert lab.states(did) == {did: "AVAILABLE"}
    assert mount.xattr("state", *did.split(":", 1)) == "AVAILABLE"


def test_rucio_is_told_what_was_read(
    start: Start, lake: Lake, lab: RuleLab, scope: str, mounter: Mounter
) -> None:
    (did,) = lab.files(scope, prefix="traced", dataset="traced")
    name = did.partition(":")[2]
    quiet, telling = mounter(**REPLICATE, rules__traces="no"), mounter(**REPLICATE)
    for mount in (quiet, telling):
        assert end(start("cat", mount.path / scope / "traced" / name))[0] == 0
    (trace,) = eventually(
        lambda: [trace for trace in lake.traces() if trace.get("filename") == name], bool
    )
    assert (trace["scope"], trace["dataset"]) == (scope, "traced")
    assert (trace["eventType"], trace["clientState"]) == ("get", "DONE")
    assert (trace["account"], trace["remoteSite"]) == ("root", "COLO")


def test_a_hundred_opens_of_one_file_are_one_rule(
    start: Start, lab: RuleLab, scope: str, mount: Mount, stalled: FtsControl
) -> None:
    (did,) = lab.files(scope, prefix="hundred")
    clients = [start("sha256sum", path(mount, did)) for _ in range(100)]
    eventually(lambda: waiting(mount), lambda count: count == 100)
    (rule_id,) = eventually(lambda: our_rules(lab, did), bool)
    assert mount.run("cat", mount.path / ".rucio/transfers").stdout.count(did) == 1
    stalled.clear()
    for client in clients:
        code, out, _ = end(client)
        assert code == 0
        assert out.decode().startswith(digest(lab.content(did)))
    assert our_rules(lab, did) == [rule_id]
    assert waiting(mount) == 0


def test_hundreds_of_files_are_a_handful_of_requests(
    start: Start, lab: RuleLab, scope: str, mounter: Mounter, stalled: FtsControl, lake: Lake
) -> None:
    mount = mounter(**REPLICATE, scanners__rate=0)
    dids = lab.files(scope, count=60, prefix="many", dataset="many")
    mount.ls(scope, "many")
    before = lake.access_log.read_text().count("\n")
    paths = [mount.path / scope / "many" / did.partition(":")[2] for did in dids]
    clients = [start("sha256sum", one) for one in paths]
    eventually(lambda: waiting(mount), lambda count: count == 60)
    eventually(lambda: len(copying(lab, dids)), lambda count: count == 60, 90)
    lines = lake.access_log.read_text().splitlines()[before:]
    asked = [line for line in lines if "rucio-fs/" in line]
    made = [line for line in asked if "POST /rules/" in line]
    assert len(made) <= 10
    assert len(asked) <= 50
    stalled.clear()
    for did, client in zip(dids, clients, strict=True):
        code, out, err = end(client)
        assert (code, err) == (0, "")
        assert out.decode().startswith(digest(lab.content(did)))


# --- looking makes no rules ----------------------------------------------------------------------


def test_looking_at_the_whole_lake_makes_no_rule(
    lab: RuleLab, mounter: Mounter, lake: Lake
) -> None:
    mount = mounter(**REPLICATE, scopes="sky:lab:user.*")
    before = len(lab.rules_of_account("root"))
    for command in (
        ["find", str(mount.path), "-type", "f"],
        ["ls", "-lR", str(mount.path)],
        ["du", "-a", str(mount.path)],
        ["find", str(mount.path), "-exec", "stat", "-t", "{}", "+"],
        ["getfattr", "-R", "-P", "-d", str(mount.path / "sky")],
    ):
        assert mount.run(*command, timeout=100).stdout
    assert len(lab.rules_of_account("root")) == before


# --- waiting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_wait_and_leaves_the_rule(
    start: Start,
    lab: RuleLab,
    scope: str,
    mount: Mount,
    stalled: FtsControl,
    number: signal.Signals,
) -> None:
    (did,) = lab.files(scope, prefix=f"signal-{number.name}")
    client = start("cat", path(mount, did))
    eventually(lambda: waiting(mount), lambda count: count == 1)
    eventually(lambda: our_rules(lab, did), bool)
    client.send_signal(number)
    assert end(client)[0] == -number
    eventually(lambda: waiting(mount), lambda count: count == 0)
    (rule_id,) = our_rules(lab, did)
    second = start("cat", path(mount, did))
    eventually(lambda: waiting(mount), lambda count: count == 1)
    stalled.clear()
    assert end(second) == (0, lab.content(did), "")
    assert our_rules(lab, did) == [rule_id]


def test_o_nonblock_is_eagain_at_once_with_the_rule_made(
    lab: RuleLab, scope: str, mount: Mount
) -> None:
    (did,) = lab.files(scope, prefix="nonblock")
    code = "show(len(os.read(os.open(os.path.join(ROOT, *ARGS), os.O_NONBLOCK), 100000)))"
    assert mount.python(code, *did.split(":", 1)) == {"errno": "EAGAIN"}
    (rule_id,) = eventually(lambda: our_rules(lab, did), bool)
    lab.await_rule(rule_id)
    eventually(lambda: mount.python(code, *did.split(":", 1)), lambda seen: seen == 1000)
    assert our_rules(lab, did) == [rule_id]


def test_a_wait_ends_with_eagain_and_the_transfer_goes_on(
    start: Start, lab: RuleLab, scope: str, mounter: Mounter, stalled: FtsControl
) -> None:
    mount = mounter(**REPLICATE, open_wait="1s")
    (did,) = lab.files(scope, prefix="impatient")
    assert "Resource temporarily unavailable" in end(start("cat", path(mount, did)))[2]
    assert mount.xattr("state", *did.split(":", 1)) == "REPLICATING"
    (rule_id,) = our_rules(lab, did)
    stalled.clear()
    lab.await_rule(rule_id)
    eventually(lambda: mount.xattr("state", *did.split(":", 1)), lambda s: s == "AVAILABLE")
    assert end(start("cat", path(mount, did))) == (0, lab.content(did), "")
    assert our_rules(lab, did) == [rule_id]


def test_no_more_opens_wait_than_may(
    start: Start, lab: RuleLab, scope: str, mounter: Mounter, stalled: FtsControl
) -> None:
    mount = mounter(**REPLICATE, opening__max_waiting=2)
    dids = lab.files(scope, count=3, prefix="queue")
    clients = [start("cat", path(mount, did)) for did in dids[:2]]
    eventually(lambda: waiting(mount), lambda count: count == 2)
    assert "Resource temporarily unavailable" in end(start("cat", path(mount, dids[2])))[2]
    eventually(lambda: our_rules(lab, dids[2]), bool)
    stalled.clear()
    assert [end(client)[0] for client in clients] == [0, 0]


def test_everything_else_goes_on_while_opens_wait(
    start: Start, lab: RuleLab, scope: str, mount: Mount, stalled: FtsControl
) -> None:
    dids = lab.files(scope, count=30, prefix="meanwhile")
    clients = [start("cat", path(mount, did)) for did in dids]
    eventually(lambda: waiting(mount), lambda count: count == 30)
    assert "exp0001_g.fits" in mount.ls("sky", "night-001")
    assert mount.stat(*dids[0].split(":", 1))["size"] == 1000
    assert mount.run("cat", mount.path / "sky/night-001/exp0001_g.fits").returncode == 0
    assert waiting(mount) == 30
    stalled.clear()
    assert {end(client)[0] for client in clients} == {0}


# --- who gets no rule ------------------------------------------------------------------------


def test_scanners_make_no_rules(
    start: Start, lab: RuleLab, scope: str, mount: Mount, tmp_path: Path
) -> None:
    (did,) = lab.files(scope, prefix="scanned")
    scanner = tmp_path / "updatedb"
    shutil.copy(shutil.which("cat") or "/bin/cat", scanner)
    assert "Resource temporarily unavailable" in end(start(scanner, path(mount, did)))[2]
    assert our_rules(lab, did) == []
    assert end(start("cat", path(mount, did))) == (0, lab.content(did), "")
    assert end(start(scanner, path(mount, did))) == (0, lab.content(did), "")


def test_opens_beyond_a_rate_make_no_rules(
    start: Start, lab: RuleLab, scope: str, mounter: Mounter
) -> None:
    mount = mounter(**REPLICATE, scanners__rate=2)
    dids = lab.files(scope, count=3, prefix="pace")
    assert [end(start("cat", path(mount, did)))[0] for did in dids] == [0, 0, 1]
    assert our_rules(lab, dids[2]) == []
    done = mount.run("setfattr", "-n", "user.rucio.request", "-v", "1", path(mount, dids[2]))
    assert (done.returncode, done.stderr) == (0, "")
    lab.await_rule(our_rules(lab, dids[2])[0])


def test_the_policy_stream_makes_no_rules(
    start: Start, lab: RuleLab, scope: str, mounter: Mounter
) -> None:
    mount = mounter(policy="stream")
    (did,) = lab.files(scope, prefix="stream")
    assert end(start("cat", path(mount, did))) == (0, lab.content(did), "")
    assert our_rules(lab, did) == []
    assert mount.run("ls", mount.path / ".rucio/transfers").returncode != 0


# --- rules that exist ------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["another account", "an expression", "its dataset"])
def test_a_rule_that_exists_is_used(
    start: Start, lab: RuleLab, scope: str, mount: Mount, stalled: FtsControl, which: str
) -> None:
    name = which.replace(" ", "-")
    (did,) = lab.files(scope, prefix=name, dataset=f"d-{name}")
    if which == "another account":
        rule_id = lab.add_rule(did, account="bob")
    elif which == "an expression":
        # Rucio draws lots between the two: of twenty files, one at least comes to COLO.
        dids = lab.files(scope, count=20, prefix="drawn")
        rule_ids = lab.add_rules(dids, "COLO|COLO_SCRATCHDISK", account=lab.account)
        did, rule_id = next(
            pair for pair in zip(dids, rule_ids, strict=True) if lab.states(pair[0])
        )
    else:
        rule_id = lab.add_rule(f"{scope}:d-{name}")
    client = start("cat", path(mount, did))
    eventually(lambda: mount.xattr("rule_id", *did.split(":", 1)), lambda seen: seen == rule_id)
    stalled.clear()
    assert end(client) == (0, lab.content(did), "")
    made = [rule["id"] for rule in lab.rules(did) if rule["id"] != rule_id]
    assert made == []


def test_many_opens_of_a_dataset_become_a_rule_on_it(
    start: Start, lab: RuleLab, scope: str, mounter: Mounter
) -> None:
    mount = mounter(**REPLICATE, rule_grouping=3)
    dids = lab.files(scope, count=6, prefix="grouped", dataset="grouped")
    for did in dids:
        found = mount.path / scope / "grouped" / did.partition(":")[2]
        assert end(start("cat", found)) == (0, lab.content(did), "")
    assert len(our_rules(lab, f"{scope}:grouped")) == 1
    assert [len(our_rules(lab, did)) for did in dids] == [1, 1, 0, 0, 0, 0]


# --- outages and restarts --------------------------------------------------------------------


def test_waits_outlast_an_outage_of_rucio(
    start: Start, lab: RuleLab, scope: str, lake: Lake, stalled: FtsControl
) -> None:
    dids = lab.files(scope, count=20, prefix="outage")
    with FaultyMount(lake, {**REPLICATE, "rucio.timeout": 10, "rucio.deadline": 15}) as rig:
        clients = [start("cat", path(rig.mount, did)) for did in dids]
        eventually(lambda: waiting(rig.mount), lambda count: count == 20)
        eventually(lambda: len(copying(lab, dids)), lambda count: count == 20)
        since = len(rig.mount.log_text())
        outage = rig.proxy.add(Fault(Refuse()))
        rig.mount.wait_for_log("cannot be looked at", since)
        stalled.clear()
        for did in dids:
            lab.await_rule(our_rules(lab, did)[0])
        assert all(client.poll() is None for client in clients)
        outage.remove()
        for did, client in zip(dids, clients, strict=True):
            assert end(client) == (0, lab.content(did), "")


def test_a_mount_that_was_killed_uses_the_same_rules_again(
    start: Start, lab: RuleLab, scope: str, lake: Lake, mounter: Mounter, stalled: FtsControl
) -> None:
    dids = lab.files(scope, count=10, prefix="killed")
    first = Mount(lake.client_config(), {"site": "HERE", "rse": "COLO", **REPLICATE})
    try:
        clients = [start("cat", path(first, did)) for did in dids]
        eventually(lambda: [len(our_rules(lab, did)) for did in dids], lambda n: n == [1] * 10)
        first.process.kill()
        first.process.wait(DEADLINE)
        assert all(end(client)[0] == 1 for client in clients)
    finally:
        first.close()
        first.remove()
    rules = [our_rules(lab, did) for did in dids]
    second = mounter(**REPLICATE)
    clients = [start("cat", path(second, did)) for did in dids]
    eventually(lambda: waiting(second), lambda count: count == 10)
    stalled.clear()
    for did, client in zip(dids, clients, strict=True):
        assert end(client) == (0, lab.content(did), "")
    assert [our_rules(lab, did) for did in dids] == rules


def test_sigterm_does_not_wait_for_those_who_wait(
    start: Start, lab: RuleLab, scope: str, mounter: Mounter, stalled: FtsControl
) -> None:
    mount = mounter(**REPLICATE, expect_warnings=True)
    (did,) = lab.files(scope, prefix="sigterm")
    client = start("cat", path(mount, did))
    eventually(lambda: our_rules(lab, did), bool)
    mount.signal(signal.SIGTERM)
    assert mount.process.wait(DEADLINE) == 0
    assert "Remote I/O error" in end(client)[2]
    assert len(our_rules(lab, did)) == 1
