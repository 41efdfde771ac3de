"""Asking again: how often, how long, and what is said at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
import trio.testing

from rucio_fs.catalogue.failures import Busy
from rucio_fs.catalogue.retrying import persist
from rucio_fs.errors import Denied, LoginFailed, NotFound, Refused, TooSlow, Unreachable

Clock = trio.testing.MockClock


class Script:
    """Attempts that go as told: an exception is raised, a number slept, a string returned."""

    def __init__(self, *steps: Exception | float | str) -> None:
        self._steps: Iterator[Exception | float | str] = iter(steps)
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(trio.current_time())
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, str):
                return step
            await trio.sleep(step)
        raise Unreachable("down")


async def ask(script: Script, patience: float = 30, limit: float = 30) -> str:
    return await persist(script, "sky:x", patience=patience, limit=limit)


async def test_the_first_answer_counts(autojump_clock: Clock) -> None:
    script = Script("yes")
    assert await ask(script) == "yes"
    assert len(script.times) == 1


async def test_unreachable_is_asked_again_with_growing_pauses(autojump_clock: Clock) -> None:
    script = Script(*[Unreachable("down")] * 6, "yes")
    assert await ask(script) == "yes"
    pauses = [b - a for a, b in zip(script.times, script.times[1:], strict=False)]
    for number, pause in enumerate(pauses):
        longest = min(5.0, 0.2 * 2**number)
        assert longest / 2 <= pause <= longest


async def test_patience_ends(autojump_clock: Clock) -> None:
    script = Script()
    with pytest.raises(Unreachable, match=r"down, \d+ times in \d+ s") as caught:
        await ask(script)
    assert not isinstance(caught.value, TooSlow)
    assert 20 < trio.current_time() - script.times[0] <= 30


@pytest.mark.parametrize("error", [NotFound, Denied, LoginFailed, Refused])
async def test_an_answer_is_not_asked_again(error: type[Exception], autojump_clock: Clock) -> None:
    script = Script(error("no"), "yes")
    with pytest.raises(error):
        await ask(script)
    assert len(script.times) == 1


async def test_the_limit_ends_an_attempt(autojump_clock: Clock) -> None:
    started = trio.current_time()
    with pytest.raises(TooSlow, match="no answer within 30 s"):
        await ask(Script(100.0, "late"))
    assert trio.current_time() - started == pytest.approx(30)


async def test_a_last_failure_that_was_slow_is_too_slow(autojump_clock: Clock) -> None:
    with pytest.raises(TooSlow, match="silent, 2 times"):
        await ask(Script(12.0, TooSlow("silent"), 12.0, TooSlow("silent")), 20, 60)


async def test_the_reason_survives_a_last_attempt_that_hangs(autojump_clock: Clock) -> None:
    with pytest.raises(Unreachable, match="refused"):
        await ask(Script(Unreachable("refused"), 100.0))


async def test_a_long_listing_gets_a_second_chance_but_not_a_third(autojump_clock: Clock) -> None:
    script = Script(100.0, Unreachable("cut"), 100.0, Unreachable("cut"), "yes")
    with pytest.raises(Unreachable, match="2 times"):
        await ask(script, patience=30, limit=300)


async def test_the_pause_a_server_asks_for_is_kept(autojump_clock: Clock) -> None:
    script = Script(Busy("busy", 7.0), "yes")
    assert await ask(script) == "yes"
    assert 7.0 < script.times[1] - script.times[0] <= 7.2


async def test_a_pause_beyond_patience_is_not_waited_for(autojump_clock: Clock) -> None:
    started = trio.current_time()
    with pytest.raises(Unreachable, match="busy"):
        await ask(Script(Busy("busy", 3600.0), "yes"))
    assert trio.current_time() == started


async def test_cancelling_ends_a_pause(autojump_clock: Clock) -> None:
    with trio.move_on_after(1) as cancel_scope:
        await ask(Script())
    assert cancel_scope.cancelled_caught
