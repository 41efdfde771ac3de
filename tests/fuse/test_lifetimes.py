"""How long a file stays at the site: while it is used, not for ever, and whose word counts."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from lake import Lake
from lake.faults import Fault, Status
from lake.fts.client import FtsControl
from lake.rses import hash_path
from tests.faulty import FaultyMount
from tests.fuse.clients import Client, eventually
from tests.fuse.rules import OPENED, Bringer, BringerMaker
from tests.lake.rules import RuleLab

pytestmark = [pytest.mark.fuse, pytest.mark.lake]
pytest_plugins = ["tests.fuse.rule_fixtures"]

LIFETIME = 8  # s; its mounts look every 2 s at what is open

_HOLD = """
import hashlib
fd = os.open(ROOT, os.O_RDONLY)
show(None)
wait()
try:
    with open(fd, 'rb') as file:
        show(hashlib.sha256(file.read()).hexdigest())
except OSError as exc:
    show(errno.errorcode[exc.errno])
wait()
"""


@contextmanager
def held(site: Bringer, did: str) -> Iterator[Client]:
    """A program that has *did* open; `read_by` lets it read."""
    with Client(site.path(did), _HOLD) as client:
        assert client.seen() is None
        yield client


def read_by(client: Client) -> str:
    """SHA-256 of what it reads, or an errno."""
    client.go_on()
    return str(client.seen())


def digest(lab: RuleLab, did: str) -> str:
    return hashlib.sha256(lab.content(did)).hexdigest()


def end_of(rule: dict[str, Any]) -> datetime:
    return parsedate_to_datetime(rule["expires_at"].replace("UTC", "GMT"))


def is_gone(lab: RuleLab, rule_id: str) -> bool:
    return lab.answer("GET", f"/rules/{rule_id}").status_code == 404


# --- in use or not -------------------------------------------------------------------------------


def test_a_file_stays_while_it_is_open_and_goes_afterwards(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    site = bringer(rule_lifetime=LIFETIME)
    with held(site, did) as client:
        rule_id = site.rule_id(did)
        first = end_of(lab.rule(rule_id))
        eventually(lambda: lab.rule(rule_id), lambda rule: end_of(rule) > first)
        eventually(lambda: datetime.now(UTC), lambda now: now > first + timedelta(seconds=2))
        assert lab.rule(rule_id)["state"] == "OK"
        assert "extended" in site.names_of_events(did)
        assert read_by(client) == digest(lab, did)
    eventually(lambda: is_gone(lab, rule_id), bool)
    eventually(lambda: lab.states(did), lambda states: not states)
    site.must_open(did)
    assert site.rule_id(did) != rule_id


def test_a_file_that_nobody_uses_goes_and_comes_again(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    site = bringer(rule_lifetime=2)
    site.must_open(did)
    eventually(lambda: lab.states(did), lambda states: not states)
    assert lab.rules(did) == []
    site.must_open(did)
    first, second = [one["rule_id"] for one in site.events(did) if one["event"] == "requested"]
    assert first != second


def test_the_rule_of_an_open_that_waits_is_extended(
    bringer: BringerMaker, lab: RuleLab, fts: FtsControl, did: str
) -> None:
    site = bringer(rule_lifetime=LIFETIME)
    fts.stall(did.partition(":")[2])
    with site.waiting(did) as opening:
        rule_id = site.rule_id(did)
        first = end_of(lab.rule(rule_id))
        eventually(lambda: datetime.now(UTC), lambda now: now > first + timedelta(seconds=2))
        assert not opening.is_over
        fts.clear()
        assert opening.outcome() == OPENED
    assert site.rule_id(did) == rule_id


def test_no_end(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer(rule_lifetime=0)
    site.must_open(did)
    assert lab.rule(site.rule_id(did))["expires_at"] is None
    assert site.xattr("expires_at", did) is None


# --- whose word counts ---------------------------------------------------------------------------


def test_a_lifetime_that_somebody_shortens_meanwhile(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    """While the file is open its rule is extended again, or made anew if that came too late."""
    site = bringer(rule_lifetime=LIFETIME)
    with held(site, did):
        rule_id = site.rule_id(did)
        first = end_of(lab.rule(rule_id))
        eventually(lambda: lab.rule(rule_id), lambda rule: end_of(rule) > first)
        lab.set_lifetime(rule_id, 2)
        shortened = end_of(lab.rule(rule_id))
        eventually(
            lambda: site.our_rules(did),
            lambda rules: rules and end_of(rules[0]) > shortened + timedelta(seconds=1),
        )
        eventually(lambda: lab.states(did), lambda states: states == {did: "AVAILABLE"})


def test_a_server_that_grants_less_than_is_asked_for(lake: Lake, lab: RuleLab, did: str) -> None:
    """What is read back counts: the mount asks again instead of trusting what it wrote."""
    options = {"policy": "replicate", "rule_lifetime": 10}
    with FaultyMount(lake, options) as faulty:
        site = Bringer(faulty.mount, lab)
        faulty.proxy.add(Fault(Status(200), method="PUT", path="^/rules/"))
        with held(site, did):
            rule_id = site.rule_id(did)
            first = end_of(lab.rule(rule_id))
            eventually(lambda: _changes(faulty), lambda count: count >= 2)
            faulty.proxy.clear()
            eventually(lambda: lab.rules(did), lambda rules: rules and end_of(rules[0]) > first)


def _changes(faulty: FaultyMount) -> int:
    return sum(record.method == "PUT" for record in faulty.proxy.requests)


def test_an_account_that_may_not_extend_its_rules(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    """The rule ends; while the file is open it is made anew, and the open file stays whole."""
    site = bringer(config=lake.client_config("alice"), rule_lifetime=LIFETIME)
    with held(site, did) as client:
        rule_id = site.rule_id(did)
        eventually(
            lambda: [rule["id"] for rule in site.our_rules(did)],
            lambda ids: ids and rule_id not in ids,
        )
        eventually(lambda: "kept" in site.names_of_events(did), bool)
        assert read_by(client) == digest(lab, did)
    assert site.mount.log_text().count("rules cannot be extended while") == 1


def test_the_rule_of_somebody_else_ends_while_the_file_is_open(
    bringer: BringerMaker, lab: RuleLab, did: str
) -> None:
    theirs = lab.add_rule(did, account="bob", lifetime=14)
    lab.await_rule(theirs)
    site = bringer(rule_lifetime=16)
    with held(site, did):
        assert [rule["id"] for rule in lab.rules(did)] == [theirs]
        (ours,) = eventually(lambda: site.our_rules(did), bool)
        assert ours["account"] == "root"
        eventually(lambda: "kept" in site.names_of_events(did), bool)
        eventually(lambda: is_gone(lab, theirs), bool)
        assert lab.states(did) == {did: "AVAILABLE"}


def test_a_file_that_is_deleted_while_it_is_open(
    lake: Lake, bringer: BringerMaker, lab: RuleLab, scope: str
) -> None:
    """Right bytes or an error; on a local disk the bytes stay as long as the file is open."""
    (did,) = lab.files(scope, prefix="deleted", size=3_000_000)
    site = bringer()
    with held(site, did) as client:
        lab.delete_rule(site.rule_id(did))
        stored = lake.store("COLO") / hash_path(*did.split(":", 1))
        eventually(stored.exists, lambda exists: not exists)
        assert read_by(client) in (digest(lab, did), "EIO", "ESTALE")
        eventually(lambda: lab.states(did), lambda states: not states)
        site.must_open(did)


# --- what the rule says --------------------------------------------------------------------------


def test_what_a_rule_says(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    site = bringer()
    site.must_open(did)
    rule = lab.rule(site.rule_id(did))
    assert rule["comments"] == f"rucio-fs on {socket.gethostname()} at {site.mount.path}"
    assert rule["account"] == "root"
    assert rule["rse_expression"] == "COLO"
    assert rule["copies"] == 1
    assert rule["activity"] == "User Subscriptions"
    assert rule["priority"] == 3
    assert rule["purge_replicas"] is False
    assert rule["notification"] == "NO"
    assert rule["locked"] is False
    week = timedelta(days=7)
    made = parsedate_to_datetime(rule["created_at"].replace("UTC", "GMT"))
    assert abs(end_of(rule) - made - week) < timedelta(minutes=1)


def test_every_option_arrives_in_the_rule(bringer: BringerMaker, lab: RuleLab, did: str) -> None:
    lab.replicas([did], "REM2")
    site = bringer(
        rules__activity="Staging",
        rules__priority=4,
        rules__purge_replicas=True,
        rules__source_rse_expression="REM2",
        rules__notify="done",
        rules__comment="for the paper",
        rules__account="bob",
        rules__rse_expression="COLO|COLO_SCRATCHDISK",
        rules__asynchronous=True,
        rule_lifetime="2h",
    )
    site.must_open(did)
    (rule,) = lab.rules(did)
    assert rule["comments"].startswith("rucio-fs on ")
    assert rule["comments"].endswith(f"{site.mount.path}: for the paper")
    assert rule["activity"] == "Staging"
    assert rule["priority"] == 4
    assert rule["purge_replicas"] is True
    assert rule["source_replica_expression"] == "REM2"
    assert rule["notification"] == "YES"
    assert rule["account"] == "bob"
    assert rule["rse_expression"] == "COLO|COLO_SCRATCHDISK"
    assert timedelta(hours=1) < end_of(rule) - datetime.now(UTC) < timedelta(hours=3)
