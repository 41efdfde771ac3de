"""What Rucio is told of files that are on storage: replicas, datasets, rules; hundreds a request.

Each step takes records of one state and brings them to the next.  What fails for one is told of
that one: a request that Rucio refuses is made again for halves of it.
"""

from __future__ import annotations

import logging
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from rucio_fs import checksums
from rucio_fs.catalogue.registry import NewCollection, NewFile
from rucio_fs.did import DID, DIDInfo, DIDType, FileReplicas
from rucio_fs.errors import (
    Differs,
    LoginFailed,
    NoTarget,
    NotFound,
    NotYetHere,
    Refused,
    RucioFsError,
    RuleExists,
    Unreachable,
)
from rucio_fs.uploads.context import SCHEMES, Context
from rucio_fs.uploads.in_place import is_same
from rucio_fs.uploads.leaving import Leaver
from rucio_fs.uploads.looking import infos_of, own_rule
from rucio_fs.uploads.records import Collection, Record, State

log = logging.getLogger(__name__)
K = TypeVar("K")

RULES = 50
"""Rules in one request: Rucio takes 20 to 50 ms for each."""

_OF_ALL = (Unreachable, LoginFailed)  # says nothing of one file, and is not asked for each of them

Told = Callable[[Record, RucioFsError], None]
"""Is told of a record that something is in its way."""


class Registrar:
    """The steps that are Rucio's.  *told* is told what is in the way of which record, *on_change*
    that a file is not what it was.

    All raise Unreachable and LoginFailed: then nothing was done, for all of them.
    """

    def __init__(
        self,
        context: Context,
        told: Told,
        leaver: Leaver,
        on_change: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self._context = context
        self._told = told
        self._leaver = leaver
        self._on_change = on_change
        self._token = secrets.token_hex(4)  # of this mount: its temporary names are nobody else's

    def __repr__(self) -> str:
        return f"<Registrar for {self._context.ledger!r}>"

    # --- QUEUED: is it new, and where does it go -------------------------------------------------

    async def check(self, records: Sequence[Record]) -> None:
        """What the lake has already is not sent again; all else is given its place on storage."""
        context, who = self._context, self._context.who
        infos, refused = await infos_of(context, [record.did for record in records])
        for record in [one for one in records if one.did in refused]:
            words = f"{record.did}: Rucio takes no such name ({refused[record.did]}); rename it"
            self._told(record, Refused(words))
        records = [one for one in records if one.did not in refused]
        known = [record for record in records if self._is_same(record, infos)]
        # What lies in place has to be registered there all the same, so that Rucio removes it.
        known = [record for record in known if not self._is_in_place(record)]
        states: Mapping[DID, FileReplicas] = {}
        if known:
            states = await context.catalogue.replicas_of(who, [one.did for one in known])
        present = []
        for record in known:
            found = states.get(record.did)
            if found is not None and "AVAILABLE" in found.states.values():
                present.append(record)
        for record in present:
            context.events.note("known", record.did, path=record.path)
            context.ledger.advance(record, State.REGISTERED)
        fresh = [one for one in records if one not in present and not one.is_stopped]
        for rse, some in _by(fresh, lambda record: record.rse).items():
            await self._each(some, partial(self._give_places, rse))

    def _is_same(self, record: Record, infos: Mapping[DID, DIDInfo]) -> bool:
        """Whether Rucio knows the file; stops it if Rucio knows another one of its name."""
        info = infos.get(record.did)
        if info is None:
            return False
        if info.type is not DIDType.FILE:
            words = f"a {info.type.value.lower()} of that name is in the lake"
        elif info.size != record.size or not checksums.is_same(info.adler32, record.adler32):
            words = (
                f"another file of that name is in the lake ({info.size} bytes, adler32"
                f" {info.adler32}; this one has {record.size} and {record.adler32})"
            )
        else:
            return True
        self._context.ledger.stop(record, f"{record.did}: {words}; rename yours to upload it")
        return False

    async def _give_places(self, rse: str, records: Sequence[Record]) -> None:
        context, who = self._context, self._context.who
        try:
            destination = await context.registry.destination(who, rse)
        except NoTarget as exc:  # there is no such RSE: somebody has misspelt it
            self._tell(records, Refused(str(exc)))
            return
        if not destination.is_writable:
            self._tell(records, NoTarget(f"{rse} is closed for writing now"))
            return
        if self._is_in_place(records[0]):
            for record in records:
                await self._each([record], self._seal)
            return
        try:
            urls = await context.registry.pfns(who, rse, [one.did for one in records], SCHEMES)
        except NoTarget as exc:  # nothing can be put there, now or later
            self._tell(records, Refused(str(exc)))
            return
        for record in records:
            if urls[record.did] in context.ledger.journal.litter:
                words = "what an earlier attempt has left at its place is removed first"
                self._told(record, NotYetHere(f"{record.did}: {words}"))
                continue
            record.url = urls[record.did]
            record.temp_url = f"{record.url}.rucio-fs-{self._token}-{record.id}"
            context.ledger.advance(record, State.UPLOADING)

    def _tell(self, records: Sequence[Record], error: RucioFsError) -> None:
        for record in records:
            self._told(record, error)

    def _is_in_place(self, record: Record) -> bool:
        in_place = self._context.in_place
        return in_place is not None and record.rse == in_place.place.rse

    async def _seal(self, records: Sequence[Record]) -> None:
        """What lies in place has only to be left alone from now on."""
        in_place, ledger = self._context.in_place, self._context.ledger
        assert in_place is not None
        for record in records:
            if not ledger.is_known(record):
                continue  # changed since the question: it is queued again
            record.url = in_place.pfn(record)
            if in_place.seal(record):  # atomic until it is sealed: no await
                record.is_in_place = True
                ledger.advance(record, State.STORED)
            else:
                ledger.drop(record)
                self._on_change(record)

    # --- STORED: replica and DID -----------------------------------------------------------------

    async def register(self, records: Sequence[Record]) -> None:
        for rse, some in _by(records, lambda record: record.rse).items():
            await self._each(some, partial(self._add_files, rse))

    async def _add_files(self, rse: str, records: Sequence[Record]) -> None:
        context = self._context
        records = [one for one in records if self._is_whole(one)]
        if not records:
            return
        destination = await context.registry.destination(context.who, rse)
        files = [
            NewFile(
                one.did,
                one.size,
                one.adler32,
                pfn=one.url if one.is_in_place and not destination.is_deterministic else None,
            )
            for one in records
        ]
        try:
            await context.registry.add_files(context.who, rse, files)
        except Unreachable:
            for record in records:
                record.is_placed = False  # Rucio may know of it: it is not ours alone any more
                context.ledger.journal.put(record)
            raise
        for record in records:
            context.ledger.advance(record, State.REGISTERED)

    def _is_whole(self, record: Record) -> bool:
        """Whether what lies in place is what Rucio is about to be told of; drops or stops it."""
        context = self._context
        if record.lies_at and not is_same(Path(record.lies_at), record):
            words = f"{record.lies_at} has changed since it was read: register it again"
            context.ledger.stop(record, f"{record.did}: {words}")
            return False
        if record.is_in_place and not record.lies_at:
            assert context.in_place is not None
            if not context.in_place.is_there(record):
                log.warning("scratch/%s was removed or changed on the storage", record.path)
                context.ledger.drop(record)
                self._on_change(record)
                return False
        return True

    # --- REGISTERED: into its dataset, with its metadata -----------------------------------------

    async def attach(self, records: Sequence[Record]) -> None:
        unkept = [one for one in records if one.is_in_place and not one.keeper and one.is_leaving]
        for terms in _by(unkept, lambda one: (one.rse, one.lies_at and one.lifetime)).values():
            for start in range(0, len(terms), RULES):
                await self._each(terms[start : start + RULES], self._leaver.keep)
        await self._context.ledger.journal.commit()
        records = [one for one in records if one.keeper or one not in unkept]
        for record in records:
            if record.metadata:
                await self._each([record], self._describe)
        for dataset, some in _by(records, lambda record: record.dataset).items():
            moving = [one for one in some if not one.metadata and not one.is_stopped]
            if dataset is None:
                for record in moving:
                    self._context.ledger.advance(record, State.ATTACHED)
            elif moving:
                await self._each(moving, partial(self._attach, dataset))

    async def _describe(self, records: Sequence[Record]) -> None:
        for record in records:
            await self._context.registry.set_metadata(
                self._context.who, record.did, record.metadata or {}
            )
            record.metadata = None

    async def _attach(self, dataset: DID, records: Sequence[Record]) -> None:
        context = self._context
        await self._make(dataset)
        members = [record.did for record in records]
        try:
            await context.registry.attach(context.who, {dataset: members})
        except NotFound:
            # Somebody has deleted the dataset, or a container above it, since it was made.
            for collection in self._chain(dataset):
                collection.is_there = False
            await self._make(dataset)
            await context.registry.attach(context.who, {dataset: members})
        for record in records:
            context.ledger.advance(record, State.ATTACHED)

    async def _make(self, dataset: DID) -> None:
        """Have the dataset, and the containers it is in."""
        context, journal = self._context, self._context.ledger.journal
        chain = [one for one in self._chain(dataset) if not one.is_there]
        if not chain:
            return
        await context.registry.add_collections(
            context.who, [NewCollection(one.did, one.type) for one in chain]
        )
        for one in chain:
            if one.parent is not None:
                await context.registry.attach(context.who, {one.parent: [one.did]})
            one.is_there = True
            journal.put_collection(one)
        await journal.commit()

    def _chain(self, dataset: DID) -> list[Collection]:
        """The dataset and all that it is in, the outermost first."""
        journal = self._context.ledger.journal
        chain: list[Collection] = []
        did: DID | None = dataset
        while did is not None and len(chain) < 1000:
            known = journal.collections.get(did)
            if known is None:
                known = Collection(did, DIDType.DATASET if did == dataset else DIDType.CONTAINER)
                journal.put_collection(known)
            chain.insert(0, known)
            did = known.parent
        return chain

    # --- ATTACHED: a rule ------------------------------------------------------------------------

    async def rule(self, records: Sequence[Record]) -> None:
        """One rule for a dataset and what is wanted of it; for files in none, one each."""
        terms = _by(records, lambda record: (record.dataset, record.rule, record.lifetime))
        for (dataset, expression, lifetime), some in terms.items():
            if dataset is None:
                for start in range(0, len(some), RULES):
                    await self._each(
                        some[start : start + RULES],
                        partial(self._rule_files, expression, lifetime),
                    )
            else:
                await self._all_or_none(
                    some, self._rule_dataset(dataset, expression, lifetime, some)
                )

    async def _rule_files(
        self, expression: str, lifetime: int | None, records: Sequence[Record]
    ) -> None:
        context = self._context
        terms = replace(context.terms, rse_expression=expression, lifetime=lifetime)
        try:
            ids = await context.rules.add_rules(context.who, [one.did for one in records], terms)
        except RuleExists:
            if len(records) > 1:
                raise
            did = records[0].did
            ids = {did: await own_rule(context, did, expression)}
        for record in records:
            record.rule_id = ids.get(record.did, "")
            context.ledger.advance(record, State.RULED)

    async def _rule_dataset(
        self, dataset: DID, expression: str, lifetime: int | None, records: Sequence[Record]
    ) -> None:
        context = self._context
        collection = self._chain(dataset)[-1]
        rule_id = collection.rules.get(expression)
        if rule_id is None:
            terms = replace(context.terms, rse_expression=expression, lifetime=lifetime)
            try:
                rule_id = (await context.rules.add_rules(context.who, [dataset], terms))[dataset]
            except RuleExists:
                rule_id = await own_rule(context, dataset, expression)
            collection.rules[expression] = rule_id
            context.ledger.journal.put_collection(collection)
        for record in records:
            record.rule_id = rule_id
            context.ledger.advance(record, State.RULED)

    # --- what goes wrong for one of many ---------------------------------------------------------

    async def _each(
        self, records: Sequence[Record], step: Callable[[Sequence[Record]], Awaitable[None]]
    ) -> None:
        """Take *step* for all of them, or for those whose fault it is not that it fails."""
        if not records:
            return
        try:
            await step(records)
        except RucioFsError as exc:
            if isinstance(exc, _OF_ALL):
                raise
            if len(records) == 1:
                self._told(records[0], exc)
                return
            guilty = self._guilty(exc, records)
            for part in guilty or (records[: len(records) // 2], records[len(records) // 2 :]):
                await self._each(part, step)

    def _guilty(self, error: RucioFsError, records: Sequence[Record]) -> Sequence[Sequence[Record]]:
        """The innocent and each of the guilty, where the error tells them apart."""
        named = set(getattr(error, "dids", ())) if isinstance(error, Differs) else set()
        guilty = [[one] for one in records if one.did in named]
        innocent = [one for one in records if one.did not in named]
        return [innocent, *guilty] if guilty else ()

    async def _all_or_none(self, records: Sequence[Record], step: Awaitable[None]) -> None:
        try:
            await step
        except RucioFsError as exc:
            if isinstance(exc, _OF_ALL):
                raise
            for record in records:
                self._told(record, exc)


def _by(records: Iterable[Record], key: Callable[[Record], K]) -> dict[K, list[Record]]:
    found: defaultdict[K, list[Record]] = defaultdict(list)
    for record in records:
        found[key(record)].append(record)
    return found
