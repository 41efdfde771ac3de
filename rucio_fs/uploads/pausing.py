"""How long to leave a service alone that does not answer: for all who need it together."""

from __future__ import annotations

import random

import trio

_FIRST = 1.0  # s
_LONGEST = 120.0  # s; an outage of days costs 30 requests an hour


class Pause:
    """Grows with each failure in a row, and ends with the first success."""

    def __init__(self) -> None:
        self.reason = ""
        self._failures = 0
        self._until = float("-inf")

    def __repr__(self) -> str:
        return f"<Pause until {self._until}: {self.reason}>"

    @property
    def until(self) -> float:
        """When (trio's clock) the next attempt is due."""
        return self._until

    @property
    def is_over(self) -> bool:
        return trio.current_time() >= self._until

    def failed(self, reason: str) -> None:
        now = trio.current_time()
        if now < self._until:
            return  # several that were under way together have failed of one cause
        self._failures += 1
        self._until = now + backoff(self._failures)
        self.reason = reason

    def succeeded(self) -> None:
        self.reason, self._failures, self._until = "", 0, float("-inf")

    def end(self) -> None:
        """Somebody wants the next attempt now."""
        self._failures, self._until = 0, float("-inf")


def backoff(failures: int) -> float:
    """Seconds until the next attempt after so many failures; never the same for two mounts."""
    return min(_LONGEST, _FIRST * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)
