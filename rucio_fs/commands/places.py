"""Where in which rucio-fs mount a path lies, found without touching any mount."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rucio_fs import mounts
from rucio_fs.errors import UsageError

_MOUNTINFO = Path("/proc/self/mountinfo")
_LINKS_MAX = 40  # symlinks in one path, as the kernel has it


@dataclass(frozen=True, slots=True)
class Where:
    """A path in a mount: the mountpoint, and the path without symlinks."""

    mountpoint: str
    path: str


def ours() -> list[str]:
    """Mountpoints of all rucio-fs mounts, in the order they were made, each once."""
    table = _table()
    found = dict.fromkeys(mount.mountpoint for mount in table if mount.is_ours)
    return [where for where in found if _covering(table, where).is_ours]


def locate(path: Path) -> Where:
    """Find the mount that *path* lies in.

    Raises: UsageError if it lies in none of rucio-fs.
    """
    table = _table()
    try:
        start = [] if path.is_absolute() else os.getcwd().split("/")
    except OSError:  # the working directory was removed or unmounted
        raise UsageError(f"{path}: the working directory is gone; cd to another") from None
    found = _resolve(table, [*start, *str(path).split("/")])
    mount = _covering(table, found)
    if not mount.is_ours:
        if not os.path.lexists(found):
            raise UsageError(f"{path}: no such file or directory")
        raise UsageError(f"{path}: not inside a rucio-fs mount")
    return Where(mount.mountpoint, found)


def _resolve(table: Sequence[mounts.Mount], components: Sequence[str]) -> str:
    """Follow symlinks as the kernel does, but never inside a mount of ours: it has none."""
    todo, links, current = list(components), 0, "/"
    while todo:
        name = todo.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            current = os.path.dirname(current)
            continue
        current = os.path.join(current, name)
        if _covering(table, current).is_ours or links >= _LINKS_MAX:
            continue
        try:
            target = os.readlink(current)
        except OSError:  # not a symlink, or nothing there
            continue
        links += 1
        current = "/" if target.startswith("/") else os.path.dirname(current)
        todo = target.split("/") + todo
    return current


def _covering(table: Sequence[mounts.Mount], path: str) -> mounts.Mount:
    """The mount that *path* lies in; of two at one place the later, which covers the other."""
    inside = [
        mount
        for mount in table
        if path == mount.mountpoint or path.startswith(mount.mountpoint.rstrip("/") + "/")
    ]
    root = mounts.Mount("/", "", "", "")  # what a chroot's table may lack
    return max(reversed(inside), key=lambda mount: len(mount.mountpoint), default=root)


def _table() -> list[mounts.Mount]:
    return mounts.parse(os.fsdecode(_MOUNTINFO.read_bytes()))
