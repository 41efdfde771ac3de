"""Letting Ctrl-C and kill end a request that waits.

pyfuse3 does not pass the kernel's FUSE_INTERRUPT on, and until the handler answers, the caller
stays in uninterruptible sleep, immune even to SIGKILL.  So one task looks, a few times a second, at
the pending signals of those who have been waiting for a while, and ends their requests with EINTR.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from rucio_fs.errors import Interrupted, Unreachable

INTERVAL = 0.2
"""Seconds between two looks; also how long a request waits before it is looked at."""

_AT_ONCE = 16  # looks of 40 us each before others have their turn: hundreds may wait

# Signals that mean "stop waiting".  Others (SIGCHLD, SIGWINCH, a profiler's timer) come all the
# time and would make long waits fail for no reason.
_ENDING = sum(
    1 << (number - 1)
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGABRT,
        signal.SIGKILL,
        signal.SIGALRM,
        signal.SIGTERM,
    )
)
_MASKS = re.compile(r"^(SigPnd|ShdPnd|SigBlk|SigIgn):\s*([0-9a-f]+)$", re.MULTILINE)
_PROC = Path("/proc")


class Interrupts:
    """The requests that wait, and whose they are.  One instance and one `run` task a mount."""

    def __init__(self) -> None:
        self._waiting: dict[trio.CancelScope, tuple[int, float]] = {}
        self._is_ending = False

    @contextmanager
    def watch(self, tid: int) -> Iterator[None]:
        """End the block if the thread *tid* is told to stop.

        *tid* is 0 for a caller in another pid namespace; he cannot be seen and has to wait.

        Raises: Interrupted, Unreachable (the mount ends)
        """
        scope = trio.CancelScope()
        if self._is_ending:
            scope.cancel()
        self._waiting[scope] = (tid, trio.current_time())
        try:
            with scope:
                yield
        finally:
            del self._waiting[scope]
        if scope.cancelled_caught:
            if self._is_ending:
                raise Unreachable("the mount is ending")
            raise Interrupted(f"thread {tid} was told to stop")

    def stop(self) -> None:
        """The mount ends: whoever waits, or would, is told so at once."""
        self._is_ending = True
        for scope in self._waiting:
            scope.cancel()

    async def run(self) -> None:
        """Look at those who wait, for ever."""
        while True:
            await trio.sleep(INTERVAL)
            latest = trio.current_time() - INTERVAL
            for number, (scope, (tid, since)) in enumerate(list(self._waiting.items())):
                if tid and since <= latest and is_told_to_stop(tid):
                    scope.cancel()
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await trio.lowlevel.checkpoint()


def is_told_to_stop(tid: int) -> bool:
    """Whether a signal that ends things waits for the thread *tid*, or it is gone already."""
    try:
        status = (_PROC / str(tid) / "status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return _is_gone(tid)
    except OSError:  # hidden from us (hidepid=1): then he has to wait
        return False
    masks = {name: int(value, 16) for name, value in _MASKS.findall(status)}
    pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
    return bool(pending & _ENDING & ~masks.get("SigBlk", 0) & ~masks.get("SigIgn", 0))


def _is_gone(tid: int) -> bool:
    """Whether there is no thread *tid*: with hidepid=2, /proc says so of every other user's."""
    try:
        os.kill(tid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
