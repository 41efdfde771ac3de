"""What is known of one upload, and of a collection that uploads need.  As the journal keeps it."""

from __future__ import annotations

import enum
import json
import time
from dataclasses import dataclass, field, fields
from typing import Any, Self

from rucio_fs.did import DID, DIDType

UNFINISHED = "it was not written to its end"
"""Begins the words on a file that may be half of what it was to be."""


class State(enum.IntEnum):
    """How far an upload is; each is durable before the next step is begun.

    STAGED: saved, and nothing else; journaled only where something is to be said of it.
    QUEUED: its bytes are on disk, its checksum is known.
    UPLOADING: on its way to a name of its own on storage.
    PLACING: whole and right there, and about to get its final name; from here on it is immutable.
    STORED: it has its final name.
    REGISTERED: Rucio knows the file and where it is.
    ATTACHED: it is in its dataset.
    RULED: a rule keeps it.  DONE: it is where the rule wants it, as read back from Rucio.
    """

    STAGED = 0
    QUEUED = 1
    UPLOADING = 2
    PLACING = 3
    STORED = 4
    REGISTERED = 5
    ATTACHED = 6
    RULED = 7
    DONE = 8


_SHOWN = {
    State.STAGED: "STAGED",
    State.QUEUED: "QUEUED",
    State.UPLOADING: "UPLOADING",
    State.PLACING: "UPLOADING",
    State.STORED: "REGISTERING",
    State.REGISTERED: "REGISTERING",
    State.ATTACHED: "REGISTERING",
    State.RULED: "REPLICATING",
    State.DONE: "DONE",
}


@dataclass(slots=True, eq=False)
class Record:
    """One upload: the file *ino* at *path* in staging, and the DID it becomes.

    Sizes are bytes, times ns since the epoch or, *since*, s.  *path* is "" once the file was
    removed from staging.  *rse* is where it is uploaded to, *rule* the RSE expression that is to
    keep it.  It *is_stopped* when only a user can help, and *error* says why; else *error* is what
    the next attempt has to overcome.  *sent* is how much of it is on storage; *is_direct*: to its
    final name, where the storage does not rename.  What lies under that name *is_placed* by us, and
    nobody else knows of it.
    *done_at* (s since the epoch) it was in the lake; its bytes in staging may then be
    *is_given_up*.  What *is_in_place* was never sent: it lies at *rse* already, where *url* is its
    PFN, and the rule *keeper* keeps it there until it *is_released*.  *lies_at* is its path on this
    machine where that is not in staging.
    """

    id: int
    path: str
    ino: int
    did: DID
    size: int
    mtime_ns: int
    ctime_ns: int
    adler32: str = ""
    state: State = State.STAGED
    rse: str = ""
    rule: str = ""
    lifetime: int | None = None
    keep: float | None = None
    dataset: DID | None = None
    url: str = ""
    temp_url: str = ""
    rule_id: str = ""
    error: str = ""
    is_stopped: bool = False
    attempts: int = 0
    since: float = field(default_factory=time.time)
    sent: int = 0
    done_at: float = 0.0
    is_given_up: bool = False
    is_direct: bool = False
    is_placed: bool = False
    metadata: dict[str, Any] | None = None
    is_in_place: bool = False
    keeper: str = ""
    is_released: bool = False
    lies_at: str = ""

    def __repr__(self) -> str:
        return f"<Record {self.path or self.lies_at or self.did}: {self.shown}>"

    @property
    def is_sealed(self) -> bool:
        """Whether its bytes and its name are Rucio's, or about to be.

        Not of what Rucio has refused before it knew it: its user has to change it, or to rename it.
        """
        return self.state >= (State.REGISTERED if self.is_stopped else State.PLACING)

    @property
    def is_to_be_mended(self) -> bool:
        """Whether Rucio has it and refuses what its user wants besides, which may be changed."""
        return (
            self.is_stopped
            and State.REGISTERED <= self.state < State.RULED
            and not self.is_in_place
        )

    @property
    def is_leaving(self) -> bool:
        """Whether it lies in place, and its rule wants it elsewhere."""
        return self.is_in_place and self.rule != self.rse

    @property
    def shown(self) -> str:
        """Its state as ``user.rucio.upload`` tells it."""
        if self.is_stopped:
            return "FAILED"
        if self.state is State.UPLOADING and self.size:
            return f"UPLOADING {100 * self.sent // self.size}%"
        return _SHOWN[self.state]

    def dump(self) -> str:
        return json.dumps({one.name: getattr(self, one.name) for one in fields(self)})

    @classmethod
    def load(cls, text: str) -> Self:
        """Raises: ValueError, TypeError, KeyError, AttributeError (no record)"""
        known = {one.name for one in fields(cls)}
        data = {key: value for key, value in json.loads(text).items() if key in known}
        data["did"] = DID(*data["did"])
        data["dataset"] = DID(*data["dataset"]) if data.get("dataset") else None
        data["state"] = State(data["state"])
        return cls(**data)


@dataclass(slots=True, eq=False)
class Collection:
    """A dataset or container that files are put into.

    *is_there*: Rucio has it, in its *parent* if it has one.  *rules* are the ids of the rules made
    on it, by their RSE expression.
    """

    did: DID
    type: DIDType
    parent: DID | None = None
    is_there: bool = False
    rules: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Collection {self.did}: {self.type.value}>"

    def dump(self) -> str:
        facts = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps(facts | {"type": self.type.value})

    @classmethod
    def load(cls, text: str) -> Self:
        """Raises: ValueError, TypeError, KeyError, AttributeError (no collection)"""
        data = json.loads(text)
        parent = data["parent"]
        return cls(
            DID(*data["did"]),
            DIDType(data["type"]),
            DID(*parent) if parent else None,
            data["is_there"],
            data["rules"],
        )
