"""One DID on its way to the site, and everybody who waits for it."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import trio

from rucio_fs.did import DID, DIDType, Identity, Presence, Rule
from rucio_fs.errors import RucioFsError


class State(enum.Enum):
    """Of a DID at this site, as ``user.rucio.state`` tells it."""

    AVAILABLE = "AVAILABLE"
    REPLICATING = "REPLICATING"
    STUCK = "STUCK"
    SUSPENDED = "SUSPENDED"
    WAITING_APPROVAL = "WAITING_APPROVAL"
    NOT_AVAILABLE = "NOT_AVAILABLE"
    NEARLINE = "NEARLINE"


@dataclass(slots=True, eq=False)
class Delivery:
    """What is known of one DID that a rule brings, or is about to.

    *rule_id* is None until the rule is made or found; *rule* is *read*, as Rucio gave it, with more
    words on what failed.  *error* says why it does not come as things
    stand.  *lifetime* (s) is that of whoever asked for another than the configured one.
    *files* and *bytes* are totals, of collections only once they are known.  *interest_at*
    (trio's clock) is when somebody last asked how far it is, *seen_at* when its rule was there.
    *is_requested*: somebody wants to know its rule, and does not wait for the data.
    *is_given_back*: its rule is being deleted by us, and its end is no expiry.
    """

    who: Identity
    did: DID
    type: DIDType
    lifetime: int | None = None
    state: State = State.REPLICATING
    rule_id: str | None = None
    rule: Rule | None = None
    read: Rule | None = None
    error: RucioFsError | None = None
    is_over: bool = False
    files: int | None = None
    bytes: int | None = None
    here: Presence = field(default_factory=lambda: Presence(0, 0))
    bytes_at_first: int = 0
    waiting: int = 0
    uids: set[int] = field(default_factory=set)
    since: float = field(default_factory=time.time)
    began_at: float = field(default_factory=trio.current_time)
    looked_at: float = float("-inf")
    seen_at: float = field(default_factory=trio.current_time)
    counted_at: float = float("-inf")
    interest_at: float = float("-inf")
    is_odd: bool = False
    is_requested: bool = False
    is_given_back: bool = False
    is_under_way: trio.Event = field(default_factory=trio.Event)
    _change: trio.Event = field(default_factory=trio.Event)

    def __repr__(self) -> str:
        return f"<Delivery of {self.did}: {self.state.value}>"

    @property
    def is_file(self) -> bool:
        return self.type is DIDType.FILE

    def tell(self) -> None:
        """Wake everybody who waits for news."""
        if self.rule_id is not None or self.is_over or self.error is not None:
            self.is_under_way.set()
        self._change.set()
        self._change = trio.Event()

    async def news(self) -> None:
        await self._change.wait()

    def progress(self, eta: float | None) -> dict[str, Any]:
        """How far it is, as ``user.rucio.progress`` and `.rucio/transfers` tell it."""
        expires_ns = self.rule.expires_ns if self.rule is not None else None
        return {
            "did": str(self.did),
            "type": self.type.value,
            "state": self.state.value,
            "rule_id": self.rule_id,
            "expires_at": iso(None if expires_ns is None else expires_ns / 1e9),
            "since": iso(self.since),
            "files": self.files,
            "files_here": self.here.files,
            "files_stuck": self.here.stuck,
            "bytes": self.bytes,
            "bytes_here": self.here.bytes,
            "eta": None if eta is None else round(eta, 1),
            "error": None if self.error is None else str(self.error),
        }


def iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as 2026-11-21T04:00:00Z."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
