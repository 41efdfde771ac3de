"""Making rules: many at once where Rucio allows it, each refusal told to whom it concerns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rucio_fs.catalogue.base import Rules
from rucio_fs.did import DID, Identity, Rule, RuleState, RuleTerms
from rucio_fs.errors import (
    Denied,
    LoginFailed,
    NoTarget,
    NotYetHere,
    QuotaExceeded,
    RucioFsError,
    RuleExists,
    RuleGone,
    Unreachable,
)
from rucio_fs.rules import verdicts
from rucio_fs.rules.finding import Finder

BATCH = 50
"""DIDs in one request for rules: Rucio takes 20 to 50 ms for each, and one answer for all."""

_MOVING = (RuleState.REPLICATING, RuleState.INJECT)


@dataclass(frozen=True, slots=True)
class Begun:
    """How a DID was found or set on its way.

    *rule_id* is None where a rule of anybody has it on its way already and was not asked for.
    """

    is_here: bool = False
    rule_id: str | None = None
    rule: Rule | None = None
    is_made: bool = False


class Maker:
    """Finds the rule that brings a DID to the site, or makes it.  Stateless."""

    def __init__(self, rules: Rules, finder: Finder, terms: RuleTerms) -> None:
        self._rules = rules
        self._finder = finder
        self._terms = terms

    async def begin_files(
        self, who: Identity, dids: Sequence[DID], lifetime: int | None = None
    ) -> Mapping[DID, Begun | RucioFsError]:
        """Set files on their way; a handful of requests for hundreds of them."""
        states = await self._rules.states_at(who, dids, self._terms.rse_expression)
        begun: dict[DID, Begun | RucioFsError] = {}
        missing: list[DID] = []
        for did in dids:
            at_site = states.get(did, {})
            if lifetime is not None:  # somebody wants to be sure that it stays
                missing.append(did)
            elif verdicts.is_here(at_site):
                begun[did] = Begun(is_here=True)
            elif not verdicts.is_odd(at_site):
                begun[did] = Begun()
            elif not at_site:
                missing.append(did)
            else:
                try:
                    rule = await self._moving(who, did, lifetime)
                except (Unreachable, LoginFailed):  # so it is for all of them
                    raise
                except RucioFsError as exc:
                    begun[did] = exc
                    continue
                if rule is None:
                    missing.append(did)
                else:
                    begun[did] = Begun(rule_id=rule.id, rule=rule)
        return begun | await self._make(who, missing, self._with(lifetime))

    async def begin_collection(
        self, who: Identity, did: DID, lifetime: int | None = None
    ) -> Begun | RucioFsError:
        """Set a dataset or container on its way, with one rule on all of it."""
        serving = [rule for rule in await self._finder.serving(who, did) if rule.did == did]
        usable = (RuleState.OK, *_MOVING)
        for rule in serving:
            is_usable = rule.state in usable and await self._finder.is_for_here(who, rule)
            if is_usable or self._finder.is_same(rule):
                try:
                    live = await self._live(who, rule, lifetime)
                except RucioFsError as exc:
                    return exc
                if live is not None:
                    return Begun(rule_id=live.id, rule=live)
        return (await self._make(who, [did], self._with(lifetime)))[did]

    def _with(self, lifetime: int | None) -> RuleTerms:
        return self._terms if lifetime is None else replace(self._terms, lifetime=lifetime)

    async def _moving(self, who: Identity, did: DID, lifetime: int | None) -> Rule | None:
        """A rule that has the file on its way, or one of ours that is stopped."""
        for rule in await self._finder.serving(who, did):
            if rule.state in _MOVING or self._finder.is_same(rule):
                live = await self._live(who, rule, lifetime)
                if live is not None:
                    return live
        return None

    async def _live(self, who: Identity, rule: Rule, lifetime: int | None) -> Rule | None:
        """*rule* if it is to stay, None if Rucio is about to remove it.

        One of ours stays on: as long as it is there, Rucio would call another one a duplicate.

        Raises: NotYetHere (we may not change it)
        """
        if not verdicts.has_expired(rule, time.time_ns()):
            return rule
        if not self._finder.is_same(rule):
            return None
        try:
            await self._rules.set_lifetime(who, rule.id, self._with(lifetime).lifetime)
            return await self._rules.rule(who, rule.id)
        except RuleGone:
            return None
        except Denied as exc:
            raise NotYetHere(
                f"{rule.did}: rule {rule.id} has expired, and Rucio is about to remove it; try"
                " again in some minutes"
            ) from exc

    async def _make(
        self, who: Identity, dids: Sequence[DID], terms: RuleTerms
    ) -> dict[DID, Begun | RucioFsError]:
        """One request where all goes well.  Rucio makes all the rules of a request or none."""
        if not dids:
            return {}
        try:
            ids = await self._rules.add_rules(who, dids, terms)
            return {did: Begun(rule_id=ids[did], is_made=True) for did in dids}
        except (Denied, NoTarget, Unreachable) as exc:  # not about any DID among them
            return {did: _explained(exc, did, terms) for did in dids}
        except RuleExists as exc:
            if len(dids) == 1:
                return {dids[0]: await self._existing(who, dids[0], terms.lifetime, exc)}
            # Most often our own request, whose answer was lost: then they are on their way.
            states = await self._rules.states_at(who, dids, terms.rse_expression)
            moving = [did for did in dids if not verdicts.is_odd(states.get(did, {}))]
            if moving:
                others = [did for did in dids if did not in set(moving)]
                return dict.fromkeys(moving, Begun()) | await self._make(who, others, terms)
        except RucioFsError as exc:
            if len(dids) == 1:
                return {dids[0]: _explained(exc, dids[0], terms)}
        middle = len(dids) // 2
        first = await self._make(who, dids[:middle], terms)
        return first | await self._make(who, dids[middle:], terms)

    async def _existing(
        self, who: Identity, did: DID, lifetime: int | None, duplicate: RuleExists
    ) -> Begun | RucioFsError:
        try:
            for rule in await self._finder.serving(who, did):
                if self._finder.is_same(rule):
                    live = await self._live(who, rule, lifetime)
                    if live is not None:
                        return Begun(rule_id=live.id, rule=live)
        except RucioFsError as exc:
            return exc
        return duplicate


def _explained(error: RucioFsError, did: DID, terms: RuleTerms) -> RucioFsError:
    """*error* in words for whoever wanted to open *did*."""
    where, account = terms.rse_expression, terms.account
    match error:
        case QuotaExceeded():
            words = (
                f"account {account} has no room at {where} for {did}: give back what is not needed"
                " (rucio-fs release), or ask for more quota"
            )
        case NoTarget():
            words = f"{where} takes no files now, so {did} cannot be brought"
        case LoginFailed():
            return error
        case Denied():
            words = f"Rucio does not let us make a rule for {did} at {where} for account {account}"
        case _:
            return error
    return type(error)(f"{words} ({error})")
