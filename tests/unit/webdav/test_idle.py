"""Connections that are kept: for whom, how long, and that none is forgotten."""

from __future__ import annotations

import pytest

from rucio_fs.webdav import idle
from rucio_fs.webdav.addresses import Origin
from rucio_fs.webdav.idle import Idle

HERE, THERE = Origin(True, "host", 443), Origin(True, "host", 443, certificate="/proxy")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(idle, "time", clock)
    return clock


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def kept(ended: list[str], clock: Clock) -> Idle[str]:
    return Idle(ended.append)


def test_the_last_one_of_the_same_origin_is_taken(kept: Idle[str]) -> None:
    for name in ("first", "second"):
        kept.keep(HERE, name)
    kept.keep(THERE, "with a certificate")
    assert [kept.take(HERE) for _ in range(3)] == ["second", "first", None]
    assert len(kept) == 1


def test_one_that_rests_is_left_alone(kept: Idle[str], clock: Clock) -> None:
    kept.keep(HERE, "rested")
    kept.keep(HERE, "tired", rest=2.0)
    assert [kept.take(HERE), kept.take(HERE)] == ["rested", None]
    clock.now += 2.0
    assert kept.take(HERE) == "tired"


def test_old_ones_are_ended(kept: Idle[str], ended: list[str], clock: Clock) -> None:
    kept.keep(HERE, "old")
    kept.keep(THERE, "old, too")
    clock.now += 10.0
    kept.keep(HERE, "young")
    kept.end_older(10.0)
    assert (sorted(ended), len(kept)) == (["old", "old, too"], 1)
    assert kept.take(HERE) == "young"


def test_none_is_kept_once_it_is_closed(kept: Idle[str], ended: list[str]) -> None:
    kept.keep(HERE, "idle")
    kept.close()
    kept.keep(HERE, "in use until now")
    assert ended == ["idle", "in use until now"]
    assert (kept.take(HERE), len(kept)) == (None, 0)
