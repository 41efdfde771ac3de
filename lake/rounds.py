"""Orders to Rucio's daemons while they run: who pauses, and one round for everybody now.

Two small files in the lake's directory: `orders` is written here, `report` by the daemons' process
(lake.inside.daemons), which looks between any two steps.  Standard library only.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lake.errors import LakeError

DAEMONS = (
    "undertaker",
    "injector",
    "evaluator",
    "submitter",
    "poller",
    "finisher",
    "repairer",
    "cleaner",
    "reaper",
    "abacus-rse",
    "abacus-account",
    "abacus-collection",
)
_PATIENCE = 60.0  # seconds a round may take; an idle one takes 0.1, one with 1,000 files 3
_POLL = 0.01


class Orders(NamedTuple):
    """What was ordered last: *number* counts orders, *run* those for a round."""

    number: int = 0
    paused: tuple[str, ...] = ()
    run: int = 0


class Report(NamedTuple):
    """Which orders are obeyed: *number* is in force, the round ordered as *run* has ended."""

    number: int = 0
    run: int = 0


class Rounds:
    """Both ends of the conversation, in *directory*."""

    def __init__(self, directory: Path) -> None:
        """Only names the files."""
        self._orders = directory / "daemons-orders"
        self._report = directory / "daemons-report"

    def paused(self) -> tuple[str, ...]:
        """Return who is paused."""
        return self.orders().paused

    def pause(self, names: Iterable[str], is_running: Callable[[], bool]) -> None:
        """Pause daemons; return when none of them is at work any more.  Raises: LakeError."""
        wanted = _known(names)
        self._give(lambda old: old._replace(paused=_sorted({*old.paused, *wanted})), is_running)

    def resume(self, names: Iterable[str], is_running: Callable[[], bool]) -> None:
        """Let daemons work again, all if *names* is empty.  Raises: LakeError."""
        wanted = _known(names) or set(DAEMONS)
        self._give(lambda old: old._replace(paused=_sorted({*old.paused} - wanted)), is_running)

    def run(self, is_running: Callable[[], bool]) -> None:
        """Have each daemon that is not paused work once from now; return when all have.

        Raises: LakeError.
        """
        given = self._give(lambda old: old._replace(run=old.run + 1), is_running)
        self._await(lambda report: report.run >= given.run, is_running)

    def orders(self) -> Orders:
        """Return what is ordered."""
        raw = _read(self._orders)
        return Orders(raw["number"], tuple(raw["paused"]), raw["run"]) if raw else Orders()

    def report(self, report: Report) -> None:
        """Tell, in the daemons' process, which orders are obeyed."""
        _write(self._report, report._asdict())

    def _give(self, change: Callable[[Orders], Orders], is_running: Callable[[], bool]) -> Orders:
        with _alone(self._orders.parent):
            old = self.orders()
            given = change(old)._replace(number=old.number + 1)
            _write(self._orders, given._asdict())
        self._await(lambda report: report.number >= given.number, is_running)
        return given

    def _await(self, is_done: Callable[[Report], bool], is_running: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not is_done(Report(**_read(self._report))):
            if not is_running():
                raise LakeError("the daemons do not run in this lake")
            if time.monotonic() > deadline:
                raise LakeError(f"the daemons have not ended a round for {_PATIENCE:.0f} s")
            time.sleep(_POLL)


def _known(names: Iterable[str]) -> set[str]:
    wanted = set(names)
    for name in sorted(wanted - set(DAEMONS)):
        raise LakeError(f"there is no daemon {name}; there are: {', '.join(DAEMONS)}")
    return wanted


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(name for name in DAEMONS if name in names)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}


def _write(path: Path, content: Any) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content))
    fresh.rename(path)  # in one step: the other side may read at any time


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep two commands from changing the orders at once."""
    with (directory / "daemons-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
