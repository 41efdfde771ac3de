"""Bringing DIDs to the site: who asks, who waits, what became of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from cachetools import LRUCache

from rucio_fs.callers import Caller
from rucio_fs.catalogue.base import Rules
from rucio_fs.config import OpeningConfig, RulesConfig
from rucio_fs.did import DID, DIDType, Identity, Rule, RuleTerms
from rucio_fs.errors import (
    Denied,
    NotYetHere,
    RucioFsError,
    RuleGone,
    Stuck,
    TooManyWaiting,
    Unreachable,
)
from rucio_fs.rules.board import REMEMBERED, Board
from rucio_fs.rules.delivery import Delivery, State
from rucio_fs.rules.dispatching import Dispatcher
from rucio_fs.rules.events import Events
from rucio_fs.rules.finding import Finder
from rucio_fs.rules.guard import Guard
from rucio_fs.rules.making import Maker
from rucio_fs.rules.pace import Pace
from rucio_fs.rules.verdicts import of_lost_rule
from rucio_fs.rules.watcher import Watcher

log = logging.getLogger(__name__)

_JUST_LOOKED = 2.0  # s; who opens a stuck file after that has its rule read again
_BOOST_AGAIN = 60.0  # s between two requests to Rucio to try a stuck rule again


class RuleKeeper:
    """Finds or makes the rule for what is asked for, and lets the askers wait for it.

    One delivery for a DID, however many ask.  What runs on (making a rule, watching it) runs in
    *nursery*, so that an asker who gives up leaves the rule behind and harms nobody.  *on_arrival*
    is called when a DID has come, with the rule that brought it if that is known.
    """

    def __init__(
        self,
        rules: Rules,
        terms: RuleTerms,
        guard: Guard,
        opening: OpeningConfig,
        config: RulesConfig,
        nursery: trio.Nursery,
        on_arrival: Callable[[Delivery], None],
        events: Events | None = None,
    ) -> None:
        self.board = Board(on_arrival, events)
        self.finder = Finder(rules, terms)
        self._rules = rules
        self._guard = guard
        self._opening = opening
        self._nursery = nursery
        self._watcher = Watcher(
            rules,
            self.finder,
            terms.rse_expression,
            Pace(config.poll, config.slowest_poll),
            self.board.changed,
            self.board.drop,
        )
        self._dispatcher = Dispatcher(
            Maker(rules, self.finder, terms), self._watcher, self.board, config, nursery
        )
        self._boosted: LRUCache[str, float] = LRUCache(REMEMBERED)
        self._waiting = 0
        self._is_ending = False

    def __repr__(self) -> str:
        return f"<RuleKeeper: {len(self.board)} on their way, {self._waiting} wait>"

    async def run(self) -> None:
        """Watch what is on its way, for ever."""
        await self._watcher.run()

    # --- opening ---------------------------------------------------------------------------------

    async def bring(
        self,
        who: Identity,
        caller: Caller,
        did: DID,
        *,
        through: DID | None,
        wait: float,
    ) -> None:
        """Have the file *did* brought, and return when it is here.

        *through* is the dataset it was opened in, *wait* (s) the longest wait; 0 has it brought
        in the background.

        Raises: NotYetHere (not here in time) and its kinds, QuotaExceeded, Denied, NoTarget, Stuck
        and its kinds, RuleGone and its kinds, and what the catalogue raises.
        """
        if self._is_ending:
            raise _ending()
        began = trio.current_time()
        self._guard.check_program(caller, did)
        delivery = self.board.get(who, did)
        if delivery is not None and delivery.error is not None and wait > 0:
            await self._look_again(delivery)
            if delivery.is_over and delivery.state is not State.AVAILABLE:
                delivery = self.board.get(who, did)  # another open was quicker
        if delivery is None or (delivery.is_over and delivery.state is not State.AVAILABLE):
            # None is on its way, or what was is lost, which was nobody's wait.
            self._guard.check_pace(caller, did)
            delivery = self._dispatcher.start(who, did, DIDType.FILE, through=through)
        if wait > 0:
            try:
                await self._wait(delivery, caller, wait)
            except RuleGone:
                if delivery.seen_at >= began or self._is_ending:
                    raise
                # It was gone before this open came, and nobody had noticed.
                delivery = self.board.get(who, did) or self._dispatcher.start(
                    who, did, DIDType.FILE, through=through
                )
                # The end of a wait and the news that end it can come in the same moment.
                left = max(0.0, began + wait - trio.current_time())
                await self._wait(delivery, caller, left)
            return
        delivery.interest_at = trio.current_time()  # who does not wait comes again
        self._watcher.hurry()
        if delivery.error is not None:
            raise delivery.error.copy()
        if delivery.state is not State.AVAILABLE:
            raise NotYetHere(f"{did} is not here yet; it is being asked for, try again later")

    async def _wait(self, delivery: Delivery, caller: Caller, seconds: float) -> None:
        if self._waiting >= self._opening.max_waiting:
            raise TooManyWaiting(
                f"{delivery.did} is on its way, and {self._waiting} opens wait already"
                " (opening.max_waiting): try again later"
            )
        self._waiting += 1
        delivery.waiting += 1
        delivery.uids.add(caller.uid)
        delivery.interest_at = trio.current_time()
        self._watcher.hurry()
        try:
            with trio.move_on_after(seconds):
                while delivery.state is not State.AVAILABLE:
                    if delivery.error is not None:
                        raise delivery.error.copy()
                    await delivery.news()
                return
        finally:
            self._waiting -= 1
            delivery.waiting -= 1
        rule = f"rule {delivery.rule_id}" if delivery.rule_id else "no rule could be made yet"
        raise NotYetHere(
            f"{delivery.did} is not here after {seconds:g} s: {delivery.state.value}, {rule}. It"
            " goes on; try again later"
        )

    async def _look_again(self, delivery: Delivery) -> None:
        """Somebody wants what is stuck: it may not be any more, or Rucio may be asked to retry."""
        if trio.current_time() - delivery.looked_at >= _JUST_LOOKED:
            try:
                await self._watcher.look_closely(delivery)
            except Unreachable as exc:
                log.info("%s: its rule cannot be looked at: %s", delivery.did, exc)
        if isinstance(delivery.error, Stuck) and delivery.state is State.STUCK:
            self._nursery.start_soon(self._boost, delivery)

    async def _boost(self, delivery: Delivery) -> None:
        rule = delivery.rule
        if rule is None or not self.finder.is_ours(rule):
            return
        last = self._boosted.get(rule.id, float("-inf"))
        if trio.current_time() - last < _BOOST_AGAIN:
            return
        self._boosted[rule.id] = trio.current_time()
        try:
            await self._rules.boost(delivery.who, rule.id)
        except RucioFsError as exc:
            # Many sites let only administrators do it; then Rucio's own time has to come.
            log.info("rule %s is not tried again at once: %s", rule.id, exc)
        else:
            self.board.events.note("boosted", delivery.did, rule_id=rule.id)

    # --- asking without opening ------------------------------------------------------------------

    async def request(
        self, who: Identity, did: DID, type: DIDType, lifetime: int | None = None
    ) -> None:
        """Have *did* brought, and return when its rule is there.

        With *lifetime* (s) the rule is made also for what is here, and one of ours made to last
        that long.

        Raises: as `bring`.
        """
        if self._is_ending:
            raise _ending()
        delivery = self.board.get(who, did)
        if delivery is not None and delivery.error is not None:
            await self._look_again(delivery)
        if delivery is None or delivery.is_over:
            delivery = self._dispatcher.start(who, did, type, lifetime=lifetime, is_requested=True)
        elif delivery.rule_id is None and delivery in self._watcher:
            await self._watcher.look(delivery)
        await delivery.is_under_way.wait()
        if delivery.is_over and delivery.error is not None:
            raise delivery.error.copy()
        rule_id = delivery.rule_id
        if lifetime is not None and rule_id is not None:
            rule = await self._rules.rule(who, rule_id)
            if self.finder.is_ours(rule) and not _lasts(rule, lifetime):
                await self._rules.set_lifetime(who, rule_id, lifetime)
                delivery.rule = delivery.read = await self._rules.rule(who, rule_id)

    async def release(self, who: Identity, did: DID) -> int:
        """Delete the rules on *did* that this program made; return how many.

        Raises: Denied (Rucio lets only administrators), and what the catalogue raises.
        """
        ours = [
            rule
            for rule in await self.finder.serving(who, did)
            if rule.did == did and self.finder.is_ours(rule)
        ]
        delivery = self.board.get(who, did)
        if delivery is not None and ours:
            delivery.is_given_back = True
            delivery.seen_at = trio.current_time()
        try:
            for rule in ours:
                await self._delete(who, rule)
                self.board.events.note("released", did, rule_id=rule.id)
        except RucioFsError:
            if delivery is not None:
                delivery.is_given_back = False
            raise
        if ours and delivery is not None and not delivery.is_over:
            delivery.is_over = True
            verdict = of_lost_rule(did, ours[0].id, None, time.time_ns())
            self._watcher.settle(delivery, verdict)
        return len(ours)

    async def _delete(self, who: Identity, rule: Rule) -> None:
        # One that is gone by now was what was wanted.
        with suppress(RuleGone):
            try:
                await self._rules.set_lifetime(who, rule.id, 0)
            except Denied:
                # Who may not change a rule may still delete it, which takes an hour to count.
                await self._rules.delete_rule(who, rule.id)

    # --- what is known ---------------------------------------------------------------------------

    def delivery(self, who: Identity, did: DID) -> Delivery | None:
        """What is on its way, with a note that somebody looks."""
        delivery = self.board.get(who, did)
        if delivery is not None:
            delivery.interest_at = trio.current_time()
            self._watcher.hurry()
        return delivery

    def status(self) -> dict[str, Any]:
        """Numbers for `.rucio/status`."""
        return {
            "on_their_way": len(self.board),
            "waiting": self._waiting,
        }

    def stop(self) -> None:
        """The mount ends: whoever waits, or would, is told so at once."""
        self._is_ending = True
        for delivery in self.board.all():
            delivery.error = _ending()
            delivery.is_over = True
            self._watcher.forget(delivery)
            delivery.tell()


def _ending() -> Unreachable:
    return Unreachable("the mount is ending; rules that are made stay")


def _lasts(rule: Rule, lifetime: int) -> bool:
    if rule.expires_ns is None:
        return True
    return rule.expires_ns >= time.time_ns() + (lifetime - 1) * 1_000_000_000
