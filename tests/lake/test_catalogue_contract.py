"""Rucio itself, through `RucioCatalogue`, obeys the contract."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import requests
import trio

from lake import Lake
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.base import Catalogue
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.config import RucioConfig
from rucio_fs.did import DID, Identity
from tests.lake.rest import Rest
from tests.unit.catalogue.contract import CatalogueContract, Suspicions

pytestmark = pytest.mark.lake

MY = Identity()


def _settings(lake: Lake, account: str = "root") -> RucioConfig:
    return RucioConfig(config_file=lake.client_config(account), deadline=10.0)


def _add_replicas(lake: Lake, name: str, states: dict[str, str]) -> None:
    """Register a file without bytes; states in Rucio's letters."""
    login = {
        "X-Rucio-Account": "root",
        "X-Rucio-Username": "ddmlab",
        "X-Rucio-Password": "secret",
    }
    answer = requests.get(f"{lake.rucio_url}/auth/userpass", headers=login, timeout=30)
    token = {"X-Rucio-Auth-Token": answer.headers["X-Rucio-Auth-Token"]}
    for rse, state in states.items():
        file = {"scope": "lab", "name": name, "bytes": 7, "adler32": "00000001", "state": state}
        body = {"rse": rse, "files": [file]}
        requests.post(
            f"{lake.rucio_url}/replicas", json=body, headers=token, timeout=30
        ).raise_for_status()


@pytest.fixture
def catalogue(lake: Lake) -> Iterator[RucioCatalogue]:
    made = RucioCatalogue(Asking(_settings(lake)), site="HERE")
    yield made
    made.asking.close()


@pytest.fixture
def suspicions(lake: Lake) -> Iterator[Suspicions]:
    rest = Rest(lake)

    def of(did: DID) -> dict[str, int]:
        rows = rest.get("/replicas/suspicious")
        return {row["rse"]: row["cnt"] for row in rows if (row["scope"], row["name"]) == did}

    yield of
    rest.close()


class TestRucioCatalogue(CatalogueContract):
    """The whole contract."""


async def test_connect_tells_the_account(lake: Lake) -> None:
    for account in ("root", "alice"):
        catalogue = RucioCatalogue(Asking(_settings(lake, account)))
        assert await catalogue.connect(MY) == account
        catalogue.asking.close()


async def test_the_site_has_lan_pfns_first(catalogue: RucioCatalogue, lake: Lake) -> None:
    found = await catalogue.replicas(MY, DID("sky", "exp0001_g.fits"))
    assert [(replica.rse, replica.is_lan) for replica in found.replicas] == [
        ("COLO", True),
        ("REM1", False),
    ]
    assert found.replicas[0].pfn.startswith(f"file://localhost{lake.store('COLO')}/")
    elsewhere = RucioCatalogue(Asking(_settings(lake)), site="FAR2")
    found = await elsewhere.replicas(MY, DID("sky", "exp0001_g.fits"))
    assert not any(replica.is_lan for replica in found.replicas)
    elsewhere.asking.close()


async def test_all_of_a_scope(catalogue: Catalogue, lake: Lake) -> None:
    everything = RucioCatalogue(Asking(_settings(lake)), scope_listing="all")
    shown = {member.did for member in (await everything.scope_content(MY, "sky")).members}
    everything.asking.close()
    assert {DID("sky", "night-001"), DID("sky", "exp0001_g.fits"), DID("sky", "survey")} <= shown
    top = {member.did for member in (await catalogue.scope_content(MY, "sky")).members}
    assert top < shown


async def test_states_other_than_available_have_no_pfn(catalogue: Catalogue, lake: Lake) -> None:
    name = f"copying-{time.monotonic_ns()}.dat"
    await trio.to_thread.run_sync(_add_replicas, lake, name, {"REM1": "A", "COLO": "C"})
    found = await catalogue.replicas(MY, DID("lab", name))
    assert found.states == {"REM1": "AVAILABLE", "COLO": "COPYING"}
    assert [replica.rse for replica in found.replicas] == ["REM1"]
