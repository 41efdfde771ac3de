"""How a DID stands for whoever only asks, and the small parts: pace, guard, finder, events."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from rucio_fs.config import CacheConfig
from rucio_fs.did import DID, DIDType, RuleState
from rucio_fs.errors import Refused, Stuck, Unreachable
from rucio_fs.rules.delivery import State
from rucio_fs.rules.events import PROBLEMS, Events
from rucio_fs.rules.finding import Finder
from rucio_fs.rules.outlook import Outlook, Outlooks
from rucio_fs.rules.pace import RATE, Pace
from tests.fake_rules import TERMS, FakeRules, file_at_rem1
from tests.fakes import MY, FakeCatalogue, did
from tests.unit.rules.conftest import Bench


class Looks:
    """A keeper's bench, and outlooks over it."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.rules = bench, bench.rules
        keeper, nursery = bench.keeper, bench.nursery
        self.outlooks = Outlooks(keeper, bench.rules, keeper.finder, "COLO", CacheConfig(), nursery)

    async def of(self, name: DID) -> Outlook:
        if self.rules.lake.type_of(name).is_collection:
            return await self.outlooks.of_collection(MY, name)
        return await self.outlooks.of_file(MY, name, self.rules.lake.states(name))


@pytest.fixture
def looks(bench: Bench) -> Looks:
    return Looks(bench)


# --- files ---------------------------------------------------------------------------------------


async def test_a_file_nobody_has_asked_for(clock: MockClock, looks: Looks) -> None:
    file = looks.bench.file()
    assert await looks.of(file) == Outlook(State.NOT_AVAILABLE, None, None, None)
    assert looks.rules.ids() == [], "no rule is made by looking"


async def test_a_file_that_is_here_and_what_keeps_it(clock: MockClock, looks: Looks) -> None:
    file = looks.bench.file()
    short = looks.rules.add(file, lifetime=100)
    long = looks.rules.add(file, "site=HERE", lifetime=1000)
    looks.rules.arrive(file)
    looks.rules.add(file, account="alice", ask_approval=True)
    outlook = await looks.of(file)
    assert (outlook.state, outlook.error) == (State.AVAILABLE, None)
    assert outlook.rule is not None
    assert outlook.rule.id == long != short


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (RuleState.STUCK, State.STUCK),
        (RuleState.SUSPENDED, State.SUSPENDED),
        (RuleState.WAITING_APPROVAL, State.WAITING_APPROVAL),
        (RuleState.REPLICATING, State.REPLICATING),
        (RuleState.INJECT, State.REPLICATING),
    ],
)
async def test_a_file_that_somebody_else_brings(
    clock: MockClock, looks: Looks, state: RuleState, seen: State
) -> None:
    file = looks.bench.file()
    rule_id = looks.rules.add(file, account="alice")
    looks.rules.set_state(rule_id, state)
    looks.rules.lake.drop_replica(file, "COLO")
    outlook = await looks.of(file)
    assert outlook.state is seen
    assert outlook.rule is not None
    assert outlook.rule.id == rule_id
    assert (outlook.error is None) is (seen is State.REPLICATING)


async def test_what_is_on_its_way_is_told_as_the_keeper_knows_it(
    clock: MockClock, looks: Looks
) -> None:
    file = looks.bench.file()
    looks.bench.start(file)
    await trio.sleep(3)
    looks.rules.calls.clear()
    outlook = await looks.of(file)
    assert outlook.delivery is looks.bench.one(file)
    assert looks.rules.calls == {}
    looks.rules.fail(file)
    await trio.sleep(10)
    outlook = await looks.of(file)
    assert (outlook.state, type(outlook.error)) == (State.STUCK, Stuck)


async def test_why_it_did_not_come_is_told_after_it_is_over(clock: MockClock, looks: Looks) -> None:
    file = looks.bench.file()
    looks.rules.quota = 1
    opens = looks.bench.start(file)
    await trio.sleep(1)
    outlook = await looks.of(file)
    assert (outlook.state, str(outlook.error)) == (State.NOT_AVAILABLE, str(opens.errors[0]))


async def test_answers_are_a_moment_old_at_most(clock: MockClock, looks: Looks) -> None:
    """`getfattr -d` reads twenty attributes."""
    file = looks.bench.file()
    for _ in range(20):
        await looks.of(file)
    assert looks.rules.calls["rules_of"] == 1
    looks.rules.add(file)
    await trio.sleep(2.1)
    assert (await looks.of(file)).state is State.REPLICATING
    looks.rules.end(looks.rules.ids()[0])
    looks.outlooks.forget(file)
    assert (await looks.of(file)).state is State.NOT_AVAILABLE


# --- collections ---------------------------------------------------------------------------------


async def test_how_a_collection_stands(clock: MockClock, looks: Looks) -> None:
    files = looks.bench.files(3)
    group = looks.rules.lake.dataset("s:d", *files)
    assert (await looks.of(group)).state is State.NOT_AVAILABLE
    looks.rules.arrive(*files)
    await trio.sleep(3)
    assert (await looks.of(group)).state is State.AVAILABLE, "whoever has brought it"
    rule_id = looks.rules.add(group, account="alice")
    await trio.sleep(3)
    outlook = await looks.of(group)
    assert outlook.state is State.AVAILABLE
    assert outlook.rule is not None
    assert outlook.rule.id == rule_id
    looks.rules.fail(files[0])
    await trio.sleep(3)
    assert (await looks.of(group)).state is State.STUCK


async def test_a_collection_of_one_file(clock: MockClock, looks: Looks) -> None:
    file = looks.bench.file()
    group = looks.rules.lake.dataset("s:d", file)
    looks.rules.arrive(file)
    assert (await looks.of(group)).state is State.AVAILABLE


async def test_the_end_of_the_mount_ends_looks(clock: MockClock, looks: Looks) -> None:
    file = looks.bench.file()
    looks.rules.blocked = trio.Event()
    errors: list[Exception] = []

    async def look() -> None:
        try:
            await looks.of(file)
        except Unreachable as exc:
            errors.append(exc)

    looks.bench.nursery.start_soon(look)
    await trio.sleep(1)
    looks.outlooks.stop()
    await trio.testing.wait_all_tasks_blocked()
    assert len(errors) == 1


async def test_an_empty_collection_is_not_here(clock: MockClock, looks: Looks) -> None:
    group = looks.rules.lake.dataset("s:d")
    assert (await looks.of(group)).state is State.NOT_AVAILABLE


async def test_progress_of_what_comes_and_of_what_does_not(clock: MockClock, looks: Looks) -> None:
    files = looks.bench.files(4)
    group = looks.rules.lake.dataset("s:d", *files)
    rule_id = looks.rules.add(group, account="alice")
    looks.rules.arrive(files[0])
    facts = await looks.outlooks.progress(MY, group, DIDType.DATASET, None, await looks.of(group))
    assert facts == {
        "did": "s:d", "type": "DATASET", "state": "REPLICATING", "rule_id": rule_id,
        "expires_at": None, "since": None, "files": 4, "files_here": 1, "files_stuck": 0,
        "bytes": 4000, "bytes_here": 1000, "eta": None, "error": None,
    }  # fmt: skip
    facts = await looks.outlooks.progress(
        MY, files[0], DIDType.FILE, 1000, await looks.of(files[0])
    )
    assert (facts["state"], facts["files_here"], facts["bytes_here"]) == ("AVAILABLE", 1, 1000)
    assert (facts["files"], facts["bytes"]) == (1, 1000)
    facts = await looks.outlooks.progress(
        MY, files[1], DIDType.FILE, 1000, await looks.of(files[1])
    )
    assert (facts["state"], facts["files_here"], facts["bytes_here"]) == ("REPLICATING", 0, 0)


async def test_when_it_will_be_here(clock: MockClock, bench: Bench) -> None:
    """Files as long as those before them, collections as their bytes have come so far."""
    first, second = bench.files(2)
    bench.start(first)
    await trio.sleep(20)
    assert bench.keeper.board.eta(bench.one(first)) is None, "nothing tells yet"
    bench.rules.arrive(first)
    await trio.sleep(3)
    bench.start(second)
    await trio.sleep(5)
    eta = bench.keeper.board.eta(bench.one(second))
    assert eta == pytest.approx(16, abs=3)
    await trio.sleep(60)
    assert bench.keeper.board.eta(bench.one(second)) is None, "it takes longer, who knows how long"

    files = bench.files(10, "s:d.")
    group = bench.lake.dataset("s:d", *files)
    await bench.get(group, DIDType.DATASET)
    await trio.sleep(60)
    assert bench.one(group).bytes
    assert bench.keeper.board.eta(bench.one(group)) is None, "nothing has come yet"
    bench.rules.arrive(*files[:5])
    await trio.sleep(40)
    assert bench.keeper.delivery(MY, group) is not None
    eta = bench.keeper.board.eta(bench.one(group))
    assert eta is not None
    assert 60 <= eta <= 140

    files = bench.files(10, "s:e.")
    group = bench.lake.dataset("s:e", *files)
    bench.rules.arrive(*files[:5])  # before anybody asked
    await bench.get(group, DIDType.DATASET)
    await trio.sleep(60)
    bench.rules.arrive(*files[5:7])
    await trio.sleep(40)
    assert bench.keeper.delivery(MY, group) is not None
    eta = bench.keeper.board.eta(bench.one(group))
    assert eta is not None
    assert 90 <= eta <= 210, "three files, where two took 60 to 140 s"


async def test_what_datasets_took_says_nothing_of_files(clock: MockClock, bench: Bench) -> None:
    group = bench.lake.dataset("s:d", *bench.files(3, "s:d."))
    await bench.get(group, DIDType.DATASET)
    await trio.sleep(300)
    bench.rules.arrive(group)
    here = bench.file("s:here")
    bench.rules.arrive(here)
    await bench.open(here)  # which took no time at all, for nobody brought it
    await trio.sleep(60)
    assert group in bench.arrived
    file = bench.file()
    bench.start(file)
    await trio.sleep(5)
    assert bench.keeper.board.eta(bench.one(file)) is None


# --- finding -------------------------------------------------------------------------------------


async def test_rules_that_serve_the_site_best_first(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules
) -> None:
    file = file_at_rem1(lake, "s:f")
    made = {
        "stuck": rules.add(file, account="a1"),
        "elsewhere": rules.add(file, "REM2", account="a2"),
        "theirs": rules.add(file, "COLO|REM2", account="a3"),
        "ours": rules.add(file),
        "waiting": rules.add(file, account="a4", ask_approval=True),
        "suspended": rules.add(file, account="a5"),
    }
    rules.set_state(made["stuck"], RuleState.STUCK)
    rules.set_state(made["suspended"], RuleState.SUSPENDED)
    found = await Finder(rules, TERMS).serving(MY, file)
    names = {rule_id: name for name, rule_id in made.items()}
    assert [names[rule.id] for rule in found] == [
        "ours", "theirs", "stuck", "waiting", "suspended",
    ]  # fmt: skip


async def test_expressions_are_asked_for_once(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules
) -> None:
    file = file_at_rem1(lake, "s:f")
    rules.add(file, "site=HERE")
    finder = Finder(rules, TERMS)
    for _ in range(5):
        assert len(await finder.serving(MY, file)) == 1
    assert rules.calls["rses"] == 2
    await trio.sleep(601)
    await finder.serving(MY, file)
    assert rules.calls["rses"] == 4, "RSEs come and go"


async def test_an_expression_whose_rses_are_gone(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules
) -> None:
    file = file_at_rem1(lake, "s:f")
    rules.add(file, "site=HERE", account="alice")
    del rules.expressions["site=HERE"]
    assert await Finder(rules, TERMS).serving(MY, file) == []
    with pytest.raises(Refused):
        await rules.rses(MY, "site=HERE")


# --- pace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("youngest", "calls", "least"),
    [(0, 1, 1.0), (5, 2, 1.0), (30, 2, 3.0), (1000, 2, 10.0), (None, 2, 30.0), (0, 10, 10 / RATE)],
)
def test_pauses_grow_with_the_age_of_waits(
    youngest: float | None, calls: int, least: float
) -> None:
    pauses = [Pace(1.0, 10.0).pause(youngest, calls) for _ in range(100)]
    assert min(pauses) >= least
    assert max(pauses) <= least * 1.1
    assert len(set(pauses)) > 50, "mounts that began together drift apart"


def test_pauses_double_while_rucio_is_away() -> None:
    pace = Pace(1.0, 10.0)
    longest = []
    for _ in range(8):
        pace.failed()
        pauses = [pace.pause(0, 1) for _ in range(200)]
        longest.append(max(pauses))
        assert min(pauses) >= max(pauses) * 0.45
    assert longest[:4] == pytest.approx([2, 4, 8, 16], rel=0.1)
    assert longest[-1] <= 30
    pace.succeeded()
    assert pace.pause(0, 1) <= 1.1


# --- events --------------------------------------------------------------------------------------


def test_events_begin_anew_when_there_are_too_many(clock: MockClock) -> None:
    async def fill() -> None:
        events = Events(size=1000)
        for number in range(100):
            before = len(events)
            events.note("available", did(f"s:{number}"), rule_id=None, state="AVAILABLE")
            assert len(events) <= 1000
            if len(events) < before:
                break
        lines = [json.loads(line) for line in events.read(0, 1000).splitlines()]
        assert [line["did"] for line in lines] == [f"s:{number}"]
        assert lines[0].keys() == {"time", "event", "did", "state"}
        assert events.read(2, 3) == events.read(0, 1000)[2:5]

    trio.run(fill, clock=clock)


async def test_a_line_is_for_people_too(clock: MockClock) -> None:
    events = Events()
    begin_ns = events.changed_ns
    await trio.sleep(1.5)
    events.note("available", did("s:Größe"))
    assert events.read(0, 1000).decode() == (
        '{"time": "2026-01-01T00:00:01.500Z", "event": "available", "did": "s:Größe"}\n'
    )
    assert events.changed_ns - begin_ns == 1_500_000_000, "tail -f sees that there is more"


async def test_problems_are_the_newest_each_once(clock: MockClock) -> None:
    events = Events()
    for number in range(PROBLEMS + 10):
        events.problem(did(f"s:{number}"), "STUCK", "no route", "r1")
    problems = events.problems()
    assert len(problems) == PROBLEMS
    assert problems[0]["did"] == f"s:{PROBLEMS + 9}"
    await trio.sleep(3600)
    events.problem(did("s:50"), "STUCK", "no route", "r1")
    (again,) = [one for one in events.problems() if one["did"] == "s:50"]
    assert again["time"] == "2026-01-01T01:00:00Z"
    events.problem(did("s:50"), "STUCK", "another reason", "r1")
    assert len([one for one in events.problems() if one["did"] == "s:50"]) == 2


async def test_transfers_tell_who_waits(clock: MockClock, bench: Bench) -> None:
    first, second = bench.files(2)
    bench.start(first, first)
    await trio.sleep(2)
    bench.start(second)
    await trio.sleep(2)
    told = bench.keeper.board.transfers()
    assert [(one["did"], one["waiting"], one["uids"]) for one in told] == [
        (str(first), 2, [1000]),
        (str(second), 1, [1000]),
    ]
    assert {one["files"] for one in told} == {1}
    assert told[0]["rule_id"] == bench.rules.ids(first)[0]
    assert bench.keeper.status() == {"on_their_way": 2, "waiting": 3}
