"""What a mount finds that an earlier one has left: uploads go on, what is doubtful is asked for."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

from rucio_fs.uploads import collecting
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.records import Record, State
from rucio_fs.uploads.settling import Settling

log = logging.getLogger(__name__)


def resume(tree: Path, ledger: Ledger, settling: Settling, unfinished: frozenset[int]) -> None:
    """Let go of records whose file is not what it was, and have every directory looked at.

    *unfinished* are files that were open for writing when the last mount died.  Looks at every file
    of a record, in the event loop, before anything is served.
    """
    for record in ledger:
        if record.is_placed:  # Rucio may have been told of it just when the last mount ended
            record.is_placed = False
            ledger.journal.put(record)
        if record.is_sealed:
            if record.path and not _is_there(tree, record):
                # Its bytes are on storage, and it goes on from there; its number is the disk's
                # again, and may be another file's by now.
                if record.is_in_place and record.state is State.STORED:
                    log.warning("scratch/%s was removed on the storage", record.path)
                    ledger.drop(record)
                else:
                    ledger.let_go(record)
        elif record.ino in unfinished or not _is_same(tree, record):
            ledger.drop(record)
    for top in collecting.tops(tree):
        settling.changed(top)


def doubtful(tree: Path, ledger: Ledger) -> dict[int, str]:
    """Files that nobody had seen on disk yet when the machine went down: number -> path.

    A filesystem may then have their names and not their bytes.
    """
    found: dict[int, str] = {}
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                ino = os.lstat(path).st_ino
                if ledger.of_file(ino) is None:
                    found[ino] = os.path.relpath(path, tree)
    return found


def _is_there(tree: Path, record: Record) -> bool:
    try:
        found = os.lstat(tree / record.path)
    except OSError:
        return False
    # The disk gives numbers away again.  Its times may be set; what was given up has no bytes.
    is_as_written = found.st_mtime_ns == record.mtime_ns or (
        record.is_given_up and (not found.st_blocks or _is_hole(tree / record.path))
    )
    return (found.st_ino, found.st_size) == (record.ino, record.size) and is_as_written


def _is_hole(path: Path) -> bool:
    """Whether nothing is in the file; its attributes may take a block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as exc:
        return exc.errno == errno.ENXIO
    finally:
        os.close(fd)
    return False


def _is_same(tree: Path, record: Record) -> bool:
    try:
        found = os.lstat(tree / record.path)
    except OSError:
        return False
    seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return seen == (record.ino, record.size, record.mtime_ns, record.ctime_ns)
