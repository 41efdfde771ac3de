"""Reading back from Rucio that an upload is what it was to be, and where its rule wants it."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Sequence, Set

import trio
from cachetools import LRUCache

from rucio_fs import checksums
from rucio_fs.did import DID, RuleState
from rucio_fs.errors import Denied, LoginFailed, NotFound, RucioFsError, RuleGone, Unreachable
from rucio_fs.rules.verdicts import is_here
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.leaving import Leaver
from rucio_fs.uploads.pausing import backoff
from rucio_fs.uploads.records import Record, State
from rucio_fs.uploads.sharing import by

log = logging.getLogger(__name__)

_PARENTS = 500  # members a file, beyond which its parents are asked for: that costs as much as 200
_REMEMBERED = 10_000  # datasets


class Confirmer:
    """Looks at uploads that are registered and ruled, many a request."""

    def __init__(self, context: Context, leaver: Leaver) -> None:
        self._context = context
        self._leaver = leaver
        self._has_complained = False  # of copies that cannot be given up: once is enough
        self._confirmed: set[int] = set()
        self._losses: Counter[int] = Counter()  # by id: how often it was not there after all
        self._lengths: LRUCache[DID, int] = LRUCache(_REMEMBERED)  # of datasets, when last listed
        self._asked: LRUCache[str, int] = LRUCache(_REMEMBERED)  # rules, and how late
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Confirmer for {self._context.ledger!r}>"

    async def confirm(self, records: Sequence[Record]) -> None:
        """Bring to DONE what is there; what is not as it was to be goes back to where it was lost.

        Raises: what the catalogue raises.
        """
        fresh = [one for one in records if one.id not in self._confirmed]
        if fresh:
            await self._read_back(fresh)
        by_rule: defaultdict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.state is State.RULED and record.id in self._confirmed:
                by_rule[record.rule].append(record)
        for expression, some in by_rule.items():
            try:
                await self._look(expression, some)
            except (Unreachable, LoginFailed):
                raise
            except RucioFsError as exc:  # its RSEs are not there any more, say
                self._tell(some, f"Rucio does not tell how it stands at {expression}: {exc}")

    async def _read_back(self, records: Sequence[Record]) -> None:
        context = self._context
        unknown: set[Record] = set()
        found = await context.catalogue.replicas_of(context.who, [one.did for one in records])
        listed = [one for one in records if one.did in found and is_here(found[one.did].states)]
        unlisted = [one for one in records if one not in listed]
        for rse, some in by(unlisted, lambda record: record.rse).items():
            # What can be read is listed: not what lies at an RSE that is closed for reading.
            try:
                states = await context.rules.states_at(context.who, [one.did for one in some], rse)
            except (Unreachable, LoginFailed):
                raise
            except RucioFsError as exc:  # there is no such RSE any more, say
                self._tell(some, f"Rucio does not tell what lies at {rse}: {exc}")
                unknown.update(some)
                continue
            for record in some:
                if not is_here(states.get(record.did, {})):
                    self._replica_lost(record)
        for record in listed:
            known = found[record.did]
            if known.size != record.size or not checksums.is_same(known.adler32, record.adler32):
                context.ledger.stop(
                    record,
                    f"{record.did}: Rucio has {known.size} bytes with adler32 {known.adler32}, not"
                    f" {record.size} with {record.adler32} as was uploaded: ask its operators",
                )
        by_dataset: defaultdict[DID, list[Record]] = defaultdict(list)
        for record in records:
            if record.state is State.RULED and record.dataset is not None:
                by_dataset[record.dataset].append(record)
        for dataset, some in by_dataset.items():
            await self._read_back_members(dataset, some)
        self._confirmed.update(
            one.id
            for one in records
            if one.state is State.RULED and not one.is_stopped and one not in unknown
        )

    async def _read_back_members(self, dataset: DID, records: Sequence[Record]) -> None:
        members = await self._members(dataset, [record.did for record in records])
        for record in records:
            if record.did not in members:
                log.warning("%s is not in %s; it is attached again", record.did, dataset)
                self._lost(record, State.REGISTERED)

    async def _members(self, dataset: DID, of_interest: Sequence[DID]) -> Set[DID]:
        """Those *of_interest* that are in *dataset*, and maybe others."""
        catalogue, who = self._context.catalogue, self._context.who
        if self._lengths.get(dataset, 0) > _PARENTS * len(of_interest):
            parents = {did: await catalogue.parents(who, did) for did in of_interest}
            return {did for did, collections in parents.items() if dataset in collections}
        try:
            content = await catalogue.content(who, dataset)
        except NotFound:
            return frozenset()
        self._lengths[dataset] = len(content)
        return {member.did for member in content.members}

    def _replica_lost(self, record: Record) -> None:
        """Its bytes need not be on storage any more: it is uploaded again, if they are here."""
        if record.is_in_place:
            log.warning("%s: Rucio lists no replica; it is registered again", record.did)
            self._lost(record, State.STORED)
        elif record.path:
            log.warning("%s: Rucio lists no replica; it is uploaded again", record.did)
            self._lost(record, State.QUEUED)
        else:
            words = "Rucio lists no replica any more, and its file was removed from scratch"
            self._context.ledger.stop(record, f"{record.did}: {words}: save it again")

    def _lost(self, record: Record, state: State) -> None:
        ledger = self._context.ledger
        self._losses[record.id] += 1
        ledger.back(record, state)
        if self._losses[record.id] > 1:  # it may be lost each time, for a reason that stays
            ledger.defer(record, trio.current_time() + backoff(self._losses[record.id]))

    async def _look(self, expression: str, records: Sequence[Record]) -> None:
        """Which of *records* are at an RSE of *expression*; why others are not, a rule a look."""
        context = self._context
        states = await context.rules.states_at(
            context.who, [one.did for one in records], expression
        )
        late = []
        for record in records:
            if record.is_stopped:
                continue
            if is_here(states.get(record.did, {})):
                if await self._may_go(record):
                    self._done(record)
            else:
                late.append(record)
        await self._ask_rule([one for one in late if one.rule_id])

    async def _may_go(self, record: Record) -> bool:
        """Whether nothing is left to do; what has lain in scratch need not be kept there."""
        if not record.is_leaving or record.lies_at or record.is_released:
            return True
        try:
            return await self._leaver.give_up(record)
        except (Unreachable, LoginFailed):
            raise
        except Denied as exc:
            # Rucio's generic policy lets ordinary accounts neither change nor delete their rules.
            words = (
                f"{record.did} stays at {record.rse} as well: {exc}; have Rucio's administrators"
                f" delete rule {record.keeper}"
            )
            self._context.events.problem(record.did, "KEPT", words)
            log.log(logging.INFO if self._has_complained else logging.WARNING, "%s", words)
            self._has_complained = True
            return True
        except RucioFsError as exc:
            # It is where it was to be; only the room that it takes in scratch is not given back.
            words = f"{record.did} is kept at {record.rse}: rule {record.keeper}: {exc}"
            if record.error != words:
                log.log(exc.level, "%s", words)
                record.error = words
                self._context.ledger.journal.put(record)
            return False

    def _done(self, record: Record) -> None:
        context = self._context
        self._confirmed.discard(record.id)
        del self._losses[record.id]
        record.done_at = time.time()
        context.ledger.advance(record, State.DONE)
        context.on_done(record)
        context.events.note("uploaded", record.did, path=record.path or None, rse=record.rse)
        log.info("%s is in the lake, at %s", record.did, record.rule)
        if not record.path:
            context.ledger.drop(record)  # its file was removed from staging meanwhile

    async def _ask_rule(self, late: Sequence[Record]) -> None:
        if not late:
            return
        context = self._context
        # One that is stuck for weeks hides no other one that was deleted.
        rule_id = min((one.rule_id for one in late), key=lambda one: self._asked.get(one, 0))
        self._asked[rule_id] = next(self._numbers)
        concerned = [one for one in late if one.rule_id == rule_id]
        try:
            rule = await context.rules.rule(context.who, rule_id)
        except RuleGone:
            for collection in context.ledger.journal.collections.values():
                if rule_id in collection.rules.values():
                    collection.rules.clear()
                    context.ledger.journal.put_collection(collection)
            for record in concerned:
                record.rule_id = ""
                context.ledger.back(record, State.ATTACHED)
                context.ledger.stop(
                    record,
                    f"{record.did} is in the lake, but its rule {rule_id} was deleted before it was"
                    f" at {record.rule}: rucio-fs uploads --retry makes a new one",
                )
            return
        error = ""
        if rule.state in (RuleState.STUCK, RuleState.SUSPENDED, RuleState.WAITING_APPROVAL):
            error = f"rule {rule_id} is {rule.state.value}: {rule.error or 'Rucio gives no reason'}"
        self._tell(concerned, error)

    def _tell(self, records: Sequence[Record], error: str) -> None:
        """What *records* wait for; they are looked at again all the same."""
        for record in records:
            if record.error != error and record.state is State.RULED and not record.is_stopped:
                record.error = error
                self._context.ledger.journal.put(record)
