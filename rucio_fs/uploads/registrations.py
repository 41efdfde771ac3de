"""`rucio-fs register`: requests become records, which the engine's steps take from there."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from rucio_fs.catalogue.registering import EVERYBODYS
from rucio_fs.did import DID, Identity
from rucio_fs.errors import BadName, NoTarget, Refused, RucioFsError, Unreachable
from rucio_fs.scratch.threads import in_thread
from rucio_fs.uploads import lying
from rucio_fs.uploads.arranging import datasets_for
from rucio_fs.uploads.context import BATCH, Context
from rucio_fs.uploads.lying import Lying, Request
from rucio_fs.uploads.places import Place
from rucio_fs.uploads.records import Record, State
from rucio_fs.webdav.addresses import SCHEMES

log = logging.getLogger(__name__)

_REMEMBERED = 100  # requests that are told of; the oldest are forgotten first
_AGAIN = 5.0  # s until Rucio is asked again for what it did not answer


class Mounted(Protocol):
    """See `places.Places`."""

    async def of(self, who: Identity, rse: str, path: Path) -> Place: ...


@dataclass(slots=True, eq=False)
class Job:
    """A request: how many *files* and bytes it has come to, and those *records* that are left.

    *words* say what is wrong with all of it.  *earlier* are records of other requests, by the path
    of their file.
    """

    request: Request
    is_looking: bool = True
    words: str = ""
    files: int = 0
    size: int = 0
    records: list[Record] = field(default_factory=list)
    earlier: dict[str, Record] = field(default_factory=dict)


class Registrations:
    """Takes requests, one after the other.  *rses* are tried where a request names none."""

    def __init__(self, context: Context, mounted: Mounted, rses: Sequence[str]) -> None:
        self._context = context
        self._mounted = mounted
        self._rses = rses
        self._jobs: deque[Job] = deque(maxlen=_REMEMBERED)
        self._waiting: deque[Job] = deque()
        self._come = trio.Event()

    def __repr__(self) -> str:
        return f"<Registrations: {len(self._waiting)} waiting>"

    @property
    def is_looking(self) -> bool:
        """Whether records may come of what was asked for."""
        return bool(self._waiting)

    def order(self, text: str) -> None:
        """Take a request, a JSON object.  Raises: Refused"""
        try:
            facts = json.loads(text)
            if not isinstance(facts, dict):
                raise ValueError("an object is expected")
        except (ValueError, RecursionError) as exc:
            raise Refused(f"register takes JSON: {exc}") from exc
        job = Job(Request.of(facts))
        for one in self._jobs:  # millions of files are not remembered for what is done
            self._left(one)
        self._jobs.append(job)
        self._waiting.append(job)
        self._come.set()

    def facts(self) -> list[dict[str, Any]]:
        """How requests stand, the latest last; *left* are files that are not in the lake yet."""
        found = []
        for job in self._jobs:
            left = self._left(job)
            failed = [one for one in left if one.is_stopped]
            facts = {
                "id": job.request.id,
                "path": str(job.request.path),
                "is_looking": job.is_looking,
                "files": job.files,
                "left": len(left) - len(failed),
                "failed": len(failed),
                "bytes": job.size,
                "bytes_left": sum(one.size for one in left),
                "error": job.words or None,
            }
            found.append({key: value for key, value in facts.items() if value is not None})
        return found

    def requests(self) -> dict[int, str]:
        """The ids of requests, by those of the records that are left of them."""
        return {one.id: job.request.id for job in self._jobs for one in job.records}

    def _left(self, job: Job) -> Sequence[Record]:
        job.records = [one for one in job.records if self._context.ledger.is_known(one)]
        return job.records

    async def run(self) -> None:
        """Look at what is asked for, for ever."""
        while True:
            if not self._waiting:
                self._come = trio.Event()
                await self._come.wait()
            job = self._waiting[0]
            try:
                await self._look(job)
                job.words = ""
            except Unreachable as exc:
                log.log(exc.level, "%s is registered later: %s", job.request.path, exc)
                job.words = str(exc)
                await trio.sleep(_AGAIN)
                continue
            except RucioFsError as exc:
                log.log(exc.level, "%s is not registered: %s", job.request.path, exc)
                job.words = str(exc)
            except Exception as exc:
                log.exception("bug while looking at %s", job.request.path)
                job.words = f"internal error: {exc!r}"
            job.is_looking, job.earlier = False, {}
            self._waiting.popleft()
            self._context.ledger.tell()

    # --- one request -----------------------------------------------------------------------------

    async def _look(self, job: Job) -> None:
        """Make records of all files of a request.  Raises: Refused, what asking Rucio raises"""
        context = self._context
        place = await self._place(job.request)
        scope = job.request.scope
        if not scope:
            scopes = await context.registry.own_scopes(context.who)
            scope = lying.one_scope(scopes, EVERYBODYS)
        chosen = lying.dataset_of(job.request, scope)
        tree = await in_thread(partial(lying.find, job.request, scope))
        self._forget(job)  # not before it is known that this one makes sense
        job.earlier = {one.lies_at: one for one in context.ledger if one.lies_at}
        for path, words in tree.troubles.items():
            self._fail(job, place, path, DID(scope, path.name), f"{path}: {words}")
        named: dict[Lying, DID] = {}
        for file in tree.files:
            try:
                named[file] = lying.named(file)
            except BadName as exc:
                self._fail(job, place, file.path, DID(scope, file.path.name), str(exc))
        pfns = self._pfns(job, place, named)
        await self._check_places(job, place, named, pfns)
        ready = [file for file in named if file in pfns]
        names = [file.name for file in ready]
        wanted = {} if chosen is None else dict.fromkeys(names, chosen)
        datasets = await datasets_for(context, names, tree.has_directories, wanted)
        batch: list[Record] = []
        for file in ready:
            record = self._record(job, place, file.path, named[file])
            record.size, record.mtime_ns = file.size, file.mtime_ns
            record.url, record.dataset = pfns[file], datasets[file.name]
            try:
                record.adler32 = await in_thread(partial(lying.read, file))
            except Refused as exc:
                self._add(job, record, str(exc))
                continue
            record.state = State.STORED
            batch.append(record)
            if len(batch) == BATCH:
                self._add_all(job, batch)
                batch = []
        self._add_all(job, batch)
        await context.ledger.journal.commit()

    async def _place(self, request: Request) -> Place:
        """Raises: Refused, NoTarget, what asking Rucio raises"""
        context = self._context
        path = await in_thread(partial(_real, request.path))
        staged = context.staged.tree.resolve()
        if path.is_relative_to(staged) or staged.is_relative_to(path):
            raise Refused(f"{request.path}: what lies in scratch is registered by itself")
        if request.rse:
            return await self._mounted.of(context.who, request.rse, request.path)
        words = []
        for rse in self._rses:
            try:
                return await self._mounted.of(context.who, rse, request.path)
            except (Refused, NoTarget) as exc:
                words.append(str(exc))
        tried = "; ".join(words) or "this mount knows no RSE that is mounted here (site.rse)"
        raise Refused(f"{request.path}: name the RSE it lies at (--rse): {tried}")

    def _pfns(self, job: Job, place: Place, named: dict[Lying, DID]) -> dict[Lying, str]:
        found = {}
        for file, did in named.items():
            try:
                found[file] = place.pfn(file.path)
            except Refused as exc:
                self._fail(job, place, file.path, did, str(exc))
        return found

    async def _check_places(
        self, job: Job, place: Place, named: dict[Lying, DID], pfns: dict[Lying, str]
    ) -> None:
        """A deterministic RSE finds files where it has computed that they are, or not at all."""
        if not place.is_deterministic:
            return
        context = self._context
        dids = [named[file] for file in pfns]
        expected = await context.registry.pfns(context.who, place.rse, dids, SCHEMES)
        for file in [file for file in pfns if pfns[file] != expected[named[file]]]:
            words = (
                f"{file.path} is not where {place.rse} keeps {named[file]}: that is"
                f" {expected[named[file]]}; move it there, or save it in scratch"
            )
            del pfns[file]
            self._fail(job, place, file.path, named[file], words)

    # --- records ---------------------------------------------------------------------------------

    def _record(self, job: Job, place: Place, path: Path, did: DID) -> Record:
        request = job.request
        return Record(
            *(self._context.ledger.journal.next_id(), "", 0, did, 0, 0, 0),
            rse=place.rse,
            rule=request.rule or place.rse,
            lifetime=request.lifetime,
            is_in_place=True,
            lies_at=str(path),
        )

    def _fail(self, job: Job, place: Place, path: Path, did: DID, words: str) -> None:
        self._add(job, self._record(job, place, path, did), words)

    def _forget(self, job: Job) -> None:
        """What has stopped of an earlier attempt does not count: it is asked for again."""
        job.records, job.files, job.size = [], 0, 0
        for record in self._context.ledger:
            if not record.lies_at or not record.is_stopped:
                continue
            if Path(record.lies_at).is_relative_to(job.request.path):
                self._context.ledger.drop(record)

    def _add_all(self, job: Job, records: Sequence[Record]) -> None:
        for record in records:
            self._add(job, record)

    def _add(self, job: Job, record: Record, words: str = "") -> None:
        ledger = self._context.ledger
        if (old := job.earlier.pop(record.lies_at, None)) is not None:
            ledger.drop(old)  # asked for again, as its user wants it now
        ledger.add(record)
        if words:
            ledger.stop(record, words)
            self._context.events.problem(record.did, record.shown, words)
        job.records.append(record)
        job.files += 1
        job.size += record.size


def _real(path: Path) -> Path:
    """Raises: Refused"""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as exc:
        raise Refused(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc
