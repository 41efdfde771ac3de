"""What the states of a replica and of its rule mean for whoever waits.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rucio_fs.availability import AVAILABLE
from rucio_fs.did import DID, Presence, Rule, RuleState
from rucio_fs.errors import NeedsApproval, RucioFsError, RuleExpired, RuleGone, Stuck, Suspended
from rucio_fs.rules.delivery import State

COPYING = "COPYING"


class Verdict(NamedTuple):
    """How a DID stands.  *error*: why it does not come as things stand."""

    state: State
    error: RucioFsError | None = None


ON_ITS_WAY = Verdict(State.REPLICATING)
HERE = Verdict(State.AVAILABLE)


def is_here(states: Mapping[str, str]) -> bool:
    return AVAILABLE in states.values()


def is_odd(states: Mapping[str, str]) -> bool:
    """Whether the replica does not look like one on its way, so that its rule has to tell.

    UNAVAILABLE is what a transfer that failed for good leaves behind; a rule that waits for
    approval, or is gone, has no replica at all.
    """
    return not is_here(states) and COPYING not in states.values()


def of_file(did: DID, states: Mapping[str, str], rule: Rule) -> Verdict:
    """How the file *did* stands by its replica *states* at the site and by its *rule*.

    What is COPYING comes, whatever the rule says: a rule that is suspended, or called stuck by
    hand, or is that of a dataset with other files stuck, leaves its running transfers alone.
    """
    if is_here(states):
        return HERE
    if COPYING in states.values():
        stopped = rule.did == did and rule.state in (RuleState.STUCK, RuleState.SUSPENDED)
        return Verdict(State[rule.state.name]) if stopped else ON_ITS_WAY
    match rule.state:
        case RuleState.STUCK:
            return Verdict(State.STUCK, _stuck(did, rule))
        case RuleState.SUSPENDED:
            return Verdict(State.SUSPENDED, _suspended(did, rule))
        case RuleState.WAITING_APPROVAL:
            return Verdict(State.WAITING_APPROVAL, _waits(did, rule))
        case _:
            return ON_ITS_WAY


def of_collection(did: DID, here: Presence, files: int | None, rule: Rule) -> Verdict:
    """How a collection of *files* files stands, of which *here* is at the site.

    A rule stays OK until Rucio has noticed that files were attached.
    """
    match rule.state:
        case RuleState.STUCK:
            return Verdict(State.STUCK, _stuck(did, rule))
        case RuleState.SUSPENDED:
            return Verdict(State.SUSPENDED, _suspended(did, rule))
        case RuleState.WAITING_APPROVAL:
            return Verdict(State.WAITING_APPROVAL, _waits(did, rule))
        case RuleState.OK if files is None or here.files >= files:
            return HERE
        case _:
            return ON_ITS_WAY


def of_lost_rule(
    did: DID, rule_id: str, expires_ns: int | None, now_ns: int, *, was_waiting: bool = False
) -> Verdict:
    """How *did* stands when its rule is not there any more and none has taken its place.

    *was_waiting*: for approval, when it was seen last.  Rucio deletes a rule that is denied.
    """
    again = "opening it again makes a new one"
    if _is_over(expires_ns, now_ns):
        gone: RucioFsError = RuleExpired(
            f"{did}: rule {rule_id} has expired before the data was here; {again}"
        )
    elif was_waiting:
        gone = RuleGone(
            f"{did}: rule {rule_id}, which waited for approval, has been denied; {again}"
        )
    else:
        gone = RuleGone(f"{did}: rule {rule_id} was deleted by somebody; {again}")
    return Verdict(State.NOT_AVAILABLE, gone)


def has_expired(rule: Rule, now_ns: int) -> bool:
    """Whether *rule* is only there until Rucio comes to removing it."""
    return _is_over(rule.expires_ns, now_ns)


def _is_over(expires_ns: int | None, now_ns: int) -> bool:
    return expires_ns is not None and expires_ns <= now_ns + _SKEW_NS


_SKEW_NS = 5_000_000_000  # between the clocks of Rucio and of this machine


def _stuck(did: DID, rule: Rule) -> Stuck:
    reason = rule.error or "Rucio gives no reason"
    return Stuck(f"{did}: rule {rule.id} is STUCK: {reason}. Rucio tries again now and then")


def _suspended(did: DID, rule: Rule) -> Suspended:
    reason = f": {rule.error}" if rule.error else ""
    return Suspended(f"{did}: rule {rule.id} is SUSPENDED{reason}. Ask Rucio's operators why")


def _waits(did: DID, rule: Rule) -> NeedsApproval:
    return NeedsApproval(
        f"{did}: rule {rule.id} is WAITING_APPROVAL by the operators of {rule.rse_expression}"
    )
