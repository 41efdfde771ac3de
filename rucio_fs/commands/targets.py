"""One path that is waited for, and what is known of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rucio_fs.commands.deciding import REQUESTED, End, Exit, Progress, decide

ASKING = "ASKING"
"""The state of a path of which nothing is known yet."""

_SAMPLES = 60  # looks that the rate is told from; one a second at most
_RATE_OVER = 2.0  # s of samples before there is a rate to tell


@dataclass(slots=True, eq=False)
class Target:
    """*path* is as the user wrote it, *where* as the mount at *mountpoint* knows it.

    Times are those of the waiting's clock, in s.  Before it *has_begun* nothing is known.
    *trouble* says why nothing new is known, as long as that may pass.
    """

    path: str
    mountpoint: str = ""
    where: str = ""
    has_begun: bool = False
    is_dir: bool = False
    did: str | None = None
    progress: Progress | None = None
    end: End | None = None
    began_at: float = 0.0
    ended_at: float | None = None
    looked_at: float = float("-inf")
    is_asked: bool = False
    trouble: str | None = None
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    @property
    def is_open(self) -> bool:
        return self.end is None

    @property
    def state(self) -> str:
        """The state to show."""
        if self.progress is not None:
            return self.progress.state
        if self.end is not None and self.end.exit is Exit.DONE:
            return REQUESTED
        return ASKING if self.end is None else "FAILED"

    def begin(self, found: Mapping[str, Any], now: float) -> None:
        """It exists, and was asked for if it was to be."""
        self.has_begun = True
        self.is_dir = bool(found["is_dir"])
        self.did = found.get("did")
        if not self.is_dir and "progress" not in found:
            # A file is here or not: what its events say is all there is to know.
            self.progress = Progress(REQUESTED, self.did, "FILE", files=1, bytes=found.get("bytes"))
        elif "progress" in found:
            self.take(Progress.of(found["progress"]), now)

    def take(self, progress: Progress, now: float) -> None:
        """Take over how far it is."""
        self.progress = progress
        self.did = progress.did or self.did
        if progress.bytes is not None:  # else what is here is not counted yet, and is no news then
            self.samples.append((now, progress.bytes_here))
        self.finish(decide(progress), now)

    def hear(self, event: Mapping[str, Any], now: float) -> None:
        """Take over what an event of the mount says; of a directory it only says: look."""
        if self.is_dir or self.progress is None:
            self.looked_at = float("-inf")
            return
        is_here, is_stuck = event["state"] == "AVAILABLE", event["state"] == "STUCK"
        known = self.progress
        heard = replace(
            known,
            state=str(event["state"]),
            rule_id=event.get("rule_id") or known.rule_id,
            files_here=int(is_here),
            files_stuck=int(is_stuck),
            bytes_here=known.bytes or 0 if is_here else 0,
            eta=None,
            error=event.get("error"),
        )
        self.take(heard, now)

    def finish(self, end: End | None, now: float) -> None:
        """End the wait with *end*, unless it is None or is over already."""
        if end is not None and self.end is None:
            self.end, self.ended_at = end, now

    def rate(self) -> float | None:
        """Bytes per second of late; None if nothing tells."""
        if len(self.samples) < 2:
            return None
        (first, before), (last, after) = self.samples[0], self.samples[-1]
        return (after - before) / (last - first) if last - first >= _RATE_OVER else None

    def remaining(self) -> float | None:
        """Seconds until it is here, as far as anything tells."""
        known = self.progress
        if known is None or self.end is not None:
            return None
        if known.eta is not None:
            return known.eta
        rate = self.rate()
        if not rate or rate < 0 or known.bytes is None or not self.is_dir:
            return None
        return (known.bytes - known.bytes_here) / rate

    def report(self) -> dict[str, Any]:
        """The target as ``--json`` tells it."""
        end = self.end or End(Exit.NOT_YET)
        facts = asdict(self.progress or Progress(self.state, self.did))
        return (
            {"path": self.path, "did": self.did, "state": self.state, "exit": int(end.exit)}
            | {key: value for key, value in facts.items() if key not in ("did", "state")}
            | {"error": end.words}
        )
