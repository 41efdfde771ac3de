"""How `rucio-fs cache` looks: a block about a cache, and how far its verification is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich import progress
from rich.console import Console
from rich.text import Text

from rucio_fs.commands.screen import console
from rucio_fs.commands.waiting import Clock
from rucio_fs.commands.words import counted, printable, size

_LINE = 10.0  # s between two lines where stdout is no terminal
_BAR_WIDTH = 20  # characters

Facts = Mapping[str, Any]


def show(mountpoint: str, facts: Facts, out: Console | None = None) -> None:
    """One screen about the cache of a mount."""
    out = out or console()
    out.print(Text(printable(mountpoint), style="bold"), soft_wrap=True)
    for label, text in (
        ("directory", printable(str(facts["directory"]))),
        ("used", f"{size(facts['bytes'])} of {size(facts['limit'])}{_clearing(facts)}"),
        ("files", f"{facts['files']}, {facts['open']} of them open"),
        ("evicted", f"{counted(facts['evicted'], 'file')} since the mount began"),
        ("refused", _refused(facts["refused"])),
        ("verified", _verification(facts["verification"])),
    ):
        if text:
            line = Text(f"  {label:<10}", style="dim").append(text, style="not dim")
            out.print(line, soft_wrap=True)


def verified(found: Facts) -> str:
    """What a verification has looked at."""
    return f"{counted(found['done'], 'file')}, {size(found['bytes'])}"


def _clearing(facts: Facts) -> str:
    return ", being cleared" if facts["is_clearing"] else ""


def _refused(number: int) -> str:
    return f"{counted(number, 'write')}, for want of room" if number else ""


def _verification(found: Facts | None) -> str:
    if found is None:
        return "not since the mount began"
    damage = f"{size(found['damaged_bytes'])} damaged" if found["damaged_bytes"] else "no damage"
    if found["is_running"]:
        return f"{_so_far(found)}, {damage} so far"
    return f"{verified(found)}, {damage}"


def _so_far(found: Facts) -> str:
    return f"{found['done']} of {counted(found['files'], 'file')}, {size(found['bytes'])}"


class Progress:
    """Shows how far a verification is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, is_quiet: bool, clock: Clock) -> None:
        self._clock = clock
        self._is_quiet = is_quiet
        self._told_at = float("-inf")
        self._bar: progress.Progress | None = None
        if not is_quiet and sys.stdout.isatty():
            # No thread of its own draws: what is drawn is what the last update told.
            self._bar = progress.Progress(
                progress.TextColumn("verifying"),
                progress.BarColumn(bar_width=_BAR_WIDTH),
                progress.TextColumn("{task.fields[told]}"),
                progress.TimeRemainingColumn(),
                auto_refresh=False,
            )
        self._task: progress.TaskID | None = None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, found: Facts) -> None:
        """Show *found*, a `verification`."""
        if self._is_quiet or not found:
            return
        if self._bar is not None:
            self._draw(self._bar, found)
        elif found["is_running"] and self._clock.now() - self._told_at >= _LINE:
            self._told_at = self._clock.now()
            print(f"verifying: {_so_far(found)}", flush=True)

    def _draw(self, bar: progress.Progress, found: Facts) -> None:
        # None would be drawn as work without an end; no files at all are done at once.
        total, done = max(1, found["files"]), found["done"] if found["files"] else 1
        if self._task is None:
            self._task = bar.add_task("", total=total, told="")
        bar.update(self._task, total=total, completed=done, told=_so_far(found))
        bar.refresh()
