"""Rucio is away, or slow, or broken: waits survive it, and it is not asked all the harder."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.errors import NotYetHere, RucioFsError, TooSlow, Unreachable
from tests.fakes import MY, did
from tests.unit.rules.conftest import Bench, Make

AWAY = Unreachable("rucio refuses the connection")


@pytest.mark.parametrize("outage", [30.0, 560.0])
@pytest.mark.parametrize("error", [AWAY, TooSlow("rucio sends nothing")])
async def test_waits_outlast_an_outage(
    clock: MockClock, bench: Bench, outage: float, error: Exception
) -> None:
    files = bench.files(5)
    opens = bench.start(*files)
    await trio.sleep(5)
    bench.rules.error = error
    await trio.sleep(outage)
    assert opens.waiting == 5
    bench.rules.error = None
    bench.rules.arrive(*files)
    # Whoever comes now does not wait for the end of the pause alone.
    await trio.sleep(31)
    assert sorted(opens.here) == sorted(files)


@pytest.mark.parametrize("outage", [30.0, 560.0])
async def test_an_outage_when_the_rule_is_to_be_made(
    clock: MockClock, bench: Bench, outage: float
) -> None:
    files = bench.files(5)
    bench.rules.error = AWAY
    opens = bench.start(*files)
    await trio.sleep(outage)
    assert (opens.waiting, bench.rules.ids()) == (5, [])
    bench.rules.error = None
    await trio.sleep(6)
    assert len(bench.rules.ids()) == 5
    bench.rules.arrive(*files)
    await trio.sleep(12)
    assert sorted(opens.here) == sorted(files)


async def test_a_wait_through_an_outage_ends_too(clock: MockClock, bench: Bench) -> None:
    bench.rules.error = AWAY
    with pytest.raises(NotYetHere, match="no rule could be made yet"):
        await bench.open(bench.file(), wait=100)
    assert trio.current_time() == pytest.approx(100)
    calls = bench.rules.calls.total()
    await trio.sleep(60)
    assert bench.rules.calls.total() <= calls + 1, "nobody waits, so nobody tries"
    assert bench.states() == {}
    assert isinstance(bench.keeper.board.refusal(MY, did("s:f")), Unreachable)


async def test_who_does_not_wait_tries_once(clock: MockClock, bench: Bench) -> None:
    bench.rules.error = AWAY
    file = bench.file()
    with pytest.raises(NotYetHere):
        await bench.open(file, wait=0)
    await trio.sleep(60)
    assert bench.rules.calls == {"states_at": 1}
    refusal = bench.keeper.board.refusal(MY, file)
    assert isinstance(refusal, Unreachable)
    assert str(refusal) == f"s:f: {AWAY}", "of what it is about"


async def test_an_outage_is_asked_less_and_less(clock: MockClock, bench: Bench) -> None:
    opens = bench.start(*bench.files(20))
    await trio.sleep(5)
    bench.rules.error = AWAY
    bench.rules.calls.clear()
    await trio.sleep(60)
    first = bench.rules.calls.total()
    await trio.sleep(240)
    later = bench.rules.calls.total() - first
    assert 4 <= first <= 12
    assert 7 <= later <= 18, "once in 15 to 30 s"
    assert opens.waiting == 20


async def test_making_rules_is_tried_every_few_seconds(clock: MockClock, bench: Bench) -> None:
    bench.rules.error = AWAY
    bench.start(*bench.files(200))
    await trio.sleep(300)
    # 200 files are four requests of fifty; each is tried again after 2.5 to 5 s.
    assert bench.rules.calls.total() <= 2 * 300
    before = bench.rules.dids["states_at"]
    await trio.sleep(100)
    assert bench.rules.dids["states_at"] - before <= 200 * 100 / 2.5


async def test_mounts_do_not_come_back_all_at_once(clock: MockClock, make: Make) -> None:
    """Jitter: what failed at the same moment is not tried again at the same moment."""
    one, other = make(), make()
    file = one.file()
    one.rules.error = AWAY
    one.start(file)
    other.start(file)
    moments = 0
    for _ in range(2000):
        await trio.sleep(0.01)
        moments += bool(one.rules.calls["states_at"])
        one.rules.calls.clear()
    assert moments > 8, "seven tries of each"


async def test_an_answer_that_was_lost_makes_no_second_rule(clock: MockClock, bench: Bench) -> None:
    """The rules are made, and nobody heard so."""
    files = bench.files(120)
    bench.rules.lost_answers = 3
    opens = bench.start(*files)
    await trio.sleep(60)
    assert len(bench.rules.ids()) == 120
    assert opens.waiting == 120
    bench.rules.arrive(*files)
    await trio.sleep(8)
    assert len(opens.here) == 120


async def test_an_answer_lost_before_the_locks_are_made(clock: MockClock, bench: Bench) -> None:
    bench.rules.is_injected = True
    bench.rules.lost_answers = 1
    files = bench.files(4)
    opens = bench.start(*files)
    await trio.sleep(30)
    assert len(bench.rules.ids()) == 4
    assert opens.waiting == 4
    assert {bench.one(file).rule_id for file in files} == set(bench.rules.ids())


async def test_what_is_still_deleted_is_asked_for_again(clock: MockClock, bench: Bench) -> None:
    """ReplicationRuleCreationTemporaryFailed: an earlier rule's replica is not gone yet."""
    file = bench.file()
    bench.rules.errors["add_rules"] = NotYetHere("creation temporary failed")
    opens = bench.start(file)
    await trio.sleep(10)
    assert opens.waiting == 1
    bench.rules.errors.clear()
    await trio.sleep(6)
    assert len(bench.rules.ids(file)) == 1
    bench.rules.arrive(file)
    await trio.sleep(5)
    assert opens.here == [file]


async def test_a_broken_answer_does_not_end_the_watch(
    clock: MockClock, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    file = bench.file()
    opens = bench.start(file)
    await trio.sleep(5)
    bench.rules.error = KeyError("states")
    await trio.sleep(60)
    assert "bug while looking" in caplog.text
    bench.rules.error = None
    bench.rules.arrive(file)
    await trio.sleep(31)
    assert opens.here == [file]


async def test_a_slow_rucio_is_not_asked_twice_at_once(clock: MockClock, bench: Bench) -> None:
    bench.rules.delay = 20.0
    most = 0
    bench.start(*bench.files(300))
    for _ in range(600):
        await trio.sleep(0.5)
        most = max(most, bench.rules.asking)
    assert 1 <= most <= 3, "two requests for rules, one round of the watcher"


async def test_a_refusal_of_everything_is_told(clock: MockClock, bench: Bench) -> None:
    """A login that has expired is no outage."""
    bench.rules.error = RucioFsError("no")
    with pytest.raises(RucioFsError, match="no"):
        await bench.open(bench.file())
