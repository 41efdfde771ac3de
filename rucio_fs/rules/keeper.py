"""Bringing DIDs to the site: who asks, who waits, what became of it."""

from __future__ import annotations

import logging
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
    Stuck,
    TooManyWaiting,
    Unreachable,
)
from rucio_fs.gathering import Gatherer
from rucio_fs.rules.delivery import Delivery, State
from rucio_fs.rules.events import Events
from rucio_fs.rules.finding import Finder
from rucio_fs.rules.guard import Guard
from rucio_fs.rules.making import BATCH, Begun, Maker
from rucio_fs.rules.pace import Pace
from rucio_fs.rules.verdicts import HERE, Verdict, of_lost_rule
from rucio_fs.rules.watcher import Watcher

log = logging.getLogger(__name__)

_Key = tuple[Identity, DID]

_REFUSALS = 1000  # DIDs whose last refusal is remembered for user.rucio.error
_JUST_LOOKED = 2.0  # s; who opens a stuck file after that has its rule read again
_BOOST_AGAIN = 60.0  # s between two requests to Rucio to try a stuck rule again
_RETRY_PAUSE = 5.0  # s at most between two attempts to make a rule while Rucio is away
_FINISHED = 50  # deliveries whose duration says how long the next one takes


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
    ) -> None:
        self.events = Events()
        self.finder = Finder(rules, terms)
        self._rules = rules
        self._guard = guard
        self._opening = opening
        self._config = config
        self._nursery = nursery
        self._on_arrival = on_arrival
        self._maker = Maker(rules, self.finder, terms)
        self._watcher = Watcher(
            rules,
            self.finder,
            terms.rse_expression,
            Pace(config.poll, config.slowest_poll),
            self._changed,
        )
        self._begin: Gatherer[_Key, Begun] = Gatherer(
            self._begin_files, nursery, limit=BATCH, at_once=2
        )
        self._deliveries: dict[_Key, Delivery] = {}
        self._refusals: LRUCache[_Key, RucioFsError] = LRUCache(_REFUSALS)
        self._boosted: LRUCache[str, float] = LRUCache(_REFUSALS)
        self._opened: dict[_Key, deque[float]] = {}
        self._durations: deque[float] = deque(maxlen=_FINISHED)
        self._waiting = 0
        self._retry_at = float("-inf")
        self._is_ending = False

    def __repr__(self) -> str:
        return f"<RuleKeeper: {len(self._deliveries)} on their way, {self._waiting} wait>"

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
        self._guard.check_program(caller, did)
        delivery = self._deliveries.get((who, did))
        if delivery is not None and delivery.error is not None and wait > 0:
            await self._look_again(delivery)
            if delivery.is_over and delivery.state is not State.AVAILABLE:
                delivery = self._deliveries.get((who, did))  # another open was quicker
        if delivery is None or (delivery.is_over and delivery.state is not State.AVAILABLE):
            # None is on its way, or what was is lost, which was nobody's wait.
            self._guard.check_pace(caller, did)
            delivery = self._start(who, did, DIDType.FILE, through=through)
        if wait > 0:
            await self._wait(delivery, caller, wait)
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
            self.events.note("boosted", delivery.did, rule_id=rule.id)

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
        key = (who, did)
        delivery = self._deliveries.get(key)
        if delivery is not None and delivery.error is not None:
            await self._look_again(delivery)
        if delivery is None or delivery.is_over:
            delivery = self._start(who, did, type, lifetime=lifetime)
            delivery.is_requested = True
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
        for rule in ours:
            try:
                await self._rules.set_lifetime(who, rule.id, 0)
            except Denied:
                # Who may not change a rule may still delete it, which takes an hour to count.
                await self._rules.delete_rule(who, rule.id)
            self.events.note("released", did, rule_id=rule.id)
        delivery = self._deliveries.get((who, did))
        if ours and delivery is not None and not delivery.is_over:
            delivery.is_over = True
            verdict = of_lost_rule(did, ours[0].id, None, time.time_ns())
            self._watcher.settle(delivery, verdict)
        return len(ours)

    # --- what is known ---------------------------------------------------------------------------

    def delivery(self, who: Identity, did: DID) -> Delivery | None:
        """What is on its way, with a note that somebody looks."""
        delivery = self._deliveries.get((who, did))
        if delivery is not None:
            delivery.interest_at = trio.current_time()
            self._watcher.hurry()
        return delivery

    def refusal(self, who: Identity, did: DID) -> RucioFsError | None:
        """Why *did* could not be brought when that was tried last."""
        error: RucioFsError | None = self._refusals.get((who, did))
        return error

    def eta(self, delivery: Delivery) -> float | None:
        """Seconds until it will probably be here; None if nothing tells."""
        elapsed = trio.current_time() - delivery.began_at
        if delivery.state is not State.REPLICATING or elapsed <= 0:
            return None
        if not delivery.is_file:
            arrived = delivery.here.bytes - delivery.bytes_at_first
            if not delivery.bytes or arrived <= 0:
                return None
            return (delivery.bytes - delivery.here.bytes) * elapsed / arrived
        if not self._durations:
            return None
        left = statistics.median(self._durations) - elapsed
        return left if left > 0 else None

    def transfers(self) -> list[dict[str, Any]]:
        """Everything on its way, the oldest first, for `.rucio/transfers`."""
        return [
            delivery.progress(self.eta(delivery))
            | {"waiting": delivery.waiting, "uids": sorted(delivery.uids)}
            for delivery in sorted(self._deliveries.values(), key=lambda one: one.since)
        ]

    def status(self) -> dict[str, Any]:
        """Numbers for `.rucio/status`."""
        return {
            "on_their_way": len(self._deliveries),
            "waiting": self._waiting,
            "problems": len(self.events.problems()),
        }

    def stop(self) -> None:
        """The mount ends: whoever waits, or would, is told so at once."""
        self._is_ending = True
        for delivery in list(self._deliveries.values()):
            delivery.error = _ending()
            delivery.is_over = True
            self._watcher.forget(delivery)
            delivery.tell()

    # --- making ----------------------------------------------------------------------------------

    def _start(
        self,
        who: Identity,
        did: DID,
        type: DIDType,
        *,
        lifetime: int | None = None,
        through: DID | None = None,
    ) -> Delivery:
        delivery = Delivery(who, did, type, lifetime)
        if delivery.is_file:
            delivery.files = 1
        self._deliveries[who, did] = delivery
        self._refusals.pop((who, did), None)
        dataset = self._grouped(who, through)
        self._nursery.start_soon(self._set_out, delivery, dataset)
        return delivery

    async def _set_out(self, delivery: Delivery, dataset: DID | None) -> None:
        """Get *delivery* on its way; while somebody waits, also through an outage of Rucio."""
        attempts = 0
        while not delivery.is_over:
            try:
                begun = await self._begun(delivery, dataset)
                await self._take_up(delivery, begun)
                return
            except (Unreachable, NotYetHere) as exc:
                # Rucio is away, or still deletes what an earlier rule has left.
                attempts += 1
                if not delivery.waiting:
                    self._refuse(delivery, exc)
                    return
                log.info("%s cannot be asked for now: %s", delivery.did, exc)
                await self._retry_pause(attempts)
            except RucioFsError as exc:
                self._refuse(delivery, exc)
                return
            except Exception as exc:
                log.exception("bug while asking for %s", delivery.did)
                self._refuse(delivery, RucioFsError(f"internal error: {exc!r}"))
                return

    async def _retry_pause(self, attempts: int) -> None:
        """Wait before the next attempt, with all others: together they are a few requests."""
        now = trio.current_time()
        if self._retry_at <= now:
            pause = min(_RETRY_PAUSE, 0.2 * 2.0 ** min(attempts, 10))
            self._retry_at = now + pause * random.uniform(0.5, 1.0)
        await trio.sleep_until(self._retry_at)

    async def _begun(self, delivery: Delivery, dataset: DID | None) -> Begun:
        who, did, lifetime = delivery.who, delivery.did, delivery.lifetime
        if dataset is not None:
            group = self._deliveries.get((who, dataset)) or self._start(
                who, dataset, DIDType.DATASET
            )
            await group.is_under_way.wait()
            if group.error is None and group.rule_id is not None:
                return Begun(rule_id=group.rule_id, rule=group.rule)
        if not delivery.is_file:
            begun = await self._maker.begin_collection(who, did, lifetime)
        elif lifetime is not None:
            begun = (await self._maker.begin_files(who, [did], lifetime))[did]
        else:
            return await self._begin.ask((who, did))
        if isinstance(begun, RucioFsError):
            raise begun
        return begun

    async def _begin_files(self, keys: Sequence[_Key]) -> Mapping[_Key, Begun | RucioFsError]:
        begun: dict[_Key, Begun | RucioFsError] = {}
        for who in {who for who, _ in keys}:
            dids = [did for asker, did in keys if asker == who]
            found = await self._maker.begin_files(who, dids)
            begun |= {(who, did): result for did, result in found.items()}
        return begun

    async def _take_up(self, delivery: Delivery, begun: Begun) -> None:
        if delivery.is_over:
            return  # the mount ends
        delivery.rule_id = begun.rule_id
        if begun.is_here:
            self._watcher.settle(delivery, HERE)
            return
        self.events.note(
            "requested" if begun.is_made else "joined",
            delivery.did,
            rule_id=begun.rule_id,
            state=delivery.state.value,
        )
        if begun.is_made:
            log.info("%s: rule %s brings it", delivery.did, begun.rule_id)
        self._watcher.watch(delivery)
        if begun.rule is not None or (delivery.is_requested and begun.rule_id is None):
            # It was there before us, and may be stuck or wait for somebody.
            await self._watcher.look(delivery)
        delivery.tell()

    def _refuse(self, delivery: Delivery, error: RucioFsError) -> None:
        if str(delivery.did) not in str(error):  # one answer for many, or about none of them
            error = type(error)(f"{delivery.did}: {error}")
        delivery.is_over = True
        self._watcher.settle(delivery, Verdict(State.NOT_AVAILABLE, error))

    def _grouped(self, who: Identity, dataset: DID | None) -> DID | None:
        """*dataset* if so many of its files were opened of late that a rule is to bring it all."""
        if dataset is None or not self._config.grouping:
            return None
        now = trio.current_time()
        opened = self._opened.setdefault((who, dataset), deque(maxlen=self._config.grouping))
        opened.append(now)
        if len(self._opened) > _REFUSALS:
            self._opened.pop(next(iter(self._opened)))
        is_full = len(opened) == self._config.grouping
        return dataset if is_full and opened[0] >= now - self._config.grouping_window else None

    # --- what became of it -----------------------------------------------------------------------

    def _changed(self, delivery: Delivery) -> None:
        """A delivery stands differently: remember it, and say so where people look."""
        key = (delivery.who, delivery.did)
        state, error = delivery.state, delivery.error
        if delivery.is_over:
            if self._deliveries.get(key) is delivery:
                del self._deliveries[key]
            if error is not None:
                self._refusals[key] = error
        if state is State.AVAILABLE:
            took = trio.current_time() - delivery.began_at
            if delivery.is_file and delivery.rule_id is not None:
                self._durations.append(took)
            self._on_arrival(delivery)
        self.events.note(
            "refused" if delivery.is_over and error is not None else state.value.lower(),
            delivery.did,
            rule_id=delivery.rule_id,
            state=state.value,
            error=None if error is None else str(error),
        )
        if error is not None:
            self.events.problem(delivery.did, state.value, str(error), delivery.rule_id)
            log.log(error.level, "%s", error)


def _ending() -> Unreachable:
    return Unreachable("the mount is ending; rules that are made stay")


def _lasts(rule: Rule, lifetime: int) -> bool:
    if rule.expires_ns is None:
        return True
    return rule.expires_ns >= time.time_ns() + (lifetime - 1) * 1_000_000_000
