"""`rucio-fs release` gives back the rules that rucio-fs made, `refresh` asks Rucio anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rucio_fs.commands.deciding import Exit, overall
from rucio_fs.commands.once import Outcome, ask_each
from rucio_fs.commands.words import complain, counted, print_json
from rucio_fs.errors import MountError, UsageError

AskEach = Callable[[str, Sequence[Path]], list[Outcome]]


def release(paths: Sequence[Path], *, as_json: bool, ask: AskEach = ask_each) -> int:
    """Release *paths*; return the exit code."""
    outcomes = ask("release", paths)
    for outcome in outcomes:
        if outcome.words is not None:
            complain(f"{outcome.path}: {outcome.words}")
        elif outcome.found is not None and not as_json:
            rules = outcome.found["rules"]
            given_back = f"{counted(rules, 'rule')} given back"
            print(f"{outcome.path}: {given_back if rules else 'its rule has just gone by itself'}")
    if as_json:
        print_json(
            [
                {"path": one.path, "did": None, "state": None, "rule_id": None}
                | dict(one.found or {})
                | {"exit": int(one.exit), "error": one.words}
                for one in outcomes
            ]
        )
    return overall(outcome.exit for outcome in outcomes)


def refresh(path: Path, *, ask: AskEach = ask_each) -> None:
    """Make the mount forget what it knows of *path*, so that the next look asks Rucio.

    Raises: UsageError if *path* is in no rucio-fs mount, MountError if the mount refuses.
    """
    (outcome,) = ask("refresh", [path])
    if outcome.words is not None:
        kind = UsageError if outcome.exit is Exit.WRONG_CALL else MountError
        raise kind(f"{path}: {outcome.words}")
