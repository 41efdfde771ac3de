"""How the conversation with Rucio goes: counts, and since when it does not answer."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Health:
    """Written by the cache, read by `.rucio/status`.  Times are s since the epoch."""

    hits: int = 0
    misses: int = 0
    stale: int = 0
    answered_at: float | None = None
    trouble: str | None = None
    trouble_since: float | None = None

    def succeeded(self) -> None:
        self.answered_at = time.time()
        if self.trouble is not None:
            log.info("Rucio answers again")
            self.trouble = self.trouble_since = None

    def failed(self, reason: Exception) -> None:
        if self.trouble is None:
            self.trouble_since = time.time()
            if self.answered_at is not None:  # else nothing is cached, and nothing mounted yet
                log.warning("Rucio does not answer; what is cached is served: %s", reason)
        self.trouble = str(reason)

    def counts(self) -> dict[str, Any]:
        return {"hits": self.hits, "misses": self.misses, "served_stale": self.stale}
