"""What the stand-in's control interface speaks: injected faults and the log of transfers.

Plain data shared by the service and `lake.fts.client`; JSON in both directions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What an injected fault does to a transfer."""

    FAIL = "fail"  # no bytes move, the file ends FAILED with `reason`
    CORRUPT = "corrupt"  # the first byte is turned around on the way
    DELAY = "delay"  # wait `seconds` first
    STALL = "stall"  # wait until released or cancelled
    THROTTLE = "throttle"  # move at most `bytes_per_second`
    STAGE = "stage"  # a file on tape takes `seconds` to come online
    STALL_STAGING = "stall-staging"  # it does not come online until released or cancelled
    FAIL_STAGING = "fail-staging"  # it never does, the file ends FAILED with `reason`


STAGING_KINDS = frozenset({Kind.STAGE, Kind.STALL_STAGING, Kind.FAIL_STAGING})
COPY_KINDS = frozenset(Kind) - STAGING_KINDS


@dataclass(frozen=True)
class Injection:
    """One order to spoil transfers.

    It hits transfers whose source or destination URL contains *match* ("" hits all), *times* of
    them (None: every one).  *silent* makes a corruption pass FTS' own verification, so that a
    damaged replica is registered as good.
    """

    kind: Kind
    match: str = ""
    times: int | None = None
    reason: str = "TRANSFER [70] injected failure"
    seconds: float = 0.0
    bytes_per_second: int = 0
    silent: bool = False

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, not {self.times}")
        if self.kind is Kind.THROTTLE and self.bytes_per_second < 1:
            raise ValueError("a throttle needs bytes_per_second of at least 1")
        if self.kind in (Kind.DELAY, Kind.STAGE) and self.seconds < 0:
            raise ValueError(f"a {self.kind} needs seconds of at least 0")

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Injection:
        """Raises: ValueError or TypeError for a document that is no injection."""
        return cls(**{**document, "kind": Kind(document.get("kind", ""))})


@dataclass(frozen=True)
class TransferRecord:
    """One copy that has ended.

    *started* is Unix time, *seconds* its duration, *size* in bytes (None unless it succeeded),
    *state* FINISHED, FAILED or CANCELED, *via* ``tpc``, ``stream`` or "" if no bytes moved,
    *faults* the kinds that were injected.
    """

    job_id: str
    file_id: int
    source: str
    destination: str
    state: str
    reason: str
    via: str
    size: int | None
    started: float
    seconds: float
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TransferRecord:
        """Raises: TypeError if a field is missing or unknown."""
        return cls(**{**document, "faults": tuple(document["faults"])})
