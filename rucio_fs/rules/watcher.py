"""One task that looks at everything on its way, for all who wait.

A round asks for the replicas of all files at once, counts one collection, and reads one rule: the
most doubtful.  So the number of requests does not depend on how many wait, nor for how much.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import trio

from rucio_fs.catalogue.base import BULK_LIMIT, Rules
from rucio_fs.did import DID, Identity, Rule, RuleState
from rucio_fs.errors import NotFound, RucioFsError, RuleGone, Stuck
from rucio_fs.rules import verdicts
from rucio_fs.rules.delivery import Delivery, State
from rucio_fs.rules.finding import Finder
from rucio_fs.rules.pace import Pace
from rucio_fs.rules.verdicts import HERE, Verdict

log = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0  # s after which the rule of what seems to be on its way is read again
_INTEREST = 15.0  # s for which a question how far something is counts as waiting for it
_SHARE_WAITED_FOR, _SHARE_ODD = 8, 2  # looks at a rule, to one at any other
_ABANDONED = 3600.0  # s after which what has failed is not looked at any more
_SURELY_ODD = 3  # rounds in which a replica was UNAVAILABLE before its rule is not waited for


class Watcher:
    """Knows how everything on its way stands.  One instance and one `run` task a mount.

    *on_change* is called with a delivery whenever its state or error has changed, *on_abandon* when
    it is not watched any more though nothing has become of it.
    """

    def __init__(
        self,
        rules: Rules,
        finder: Finder,
        rse_expression: str,
        pace: Pace,
        on_change: Callable[[Delivery], None],
        on_abandon: Callable[[Delivery], None],
    ) -> None:
        self._rules = rules
        self._finder = finder
        self._rse_expression = rse_expression
        self._pace = pace
        self._on_change = on_change
        self._on_abandon = on_abandon
        self._watched: set[Delivery] = set()
        self._states: dict[Delivery, Mapping[str, str]] = {}
        self._odd_rounds: dict[Delivery, int] = defaultdict(int)
        self._hurry = trio.Event()

    def __len__(self) -> int:
        return len(self._watched)

    def __contains__(self, delivery: Delivery) -> bool:
        return delivery in self._watched

    def watch(self, delivery: Delivery) -> None:
        self._watched.add(delivery)
        self.hurry()

    def forget(self, delivery: Delivery) -> None:
        self._watched.discard(delivery)
        self._states.pop(delivery, None)
        self._odd_rounds.pop(delivery, None)

    def hurry(self) -> None:
        """Somebody has begun to wait: a long pause ends."""
        self._hurry.set()

    async def run(self) -> None:
        """Round after round, for ever; none while nothing is on its way."""
        last = trio.current_time()
        while True:
            calls = 0
            if self._watched:
                try:
                    calls = await self._round()
                    self._pace.succeeded()
                except RucioFsError as exc:
                    log.log(exc.level, "what is on its way cannot be looked at: %s", exc)
                    self._pace.failed()
                except Exception:
                    log.exception("bug while looking at what is on its way")
                    self._pace.failed()
            last = trio.current_time()
            while True:
                self._hurry = trio.Event()
                until = last + self._pace.pause(self._youngest_wait(), calls)
                if not self._watched:
                    until = float("inf")
                with trio.move_on_at(until):
                    await self._hurry.wait()
                if trio.current_time() >= until:
                    break

    # --- one look --------------------------------------------------------------------------------

    async def look(self, delivery: Delivery) -> int:
        """Find and read the rule of *delivery*; return how many requests that took.

        Raises: what the catalogue raises but for a rule that is gone, which is a verdict.
        """
        who = delivery.who
        delivery.looked_at = trio.current_time()
        calls = 1
        rule: Rule | None = None
        if delivery.rule_id is not None:
            try:
                rule = await self._rules.rule(who, delivery.rule_id)
            except RuleGone:
                calls += 2
                rule = await self._replacement(delivery)
        else:
            calls += 1
            rule = await self._replacement(delivery)
        if delivery.is_over:
            return calls
        if rule is None:
            calls += await self._lose(delivery)
            return calls
        if rule != delivery.read:
            delivery.read = delivery.rule = rule
            if rule.state is RuleState.STUCK:
                calls += 1
                trouble = await self._rules.trouble(who, rule.id)
                if trouble:
                    reason = f"{rule.error or 'no reason given'} ({trouble})"
                    delivery.rule = replace(rule, error=reason)
        if rule.state is RuleState.OK and not delivery.is_file:
            calls += await self._count(delivery)  # whoever looks on sees the last file come, too
        self._take(delivery, delivery.rule or rule)
        return calls

    async def look_closely(self, delivery: Delivery) -> None:
        """`look`, after a look at the replica of a file: it may have come whatever its rule says.

        Raises: as `look`.
        """
        if delivery.is_file:
            await self._look_at_replica(delivery)
        if not delivery.is_over:
            await self.look(delivery)

    def _take(self, delivery: Delivery, rule: Rule) -> None:
        is_first = delivery.rule_id is None
        delivery.rule, delivery.rule_id = rule, rule.id
        delivery.seen_at = trio.current_time()
        if delivery.is_file:
            states = self._states.get(delivery, {verdicts.COPYING: verdicts.COPYING})
            self.settle(delivery, verdicts.of_file(delivery.did, states, rule))
        else:
            self.settle(
                delivery,
                verdicts.of_collection(delivery.did, delivery.here, delivery.files, rule),
            )
        if is_first:
            delivery.tell()

    async def _replacement(self, delivery: Delivery) -> Rule | None:
        """Another rule that brings the same: the one we know is gone, or we know none."""
        try:
            rules = await self._finder.serving(delivery.who, delivery.did)
        except NotFound:
            return None
        for rule in rules:
            # One that is done and has not brought this file here has brought it elsewhere.
            is_elsewhere = delivery.is_file and rule.state is RuleState.OK
            is_over = verdicts.has_expired(rule, time.time_ns())
            if rule.id != delivery.rule_id and not is_elsewhere and not is_over:
                return rule
        return None

    async def _lose(self, delivery: Delivery) -> int:
        """No rule brings it any more; return how many requests it took to be sure of that."""
        calls = 0
        if delivery.is_file:
            # A rule that has just become OK is not one that brings it: it has brought it, since
            # its replica was looked at.
            calls = 1
            await self._look_at_replica(delivery)
            if delivery.is_over:
                return calls
        known = delivery.rule
        verdict = verdicts.of_lost_rule(
            delivery.did,
            delivery.rule_id or "(unknown)",
            None if known is None or delivery.is_given_back else known.expires_ns,
            time.time_ns(),
            was_waiting=delivery.state is State.WAITING_APPROVAL,
        )
        delivery.is_over = True
        self.settle(delivery, verdict)
        return calls

    async def _look_at_replica(self, delivery: Delivery) -> None:
        states = await self._rules.states_at(delivery.who, [delivery.did], self._rse_expression)
        self._learn(delivery, states.get(delivery.did, {}))

    def settle(self, delivery: Delivery, verdict: Verdict) -> None:
        """Take over how *delivery* stands, and tell whoever waits if that is news."""
        if verdict.state is State.AVAILABLE:
            delivery.is_over = True
        is_news = delivery.is_over or (verdict.state, str(verdict.error)) != (
            delivery.state,
            str(delivery.error),
        )
        delivery.state, delivery.error = verdict
        if delivery.is_over:
            self.forget(delivery)
        if is_news:
            self._on_change(delivery)
            delivery.tell()

    # --- a round ---------------------------------------------------------------------------------

    async def _round(self) -> int:
        calls = 0
        self._abandon()
        for who, files in self._files():
            states = await self._rules.states_at(who, list(files), self._rse_expression)
            calls += 1
            for did, delivery in files.items():
                self._learn(delivery, states.get(did, {}))
        collection = self._longest_uncounted()
        if collection is not None:
            calls += await self._count(collection)
        doubtful = self._most_doubtful()
        if doubtful is not None:
            calls += await self.look(doubtful)
        return calls

    def _abandon(self) -> None:
        """Let go of what has failed and nobody has asked about for long; its rule stays."""
        long_ago = trio.current_time() - _ABANDONED
        for one in list(self._watched):
            is_asked_for = one.waiting or max(one.began_at, one.interest_at) > long_ago
            if one.error is not None and not is_asked_for:
                self.forget(one)
                self._on_abandon(one)

    def _files(self) -> Iterator[tuple[Identity, dict[DID, Delivery]]]:
        by_asker: dict[Identity, list[Delivery]] = defaultdict(list)
        for delivery in self._watched:
            if delivery.is_file:
                by_asker[delivery.who].append(delivery)
        for who, files in by_asker.items():
            for start in range(0, len(files), BULK_LIMIT):
                yield who, {file.did: file for file in files[start : start + BULK_LIMIT]}

    def _learn(self, delivery: Delivery, states: Mapping[str, str]) -> None:
        """Take over the replica states of a file."""
        if delivery not in self._watched:
            return
        self._states[delivery] = states
        delivery.is_odd = verdicts.is_odd(states)
        if verdicts.is_here(states):
            self.settle(delivery, HERE)
            return
        if not delivery.is_odd:
            delivery.seen_at = trio.current_time()
            self._odd_rounds.pop(delivery, None)
            if delivery.state is State.STUCK:
                delivery.looked_at = float("-inf")  # Rucio tries again, or its rule says otherwise
            return
        self._odd_rounds[delivery] += 1
        if (
            "UNAVAILABLE" in states.values()
            and delivery.state is State.REPLICATING
            and self._odd_rounds[delivery] >= _SURELY_ODD
        ):
            # With hundreds of them their rules would be read one a second.
            where = ", ".join(sorted(states))
            error = Stuck(f"{delivery.did}: the transfer to {where} has failed")
            self.settle(delivery, Verdict(State.STUCK, error))

    async def _count(self, delivery: Delivery) -> int:
        """Learn how much of a collection is here."""
        calls = 1
        is_first = delivery.counted_at == float("-inf")
        delivery.counted_at = trio.current_time()
        if delivery.files is None:
            calls += 1
            delivery.files, delivery.bytes = await self._rules.total(delivery.who, delivery.did)
        here = await self._rules.presence(delivery.who, delivery.did, self._rse_expression)
        if is_first:
            delivery.bytes_at_first = here.bytes
        if here != delivery.here:
            delivery.here = here
            delivery.tell()
        return calls

    def _longest_uncounted(self) -> Delivery | None:
        return min(
            (one for one in self._watched if not one.is_file),
            key=lambda one: one.counted_at,
            default=None,
        )

    def _most_doubtful(self) -> Delivery | None:
        now = trio.current_time()
        due = [
            one
            for one in self._watched
            if one.is_odd or not one.is_file or now - one.looked_at >= _LOOK_AGAIN
        ]
        return max(due, key=lambda one: _doubt(one, now), default=None)

    def _youngest_wait(self) -> float | None:
        """Age (s) of the youngest wait; a look at the progress is as good as waiting."""
        now = trio.current_time()
        waits: Iterable[float] = (
            now - max(one.began_at, one.interest_at)
            for one in self._watched
            if one.waiting or now - one.interest_at < _INTEREST
        )
        return min(waits, default=None)


def _doubt(delivery: Delivery, now: float) -> float:
    """How much it has to be looked at: the longer ago the more, shared out and not ranked.

    What stays odd for ever, as a file that nobody approves, must not keep the others from a look.
    """
    share = (_SHARE_WAITED_FOR if delivery.waiting else 1) * (_SHARE_ODD if delivery.is_odd else 1)
    return (now - delivery.looked_at) * share
