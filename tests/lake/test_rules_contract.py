"""Rucio itself, through `RucioRules`, obeys the contract of rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import count

import pytest

from lake import Lake
from lake.fts.client import FtsControl
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.rucio_rules import RucioRules
from rucio_fs.config import RucioConfig
from rucio_fs.did import DID, RuleTerms
from tests.direct import hide
from tests.fake_rules import TERMS
from tests.lake.rest import eventually
from tests.lake.rules import RuleLab
from tests.unit.rules.contract import MY, RulesContract

pytestmark = pytest.mark.lake


def _did(text: str) -> DID:
    return DID(*text.split(":", 1))


class LakeBench:
    """The bench over a scope of the lake, whose transfers are held by the FTS stand-in."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self.lab = RuleLab(lake)
        self.scope = self.lab.scope()
        self.fts = FtsControl(lake.fts_url)
        self._asking = [
            Asking(RucioConfig(config_file=lake.client_config(account), deadline=30.0))
            for account in ("root", "alice")
        ]
        self.rules, self.ordinary = map(RucioRules, self._asking)
        self._numbers = count()

    def close(self) -> None:
        for asking in self._asking:
            asking.close()
        self.lab.close()

    @property
    def terms(self) -> RuleTerms:
        return TERMS

    @property
    def traces(self) -> int:
        return len(self._lake.traces())

    def files(self, count: int, size: int = 1000) -> list[DID]:
        prefix = f"f{next(self._numbers)}"
        return [*map(_did, self.lab.files(self.scope, count=count, size=size, prefix=prefix))]

    def dataset(self, *members: DID) -> DID:
        return self._collection(members, is_container=False)

    def container(self, *members: DID) -> DID:
        return self._collection(members, is_container=True)

    def _collection(self, members: tuple[DID, ...], *, is_container: bool) -> DID:
        did = f"{self.scope}:group{next(self._numbers)}"
        self.lab.add_collection(did, [*map(str, members)], is_container=is_container)
        return _did(did)

    def arrive(self, did: DID) -> None:
        self.fts.clear()
        for rule in self.lab.rules(str(did)):
            self.lab.await_rule(rule["id"])

    async def stuck(self, did: DID) -> str:
        self.fts.clear()
        self.fts.fail(f"/{self.scope}/", reason="TRANSFER [70] injected failure")
        made = await self.rules.add_rules(MY, [did], TERMS)
        self.lab.await_rule(made[did], "STUCK")
        return made[did]

    def quota(self, size: int) -> AbstractContextManager[object]:
        return self.lab.quota("root", "COLO", size + self._used())

    def unwritable(self) -> AbstractContextManager[object]:
        return self.lab.availability("COLO", write=False)

    def unreadable(self) -> AbstractContextManager[object]:
        return self.lab.availability("COLO", read=False)

    def _used(self) -> int:
        rows = self.lab.rows("/accounts/root/usage/local/COLO")
        return sum(row["bytes"] for row in rows)


@pytest.fixture(scope="module")
def shared_bench(lake: Lake) -> Iterator[LakeBench]:
    made = LakeBench(lake)
    yield made
    made.close()
    hide(lake, made.scope)


@pytest.fixture
def bench(shared_bench: LakeBench) -> Iterator[LakeBench]:
    shared_bench.fts.stall(f"/{shared_bench.scope}/")
    yield shared_bench
    shared_bench.fts.clear()


class TestRucioRules(RulesContract):
    """The whole contract."""


def test_transfers_that_are_held_do_not_end(bench: LakeBench) -> None:
    """What the contract's tests of COPYING replicas lean on."""
    (file,) = bench.files(1)
    lab = bench.lab
    rule_id = lab.add_rule(str(file))
    bench.fts.wait_stalled()
    assert lab.rule(rule_id)["state"] == "REPLICATING"
    bench.arrive(file)
    eventually(lambda: lab.states(str(file)), lambda seen: seen == {str(file): "AVAILABLE"})
