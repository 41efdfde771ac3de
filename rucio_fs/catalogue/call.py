"""How long a question is worth answering: shared by the task that asks and the thread that does."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rucio_fs.errors import TooSlow


@dataclass(slots=True)
class Call:
    """How long the question that a client is answering is of use: *until* (time.monotonic)."""

    until: float

    def abandon(self) -> None:
        """Nobody waits any more: the thread stops at the next block."""
        self.until = 0.0

    def check(self) -> None:
        """Raises: TooSlow"""
        if time.monotonic() > self.until:
            raise TooSlow("the answer took longer than its deadline")
