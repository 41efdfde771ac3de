"""Rucio's nouns as small immutable values: DID, its type, what the catalogue knows of it, replicas.

No behaviour beyond what the words mean, and no I/O.  Everything that leaves the catalogue is one
of these; Rucio's dictionaries stop at `catalogue.rucio`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class DID(NamedTuple):
    """A data identifier.  A tuple, because a large lake holds a million of them in memory."""

    scope: str
    name: str

    def __str__(self) -> str:
        return f"{self.scope}:{self.name}"


class DIDType(enum.Enum):
    FILE = "FILE"
    DATASET = "DATASET"
    CONTAINER = "CONTAINER"

    @property
    def is_collection(self) -> bool:
        return self is not DIDType.FILE


class Member(NamedTuple):
    """One row of a listing: all that Rucio tells of a DID without a call for that DID.

    *size* is in bytes; None for a file whose size the listing leaves out and for collections.
    """

    did: DID
    type: DIDType
    size: int | None = None
    adler32: str | None = None


@dataclass(frozen=True, slots=True)
class DIDInfo:
    """What Rucio knows of one DID.  Times are ns since the epoch, sizes bytes.

    *length* is the number of files of a closed dataset and None while it is open.
    """

    did: DID
    type: DIDType
    size: int | None
    created_ns: int
    updated_ns: int
    is_open: bool
    account: str
    adler32: str | None = None
    md5: str | None = None
    length: int | None = None

    @property
    def mtime_ns(self) -> int:
        """A closed or immutable DID was made once; an open collection changes with its content."""
        return self.updated_ns if self.is_open else self.created_ns


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a file at one RSE, with the PFN that suits the asking site best."""

    rse: str
    pfn: str
    is_lan: bool = False
    is_tape: bool = False


@dataclass(frozen=True, slots=True)
class FileReplicas:
    """The answer to "where is this file": size and checksums, and its AVAILABLE replicas in order.

    *states* has every RSE that Rucio named, with its replica state ("AVAILABLE", "COPYING", ...),
    also those without a PFN for this site.
    """

    did: DID
    size: int
    adler32: str | None
    md5: str | None
    replicas: tuple[Replica, ...]
    states: dict[str, str]


class RuleState(enum.Enum):
    """Of a replication rule, as Rucio names them.  INJECT: accepted, its locks not made yet."""

    OK = "OK"
    REPLICATING = "REPLICATING"
    STUCK = "STUCK"
    SUSPENDED = "SUSPENDED"
    WAITING_APPROVAL = "WAITING_APPROVAL"
    INJECT = "INJECT"


@dataclass(frozen=True, slots=True)
class Rule:
    """A replication rule.  Times are ns since the epoch; *expires_ns* None: it stays.

    *ok*, *replicating* and *stuck* count its files by how far they are.
    """

    id: str
    did: DID
    account: str
    state: RuleState
    rse_expression: str
    created_ns: int
    expires_ns: int | None = None
    comment: str = ""
    error: str | None = None
    ok: int = 0
    replicating: int = 0
    stuck: int = 0


@dataclass(frozen=True, slots=True)
class RuleTerms:
    """What a rule is to say, besides the DID.  *lifetime* is in s, None: for ever."""

    account: str
    rse_expression: str
    lifetime: int | None
    comment: str
    activity: str | None = None
    priority: int = 3
    purge_replicas: bool = False
    ask_approval: bool = False
    asynchronous: bool = False
    source_rse_expression: str | None = None
    weight: str | None = None
    notify: str = "N"


@dataclass(frozen=True, slots=True)
class Presence:
    """How much of a collection is at an RSE: files and bytes AVAILABLE, and files elsewhere stuck.

    *copying* and *stuck* count files whose replica there is COPYING or UNAVAILABLE.
    """

    files: int
    bytes: int
    copying: int = 0
    stuck: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """For whom a request is served.

    Every answer that may differ between accounts is cached under it.  The mount's own identity
    is what rucio.cfg says; *account* is then empty.
    """

    account: str = ""
