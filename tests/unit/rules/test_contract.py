"""The fake obeys the contract, so that what is tested with it holds for Rucio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count

import pytest

from rucio_fs.did import DID, RuleTerms
from tests.fake_rules import TERMS, FakeRules, file_at_rem1
from tests.fakes import FakeCatalogue
from tests.unit.rules.contract import MY, RulesContract


class FakeBench:
    """The bench over the fake, on which nothing moves by itself."""

    def __init__(self) -> None:
        self.lake = FakeCatalogue()
        self.rules = FakeRules(self.lake)
        self.ordinary = self.rules.view_of("alice")
        self._numbers = count()

    @property
    def terms(self) -> RuleTerms:
        return TERMS

    @property
    def traces(self) -> int:
        return len(self.rules.traces)

    def files(self, count: int, size: int = 1000) -> list[DID]:
        return [file_at_rem1(self.lake, self._name(), size) for _ in range(count)]

    def dataset(self, *members: DID) -> DID:
        return self.lake.dataset(self._name(), *members)

    def container(self, *members: DID) -> DID:
        return self.lake.container(self._name(), *members)

    def arrive(self, did: DID) -> None:
        self.rules.arrive(did)

    async def stuck(self, did: DID) -> str:
        made = await self.rules.add_rules(MY, [did], TERMS)
        self.rules.fail(did, error="injected failure", words=f"{did} to COLO from REM1")
        return made[did]

    @contextmanager
    def quota(self, size: int) -> Iterator[None]:
        self.rules.quota = size
        yield
        self.rules.quota = None

    @contextmanager
    def unwritable(self) -> Iterator[None]:
        self.rules.unwritable.add("COLO")
        yield
        self.rules.unwritable.clear()

    def unreadable(self) -> AbstractContextManager[None]:
        return nullcontext()  # nobody asks the fake whether he may read

    def _name(self) -> str:
        return f"s:{next(self._numbers)}"


class TestFakeRules(RulesContract):
    @pytest.fixture
    def bench(self) -> FakeBench:
        return FakeBench()
