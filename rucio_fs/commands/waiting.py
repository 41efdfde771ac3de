"""Waiting for paths: what is asked of their mounts when, until each has ended."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from rucio_fs.commands.asking import Asker, Found
from rucio_fs.commands.deciding import REQUESTED, End, Exit, Progress
from rucio_fs.commands.once import hanging
from rucio_fs.commands.reporting import Reporter
from rucio_fs.commands.targets import Target
from rucio_fs.errors import RucioFsError, UsageError

ROUND = 1.0  # s between two looks at one path
BUDGET = 5  # looks in a round at all paths together: each may be a request to Rucio
SILENCE = 30.0  # s without an answer that needs no Rucio, after which a mount counts as hanging
_REDRAW = 0.5  # s; the elapsed time moves on while nothing else does
_PASSING = (errno.EREMOTEIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR)  # a wait outlives them
_FIRST_LOOK = 5.0  # s for the first answers when less was said to be waited
_LAST_LOOK = 5.0  # s for the events of what was asked for and is not waited for


class Clock(Protocol):
    """Time, and waiting for one of some futures; a test's own goes as it says."""

    def now(self) -> float: ...
    def wait(self, futures: Iterable[Future[Found]], seconds: float) -> set[Future[Found]]:
        """Return those that are done as soon as there is one, or none after *seconds*."""
        ...


class RealClock:
    """Time as it is."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, futures: Iterable[Future[Found]], seconds: float) -> set[Future[Found]]:
        waiting = list(futures)
        if not waiting:
            time.sleep(seconds)
            return set()
        return wait_for_futures(waiting, seconds, FIRST_COMPLETED).done


@dataclass(slots=True)
class _Mount:
    """One mount.  *offset* is how far its events are read; None: not yet looked at."""

    asker: Asker
    events: str
    offset: int | None = None
    asked_at: float | None = None  # of the question for events that is not answered yet
    asks_again: bool = False  # something happened since that question


def due(targets: Sequence[Target], now: float) -> list[Target]:
    """Those to look at in this round: not more than the budget, the longest unseen first."""
    ready = [
        target
        for target in targets
        if target.is_open
        and target.has_begun
        and not target.is_asked
        and now - target.looked_at >= ROUND
    ]
    return sorted(ready, key=lambda target: target.looked_at)[:BUDGET]


class Waiting:
    """The wait for *targets*, each in one of the mounts that *askers* ask.

    With *timeout* (s) it ends then, whatever is not here.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        askers: Mapping[str, Asker],
        clock: Clock,
        reporter: Reporter,
        *,
        timeout: float | None = None,
    ) -> None:
        self._targets = targets
        self._clock = clock
        self._reporter = reporter
        self._mounts = {
            mountpoint: _Mount(asker, f"{mountpoint}/.rucio/events")
            for mountpoint, asker in askers.items()
        }
        self._answers: dict[Future[Found], Callable[[Future[Found]], None]] = {}
        self._news: dict[str, Mapping[str, Any]] = {}  # DID -> its last event
        self._deadline = float("inf") if timeout is None else clock.now() + timeout
        self._next_round = clock.now()
        self._told: set[Target] = set()
        self._only_asks = False

    def run(self, operation: str, *, only_asks: bool = False, **arguments: object) -> None:
        """Do *operation* (request or first_look) on every target, and wait until all have ended.

        With *only_asks* a target ends as soon as that is done.
        """
        self._only_asks = only_asks
        # From here on, so before anything is asked for.
        self._read_events()
        now = self._clock.now()
        self._events_answered(min(max(self._deadline, now + _FIRST_LOOK), now + SILENCE))
        for target in self._open():
            target.began_at = self._clock.now()
            asker = self._mounts[target.mountpoint].asker
            future = asker.ask(operation, target.where, **arguments)
            self._expect(future, partial(self._begin, target))
        self._tell()
        while self._open():
            now = self._clock.now()
            if self._is_late(now):
                self._give_up(now)
                break
            if now >= self._next_round:
                self._next_round = now + ROUND
                self._round(now)
            until = min(self._next_round, now + _REDRAW)
            self._answered((min(until, self._deadline) if now < self._deadline else until) - now)
            self._tell()
        if only_asks:
            self._hear_rules()
        self._tell()

    # --- rounds ----------------------------------------------------------------------------------

    def _round(self, now: float) -> None:
        for mountpoint, mount in self._mounts.items():
            if mount.asked_at is not None and now - mount.asked_at >= SILENCE:
                self._lose(mountpoint, now)
        self._read_events()
        if not self._only_asks:
            for target in due(self._targets, now):
                target.is_asked, target.looked_at = True, now
                future = self._mounts[target.mountpoint].asker.ask("look", target.where)
                self._expect(future, partial(self._look, target))

    def _read_events(self) -> None:
        """Ask the mounts what happened; they need no Rucio for it, so it also tells who lives."""
        needed = {target.mountpoint for target in self._open()}
        for mountpoint, mount in self._mounts.items():
            if mount.asked_at is None and mountpoint in needed:
                self._ask_events(mount)

    def _ask_events(self, mount: _Mount) -> None:
        if mount.asked_at is not None:
            mount.asks_again = True
            return
        mount.asks_again = False
        mount.asked_at = self._clock.now()
        future = mount.asker.ask("events", mount.events, offset=mount.offset)
        self._expect(future, partial(self._hear, mount))

    def _expect(self, future: Future[Found], take: Callable[[Future[Found]], None]) -> None:
        self._answers[future] = take

    def _answered(self, seconds: float) -> None:
        for future in self._clock.wait(self._answers, seconds):
            self._answers.pop(future)(future)

    # --- answers ---------------------------------------------------------------------------------

    def _begin(self, target: Target, future: Future[Found]) -> None:
        now = self._clock.now()
        found = self._found(target, future)
        if found is None:
            return
        target.begin(found, now)
        if "progress" in found:
            target.looked_at = now
        elif target.did in self._news:
            target.hear(self._news[target.did], now)
        if self._only_asks:
            target.finish(End(Exit.DONE), now)
        elif target.progress is not None and target.progress.state == REQUESTED:
            self._ask_events(self._mounts[target.mountpoint])

    def _look(self, target: Target, future: Future[Found]) -> None:
        target.is_asked = False
        error = future.exception()
        if isinstance(error, RucioFsError) and error.errno in _PASSING:
            target.trouble = str(error)
            return
        found = self._found(target, future)
        if found is not None and target.is_open:
            target.trouble = None
            target.take(Progress.of(found["progress"]), self._clock.now())

    def _hear(self, mount: _Mount, future: Future[Found]) -> None:
        mount.asked_at = None
        try:
            found = future.result()
        except RucioFsError:
            return  # what is asked of the paths themselves will say why
        mount.offset = found["offset"]
        if mount.asks_again:
            self._ask_events(mount)
        heard = [event for event in map(_event, found["text"].split("\n")) if event is not None]
        self._news |= {str(event["did"]): event for event in heard}
        for event in heard:
            for target in self._targets:
                if target.is_open and target.did == event["did"]:
                    target.hear(event, self._clock.now())

    def _found(self, target: Target, future: Future[Found]) -> Found | None:
        try:
            return future.result()
        except RucioFsError as exc:
            kind = Exit.WRONG_CALL if isinstance(exc, UsageError) else Exit.FAILED
            target.finish(End(kind, str(exc)), self._clock.now())
            return None

    # --- the end ---------------------------------------------------------------------------------

    def _is_late(self, now: float) -> bool:
        """Whether the time is over, though never before the first answers could be there."""
        if now < self._deadline:
            return False
        return now >= self._deadline + _FIRST_LOOK or all(t.has_begun for t in self._open())

    def _lose(self, mountpoint: str, now: float) -> None:
        for target in self._open():
            if target.mountpoint == mountpoint:
                target.finish(End(Exit.FAILED, hanging(mountpoint)), now)

    def _give_up(self, now: float) -> None:
        for target in self._open():
            known = target.progress
            words = "the time is over"
            if known is not None:
                words += f": it is {known.state}"
            if known is not None and target.is_dir and known.files is not None:
                words += f", {known.files_here} of {known.files} files are here"
            target.finish(End(Exit.NOT_YET, words), now)

    def _hear_rules(self) -> None:
        """Learn the ids of the rules of what was asked for, if the mounts tell soon."""
        for mount in self._mounts.values():
            self._ask_events(mount)
        self._events_answered(self._clock.now() + _LAST_LOOK)
        for target in self._targets:
            event = self._news.get(target.did or "")
            if event is not None and target.end == End(Exit.DONE):
                state, rule_id = str(event["state"]), event.get("rule_id")
                known = target.progress or Progress(state, target.did)
                target.progress = replace(known, state=state, rule_id=rule_id or known.rule_id)

    def _events_answered(self, until: float) -> None:
        """Wait until no mount owes an answer that needs no Rucio, at most until *until*."""
        while any(mount.asked_at is not None for mount in self._mounts.values()):
            if self._clock.now() >= until:
                return
            self._answered(until - self._clock.now())

    def _open(self) -> list[Target]:
        return [target for target in self._targets if target.is_open]

    def _tell(self) -> None:
        now = self._clock.now()
        self._reporter.update(self._targets, now)
        for target in self._targets:
            if not target.is_open and target not in self._told:
                self._told.add(target)
                self._reporter.ended(target)


def _event(line: str) -> Mapping[str, Any] | None:
    """A line of `.rucio/events` that tells a state."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"did", "state"} <= event.keys() else None
