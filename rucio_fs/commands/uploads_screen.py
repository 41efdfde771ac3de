"""How `rucio-fs uploads` looks: what is not in the lake yet, and how far a wait is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rucio_fs.commands.screen import console
from rucio_fs.commands.tallying import (
    FAILED,
    Course,
    Facts,
    Tally,
    awaited,
    summary,
    unsettled,
)
from rucio_fs.commands.waiting import Clock
from rucio_fs.commands.words import counted, duration, one_line, printable, shortened, size

_LINE = 10.0  # s between two lines where stdout is no terminal
_BAR_WIDTH = 20  # characters
_STATE_WIDTH = 15  # characters of "UPLOADING 100%" and a blank
_SIZE_WIDTH = 9
_PATH_MIN = 20  # characters of a path, however narrow the terminal is


# --- what there is -------------------------------------------------------------------------------


def show(tallies: Sequence[tuple[str, Tally]], out: Console | None = None) -> None:
    """A block for each mountpoint: each upload that is not done, the sums, what is waited for."""
    out = out or console()
    for number, (mountpoint, tally) in enumerate(tallies):
        if number:
            out.print()
        _show_mount(out, mountpoint, tally)


def _show_mount(out: Console, mountpoint: str, tally: Tally) -> None:
    out.print(Text(printable(mountpoint), style="bold"), soft_wrap=True)
    for upload in tally.uploads:
        out.print(_row(upload, out), soft_wrap=True)
        if words := upload.get("error"):
            style = "red" if upload["state"] == FAILED else "yellow"
            out.print(Text(f"    {one_line(words)}", style=style), soft_wrap=not out.is_terminal)
    more = tally.pending + tally.failed - len(tally.uploads)
    if more > 0:
        out.print(f"  … and {more} more")
    for line in (summary(tally), *awaited(tally)):
        out.print(Text(f"  {line}"), soft_wrap=True)


def _row(upload: Facts, out: Console) -> Text:
    state, amount = str(upload["state"]), size(upload["bytes"])
    name = printable(str(upload.get("path") or upload.get("did") or ""))
    start = f"  {state:<{_STATE_WIDTH}}{amount:>{_SIZE_WIDTH}}  "
    if out.is_terminal:
        name = shortened(name, max(_PATH_MIN, out.width - len(start)))
    row = Text(start + name)
    if state == FAILED:
        row.stylize("red", 2, 2 + len(state))
    return row


# --- how far it is -------------------------------------------------------------------------------


class Progress:
    """Shows how far a wait is: a bar on a terminal, a line now and then elsewhere.

    *doing* is what goes on, "uploading".
    """

    def __init__(
        self, doing: str, *, is_quiet: bool, clock: Clock, out: Console | None = None
    ) -> None:
        self._doing = doing
        self._clock = clock
        self._is_quiet = is_quiet
        self._told: tuple[int, ...] = ()
        self._told_at = float("-inf")
        self._waited_for: list[str] = []
        self._console = out or Console(highlight=False)
        self._live: Live | None = None
        if not is_quiet and (out is not None or sys.stdout.isatty()):
            # No thread of its own draws: what is drawn is what the last update told.
            self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, course: Course, tally: Tally) -> None:
        """Show *course*, of which *tally* is the last."""
        if self._is_quiet:
            return
        now = self._clock.now()
        if self._live is not None:
            self._live.update(picture(course, tally, now, self._console.width), refresh=True)
        elif not tally.is_over:
            self._write(course, tally, now)

    def _write(self, course: Course, tally: Tally, now: float) -> None:
        waited_for = list(awaited(tally))
        is_news = waited_for != self._waited_for
        # Without the rate, which says the less the longer nothing moves.
        numbers = (
            *(course.files, course.all_files, course.bytes_sent, course.all_bytes),
            *(tally.failed, tally.unsettled),
        )
        if is_news or (numbers != self._told and now - self._told_at >= _LINE):
            self._told, self._told_at = numbers, now
            print(f"{self._doing}: {so_far(course, tally)}", flush=True)
        if is_news:
            self._waited_for = waited_for
            for line in waited_for:
                print(line, flush=True)


def so_far(course: Course, tally: Tally) -> str:
    """How far it is, in a line of plain text."""
    rate = course.rate()
    is_known = bool(course.all_files)  # not before directories that were changed are looked at
    parts = [
        f"{course.files} of {counted(course.all_files, 'file')}" if is_known else "",
        f"{size(course.bytes_sent)} of {size(course.all_bytes)}" if is_known else "",
        f"{size(round(rate))}/s" if rate else "",
        f"{tally.failed} failed" if tally.failed else "",
        unsettled(tally),
    ]
    return ", ".join(filter(None, parts))


def picture(course: Course, tally: Tally, now: float, width: int) -> RenderableType:
    """How far it is *now*, for a terminal of *width* characters."""
    cells = {name: cell for name, cell in _cells(course, tally, now).items() if _wide(cell)}
    for dispensable in ("rate", "bar", "time", "bytes"):
        if sum(_wide(cell) + 1 for cell in cells.values()) <= width:
            break
        cells.pop(dispensable, None)
    table = Table.grid(padding=(0, 1, 0, 0))
    for _ in cells:
        table.add_column(no_wrap=True)
    table.add_row(*cells.values())
    lines = [Text(unsettled(tally), style="dim")] if tally.unsettled else []
    lines += [Text(line, style="yellow") for line in awaited(tally)]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(table, *lines)


def _cells(course: Course, tally: Tally, now: float) -> dict[str, Text | ProgressBar]:
    files = Text(f"{course.files}/{counted(course.all_files, 'file')}")
    if tally.failed:
        files.append(f" {tally.failed} failed", style="red")
    done, total = course.bytes_sent, course.all_bytes
    if not total:
        done, total = course.files, course.all_files
    rate, remaining = course.rate(), course.remaining()
    if remaining is not None and remaining >= 1:
        time = f"{duration(remaining)} left"
    else:
        time = f"for {duration(now - course.began_at)}"
    return {
        # Without anything to do it would be drawn as work without an end.
        "bar": ProgressBar(total=total, completed=done, width=_BAR_WIDTH) if total else Text(),
        "files": files,
        "bytes": Text(f"{size(course.bytes_sent)}/{size(course.all_bytes)}"),
        "rate": Text(f"{size(round(rate))}/s" if rate else ""),
        "time": Text(time),
    }


def _wide(cell: Text | ProgressBar) -> int:
    return cell.cell_len if isinstance(cell, Text) else cell.width or 0
