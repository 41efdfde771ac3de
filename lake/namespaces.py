"""Runs a server that sees another file in the place of one of the system's, as bind mounts.

Used for two things: a machine whose /dev/null only root may open (initdb then fails as user
postgres), and an XRootD that trusts the lake's certificate authority.  The host is untouched.
"""

import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lake.errors import LakeError


def overlay(binds: Mapping[Path, Path], command: Sequence[str]) -> list[str]:
    """Return *command* so that it sees each key of *binds* at the place of its value."""
    if not binds:
        return list(command)
    mounts = " && ".join(f"mount --bind '{source}' '{place}'" for source, place in binds.items())
    script = [f'{mounts} && exec "$@"', "sh"]
    if os.geteuid() == 0:
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", *script, *command]
    # An ordinary user becomes root of a user namespace to mount, then himself again in a second
    # one: XRootD refuses to run as (what looks like) root.
    back = ["unshare", "-U", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
    return ["unshare", "-U", "-r", "-m", "sh", "-c", *script, *back, *command]


def check_allowed() -> None:
    """Refuse in one line where bind mounts need a right we lack.

    Raises: LakeError.
    """
    ids = [] if os.geteuid() == 0 else ["-U", "-r"]
    done = subprocess.run(["unshare", *ids, "-m", "true"], capture_output=True, text=True)
    if done.returncode != 0:
        raise LakeError(
            "--oidc needs root, or unprivileged user namespaces (sysctl "
            "kernel.unprivileged_userns_clone=1, on Ubuntu "
            "kernel.apparmor_restrict_unprivileged_userns=0): " + done.stderr.strip()
        )


def null_device(directory: Path) -> dict[Path, Path]:
    """Return the bind that repairs a /dev/null others may not open, or nothing where it is fine."""
    null = Path("/dev/null")
    if os.geteuid() != 0 or null.stat().st_mode & 0o666 == 0o666:
        return {}
    own = directory / "null"
    if not own.exists():
        os.mknod(own, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        own.chmod(0o666)
    return {own: null}
