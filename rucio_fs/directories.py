"""Where a user keeps logs, caches and what is saved unless something else is said."""

from __future__ import annotations

import hashlib
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from rucio_fs.errors import UsageError

SYSTEM_LOGS = Path("/var/log/rucio-fs")
SYSTEM_CACHE = Path("/var/cache/rucio-fs")
SYSTEM_DATA = Path("/var/lib/rucio-fs")


def default_log_file(mountpoint: Path, environ: Mapping[str, str] | None = None) -> Path:
    """Log of a mount that runs in the background: one file for each mountpoint.

    Raises: UsageError if the user has no home directory.
    """
    directory = _own_directory(environ, SYSTEM_LOGS, "XDG_STATE_HOME", ".local/state")
    if directory is None:
        raise UsageError("no home directory to keep the log in; say where with --log-file FILE")
    return directory / f"{_escaped(mountpoint)}.log"


def default_cache(mountpoint: Path, environ: Mapping[str, str] | None = None) -> Path:
    """Directory for what a mount has streamed: one for each mountpoint.

    Raises: UsageError if the user has no home directory.
    """
    directory = _own_directory(environ, SYSTEM_CACHE, "XDG_CACHE_HOME", ".cache")
    if directory is None:
        raise UsageError("no home directory for the cache; say where with diskcache.dir")
    return directory / _escaped(mountpoint)


def default_scratch(mountpoint: Path, environ: Mapping[str, str] | None = None) -> Path:
    """Directory for what is saved in a mount: one for each mountpoint.

    Raises: UsageError if the user has no home directory.
    """
    directory = _own_directory(environ, SYSTEM_DATA, "XDG_DATA_HOME", ".local/share")
    if directory is None:
        raise UsageError("no home directory for what is saved; say where with scratch.dir")
    return directory / "scratch" / _escaped(mountpoint)


def _own_directory(
    environ: Mapping[str, str] | None, of_root: Path, variable: str, below_home: str
) -> Path | None:
    """Where this user keeps things of one kind; None without a home directory."""
    if os.geteuid() == 0:
        return of_root
    environ = os.environ if environ is None else environ
    base = environ.get(variable) or in_home(environ, below_home)
    return None if base is None else Path(base, "rucio-fs")


def _escaped(mountpoint: Path) -> str:
    """A filename for *mountpoint* that no other one has.

    `/` becomes `-`, so `-` and `%` are written as `%XX`.
    """
    escaped = str(mountpoint).replace("%", "%25").replace("-", "%2D").strip("/").replace("/", "-")
    if len(os.fsencode(escaped)) > 240:  # 255 is the kernel's limit for a filename
        escaped = hashlib.blake2b(os.fsencode(escaped), digest_size=16).hexdigest()
    return escaped


def in_home(environ: Mapping[str, str], relative: str) -> str | None:
    """*relative* to the user's home directory; None if he has none."""
    try:
        home = environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # Kubernetes runs containers under user ids that no passwd file knows
        return None
    return f"{home}/{relative}"
