"""user.rucio.request and user.rucio.release, as they are written on a DID."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.availability import Site
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.config import CacheConfig, Config
from rucio_fs.did import DID, DIDType
from rucio_fs.errors import NoRule, NotFound, Refused
from rucio_fs.nodes import requests
from rucio_fs.nodes.attributes import Subject
from rucio_fs.opening import Opener
from rucio_fs.rules.delivery import State
from rucio_fs.rules.services import RuleServices
from tests.fake_rules import TERMS, FakeRules, file_at_rem1
from tests.fakes import MY, FakeCatalogue


class Desk:
    """The services of a mount, and a DID to write on."""

    def __init__(self, lake: FakeCatalogue, rules: FakeRules, nursery: trio.Nursery) -> None:
        self.lake, self.rules = lake, rules
        self.catalogue = CachedCatalogue(lake, CacheConfig(), nursery)
        self.services = RuleServices.build(
            Config(), TERMS, rules, "https://rucio", nursery, lambda one: None
        )
        nursery.start_soon(self.services.keeper.run)
        self.opener = Opener(self.catalogue, Site(rse="COLO"), timeout=60.0, now_ttl=2.0)

    def subject(self, did: DID) -> Subject:
        is_file = self.lake.type_of(did) is DIDType.FILE
        return Subject(self.catalogue, self.opener, self.services, MY, did, 2.0, is_file)

    async def write(self, did: DID, name: str, value: str = "1") -> None:
        await requests.carry_out(self.subject(did), self.services, name, value)

    async def state(self, did: DID) -> State:
        outlook = await self.subject(did).outlook()
        assert outlook is not None
        return outlook.state


@pytest.fixture
def desk(lake: FakeCatalogue, rules: FakeRules, nursery: trio.Nursery) -> Desk:
    return Desk(lake, rules, nursery)


async def test_a_request_and_a_release(clock: MockClock, desk: Desk) -> None:
    file = file_at_rem1(desk.lake, "s:f")
    assert await desk.state(file) is State.NOT_AVAILABLE
    await desk.write(file, requests.REQUEST)
    (rule_id,) = desk.rules.ids(file)
    assert await desk.state(file) is State.REPLICATING
    desk.rules.arrive(file)
    await trio.sleep(40)
    assert await desk.state(file) is State.AVAILABLE
    await desk.write(file, requests.RELEASE)
    await desk.rules.states_at(MY, [], "COLO")  # Rucio's cleaner comes by
    assert rule_id not in desk.rules.ids()
    desk.lake.drop_replica(file, "COLO")
    assert trio.current_time() < 45
    assert await desk.state(file) is State.NOT_AVAILABLE, "asked again, and not remembered"


async def test_what_was_never_requested_cannot_be_released(clock: MockClock, desk: Desk) -> None:
    file = file_at_rem1(desk.lake, "s:f")
    desk.rules.add(file, account="alice")
    with pytest.raises(NoRule, match="s:f"):
        await desk.write(file, requests.RELEASE)
    assert len(desk.rules.ids()) == 1


async def test_a_dataset_with_a_lifetime(clock: MockClock, desk: Desk) -> None:
    group = desk.lake.dataset("s:d", file_at_rem1(desk.lake, "s:f"))
    await desk.write(group, requests.REQUEST, '{"lifetime": 100}')
    rule = desk.rules.known(desk.rules.ids(group)[0])
    assert rule.expires_ns is not None
    assert rule.expires_ns - rule.created_ns == 100 * 10**9


async def test_nonsense_makes_no_rule(clock: MockClock, desk: Desk) -> None:
    file = file_at_rem1(desk.lake, "s:f")
    with pytest.raises(Refused):
        await desk.write(file, requests.REQUEST, "please")
    subject = desk.subject(file)
    desk.lake.delete(file)
    with pytest.raises(NotFound):
        await requests.carry_out(subject, desk.services, requests.REQUEST, "1")
    assert desk.rules.ids() == []
