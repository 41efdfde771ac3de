"""Who the servers run as.

PostgreSQL and XRootD refuse to run as root, so with root each gets its Debian user.  An ordinary
user runs everything as himself.
"""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lake.errors import LakeError, Missing


class User(NamedTuple):
    """A local user a server runs as."""

    name: str
    uid: int
    gid: int

    def own(self, path: Path) -> Path:
        """Give *path* to this user."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)
        return path

    def command(self, command: Sequence[str]) -> list[str]:
        """Return *command* so that it runs as this user (setpriv execs: the pid stays)."""
        if self.uid == os.geteuid():
            return list(command)
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}"]
        return ["setpriv", *ids, "--clear-groups", *command]


def service_user(name: str) -> User:
    """Return the user *name* when we are root, ourselves otherwise."""
    if os.geteuid() != 0:
        return User(str(os.geteuid()), os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise Missing(
            f"there is no user {name}: install the packages with scripts/system-packages"
        ) from None
    return User(name, entry.pw_uid, entry.pw_gid)


def check_reachable(directory: Path) -> None:
    """Refuse a directory the servers' users cannot enter (pytest's and /root are 0700)."""
    if os.geteuid() != 0:
        return
    for parent in (directory, *directory.parents):
        if parent.exists() and not parent.stat().st_mode & 0o001:
            raise LakeError(
                f"{directory} cannot be reached by the users postgres, xrootd and www-data: "
                f"{parent} lacks o+x (mode {parent.stat().st_mode & 0o777:04o}); "
                "use a directory under /var/tmp"
            )
