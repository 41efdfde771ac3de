"""The mount table as the kernel tells it, who uses a mount, and unmounting.

Never touches a FUSE mount: one whose server hangs would block the caller beyond kill -9.
/proc/self/mountinfo and the links in /proc answer without asking the server.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rucio_fs.errors import MountError

SUBTYPE = "rucio-fs"  # mount.serve passes it to the kernel; it is how a mount is known as ours
FSTYPE = f"fuse.{SUBTYPE}"

_MOUNTINFO = Path("/proc/self/mountinfo")
_COMMAND_TIMEOUT = 30.0  # s; fusermount3 takes milliseconds unless the kernel waits for a server
_LINKS_MAX = 40  # symlinks in a row, as the kernel has it


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo.  *device* is "major:minor"."""

    mountpoint: str
    fstype: str
    source: str
    device: str

    @property
    def is_ours(self) -> bool:
        return self.fstype == FSTYPE

    @property
    def is_fuse(self) -> bool:
        return self.fstype in ("fuse", "fuseblk") or self.fstype.startswith("fuse.")


@dataclass(frozen=True, slots=True)
class User:
    """A process that keeps a mount busy."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})"


# --- looking -----------------------------------------------------------------------------------


def parse(mountinfo: str) -> list[Mount]:
    """Mounts of the text of a mountinfo file, in the order they were made.

    Source: proc_pid_mountinfo(5); blank, tab, newline and backslash are octal escapes in it.
    """
    mounts = []
    for line in mountinfo.split("\n"):  # str.splitlines knows line ends that the kernel does not
        left, _, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) >= 6 and len(after) >= 2:
            mountpoint, source = _unescape(before[4]), _unescape(after[1])
            mounts.append(Mount(mountpoint, _unescape(after[0]), source, before[2]))
    return mounts


def find(mountpoint: Path) -> Mount | None:
    """What is mounted exactly at *mountpoint*; the topmost one of several."""
    path = resolve(mountpoint)
    return next((mount for mount in reversed(_read()) if mount.mountpoint == path), None)


def containing(path: Path) -> Mount | None:
    """The mount that *path* lies in or is the mountpoint of."""
    resolved = resolve(path)
    mounts = [mount for mount in _read() if _is_inside(resolved, mount.mountpoint)]
    # Of equally long mountpoints the last one covers the others; max() would return the first.
    return max(reversed(mounts), key=lambda mount: len(mount.mountpoint), default=None)


def resolve(path: Path) -> str:
    """Absolute path without symlinks, as mountinfo writes it.

    The last component is looked up in the mount table before it is touched.
    """
    mountpoints = {mount.mountpoint for mount in _read()}
    current = os.path.abspath(path)
    for _ in range(_LINKS_MAX):
        parent, name = os.path.split(current)
        current = os.path.join(os.path.realpath(parent), name)
        if current in mountpoints:
            break
        try:
            target = os.readlink(current)
        except OSError:  # not a symlink, or nothing there
            break
        current = os.path.abspath(os.path.join(os.path.dirname(current), target))
    return current


def users(mount: Mount) -> list[User]:
    """Processes with their working directory, root, program or an open file in *mount*.

    Only reads links in /proc, which the kernel answers without the server, and only those that
    the caller may see.
    """
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and any(
            _is_inside(path, mount.mountpoint) for path in _paths_in_use(entry.path)
        ):
            try:  # comm, because reading cmdline waits for the memory of a process that hangs
                command = Path(entry.path, "comm").read_text(errors="replace").strip()
            except OSError:
                continue  # it has just ended
            found.append(User(int(entry.name), command))
    return found


# --- unmounting --------------------------------------------------------------------------------


def unmount(mountpoint: Path, *, lazy: bool = False) -> str | None:
    """End the rucio-fs mount at *mountpoint*; return what the caller should know, if anything.

    A mount that is in use is detached: it disappears now and ends with its last user.

    Raises: MountError if nothing is mounted there, or something else than rucio-fs.
    """
    mount = find(mountpoint)
    if mount is None:
        raise MountError(f"{mountpoint}: not mounted{_nearby(mountpoint)}")
    if not mount.is_ours:
        raise MountError(
            f"{mount.mountpoint}: a {mount.fstype} mount, not one of rucio-fs; end it with umount"
        )
    if lazy:
        _detach(mount, ["-z"], ["-l"])
        return None
    busy_with = users(mount)  # before: the links of a detached mount no longer show where it was
    try:
        _detach(mount, [], [])
    except _BusyError:
        _detach(mount, ["-z"], ["-l"])
        who = ", ".join(map(str, busy_with)) or "processes of other users"
        return f"{mount.mountpoint} is in use by {who}: detached, it ends when they do"
    return None


class _BusyError(MountError):
    """The kernel says EBUSY."""


def _detach(mount: Mount, fusermount: Sequence[str], umount: Sequence[str]) -> None:
    """Unmount with the arguments for the helper that there is.

    fusermount3 comes first: it works for users, and umount(8) asks the server when it should not.
    """
    if helper := shutil.which("fusermount3"):
        command = [helper, "-u", *fusermount, "--", mount.mountpoint]
    elif helper := shutil.which("umount"):
        command = [helper, *umount, "--", mount.mountpoint]
    else:
        raise MountError("neither fusermount3 nor umount is installed; install the package fuse3")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",  # it repeats the mountpoint, in whatever bytes that is
            timeout=_COMMAND_TIMEOUT,
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},  # "busy" in English
        )
    except subprocess.TimeoutExpired as exc:
        raise MountError(
            f"{mount.mountpoint}: {helper} does not end; run: rucio-fs umount --lazy"
            f" {mount.mountpoint}"
        ) from exc
    if done.returncode:
        message = " ".join(done.stderr.split())
        raise (_BusyError if "busy" in message else MountError)(message or f"{helper} failed")


def _nearby(mountpoint: Path) -> str:
    mount = containing(mountpoint)
    return f"; did you mean {mount.mountpoint}?" if mount is not None and mount.is_ours else ""


# --- helpers -----------------------------------------------------------------------------------


def _read() -> list[Mount]:
    return parse(os.fsdecode(_MOUNTINFO.read_bytes()))


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _is_inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _paths_in_use(process: str) -> list[str]:
    links = [f"{process}/{name}" for name in ("cwd", "root", "exe")]
    paths = []
    with contextlib.suppress(OSError):  # another user's process, or one that has ended
        links += [entry.path for entry in os.scandir(f"{process}/fd")]
    for link in links:
        try:
            paths.append(os.readlink(link))
        except OSError:
            continue
    return paths
