"""When a directory has been left alone for long enough to be uploaded.

A directory below a scope is uploaded as one: what it becomes in Rucio depends on what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio


class Settling:
    """Directories that something was done to, each until it was quiet for *delay* s.

    One that never is quiet is looked at every *patience* s.
    """

    def __init__(self, delay: float, patience: float) -> None:
        self._delay = delay
        self._patience = patience
        # Each in the order of its times, so that the earliest is the first.
        self._last: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._hurried: dict[str, None] = {}
        self._news = trio.Event()

    def __len__(self) -> int:
        return len(self._last)

    def __repr__(self) -> str:
        return f"<Settling: {len(self)} directories>"

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._last))

    def __contains__(self, top: str) -> bool:
        return top in self._last

    def changed(self, top: str) -> None:
        """Something was done in *top*."""
        now = trio.current_time()
        is_new = self._last.pop(top, None) is None
        self._last[top] = now
        self._first.setdefault(top, now)
        if is_new:
            self._tell()

    def hurry(self, top: str) -> None:
        """*top* is to be looked at now."""
        self.changed(top)
        self._hurried[top] = None
        self._tell()

    async def next(self) -> str:
        """A directory that is to be looked at; it is settled then, until the next change."""
        while True:
            due, top = self._earliest()
            if due <= trio.current_time():
                del self._last[top], self._first[top]
                self._hurried.pop(top, None)
                return top
            with trio.move_on_at(due):
                await self._news.wait()

    def _earliest(self) -> tuple[float, str]:
        """When (trio's clock) the next one is due, and which; inf: none is."""
        if self._hurried:
            return float("-inf"), next(iter(self._hurried))
        if not self._last:
            return float("inf"), ""
        quiet, busy = next(iter(self._last)), next(iter(self._first))
        return min(
            (self._last[quiet] + self._delay, quiet), (self._first[busy] + self._patience, busy)
        )

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
