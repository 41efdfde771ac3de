"""Everything that goes wrong with a rule, as a user sees it: errno, words, and how it goes on.

Whatever the cause, once it is gone the next open succeeds, with no restart and nothing to clean up.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lake import Lake
from lake.faults import Action, Cut, Fault, Refuse, Status, Timeout
from lake.fts.client import FtsControl
from lake.rses import hash_path
from tests.faulty import FaultyMount
from tests.fuse.clients import eventually
from tests.fuse.rules import OPENED, Bringer, BringerMaker
from tests.lake.rest import did_key
from tests.lake.rules import RuleLab
from tests.mounting import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]
pytest_plugins = ["tests.fuse.rule_fixtures"]


def name(did: str) -> str:
    return did.partition(":")[2]


# --- Rucio makes no rule -------------------------------------------------------------------------


def test_a_quota_that_is_too_small(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer()
    with lab.quota("root", "COLO", 100):
        assert site.open(did) == "EDQUOT"
        site.told(did, "NOT_AVAILABLE", ["COLO", "quota", "root"])
        assert lab.rules(did) == []
        assert site.open(did, os.O_NONBLOCK) in ("EAGAIN", "EDQUOT")
    site.must_open(did)
    assert site.xattr("error", did) is None


def test_a_quota_counts_for_each_file_alone(
    bringer: BringerMaker, lab: RuleLab, scope: str
) -> None:
    """Files asked for in the same moment: those that fit come, the one that does not says so."""
    small = lab.files(scope, count=3, prefix="fits", size=10)
    (large,) = lab.files(scope, prefix="large", size=3_000_000)
    site = bringer()
    with lab.quota("root", "COLO", 1_000_000 + used_bytes(lab)):
        openings = [site.opening(one) for one in [*small, large]]
        assert [one.outcome() for one in openings] == [OPENED] * 3 + ["EDQUOT"]
    site.told(large, "NOT_AVAILABLE", ["quota"])


def used_bytes(lab: RuleLab) -> int:
    (row,) = lab.rows("/accounts/root/usage/local/COLO")
    return int(row["bytes"])


def test_an_account_that_may_not_make_rules_for_another(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    site = bringer(config=lake.client_config("alice"), rules__account="root")
    assert site.open(did) == "EACCES"
    site.told(did, "NOT_AVAILABLE", ["alice", "COLO"])
    assert lab.rules(did) == []
    with administrator(lab, "alice"):
        site.eventually_opens(did)
    (rule,) = lab.rules(did)
    assert rule["account"] == "root"


@contextmanager
def administrator(lab: RuleLab, account: str) -> Iterator[None]:
    lab.call("POST", f"/accounts/{account}/attr/admin", {"key": "admin", "value": "true"})
    try:
        yield
    finally:
        lab.call("DELETE", f"/accounts/{account}/attr/admin")


def test_an_ordinary_account_brings_files(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    site = bringer(config=lake.client_config("alice"))
    site.must_open(did)
    (rule,) = lab.rules(did)
    assert rule["account"] == "alice"
    assert site.xattr("rule_id", did) == rule["id"]


def test_an_account_that_rucio_does_not_know(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer(rules__account="nobody")
    assert site.open(did) == "EACCES"
    site.told(did, "NOT_AVAILABLE", ["nobody"])


def test_an_rse_that_is_blocked_for_writing(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer()
    with lab.availability("COLO", write=False):
        assert site.open(did) == "ENOSPC"
        site.told(did, "NOT_AVAILABLE", ["COLO", "not available for writing"])
        assert lab.rules(did) == []
    site.must_open(did)


def test_an_rse_that_does_not_exist(lake: Lake) -> None:
    """Nobody has to open a file to find that out: there is no mount."""
    options = {"site": "HERE", "rse": "COLO", "policy": "replicate"}
    with pytest.raises(AssertionError, match="rse_expression = 'country=utopia'"):
        Mount(lake.client_config(), {**options, "rules.rse_expression": "country=utopia"})


# --- transfers that fail -------------------------------------------------------------------------


def test_transfers_that_fail_for_good(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer()
    fts.fail(name(did), reason="DESTINATION [28] No space left on device")
    assert site.open(did) == "EIO"
    rule_id = site.rule_id(did)
    site.told(
        did,
        "STUCK",
        [rule_id, "STUCK", "DESTINATION [28] No space left on device", "REM1", "4 times"],
        event="stuck",
    )
    assert site.progress(did)["files_stuck"] == 1
    fts.clear()
    site.eventually_opens(did)
    assert "boosted" in site.names_of_events(did)
    assert site.rule_id(did) == rule_id
    assert site.xattr("error", did) is None
    assert site.xattr("state", did) == "AVAILABLE"


def test_a_stuck_rule_of_who_may_not_hurry_rucio(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    """Only administrators may have a rule tried again at once; for others Rucio's time comes."""
    site = bringer(config=lake.client_config("alice"))
    fts.fail(name(did))
    assert site.open(did) == "EIO"
    rule_id = site.rule_id(did)
    assert site.open(did) == "EIO"
    site.told(did, "STUCK", [rule_id, "injected failure"], event="stuck")
    fts.clear()
    assert "boosted" not in site.names_of_events(did)
    lab.boost(rule_id)
    site.eventually_opens(did)
    assert site.rule_id(did) == rule_id


def test_a_stuck_rule_found_by_another_mount(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    """The rule was stuck before this mount began: it is told of, not made again."""
    fts.fail(name(did))
    rule_id = lab.add_rule(did)
    lab.await_rule(rule_id, "STUCK")
    site = bringer()
    assert site.open(did) == "EIO"
    site.told(did, "STUCK", [rule_id, "injected failure"], event="stuck")
    assert site.rule_id(did) == rule_id


def test_bytes_spoiled_once_on_the_way_come_right(
    bringer: BringerMaker, fts: FtsControl, did: str
) -> None:
    site = bringer()
    fts.corrupt(name(did), times=1)
    site.must_open(did)


def test_bytes_always_spoiled_on_the_way(bringer: BringerMaker, fts: FtsControl, did: str) -> None:
    site = bringer()
    fts.corrupt(name(did))
    assert site.open(did) == "EIO"
    site.told(did, "STUCK", [site.rule_id(did), "CHECKSUM MISMATCH"], event="stuck")
    fts.clear()
    site.eventually_opens(did)


def test_a_transfer_that_takes_longer_than_the_wait(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer(open_wait=2)
    fts.stall(name(did))
    assert site.open(did) == "EAGAIN"
    eventually(lambda: lab.rules(did), bool)
    fts.wait_stalled()
    rule_id = site.rule_id(did)
    assert site.xattr("state", did) == "REPLICATING"
    assert site.xattr("rule_id", did) == rule_id
    assert site.open(did) == "EAGAIN"
    assert f"{did} is not here after 2 s: REPLICATING, rule {rule_id}" in site.mount.log_text()
    assert site.problems(did) == []
    fts.clear()
    site.eventually_opens(did)
    assert site.rule_id(did) == rule_id


def test_a_later_open_joins_the_rule_of_one_that_gave_up(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer()
    fts.stall(name(did))
    assert site.open(did, os.O_NONBLOCK) == "EAGAIN"
    fts.wait_stalled()
    with site.waiting(did) as opening:
        rule_id = site.rule_id(did)
        fts.release()
        assert opening.outcome() == OPENED
    assert site.rule_id(did) == rule_id
    assert site.names_of_events(did).count("requested") == 1


def test_an_fts_that_is_down() -> None:
    """The submission fails four times, then the rule is stuck; with the FTS back it goes on."""
    lake = Lake.up(free_ports=True, samples=False)
    replacement: subprocess.Popen[bytes] | None = None
    try:
        lab = RuleLab(lake)
        (did,) = lab.files(lab.scope())
        options = {"site": "HERE", "rse": "COLO", "policy": "replicate"}
        mount = Mount(lake.client_config(), options)
        try:
            site = Bringer(mount, lab)
            (server,) = [server for server, _ in lake.servers() if server.name == "fts"]
            again = _command(server.pid)
            os.kill(server.pid, signal.SIGKILL)
            assert site.open(did) == "EIO"
            site.told(did, "STUCK", [site.rule_id(did), "SUBMISSION"], event="stuck")
            replacement = again()
            eventually(lambda: _answers(lake), bool)
            site.eventually_opens(did)
            assert "Traceback" not in mount.log_text()
        finally:
            assert mount.close() == 0
            mount.remove()
        lab.close()
    finally:
        if replacement is not None:
            replacement.kill()
            replacement.wait()
        lake.down()


def _answers(lake: Lake) -> bool:
    try:
        FtsControl(lake.fts_url).log()
    except OSError:
        return False
    return True


def _command(pid: int) -> Callable[[], subprocess.Popen[bytes]]:
    """How to start the process *pid* once more."""
    process = Path("/proc", str(pid))
    command = process.joinpath("cmdline").read_bytes().split(b"\0")[:-1]
    pairs = process.joinpath("environ").read_bytes().split(b"\0")[:-1]
    environment = dict(pair.split(b"=", 1) for pair in pairs)
    directory = process.joinpath("cwd").readlink()
    return lambda: subprocess.Popen(command, env=environment, cwd=directory)


# --- rules that somebody stops -------------------------------------------------------------------


def test_a_rule_that_an_operator_suspends(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer()
    fts.stall(name(did))
    with site.waiting(did) as opening:
        rule_id = site.rule_id(did)
        fts.wait_stalled()
        lab.set_state(rule_id, "SUSPENDED", cancel_requests=True)
        assert opening.outcome() == "EIO"
    site.told(did, "SUSPENDED", [rule_id, "SUSPENDED", "operators"], event="suspended")
    assert site.open(did) == "EIO"
    fts.clear()
    lab.set_state(rule_id, "STUCK")
    lab.boost(rule_id)
    site.eventually_opens(did)
    assert site.rule_id(did) == rule_id


def test_a_suspended_rule_whose_transfer_goes_on(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    """Rucio lets a transfer end that is on its way: the wait goes on, and the file comes."""
    site = bringer()
    fts.stall(name(did))
    with site.waiting(did) as opening:
        fts.wait_stalled()
        lab.set_state(site.rule_id(did), "SUSPENDED")
        eventually(lambda: site.xattr("state", did), lambda state: state == "SUSPENDED")
        assert not opening.is_over
        fts.release()
        assert opening.outcome() == OPENED
    assert lab.rules(did)[0]["state"] == "SUSPENDED"
    assert site.xattr("state", did) == "AVAILABLE"
    assert site.xattr("error", did) is None


def test_a_rule_that_waits_for_approval(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer(rules__ask_approval=True)
    assert site.open(did) == "EAGAIN"
    rule_id = site.rule_id(did)
    site.told(did, "WAITING_APPROVAL", [rule_id, "COLO"], event="waiting_approval")
    assert site.open(did) == "EAGAIN"
    lab.approve(rule_id)
    site.eventually_opens(did)
    assert site.rule_id(did) == rule_id
    assert site.xattr("error", did) is None


def test_a_rule_that_is_denied(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer(rules__ask_approval=True)
    assert site.open(did) == "EAGAIN"
    denied = site.rule_id(did)
    site.told(did, "WAITING_APPROVAL", [denied], event="waiting_approval")
    lab.deny(denied, "not this one")
    site.told(did, "NOT_AVAILABLE", [denied, "denied"])
    assert site.open(did) == "EAGAIN"
    second = site.rule_id(did)
    assert second != denied
    lab.approve(second)
    site.eventually_opens(did)


def test_a_rule_deleted_while_an_open_waits(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer()
    fts.stall(name(did))
    with site.waiting(did) as opening:
        rule_id = site.rule_id(did)
        # Not while it is read: an end that Rucio still tells of looks like an expiry.
        read = eventually(lambda: site.xattr("expires_at", did), bool)
        assert read
        lab.delete_rule(rule_id)
        assert opening.outcome() == "ECANCELED"
    site.told(did, "NOT_AVAILABLE", [rule_id, "deleted"])
    fts.clear()
    site.must_open(did)
    assert site.rule_id(did) != rule_id


def test_a_rule_deleted_while_nobody_waits(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    """The rule is made anew, also if nobody has noticed yet."""
    site = bringer()
    fts.stall(name(did))
    assert site.open(did, os.O_NONBLOCK) == "EAGAIN"
    rule_id = eventually(lambda: site.xattr("rule_id", did), bool)
    assert rule_id is not None
    fts.wait_stalled()
    lab.delete_rule(rule_id)
    fts.clear()
    # Rucio makes no rule while it deletes the replica that the old one has left.
    site.must_open(did)
    assert site.rule_id(did) != rule_id


def test_a_rule_that_ends_while_an_open_waits(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    """alice may not extend it."""
    site = bringer(config=lake.client_config("alice"), rule_lifetime=8)
    fts.stall(name(did))
    with site.waiting(did) as opening:
        rule_id = site.rule_id(did)
        # It lives 8 s, and then waits for Rucio's cleaner.
        assert opening.outcome(patience=90) == "ETIME"
    site.told(did, "NOT_AVAILABLE", [rule_id, "expired"])
    fts.clear()
    site.eventually_opens(did)
    assert site.rule_id(did) != rule_id


# --- nothing to bring ----------------------------------------------------------------------------


def test_a_file_without_an_available_replica(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    set_state(lab, did, "REM1", "U")
    site = bringer()
    assert site.open(did) == "ENODATA"
    text = site.xattr("error", did)
    assert text is not None
    assert f"{did} has no available replica (REM1 UNAVAILABLE)" in text
    assert site.xattr("state", did) == "NOT_AVAILABLE"
    assert site.xattr("locality", did) == "NONE"
    assert lab.rules(did) == []
    set_state(lab, did, "REM1", "A")
    site.eventually_opens(did)


def set_state(lab: RuleLab, did: str, rse: str, state: str) -> None:
    """Set the state of a replica: A(vailable) or U(navailable)."""
    lab.call("PUT", "/replicas/", {"rse": rse, "files": [did_key(did) | {"state": state}]})


def test_a_file_whose_last_replica_is_deleted(
    bringer: BringerMaker, lab: RuleLab, scope: str
) -> None:
    """Rucio itself then forgets the file, unless a dataset has it."""
    dids = lab.files(scope, prefix="last", rse="COLO", count=2)
    for did in dids:
        rule_id = lab.add_rule(did)
        lab.await_rule(rule_id)
        lab.delete_rule(rule_id)
    eventually(lambda: [lab.states(did) for did in dids], lambda found: not any(found))
    site = bringer()
    assert [site.open(did) for did in dids] == ["ENOENT", "ENOENT"]


def test_the_only_source_is_lost(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    lab.lose(did, "REM1")
    site = bringer()
    assert site.open(did) == "EIO"
    site.told(did, "STUCK", [site.rule_id(did), "REM1", "File not found"], event="stuck")
    lab.replicas([did], "REM1")
    site.eventually_opens(did)


def test_the_only_source_is_closed_for_reading(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    site = bringer()
    with lab.availability("REM1", read=False):
        assert site.open(did) == "ENODATA"
        text = site.xattr("error", did)
        assert text is not None
        assert did in text
        assert "closed for reading" in text
        assert lab.rules(did) == []
    site.eventually_opens(did)


def test_a_source_that_is_closed_for_reading_meanwhile(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    """The mount still knows of the replica, Rucio's conveyor does not take it."""
    site = bringer()
    assert site.xattr("state", did) == "NOT_AVAILABLE"
    with lab.availability("REM1", read=False):
        assert site.open(did) == "EIO"
        site.told(did, "STUCK", [site.rule_id(did), "NO_SOURCES"], event="stuck")
    site.eventually_opens(did)


def test_the_site_itself_is_closed_for_reading(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    lab.replicas([did], "COLO")
    site = bringer()
    with lab.availability("COLO", read=False):
        assert site.open(did) == "EAGAIN"
        assert "closed for reading" in site.mount.log_text()
        assert lab.rules(did) == []
    site.eventually_opens(did)


def test_a_file_that_is_gone_from_the_sites_storage(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    site = bringer()
    site.must_open(did)
    lab.lose(did, "COLO")
    assert site.open(did) == "EIO"
    text = site.xattr("error", did)
    assert text is not None
    assert did in text
    assert "COLO: " in text
    assert str(lake.store("COLO") / hash_path(*did.split(":", 1))) in text
    assert len(lab.rules(did)) == 1
    lab.replicas([did], "COLO")
    site.eventually_opens(did)


# --- tapes ---------------------------------------------------------------------------------------


@pytest.fixture
def taped(lab: RuleLab, scope: str, request: pytest.FixtureRequest) -> str:
    """A file on tape alone."""
    prefix = hashlib.md5(request.node.name.encode()).hexdigest()[:8]
    return lab.files(scope, prefix=prefix, rse="REMTAPE")[0]


def test_opening_does_not_mount_tapes(bringer: BringerMaker, lab: RuleLab, taped: str) -> None:
    site = bringer()
    assert site.open(taped) == "ENOMEDIUM"
    text = site.xattr("error", taped)
    assert text is not None
    assert f"{taped} is only on tape (REMTAPE)" in text
    assert "rucio-fs get" in text
    assert site.xattr("state", taped) == "NEARLINE"
    assert site.xattr("locality", taped) == "NEARLINE"
    assert site.progress(taped)["state"] == "NEARLINE"
    assert lab.rules(taped) == []


def test_who_asks_has_tapes_mounted(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, taped: str
) -> None:
    """Opens before that wait for nothing, opens after it wait for the file."""
    site = bringer()
    assert site.open(taped) == "ENOMEDIUM"
    fts.stall_staging(name(taped))
    assert site.set_xattr("request", taped) is None
    assert site.xattr("state", taped) == "REPLICATING"
    with site.waiting(taped) as opening:
        rule_id = site.rule_id(taped)
        assert site.xattr("rule_id", taped) == rule_id
        fts.clear()
        assert opening.outcome() == OPENED
    assert site.rule_id(taped) == rule_id
    assert site.xattr("state", taped) == "AVAILABLE"


def test_opens_that_may_have_tapes_mounted(bringer: BringerMaker, lab: RuleLab, taped: str) -> None:
    site = bringer(opening__recall=True)
    assert site.xattr("locality", taped) == "NEARLINE"
    site.must_open(taped)
    assert len(lab.rules(taped)) == 1


def test_a_tape_that_cannot_be_read(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, taped: str
) -> None:
    site = bringer(opening__recall=True)
    fts.fail_staging(name(taped), reason="STAGING [5] tape T00042 is broken")
    assert site.open(taped) == "EIO"
    rule_id = site.rule_id(taped)
    site.told(taped, "STUCK", [rule_id, "tape T00042 is broken"], event="stuck")
    fts.clear()
    site.eventually_opens(taped)
    assert site.rule_id(taped) == rule_id


def test_a_file_on_tape_and_on_disk_is_brought(
    bringer: BringerMaker, lab: RuleLab, taped: str
) -> None:
    lab.replicas([taped], "REM1")
    site = bringer()
    assert site.xattr("locality", taped) == "REMOTE"
    site.must_open(taped)


# --- Rucio itself is in trouble ------------------------------------------------------------------

TROUBLE: dict[str, Action] = {
    "500": Status(500),
    "database": Status(
        500,
        b'{"ExceptionClass": "DatabaseException", "ExceptionMessage": "injected"}',
        {"Content-Type": "application/json", "ExceptionClass": "DatabaseException"},
    ),
    "silence": Timeout(),
    "gone": Refuse(),
    "token": Status(
        401,
        b'{"ExceptionClass": "CannotAuthenticate", "ExceptionMessage": "injected"}',
        {"Content-Type": "application/json", "ExceptionClass": "CannotAuthenticate"},
    ),
}


@pytest.mark.parametrize("kind", TROUBLE)
def test_rucio_in_trouble_while_an_open_waits(
    lake: Lake, lab: RuleLab, fts: FtsControl, did: str, kind: str
) -> None:
    with FaultyMount(lake, {"policy": "replicate"}) as faulty:
        site = Bringer(faulty.mount, lab)
        fts.stall(name(did))
        with site.waiting(did) as opening:
            faulty.proxy.clear_requests()
            faulty.proxy.add(Fault(TROUBLE[kind]))
            faulty.mount.wait_for_log("what is on its way cannot be looked at")
            fts.clear()
            lab.await_rule(site.rule_id(did))
            assert not opening.is_over
            faulty.proxy.clear()
            assert opening.outcome() == OPENED
        faulty.check_log()


@pytest.mark.parametrize("kind", TROUBLE)
def test_rucio_in_trouble_while_a_rule_is_made(
    lake: Lake, lab: RuleLab, did: str, kind: str
) -> None:
    with FaultyMount(lake, {"policy": "replicate"}) as faulty:
        site = Bringer(faulty.mount, lab)
        assert site.xattr("state", did) == "NOT_AVAILABLE"
        is_token = kind == "token"
        faulty.proxy.add(
            Fault(TROUBLE[kind], method="POST", path=r"^/rules/?$", times=1 if is_token else None)
        )
        with site.opening(did) as opening:
            if not is_token:
                faulty.mount.wait_for_log("cannot be asked for now")
                assert not opening.is_over
                faulty.proxy.clear()
            assert opening.outcome() == OPENED
        assert len(lab.rules(did)) == 1
        faulty.check_log()


def test_the_answer_about_a_new_rule_is_lost(lake: Lake, lab: RuleLab, did: str) -> None:
    """The rule is made, but nobody hears of it: asked for again, it is found."""
    with FaultyMount(lake, {"policy": "replicate"}) as faulty:
        site = Bringer(faulty.mount, lab)
        faulty.proxy.add(Fault(Cut(0, "broken"), method="POST", path=r"^/rules/?$", times=1))
        site.must_open(did)
        assert len(lab.rules(did)) == 1
        faulty.check_log()
