"""`rucio-fs refresh PATH`: tell the mount that holds a path to ask Rucio again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rucio_fs import mounts
from rucio_fs.errors import MountError, UsageError

ATTRIBUTE = "user.rucio.refresh"


def refresh(path: Path) -> None:
    """Make the mount forget what it knows of *path*, so that the next look asks Rucio.

    Raises: UsageError if *path* is in no rucio-fs mount, MountError if the mount refuses.
    """
    mount = mounts.containing(path)
    if mount is None or not mount.is_ours:
        raise UsageError(f"{path}: not inside a rucio-fs mount")
    try:
        os.setxattr(path, ATTRIBUTE, b"1")
    except OSError as exc:
        raise MountError(f"{path}: {_reason(exc, mount)}") from exc


def _reason(exc: OSError, mount: mounts.Mount) -> str:
    where = mount.mountpoint
    match exc.errno:
        case errno.ENOTSUP:
            return (
                "cannot be refreshed by itself (not from Rucio, or mounted with xattrs=false);"
                f" to refresh the whole mount, run: echo 1 > {where}/.rucio/refresh"
            )
        case errno.ENOTCONN:
            return f"the server of this mount has died; run: rucio-fs umount {where}"
        case _:
            return exc.strerror or str(exc)
