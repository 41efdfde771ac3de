"""Services that fail are asked ever more rarely, and at once when they are back."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from rucio_fs.uploads.pausing import Pause, backoff


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chance: every pause is as long as it may be."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


@given(st.integers(0, 10_000))
def test_a_pause_is_never_too_short_nor_too_long(failures: int) -> None:
    assert 0.25 <= backoff(failures) <= 120
    if failures > 10:
        assert backoff(failures) >= 60


async def test_nothing_is_waited_for_at_first(clock: MockClock) -> None:
    pause = Pause()
    assert pause.is_over
    assert pause.until == float("-inf")
    assert pause.reason == ""


async def test_each_failure_in_a_row_doubles_it(even: None, clock: MockClock) -> None:
    pause, lengths = Pause(), []
    for _ in range(9):
        pause.failed("away")
        assert not pause.is_over
        lengths.append(pause.until - trio.current_time())
        await trio.sleep_until(pause.until)
        assert pause.is_over
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 120, 120]


async def test_what_fails_together_counts_once(even: None, clock: MockClock) -> None:
    pause = Pause()
    for number in range(10):
        pause.failed(f"reason {number}")
        await trio.sleep(0.01)
    assert pause.until - trio.current_time() == pytest.approx(0.9)
    assert pause.reason == "reason 0"
    assert "reason 0" in repr(pause)


async def test_a_success_ends_it_and_is_forgotten_no_failure_counts(
    even: None, clock: MockClock
) -> None:
    pause = Pause()
    for _ in range(3):
        pause.failed("away")
        await trio.sleep_until(pause.until)
    pause.failed("away")
    pause.succeeded()
    assert pause.is_over
    assert pause.reason == ""
    pause.failed("away again")
    assert pause.until - trio.current_time() == 1


async def test_somebody_ends_it_though_nothing_has_succeeded(even: None, clock: MockClock) -> None:
    pause = Pause()
    pause.failed("away")
    pause.end()
    assert pause.is_over
    assert pause.reason == "away"  # until something is heard of it
    pause.failed("still away")
    assert pause.until - trio.current_time() == 1
    assert pause.reason == "still away"
