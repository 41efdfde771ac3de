"""The progress display of `get` and `wait` on a terminal, drawn with rich.

Collections have a bar, by bytes where they are known.  A file is here or not, so it has none: its
row tells the state and for how long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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

_BAR_WIDTH = 20  # characters
_PATH_MIN = 24  # characters of a path, for which a narrow terminal shows fewer columns

# The columns after the path.
_BAR, _FILES, _BYTES, _RATE, _TIME, _STATE = range(6)
_Row = Sequence[Text | ProgressBar]

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
    rows = [_row(target, now) for target in shown]
    paths = [printable(target.path) for target in shown]
    kept = _fitting(rows, min(_PATH_MIN, max(map(len, paths), default=0)), width)
    taken = sum(_widths(rows)[index] + 1 for index in kept)
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    for index in kept:
        justify: Literal["left", "right"] = "left" if index in (_BAR, _STATE) else "right"
        table.add_column(justify=justify, no_wrap=True)
    for path, row in zip(paths, rows, strict=True):
        table.add_row(Text(shortened(path, max(1, width - taken - 1))), *[row[i] for i in kept])
    if len(targets) <= len(shown):
        return table
    return Group(table, Text(summary(targets, len(shown)), no_wrap=True, overflow="ellipsis"))


def _fitting(rows: Sequence[_Row], path: int, width: int) -> list[int]:
    """Columns that have room beside *path* characters, the least telling left out."""
    widths = _widths(rows)
    kept = [index for index in range(_STATE + 1) if widths[index]]
    for dispensable in (_RATE, _BAR, _BYTES, _TIME, _FILES):
        if path + 1 + sum(widths[index] + 1 for index in kept) <= width:
            break
        kept = [index for index in kept if index != dispensable]
    return kept


def _widths(rows: Sequence[_Row]) -> list[int]:
    def wide(cell: Text | ProgressBar) -> int:
        return cell.cell_len if isinstance(cell, Text) else cell.width or 0

    return [max((wide(row[index]) for row in rows), default=0) for index in range(_STATE + 1)]


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


def _row(target: Target, now: float) -> _Row:
    state = "… " if target.trouble and target.is_open else ""
    state += target.state
    return [
        _bar(target),
        _files(target),
        _bytes(target),
        _rate(target),
        _time(target, now),
        Text(state, style=_STYLES.get(target.state, "")),
    ]


def _bar(target: Target) -> Text | ProgressBar:
    known = target.progress
    if not target.is_dir or known is None:
        return Text("")
    if known.bytes:
        total, done = known.bytes, known.bytes_here
    else:
        total, done = known.files or 0, known.files_here
    if total == 0:  # how much it is, is not known yet
        return Text("")
    return ProgressBar(total=total, completed=min(done, total), width=_BAR_WIDTH)


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
    if remaining is not None and remaining >= 1 and target.is_dir:
        return Text(f"{duration(remaining)} left")
    return Text(f"for {duration(now - target.began_at)}")
