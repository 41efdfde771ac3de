"""What a wait shows: bars on a terminal, one line per change elsewhere, or errors alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TextIO

from rucio_fs.commands.deciding import REQUESTED, Exit
from rucio_fs.commands.targets import ASKING, Target
from rucio_fs.commands.words import complain, counted, duration, one_line, printable, size

_LISTED = 10  # paths not here in time that are named one by one


class Reporter(Protocol):
    """Told how targets stand, often, and once when each has ended."""

    def update(self, targets: Sequence[Target], now: float) -> None: ...
    def ended(self, target: Target) -> None: ...
    def close(self) -> None:
        """Nothing follows; also called when the wait is interrupted."""
        ...


class ErrorsAlone:
    """Shows why targets failed, at once; and what is not over in time, a few by name."""

    def __init__(self) -> None:
        self._late = 0

    def update(self, targets: Sequence[Target], now: float) -> None:
        pass

    def ended(self, target: Target) -> None:
        if target.end is None or target.end.words is None:
            return
        if target.end.exit is Exit.NOT_YET:
            self._late += 1
            if self._late > _LISTED:
                return
        complain(f"{target.path}: {target.end.words}")

    def close(self) -> None:
        if self._late > _LISTED:
            complain(f"the time is over also for {self._late - _LISTED} more")


class Lines(ErrorsAlone):
    """A line for each change of a target's state: for logs, without control characters."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out
        self._shown: dict[Target, str] = {}
        self._later: dict[Target, None] = {}  # in their order

    def update(self, targets: Sequence[Target], now: float) -> None:
        for target in targets:
            if not target.has_begun:
                continue
            if target.state in (ASKING, REQUESTED):  # more is known in a moment
                self._later[target] = None
                continue
            self._later.pop(target, None)
            told = f"{target.state} {target.trouble or ''}"
            if self._shown.get(target) != told:
                self._shown[target] = told
                self._print(target)

    def close(self) -> None:
        for target in self._later:
            if target.state == REQUESTED and not target.is_open:
                self._print(target)
        super().close()

    def _print(self, target: Target) -> None:
        print(f"{printable(target.path)}: {standing(target)}", file=self._out, flush=True)


def standing(target: Target) -> str:
    """How *target* stands, in a few words: the state first."""
    words = [target.state]
    known = target.progress
    if target.trouble:
        return f"{target.state}, {one_line(target.trouble)}"
    if known is None:
        return target.state
    if known.state == "AVAILABLE":
        if target.is_dir and known.files is not None:
            words.append(counted(known.files, "file"))
        if known.bytes is not None:
            words.append(size(known.bytes))
        if target.ended_at is not None and target.ended_at - target.began_at >= 1:
            words.append(f"in {duration(target.ended_at - target.began_at)}")
    elif target.is_dir and known.files is not None:
        words.append(f"{known.files_here} of {counted(known.files, 'file')} here")
        if known.files_stuck:
            words.append(f"{known.files_stuck} stuck")
    if known.rule_id and known.state != "AVAILABLE":
        words.append(f"rule {known.rule_id}")
    return ", ".join(words)
