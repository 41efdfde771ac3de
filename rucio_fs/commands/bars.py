"""The progress display of `get` and `wait` on a terminal, drawn with rich.

Collections have a bar, by bytes where they are known.  A file is here or not, so it has none: its
row tells the state and for how long.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rucio_fs.commands.deciding import Exit
from rucio_fs.commands.reporting import ErrorsAlone
from rucio_fs.commands.targets import Target
from rucio_fs.commands.words import counted, duration, printable, shortened, size

ROWS = 10
"""Paths that have a row of their own; the rest is summed up in one line."""

_BAR = 20  # characters
_PATH_MIN = 16  # characters of a path on a narrow terminal
_OTHERS = 62  # characters of a row without its path, at most

_STYLES = {
    "AVAILABLE": "green",
    "REPLICATING": "",
    "ASKING": "dim",
    "REQUESTED": "",
    "WAITING_APPROVAL": "yellow",
    "STUCK": "red",
    "SUSPENDED": "red",
    "NOT_AVAILABLE": "red",
    "NEARLINE": "yellow",
    "FAILED": "red",
}


class Bars(ErrorsAlone):
    """Draws the targets in place; errors follow below when all is over."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(highlight=False)
        # No thread of its own draws: what is drawn is what the last update told.
        self._live = Live(console=self._console, auto_refresh=False)
        self._ended: list[Target] = []
        self._live.start()

    def update(self, targets: Sequence[Target], now: float) -> None:
        self._live.update(picture(targets, now, self._console.width), refresh=True)

    def ended(self, target: Target) -> None:
        self._ended.append(target)

    def close(self) -> None:
        self._live.stop()
        for target in self._ended:
            super().ended(target)
        super().close()


def picture(targets: Sequence[Target], now: float, width: int) -> RenderableType:
    """How *targets* stand *now*, for a terminal of *width* characters."""
    shown = chosen(targets)
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "left", "right", "right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    room = max(_PATH_MIN, width - _OTHERS)
    for target in shown:
        table.add_row(*_row(target, now, room))
    if len(targets) <= len(shown):
        return table
    return Group(table, Text(summary(targets, len(shown)), no_wrap=True, overflow="ellipsis"))


def chosen(targets: Sequence[Target]) -> list[Target]:
    """Those that get a row, in the order they were named: first what moves and what failed."""
    ranked = sorted(targets, key=_rank)[:ROWS]
    return [target for target in targets if target in ranked]


def _rank(target: Target) -> int:
    if target.end is not None:
        return 1 if target.end.exit is not Exit.DONE else 3
    return 0 if target.has_begun else 2


def summary(targets: Sequence[Target], rows: int) -> str:
    """One line about all *targets*, of which *rows* are shown."""
    here = sum(target.end is not None and target.end.exit is Exit.DONE for target in targets)
    failed = sum(target.end is not None and target.end.exit is not Exit.DONE for target in targets)
    parts = [f"{here} here", f"{len(targets) - here - failed} on their way"]
    if failed:
        parts.append(f"{failed} not")
    known = [target.progress for target in targets if target.progress is not None]
    total = sum(progress.bytes or 0 for progress in known)
    if total:
        parts.append(f"{size(sum(p.bytes_here for p in known))} of {size(total)}")
    rates = [rate for target in targets if target.is_open and (rate := target.rate())]
    if rates:
        parts.append(f"{size(round(sum(rates)))}/s")
    return f"… and {len(targets) - rows} more; all {counted(len(targets), 'path')}: " + ", ".join(
        parts
    )


def _row(target: Target, now: float, room: int) -> list[RenderableType]:
    path = Text(shortened(printable(target.path), room), no_wrap=True)
    state = "… " if target.trouble and target.is_open else ""
    state += target.state
    return [
        path,
        _bar(target),
        _files(target),
        _bytes(target),
        _rate(target),
        _time(target, now),
        Text(state, style=_STYLES.get(target.state, "")),
    ]


def _bar(target: Target) -> RenderableType:
    known = target.progress
    if not target.is_dir or known is None:
        return Text("")
    if known.bytes:
        total, done = known.bytes, known.bytes_here
    else:
        total, done = known.files or 0, known.files_here
    if total == 0:  # how much it is, is not known yet
        return Text("")
    return ProgressBar(total=total, completed=min(done, total), width=_BAR)


def _files(target: Target) -> Text:
    known = target.progress
    if not target.is_dir or known is None or known.files is None:
        return Text("")
    text = Text(f"{known.files_here}/{known.files} files")
    if known.files_stuck:
        text.append(f" {known.files_stuck} stuck", style="red")
    return text


def _bytes(target: Target) -> Text:
    known = target.progress
    if known is None or known.bytes is None:
        return Text("")
    if not target.is_dir or known.bytes_here >= known.bytes:
        return Text(size(known.bytes))
    return Text(f"{size(known.bytes_here)}/{size(known.bytes)}")


def _rate(target: Target) -> Text:
    rate = target.rate() if target.is_open and target.is_dir else None
    return Text(f"{size(round(rate))}/s" if rate and rate > 0 else "")


def _time(target: Target, now: float) -> Text:
    if target.ended_at is not None:
        return Text(f"in {duration(target.ended_at - target.began_at)}")
    remaining = target.remaining()
    if remaining is not None and target.is_dir:
        return Text(f"{duration(remaining)} left")
    return Text(f"for {duration(now - target.began_at)}")
