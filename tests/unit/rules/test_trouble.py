"""Rules that get stuck, are stopped, deleted or expire: what waiters hear, and how it goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DID, Identity, Rule, RuleState
from rucio_fs.errors import NeedsApproval, RuleExpired, RuleGone, Stuck, Suspended
from rucio_fs.rules.delivery import State
from tests.fake_rules import TERMS
from tests.fakes import MY
from tests.unit.rules.conftest import Bench, Make, Opens


async def _opened(bench: Bench, *files: DID) -> Opens:
    """Opens that wait for files with a rule each."""
    opens = bench.start(*files)
    await trio.sleep(5)
    assert opens.waiting == len(files)
    return opens


# --- stuck ---------------------------------------------------------------------------------------


async def test_a_stuck_file_is_told_to_all_who_wait(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = await _opened(bench, *[file] * 10)
    bench.rules.fail(file, error="TRANSFER [70] no route", words="s:f to COLO failed 4 times")
    await trio.sleep(10)
    assert (opens.waiting, opens.kinds()) == (0, {Stuck})
    for part in ("s:f", bench.rules.ids()[0], "TRANSFER [70] no route", "failed 4 times"):
        assert part in str(opens.errors[0])
    assert len({id(error) for error in opens.errors}) == 10, "each has its own traceback"
    (problem,) = bench.keeper.board.events.problems()
    assert (problem["did"], problem["state"]) == ("s:f", "STUCK")
    assert problem["error"] == str(opens.errors[0])


async def test_the_next_open_looks_again_and_has_it_tried_again(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    await _opened(bench, file)
    bench.rules.fail(file)
    await trio.sleep(10)
    (rule_id,) = bench.rules.ids(file)
    assert bench.rules.boosted == []
    for _ in range(5):
        with pytest.raises(Stuck):
            await bench.open(file)
        await trio.sleep(10)
    assert bench.rules.boosted == [rule_id], "once a minute"
    await trio.sleep(30)
    with pytest.raises(Stuck):
        await bench.open(file)
    await trio.sleep(1)
    assert bench.rules.boosted == [rule_id] * 2
    assert bench.told().count("boosted") == 2


async def test_what_has_failed_is_not_looked_at_for_ever(clock: MockClock, bench: Bench) -> None:
    stuck, moving = bench.files(2)
    await _opened(bench, stuck, moving)
    bench.rules.fail(stuck)
    await trio.sleep(3500)
    assert bench.states() == {str(stuck): "STUCK", str(moving): "REPLICATING"}
    await trio.sleep(300)
    assert bench.states() == {str(moving): "REPLICATING"}
    (rule_id,) = bench.rules.ids(stuck)
    opens = bench.start(stuck)
    await trio.sleep(5)
    assert opens.kinds() == {Stuck}, "its rule is found again"
    assert bench.rules.ids(stuck) == [rule_id]


async def test_an_open_after_rucio_has_repaired_it_waits(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    await _opened(bench, file)
    bench.rules.fail(file)
    await trio.sleep(10)
    bench.rules.repair(file)
    await trio.sleep(2)
    opens = bench.start(file)
    await trio.sleep(10)
    assert opens.waiting == 1
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]
    assert len(bench.rules.ids()) == 1


async def test_a_repair_is_seen_while_nobody_waits(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    await _opened(bench, file)
    bench.rules.fail(file)
    await trio.sleep(10)
    assert bench.states() == {"s:f": "STUCK"}
    bench.rules.repair(file)
    await trio.sleep(70)
    assert bench.states() == {"s:f": "REPLICATING"}
    bench.rules.arrive(file)
    await trio.sleep(35)
    assert bench.arrived == [file]


async def test_many_repairs_are_all_seen_while_one_needs_somebody(
    clock: MockClock, bench: Bench
) -> None:
    """One file that stays as it is must not keep the watcher from the others' rules."""
    stays, *files = bench.files(4)
    await _opened(bench, stays, *files)
    bench.rules.fail(stays, *files)
    await trio.sleep(20)
    bench.rules.repair(*files)
    await trio.sleep(600)
    assert bench.states() == {str(stays): "STUCK"} | {str(file): "REPLICATING" for file in files}


async def test_a_file_that_arrives_is_here_whatever_its_rule_says(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    opens = await _opened(bench, file)
    bench.rules.set_state(bench.rules.ids()[0], RuleState.STUCK, "called so by hand")
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]


async def test_a_stuck_file_of_a_dataset_is_not_the_others_trouble(
    clock: MockClock, bench: Bench
) -> None:
    good, bad = bench.files(2)
    bench.rules.add(bench.lake.dataset("s:d", good, bad))
    opens = await _opened(bench, good, bad)
    bench.rules.fail(bad)
    await trio.sleep(20)
    assert (opens.waiting, opens.kinds()) == (1, {Stuck})
    bench.rules.arrive(good)
    await trio.sleep(5)
    assert opens.here == [good]


async def test_rules_of_others_are_not_tried_again(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    rule_id = bench.rules.add(file, comment="by hand")
    await _opened(bench, file)
    bench.rules.fail(file)
    await trio.sleep(10)
    with pytest.raises(Stuck):
        await bench.open(file)
    await trio.sleep(1)
    assert bench.one(file).rule_id == rule_id
    assert bench.rules.calls["boost"] == 0


async def test_who_may_not_try_again_is_not_told_so(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    await _opened(bench, file)
    bench.rules.fail(file)
    bench.rules.is_admin = False
    await trio.sleep(10)
    with pytest.raises(Stuck):
        await bench.open(file)
    await trio.sleep(1)
    assert bench.rules.calls["boost"] == 1
    assert "boosted" not in bench.told()


async def test_hundreds_of_failures_are_told_within_seconds(clock: MockClock, bench: Bench) -> None:
    """Their rules are read one a second, and nobody waits for that."""
    files = bench.files(300)
    opens = await _opened(bench, *files)
    bench.rules.fail(*files)
    await trio.sleep(10)
    assert (opens.waiting, opens.kinds()) == (0, {Stuck})


async def test_a_failure_between_two_looks_is_no_failure(clock: MockClock, bench: Bench) -> None:
    """Rucio's finisher marks a replica UNAVAILABLE for a moment before it tries again."""
    file = bench.file()
    opens = await _opened(bench, file)
    rule_id = bench.rules.ids()[0]
    bench.rules.set_state(rule_id, RuleState.REPLICATING)
    for _ in range(5):
        bench.lake.replica(file, "COLO", state="UNAVAILABLE")
        await trio.sleep(1.2)
        bench.rules.repair(file)
        await trio.sleep(2.5)
    assert opens.waiting == 1


# --- stopped -------------------------------------------------------------------------------------


async def test_a_suspended_rule(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = await _opened(bench, file)
    bench.rules.fail(file)
    bench.rules.set_state(bench.rules.ids()[0], RuleState.SUSPENDED, "the operators said so")
    await trio.sleep(10)
    assert opens.kinds() == {Suspended}
    assert "the operators said so" in str(opens.errors[0])
    assert bench.states() == {"s:f": "SUSPENDED"}
    with pytest.raises(Suspended):
        await bench.open(file)
    await trio.sleep(1)
    assert bench.rules.calls["boost"] == 0, "nobody tries that again"
    bench.rules.set_state(bench.rules.ids()[0], None)
    bench.rules.repair(file)
    await trio.sleep(2)
    opens = bench.start(file)
    await trio.sleep(5)
    assert opens.waiting == 1


async def test_a_suspended_rule_does_not_stop_a_running_transfer(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    opens = await _opened(bench, file)
    bench.rules.set_state(bench.rules.ids()[0], RuleState.SUSPENDED)
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]


async def test_a_rule_that_is_denied(make: Make, clock: MockClock) -> None:
    bench = make(terms=replace(TERMS, ask_approval=True))
    file = bench.file()
    with pytest.raises(NeedsApproval):
        await bench.open(file)
    bench.rules.deny(bench.rules.ids()[0])
    await trio.sleep(70)
    assert bench.states() == {}
    assert isinstance(bench.keeper.board.refusal(MY, file), RuleGone)
    with pytest.raises(NeedsApproval):
        await bench.open(file)
    assert len(bench.rules.ids(file)) == 1, "the next open asks again"


async def test_what_waits_for_approval_blinds_nobody(make: Make, clock: MockClock) -> None:
    """A file that nobody approves is odd for ever; a dataset's rule is read all the same."""
    bench = make()
    file = bench.file()
    bench.rules.add(file, comment=TERMS.comment, ask_approval=True)
    with pytest.raises(NeedsApproval):
        await bench.open(file)
    files = bench.files(3, "s:g")
    group = bench.lake.dataset("s:d", *files)
    await bench.get(group, bench.lake.type_of(group))
    bench.rules.arrive(group)
    await trio.sleep(300)
    assert bench.arrived == [group]


# --- gone ----------------------------------------------------------------------------------------


async def test_a_rule_that_is_deleted_is_not_waited_for(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = await _opened(bench, file, file)
    rule_id = bench.rules.ids()[0]
    bench.rules.end(rule_id)
    await trio.sleep(10)
    assert (opens.waiting, opens.kinds()) == (0, {RuleGone})
    assert rule_id in str(opens.errors[0])
    assert bench.states() == {}


async def test_a_rule_that_is_cleaned_later_than_it_ended(clock: MockClock, bench: Bench) -> None:
    """The replica stays COPYING until the reaper comes; the rule is read now and then."""
    file = bench.file()
    opens = await _opened(bench, file)
    bench.rules.end(bench.rules.ids()[0])
    bench.lake.replica(file, "COLO", state="COPYING")
    await trio.sleep(20)
    assert opens.kinds() == {RuleGone}


async def test_a_rule_that_expires(make: Make, clock: MockClock) -> None:
    bench = make(terms=replace(TERMS, lifetime=60))
    opens = await _opened(bench, bench.file())
    await trio.sleep(70)
    assert (opens.waiting, opens.kinds()) == (0, {RuleExpired})


async def test_a_rule_that_ends_before_its_time(clock: MockClock, bench: Bench) -> None:
    """An operator lets it expire, which is how Rucio deletes rules."""
    opens = await _opened(bench, bench.file())
    await bench.rules.delete_rule(MY, bench.rules.ids()[0])
    await trio.sleep(100)
    assert opens.waiting == 1, "it has an hour"


async def test_another_rule_takes_over(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = await _opened(bench, file)
    first = bench.rules.ids()[0]
    other = bench.rules.add(file, account="alice")
    bench.rules.end(first)
    await trio.sleep(15)
    assert (opens.waiting, bench.one(file).rule_id) == (1, other)
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]


async def test_a_rule_that_brought_it_elsewhere_takes_nothing_over(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    bench.rules.unwritable.add("COLO")
    bench.rules.add(file, "COLO|REM2", account="alice")
    bench.rules.unwritable.clear()
    bench.rules.arrive(file, rse="REM2")
    opens = await _opened(bench, file)
    bench.rules.end(bench.rules.ids()[-1])
    await trio.sleep(20)
    assert opens.kinds() == {RuleGone}


async def test_a_rule_that_has_just_brought_it_is_not_a_lost_one(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file comes between the look at its replica and the look at its rules."""
    file = bench.file()
    bench.rules.add(file, account="alice")
    rules_of = bench.rules.rules_of

    async def just_in_time(who: Identity, did: DID) -> Sequence[Rule]:
        bench.rules.arrive(file)
        return await rules_of(who, did)

    monkeypatch.setattr(bench.rules, "rules_of", just_in_time)
    opens = bench.start(file)
    await trio.sleep(20)
    assert (opens.kinds(), opens.here) == (set(), [file])


async def test_the_next_open_makes_a_new_rule(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = await _opened(bench, file)
    bench.rules.end(bench.rules.ids()[0])
    await trio.sleep(10)
    assert opens.kinds() == {RuleGone}
    again = bench.start(file)
    await trio.sleep(5)
    assert (again.waiting, len(bench.rules.ids(file))) == (1, 1)
    assert bench.one(file).state is State.REPLICATING


async def test_a_rule_that_went_while_nobody_waited(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = bench.start(file)
    await trio.sleep(5)
    opens.give_up()
    bench.rules.end(bench.rules.ids()[0])
    await trio.sleep(120)
    assert bench.states() == {}
    opens = bench.start(file)
    await trio.sleep(5)
    assert (opens.waiting, len(bench.rules.ids(file))) == (1, 1)


async def test_a_rule_that_went_and_nobody_has_noticed_yet(clock: MockClock, bench: Bench) -> None:
    """That it is gone is no news for whoever comes afterwards."""
    file = bench.file()
    opens = bench.start(file)
    await trio.sleep(20)
    opens.give_up()
    await trio.sleep(60)
    bench.rules.end(bench.rules.ids()[0])
    later = bench.start(file)
    await trio.sleep(10)
    assert (later.waiting, len(bench.rules.ids(file))) == (1, 1)
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert later.here == [file]


async def test_opens_of_what_is_stuck_and_then_lost_are_one_rule(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    await _opened(bench, file)
    bench.rules.fail(file)
    await trio.sleep(25)
    bench.rules.end(bench.rules.ids()[0])
    bench.rules.delay = 3.0
    first = bench.start(file)
    await trio.sleep(2.5)
    second = bench.start(file)
    await trio.sleep(30)
    bench.rules.delay = 0.0
    assert (first.waiting, second.waiting) == (1, 1)
    assert bench.rules.calls["add_rules"] == 2, "the first one and its successor"
    bench.rules.arrive(file)
    await trio.sleep(10)
    assert (first.here, second.here) == ([file], [file])


async def test_whoever_waited_has_it_logged_once(
    clock: MockClock, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """By the open that fails; what nobody waits for is logged here."""
    waited, alone = bench.files(2)
    opens = await _opened(bench, waited)
    await bench.get(alone)
    bench.rules.fail(waited, alone)
    await trio.sleep(70)
    assert len(opens.errors) == 1
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(warnings) >= 1
    assert all(str(alone) in message for message in warnings)


# --- what is written down ------------------------------------------------------------------------


async def test_events_tell_the_story(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    await _opened(bench, file)
    bench.rules.fail(file)
    await trio.sleep(10)
    with pytest.raises(Stuck):
        await bench.open(file)
    await trio.sleep(5)
    bench.rules.repair(file)
    await trio.sleep(2)
    opens = bench.start(file)
    await trio.sleep(10)
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]
    assert bench.told() == ["requested", "stuck", "boosted", "replicating", "available"]
    lines = bench.keeper.board.events.read(0, 1 << 20).decode().splitlines()
    told = [json.loads(line) for line in lines]
    assert {line["did"] for line in told} == {"s:f"}
    assert {line["rule_id"] for line in told} == {bench.rules.ids()[0]}
    assert "error" in told[1]
    assert told[0]["time"].startswith("2026-01-01T00:00:0")
