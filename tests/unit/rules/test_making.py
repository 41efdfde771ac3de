"""Many rules at once: what is refused is told to whom it concerns, all others are made."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DID, DIDType, RuleState
from rucio_fs.errors import (
    Denied,
    LoginFailed,
    NoTarget,
    NotFound,
    NotYetHere,
    QuotaExceeded,
    RucioFsError,
    RuleExists,
    Unreachable,
)
from rucio_fs.rules.finding import Finder
from rucio_fs.rules.making import BATCH, Begun, Maker
from rucio_fs.rules.verdicts import has_expired
from tests.fake_rules import TERMS, FakeRules, file_at_rem1, files_at_rem1
from tests.fakes import MY, FakeCatalogue
from tests.unit.rules.conftest import Bench


@pytest.fixture
def maker(rules: FakeRules) -> Maker:
    return Maker(rules, Finder(rules, TERMS), TERMS)


def _made(results: dict[DID, Begun | RucioFsError]) -> set[DID]:
    return {did for did, one in results.items() if isinstance(one, Begun) and one.is_made}


async def test_one_request_where_all_goes_well(lake: FakeCatalogue, maker: Maker) -> None:
    files = files_at_rem1(lake, 50)
    results = dict(await maker.begin_files(MY, files))
    assert _made(results) == set(files)
    assert maker._rules.calls == {"states_at": 1, "add_rules": 1}  # type: ignore[attr-defined]


async def test_each_file_as_it_stands(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    far, here, coming, failed, waiting = files_at_rem1(lake, 5)
    lake.replica(here, "COLO", "davs://colo/here")
    rules.add(coming, account="alice")
    rules.add(failed, comment=TERMS.comment)
    rules.fail(failed)
    rules.add(waiting, ask_approval=True)
    results = await maker.begin_files(MY, [far, here, coming, failed, waiting])
    found = {did: one for did, one in results.items() if isinstance(one, Begun)}
    assert found[far].is_made
    assert found[here] == Begun(is_here=True)
    assert found[coming] == Begun()
    for did, state in ((failed, RuleState.STUCK), (waiting, RuleState.WAITING_APPROVAL)):
        assert found[did].rule_id == rules.ids(did)[0]
        rule = found[did].rule
        assert rule is not None
        assert rule.state is state
    assert len(rules.ids()) == 4


async def test_a_moving_rule_of_anybody_serves_a_failed_file(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    file = file_at_rem1(lake, "s:f")
    theirs = rules.add(file, account="alice")
    lake.replica(file, "COLO", state="BEING_DELETED")
    results = await maker.begin_files(MY, [file])
    one = results[file]
    assert isinstance(one, Begun)
    assert one.rule_id == theirs


async def test_a_stuck_rule_of_somebody_else_is_no_hindrance(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    """Ours starts a new transfer, which Rucio's own would in hours."""
    file = file_at_rem1(lake, "s:f")
    rules.add(file, account="alice")
    rules.fail(file)
    results = await maker.begin_files(MY, [file])
    assert _made(dict(results)) == {file}


@pytest.mark.parametrize("where", [0, 1, 249, 498, 499])
async def test_one_of_five_hundred_has_no_quota(
    lake: FakeCatalogue, rules: FakeRules, maker: Maker, where: int
) -> None:
    files = files_at_rem1(lake, 499)
    big = file_at_rem1(lake, "s:big", size=10**9)
    files.insert(where, big)
    rules.quota = 10**6
    results = dict(await maker.begin_files(MY, files))
    assert isinstance(results[big], QuotaExceeded)
    assert "s:big" in str(results[big])
    assert _made(results) == set(files) - {big}
    assert rules.calls["add_rules"] <= 2 * 9 + 1, "halving 500 nine times"


async def test_one_of_five_hundred_is_a_duplicate(
    lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    files = files_at_rem1(lake, 500)
    rules.is_injected = True  # it has no replica that would tell of it
    known = rules.add(files[123])
    results = dict(await maker.begin_files(MY, files))
    one = results[files[123]]
    assert isinstance(one, Begun)
    assert one.rule_id == known
    assert _made(results) == set(files) - {files[123]}
    assert len(rules.ids()) == 500
    assert rules.calls["add_rules"] <= 2 * 9 + 1


async def test_what_came_on_its_way_meanwhile_leaves_the_others(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    """Another mount was quicker with some of a batch."""
    files = files_at_rem1(lake, 6)
    for file in files[:2]:
        rules.add(file)
    results = await maker._make(MY, files, TERMS)
    assert _made(dict(results)) == set(files[2:])
    assert [results[file] for file in files[:2]] == [Begun()] * 2
    assert rules.calls["add_rules"] == 2


async def test_a_file_that_is_gone_takes_nothing_from_the_others(
    lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    files = files_at_rem1(lake, 8)
    lake.delete(files[5])
    results = dict(await maker.begin_files(MY, files))
    assert isinstance(results[files[5]], NotFound)
    assert len(_made(results)) == 7


@pytest.mark.parametrize("error", [Denied("no"), NoTarget("full"), Unreachable("away")])
async def test_what_is_about_all_is_asked_once(
    lake: FakeCatalogue, rules: FakeRules, maker: Maker, error: RucioFsError
) -> None:
    files = files_at_rem1(lake, 50)
    rules.errors["add_rules"] = error
    results = await maker.begin_files(MY, files)
    assert {type(one) for one in results.values()} == {type(error)}
    assert rules.calls["add_rules"] == 1
    assert all(str(error) in str(one) for one in results.values())


async def test_a_login_that_ended_is_told_as_it_is(
    lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    (file,) = files_at_rem1(lake, 1)
    rules.errors["add_rules"] = LoginFailed("the token has expired")
    results = await maker.begin_files(MY, [file])
    assert str(results[file]) == "the token has expired"


async def test_a_duplicate_that_cannot_be_found_is_an_error(
    lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    (file,) = files_at_rem1(lake, 1)
    rules.errors["add_rules"] = RuleExists("duplicate")
    assert isinstance((await maker.begin_files(MY, [file]))[file], RuleExists)
    rules.errors["rules_of"] = Unreachable("away")
    assert isinstance((await maker.begin_files(MY, [file]))[file], Unreachable)


async def test_a_lifetime_asks_for_a_rule_of_what_is_here(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    (file,) = files_at_rem1(lake, 1)
    rules.arrive(file)
    results = dict(await maker.begin_files(MY, [file], 100))
    assert _made(results) == {file}
    rule = rules.known(rules.ids(file)[0])
    assert rule.expires_ns is not None
    assert rule.expires_ns - rule.created_ns == 100 * 10**9


# --- collections ---------------------------------------------------------------------------------


async def test_a_collection_is_one_rule(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    group = lake.dataset("s:d", *files_at_rem1(lake, 3))
    begun = await maker.begin_collection(MY, group)
    assert isinstance(begun, Begun)
    assert begun.is_made
    assert rules.ids() == rules.ids(group) == [begun.rule_id]
    again = await maker.begin_collection(MY, group)
    assert isinstance(again, Begun)
    assert (again.is_made, again.rule_id) == (False, begun.rule_id)


@pytest.mark.parametrize(
    ("state", "is_used"),
    [
        (RuleState.REPLICATING, True),
        (RuleState.INJECT, True),
        (RuleState.STUCK, False),
        (RuleState.SUSPENDED, False),
        (RuleState.WAITING_APPROVAL, False),
    ],
)
async def test_somebody_elses_rule_is_used_while_it_moves(
    clock: MockClock,
    lake: FakeCatalogue,
    rules: FakeRules,
    maker: Maker,
    state: RuleState,
    is_used: bool,
) -> None:
    group = lake.dataset("s:d", *files_at_rem1(lake, 3))
    theirs = rules.add(group, account="alice")
    rules.set_state(theirs, state)
    begun = await maker.begin_collection(MY, group)
    assert isinstance(begun, Begun)
    assert (begun.rule_id == theirs) is is_used
    assert begun.is_made is not is_used


# --- rules that are only there until Rucio has removed them -------------------------------------


async def test_one_of_ours_that_has_expired_stays_on(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    """It was given back a moment ago; another one would be a duplicate."""
    rules.is_cleaning = False
    group = lake.dataset("s:d", *files_at_rem1(lake, 3))
    ours = rules.add(group, comment=TERMS.comment)
    rules.expire_in(ours, 0)
    begun = await maker.begin_collection(MY, group)
    assert isinstance(begun, Begun)
    assert (begun.rule_id, begun.is_made) == (ours, False)
    assert rules.ids(group) == [ours]
    assert begun.rule == rules.known(ours)
    assert not has_expired(rules.known(ours), rules.now_ns())


async def test_so_does_one_of_a_file(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    rules.is_cleaning = False
    file = file_at_rem1(lake, "s:f")
    ours = rules.add(file, comment=TERMS.comment)
    rules.fail(file)
    rules.expire_in(ours, 0)
    begun = (await maker.begin_files(MY, [file]))[file]
    assert isinstance(begun, Begun)
    assert begun.rule_id == ours
    assert not has_expired(rules.known(ours), rules.now_ns())


async def test_one_of_others_that_has_expired_is_not_joined(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    rules.is_cleaning = False
    group = lake.dataset("s:d", *files_at_rem1(lake, 3))
    rules.expire_in(rules.add(group, account="alice"), 0)
    begun = await maker.begin_collection(MY, group)
    assert isinstance(begun, Begun)
    assert begun.is_made


async def test_an_expired_rule_that_may_not_be_changed_is_waited_for(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    rules.is_cleaning = False
    group = lake.dataset("s:d", *files_at_rem1(lake, 3))
    ours = rules.add(group, comment=TERMS.comment)
    rules.expire_in(ours, 0)
    rules.errors["set_lifetime"] = Denied("not an administrator")
    begun = await maker.begin_collection(MY, group)
    assert isinstance(begun, NotYetHere)
    assert f"rule {ours} has expired" in str(begun)


async def test_an_ok_rule_that_brought_a_collection_elsewhere(
    clock: MockClock, bench: Bench
) -> None:
    """Its expression includes the site's RSE, but the files went to the other one."""
    group = bench.lake.dataset("s:d", *bench.files(3))
    bench.rules.unwritable.add("COLO")
    theirs = bench.rules.add(group, "COLO|REM2", account="alice")
    bench.rules.unwritable.clear()
    bench.rules.arrive(group, rse="REM2")
    assert bench.rules.known(theirs).state is RuleState.OK
    await bench.get(group, DIDType.DATASET)
    await trio.sleep(10)
    bench.rules.arrive(group)
    await trio.sleep(60)
    assert bench.arrived == [group]
    assert len(bench.rules.ids(group)) == 2


async def test_a_file_in_two_datasets_of_a_container(clock: MockClock, bench: Bench) -> None:
    """It is here once, and the container is whole with it."""
    files = bench.files(3)
    inner = bench.lake.dataset("s:d1", *files), bench.lake.dataset("s:d2", files[0])
    top = bench.lake.container("s:c", *inner)
    await bench.get(top, DIDType.CONTAINER)
    bench.rules.arrive(top)
    await trio.sleep(60)
    assert bench.arrived == [top]


async def test_a_container_too_large_to_be_counted(clock: MockClock, bench: Bench) -> None:
    bench.rules.longest_sum = 2
    top = bench.lake.container("s:c", bench.lake.dataset("s:d", *bench.files(3)))
    await bench.get(top, DIDType.CONTAINER)
    await trio.sleep(30)
    assert bench.one(top).files is None
    bench.rules.arrive(top)
    await trio.sleep(60)
    assert bench.arrived == [top]


def test_a_batch_is_answered_within_seconds() -> None:
    assert BATCH * 0.05 <= 5


async def test_an_expired_rule_is_in_the_way_of_its_own_file_alone(
    lake: FakeCatalogue, rules: FakeRules, maker: Maker
) -> None:
    """However many are opened with it."""
    rules.is_cleaning = False
    failed, other = files_at_rem1(lake, 2)
    ours = rules.add(failed, comment=TERMS.comment)
    rules.fail(failed)
    rules.expire_in(ours, 0)
    rules.errors["set_lifetime"] = Denied("Account alice can not update this replication rule.")
    begun = await maker.begin_files(MY, [failed, other])
    assert isinstance(begun[failed], NotYetHere)
    assert _made(dict(begun)) == {other}
