"""What a benchmark hands back, as a table for people and as JSON for machines."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MB = 1_000_000
_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Verdict:
    """One target beside the figure that was measured."""

    what: str
    figure: float
    target: str  # as it is read aloud: "<= 1.3 x curl + 0.2 = 0.61 s"
    met: bool

    def __str__(self) -> str:
        word = "target met:    " if self.met else "target NOT met:"
        return f"{word} {self.what}: {number(self.figure)}, wanted {self.target}"


def at_least(what: str, figure: float, bound: float) -> Verdict:
    return Verdict(what, figure, f">= {number(bound)}", figure >= bound)


def at_most(what: str, figure: float, bound: float, how: str = "") -> Verdict:
    """*how* tells where a *bound* comes from that is itself measured."""
    wanted = f"<= {how} = {number(bound)}" if how else f"<= {number(bound)}"
    return Verdict(what, figure, wanted, figure <= bound)


@dataclass
class Result:
    """One benchmark: a table, its targets, and every single measurement in `samples`."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, key: str, value: float) -> float:
        """Keep one measurement under *key* and return it."""
        self.samples.setdefault(key, []).append(value)
        return value

    def median(self, key: str) -> float:
        return statistics.median(self.samples[key])

    def text(self) -> str:
        lines = [f"== {self.name}: {self.title}", *_table(self.columns, self.rows)]
        lines += [str(verdict) for verdict in self.verdicts]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), ""])

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "medians": {key: self.median(key) for key in self.samples},
            "samples": self.samples,
            "targets": [
                {"what": v.what, "figure": v.figure, "target": v.target, "met": v.met}
                for v in self.verdicts
            ],
            "notes": self.notes,
        }


def markdown(command: str, where: Mapping[str, Any], results: Sequence[Result]) -> str:
    """The targets as a table, then every benchmark's own table."""
    lines = [f"`{command}`, {', '.join(f'{key} {value}' for key, value in where.items())}", ""]
    lines += ["| benchmark | what | measured | target | met |", "|---|---|---|---|---|"]
    for result in results:
        for v in result.verdicts:
            met = "yes" if v.met else "**no**"
            cells = [result.name, v.what, number(v.figure), v.target, met]
            lines.append(f"| {' | '.join(cells)} |")
    for result in results:
        table = _table(result.columns, result.rows)
        lines += ["", f"{result.title}:", "", "```", *table, "```"]
        lines += [f"({note})" for note in result.notes]
    return "\n".join(lines)


def publish(file: Path, text: str) -> None:
    """Put *text* between the two markers in *file*.  Raises: ValueError where there are none."""
    before, begin, rest = file.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{file} has no {_BEGIN} and {_END}")
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def number(value: float) -> str:
    """Three significant digits, thousands with commas."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Where this was measured, and how busy it was with other things."""
    names = [
        line.partition("=")[2].strip('"')
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("PRETTY_NAME=")
    ]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "system": names[0] if names else platform.system(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    every = [columns, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(columns))]
    lines = []
    for row in every:
        first, *others = row
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
