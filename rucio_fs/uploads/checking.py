"""Whether what was saved is new to the lake, and where on storage it goes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio
from cachetools import TTLCache

from rucio_fs import checksums
from rucio_fs.did import DID, DIDInfo, DIDType, FileReplicas
from rucio_fs.errors import NoTarget, NotYetHere, Refused, RucioFsError
from rucio_fs.rules.verdicts import is_here
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.looking import infos_of
from rucio_fs.uploads.records import Record, State
from rucio_fs.uploads.sharing import Told, by, each
from rucio_fs.webdav.addresses import SCHEMES

_KNOWN = 600.0  # s for which an expression is known to stand for some RSE


class Checker:
    """The step of QUEUED records.  *told* is told what is in the way of which record, *on_change*
    that a file is not what it was.
    """

    def __init__(self, context: Context, told: Told, on_change: Callable[[Record], None]) -> None:
        self._context = context
        self._told = told
        self._on_change = on_change
        self._expressions: TTLCache[str, bool] = TTLCache(100, _KNOWN, timer=trio.current_time)
        self._token = secrets.token_hex(4)  # of this mount: its temporary names are nobody else's

    def __repr__(self) -> str:
        return f"<Checker for {self._context.ledger!r}>"

    async def check(self, records: Sequence[Record]) -> None:
        """What the lake has already is not sent again; all else is given its place on storage.

        Raises: Unreachable, LoginFailed (nothing was done, for all of them)
        """
        context, who = self._context, self._context.who
        infos, refused = await infos_of(context, [record.did for record in records])
        for record in [one for one in records if one.did in refused]:
            reason = str(refused[record.did]).removeprefix(f"{record.did}: ")
            words = f"{record.did}: Rucio takes no such name ({reason}); rename it"
            self._told(record, Refused(words))
        records = [one for one in records if one.did not in refused]
        for expression, some in by(records, lambda record: record.rule).items():
            await each(some, partial(self._check_rule, expression), self._told)
        records = [one for one in records if not one.is_stopped]
        known = [record for record in records if self._is_same(record, infos)]
        # What lies in place has to be registered there all the same, so that Rucio removes it.
        known = [record for record in known if not self._is_in_place(record)]
        states: Mapping[DID, FileReplicas] = {}
        if known:
            states = await context.catalogue.replicas_of(who, [one.did for one in known])
        present = []
        for record in known:
            found = states.get(record.did)
            if found is not None and is_here(found.states):
                present.append(record)
        for record in present:
            context.events.note("known", record.did, path=record.path)
            context.ledger.advance(record, State.REGISTERED)
        fresh = [one for one in records if one not in present and not one.is_stopped]
        for rse, some in by(fresh, lambda record: record.rse).items():
            await each(some, partial(self._give_places, rse), self._told)

    async def _check_rule(self, expression: str, records: Sequence[Record]) -> None:
        """Before anything is sent: the rule that is made in the end is for RSEs that there are."""
        if expression in self._expressions or expression == records[0].rse:
            return  # the latter is looked at by itself
        context = self._context
        try:
            found = await context.rules.rses(context.who, expression)
        except Refused as exc:
            words = f"rule = {expression!r} stands for no RSE: choose others"
            raise Refused(f"{words} ({exc})") from exc
        if not found:
            raise Refused(f"rule = {expression!r} stands for no RSE: choose others")
        self._expressions[expression] = True

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
                await each([record], self._seal, self._told)
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
