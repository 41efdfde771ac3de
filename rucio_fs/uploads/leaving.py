"""Files that are registered where they lie: kept there by a rule of their own until it may end.

Whoever removes a file here is Rucio's reaper, and never before its rule is given up.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import trio

from rucio_fs.did import RuleState
from rucio_fs.errors import Denied, LoginFailed, NotYetHere, RuleExists, RuleGone, Unreachable
from rucio_fs.scratch.threads import in_thread
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.looking import own_rule
from rucio_fs.uploads.records import Record, State

log = logging.getLogger(__name__)

_FIRST_LOOK, _LONGEST_LOOK = 1.0, 30.0  # s between two looks whether a file has gone


class Leaver:
    """Makes the rules that keep files where they lie, and gives them up."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leaving: dict[int, Record] = {}  # given up, and not seen to be gone

    def __repr__(self) -> str:
        return f"<Leaver for {self._context.ledger!r}>"

    async def keep(self, records: Sequence[Record]) -> None:
        """Have each of *records* (50 at most) kept at the RSE where it lies.

        Raises: RuleExists (of several, one has such a rule), what the rules raise.
        """
        context = self._context
        # In scratch without an end: how long a transfer takes is nobody's to know.
        lifetime = records[0].lifetime if records[0].lies_at else None
        terms = replace(context.terms, rse_expression=records[0].rse, lifetime=lifetime)
        try:
            ids = await context.rules.add_rules(context.who, [one.did for one in records], terms)
        except RuleExists:
            if len(records) > 1:
                raise
            ids = {records[0].did: await self._existing(records[0])}
        for record in records:
            record.keeper = ids[record.did]
            context.ledger.journal.put(record)

    async def _existing(self, record: Record) -> str:
        if rule_id := await own_rule(self._context, record.did, record.rse):
            return rule_id
        raise NotYetHere(f"{record.did}: its rule at {record.rse} has just ended; it is made again")

    async def give_up(self, record: Record) -> bool:
        """Give up the rule that keeps *record* in scratch; False: it is too early.

        Only once the rule that keeps the file elsewhere is there, covers it and is OK.

        Raises: what the rules raise.
        """
        context, rules = self._context, self._context.rules
        found = [
            rule
            for rule in await rules.rules_of(context.who, record.did)
            if rule.id != record.keeper
            and rule.rse_expression == record.rule
            and (rule.id == record.rule_id or rule.account == context.terms.account)
        ]
        if not any(rule.state is RuleState.OK for rule in found):
            return False
        with suppress(RuleGone):
            try:
                await rules.set_lifetime(context.who, record.keeper, round(record.keep or 0))
            except LoginFailed:
                raise
            except Denied:
                # Who may not change a rule may still delete it, which takes an hour to count.
                await rules.delete_rule(context.who, record.keeper)
        record.is_released = True
        if record.path:
            self._leaving[record.id] = record
        context.events.note("released", record.did, path=record.path or None, rse=record.rse)
        return True

    async def run(self) -> None:
        """Let go of the records of files that Rucio has removed from scratch, for ever."""
        ledger, pause = self._context.ledger, _FIRST_LOOK
        self._leaving |= {one.id: one for one in ledger if one.is_released and one.path}
        while True:
            if not self._leaving:
                pause = _FIRST_LOOK
                await ledger.news()
                continue
            await trio.sleep(pause)
            pause = min(_LONGEST_LOOK, pause * 1.5)
            asked = [one for one in self._leaving.values() if one.state is State.DONE]
            gone = await in_thread(partial(self._gone, asked))
            for record in gone:
                del self._leaving[record.id]
                log.info("%s was removed from scratch; it is at %s", record.did, record.rule)
                ledger.let_go(record)
            if gone:
                pause = _FIRST_LOOK
                with suppress(Unreachable):  # then the next mount finds out again
                    await ledger.journal.commit()

    def _gone(self, records: Sequence[Record]) -> list[Record]:
        return [one for one in records if not self._is_there(one)]

    def _is_there(self, record: Record) -> bool:
        try:
            found = os.lstat(self._context.staged.tree / record.path)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return found.st_ino == record.ino
