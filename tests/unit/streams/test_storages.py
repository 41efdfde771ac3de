"""What is remembered of a server: how fast it is, and when to ask it again."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from rucio_fs.streams import storages
from rucio_fs.streams.storages import Storage, Storages
from rucio_fs.webdav.addresses import Origin

MIB = 1 << 20


@pytest.fixture
def clock() -> MockClock:
    return MockClock()


def pause(storage: Storage) -> float:
    return storage.set_back_until - trio.current_time()


async def test_each_failure_sets_it_back_for_twice_as_long_up_to_a_limit(clock: MockClock) -> None:
    storage = Storage(8)
    pauses = []
    for _ in range(12):
        storage.failed()
        pauses.append(pause(storage))
        clock.jump(pauses[-1])
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30])


async def test_very_many_failures_overflow_nothing(clock: MockClock) -> None:
    storage = Storage(8)
    for _ in range(5000):
        storage.failed()
        clock.jump(pause(storage))
    storage.failed()
    assert pause(storage) == pytest.approx(30)


async def test_what_fails_together_is_one_failure(clock: MockClock) -> None:
    """A server that is restarted breaks all requests that it has."""
    storage = Storage(8)
    for _ in range(8):
        storage.failed()
    assert pause(storage) == pytest.approx(0.5)
    clock.jump(0.5)
    for _ in range(8):
        storage.failed()
    assert pause(storage) == pytest.approx(1.0)


async def test_a_success_ends_it(clock: MockClock) -> None:
    storage = Storage(8)
    for _ in range(5):
        storage.failed()
        clock.jump(60)
    storage.failed(20.0)
    storage.succeeded(1, 0.1)
    assert pause(storage) < 0
    storage.failed()
    assert pause(storage) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (None, 0.5),
        (0.0, 0.5),
        (-5.0, 0.5),
        (7.0, 7.0),
        (30.0, 30.0),
        (3600.0, 30.0),
        (float("inf"), 30.0),
    ],
)
async def test_a_server_may_wish_for_a_longer_pause(
    clock: MockClock, wish: float | None, expected: float
) -> None:
    storage = Storage(8)
    storage.failed(wish)
    assert pause(storage) == pytest.approx(expected)


async def test_a_wish_is_not_shortened_by_another_failure(clock: MockClock) -> None:
    storage = Storage(8)
    storage.failed(20.0)
    storage.failed()
    assert pause(storage) == pytest.approx(20.0)
    storage.failed(25.0)
    assert pause(storage) == pytest.approx(25.0)


async def test_a_new_storage_is_not_set_back() -> None:
    assert pause(Storage(8)) < 0


async def test_the_rate_follows_what_is_measured() -> None:
    storage = Storage(8)
    storage.succeeded(10 * MIB, 1.0)
    assert storage.rate == 10 * MIB
    storage.succeeded(20 * MIB, 1.0)
    assert storage.rate == pytest.approx(13 * MIB)
    for _ in range(40):
        storage.succeeded(MIB, 1.0)
    assert storage.rate == pytest.approx(MIB, rel=0.01)


async def test_small_ranges_and_odd_clocks_tell_nothing() -> None:
    storage = Storage(8)
    storage.succeeded(65536, 1.0)
    storage.succeeded((1 << 18) - 1, 1.0)
    storage.succeeded(MIB, 0.0)
    storage.succeeded(MIB, -1.0)
    assert storage.rate == 0
    storage.succeeded(1 << 18, 1.0)
    assert storage.rate == 1 << 18


@given(rate=st.floats(0, 1e12), best=st.floats(0, 1e12))
def test_slow_is_a_quarter_of_the_best(rate: float, best: float) -> None:
    storage = Storage(8)
    storage.rate = rate
    assert storage.is_slow(best) is (rate > 0 and rate * 4 < best)
    assert not storage.is_slow(rate)


async def test_a_server_is_one_storage_and_its_places_are_counted() -> None:
    known = Storages(3, 10)
    origin = Origin(True, "host", 443)
    storage = known.of(origin)
    assert known.of(Origin(True, "host", 443)) is storage
    others = [
        Origin(False, "host", 443),
        Origin(True, "host", 8443),
        Origin(True, "other", 443),
        Origin(True, "host", 443, "/tmp/proxy"),
    ]
    assert len({id(known.of(one)) for one in [origin, *others]}) == 5
    assert storage.ahead.total_tokens == storage.urgent.total_tokens == 3
    assert storage.ahead is not storage.urgent, "who waits has places of his own"
    assert known.total.total_tokens == 10


async def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "_REMEMBERED", 3)
    known = Storages(3, 10)
    first = known.of(Origin(True, "host0", 443))
    for number in range(1, 4):
        known.of(Origin(True, "host0", 443))
        known.of(Origin(True, f"host{number}", 443))
    assert known.of(Origin(True, "host0", 443)) is first, "it was in use"
    assert len(known._known) == 3


async def test_it_shows_how_it_stands(clock: MockClock) -> None:
    storage = Storage(8)
    storage.succeeded(MIB, 1.0)
    storage.failed()
    assert repr(storage) == "<Storage: 1.05e+06 B/s, 1 failures>"
