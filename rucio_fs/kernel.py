"""Settings of a FUSE mount that live in the kernel's files and not in the protocol.

They need root; without it the kernel's defaults stay, which costs speed and nothing else.
"""

from __future__ import annotations

import logging
from pathlib import Path

from rucio_fs.mounts import find

log = logging.getLogger(__name__)

_BDI = Path("/sys/class/bdi")
_SYSCTL = Path("/proc/sys/fs/fuse")
_SHARE = 0.75  # of the kernel's limit; it looks at its requests only now and then
_CONNECTIONS = Path("/sys/fs/fuse/connections")


def bearable(wait: float) -> float:
    """*wait* (s), or less where the kernel would give up the whole mount for one late answer.

    Linux 6.15 can be told so; 0 there means never.
    """
    limits = [
        _number(_SYSCTL / name) for name in ("default_request_timeout", "max_request_timeout")
    ]
    shortest = min((limit for limit in limits if limit), default=None)
    if shortest is None or wait <= shortest * _SHARE:
        return wait
    log.warning(
        "opens wait for %g s only: fs.fuse.default_request_timeout is %d s", shortest * _SHARE,
        shortest,
    )  # fmt: skip
    return shortest * _SHARE


def set_read_ahead(mountpoint: Path, size: int) -> None:
    """Let the kernel ask for up to *size* bytes at once; its default is 128 KiB."""
    mount = find(mountpoint)
    if mount is not None:
        _write(_BDI / mount.device / "read_ahead_kb", size // 1024)


def set_max_background(mountpoint: Path, requests: int) -> None:
    """Let *requests* buffered reads wait at once.

    With the default of 12, a dozen readers of slow files stop everybody else's reads.
    """
    mount = find(mountpoint)
    if mount is not None:
        minor = mount.device.partition(":")[2]
        _write(_CONNECTIONS / minor / "max_background", requests)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _write(path: Path, value: int) -> None:
    try:
        path.write_text(f"{value}\n")
    except OSError as exc:
        log.info("%s stays as it is: %s", path, exc.strerror)
