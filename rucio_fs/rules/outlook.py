"""How a DID stands at this site, for whoever only asks: no rule is made by looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from rucio_fs.catalogue.base import Rules
from rucio_fs.catalogue.memory import SMALL, Memory, Worth
from rucio_fs.config import CacheConfig
from rucio_fs.did import DID, DIDType, Identity, Presence, Rule, RuleState
from rucio_fs.errors import RucioFsError
from rucio_fs.rules import verdicts
from rucio_fs.rules.delivery import Delivery, State
from rucio_fs.rules.finding import Finder
from rucio_fs.rules.keeper import RuleKeeper


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a DID stands.  *rule* is the one that brings it or keeps it here."""

    state: State
    rule: Rule | None
    error: RucioFsError | None
    delivery: Delivery | None


class Outlooks:
    """Answers from what is on its way, else from Rucio, at most *now_ttl* seconds old."""

    def __init__(
        self,
        keeper: RuleKeeper,
        rules: Rules,
        finder: Finder,
        rse_expression: str,
        config: CacheConfig,
        nursery: trio.Nursery,
    ) -> None:
        self._keeper = keeper
        self._rules = rules
        self._finder = finder
        self._rse_expression = rse_expression
        self._now_ttl = config.now_ttl
        self._memory = Memory(config, nursery)

    async def of_file(self, who: Identity, did: DID, states: Mapping[str, str]) -> Outlook:
        """How the file *did* stands; *states* are those of all its replicas.

        Raises: what the catalogue raises.
        """
        delivery = self._keeper.delivery(who, did)
        if delivery is not None:
            return Outlook(delivery.state, delivery.rule, delivery.error, delivery)
        serving = await self._serving(who, did)
        rule = serving[0] if serving else None
        here = await self._finder.rses(who, self._rse_expression)
        at_site = {rse: state for rse, state in states.items() if rse in here}
        if verdicts.is_here(at_site):
            return Outlook(State.AVAILABLE, _keeping(serving), None, None)
        if rule is None or rule.state is RuleState.OK:
            error = self._keeper.board.refusal(who, did)
            return Outlook(State.NOT_AVAILABLE, rule, error, None)
        state, error = verdicts.of_file(did, at_site, rule)
        return Outlook(state, rule, error, None)

    async def of_collection(self, who: Identity, did: DID) -> Outlook:
        """How the dataset or container *did* stands.  Raises: what the catalogue raises."""
        delivery = self._keeper.delivery(who, did)
        if delivery is not None:
            return Outlook(delivery.state, delivery.rule, delivery.error, delivery)
        serving = [rule for rule in await self._serving(who, did) if rule.did == did]
        files, _, here = await self._counted(who, did)
        if not serving:
            is_here = files is not None and 0 < files <= here.files
            state = State.AVAILABLE if is_here else State.NOT_AVAILABLE
            error = None if is_here else self._keeper.board.refusal(who, did)
            return Outlook(state, None, error, None)
        state, error = verdicts.of_collection(did, here, files, serving[0])
        return Outlook(state, serving[0], error, None)

    async def progress(
        self, who: Identity, did: DID, type: DIDType, size: int | None, outlook: Outlook
    ) -> dict[str, Any]:
        """The value of ``user.rucio.progress``."""
        delivery = outlook.delivery
        if delivery is None:
            rule_id = outlook.rule.id if outlook.rule is not None else None
            delivery = Delivery(
                who, did, type, state=outlook.state, rule_id=rule_id, rule=outlook.rule,
                error=outlook.error,
            )  # fmt: skip
            if type.is_collection:
                delivery.files, delivery.bytes, delivery.here = await self._counted(who, did)
        if not type.is_collection:
            is_here = outlook.state is State.AVAILABLE
            delivery.files, delivery.bytes = 1, size
            delivery.here = Presence(
                int(is_here), size or 0 if is_here else 0, stuck=int(outlook.state is State.STUCK)
            )
        found = delivery.progress(self._keeper.board.eta(delivery))
        return found if outlook.delivery is not None else found | {"since": None}

    async def _serving(self, who: Identity, did: DID) -> Sequence[Rule]:
        known = await self._memory.ask(
            ("rules", who, did),
            lambda: self._finder.serving(who, did),
            lambda _: Worth(self._now_ttl, SMALL),
            self._now_ttl,
        )
        return known.value

    async def _counted(self, who: Identity, did: DID) -> tuple[int | None, int | None, Presence]:
        """Files and bytes of a collection, and how much of it is here."""

        async def count() -> tuple[int | None, int | None, Presence]:
            files, size = await self._rules.total(who, did)
            return files, size, await self._rules.presence(who, did, self._rse_expression)

        known = await self._memory.ask(
            ("count", who, did), count, lambda _: Worth(self._now_ttl, SMALL), self._now_ttl
        )
        return known.value

    def forget(self, did: DID) -> None:
        """Ask again about *did*: something was done to its rules."""
        self._memory.forget(lambda key: key[-1] == did)

    def stop(self) -> None:
        """The mount ends: whoever waits for an answer is told so at once."""
        self._memory.stop()


def _keeping(rules: Sequence[Rule]) -> Rule | None:
    """Of the rules that keep a copy here, the one that keeps it longest."""
    kept = [rule for rule in rules if rule.state is RuleState.OK] or list(rules)
    return max(kept, key=lambda rule: rule.expires_ns or 1 << 62, default=None)
