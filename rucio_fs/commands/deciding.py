"""When a wait is over, and with which exit code.  Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

REQUESTED = "REQUESTED"
"""The state of what was just asked for, until the mount has told of it."""


class Exit(enum.IntEnum):
    """Exit codes of the commands, for a path and for all together."""

    DONE = 0
    FAILED = 1
    WRONG_CALL = 2
    PARTLY = 3
    NOT_YET = 4
    INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


@dataclass(frozen=True, slots=True)
class Progress:
    """The value of ``user.rucio.progress``.  *eta* in s; times are text as the mount writes it."""

    state: str
    did: str | None = None
    type: str | None = None
    rule_id: str | None = None
    expires_at: str | None = None
    since: str | None = None
    files: int | None = None
    files_here: int = 0
    files_stuck: int = 0
    bytes: int | None = None
    bytes_here: int = 0
    eta: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """Take what is known here; a newer mount may tell more."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in found.items() if key in known})


class End(NamedTuple):
    """How the wait for a path ended; *words* for the user unless all is well."""

    exit: Exit
    words: str | None = None


def decide(progress: Progress) -> End | None:
    """Whether there is nothing more to wait for; None: it is on its way."""
    state, error = progress.state, progress.error
    match state:
        case "AVAILABLE":
            return End(Exit.DONE)
        case "NOT_AVAILABLE" if error is None and progress.rule_id is not None:
            return End(Exit.FAILED, f"rule {progress.rule_id} is done, but no copy is at the site")
        case "NOT_AVAILABLE":
            return End(Exit.FAILED, error or f"nothing brings it; run: {_get(progress)}")
        case "NEARLINE":
            return End(
                Exit.FAILED, error or f"on tape, and nothing brings it; run: {_get(progress)}"
            )
        case "SUSPENDED" | "WAITING_APPROVAL":
            return End(Exit.FAILED, error or f"its rule {progress.rule_id} is {state}")
        case "STUCK":
            return _of_stuck(progress)
        case _:
            return None


def _get(progress: Progress) -> str:
    return f"rucio-fs get{'' if progress.type == 'FILE' else ' -r'} PATH"


def _of_stuck(progress: Progress) -> End | None:
    """A rule is STUCK as soon as one file is; the others may still be moving."""
    files, here, stuck = progress.files, progress.files_here, progress.files_stuck
    words = progress.error or f"its rule {progress.rule_id} is STUCK"
    if progress.type == "FILE":
        return End(Exit.FAILED, words)
    if files is None or here + stuck < files:
        return None
    if here >= files:  # the last of them came, and the rule does not say so yet
        return End(Exit.DONE)
    if here == 0:
        return End(Exit.FAILED, words)
    return End(Exit.PARTLY, f"{here} of {files} files are here, {stuck} stuck: {words}")


def overall(exits: Iterable[Exit]) -> Exit:
    """The exit code of a command from those of its paths."""
    found = set(exits)
    if Exit.INTERRUPTED in found:
        return Exit.INTERRUPTED
    if len(found) <= 1:
        return found.pop() if found else Exit.DONE
    if found == {Exit.DONE, Exit.NOT_YET}:
        return Exit.NOT_YET
    # A failure counts more than what is not over: waiting longer would not mend it.
    return Exit.PARTLY if found & {Exit.DONE, Exit.PARTLY} else Exit.FAILED
