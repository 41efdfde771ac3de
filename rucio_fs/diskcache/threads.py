"""The worker threads of the cache: a disk that hangs must not use up those that fetch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")
_threads = trio.CapacityLimiter(8)


async def in_thread(call: Callable[[], T], *, may_be_left: bool = False) -> T:
    """What *call* returns, or raises; it runs to its end also if the caller is cancelled.

    The caller waits for that end unless it *may_be_left*, as what only reads may be.
    """
    return await trio.to_thread.run_sync(call, abandon_on_cancel=may_be_left, limiter=_threads)
