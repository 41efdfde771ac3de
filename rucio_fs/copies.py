"""Opening the local copies of a file: the first one that is what the catalogue says."""

from __future__ import annotations

from rucio_fs.availability import Local
from rucio_fs.did import FileReplicas
from rucio_fs.errors import Corrupt, NotFound, Unreachable
from rucio_fs.sources.local import LocalSource


async def open_copy(file: FileReplicas, local: Local, timeout: float) -> tuple[LocalSource, str]:
    """One of the copies of *file*, open, and its RSE.  *timeout* (s) is the storage's.

    Raises: Corrupt (none is there with the right size), Unreachable (a storage does not answer).
    """
    reasons: list[str] = []
    unreachable = False
    for copy in local.copies:
        try:
            return await LocalSource.open(copy.path, file.size, timeout), copy.rse
        except (NotFound, Corrupt) as exc:
            reasons.append(f"{copy.rse}: {exc}")
        except Unreachable as exc:
            unreachable = True
            reasons.append(f"{copy.rse}: {exc}")
    message = (
        f"{file.did} is AVAILABLE in Rucio, but its local copy cannot be used:"
        f" {'; '.join(reasons)}. Tell the operators of the RSE"
    )
    raise Unreachable(message) if unreachable else Corrupt(message)
