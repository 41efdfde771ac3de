"""No room in the lake is told to whoever begins to save, and nobody waits for the answer."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.errors import QuotaExceeded, Unreachable
from rucio_fs.saving import _OwnScopes
from rucio_fs.uploads.admission import Admission
from tests.fake_registry import FakeRegistry
from tests.fakes import MY, FakeCatalogue


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry(FakeCatalogue())


async def test_no_room_is_told_at_once(registry: FakeRegistry) -> None:
    registry.limits["root", "COLO"] = 0
    admission = Admission(registry, MY, "COLO")
    admission.check("s/run/f")  # nothing is known yet, and nobody waits for it
    await admission.look()
    with pytest.raises(QuotaExceeded, match=r"scratch/s/run/f: the account has no room at COLO"):
        admission.check("s/run/f")


@pytest.mark.parametrize("limit", [None, 1])
async def test_where_there_is_room_all_is_well(registry: FakeRegistry, limit: int | None) -> None:
    registry.limits["root", "COLO"] = limit
    admission = Admission(registry, MY, "COLO")
    await admission.look()
    admission.check("s/run/f")


async def test_it_is_looked_at_again(
    autojump_clock: MockClock, registry: FakeRegistry, nursery: trio.Nursery
) -> None:
    admission = Admission(registry, MY, "COLO")
    nursery.start_soon(admission.run)
    registry.limits["root", "COLO"] = 0
    await trio.sleep(100)
    with pytest.raises(QuotaExceeded):
        admission.check("s/f")
    registry.error = Unreachable("away")
    await trio.sleep(100)
    with pytest.raises(QuotaExceeded):
        admission.check("s/f")  # as far as is known
    registry.error = None
    registry.limits["root", "COLO"] = 5
    await trio.sleep(100)
    admission.check("s/f")


async def test_a_rucio_that_hangs_holds_nobody_up(
    autojump_clock: MockClock, registry: FakeRegistry
) -> None:
    registry.blocked = trio.Event()
    admission = Admission(registry, MY, "COLO")
    began = trio.current_time()
    await admission.look()
    assert trio.current_time() - began <= 5
    admission.check("s/f")


async def test_nothing_is_asked_where_nothing_is_named(registry: FakeRegistry) -> None:
    admission = Admission(registry, MY, None)
    await admission.look()
    admission.check("s/f")
    assert registry.calls.total() == 0


async def test_the_scopes_of_before_count_while_rucio_hangs(
    autojump_clock: MockClock, registry: FakeRegistry
) -> None:
    registry.lake.file("s:f")
    scopes = _OwnScopes(registry)
    assert "s" in await scopes.known(MY)
    await trio.sleep(100)
    registry.blocked = trio.Event()
    began = trio.current_time()
    for _ in range(20):
        assert "s" in await scopes.known(MY)
    assert trio.current_time() - began <= 5
    await trio.sleep(100)
    registry.blocked = None
    registry.lake.file("t:f")
    assert "t" in await scopes.known(MY)
