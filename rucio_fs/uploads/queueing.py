"""From what lies in a directory of staging to uploads: names, datasets, options, checksums."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from rucio_fs.did import DID
from rucio_fs.errors import BadName, Refused
from rucio_fs.uploads import naming, options
from rucio_fs.uploads.arranging import datasets_for
from rucio_fs.uploads.collecting import Collected, Found, collect
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.reading import adler32_of
from rucio_fs.uploads.records import UNFINISHED, Record, State

log = logging.getLogger(__name__)
T = TypeVar("T")

_READERS = trio.CapacityLimiter(2)  # a disk that is read for checksums has writers to serve, too


class Queue:
    """Looks at directories that have settled, and makes uploads of what is new there."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __repr__(self) -> str:
        return f"<Queue of {self._context.ledger!r}>"

    async def look(self, top: str) -> None:
        """Queue what is new in the directory *top*, but for what is open for writing.

        Raises: what the catalogue raises (nothing is queued then), Unreachable (the journal cannot
        be written)
        """
        context = self._context
        collected = await _in_thread(
            lambda: collect(context.staged.tree, top, context.base, deep="/" in top)
        )
        fresh = [one for one in collected.files if self._is_new(one)]
        named = {one.path: did for one in fresh if (did := self._named(one)) is not None}
        ready = [one for one in fresh if one.path in named]
        if ready:
            datasets = await self._datasets(ready, collected)
            for one in ready:
                await self._add(one, named[one.path], datasets[one.path])
        await context.ledger.journal.commit()

    def _is_new(self, found: Found) -> bool:
        """Whether a file is to be queued.  What its old bytes had come to is dropped."""
        context = self._context
        record = context.ledger.of_file(found.ino, found.path)
        if record is not None and record.is_released and record.mtime_ns != found.mtime_ns:
            context.ledger.let_go(record)  # Rucio has removed that one, and this is its successor
            record = None
        if record is None:
            return not context.staged.is_open_for_writing(found.ino)
        if record.is_sealed or record.id not in context.ledger.journal.records:
            return False
        seen = (record.path, record.size, record.mtime_ns, record.ctime_ns)
        is_same = seen == (found.path, found.size, found.mtime_ns, found.ctime_ns)
        if is_same and not record.is_stopped:
            return False
        if is_same and record.state > State.STAGED:
            return False  # stopped for what happened later; a retry is asked for
        context.ledger.drop(record)
        return not context.staged.is_open_for_writing(found.ino)

    def _named(self, found: Found) -> DID | None:
        """The DID that *found* becomes; None if it is not to be uploaded now, which is told."""
        trouble = found.trouble
        if found.options.upload == "never":
            return None
        # Who wants all of a directory uploaded now has not looked at what is half written later.
        is_half = found.ino in self._context.staged.unfinished and not found.is_as_wanted
        if not trouble and is_half:
            trouble = (
                f"{UNFINISHED} (the mount ended meanwhile, or the disk was full): look at it, and"
                " save it again or set user.rucio.upload to now"
            )
        if not trouble and found.options.rse is None:
            trouble = "no storage is named to upload it to: set user.rucio.rse, or scratch.rse"
        did = DID("", found.path)
        try:
            did = naming.did_of(found.path)
            self._chosen(found, did)
        except (BadName, Refused) as exc:
            trouble = trouble or str(exc)
        if trouble:
            record = self._record(found, did)
            self._context.ledger.add(record)
            self._context.ledger.stop(record, trouble)
            return None
        return did

    async def _datasets(
        self, files: Sequence[Found], collected: Collected
    ) -> Mapping[str, DID | None]:
        chosen: dict[str, DID | None] = {}
        for one in files:
            if one.options.dataset is not None:
                chosen[one.path] = self._chosen(one, naming.did_of(one.path))
        paths = [one.path for one in files]
        return await datasets_for(self._context, paths, collected.has_directories, chosen)

    def _chosen(self, found: Found, did: DID) -> DID | None:
        """The dataset that its user has said, if that is so.  Raises: BadName"""
        if not found.options.dataset:
            return None
        named = options.dataset_did(did.scope, found.options.dataset)
        return None if named is None else DID(*named)

    async def _add(self, found: Found, did: DID, dataset: DID | None) -> None:
        """Make an upload of *found*, unless it changes while it is read."""
        context = self._context
        record = self._record(found, did)
        record.dataset = dataset
        path = context.staged.tree / found.path
        try:
            value = await _in_thread(lambda: _settled(path, found))
        except FileNotFoundError:
            return  # renamed or removed: that is told of by itself
        except OSError as exc:
            context.ledger.add(record)
            context.ledger.stop(record, f"{found.path} cannot be read from staging: {exc.strerror}")
            return
        if not _is_there(path, found.ino):
            return  # renamed or removed while it was read
        is_open = context.staged.is_open_for_writing(found.ino)
        if value is None or is_open or context.ledger.of_file(found.ino) is not None:
            return
        record.adler32 = value
        record.state = State.QUEUED
        context.ledger.add(record)
        if found.ino in context.staged.unfinished:
            context.staged.finished(found.ino)  # its user has said so
        context.events.note("queued", did, path=found.path)

    def _record(self, found: Found, did: DID) -> Record:
        chosen = found.options
        return Record(
            self._context.ledger.journal.next_id(),
            found.path,
            found.ino,
            did,
            found.size,
            found.mtime_ns,
            found.ctime_ns,
            rse=chosen.rse or "",
            rule=chosen.rse_expression or "",
            lifetime=chosen.lifetime,
            keep=chosen.keep,
            metadata=found.metadata,
        )


def _settled(path: Path, found: Found) -> str | None:
    """adler32 of a file whose bytes are on disk now; None if it is not as it was found."""
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        value = adler32_of(file, found.size)
        status = os.fstat(file.fileno())
    seen = (status.st_ino, status.st_size, status.st_mtime_ns)
    return value if seen == (found.ino, found.size, found.mtime_ns) else None


def _is_there(path: Path, ino: int) -> bool:
    try:
        return os.lstat(path).st_ino == ino
    except OSError:
        return False


async def _in_thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call, limiter=_READERS)
