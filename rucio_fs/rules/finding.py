"""Which of a DID's rules brings it to the site, and which of them are ours."""

from __future__ import annotations

import trio
from cachetools import TTLCache

from rucio_fs.catalogue.base import Rules
from rucio_fs.did import DID, Identity, Rule, RuleState, RuleTerms
from rucio_fs.errors import Refused

MARK = "rucio-fs"
"""How the comment of every rule of this program begins; `release` touches no others."""

_EXPRESSIONS = 10_000  # remembered; accounts use a handful
_RSES_TTL = 600.0  # s; RSEs come and go with months

# Best first: what moves, what is here, what might go on by itself, what needs somebody.
_ORDER = (
    RuleState.REPLICATING,
    RuleState.INJECT,
    RuleState.OK,
    RuleState.STUCK,
    RuleState.WAITING_APPROVAL,
    RuleState.SUSPENDED,
)


class Finder:
    """Looks for rules on a DID, of whatever account and expression, that serve this site."""

    def __init__(self, rules: Rules, terms: RuleTerms) -> None:
        self._rules = rules
        self._terms = terms
        self._rses: TTLCache[tuple[Identity, str], frozenset[str]] = TTLCache(
            _EXPRESSIONS, _RSES_TTL, timer=trio.current_time
        )

    def is_ours(self, rule: Rule) -> bool:
        """Whether this program made it, on this or another machine, for this account."""
        return rule.account == self._terms.account and rule.comment.startswith(MARK)

    def is_same(self, rule: Rule) -> bool:
        """Whether Rucio would call one of ours a duplicate of it."""
        return (
            rule.account == self._terms.account
            and rule.rse_expression == self._terms.rse_expression
        )

    async def serving(self, who: Identity, did: DID) -> list[Rule]:
        """Rules on *did* or its datasets whose expression includes an RSE of the site, best first.

        Ours come before equals of others.  Raises: NotFound, and what the catalogue raises.
        """
        found = await self._rules.rules_of(who, did)
        here = await self.rses(who, self._terms.rse_expression)
        serving = [
            rule
            for rule in found
            if self.is_same(rule) or here & await self.rses(who, rule.rse_expression)
        ]
        serving.sort(key=lambda rule: (_ORDER.index(rule.state), not self.is_same(rule)))
        return serving

    async def is_for_here(self, who: Identity, rule: Rule) -> bool:
        """Whether all that *rule* brings comes to the site: Rucio may choose among more RSEs."""
        here = await self.rses(who, self._terms.rse_expression)
        return self.is_same(rule) or await self.rses(who, rule.rse_expression) <= here

    async def rses(self, who: Identity, rse_expression: str) -> frozenset[str]:
        """The RSEs of an expression; none for one that stands for none any more."""
        known: frozenset[str] | None = self._rses.get((who, rse_expression))
        if known is None:
            try:
                known = await self._rules.rses(who, rse_expression)
            except Refused:  # the RSEs it named are gone
                known = frozenset()
            self._rses[who, rse_expression] = known
        return known
