"""What a mount finds that an earlier one has left: uploads go on, what is doubtful is asked for."""

from __future__ import annotations

import os
from pathlib import Path

from rucio_fs.uploads import collecting
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.records import Record
from rucio_fs.uploads.settling import Settling


def resume(tree: Path, ledger: Ledger, settling: Settling, unfinished: frozenset[int]) -> None:
    """Let go of records whose file is not what it was, and have every directory looked at.

    *unfinished* are files that were open for writing when the last mount died.  Looks at every file
    of a record, in the event loop, before anything is served.
    """
    for record in ledger:
        if record.is_sealed:
            if record.path and not _is_there(tree, record):
                # Its bytes are on storage, and it goes on from there; its number is the disk's
                # again, and may be another file's by now.
                ledger.let_go(record)
        elif record.ino in unfinished or not _is_same(tree, record):
            ledger.drop(record)
    for top in collecting.tops(tree):
        settling.changed(top)


def _is_there(tree: Path, record: Record) -> bool:
    try:
        return os.lstat(tree / record.path).st_ino == record.ino
    except OSError:
        return False


def _is_same(tree: Path, record: Record) -> bool:
    try:
        found = os.lstat(tree / record.path)
    except OSError:
        return False
    seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return seen == (record.ino, record.size, record.mtime_ns, record.ctime_ns)
