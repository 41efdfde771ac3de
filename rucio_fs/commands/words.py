"""How the commands write: paths, sizes and times for people, one line for a failure, JSON."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from rucio_fs import PROGRAM


def complain(message: str) -> None:
    """Write *message* as one line on stderr."""
    print(f"{PROGRAM}: error: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(message: str) -> str:
    return printable(" ".join(message.split()))


def printable(text: str) -> str:
    r"""*text* without what would steer a terminal: control characters become ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, width: int) -> str:
    """At most *width* characters of *text*: its end, which is what tells paths apart."""
    return text if len(text) <= width else "…" + text[len(text) - max(width - 1, 0) :]


def size(number: int) -> str:
    """Bytes in powers of ten, as Rucio's own tools and storage people count."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"


def duration(seconds: float) -> str:
    """Seconds as 0:01:23, from a day on as 2d 3h."""
    whole = int(seconds)
    if whole >= 86400:
        return f"{whole // 86400}d {whole % 86400 // 3600}h"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def ago(time: str | None, now: datetime | None = None) -> str:
    """How long before *now* the ISO *time* was; empty if it is unknown."""
    if not time:
        return ""
    try:
        then = datetime.fromisoformat(time)
    except ValueError:
        return time
    return duration(max(0.0, ((now or datetime.now(UTC)) - then).total_seconds()))


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_json(document: object) -> None:
    """Write one JSON document on stdout, now: a closed pipe is to be noticed here."""
    print(json.dumps(document, indent=2), flush=True)
