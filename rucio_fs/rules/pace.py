"""How often Rucio is asked about what is on its way."""

from __future__ import annotations

import random

RATE = 2.0
"""Requests a second while somebody waits, at most, however many wait."""

_AGEING = 0.1  # of its age is how long a wait goes without a look
_LONGEST_PAUSE = 30.0  # s, while Rucio is away, and for what nobody waits for


class Pace:
    """Pauses between rounds: short while waits are young, longer as they age, backing off."""

    def __init__(self, fastest: float, slowest: float) -> None:
        self._fastest = fastest
        self._slowest = slowest
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1

    def succeeded(self) -> None:
        self._failures = 0

    def pause(self, youngest: float | None, calls: int) -> float:
        """Seconds until the next round.

        *youngest* is the age (s) of the youngest wait, None if nobody waits; *calls* is what the
        last round took, which is spread so that `RATE` holds.
        """
        if self._failures:
            longest = max(_LONGEST_PAUSE, self._fastest)
            pause = min(longest, self._fastest * 2.0**self._failures)
            return pause * random.uniform(0.5, 1.0)
        if youngest is None:
            pause = max(_LONGEST_PAUSE, self._slowest)
        else:
            pause = min(self._slowest, max(self._fastest, youngest * _AGEING))
        # Longer only, never shorter: mounts that began together drift apart.
        return max(pause, calls / RATE) * random.uniform(1.0, 1.1)
