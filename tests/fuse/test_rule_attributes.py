"""What the attributes and the files of `.rucio` tell of rules, and how data is asked for by them.

Looking makes no rule.  What is looked at is true of now.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from lake import Lake
from lake.fts.client import FtsControl
from tests.conftest import Mounter
from tests.fuse.clients import eventually
from tests.fuse.rules import OPENED, Bringer, BringerMaker
from tests.lake.rules import RuleLab
from tests.mounting import DEADLINE, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]
pytest_plugins = ["tests.fuse.rule_fixtures"]

NUL = "\0"


def name(did: str) -> str:
    return did.partition(":")[2]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def end_of(rule: dict[str, Any]) -> datetime:
    return parsedate_to_datetime(rule["expires_at"].replace("UTC", "GMT"))


def state_becomes(site: Bringer, did: str, state: str) -> None:
    eventually(lambda: site.xattr("state", did), lambda seen: seen == state)


# --- through the life of a rule ------------------------------------------------------------------


def test_the_attributes_through_the_life_of_a_rule(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer()
    fts.stall(name(did))
    assert site.xattr("state", did) == "NOT_AVAILABLE"
    assert site.xattr("locality", did) == "REMOTE"
    for attribute in ("rule_id", "rule_url", "expires_at", "eta", "error", "source", "local_path"):
        assert site.xattr(attribute, did) is None, attribute
    before = site.progress(did)
    assert (before["state"], before["rule_id"], before["files_here"]) == ("NOT_AVAILABLE", None, 0)
    assert lab.rules(did) == []

    with site.waiting(did) as opening:
        rule = lab.rule(site.rule_id(did))
        state_becomes(site, did, "REPLICATING")
        assert site.xattr("rule_id", did) == rule["id"]
        assert site.xattr("rule_url", did) == f"{lake.rucio_url}/rules/{rule['id']}"
        ends = eventually(lambda: site.xattr("expires_at", did), bool)
        assert ends is not None
        assert moment(ends) == end_of(rule)
        assert site.xattr("locality", did) == "REMOTE"
        assert site.xattr("error", did) is None
        during = site.progress(did)
        assert during["did"] == did
        assert during["type"] == "FILE"
        assert during["state"] == "REPLICATING"
        assert during["rule_id"] == rule["id"]
        assert moment(during["expires_at"]) == end_of(rule)
        assert moment(during["since"]) <= datetime.now(UTC)
        assert (during["files"], during["files_here"], during["files_stuck"]) == (1, 0, 0)
        assert (during["bytes"], during["bytes_here"]) == (1000, 0)
        assert during["error"] is None
        fts.release()
        assert opening.outcome() == OPENED

    assert site.xattr("state", did) == "AVAILABLE"
    assert site.xattr("rule_id", did) == rule["id"]
    assert site.xattr("locality", did) == "LOCAL"
    assert site.xattr("source", did) == "COLO"
    ends = site.xattr("expires_at", did)
    assert ends is not None
    assert moment(ends) == end_of(rule)
    for attribute in ("eta", "error"):
        assert site.xattr(attribute, did) is None, attribute
    after = site.progress(did)
    assert (after["state"], after["files_here"], after["bytes_here"]) == ("AVAILABLE", 1, 1000)


def test_the_address_of_a_rule_as_configured(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer(rules__url="https://rucio.example.org/ui/rule?rule_id={rule_id}")
    site.must_open(did)
    rule_id = site.rule_id(did)
    assert site.xattr("rule_url", did) == f"https://rucio.example.org/ui/rule?rule_id={rule_id}"


def test_the_rule_of_somebody_else(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    """It is told of as ours would be."""
    rule_id = lab.add_rule(did, account="bob", lifetime=3600)
    lab.await_rule(rule_id)
    site = bringer()
    assert site.xattr("state", did) == "AVAILABLE"
    assert site.xattr("rule_id", did) == rule_id
    ends = site.xattr("expires_at", did)
    assert ends is not None
    assert moment(ends) == end_of(lab.rule(rule_id))


def test_an_estimate_once_others_have_come(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, scope: str
) -> None:
    first, second = lab.files(scope, count=2, prefix="eta")
    site = bringer()
    fts.delay(4, name(first))
    with site.waiting(first) as opening:
        assert site.xattr("eta", first) is None
        assert opening.outcome() == OPENED
    fts.stall(name(second))
    with site.waiting(second) as opening:
        eta = site.xattr("eta", second)
        assert eta is not None
        assert 0 < float(eta) <= DEADLINE
        assert site.progress(second)["eta"] is not None
        # Longer than the others took: nobody knows.
        eventually(lambda: site.xattr("eta", second), lambda seen: seen is None)
        fts.release()
        assert opening.outcome() == OPENED


# --- collections ---------------------------------------------------------------------------------


def test_a_dataset_on_its_way(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, scope: str
) -> None:
    files = lab.files(scope, count=4, prefix="part", dataset="parts")
    lab.replicas(files[:1], "COLO")
    did = f"{scope}:parts"
    site = bringer()
    assert site.xattr("state", did) == "NOT_AVAILABLE"
    assert site.xattr("rule_id", did) is None
    fts.stall(name(files[3]))
    assert site.set_xattr("request", did) is None
    rule_id = site.rule_id(did)
    assert site.xattr("rule_id", did) == rule_id
    assert site.xattr("state", did) == "REPLICATING"
    seen = eventually(lambda: site.progress(did), lambda facts: facts["files_here"] == 3)
    assert seen["type"] == "DATASET"
    assert (seen["files"], seen["bytes"], seen["bytes_here"]) == (4, 4000, 3000)
    assert seen["state"] == "REPLICATING"
    # A member is on its way with its dataset.
    assert site.xattr("state", files[3]) == "REPLICATING"
    assert site.xattr("rule_id", files[3]) == rule_id
    fts.release()
    state_becomes(site, did, "AVAILABLE")
    assert site.progress(did)["bytes_here"] == 4000
    site.must_open(files[3])
    assert len(lab.rules(files[3])) == 0


def test_a_dataset_with_a_file_that_fails(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, scope: str
) -> None:
    files = lab.files(scope, count=3, prefix="broken", dataset="broken")
    did = f"{scope}:broken"
    site = bringer()
    fts.fail(name(files[1]), reason="SOURCE [5] Input/output error")
    assert site.set_xattr("request", did) is None
    state_becomes(site, did, "STUCK")
    rule_id = site.rule_id(did)
    site.told(did, "STUCK", [rule_id, files[1], "Input/output error"], event="stuck")
    facts = eventually(
        lambda: site.progress(did),
        lambda facts: (facts["files_here"], facts["files_stuck"]) == (2, 1),
    )
    assert facts["error"] == site.xattr("error", did)
    site.must_open(files[0])
    assert site.open(files[1]) == "EIO"
    fts.clear()
    lab.boost(rule_id)
    site.eventually_opens(files[1])
    state_becomes(site, did, "AVAILABLE")


def test_a_container_on_its_way(bringer: BringerMaker, lab: RuleLab, scope: str) -> None:
    did = lab.nested(scope, files=16, top="nest")
    # Once more in another dataset: it counts once.
    lab.attach(f"{scope}:nest.0.0", f"{scope}:nest-00001.dat")
    site = bringer()
    assert site.set_xattr("request", did) is None
    seen = eventually(lambda: site.progress(did), lambda facts: facts["state"] == "AVAILABLE")
    assert seen["type"] == "CONTAINER"
    assert (seen["files"], seen["files_here"]) == (16, 16)
    assert (seen["bytes"], seen["bytes_here"]) == (16_000, 16_000)
    assert site.xattr("state", did) == "AVAILABLE"


# --- asking and giving back ----------------------------------------------------------------------


def test_a_request_returns_when_the_rule_is_there(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer()
    fts.stall(name(did))
    assert site.set_xattr("request", did) is None
    rule_id = site.rule_id(did)
    assert site.set_xattr("request", did) is None
    assert site.rule_id(did) == rule_id
    fts.release()
    state_becomes(site, did, "AVAILABLE")
    assert site.open(did, os.O_NONBLOCK) == OPENED
    assert site.set_xattr("request", did) is None
    assert site.rule_id(did) == rule_id


def test_a_request_with_a_lifetime(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer(rule_lifetime=600)
    assert site.set_xattr("request", did, '{"lifetime": 3600}') is None
    rule_id = site.rule_id(did)
    assert _minutes_left(lab, rule_id) == pytest.approx(60, abs=2)
    lab.await_rule(rule_id)
    assert site.set_xattr("request", did, '{"lifetime": 7200}') is None
    assert _minutes_left(lab, rule_id) == pytest.approx(120, abs=2)
    ends = site.xattr("expires_at", did)
    assert ends is not None
    assert moment(ends) == end_of(lab.rule(rule_id))
    # Never shorter than somebody else has asked for.
    assert site.set_xattr("request", did, '{"lifetime": 60}') is None
    assert site.set_xattr("request", did) is None
    assert _minutes_left(lab, rule_id) == pytest.approx(120, abs=2)
    assert site.rule_id(did) == rule_id


def test_a_request_with_a_lifetime_for_what_is_here(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    lab.replicas([did], "COLO")
    site = bringer()
    assert site.set_xattr("request", did) is None
    assert lab.rules(did) == []
    assert site.set_xattr("request", did, '{"lifetime": 3600}') is None
    assert _minutes_left(lab, site.rule_id(did)) == pytest.approx(60, abs=2)


def _minutes_left(lab: RuleLab, rule_id: str) -> float:
    return (end_of(lab.rule(rule_id)) - datetime.now(UTC)) / timedelta(minutes=1)


@pytest.mark.parametrize(
    "value",
    [
        "yes", "{", "2", "[]", "null", '{"life": 1}', '{"lifetime": "x"}', '{"lifetime": 0}',
        '{"lifetime": -5}', '{"lifetime": true}', '{"lifetime": NaN}', '{"lifetime": Infinity}',
        '{"lifetime": 1e400}', '{"lifetime": 1e30}', '{"lifetime": [1]}',
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_understood(
    value_mount: Bringer, lab: RuleLab, scope: str, value: str
) -> None:
    did = f"{scope}:value-00000.dat"
    assert value_mount.set_xattr("request", did, value) == "EINVAL"
    assert lab.rules(did) == []
    assert "bug" not in value_mount.mount.log_text()


@pytest.fixture(scope="module")
def value_mount(module_mounter: Mounter, lab: RuleLab, scope: str) -> Bringer:
    lab.files(scope, prefix="value")
    return Bringer(module_mounter(expect_warnings=True, policy="replicate"), lab)


@pytest.mark.parametrize("where", ["", "README.txt", ".rucio", ".rucio/status", "SCOPE"])
@pytest.mark.parametrize("attribute", ["request", "release"])
def test_a_request_for_what_is_no_did(
    value_mount: Bringer, scope: str, where: str, attribute: str
) -> None:
    found = value_mount.mount.python(
        "os.setxattr(os.path.join(ROOT, ARGS[0]), 'user.rucio.' + ARGS[1], b'1')\nshow(None)",
        scope if where == "SCOPE" else where,
        attribute,
    )
    assert found == {"errno": "ENOTSUP"}


def test_a_request_that_rucio_refuses(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer()
    with lab.quota("root", "COLO", 100):
        assert site.set_xattr("request", did) == "EDQUOT"
        site.told(did, "NOT_AVAILABLE", ["COLO", "quota"])
    assert site.set_xattr("request", did) is None
    state_becomes(site, did, "AVAILABLE")
    assert site.xattr("error", did) is None


def test_a_release_removes_what_rucio_fs_has_made_and_nothing_else(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    by_hand = [lab.add_rule(did, account="bob"), lab.add_rule(did, "COLO_SCRATCHDISK")]
    lab.await_rule(by_hand[0])
    site = bringer()
    assert site.set_xattr("release", did) == "ENODATA"
    assert site.set_xattr("request", did, '{"lifetime": 3600}') is None
    (ours,) = site.our_rules(did)
    assert site.set_xattr("release", did) is None
    eventually(lambda: {rule["id"] for rule in lab.rules(did)}, lambda ids: ids == set(by_hand))
    assert "released" in site.names_of_events(did)
    assert site.set_xattr("release", did) == "ENODATA"
    assert site.xattr("rule_id", did) == by_hand[0]
    assert ours["id"] not in by_hand


def test_a_release_while_an_open_waits(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer()
    fts.stall(name(did))
    with site.waiting(did) as opening:
        assert site.set_xattr("release", did) is None
        assert opening.outcome() == "ECANCELED"
    eventually(lambda: lab.rules(did), lambda rules: not rules)
    fts.clear()
    site.must_open(did)


def test_a_release_that_only_administrators_may_do(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    site = bringer(config=lake.client_config("alice"))
    site.must_open(did)
    assert site.set_xattr("release", did) == "EACCES"
    assert len(lab.rules(did)) == 1


# --- `.rucio` ------------------------------------------------------------------------------------


def test_who_waits_for_what(bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str) -> None:
    site = bringer()
    assert json.loads(site.control("transfers")) == []
    fts.stall(name(did))
    began = datetime.now(UTC)
    with site.waiting(did) as first, site.opening(did) as second:
        seen = eventually(lambda: site.transfer(did), lambda one: one and one["waiting"] == 2)
        assert seen is not None
        assert seen["uids"] == [os.getuid()]
        assert abs(moment(seen["since"]) - began) < timedelta(seconds=DEADLINE)
        assert (seen["state"], seen["files"], seen["files_here"]) == ("REPLICATING", 1, 0)
        assert seen["rule_id"] == site.rule_id(did)
        assert site.mount.status()["opening"]["waiting"] == 2
        fts.release()
        assert [first.outcome(), second.outcome()] == [OPENED, OPENED]
    assert json.loads(site.control("transfers")) == []
    assert site.mount.status()["opening"]["waiting"] == 0


def test_events_followed_by_tail(bringer: BringerMaker, did: str) -> None:
    site = bringer()
    events = site.mount.path / ".rucio" / "events"
    with subprocess.Popen(
        ["tail", "-n", "+1", "-s", "0.1", "-f", str(events)],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
        cwd="/",
    ) as tail:
        try:
            site.must_open(did)
            assert tail.stdout is not None
            lines = [json.loads(tail.stdout.readline()) for _ in range(2)]
        finally:
            tail.terminate()
    assert [line["event"] for line in lines] == ["requested", "available"]
    assert {line["did"] for line in lines} == {did}
    assert {line["rule_id"] for line in lines} == {site.rule_id(did)}
    assert moment(lines[0]["time"]) < moment(lines[1]["time"])


# --- looking -------------------------------------------------------------------------------------


def test_looking_at_everything_makes_no_rule(
    bringer: BringerMaker, lab: RuleLab, scope: str
) -> None:
    files = lab.files(scope, count=5, prefix="looked-at", dataset="looked-at")
    lab.add_collection(f"{scope}:looked", [f"{scope}:looked-at"], is_container=True)
    site = bringer()
    top = site.mount.path / scope / "looked"
    done = site.mount.run("getfattr", "-d", "-R", "-m", "-", top)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('user.rucio.state="NOT_AVAILABLE"') == 7
    assert "errno" not in done.stderr
    for command in (["ls", "-laR"], ["find"], ["du", "-a"], ["stat"], ["getfattr", "-R"]):
        assert site.mount.run(*command, top).returncode == 0
    for did in (f"{scope}:looked", f"{scope}:looked-at", *files):
        assert lab.rules(did) == []
    assert site.control("events") == ""


def test_a_mount_without_attributes_brings_files_all_the_same(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    site = bringer(xattrs=False)
    path = site.path(did)
    found = site.mount.python("show(os.getxattr(ARGS[0], 'user.rucio.state').decode())", path)
    assert found == {"errno": "ENOTSUP"}
    found = site.mount.python("os.setxattr(ARGS[0], 'user.rucio.request', b'1')", path)
    assert found == {"errno": "ENOTSUP"}
    assert lab.rules(did) == []
    site.must_open(did)
    assert site.names_of_events(did) == ["requested", "available"]


def test_a_mount_that_makes_no_rules(mounter: Mounter, lab: RuleLab, did: str) -> None:
    """With policy=stream there are no attributes of rules, and no list of transfers."""
    site = Bringer(mounter(), lab)
    assert site.xattr("state", did) == "NOT_AVAILABLE"
    assert site.set_xattr("request", did) == "ENOTSUP"
    assert site.mount.ls(".rucio") == ["cache", "events", "problems", "refresh", "status"]
    assert site.xattr("rule_id", did) is None
