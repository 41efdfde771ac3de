"""The fake obeys the contract, so that what is tested with it holds for Rucio."""

from __future__ import annotations

from collections import Counter

import pytest

from rucio_fs.did import DID, Identity
from rucio_fs.errors import Unreachable
from tests.fakes import FailingCatalogue, FakeCatalogue, sample_lake
from tests.unit.catalogue.contract import CatalogueContract, Suspicions

MY = Identity()


class TestFakeCatalogue(CatalogueContract):
    @pytest.fixture
    def catalogue(self) -> FakeCatalogue:
        return sample_lake()

    @pytest.fixture
    def suspicions(self, catalogue: FakeCatalogue) -> Suspicions:
        return _suspicions(catalogue)


class TestFailingCatalogue(CatalogueContract):
    @pytest.fixture
    def catalogue(self, lake: FakeCatalogue) -> FailingCatalogue:
        return FailingCatalogue(lake)

    @pytest.fixture
    def lake(self) -> FakeCatalogue:
        return sample_lake()

    @pytest.fixture
    def suspicions(self, lake: FakeCatalogue) -> Suspicions:
        return _suspicions(lake)


def _suspicions(fake: FakeCatalogue) -> Suspicions:
    return lambda did: Counter(rse for known, rse, _ in fake.suspicious if known == did)


async def test_the_nth_call_fails() -> None:
    failing = FailingCatalogue(sample_lake())
    did = DID("sky", "night-001")
    failing.fail("info", Unreachable("down"), nth=2)
    await failing.info(MY, did)
    with pytest.raises(Unreachable):
        await failing.info(MY, did)
    await failing.info(MY, did)


async def test_every_call_fails_until_healed() -> None:
    failing = FailingCatalogue(sample_lake())
    failing.fail("scopes", Unreachable("down"))
    for _ in range(2):
        with pytest.raises(Unreachable):
            await failing.scopes(MY)
    failing.heal()
    assert await failing.scopes(MY)


async def test_a_copying_replica_has_no_pfn() -> None:
    fake = sample_lake()
    fake.replica("sky:README.txt", "REM2", "davs://rem2/x", state="COPYING")
    found = await fake.replicas(MY, DID("sky", "README.txt"))
    assert [replica.rse for replica in found.replicas] == ["COLO"]
    assert found.states == {"COLO": "AVAILABLE", "REM2": "COPYING"}


async def test_calls_are_counted() -> None:
    fake = sample_lake()
    await fake.info(MY, DID("sky", "night-001"))
    await fake.scopes(Identity("bob"))
    assert fake.calls == {"info": 1, "scopes": 1}
    assert fake.askers == {MY: 1, Identity("bob"): 1}
