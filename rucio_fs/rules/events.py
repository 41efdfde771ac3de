"""What happened: one line for each change, and the problems of late."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from rucio_fs.did import DID
from rucio_fs.rules.delivery import iso

SIZE = 4 << 20
"""Bytes of events that are kept; then the file begins anew, as logrotate's copytruncate does."""

PROBLEMS = 200
"""Problems that are kept, the newest."""


class Events:
    """The lines of `.rucio/events` and the entries of `.rucio/problems`."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._lines = bytearray()
        self._problems: deque[dict[str, Any]] = deque(maxlen=PROBLEMS)
        self.changed_ns = time.time_ns()

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the lines as of now."""
        return bytes(self._lines[offset : offset + size])

    def problems(self) -> Sequence[dict[str, Any]]:
        """The newest first."""
        return list(reversed(self._problems))

    def note(self, event: str, did: DID, **facts: object) -> None:
        """Write a line; *facts* that are None are left out."""
        now = time.time()
        line: dict[str, object] = {"time": _precise(now), "event": event, "did": str(did)}
        line |= {key: value for key, value in facts.items() if value is not None}
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        if len(self._lines) + len(data) > self._size:
            self._lines.clear()
        self._lines += data
        self.changed_ns = time.time_ns()

    def problem(self, did: DID, state: str, error: str, rule_id: str | None = None) -> None:
        """Remember that *did* has a problem, once for the same words in a row."""
        last = next((known for known in self.problems() if known["did"] == str(did)), None)
        if last is not None and last["error"] == error:
            last["time"] = iso(time.time())
            return
        self._problems.append(
            {
                "time": iso(time.time()),
                "did": str(did),
                "rule_id": rule_id,
                "state": state,
                "error": error,
            }
        )


def _precise(seconds: float) -> str:
    milliseconds = int(seconds * 1000) % 1000
    return f"{(iso(seconds) or '')[:-1]}.{milliseconds:03d}Z"
