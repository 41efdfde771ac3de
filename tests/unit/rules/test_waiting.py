"""Opening what is not here: a rule is found or made, whoever waits is told how it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rucio_fs.callers import Caller
from rucio_fs.config import ScannersConfig
from rucio_fs.errors import (
    NotForScanners,
    NotYetHere,
    QuotaExceeded,
    RuleGone,
    TooManyWaiting,
    Unreachable,
)
from rucio_fs.rules.delivery import Delivery, State
from tests.fake_rules import TERMS, FakeRules
from tests.fakes import MY
from tests.unit.rules.conftest import WAIT, Bench, Make


async def test_a_hundred_opens_of_one_file_are_one_rule(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = bench.start(*[file] * 100)
    await trio.sleep(5)
    assert opens.waiting == 100
    assert len(bench.rules.ids()) == 1
    assert bench.rules.calls["add_rules"] == 1
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file] * 100
    assert bench.arrived == [file]
    assert bench.states() == {}


async def test_the_rule_says_what_is_configured(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    bench.start(file)
    await trio.sleep(1)
    (rule_id,) = bench.rules.ids(file)
    rule = bench.rules.known(rule_id)
    assert (rule.account, rule.rse_expression, rule.comment) == ("root", "COLO", TERMS.comment)
    assert rule.expires_ns is not None
    assert rule.expires_ns - rule.created_ns == TERMS.lifetime * 10**9 if TERMS.lifetime else False


async def test_what_has_come_meanwhile_needs_no_rule(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    bench.rules.arrive(file)
    await bench.open(file)
    assert bench.rules.calls == {"states_at": 1}
    assert bench.arrived == [file], "whoever remembers where it was asks again"


async def test_a_rule_that_is_found_gone_when_the_wait_is_over(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was gone before; there is no time left to wait for another one."""
    file = bench.file()
    bench.start(file)
    await trio.sleep(5)
    wait = bench.keeper._wait
    waits: list[float] = []

    async def late(delivery: Delivery, caller: Caller, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 1:
            return await wait(delivery, caller, seconds)
        await trio.sleep(seconds + 0.001)
        delivery.seen_at = float("-inf")
        raise RuleGone("nobody had noticed")

    monkeypatch.setattr(bench.keeper, "_wait", late)
    with pytest.raises(NotYetHere):
        await bench.open(file, wait=1.0)
    assert waits == [1.0, 0.0]


async def test_a_wait_ends_in_time_and_says_how_far_it_is(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    begin = trio.current_time()
    with pytest.raises(NotYetHere, match=r"s:f is not here after 600 s: REPLICATING, rule 0*1"):
        await bench.open(file)
    assert trio.current_time() - begin == pytest.approx(WAIT)
    assert bench.states() == {"s:f": "REPLICATING"}, "it goes on"
    bench.rules.arrive(file)
    await bench.open(file)
    assert bench.rules.calls["add_rules"] == 1


async def test_who_does_not_wait_has_it_brought_all_the_same(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    with pytest.raises(NotYetHere, match="try again later"):
        await bench.open(file, wait=0)
    assert trio.current_time() == 0
    await trio.sleep(1)
    assert bench.states() == {"s:f": "REPLICATING"}
    with pytest.raises(NotYetHere):
        await bench.open(file, wait=0)
    bench.rules.arrive(file)
    await trio.sleep(35)  # nobody waits: a look every half a minute
    assert bench.arrived == [file]
    assert bench.rules.calls["add_rules"] == 1


async def test_who_does_not_wait_is_told_why_it_does_not_come(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    with pytest.raises(NotYetHere):
        await bench.open(file, wait=0)
    await trio.sleep(1)
    bench.rules.fail(file)
    await trio.sleep(120)
    with pytest.raises(Exception, match="STUCK"):
        await bench.open(file, wait=0)


async def test_who_gives_up_leaves_the_rule_and_harms_nobody(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    bench.rules.blocked = trio.Event()
    impatient = bench.start(file)
    patient = bench.start(file)
    await trio.sleep(1)
    impatient.give_up()
    await trio.sleep(1)
    assert (impatient.waiting, patient.waiting) == (0, 1)
    bench.rules.blocked.set()
    await trio.sleep(5)
    assert bench.rules.calls["add_rules"] == 1
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert patient.here == [file]


async def test_a_rule_is_made_although_everybody_gave_up_meanwhile(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    bench.rules.blocked = trio.Event()
    opens = bench.start(file)
    await trio.sleep(1)
    opens.give_up()
    await trio.sleep(1)
    bench.rules.blocked.set()
    await trio.sleep(1)
    assert len(bench.rules.ids(file)) == 1
    later = bench.start(file)
    await trio.sleep(1)
    assert (later.waiting, bench.rules.calls["add_rules"]) == (1, 1)


async def test_a_refusal_is_told_at_once_and_remembered(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    bench.rules.quota = 10
    with pytest.raises(QuotaExceeded, match=r"s:f.*quota"):
        await bench.open(file)
    assert trio.current_time() == 0
    assert isinstance(bench.keeper.board.refusal(MY, file), QuotaExceeded)
    assert bench.states() == {}
    bench.rules.quota = None
    bench.start(file)
    await trio.sleep(1)
    assert bench.keeper.board.refusal(MY, file) is None
    assert len(bench.rules.ids(file)) == 1


async def test_a_bug_is_no_endless_wait(
    clock: MockClock, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.rules.errors["states_at"] = ZeroDivisionError("oops")
    with pytest.raises(Exception, match=r"internal error.*oops"):
        await bench.open(bench.file())
    assert "bug while asking" in caplog.text


# --- limits --------------------------------------------------------------------------------------


async def test_so_many_wait_and_no_more(make: Make, clock: MockClock, rules: FakeRules) -> None:
    bench = make(max_waiting=3)
    files = bench.files(5)
    opens = bench.start(*files)
    await trio.sleep(1)
    assert (opens.waiting, opens.kinds()) == (3, {TooManyWaiting})
    assert len(rules.ids()) == 5, "what nobody may wait for comes all the same"
    rules.arrive(*files)
    await trio.sleep(5)
    assert len(opens.here) == 3
    late = bench.start(*bench.files(3, "s:late"))
    await trio.sleep(1)
    assert late.waiting == 3, "places are free again"


async def test_scanners_bring_nothing(make: Make, clock: MockClock) -> None:
    seen: list[int] = []

    def programs(tid: int) -> frozenset[str]:
        seen.append(tid)
        return frozenset({"updatedb" if tid == 7 else "root"})

    bench = make(programs=programs)
    file = bench.file()
    with pytest.raises(NotForScanners, match=r"s:f.*updatedb.*scanners\.programs"):
        await bench.open(file, caller=Caller(7, 0))
    assert bench.rules.calls == {}
    bench.start(file, caller=Caller(8, 0))
    await trio.sleep(1)
    assert len(bench.rules.ids(file)) == 1
    assert seen == [7, 8]


async def test_who_opens_too_much_brings_no_more(make: Make, clock: MockClock) -> None:
    bench = make(scanners=ScannersConfig(rate=3, window=60.0))
    files = bench.files(5)
    opens = bench.start(*files, *files)
    await trio.sleep(1)
    assert len(bench.rules.ids()) == 3, "a file that is on its way counts once"
    assert (opens.waiting, opens.kinds()) == (6, {NotForScanners})
    other = bench.start(files[-1], caller=Caller(1, 2000))
    await trio.sleep(60)
    assert other.waiting == 1, "each user has his own count"
    late = bench.start(files[-2])
    await trio.sleep(1)
    assert late.waiting == 1, "the window has gone by"


# --- the end -------------------------------------------------------------------------------------


async def test_the_end_of_the_mount_ends_every_wait(clock: MockClock, bench: Bench) -> None:
    files = bench.files(3)
    opens = bench.start(*files)
    await trio.sleep(5)
    bench.keeper.stop()
    await wait_all_tasks_blocked()
    assert (opens.waiting, opens.kinds()) == (0, {Unreachable})
    assert len(bench.rules.ids()) == 3, "the rules stay"
    bench.rules.calls.clear()
    await trio.sleep(60)
    assert bench.rules.calls == {}


async def test_the_end_of_the_mount_ends_waits_for_rules(clock: MockClock, bench: Bench) -> None:
    bench.rules.blocked = trio.Event()
    opens = bench.start(*bench.files(3))
    await wait_all_tasks_blocked()
    bench.keeper.stop()
    await wait_all_tasks_blocked()
    assert (opens.waiting, opens.kinds()) == (0, {Unreachable})
    bench.rules.blocked.set()
    await trio.sleep(5)
    assert opens.waiting == 0


async def test_nobody_waits_for_a_mount_that_ends(clock: MockClock, bench: Bench) -> None:
    bench.keeper.stop()
    opens = bench.start(bench.file())
    await wait_all_tasks_blocked()
    assert (opens.waiting, opens.kinds()) == (0, {Unreachable})


# --- joining -------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["COLO", "COLO|REM2", "site=HERE"])
@pytest.mark.parametrize("account", ["root", "alice"])
@pytest.mark.parametrize("on", ["file", "dataset"])
async def test_what_is_on_its_way_already_needs_no_rule(
    clock: MockClock, bench: Bench, expression: str, account: str, on: str
) -> None:
    file = bench.file()
    group = bench.lake.dataset("s:d", file)
    rule_id = bench.rules.add(file if on == "file" else group, expression, account=account)
    opens = bench.start(file)
    await trio.sleep(10)
    assert bench.rules.ids() == [rule_id]
    assert bench.one(file).rule_id == rule_id
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]


async def test_a_rule_for_another_site_is_no_reason_to_wait(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    bench.rules.add(file, "REM2")
    bench.start(file)
    await trio.sleep(1)
    assert len(bench.rules.ids(file)) == 2


async def test_our_rule_that_rucio_calls_a_duplicate_is_ours(
    clock: MockClock, bench: Bench
) -> None:
    """Its replica cannot be seen: the rule waits for locks."""
    file = bench.file()
    bench.rules.is_injected = True
    rule_id = bench.rules.add(file)
    opens = bench.start(file)
    await trio.sleep(3)
    assert (opens.waiting, bench.one(file).rule_id) == (1, rule_id)
    assert bench.rules.ids() == [rule_id]


async def test_a_rule_whose_making_was_not_answered_is_found(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    bench.rules.lost_answers = 1
    opens = bench.start(file)
    await trio.sleep(10)
    (rule_id,) = bench.rules.ids(file)
    assert (opens.waiting, bench.one(file).rule_id) == (1, rule_id)


async def test_an_ok_rule_at_another_rse_brings_nothing(clock: MockClock, bench: Bench) -> None:
    """Its expression includes the site's RSE, but Rucio has chosen the other one."""
    file = bench.file()
    bench.rules.unwritable.add("COLO")
    bench.rules.add(file, "COLO|REM2")
    bench.rules.unwritable.clear()
    bench.rules.arrive(file, rse="REM2")
    opens = bench.start(file)
    await trio.sleep(1)
    assert len(bench.rules.ids(file)) == 2
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]


async def test_approval_is_waited_for_by_nobody(make: Make, clock: MockClock) -> None:
    """Opens are told at once; approved, it comes, and the next open waits."""
    bench = make(terms=replace(TERMS, ask_approval=True))
    file = bench.file()
    with pytest.raises(NotYetHere, match="WAITING_APPROVAL"):
        await bench.open(file)
    (rule_id,) = bench.rules.ids(file)
    assert bench.states() == {"s:f": "WAITING_APPROVAL"}
    bench.rules.approve(rule_id)
    await trio.sleep(70)
    assert bench.one(file).state is State.REPLICATING, "seen although nobody waits"
    opens = bench.start(file)
    await trio.sleep(1)
    assert opens.waiting == 1
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]
    assert bench.rules.calls["add_rules"] == 1


async def test_an_open_right_after_the_approval_waits(make: Make, clock: MockClock) -> None:
    bench = make(terms=replace(TERMS, ask_approval=True))
    file = bench.file()
    with pytest.raises(NotYetHere):
        await bench.open(file)
    bench.rules.approve(bench.rules.ids(file)[0])
    await trio.sleep(3)
    opens = bench.start(file)
    await trio.sleep(3)
    assert opens.waiting == 1
