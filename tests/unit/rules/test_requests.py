"""Asking for DIDs without opening them, giving them back, and datasets brought for their files."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DID, DIDType, Identity, RuleState
from rucio_fs.errors import (
    Denied,
    NeedsApproval,
    NotYetHere,
    QuotaExceeded,
    RucioFsError,
    RuleGone,
    Stuck,
    Unreachable,
)
from rucio_fs.rules.delivery import State
from tests.fake_rules import TERMS
from tests.fakes import MY
from tests.unit.rules.conftest import Bench, Make, now_ns

DAY = 86400


# --- request -------------------------------------------------------------------------------------


async def test_a_request_returns_when_the_rule_is_there(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    await bench.get(file)
    assert trio.current_time() == 0
    assert bench.one(file).rule_id == bench.rules.ids(file)[0]
    await bench.get(file)
    assert bench.rules.calls["add_rules"] == 1
    bench.rules.arrive(file)
    await trio.sleep(35)
    assert bench.arrived == [file]


@pytest.mark.parametrize("do_wait", [False, True])
async def test_what_somebody_else_has_brought_is_found_at_once(
    clock: MockClock, bench: Bench, do_wait: bool
) -> None:
    """Its replica is COPYING; which rule that is has to be asked."""
    file = bench.file()
    rule_id = bench.rules.add(file, account="alice")
    for other in bench.files(20, "s:g"):  # and there is more to look at
        bench.rules.add(other, account="alice")
        bench.start(other, wait=600 if do_wait else 0)
    await trio.sleep(35)
    begin = trio.current_time()
    await bench.get(file)
    assert bench.one(file).rule_id == rule_id
    assert trio.current_time() - begin <= 3


async def test_a_file_that_was_opened_and_is_requested(clock: MockClock, bench: Bench) -> None:
    files = bench.files(20)
    for file in files:
        bench.rules.add(file, account="alice")
        bench.start(file, wait=0)
    await trio.sleep(1)
    begin = trio.current_time()
    for file in files:
        await bench.get(file)
    assert {bench.one(file).rule_id for file in files} == set(bench.rules.ids())
    assert trio.current_time() == begin, "the watcher needs minutes to come by"


async def test_what_is_here_needs_no_rule(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    bench.rules.arrive(file)
    await bench.get(file)
    assert bench.rules.ids() == []


async def test_a_lifetime_makes_a_rule_for_what_is_here(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    bench.rules.arrive(file)
    await bench.get(file, lifetime=30 * DAY)
    rule = bench.rules.known(bench.rules.ids(file)[0])
    assert rule.expires_ns == now_ns() + 30 * DAY * 10**9


@pytest.mark.parametrize(("days", "is_changed"), [(30, True), (7, False), (1, False)])
async def test_a_lifetime_makes_our_rule_last_as_long(
    clock: MockClock, bench: Bench, days: int, is_changed: bool
) -> None:
    file = bench.file()
    await bench.get(file)
    await bench.get(file, lifetime=days * DAY)
    assert len(bench.rules.ids(file)) == 1
    assert (bench.rules.calls["set_lifetime"] == 1) is is_changed
    expires_ns = bench.rules.known(bench.rules.ids(file)[0]).expires_ns
    assert expires_ns == now_ns() + max(days, 7) * DAY * 10**9
    known = bench.one(file).rule
    if is_changed:
        assert known is not None
        assert known.expires_ns == expires_ns, "what the rule says now is shown"


async def test_a_lifetime_that_may_not_be_given(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    await bench.get(file)
    bench.rules.is_admin = False
    with pytest.raises(Denied):
        await bench.get(file, lifetime=30 * DAY)


async def test_a_request_that_is_refused(clock: MockClock, bench: Bench) -> None:
    bench.rules.quota = 1
    with pytest.raises(QuotaExceeded):
        await bench.get(bench.file())
    bench.rules.error = Unreachable("away")
    with pytest.raises(Unreachable):
        await bench.get(bench.file("s:g"))


async def test_a_request_for_what_is_stuck_has_it_tried_again(
    clock: MockClock, bench: Bench
) -> None:
    file = bench.file()
    await bench.get(file)
    bench.rules.fail(file)
    await trio.sleep(70)
    assert bench.one(file).state is State.STUCK
    await bench.get(file)
    await trio.sleep(1)
    assert len(bench.rules.boosted) == 1


async def test_a_request_for_a_dataset(clock: MockClock, bench: Bench) -> None:
    files = bench.files(10)
    group = bench.lake.dataset("s:d", *files)
    await bench.get(group, DIDType.DATASET)
    (rule_id,) = bench.rules.ids()
    assert bench.rules.known(rule_id).did == group
    bench.rules.arrive(*files[:4])
    await trio.sleep(70)
    one = bench.one(group)
    assert (one.here.files, one.files, one.bytes) == (4, 10, 10_000)
    bench.rules.arrive(*files[4:])
    await trio.sleep(70)
    assert bench.arrived == [group]


async def test_a_dataset_with_a_stuck_file(clock: MockClock, bench: Bench) -> None:
    files = bench.files(10)
    group = bench.lake.dataset("s:d", *files)
    await bench.get(group, DIDType.DATASET)
    bench.rules.arrive(*files[1:])
    bench.rules.fail(files[0])
    await trio.sleep(70)
    assert bench.one(group).state is State.STUCK
    assert isinstance(bench.one(group).error, Stuck)
    assert bench.one(group).here.stuck == 1
    bench.rules.arrive(files[0])
    await trio.sleep(70)
    assert bench.arrived == [group]


async def test_the_end_of_the_mount_ends_requests(clock: MockClock, bench: Bench) -> None:
    bench.rules.blocked = trio.Event()
    errors: list[RucioFsError] = []

    async def get() -> None:
        try:
            await bench.get(bench.file())
        except RucioFsError as exc:
            errors.append(exc)

    bench.nursery.start_soon(get)
    await trio.sleep(1)
    bench.keeper.stop()
    await trio.testing.wait_all_tasks_blocked()
    assert [type(error) for error in errors] == [Unreachable]
    with pytest.raises(Unreachable):
        await bench.get(bench.file("s:late"))


# --- release -------------------------------------------------------------------------------------


async def test_a_release_ends_our_rules_and_no_others(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    group = bench.lake.dataset("s:d", file)
    theirs = bench.rules.add(file, account="alice", comment=TERMS.comment)
    by_hand = bench.rules.add(file, "COLO|REM2")
    on_group = bench.rules.add(group, comment=TERMS.comment)
    await bench.get(file, lifetime=DAY)
    (ours,) = {*bench.rules.ids(file)} - {theirs, by_hand}
    assert await bench.keeper.release(MY, file) == 1
    await trio.sleep(40)
    await bench.rules.states_at(MY, [], "COLO")  # Rucio's cleaner comes by
    assert ours not in bench.rules.ids()
    assert bench.rules.ids() == [theirs, by_hand, on_group]
    assert "released" in bench.told()
    assert await bench.keeper.release(MY, file) == 0


async def test_who_waits_for_what_is_released_is_told(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = bench.start(file)
    await trio.sleep(5)
    assert await bench.keeper.release(MY, file) == 1
    await trio.testing.wait_all_tasks_blocked()
    assert (opens.waiting, opens.kinds()) == (0, {RuleGone})
    assert bench.states() == {}


async def test_who_waits_is_told_of_a_release_that_comes_before_any_look_at_the_rule(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bench.file()
    first = bench.start(file)
    await trio.sleep(0.2)  # its rule is made

    async def slowly(*args: object) -> Mapping[DID, Mapping[str, str]]:
        await trio.sleep(60)
        return {}

    monkeypatch.setattr(bench.rules, "states_at", slowly)
    second = bench.start(file)
    await trio.sleep(0.2)
    made = len(bench.rules.ids())
    assert await bench.keeper.release(MY, file) == 1
    await trio.testing.wait_all_tasks_blocked()
    assert first.kinds() == second.kinds() == {RuleGone}
    assert len(bench.rules.ids()) <= made, "nobody has asked for it again"


async def test_a_release_is_no_expiry_however_long_rucio_takes_for_it(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bench.file()
    set_lifetime = bench.rules.set_lifetime

    async def slowly(who: Identity, rule_id: str, lifetime: int) -> None:
        await set_lifetime(who, rule_id, 10)  # time to be read with its new end
        await trio.sleep(60)

    monkeypatch.setattr(bench.rules, "set_lifetime", slowly)
    opens = bench.start(file)
    await trio.sleep(5)
    assert await bench.keeper.release(MY, file) == 1
    assert opens.kinds() == {RuleGone}


async def test_a_release_that_may_not_be(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    opens = bench.start(file)
    await trio.sleep(5)
    bench.rules.is_admin = False
    with pytest.raises(Denied):
        await bench.keeper.release(MY, file)
    await trio.sleep(5)
    assert opens.waiting == 1


async def test_what_is_released_can_be_had_again(clock: MockClock, bench: Bench) -> None:
    file = bench.file()
    await bench.get(file)
    await bench.keeper.release(MY, file)
    opens = bench.start(file)
    await trio.sleep(10)
    assert (opens.waiting, len(bench.rules.ids(file))) == (1, 1)
    bench.rules.arrive(file)
    await trio.sleep(10)
    assert opens.here == [file]


# --- grouping ------------------------------------------------------------------------------------


async def test_many_opens_of_a_dataset_bring_it_all(make: Make, clock: MockClock) -> None:
    bench = make(grouping=10)
    files = bench.files(100)
    group = bench.lake.dataset("s:d", *files)
    bench.rules.delay = 0.3
    opens = bench.start(*files[:50], through=group)
    await trio.sleep(3)
    (rule_id,) = bench.rules.ids(group)
    with_the_dataset = [file for file in files[:50] if bench.one(file).rule_id == rule_id]
    # All but nine, and those of the nine that were looked at after the dataset was on its way.
    assert len(with_the_dataset) >= 41
    bench.rules.delay = 0.0
    assert len(bench.rules.ids()) <= 10, "nine files at most, and then the dataset"
    assert opens.waiting == 50
    assert bench.rules.calls.total() <= 30
    bench.rules.arrive(group)
    await trio.sleep(5)
    assert len(opens.here) == 50
    await trio.sleep(40)
    assert group in bench.arrived


async def test_few_or_slow_opens_bring_their_files_only(make: Make, clock: MockClock) -> None:
    bench = make(grouping=10)
    files = bench.files(30)
    group = bench.lake.dataset("s:d", *files)
    bench.start(*files[:9], through=group)
    await trio.sleep(10)
    for file in files[9:]:
        await trio.sleep(3)
        bench.start(file, through=group)
    bench.start(*bench.files(20, "s:loose"))
    await trio.sleep(5)
    assert bench.rules.ids(group) == []
    assert len(bench.rules.ids()) == 50


async def test_a_dataset_that_is_refused_leaves_its_files(make: Make, clock: MockClock) -> None:
    bench = make(grouping=3)
    files = bench.files(6)
    group = bench.lake.dataset("s:d", *files)
    bench.rules.quota = 5000
    opens = bench.start(*files, through=group)
    await trio.sleep(5)
    assert bench.rules.ids(group) == []
    assert len(bench.rules.ids()) == 6
    assert opens.waiting == 6


async def test_a_dataset_that_waits_for_somebody(make: Make, clock: MockClock) -> None:
    bench = make(grouping=2)
    files = bench.files(4)
    group = bench.lake.dataset("s:d", *files)
    rule_id = bench.rules.add(group, comment=TERMS.comment)
    bench.rules.set_state(rule_id, RuleState.WAITING_APPROVAL)
    for file in files:
        bench.lake.drop_replica(file, "COLO")
    opens = bench.start(*files, through=group)
    await trio.sleep(30)
    # Each on its own, or told why not: nobody waits in silence.
    assert opens.kinds() <= {NeedsApproval, NotYetHere}
    assert len(bench.rules.ids()) - 1 + len(opens.errors) == 4
