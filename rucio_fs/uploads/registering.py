"""What Rucio is told of files that are on storage: replicas, datasets, rules; hundreds a request.

Each step takes records of one state and brings them to the next.  What fails for one is told of
that one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rucio_fs.catalogue.registry import NewCollection, NewFile
from rucio_fs.did import DID, DIDType
from rucio_fs.errors import NotFound, NotYetHere, RuleExists, RuleGone, Unreachable
from rucio_fs.rules.verdicts import has_expired
from rucio_fs.scratch.threads import in_thread
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.in_place import is_same
from rucio_fs.uploads.leaving import Leaver
from rucio_fs.uploads.looking import own_rule
from rucio_fs.uploads.records import Collection, Record, State
from rucio_fs.uploads.sharing import Told, all_or_none, by, each

log = logging.getLogger(__name__)

RULES = 50
"""Rules in one request: Rucio takes 20 to 50 ms for each."""


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

    def __repr__(self) -> str:
        return f"<Registrar for {self._context.ledger!r}>"

    # --- STORED: replica and DID -----------------------------------------------------------------

    async def register(self, records: Sequence[Record]) -> None:
        for rse, some in by(records, lambda record: record.rse).items():
            await each(some, partial(self._add_files, rse), self._told)

    async def _add_files(self, rse: str, records: Sequence[Record]) -> None:
        context = self._context
        records = [one for one in await self._as_read(records) if self._is_whole(one)]
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
            record.is_placed = False
            context.ledger.advance(record, State.REGISTERED)

    async def _as_read(self, records: Sequence[Record]) -> Sequence[Record]:
        """Those that are as they were read, where they lie outside of scratch; stops the others."""
        lying = [one for one in records if one.lies_at]
        if not lying:
            return records
        # In a thread: their storage is not the one that scratch lies on, and may not answer.
        changed = await in_thread(
            lambda: [one for one in lying if not is_same(Path(one.lies_at), one)]
        )
        for record in changed:
            words = f"{record.lies_at} has changed since it was read: register it again"
            self._context.ledger.stop(record, f"{record.did}: {words}")
        return [one for one in records if one not in changed]

    def _is_whole(self, record: Record) -> bool:
        """Whether what lies in place is what Rucio is about to be told of; drops it otherwise."""
        context = self._context
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
        for terms in by(unkept, lambda one: (one.rse, one.lies_at and one.lifetime)).values():
            for start in range(0, len(terms), RULES):
                await each(terms[start : start + RULES], self._leaver.keep, self._told)
        await self._context.ledger.journal.commit()
        records = [one for one in records if one.keeper or one not in unkept]
        for record in records:
            if record.metadata:
                await each([record], self._describe, self._told)
        for dataset, some in by(records, lambda record: record.dataset).items():
            moving = [one for one in some if not one.metadata and not one.is_stopped]
            if dataset is None:
                for record in moving:
                    self._context.ledger.advance(record, State.ATTACHED)
            elif moving:
                await each(moving, partial(self._attach, dataset), self._told)

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
        terms = by(records, lambda record: (record.dataset, record.rule, record.lifetime))
        for (dataset, expression, lifetime), some in terms.items():
            if dataset is None:
                for start in range(0, len(some), RULES):
                    await each(
                        some[start : start + RULES],
                        partial(self._rule_files, expression, lifetime),
                        self._told,
                    )
            else:
                await all_or_none(
                    some, self._rule_dataset(dataset, expression, lifetime, some), self._told
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
            if not ids[did]:
                raise NotYetHere(f"the rule on {did} has just ended; it is made again") from None
        for record in records:
            record.rule_id = ids.get(record.did, "")
            context.ledger.advance(record, State.RULED)

    async def _rule_dataset(
        self, dataset: DID, expression: str, lifetime: int | None, records: Sequence[Record]
    ) -> None:
        context = self._context
        collection = self._chain(dataset)[-1]
        rule_id = collection.rules.get(expression)
        if rule_id:
            try:
                rule = await context.rules.rule(context.who, rule_id)
            except RuleGone:  # somebody has deleted it
                rule_id = None
            else:
                rule_id = None if has_expired(rule, time.time_ns()) else rule_id
        if not rule_id:
            terms = replace(context.terms, rse_expression=expression, lifetime=lifetime)
            try:
                rule_id = (await context.rules.add_rules(context.who, [dataset], terms))[dataset]
            except RuleExists:
                rule_id = await own_rule(context, dataset, expression)
            if not rule_id:
                raise NotYetHere(f"the rule on {dataset} has just ended; it is made again")
            collection.rules[expression] = rule_id
            context.ledger.journal.put_collection(collection)
        for record in records:
            record.rule_id = rule_id
            context.ledger.advance(record, State.RULED)
