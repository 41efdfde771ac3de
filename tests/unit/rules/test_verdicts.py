"""What the states of replicas and rules mean for whoever waits: every combination."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from rucio_fs.did import DID, Presence, Rule, RuleState
from rucio_fs.errors import NeedsApproval, RucioFsError, RuleExpired, RuleGone, Stuck, Suspended
from rucio_fs.rules import verdicts
from rucio_fs.rules.delivery import State

FILE, DATASET = DID("s", "f"), DID("s", "d")
RULE = Rule("r1", FILE, "root", RuleState.OK, "COLO", 0, error="no route")
SECOND = 1_000_000_000

REPLICAS: list[dict[str, str]] = [
    {},
    {"COLO": "AVAILABLE"},
    {"COLO": "COPYING"},
    {"COLO": "UNAVAILABLE"},
    {"COLO": "BEING_DELETED"},
    {"COLO": "COPYING", "SCRATCH": "AVAILABLE"},
    {"COLO": "COPYING", "SCRATCH": "UNAVAILABLE"},
]
ERRORS: dict[State, type[RucioFsError] | None] = {
    State.AVAILABLE: None,
    State.REPLICATING: None,
    State.STUCK: Stuck,
    State.SUSPENDED: Suspended,
    State.WAITING_APPROVAL: NeedsApproval,
}


@pytest.mark.parametrize(
    ("states", "state", "on"), [*product(REPLICAS, RuleState, (FILE, DATASET))], ids=repr
)
def test_how_a_file_stands(states: dict[str, str], state: RuleState, on: DID) -> None:
    """In this order: it is here; its transfer runs; its rule is stopped or failed; it comes."""
    is_here = "AVAILABLE" in states.values()
    runs = "COPYING" in states.values() and not is_here
    stopped = state in (RuleState.SUSPENDED, RuleState.STUCK)
    if is_here:
        expected = State.AVAILABLE
    elif runs:
        # A dataset's rule is stuck for other files of it.
        expected = State[state.name] if stopped and on == FILE else State.REPLICATING
    elif stopped or state is RuleState.WAITING_APPROVAL:
        expected = State[state.name]
    else:
        expected = State.REPLICATING
    verdict = verdicts.of_file(FILE, states, replace(RULE, did=on, state=state))
    assert verdict.state is expected
    assert type(verdict.error) is (type(None) if runs else ERRORS[expected] or type(None))
    if verdict.error is not None:
        assert str(verdict.error).startswith(f"s:f: rule r1 is {expected.value}")


@pytest.mark.parametrize("states", REPLICAS, ids=repr)
def test_what_does_not_look_like_on_its_way(states: dict[str, str]) -> None:
    is_moving = {"COPYING", "AVAILABLE"} & set(states.values())
    assert verdicts.is_odd(states) is not bool(is_moving)


@pytest.mark.parametrize(
    ("state", "files", "here"), [*product(RuleState, (None, 0, 3), (0, 2, 3))], ids=repr
)
def test_how_a_collection_stands(state: RuleState, files: int | None, here: int) -> None:
    rule = replace(RULE, did=DATASET, state=state, ok=here)
    verdict = verdicts.of_collection(DATASET, Presence(here, here * 10), files, rule)
    if state.name in State.__members__:
        assert verdict.state is State[state.name]  # STUCK, SUSPENDED, WAITING_APPROVAL, REPLICATING
    elif state is RuleState.INJECT:
        assert verdict.state is State.REPLICATING
    elif files is None or here >= files:
        assert verdict.state is State.AVAILABLE
    assert type(verdict.error) is (ERRORS[verdict.state] or type(None))


def test_an_ok_rule_whose_files_are_not_here_brings_no_collection_yet() -> None:
    """Files were attached a moment ago, and Rucio's evaluator has not come by."""
    rule = replace(RULE, did=DATASET, state=RuleState.OK, ok=2)
    assert verdicts.of_collection(DATASET, Presence(2, 20), 3, rule) == verdicts.ON_ITS_WAY


def test_why_is_told_if_rucio_tells() -> None:
    stuck = replace(RULE, state=RuleState.STUCK)
    assert "no route" in str(verdicts.of_file(FILE, {}, stuck).error)
    silent = verdicts.of_file(FILE, {}, replace(stuck, error=None)).error
    assert "Rucio gives no reason" in str(silent)
    suspended = replace(RULE, state=RuleState.SUSPENDED)
    assert "no route" in str(verdicts.of_file(FILE, {}, suspended).error)
    waiting = replace(RULE, state=RuleState.WAITING_APPROVAL, error=None)
    assert "COLO" in str(verdicts.of_file(FILE, {}, waiting).error)


@pytest.mark.parametrize(
    ("expires_in", "kind"),
    [(None, RuleGone), (3600, RuleGone), (6, RuleGone), (5, RuleExpired), (-10, RuleExpired)],
)
def test_a_lost_rule_was_deleted_or_has_expired(
    expires_in: float | None, kind: type[RuleGone]
) -> None:
    now_ns = 10**18
    end_ns = None if expires_in is None else now_ns + int(expires_in * SECOND)
    state, error = verdicts.of_lost_rule(FILE, "r1", end_ns, now_ns)
    assert state is State.NOT_AVAILABLE
    assert type(error) is kind
    for part in ("s:f", "r1", "opening it again"):
        assert part in str(error)


def test_a_lost_rule_that_waited_for_approval_was_denied() -> None:
    waited = verdicts.of_lost_rule(FILE, "r1", None, 10**18, was_waiting=True)
    assert type(waited.error) is RuleGone
    assert "denied" in str(waited.error)
    moved = verdicts.of_lost_rule(FILE, "r1", None, 10**18)
    assert "denied" not in str(moved.error)
    assert "deleted" in str(moved.error)
