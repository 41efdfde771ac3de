"""Names of what lies in a lake's directory, and how the directory is made and removed."""

import os
import shutil
import tempfile
from pathlib import Path

from lake.errors import LakeError
from lake.users import check_reachable

# All a lake writes: what down() removes from a directory somebody else made.
_OWN = ("lake.json", "lake.new", "client", "etc", "log", "postgres", "run", "store", "tls")
_TEMPORARY = Path("/var/tmp")


def default_directory() -> Path:
    """Return where the command line keeps its lake: one for each user."""
    return _TEMPORARY / f"rucio-lake-{os.geteuid()}"


def fresh_directory() -> Path:
    """Make a directory for a lake, open to the servers' users."""
    made = Path(tempfile.mkdtemp(prefix="rucio-lake-", dir=_TEMPORARY))
    made.chmod(0o755)
    return made


def prepare(directory: Path) -> bool:
    """Make *directory* where it is missing and say whether we did.

    Raises: LakeError (out of the servers' reach, somebody else's, or not empty).
    """
    check_reachable(directory)
    try:
        directory.mkdir(mode=0o755)
    except FileExistsError:
        made = False
    except OSError as error:
        raise LakeError(f"cannot make {directory}: {error.strerror}") from None
    else:
        directory.chmod(0o755)  # whatever the umask
        made = True
    if not directory.is_dir() or directory.stat().st_uid != os.geteuid():
        raise LakeError(f"{directory} is not a directory of yours: choose another --directory")
    if any(directory.iterdir()):
        raise LakeError(f"{directory} holds other files: choose an empty or new directory")
    return made


def remove(directory: Path, *, made: bool) -> None:
    """Remove the lake's files, and *directory* itself if we *made* it.

    Raises: LakeError where something is still mounted below: deleting would go into the mount.
    """
    below = [place for place in _mounts() if place != directory and directory in place.parents]
    if below:
        raise LakeError(f"the servers are down, but {below[0]} is mounted: unmount it, try again")
    if made:
        shutil.rmtree(directory, ignore_errors=True)
        return
    for name in _OWN:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _mounts() -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4].replace("\\040", " ")) for line in lines]
