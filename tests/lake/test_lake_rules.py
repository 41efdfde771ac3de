"""What tests of rules lean on: `RuleLab` makes files and rules of every state on the lake."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from lake import Lake, LakeError
from lake.fts.client import FtsControl
from lake.rses import hash_path
from tests.lake.rest import eventually
from tests.lake.rules import RefusalError, RuleLab

pytestmark = pytest.mark.lake


@pytest.fixture(scope="module")
def own_lake() -> Iterator[Lake]:
    lake = Lake.up(free_ports=True, samples=False)
    yield lake
    lake.down()


@pytest.fixture(scope="module")
def lab(own_lake: Lake) -> Iterator[RuleLab]:
    session = RuleLab(own_lake)
    yield session
    session.close()


@pytest.fixture
def scope(lab: RuleLab) -> str:
    return lab.scope()


@pytest.fixture
def fts(own_lake: Lake) -> Iterator[FtsControl]:
    control = FtsControl(own_lake.fts_url)
    yield control
    control.clear()


@pytest.mark.parametrize("rse", ["REM1", "REM2"])
def test_files_lie_at_one_rse_and_come_over_whole(
    own_lake: Lake, lab: RuleLab, scope: str, rse: str
) -> None:
    dids = lab.files(scope, count=5, rse=rse, size=1234, dataset="some")
    assert lab.tally(f"{scope}:some", rse) == {"AVAILABLE": 5}
    assert lab.states(f"{scope}:some") == {}
    lab.await_rule(lab.add_rule(f"{scope}:some"))
    assert lab.states(f"{scope}:some") == dict.fromkeys(dids, "AVAILABLE")
    for did in dids:
        copied = (own_lake.store("COLO") / hash_path(*did.split(":", 1))).read_bytes()
        assert copied == lab.content(did)
        assert len(copied) == 1234


def test_contents_differ_and_are_known_to_another_lab(
    own_lake: Lake, lab: RuleLab, scope: str
) -> None:
    one, other = lab.files(scope, count=2)
    assert lab.content(one) != lab.content(other)
    stranger = RuleLab(own_lake, "alice")
    assert stranger.content(one) == lab.content(one)
    stranger.close()


def test_nested_deals_out_every_file(lab: RuleLab, scope: str) -> None:
    top = lab.nested(scope, containers=2, datasets=3, files=20)
    rows = lab.rows(f"/dids/{scope}/all/dids")
    assert [row["type"] for row in rows] == ["CONTAINER", "CONTAINER"]
    assert len(lab.rows(f"/dids/{scope}/all.1/dids")) == 3
    assert lab.tally(top, "REM1") == {"AVAILABLE": 20}


def test_a_thousand_files_are_one_dataset(lab: RuleLab, scope: str) -> None:
    dids = lab.files(scope, count=1000, dataset="many")
    assert len(lab.rows(f"/dids/{scope}/many/dids")) == len(set(dids)) == 1000


def test_a_deleted_rule_is_gone_and_its_file_after_it(lab: RuleLab, scope: str) -> None:
    (did,) = lab.files(scope)
    rule = lab.add_rule(did)
    lab.await_rule(rule)
    lab.delete_rule(rule)
    assert lab.rules(did) == []
    with pytest.raises(RefusalError, match="404 RuleNotFound"):
        lab.rule(rule)
    eventually(lambda: lab.states(did), lambda states: not states)


def test_rules_are_found_by_did_and_by_account(own_lake: Lake, lab: RuleLab, scope: str) -> None:
    one, other = lab.files(scope, count=2)
    rule = lab.add_rule(one, account="alice", lifetime=3600)
    lab.add_rule(other)
    assert [row["id"] for row in lab.rules(one)] == [rule]
    assert rule in {row["id"] for row in lab.rules_of_account("alice")}
    assert lab.rule(rule)["expires_at"] is not None
    lab.set_lifetime(rule, None)
    assert lab.rule(rule)["expires_at"] is None
    alice = RuleLab(own_lake, "alice")
    with pytest.raises(RefusalError, match="AccessDenied"):
        alice.add_rule(other, account="root")
    assert alice.rule(alice.add_rule(other))["account"] == "alice"
    alice.close()


def test_approved_rules_are_served_and_denied_ones_gone(lab: RuleLab, scope: str) -> None:
    wanted, unwanted = lab.files(scope, count=2)
    rules = [lab.add_rule(did, account="alice", ask_approval=True) for did in (wanted, unwanted)]
    assert {lab.rule(rule)["state"] for rule in rules} == {"WAITING_APPROVAL"}
    lab.approve(rules[0])
    lab.deny(rules[1], "too big")
    lab.await_rule(rules[0])
    assert lab.rules(unwanted) == []
    assert lab.states(unwanted) == {}


def test_a_stuck_rule_stays_so_until_boosted(lab: RuleLab, fts: FtsControl, scope: str) -> None:
    (did,) = lab.files(scope)
    fts.fail(scope, reason="TRANSFER [5] tape robot on strike")
    rule = lab.add_rule(did)
    assert "tape robot on strike" in lab.await_rule(rule, "STUCK")["error"]
    assert lab.states(did) == {did: "UNAVAILABLE"}
    lab.set_state(rule, "SUSPENDED")
    assert lab.rule(rule)["state"] == "SUSPENDED"
    fts.clear()
    lab.set_state(rule, "STUCK")
    lab.boost(rule)
    lab.await_rule(rule)


def test_lost_bytes_make_a_rule_stuck(lab: RuleLab, scope: str) -> None:
    (did,) = lab.files(scope)
    lab.lose(did, "REM1")
    assert "File not found" in lab.await_rule(lab.add_rule(did), "STUCK")["error"]


def test_a_quota_holds_for_the_block(lab: RuleLab, scope: str) -> None:
    (did,) = lab.files(scope, size=1000)
    with lab.quota("root", "COLO", 10), pytest.raises(RefusalError) as refused:
        lab.add_rule(did)
    assert (refused.value.status, refused.value.exception) == (409, "InsufficientAccountLimit")
    lab.await_rule(lab.add_rule(did))


def test_an_rse_closed_for_writing_takes_no_rule(lab: RuleLab, scope: str) -> None:
    (did,) = lab.files(scope)
    with lab.availability("COLO", write=False), pytest.raises(RefusalError, match=r"WriteBlocked"):
        lab.add_rule(did)
    lab.await_rule(lab.add_rule(did))


def test_an_rse_closed_for_reading_is_no_source(lab: RuleLab, scope: str) -> None:
    (did,) = lab.files(scope)
    with lab.availability("REM1", read=False):
        rule = lab.add_rule(did)
        assert "NO_SOURCES" in lab.await_rule(rule, "STUCK")["error"]
    lab.boost(rule)
    lab.await_rule(rule)


def test_an_expression_chooses_among_rses(lab: RuleLab, scope: str) -> None:
    (did,) = lab.files(scope, rse="REM1")
    rule = lab.add_rule(did, expression="site=HERE&COLO_SCRATCHDISK")
    lab.await_rule(rule)
    assert lab.states(did, "COLO_SCRATCHDISK") == {did: "AVAILABLE"}


def test_a_paused_daemon_leaves_its_work_undone(own_lake: Lake, lab: RuleLab, scope: str) -> None:
    (did,) = lab.files(scope)
    own_lake.pause_daemons("submitter", "cleaner")
    assert own_lake.paused_daemons() == ("submitter", "cleaner")
    try:
        waiting = lab.add_rule(did)
        own_lake.run_daemons()
        assert lab.rule(waiting)["state"] == "REPLICATING"
        assert lab.states(did) == {did: "COPYING"}
        own_lake.resume_daemons("submitter")
        assert own_lake.paused_daemons() == ("cleaner",)
        lab.await_rule(waiting)
        lab.set_lifetime(waiting, -1)
        own_lake.run_daemons()
        assert lab.rule(waiting)["state"] == "OK"
    finally:
        own_lake.resume_daemons()
    assert own_lake.paused_daemons() == ()
    own_lake.run_daemons()
    assert lab.rules(did) == []


def test_the_reaper_can_be_made_to_wait(own_lake: Lake, lab: RuleLab, scope: str) -> None:
    (did,) = lab.files(scope)
    rule = lab.add_rule(did)
    lab.await_rule(rule)
    own_lake.pause_daemons("reaper")
    try:
        lab.delete_rule(rule)
        own_lake.run_daemons()
        assert lab.states(did) == {did: "AVAILABLE"}
    finally:
        own_lake.resume_daemons()
    own_lake.run_daemons()
    assert lab.states(did) == {}


def test_an_unknown_daemon_is_refused_and_the_command_line_pauses(own_lake: Lake) -> None:
    with pytest.raises(LakeError, match="there is no daemon gardener; there are: undertaker"):
        own_lake.pause_daemons("gardener")
    command = [sys.executable, "-m", "lake", "daemons"]
    options = ["-d", str(own_lake.directory)]
    for arguments, said in (
        (["pause", "repairer", "reaper"], "paused: repairer, reaper\n"),
        (["resume", "reaper"], "paused: repairer\n"),
        (["resume"], "paused: none\n"),
    ):
        done = subprocess.run([*command, *arguments, *options], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert own_lake.paused_daemons() == ()


def test_traces_are_taken_and_told(own_lake: Lake, lab: RuleLab, scope: str) -> None:
    trace = {
        "eventType": "get",
        "eventVersion": "test 1.0",
        "localSite": "HERE",
        "remoteSite": "COLO",
        "uuid": "0123456789abcdef0123456789abcdef",
        "scope": scope,
        "filename": "file.dat",
        "dataset": "some",
        "clientState": "DONE",
    }
    answer = lab.answer("POST", "/traces/", trace)
    assert (answer.status_code, answer.text) == (201, "Created")
    (taken,) = [one for one in own_lake.traces() if one.get("scope") == scope]
    assert trace.items() <= taken.items()
    assert taken["traceIp"] == "127.0.0.1"
    assert "Problem validating" not in own_lake.trace_log.read_text()
    lab.call("POST", "/traces/", [{**trace, "filename": name} for name in ("a", "b")])
    names = [one["filename"] for one in own_lake.traces() if one.get("scope") == scope]
    assert names == ["file.dat", "a", "b"]
    del trace["uuid"]
    lab.call("POST", "/traces/", trace)  # Rucio takes it, and complains in its log
    assert "'uuid' is a required property" in own_lake.trace_log.read_text()
