"""The worker threads of the staging area: its disk may take its time without stopping anybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")
_threads = trio.CapacityLimiter(16)  # fsyncs wait long; what is written meanwhile needs its own


async def in_thread(call: Callable[[], T]) -> T:
    """What *call* returns, or raises; it runs to its end also if the caller is cancelled."""
    return await trio.to_thread.run_sync(call, limiter=_threads)
