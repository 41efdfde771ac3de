"""What people see of their uploads in `.rucio/uploads`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rucio_fs.rules.delivery import iso
from rucio_fs.uploads.engine import Engine
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.records import Record, State
from rucio_fs.uploads.registrations import Registrations
from rucio_fs.uploads.settling import Settling

SHOWN = 1000
"""Uploads that are listed one by one: those that have failed first, then the oldest."""


class UploadBoard:
    """Renders how all uploads stand."""

    def __init__(
        self,
        ledger: Ledger,
        settling: Settling,
        engine: Engine,
        registrations: Registrations | None = None,
    ) -> None:
        self._registrations = registrations
        self._ledger = ledger
        self._settling = settling
        self._engine = engine

    def __repr__(self) -> str:
        return f"<UploadBoard of {self._ledger!r}>"

    def render(self) -> dict[str, Any]:
        """Numbers of files, and of their bytes; each upload that is not DONE.

        *unsettled* directories were changed a moment ago, and may have more to upload than is
        *pending*.  *registrations* are what was asked for of files that lie elsewhere.  *waits_for*
        says what does not answer, and why.
        """
        records = list(self._ledger)
        pending = [one for one in records if one.state is not State.DONE]
        failed = [one for one in pending if one.is_stopped]
        requests = self._registrations.requests() if self._registrations else {}
        waits = {"Rucio": self._engine.rucio, **self._engine.storages}
        pending.sort(key=lambda one: (not one.is_stopped, one.since, one.id))
        return {
            "pending": len(pending) - len(failed),
            "failed": len(failed),
            "done": len(records) - len(pending),
            "unsettled": len(self._settling) + self._engine.is_looking,
            "bytes": sum(one.size for one in pending),
            "sent": sum(_sent(one) for one in pending),
            "waits_for": {name: one.reason for name, one in waits.items() if one.reason},
            "registrations": self._registrations.facts() if self._registrations else [],
            "uploads": [_shown(one, requests) for one in pending[:SHOWN]],
        }

    def numbers(self) -> dict[str, Any]:
        """The same without the list, for `.rucio/status`."""
        found = self.render()
        del found["uploads"], found["registrations"]
        return found


def _sent(record: Record) -> int:
    return record.size if record.state > State.UPLOADING else min(record.sent, record.size)


def _shown(record: Record, requests: Mapping[int, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "path": record.path or record.lies_at or None,
        "did": str(record.did) if record.did.scope else None,
        # "" for what a mount before this one was asked for.
        "request": requests.get(record.id, "") if record.lies_at else None,
        "state": record.shown,
        "bytes": record.size,
        "sent": _sent(record),
        "rse": record.rse or None,
        "rule": record.rule or None,
        "rule_id": record.rule_id or None,
        "dataset": str(record.dataset) if record.dataset is not None else None,
        "error": record.error or None,
        "attempts": record.attempts or None,
        "since": iso(record.since),
        "seconds": round(time.time() - record.since),
    }
    return {key: value for key, value in facts.items() if value is not None}
