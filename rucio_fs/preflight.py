"""What must hold before a mount is tried, each failure as one line that says what to do.

libfuse would fail as well, with less to go by.  `cli` calls this in the process that the user
waits for, before any server starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rucio_fs import mounts
from rucio_fs.errors import MountError, UsageError

_DEVICE = Path("/dev/fuse")
_FUSE_CONF = Path("/etc/fuse.conf")
_CAP_SYS_ADMIN = 1 << 21
_PROBE_TIMEOUT = 2.0  # s; a server that is alive answers statfs without asking Rucio
_KILL_TIMEOUT = 0.1  # s
_PROBE = "import os, sys\ntry: os.statvfs(sys.argv[1])\nexcept OSError as e: sys.exit(e.errno)"


def check(
    mountpoint: Path, *, allow_other: bool, own: Mapping[str, Path] | None = None
) -> list[str]:
    """Refuse what would make mounting at *mountpoint* fail, or do harm; return warnings.

    *own* is what the mount itself uses on this machine, by the key that says where that is.  A
    directory that is not empty is allowed: its content is hidden until the mount ends, and
    refusing would break a restart after something wrote into the unmounted directory.

    Raises: UsageError for what the caller can put right, MountError for what is wrong with the
    machine; both say what to do.
    """
    _check_place(mountpoint)
    _check_not_mounted(mountpoint)
    _check_own(mountpoint, own or {})
    warnings = _check_directory(mountpoint)
    _check_device()
    _check_privileges(mountpoint, allow_other=allow_other)
    return warnings


def _check_place(mountpoint: Path) -> None:
    if mountpoint == mountpoint.parent:  # "/", and "//", which POSIX lets be another
        raise UsageError(
            "/: the root of this machine cannot be a mountpoint; name an empty directory"
        )


def _check_own(mountpoint: Path, own: Mapping[str, Path]) -> None:
    for key, place in own.items():
        # Links are followed: what a mount covers is where they lead.
        if Path(mounts.resolve(place)).is_relative_to(mountpoint):
            raise UsageError(
                f"{mountpoint}: the mount would hide its own {key}, {place}; name an empty"
                f" directory, or set {key} to a place outside of it"
            )


def _check_not_mounted(mountpoint: Path) -> None:
    mount = mounts.find(mountpoint)
    if mount is None or not mount.is_fuse:  # a container's volume is a mount too, and a fine place
        return
    where = mount.mountpoint
    if not mount.is_ours:
        raise MountError(f"{where}: already the mountpoint of {mount.fstype} ({mount.source})")
    state = _probe(where)
    if state == errno.ENOTCONN:
        raise MountError(
            f"{where}: a rucio-fs mount whose server has died; run: rucio-fs umount {where}"
        )
    if state is None:
        raise MountError(
            f"{where}: already a rucio-fs mount, and its server does not answer;"
            f" run: rucio-fs umount {where}"
        )
    raise MountError(f"{where}: already mounted by rucio-fs; end it with: rucio-fs umount {where}")


def _check_directory(mountpoint: Path) -> list[str]:
    try:
        mode = os.stat(mountpoint).st_mode
    except FileNotFoundError:
        raise UsageError(f"{mountpoint}: no such directory; run: mkdir -p {mountpoint}") from None
    except OSError as exc:
        raise UsageError(f"{mountpoint}: {exc.strerror}") from exc
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{mountpoint}: not a directory; name an empty directory to mount at")
    try:
        with os.scandir(mountpoint) as entries:
            is_empty = next(entries, None) is None
    except OSError as exc:
        raise UsageError(f"{mountpoint}: {exc.strerror}") from exc
    return [] if is_empty else [f"{mountpoint} is not empty; its content is hidden while mounted"]


def _check_device() -> None:
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        if exc.errno == errno.EACCES:
            advice = f"ask the administrator for: chmod 666 {_DEVICE}"
        elif exc.errno == errno.EPERM:  # the device rules of the container's cgroup
            advice = f"run the container with --device {_DEVICE}"
        else:
            advice = f"run: modprobe fuse; in a container: run it with --device {_DEVICE}"
        raise MountError(f"cannot use {_DEVICE}: {exc.strerror}; {advice}") from exc


def _check_privileges(mountpoint: Path, *, allow_other: bool) -> None:
    """Who may not mount goes through fusermount3, which has conditions of its own."""
    status = _own_status()
    if int(status["CapEff"], 16) & _CAP_SYS_ADMIN:
        return
    if not int(status["CapBnd"], 16) & _CAP_SYS_ADMIN:
        raise MountError(
            "this container may not mount; run it with --cap-add SYS_ADMIN (and, where AppArmor"
            " is in use, --security-opt apparmor=unconfined)"
        )
    if shutil.which("fusermount3") is None:
        raise MountError(
            "fusermount3 is missing, which users need to mount; install the package fuse3"
        )
    if status.get("NoNewPrivs") == "1":
        raise MountError(
            "this process may not gain privileges (no_new_privs), so fusermount3 cannot mount for"
            " it; mount as root or unset NoNewPrivileges of the service"
        )
    if not os.access(mountpoint, os.W_OK):
        raise UsageError(
            f"{mountpoint}: no permission to mount there; a user mounts where they can write"
        )
    if allow_other and not _user_allow_other():
        raise UsageError(
            f"allow_other is for root unless {_FUSE_CONF} has a line user_allow_other; ask the"
            " administrator, or mount without it"
        )


def _probe(mountpoint: str) -> int | None:
    """Ask the server of a mount for its statfs: errno, 0 if it answers, None if it does not.

    statfs, because the kernel may answer stat from its cache even for a dead server.
    """
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROBE, mountpoint],
        # One that hangs must not keep our caller's pipes open.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return child.wait(_PROBE_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        # A child that waits inside the kernel outlives this: only the server's answer or death
        # ends it, and nobody should wait for that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_KILL_TIMEOUT)
        return None


def _own_status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _user_allow_other() -> bool:
    try:
        lines = _FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
