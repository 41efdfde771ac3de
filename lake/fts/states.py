"""The words of FTS3: states, job types, times, and the text of its errors.

Pure values, no I/O.  Source: ``FTS_STATE`` and ``FTS_JOB_TYPE`` in rucio 41.5.1
(``rucio/common/constants.py``) and the strings its ``transfertool/fts3.py`` compares with.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum


class State(StrEnum):
    """State of a job or of one of its files; FTS uses one vocabulary for both."""

    STAGING = "STAGING"  # the source is on tape and not yet brought online
    SUBMITTED = "SUBMITTED"
    ACTIVE = "ACTIVE"
    FINISHED = "FINISHED"
    FINISHEDDIRTY = "FINISHEDDIRTY"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    NOT_USED = "NOT_USED"

    @property
    def is_running(self) -> bool:
        """True while FTS may still change it by itself."""
        return self in (State.STAGING, State.SUBMITTED, State.ACTIVE)


class JobType(StrEnum):
    """How the files of a job hang together."""

    REGULAR = "N"  # independent files
    MULTIPLE_REPLICA = "R"  # one file, several sources: the first that works wins
    MULTI_HOP = "H"  # a chain: each file starts where the one before it ended


# Rucio compares the whole text, reason phrase included.
OK = "200 Ok"
NOT_MODIFIED = "304 Not Modified"
NOT_FOUND = "404 Not Found"

CANCEL_REASON = "Job canceled by the user"
# Rucio looks for this text to find out that a retry met the file an earlier attempt left behind.
FILE_EXISTS = "Destination file exists and overwrite is not enabled"


def fts_time(moment: datetime | None = None) -> str:
    """Return *moment* (default: now) as FTS writes it: UTC, whole seconds, no zone.

    Rucio parses it with ``strptime('%Y-%m-%dT%H:%M:%S')``: a fraction or a zone is an error there.
    """
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S")


class TransferError(Exception):
    """One copy failed; the text is what FTS reports as the file's ``reason``.

    *scope* is FTS' word for whose fault it is (SOURCE, DESTINATION, TRANSFER), *code* an errno.
    """

    def __init__(self, scope: str, code: int, message: str) -> None:
        super().__init__(f"{scope} [{code}] {message}")


class TransferCanceledError(TransferError):
    """The job was cancelled while this copy was under way."""

    def __init__(self) -> None:
        super().__init__("TRANSFER", 125, "Transfer canceled by user")  # 125 = ECANCELED
