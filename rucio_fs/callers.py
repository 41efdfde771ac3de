"""Who makes a request: the thread and user that the kernel names, and which program that is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TGID = re.compile(r"^Tgid:\s*(\d+)$", re.MULTILINE)


class Caller(NamedTuple):
    """A thread and its user.  *tid* is 0 for a caller in another pid namespace."""

    tid: int = 0
    uid: int = 0


NOBODY = Caller()


def programs(tid: int) -> frozenset[str]:
    """Names that the program of the thread *tid* goes by: its own, its thread's, its file's.

    The kernel cuts the first two to 15 characters.  Empty if it cannot be seen.
    """
    return frozenset(_names(tid)) if tid else frozenset()


def _names(tid: int) -> Iterator[str]:
    try:
        leader = _TGID.search((_PROC / str(tid) / "status").read_text(errors="replace"))
    except OSError:
        return
    for number in {str(tid), leader[1] if leader else str(tid)}:
        try:
            yield (_PROC / number / "comm").read_text(errors="replace").strip()
            yield Path(os.readlink(_PROC / number / "exe")).name
        except OSError:  # gone, a kernel thread, or another user's
            continue
