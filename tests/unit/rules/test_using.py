"""Keeping what is open at the site: its rule is made to last, or another is made."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DID, RuleTerms
from rucio_fs.errors import Unreachable
from rucio_fs.rules.events import Events
from rucio_fs.rules.finding import Finder
from rucio_fs.rules.using import Using
from tests.fake_rules import TERMS, FakeRules, file_at_rem1, files_at_rem1
from tests.fakes import MY, SECOND, FakeCatalogue
from tests.unit.rules.conftest import now_ns

LIFETIME = 1000
SHORT = replace(TERMS, lifetime=LIFETIME)


class Bench:
    """A `Using` that runs, and a file that our rule has brought."""

    def __init__(self, lake: FakeCatalogue, rules: FakeRules, terms: RuleTerms) -> None:
        self.rules = rules
        self.events = Events()
        self.using = Using(rules, Finder(rules, terms), terms, self.events)
        self.file = file_at_rem1(lake, "s:f")

    def left(self, rule_id: str) -> float:
        """Seconds until a rule ends."""
        expires_ns = self.rules.known(rule_id).expires_ns
        assert expires_ns is not None
        return (expires_ns - now_ns()) / SECOND

    def add(
        self, lifetime: float | None = LIFETIME, comment: str = TERMS.comment, account: str = "root"
    ) -> str:
        rule_id = self.rules.add(self.file, comment=comment, lifetime=lifetime, account=account)
        self.rules.arrive(self.file)
        return rule_id

    def hold(self, file: DID | None = None) -> None:
        self.using.hold(MY, file or self.file)
        self.using.opened(MY, file or self.file)

    def drop(self) -> None:
        self.using.drop(MY, self.file)


@pytest.fixture
def bench(lake: FakeCatalogue, rules: FakeRules, nursery: trio.Nursery) -> Bench:
    made = Bench(lake, rules, SHORT)
    nursery.start_soon(made.using.run)
    return made


async def test_a_rule_lasts_as_long_as_its_file_is_open(clock: MockClock, bench: Bench) -> None:
    rule_id = bench.add()
    bench.hold()
    shortest = float("inf")
    for _ in range(100):
        await trio.sleep(100)
        shortest = min(shortest, bench.left(rule_id))
    assert shortest > 0.2 * LIFETIME
    assert bench.rules.ids() == [rule_id]
    # At about half of its time: 20 to 40 times in ten lifetimes would be often.
    assert 10 <= bench.rules.calls["set_lifetime"] <= 21
    assert b'"extended"' in bench.events.read(0, 1000)


async def test_a_file_that_is_closed_early_costs_nothing(clock: MockClock, bench: Bench) -> None:
    bench.add()
    for _ in range(20):
        bench.hold()
        await trio.sleep(LIFETIME / 4 - 1)
        bench.drop()
        await trio.sleep(10)
    assert bench.rules.calls == {}


async def test_the_last_one_who_closes_it_counts(clock: MockClock, bench: Bench) -> None:
    rule_id = bench.add()
    bench.hold()
    bench.hold()
    await trio.sleep(100)
    bench.drop()
    await trio.sleep(1500)
    assert bench.left(rule_id) > 0
    bench.drop()
    bench.rules.calls.clear()
    await trio.sleep(3000)
    assert bench.rules.calls == {}


async def test_a_rule_that_lasts_anyway_is_left_alone(clock: MockClock, bench: Bench) -> None:
    bench.add(lifetime=None, comment="by hand", account="alice")
    bench.hold()
    await trio.sleep(3000)
    assert bench.rules.calls.keys() == {"rules_of", "rses"}
    assert bench.rules.calls["rules_of"] == 1, "it is known to stay"


async def test_a_lifetime_that_rucio_cuts_is_read_back(clock: MockClock, bench: Bench) -> None:
    rule_id = bench.add()
    bench.rules.longest_lifetime = 300
    bench.hold()
    await trio.sleep(2000)
    assert bench.left(rule_id) > 0
    # Half a lifetime is never granted, so each look asks for it: four in a lifetime.
    assert 5 <= bench.rules.calls["set_lifetime"] <= 8


async def test_where_rules_cannot_be_extended_they_are_made_anew(
    clock: MockClock, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    first = bench.add()
    bench.rules.is_admin = False
    bench.hold()
    for _ in range(30):
        await trio.sleep(100)
    assert first not in bench.rules.ids()
    (second,) = bench.rules.ids()
    assert bench.left(second) > 0
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1, "said once"
    assert "made anew" in warnings[0].getMessage()
    assert bench.rules.known(second).comment == TERMS.comment


async def test_what_has_not_come_is_not_asked_for_again(clock: MockClock, bench: Bench) -> None:
    """Who waits for a file whose rule has ended is told so, and not left to a rule unseen."""
    bench.rules.add(bench.file, comment=TERMS.comment, lifetime=LIFETIME / 2)
    bench.rules.is_admin = False
    bench.using.hold(MY, bench.file)
    await trio.sleep(3000)
    assert bench.rules.ids() == []
    bench.using.opened(MY, bench.file)
    await trio.sleep(300)
    assert len(bench.rules.ids()) == 1, "what is open and gone is brought back"


async def test_somebody_elses_rule_that_ends_is_not_relied_on(
    clock: MockClock, bench: Bench
) -> None:
    theirs = bench.add(comment="by hand", account="alice")
    bench.hold()
    await trio.sleep(900)
    (ours,) = {*bench.rules.ids()} - {theirs}
    assert bench.left(ours) > LIFETIME / 4
    assert bench.rules.calls["set_lifetime"] == 0
    lines = bench.events.read(0, 10_000).decode()
    assert '"kept"' in lines
    assert ours in lines


async def test_a_rule_of_ours_that_was_made_by_hand_is_not_changed(
    clock: MockClock, bench: Bench
) -> None:
    """Same account and RSE: Rucio would call another one a duplicate."""
    bench.add(comment="by hand", lifetime=600)
    bench.hold()
    await trio.sleep(3000)
    assert bench.rules.calls["set_lifetime"] <= 8
    assert len(bench.rules.ids()) == 1
    assert bench.rules.known(bench.rules.ids()[0]).comment == TERMS.comment, "after its end, ours"


async def test_a_rule_at_another_rse_keeps_nothing_here(clock: MockClock, bench: Bench) -> None:
    bench.add(lifetime=600)
    bench.rules.unwritable.add("COLO")
    bench.rules.add(bench.file, "COLO|REM2", account="alice")
    bench.rules.unwritable.clear()
    bench.hold()
    for _ in range(10):
        await trio.sleep(200)
        ours = bench.rules.ids(bench.file)[0]
        assert bench.rules.known(ours).rse_expression == "COLO"
        assert bench.left(ours) > 0


async def test_an_outage_is_no_end(clock: MockClock, bench: Bench) -> None:
    rule_id = bench.add()
    bench.hold()
    bench.rules.error = Unreachable("away")
    await trio.sleep(600)
    bench.rules.error = None
    await trio.sleep(350)
    assert bench.left(rule_id) > LIFETIME / 2


async def test_a_bug_is_no_end(
    clock: MockClock, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    rule_id = bench.add()
    bench.hold()
    bench.rules.error = ZeroDivisionError("oops")
    await trio.sleep(600)
    assert "bug while keeping" in caplog.text
    bench.rules.error = None
    await trio.sleep(350)
    assert bench.left(rule_id) > LIFETIME / 2


async def test_one_trouble_is_not_the_others(
    clock: MockClock, lake: FakeCatalogue, bench: Bench
) -> None:
    files = files_at_rem1(lake, 20)
    for file in files:
        bench.rules.add(file, comment=TERMS.comment, lifetime=LIFETIME)
        bench.hold(file)
    lake.delete(files[0])
    await trio.sleep(600)
    ids = [rule_id for file in files[1:] for rule_id in bench.rules.ids(file)]
    assert len(ids) == 19
    assert all(bench.left(rule_id) > LIFETIME / 2 for rule_id in ids)


async def test_what_is_closed_while_others_are_looked_at(
    clock: MockClock, lake: FakeCatalogue, bench: Bench
) -> None:
    bench.add()
    bench.hold()
    others = files_at_rem1(lake, 20)
    for other in others:
        bench.rules.add(other, comment=TERMS.comment, lifetime=LIFETIME)
        bench.hold(other)
    bench.rules.delay = 2.0
    await trio.sleep(LIFETIME / 4 + 1)
    for other in others:
        bench.using.drop(MY, other)
    await trio.sleep(LIFETIME / 4 - 2)
    assert bench.rules.calls["rules_of"] == 1


async def test_long_lifetimes_are_looked_at_every_hour(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules, nursery: trio.Nursery
) -> None:
    """Somebody else's rule may end long before ours would."""
    bench = Bench(lake, rules, TERMS)
    nursery.start_soon(bench.using.run)
    theirs = bench.add(lifetime=5400, comment="by hand", account="alice")
    bench.hold()
    await trio.sleep(5000)
    assert len({*rules.ids()} - {theirs}) == 1


async def test_rules_for_ever_need_nobody(
    clock: MockClock, lake: FakeCatalogue, rules: FakeRules
) -> None:
    bench = Bench(lake, rules, replace(TERMS, lifetime=None))
    bench.hold()
    await bench.using.run()  # returns
    assert rules.calls == {}
