"""Rucio's replication rules in memory, over the lake of `tests.fakes`.

`FakeRules` obeys the same contract as the real ones (tests/unit/rules/contract.py).  Nothing moves
by itself: a test says when a transfer arrives or fails.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import trio

from rucio_fs.catalogue.base import BULK_LIMIT
from rucio_fs.did import DID, DIDType, Identity, Presence, Rule, RuleState, RuleTerms
from rucio_fs.errors import (
    Denied,
    NoTarget,
    QuotaExceeded,
    Refused,
    RuleExists,
    RuleGone,
    Unreachable,
)
from tests.fakes import MY, SECOND, FakeCatalogue, did

TERMS = RuleTerms("root", "COLO", 7 * 86400, "rucio-fs on here at /mnt")
"""What the rules of most tests say."""

_DELETION_DELAY = 3600 * SECOND  # DELETE /rules/ID only lets a rule expire after an hour


@dataclass
class _Record:
    rule: Rule  # but for state, counts and error, which follow from the replicas
    rse: str
    state: RuleState | None = None  # what somebody has set it to
    error: str | None = None
    trouble: str = ""

    @property
    def has_locks(self) -> bool:
        return self.state not in (RuleState.WAITING_APPROVAL, RuleState.INJECT)


@dataclass
class FakeRules:
    """Rules in memory.

    *calls* counts questions by method name, *dids* the DIDs in them.  With *blocked* (a trio.Event)
    each question waits for it; *delay* (s) makes each as slow; *error* is raised by each, those of
    *errors* by the method of that name.  *lost_answers* additions of rules are made and then told
    to have failed.  *now_ns* is the clock that rules expire by.
    """

    lake: FakeCatalogue
    now_ns: Callable[[], int] = time.time_ns
    pfn: Callable[[DID], str] = lambda did: f"davs://colo/{did.name}"  # of what arrives
    calls: Counter[str] = field(default_factory=Counter)
    dids: Counter[str] = field(default_factory=Counter)
    asking: int = 0
    blocked: trio.Event | None = None
    delay: float = 0.0
    error: Exception | None = None
    errors: dict[str, Exception] = field(default_factory=dict)
    lost_answers: int = 0
    # What Rucio holds against rules.
    quota: int | None = None  # bytes that a rule may bring at most
    unwritable: set[str] = field(default_factory=set)  # RSEs
    account: str = "root"  # who asks
    is_admin: bool = True  # who is not may change no rule, and makes some of his own only
    longest_lifetime: int | None = None  # s; Rucio cuts what is longer
    longest_sum: int = 100_000  # files of a container that are told apart
    is_cleaning: bool = True  # else what has expired is still there
    is_injected: bool = False  # rules are made without locks, as asynchronous ones are
    # What was said and done.
    boosted: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    traces: list[Mapping[str, Any]] = field(default_factory=list)
    expressions: dict[str, frozenset[str]] = field(
        default_factory=lambda: {
            "site=HERE": frozenset({"COLO", "COLO_SCRATCHDISK", "COLO_NDSCRATCHDISK"}),
            "*": frozenset(
                {"COLO", "COLO_SCRATCHDISK", "COLO_NDSCRATCHDISK", "REM1", "REM2", "REMND"}
            ),
        }
    )
    _records: dict[str, _Record] = field(default_factory=dict)
    _by_did: defaultdict[DID, list[str]] = field(default_factory=lambda: defaultdict(list))
    _on_collections: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def view_of(self, account: str) -> FakeRules:
        """The same rules as an ordinary account meets them."""
        return replace(self, account=account, is_admin=False)

    # --- what happens in Rucio -------------------------------------------------------------------

    def add(
        self,
        name: str | DID,
        rse_expression: str = "COLO",
        *,
        account: str = "root",
        comment: str = "by hand",
        lifetime: float | None = None,
        ask_approval: bool = False,
    ) -> str:
        """Make a rule as somebody else does; return its id."""
        terms = RuleTerms(account, rse_expression, None, comment, ask_approval=ask_approval)
        rule_id = self._make(did(name), terms)
        if lifetime is not None:
            self.expire_in(rule_id, lifetime)
        return rule_id

    def arrive(self, *names: str | DID, rse: str = "COLO") -> None:
        """Files, or all files of a collection, are AVAILABLE at *rse*."""
        for name in names:
            for file in self.lake.files_of(name):
                self.lake.replica(file, rse, self.pfn(file))

    def fail(self, *names: str | DID, error: str = "TRANSFER [70] failed", words: str = "") -> None:
        """Transfers have failed for good: UNAVAILABLE replicas, STUCK rules."""
        for name in names:
            for file in self.lake.files_of(name):
                self.lake.replica(file, "COLO", state="UNAVAILABLE")
                for record in self._on(file):
                    record.error, record.trouble = error, words

    def repair(self, *names: str | DID) -> None:
        """Rucio tries again what has failed."""
        for name in names:
            for file in self.lake.files_of(name):
                self.lake.replica(file, "COLO", state="COPYING")

    def set_state(self, rule_id: str, state: RuleState | None, error: str | None = None) -> None:
        """Somebody sets the state of a rule; None: it follows from its replicas again."""
        self._records[rule_id].state, self._records[rule_id].error = state, error

    def approve(self, rule_id: str) -> None:
        self.set_state(rule_id, None)
        self._lock(self._records[rule_id])

    def deny(self, rule_id: str) -> None:
        del self._records[rule_id]

    def expire_in(self, rule_id: str, seconds: float) -> None:
        record = self._records[rule_id]
        record.rule = replace(record.rule, expires_ns=self.now_ns() + round(seconds * SECOND))

    def end(self, rule_id: str) -> None:
        """The rule is deleted and cleaned: what it had not brought is not on its way any more."""
        record = self._records.pop(rule_id)
        for file in self.lake.files_of(record.rule.did):
            state = self.lake.states(file).get(record.rse)
            if state not in (None, "AVAILABLE") and not self._on(file):
                self.lake.drop_replica(file, record.rse)

    def ids(self, name: str | DID | None = None) -> list[str]:
        """Rules there are, or those on one DID, oldest first."""
        if name is None:
            return list(self._records)
        return [rule_id for rule_id in self._by_did[did(name)] if rule_id in self._records]

    def known(self, rule_id: str) -> Rule:
        """A rule as Rucio tells it, but not asked."""
        return self._rule(self._records[rule_id])

    # --- asking ----------------------------------------------------------------------------------

    async def states_at(
        self, who: Identity, dids: Sequence[DID], rse_expression: str
    ) -> Mapping[DID, Mapping[str, str]]:
        await self._arrive("states_at", len(dids))
        if len(dids) > BULK_LIMIT:
            raise Refused(f"{len(dids)} DIDs at once; Rucio takes {BULK_LIMIT}")
        rses = self._rses(rse_expression)
        return {name: self._at(name, rses) for name in dids}

    async def presence(self, who: Identity, did: DID, rse_expression: str) -> Presence:
        await self._arrive("presence")
        rses = self._rses(rse_expression)
        size = 0
        counts: Counter[str] = Counter()
        for file, nbytes in self.lake.files_of(did).items():
            states = self._at(file, rses).values()
            state = next(
                (one for one in ("AVAILABLE", "COPYING", "UNAVAILABLE") if one in states), ""
            )
            counts[state] += 1
            size += nbytes if state == "AVAILABLE" else 0
        return Presence(counts["AVAILABLE"], size, counts["COPYING"], counts["UNAVAILABLE"])

    async def total(self, who: Identity, did: DID) -> tuple[int | None, int | None]:
        await self._arrive("total")
        files = self.lake.files_of(did)
        if self.lake.type_of(did) is DIDType.CONTAINER and len(files) > self.longest_sum:
            return None, None
        return len(files), sum(files.values())

    async def rules_of(self, who: Identity, did: DID) -> Sequence[Rule]:
        await self._arrive("rules_of")
        self.lake.files_of(did)  # raises if there is no such DID
        return [self._rule(record) for record in self._on(did)]

    async def rses(self, who: Identity, rse_expression: str) -> frozenset[str]:
        await self._arrive("rses")
        return self._rses(rse_expression)

    async def rule(self, who: Identity, rule_id: str) -> Rule:
        await self._arrive("rule")
        return self._rule(self._record(rule_id))

    async def trouble(self, who: Identity, rule_id: str) -> str:
        await self._arrive("trouble")
        return self._record(rule_id).trouble

    async def add_rules(
        self, who: Identity, dids: Sequence[DID], terms: RuleTerms
    ) -> Mapping[DID, str]:
        await self._arrive("add_rules", len(dids))
        if not self.is_admin and terms.account != self.account:
            raise Denied(f"Account {self.account} can not add replication rule.")
        rses = self._rses(terms.rse_expression)
        if not rses - self.unwritable:
            raise NoTarget(f"{terms.rse_expression}: RSE excluded; not available for writing.")
        for one in dids:
            size = sum(self.lake.files_of(one).values())
            if self.quota is not None and size > self.quota:
                raise QuotaExceeded(
                    f"{one}: There is insufficient quota on any of the target RSE's"
                )
        for one in dids:
            if any(
                (rule.account, rule.rse_expression) == (terms.account, terms.rse_expression)
                for rule in (self._records[rule_id].rule for rule_id in self.ids(one))
            ):
                raise RuleExists(f"{one}: duplicate key")
        made = {one: self._make(one, terms) for one in dids}
        if self.lost_answers:
            self.lost_answers -= 1
            raise Unreachable("the connection broke")
        return made

    async def set_lifetime(self, who: Identity, rule_id: str, lifetime: int | None) -> None:
        await self._arrive("set_lifetime")
        self._change(rule_id)
        longest = self.longest_lifetime
        if lifetime is not None or longest is not None:
            self.expire_in(rule_id, min(one for one in (lifetime, longest) if one is not None))
        else:
            record = self._records[rule_id]
            record.rule = replace(record.rule, expires_ns=None)

    async def boost(self, who: Identity, rule_id: str) -> None:
        await self._arrive("boost")
        self._change(rule_id)
        self.boosted.append(rule_id)

    async def delete_rule(self, who: Identity, rule_id: str) -> None:
        await self._arrive("delete_rule")
        self._change(rule_id)
        self.deleted.append(rule_id)
        record = self._records[rule_id]
        end_ns = self.now_ns() + _DELETION_DELAY
        expires_ns = min(end_ns, record.rule.expires_ns or end_ns)
        record.rule = replace(record.rule, expires_ns=expires_ns)

    async def trace(self, who: Identity, traces: Sequence[Mapping[str, Any]]) -> None:
        await self._arrive("trace", len(traces))
        self.traces += traces

    # --- helpers ---------------------------------------------------------------------------------

    async def _arrive(self, method: str, dids: int = 1) -> None:
        self.calls[method] += 1
        self.dids[method] += dids
        self.asking += 1
        try:
            await trio.lowlevel.checkpoint()
            if self.delay:
                await trio.sleep(self.delay)
            if self.blocked is not None:
                await self.blocked.wait()
        finally:
            self.asking -= 1
        if (error := self.error or self.errors.get(method)) is not None:
            raise error
        for rule_id, record in list(self._records.items()):
            if self.is_cleaning and (record.rule.expires_ns or 1 << 62) <= self.now_ns():
                self.end(rule_id)

    def _rses(self, rse_expression: str) -> frozenset[str]:
        found: set[str] = set()
        for part in rse_expression.split("|"):
            one = frozenset({part}) & self.expressions["*"]
            if not (one := self.expressions.get(part, one)):
                raise Refused("InvalidRSEExpression: RSE Expression resulted in an empty set.")
            found |= one
        return frozenset(found)

    def _at(self, file: DID, rses: frozenset[str]) -> dict[str, str]:
        return {rse: state for rse, state in self.lake.states(file).items() if rse in rses}

    def _record(self, rule_id: str) -> _Record:
        try:
            return self._records[rule_id]
        except KeyError:
            raise RuleGone(f"No rule with the id {rule_id} found") from None

    def _change(self, rule_id: str) -> None:
        self._record(rule_id)
        if not self.is_admin:
            raise Denied(f"Account {self.account} can not update this replication rule.")

    def _on(self, name: DID) -> list[_Record]:
        """Rules on a DID, and for a file those that have a lock on it."""
        own = [self._records[rule_id] for rule_id in self.ids(name)]
        if self.lake.type_of(name).is_collection:
            return own
        collections = (self._records.get(rule_id) for rule_id in self._on_collections)
        return own + [
            record
            for record in collections
            if record is not None
            and record.has_locks
            and name in self.lake.files_of(record.rule.did)
        ]

    def _make(self, name: DID, terms: RuleTerms) -> str:
        now_ns = self.now_ns()
        rule = Rule(
            id=f"{next(self._numbers) + 1:032x}",
            did=name,
            account=terms.account,
            state=RuleState.OK,
            rse_expression=terms.rse_expression,
            created_ns=now_ns,
            expires_ns=None if terms.lifetime is None else now_ns + terms.lifetime * SECOND,
            comment=terms.comment,
        )
        target = min(self._rses(terms.rse_expression) - self.unwritable)
        record = self._records[rule.id] = _Record(rule, target)
        self._by_did[name].append(rule.id)
        if self.lake.type_of(name).is_collection:
            self._on_collections.append(rule.id)
        if terms.ask_approval:
            record.state = RuleState.WAITING_APPROVAL
        elif self.is_injected or terms.asynchronous:
            record.state = RuleState.INJECT
        else:
            self._lock(record)
        return rule.id

    def _lock(self, record: _Record) -> None:
        """Copies of what is not at the RSE are on their way."""
        for file in self.lake.files_of(record.rule.did):
            if self.lake.states(file).get(record.rse) not in ("AVAILABLE", "COPYING"):
                self.lake.replica(file, record.rse, state="COPYING")

    def _rule(self, record: _Record) -> Rule:
        files = self.lake.files_of(record.rule.did) if record.has_locks else {}
        states = Counter(self.lake.states(file).get(record.rse, "") for file in files)
        ok, stuck = states["AVAILABLE"], states["UNAVAILABLE"]
        replicating = states.total() - ok - stuck
        state = record.state
        if state is None:
            state = RuleState.STUCK if stuck else RuleState.REPLICATING
            state = state if stuck or replicating else RuleState.OK
        return replace(
            record.rule,
            state=state,
            error=record.error if stuck or record.state is not None else None,
            ok=ok,
            replicating=replicating,
            stuck=stuck,
        )


def file_at_rem1(lake: FakeCatalogue, name: str, size: int = 1000) -> DID:
    """A file that lies at REM1 alone."""
    return lake.file(name, size=size, replicas={"REM1": f"davs://rem1/{name}"})


def files_at_rem1(lake: FakeCatalogue, count: int, prefix: str = "s:f") -> list[DID]:
    return [file_at_rem1(lake, f"{prefix}{number}") for number in range(count)]


__all__ = ["MY", "TERMS", "FakeRules", "did", "file_at_rem1", "files_at_rem1"]
