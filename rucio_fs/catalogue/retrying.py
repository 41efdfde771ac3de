"""Asking again: back-off with jitter, within a deadline, in async code.

Here and not in the threads, so that whoever waits can be cancelled and no client sleeps.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from rucio_fs.errors import TooSlow, Unreachable

T = TypeVar("T")

FIRST_PAUSE = 0.2  # a server that closed an idle connection answers the next one at once
LONGEST_PAUSE = 5.0


async def persist(
    attempt: Callable[[], Awaitable[T]], asked: str, *, patience: float, limit: float
) -> T:
    """Call *attempt* until it answers or fails for good.

    After an Unreachable it is called again, the first time in any case, later while *patience*
    seconds have not passed since the start; everything together ends after *limit* seconds.
    A pause that the server asks for (`retry_after`) is kept, or the call given up if it is longer
    than the patience left.

    Raises: what *attempt* raises; the last Unreachable or TooSlow when patience is over.
    """
    started = trio.current_time()
    last: Unreachable | None = None
    tries = 0
    with trio.move_on_after(limit):
        while True:
            try:
                return await attempt()
            except Unreachable as exc:
                last = exc
            tries += 1
            pause = _pause(tries, last)
            left = patience - (trio.current_time() - started)
            if pause > left and (tries > 1 or hasattr(last, "retry_after")):
                break
            await trio.sleep(pause)
    if last is None:
        raise TooSlow(f"no answer within {limit:g} s ({asked})")
    if tries == 1:
        raise last
    elapsed = trio.current_time() - started
    kind = TooSlow if isinstance(last, TooSlow) else Unreachable
    raise kind(f"{last}, {tries} times in {elapsed:.0f} s") from last


def _pause(tries: int, last: Unreachable) -> float:
    """Seconds before the next attempt: half to all of a time that doubles, or as told."""
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (tries - 1)) * random.uniform(0.5, 1)
    asked_for: float = getattr(last, "retry_after", 0.0)
    return asked_for + pause
