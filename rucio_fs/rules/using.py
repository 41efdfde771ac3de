"""Keeping at the site what is open: rules that are about to end are made to last."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass

import trio

from rucio_fs.catalogue.base import Rules
from rucio_fs.did import DID, Identity, Rule, RuleTerms
from rucio_fs.errors import Denied, RucioFsError
from rucio_fs.rules.events import Events
from rucio_fs.rules.finding import Finder

log = logging.getLogger(__name__)

_Key = tuple[Identity, DID]

_LONGEST_PERIOD = 3600.0  # s between two looks at what is open
_SPACING = 0.5  # s between two files: there is time, and Rucio has other work
_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class _Use:
    since: float
    is_open: bool = False  # else all its users wait for it
    safe_until_ns: int = 0  # as far as known, its copy stays until then


class Using:
    """Counts who uses what, and once in a while sees to it that it stays.

    Costs nothing for a file that is closed again within a quarter of a rule's lifetime.
    """

    def __init__(self, rules: Rules, finder: Finder, terms: RuleTerms, events: Events) -> None:
        self._rules = rules
        self._finder = finder
        self._terms = terms
        self._events = events
        self._users: Counter[_Key] = Counter()
        self._uses: dict[_Key, _Use] = {}
        self._told_denied = False

    def hold(self, who: Identity, did: DID) -> None:
        """Somebody begins to use *did*, or to wait for it."""
        key = (who, did)
        self._users[key] += 1
        if key not in self._uses:
            self._uses[key] = _Use(trio.current_time())

    def opened(self, who: Identity, did: DID) -> None:
        """Somebody who holds *did* has its bytes now: it stays whatever becomes of its rule."""
        self._uses[who, did].is_open = True

    def drop(self, who: Identity, did: DID) -> None:
        """Somebody does not use *did* any more."""
        key = (who, did)
        self._users[key] -= 1
        if self._users[key] <= 0:
            del self._users[key]
            self._uses.pop(key, None)

    async def run(self) -> None:
        """Look at what is in use, for ever; ends at once where rules do not expire."""
        lifetime = self._terms.lifetime
        if lifetime is None:
            return
        period = min(_LONGEST_PERIOD, lifetime / 4)
        while True:
            await trio.sleep(period)
            await self.look(lifetime, trio.current_time() - period)

    async def look(self, lifetime: int, used_since: float) -> None:
        """See to it that what is in use since before *used_since* stays."""
        half_ns = lifetime * _SECOND_NS // 2
        for key, use in list(self._uses.items()):
            if use.since > used_since or use.safe_until_ns > time.time_ns() + half_ns:
                continue
            if key not in self._uses:
                continue  # closed meanwhile
            try:
                use.safe_until_ns = await self._secure(*key, use.is_open, lifetime)
            except RucioFsError as exc:
                log.info("%s: cannot make it stay now: %s", key[1], exc)
            except Exception:
                log.exception("bug while keeping %s", key[1])
            await trio.sleep(_SPACING)

    async def _secure(self, who: Identity, did: DID, is_open: bool, lifetime: int) -> int:
        """Let the copy of *did* stay for half a lifetime more; return until when (ns) it does."""
        wanted_ns = time.time_ns() + lifetime * _SECOND_NS // 2
        serving = await self._finder.serving(who, did)
        rules = [rule for rule in serving if await self._finder.is_for_here(who, rule)]
        longest = max((_end_ns(rule) for rule in rules), default=0)
        if longest > wanted_ns:
            return longest
        for rule in rules:
            if self._finder.is_ours(rule):
                return max(longest, await self._extend(who, rule, lifetime))
        if not rules and not is_open:
            return 0  # whoever waits for it is told that it does not come
        made = await self._rules.add_rules(who, [did], self._terms)
        rule = await self._rules.rule(who, made[did])
        self._events.note("kept", did, rule_id=rule.id)
        return _end_ns(rule)

    async def _extend(self, who: Identity, rule: Rule, lifetime: int) -> int:
        try:
            await self._rules.set_lifetime(who, rule.id, lifetime)
        except Denied as exc:
            if not self._told_denied:
                self._told_denied = True
                log.warning(
                    "rules cannot be extended while their files are in use; they are made anew"
                    " when they have ended: %s",
                    exc,
                )
            return _end_ns(rule)
        # The server may have made it shorter than that.
        now = await self._rules.rule(who, rule.id)
        self._events.note("extended", rule.did, rule_id=rule.id)
        return _end_ns(now)


def _end_ns(rule: Rule) -> int:
    return rule.expires_ns if rule.expires_ns is not None else 1 << 62
