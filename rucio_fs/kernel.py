"""Settings of a FUSE mount that live in the kernel's files and not in the protocol.

They need root; without it the kernel's defaults stay, which costs speed and nothing else.
"""

from __future__ import annotations

import logging
from pathlib import Path

from rucio_fs.mounts import find

log = logging.getLogger(__name__)

_BDI = Path("/sys/class/bdi")
_CONNECTIONS = Path("/sys/fs/fuse/connections")


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


def _write(path: Path, value: int) -> None:
    try:
        path.write_text(f"{value}\n")
    except OSError as exc:
        log.info("%s stays as it is: %s", path, exc.strerror)
