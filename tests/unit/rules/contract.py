"""What every `Rules` owes.  Subclass it and give a fixture `bench`.

The real lake and the fake run the same tests, so that what is tested with the fake holds for Rucio.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import pytest

from rucio_fs.catalogue.base import BULK_LIMIT, Rules
from rucio_fs.did import DID, Identity, Presence, Rule, RuleState, RuleTerms
from rucio_fs.errors import (
    Denied,
    NoTarget,
    NotFound,
    QuotaExceeded,
    Refused,
    RuleExists,
    RuleGone,
)

MY = Identity()
UNKNOWN_ID = "0" * 32
SECOND = 1_000_000_000


class Bench(Protocol):
    """A lake whose transfers wait until they are told to go on.  *ordinary* is alice's.

    *terms* are those of the account of *rules*, which is an administrator's.
    """

    @property
    def rules(self) -> Rules: ...
    @property
    def ordinary(self) -> Rules: ...
    @property
    def terms(self) -> RuleTerms: ...
    @property
    def traces(self) -> int: ...

    def files(self, count: int, size: int = 1000) -> list[DID]:
        """Files that lie at REM1 alone."""
        ...

    def dataset(self, *members: DID) -> DID: ...
    def container(self, *members: DID) -> DID: ...

    def arrive(self, did: DID) -> None:
        """Transfers go on; returns when *did* is here and its rules are OK."""
        ...

    async def stuck(self, did: DID) -> str:
        """Make a rule whose transfers fail for good; return its id."""
        ...

    def quota(self, size: int) -> AbstractContextManager[object]: ...
    def unwritable(self) -> AbstractContextManager[object]: ...
    def unreadable(self) -> AbstractContextManager[object]: ...


async def _make(bench: Bench, did: DID) -> str:
    return (await bench.rules.add_rules(MY, [did], bench.terms))[did]


async def _ask_until_gone(rules: Rules, rule_id: str) -> None:
    """Ask until the cleaner has come by."""
    while True:
        await rules.rule(MY, rule_id)


def _alices(bench: Bench) -> RuleTerms:
    return replace(bench.terms, account="alice", comment="hers")


class RulesContract:
    """The tests.  Each makes its own files."""

    # --- where things are ------------------------------------------------------------------------

    async def test_states_tell_what_is_here_and_what_comes(self, bench: Bench) -> None:
        here, coming, far = bench.files(3)
        await _make(bench, here)
        bench.arrive(here)
        unknown = here._replace(name="no-such-file")
        asked = [here, far, unknown]
        assert await bench.rules.states_at(MY, asked, "COLO") == {
            here: {"COLO": "AVAILABLE"},
            far: {},
            unknown: {},
        }
        states = await bench.rules.states_at(MY, [here], "COLO|REM1")
        assert states == {here: {"COLO": "AVAILABLE", "REM1": "AVAILABLE"}}
        assert await bench.rules.states_at(MY, [coming], "COLO") == {coming: {}}

    async def test_a_rule_that_is_made_has_its_file_copying(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        await _make(bench, file)
        assert await bench.rules.states_at(MY, [file], "COLO") == {file: {"COLO": "COPYING"}}

    async def test_what_is_here_is_seen_though_its_rse_is_closed(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        await _make(bench, file)
        bench.arrive(file)
        with bench.unreadable():
            states = await bench.rules.states_at(MY, [file], "COLO")
            assert states == {file: {"COLO": "AVAILABLE"}}
            assert await bench.rules.presence(MY, bench.dataset(file), "COLO") == Presence(1, 1000)

    async def test_too_many_at_once_are_refused(self, bench: Bench) -> None:
        many = [DID("s", str(number)) for number in range(BULK_LIMIT + 1)]
        with pytest.raises(Refused):
            await bench.rules.states_at(MY, many, "COLO")
        assert len(await bench.rules.states_at(MY, many[1:], "COLO")) == BULK_LIMIT

    async def test_presence_counts_each_file_once(self, bench: Bench) -> None:
        one, both, far = bench.files(3)
        top = bench.container(bench.dataset(one, both), bench.dataset(both, far))
        assert await bench.rules.presence(MY, top, "COLO") == Presence(0, 0)
        await bench.rules.add_rules(MY, [one, both], bench.terms)
        assert await bench.rules.presence(MY, top, "COLO") == Presence(0, 0, copying=2)
        bench.arrive(one)
        bench.arrive(both)
        assert await bench.rules.presence(MY, top, "COLO") == Presence(2, 2000)

    async def test_presence_counts_what_is_stuck(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        group = bench.dataset(file)
        await bench.stuck(group)
        assert await bench.rules.presence(MY, group, "COLO") == Presence(0, 0, stuck=1)

    async def test_total_counts_each_file_once(self, bench: Bench) -> None:
        one, both = bench.files(2)
        datasets = bench.dataset(one, both), bench.dataset(both)
        assert await bench.rules.total(MY, datasets[0]) == (2, 2000)
        top = bench.container(bench.container(*datasets))
        assert await bench.rules.total(MY, top) == (2, 2000)

    async def test_the_total_of_nothing_is_not_found(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        with pytest.raises(NotFound):
            await bench.rules.total(MY, file._replace(name="no-such-dataset"))
        assert await bench.rules.total(MY, bench.dataset()) == (0, 0)

    # --- rules there are -------------------------------------------------------------------------

    async def test_rules_of_a_file_are_its_own_and_its_datasets(self, bench: Bench) -> None:
        file, other = bench.files(2)
        group = bench.dataset(file, other)
        top = bench.container(group)
        own = await _make(bench, file)
        made = await bench.rules.add_rules(MY, [top], bench.terms)
        hers = await bench.ordinary.add_rules(MY, [group], _alices(bench))
        found = {rule.id: rule for rule in await bench.rules.rules_of(MY, file)}
        assert set(found) == {own, made[top], hers[group]}
        assert {rule.did for rule in found.values()} == {file, top, group}
        assert found[hers[group]].account == "alice"
        assert found[hers[group]].comment == "hers"
        ids = {rule.id for rule in await bench.rules.rules_of(MY, other)}
        assert ids == {made[top], hers[group]}

    async def test_rules_of_a_collection_are_those_on_itself(self, bench: Bench) -> None:
        file, inner = bench.files(2)
        group = bench.dataset(file, inner)
        top = bench.container(group)
        await bench.rules.add_rules(MY, [file, top], bench.terms)
        on_group = await _make(bench, group)
        assert [rule.id for rule in await bench.rules.rules_of(MY, group)] == [on_group]

    async def test_a_rule_that_waits_for_approval_is_one(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        terms = replace(bench.terms, ask_approval=True)
        rule_id = (await bench.rules.add_rules(MY, [file], terms))[file]
        (rule,) = await bench.rules.rules_of(MY, file)
        assert (rule.id, rule.state) == (rule_id, RuleState.WAITING_APPROVAL)
        assert (rule.ok, rule.replicating, rule.stuck) == (0, 0, 0)
        assert await bench.rules.states_at(MY, [file], "COLO") == {file: {}}
        with pytest.raises(RuleExists):
            await _make(bench, file)

    async def test_rules_of_nothing_are_not_found(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        assert await bench.rules.rules_of(MY, file) == []
        with pytest.raises(NotFound):
            await bench.rules.rules_of(MY, file._replace(name="no-such-file"))

    async def test_expressions_stand_for_rses(self, bench: Bench) -> None:
        assert await bench.rules.rses(MY, "COLO") == {"COLO"}
        assert await bench.rules.rses(MY, "COLO|REM1") == {"COLO", "REM1"}
        assert await bench.rules.rses(MY, "site=HERE") == {
            "COLO",
            "COLO_SCRATCHDISK",
            "COLO_NDSCRATCHDISK",
        }
        with pytest.raises(Refused):
            await bench.rules.rses(MY, "NOWHERE")

    async def test_a_rule_tells_how_far_it_is(self, bench: Bench) -> None:
        files = bench.files(2)
        group = bench.dataset(*files)
        before_ns = time.time_ns()
        rule_id = await _make(bench, group)
        rule = await bench.rules.rule(MY, rule_id)
        assert (rule.id, rule.did, rule.state) == (rule_id, group, RuleState.REPLICATING)
        assert (rule.account, rule.rse_expression) == ("root", "COLO")
        assert rule.comment == bench.terms.comment
        assert (rule.ok, rule.replicating, rule.stuck) == (0, 2, 0)
        assert rule.error is None
        assert abs(rule.created_ns - before_ns) < 60 * SECOND
        assert bench.terms.lifetime is not None
        expected_ns = before_ns + bench.terms.lifetime * SECOND
        assert rule.expires_ns is not None
        assert abs(rule.expires_ns - expected_ns) < 60 * SECOND
        bench.arrive(group)
        rule = await bench.rules.rule(MY, rule_id)
        assert (rule.state, rule.ok, rule.replicating) == (RuleState.OK, 2, 0)

    async def test_a_rule_for_what_is_here_is_ok_at_once(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        terms = replace(bench.terms, rse_expression="REM1", lifetime=None)
        rule_id = (await bench.rules.add_rules(MY, [file], terms))[file]
        rule = await bench.rules.rule(MY, rule_id)
        assert (rule.state, rule.ok, rule.expires_ns) == (RuleState.OK, 1, None)

    async def test_a_stuck_rule_tells_why(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        rule_id = await bench.stuck(file)
        rule = await bench.rules.rule(MY, rule_id)
        assert (rule.state, rule.stuck, rule.ok) == (RuleState.STUCK, 1, 0)
        assert rule.error is not None
        assert "injected failure" in rule.error
        words = await bench.rules.trouble(MY, rule_id)
        for part in (str(file), "COLO", "REM1"):
            assert part in words
        assert await bench.rules.states_at(MY, [file], "COLO") == {file: {"COLO": "UNAVAILABLE"}}
        await bench.rules.boost(MY, rule_id)
        bench.arrive(file)
        assert (await bench.rules.rule(MY, rule_id)).state is RuleState.OK

    async def test_a_rule_without_trouble_has_none_to_tell(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        assert await bench.rules.trouble(MY, await _make(bench, file)) == ""

    async def test_a_rule_that_is_not_there(self, bench: Bench) -> None:
        for ask in (bench.rules.rule, bench.rules.trouble, bench.rules.boost):
            with pytest.raises(RuleGone):
                await ask(MY, UNKNOWN_ID)
        with pytest.raises(RuleGone):
            await bench.rules.delete_rule(MY, UNKNOWN_ID)
        with pytest.raises(RuleGone):
            await bench.rules.set_lifetime(MY, UNKNOWN_ID, 60)

    # --- making rules ----------------------------------------------------------------------------

    async def test_many_rules_at_once(self, bench: Bench) -> None:
        files = bench.files(50, size=10)
        made = await bench.rules.add_rules(MY, files, bench.terms)
        assert list(made) == files
        assert len(set(made.values())) == 50
        for file in (files[0], files[-1]):
            assert (await bench.rules.rule(MY, made[file])).did == file

    async def test_all_or_none_are_made(self, bench: Bench) -> None:
        first, known, last = bench.files(3)
        await _make(bench, known)
        with pytest.raises(RuleExists):
            await bench.rules.add_rules(MY, [first, known, last], bench.terms)
        missing = first._replace(name="no-such-file")
        with pytest.raises(NotFound):
            await bench.rules.add_rules(MY, [first, missing, last], bench.terms)
        for file in (first, last):
            assert await bench.rules.rules_of(MY, file) == []
            assert await bench.rules.states_at(MY, [file], "COLO") == {file: {}}

    async def test_another_rse_or_account_is_no_duplicate(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        await _make(bench, file)
        other = replace(bench.terms, rse_expression="COLO|REM2")
        await bench.rules.add_rules(MY, [file], other)
        await bench.ordinary.add_rules(MY, [file], _alices(bench))
        assert len(await bench.rules.rules_of(MY, file)) == 3

    async def test_too_little_quota(self, bench: Bench) -> None:
        (file,) = bench.files(1, size=1000)
        with bench.quota(999), pytest.raises(QuotaExceeded):
            await _make(bench, file)
        assert await bench.rules.rules_of(MY, file) == []

    async def test_an_rse_that_takes_nothing(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        with bench.unwritable():
            with pytest.raises(NoTarget):
                await _make(bench, file)
            either = replace(bench.terms, rse_expression="COLO|REM2")
            await bench.rules.add_rules(MY, [file], either)
        states = await bench.rules.states_at(MY, [file], "COLO|REM2")
        assert states == {file: {"REM2": "COPYING"}}

    async def test_an_expression_for_nothing(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        terms = replace(bench.terms, rse_expression="NOWHERE")
        with pytest.raises(Refused):
            await bench.rules.add_rules(MY, [file], terms)

    async def test_an_ordinary_account_makes_rules_of_its_own_only(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        with pytest.raises(Denied):
            await bench.ordinary.add_rules(MY, [file], bench.terms)
        hers = (await bench.ordinary.add_rules(MY, [file], _alices(bench)))[file]
        assert (await bench.rules.rule(MY, hers)).account == "alice"

    # --- changing them ---------------------------------------------------------------------------

    async def test_a_lifetime_is_read_back(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        rule_id = await _make(bench, file)
        now_ns = time.time_ns()
        await bench.rules.set_lifetime(MY, rule_id, 1000)
        assert _lasts(await bench.rules.rule(MY, rule_id), now_ns, 1000)
        await bench.rules.set_lifetime(MY, rule_id, None)
        assert (await bench.rules.rule(MY, rule_id)).expires_ns is None

    async def test_a_rule_without_time_left_is_gone(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        rule_id = await _make(bench, file)
        await bench.rules.set_lifetime(MY, rule_id, 0)
        with pytest.raises(RuleGone):
            await _ask_until_gone(bench.rules, rule_id)

    async def test_a_deleted_rule_has_an_hour_left(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        rule_id = await _make(bench, file)
        now_ns = time.time_ns()
        await bench.rules.delete_rule(MY, rule_id)
        assert _lasts(await bench.rules.rule(MY, rule_id), now_ns, 3600)

    async def test_an_ordinary_account_changes_nothing(self, bench: Bench) -> None:
        (file,) = bench.files(1)
        hers = (await bench.ordinary.add_rules(MY, [file], _alices(bench)))[file]
        with pytest.raises(Denied):
            await bench.ordinary.set_lifetime(MY, hers, 1000)
        with pytest.raises(Denied):
            await bench.ordinary.boost(MY, hers)
        with pytest.raises(Denied):
            await bench.ordinary.delete_rule(MY, hers)
        assert (await bench.rules.rule(MY, hers)).state is RuleState.REPLICATING

    async def test_traces_are_taken(self, bench: Bench) -> None:
        before = bench.traces
        trace = {
            "eventType": "get",
            "eventVersion": "contract",
            "uuid": "0123456789abcdef0123456789abcdef",
            "account": "root",
            "scope": "s",
            "filename": "f",
            "localSite": "HERE",
            "remoteSite": "COLO",
            "hostname": "here",
            "clientState": "DONE",
            "timeStart": 1.0,
            "timeEnd": 2.0,
        }
        await bench.rules.trace(MY, [trace, trace])
        assert bench.traces == before + 2


def _lasts(rule: Rule, since_ns: int, seconds: float) -> bool:
    """Whether it ends *seconds* after *since_ns*, but for what the request took."""
    assert rule.expires_ns is not None
    return -2 * SECOND < rule.expires_ns - since_ns - seconds * SECOND < 30 * SECOND
