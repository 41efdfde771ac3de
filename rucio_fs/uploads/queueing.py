"""From what lies in a directory of staging to uploads: names, datasets, options, checksums."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from rucio_fs import checksums
from rucio_fs.did import DID, DIDType
from rucio_fs.errors import BadName, Refused
from rucio_fs.uploads import naming, options
from rucio_fs.uploads.collecting import Collected, Found, collect
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.looking import infos_of
from rucio_fs.uploads.naming import Arrangement
from rucio_fs.uploads.records import UNFINISHED, Collection, Record, State

log = logging.getLogger(__name__)
T = TypeVar("T")

_STEP = 4 << 20  # bytes read at once
_READERS = trio.CapacityLimiter(2)  # a disk that is read for checksums has writers to serve, too


class Queue:
    """Looks at directories that have settled, and makes uploads of what is new there."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __repr__(self) -> str:
        return f"<Queue of {self._context.ledger!r}>"

    async def look(self, top: str) -> bool:
        """Queue what is new in the directory *top*; False: some of it is not settled yet.

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
            plan = await self._arranged(ready, collected)
            for collection in _collections(plan):
                if collection.did not in context.ledger.journal.collections:
                    context.ledger.journal.put_collection(collection)
            for one in ready:
                await self._add(one, named[one.path], plan.dataset_of[one.path])
        await context.ledger.journal.commit()
        return all(
            context.ledger.of_file(one.ino) is not None or one.options.upload == "never"
            for one in fresh
        )

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
        is_half = found.ino in self._context.staged.unfinished and found.options.upload != "now"
        if not trouble and is_half:
            trouble = f"{UNFINISHED}: look at it, and save it again or set user.rucio.upload to now"
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

    async def _arranged(self, files: Sequence[Found], collected: Collected) -> Arrangement:
        chosen: dict[str, DID | None] = {}
        for one in files:
            if one.options.dataset is not None:
                chosen[one.path] = self._chosen(one, naming.did_of(one.path))
        paths = [one.path for one in files]
        above = {naming.did_of(path) for path in _above(paths)}
        roots = {DID(did.scope, did.name + naming.ROOT) for did in above}
        existing = await self._existing(above | roots | {*filter(None, chosen.values())})
        return naming.arrange(paths, collected.has_directories, existing, chosen)

    def _chosen(self, found: Found, did: DID) -> DID | None:
        """The dataset that its user has said, if that is so.  Raises: BadName"""
        if not found.options.dataset:
            return None
        named = options.dataset_did(did.scope, found.options.dataset)
        return None if named is None else DID(*named)

    async def _existing(self, dids: set[DID]) -> Mapping[DID, DIDType]:
        """Which of *dids* are collections already, as the journal or Rucio knows."""
        context = self._context
        known = context.ledger.journal.collections
        found = {did: known[did].type for did in dids if did in known}
        infos, _ = await infos_of(context, sorted(dids - found.keys()))
        found |= {did: one.type for did, one in infos.items() if one.type.is_collection}
        return found

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
            record.adler32 = ""
            context.ledger.add(record)
            context.ledger.stop(record, f"{found.path} cannot be read from staging: {exc.strerror}")
            return
        is_open = context.staged.is_open_for_writing(found.ino)
        if value is None or is_open or context.ledger.of_file(found.ino) is not None:
            return
        record.adler32 = f"{value:08x}"
        record.state = State.QUEUED
        context.ledger.add(record)
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


def _above(paths: Sequence[str]) -> set[str]:
    """All directories below scopes that *paths* lie in."""
    return {one for path in paths for one in options.directories(path) if "/" in one}


def _collections(plan: Arrangement) -> list[Collection]:
    return [
        Collection(did, type, plan.parent_of.get(did)) for did, type in plan.collections.items()
    ]


def _settled(path: Path, found: Found) -> int | None:
    """adler32 of a file whose bytes are on disk now; None if it is not as it was found."""
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        value = checksums.EMPTY
        buffer = bytearray(min(_STEP, max(1, found.size)))
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            value = checksums.adler32(view[:count], value)
        status = os.fstat(file.fileno())
    seen = (status.st_ino, status.st_size, status.st_mtime_ns)
    return value if seen == (found.ino, found.size, found.mtime_ns) else None


async def _in_thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call, limiter=_READERS)
