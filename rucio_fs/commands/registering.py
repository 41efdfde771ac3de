"""`rucio-fs register`: files that lie on a mounted storage already become DIDs where they lie.

A mount does it, which this asks and waits for.  No file is changed, moved or removed.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rucio_fs import PROGRAM
from rucio_fs.commands import places
from rucio_fs.commands.asking import Asker, Child
from rucio_fs.commands.deciding import Exit
from rucio_fs.commands.once import ALIVE, hanging
from rucio_fs.commands.tallying import FAILED, Course, Facts, Tally, is_at
from rucio_fs.commands.uploads_asking import REFUSED, answered, board, failure
from rucio_fs.commands.waiting import SILENCE, Clock, RealClock
from rucio_fs.commands.words import complain, counted, duration, print_json, size
from rucio_fs.errors import RucioFsError, UsageError

_LOOK = 0.5  # s between two looks at how far it is
_SHARE = 10  # times as long as a mount takes to tell, it is left alone: it may have very many
_LONGEST = 10.0  # s that this comes to at most

_NUMBERS = ("is_looking", "files", "left", "failed", "bytes", "bytes_left")
_OLD = "the rucio-fs that serves this mount refuses the order; its log says why"
_ENDED = "this mount was ended before all was registered; mount again, and register once more"


@dataclass(slots=True, eq=False)
class Wish:
    """One path that is to be registered.  *facts* are the last that the mount told of it."""

    path: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    facts: Facts = field(default_factory=dict)
    words: str | None = None
    failures: Sequence[Facts] = ()

    @property
    def is_over(self) -> bool:
        if self.words is not None:
            return True
        return bool(self.facts) and not (self.facts["is_looking"] or self.facts["left"])

    @property
    def has_failed(self) -> bool:
        return bool(self.words or self.facts.get("error") or self.facts.get("failed"))

    @property
    def registered(self) -> int:
        facts = self.facts
        return facts["files"] - facts["left"] - facts["failed"] if facts else 0

    def take(self, found: Facts) -> None:
        """Take over what `.rucio/uploads` tells.  Raises: KeyError, TypeError, AttributeError"""
        facts = next((one for one in found["registrations"] if one["id"] == self.id), None)
        if facts is None:
            self.words = _ENDED
            return
        if not all(isinstance(facts[key], int) for key in _NUMBERS):
            raise TypeError("numbers are expected")
        listed = [one for one in found["uploads"] if is_at(one.get("path"), {self.path})]
        # A mount that is older than this program does not tell whose they are.
        mine = [one for one in listed if one.get("request", self.id) == self.id]
        self.failures = [one for one in mine if one["state"] == FAILED]
        self.facts = facts

    def report(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "files": self.facts.get("files", 0),
            "registered": self.registered,
            "failed": self.facts.get("failed", 0),
            "left": self.facts.get("left", 0),
            "bytes": self.facts.get("bytes", 0),
            "error": self.words or self.facts.get("error"),
            "failures": list(self.failures),
        }


class Registration:
    """One call of the command.  What touches the outside is replaced in tests.

    *terms* are what is wanted of all paths, as the mount's order takes it.  *alive*: s that a mount
    has for an answer, which needs neither Rucio nor a storage.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        terms: Mapping[str, object],
        *,
        mountpoint: Path | None = None,
        as_json: bool = False,
        quiet: bool = False,
        locate: Callable[[Path], places.Where] = places.locate,
        mountpoints: Callable[[], Sequence[str]] = places.ours,
        make_asker: Callable[[str], Asker] = Child,
        clock: Clock | None = None,
        alive: float = ALIVE,
    ) -> None:
        self._wishes = [Wish(os.path.abspath(path)) for path in paths]
        self._terms = terms
        self._named = mountpoint
        self._as_json = as_json
        self._is_quiet = quiet or as_json
        self._locate = locate
        self._mountpoints = mountpoints
        self._make_asker = make_asker
        self._clock = clock or RealClock()
        self._alive = alive

    def run(self) -> int:
        """Have it done, wait, say what came of it; return the exit code.

        Raises: UsageError (not one mount to choose)
        """
        course = Course(self._clock.now())
        mountpoint = self._mountpoint()
        asker = self._make_asker(mountpoint)
        try:
            self._order(asker, mountpoint)
            self._wait(asker, mountpoint, course)
        except KeyboardInterrupt:
            return self._interrupted(mountpoint)
        finally:
            asker.close()
        code = Exit.FAILED if any(one.has_failed for one in self._wishes) else Exit.DONE
        if self._as_json:
            self._print_json(mountpoint, code)
        elif not self._is_quiet:
            files = sum(one.registered for one in self._wishes)
            volume = sum(one.facts.get("bytes", 0) for one in self._wishes)
            took = duration(self._clock.now() - course.began_at)
            if code is Exit.DONE:
                print(f"in the lake: {counted(files, 'file')}, {size(volume)}, in {took}")
            elif files:
                print(f"in the lake: {counted(files, 'file')}", flush=True)
        self._complain()
        return code

    def _mountpoint(self) -> str:
        """The mount that is to do it.  Raises: UsageError"""
        if self._named is not None:
            return self._locate(self._named).mountpoint
        found = list(self._mountpoints())
        if len(found) == 1:
            return found[0]
        if not found:
            raise UsageError("no rucio-fs mount on this machine is yours, and a mount registers")
        raise UsageError(f"there are several mounts; name one with --mount: {', '.join(found)}")

    # --- asking ----------------------------------------------------------------------------------

    def _order(self, asker: Asker, mountpoint: str) -> None:
        asked = []
        for wish in self._wishes:
            facts = {"id": wish.id, "path": wish.path, **self._terms}
            order = f"register {json.dumps(facts)}"
            asked.append((wish, asker.ask("order", board(mountpoint), order=order)))
        answered([future for _, future in asked], self._clock, self._alive)
        for wish, future in asked:
            if not future.done():
                wish.words = hanging(mountpoint)
            elif (error := future.exception()) is not None:
                number = failure(future)
                missing = f"{mountpoint} registers nothing: it has no scratch (scratch.enabled)"
                others = "whoever made this mount gives the orders"
                words = {
                    errno.ENOENT: missing,
                    errno.EINVAL: _OLD,
                    **dict.fromkeys(REFUSED, others),
                }
                wish.words = words.get(number or 0, str(error))

    def _wait(self, asker: Asker, mountpoint: str, course: Course) -> None:
        from rucio_fs.commands.uploads_screen import Progress

        clock, pause = self._clock, _LOOK
        with Progress("registering", is_quiet=self._is_quiet, clock=clock) as shown:
            while True:
                began = clock.now()
                self._look(asker, mountpoint)
                tally = self._tally()
                course.take(tally, clock.now())
                shown.update(course, tally)
                if all(one.is_over for one in self._wishes):
                    return
                pause = min(max(_LOOK, _SHARE * (clock.now() - began)), _LONGEST)
                clock.wait((), pause)

    def _look(self, asker: Asker, mountpoint: str) -> None:
        waiting = [one for one in self._wishes if one.words is None]
        future = asker.ask("read", board(mountpoint))
        answered([future], self._clock, min(SILENCE, self._alive))
        words = hanging(mountpoint)
        if future.done():
            try:
                found = json.loads(future.result()["text"])
                for wish in waiting:
                    wish.take(found)
                return
            except (ValueError, TypeError, KeyError, AttributeError):
                words = f"{board(mountpoint)} is not what this rucio-fs understands"
            except RucioFsError as exc:
                words = _ENDED if failure(future) == errno.ENOENT else str(exc)
        for wish in waiting:
            wish.words = words

    def _tally(self) -> Tally:
        facts = [one.facts for one in self._wishes if one.facts]
        return Tally(
            pending=sum(one["left"] for one in facts),
            failed=sum(one["failed"] for one in facts),
            done=sum(one.registered for one in self._wishes),
            bytes=sum(one["bytes_left"] for one in facts),
        )

    # --- what is told ----------------------------------------------------------------------------

    def _complain(self) -> None:
        """A line on stderr for each path and file that something is wrong with."""
        for wish in self._wishes:
            if words := wish.words or wish.facts.get("error"):
                complain(words if wish.path in words else f"{wish.path}: {words}")
            for one in wish.failures:
                words = one.get("error") or "it failed; the mount's log says why"
                complain(words if one["path"] in words else f"{one['path']}: {words}")
            if (more := wish.facts.get("failed", 0) - len(wish.failures)) > 0:
                complain(f"{wish.path}: {more} more failed")

    def _interrupted(self, mountpoint: str) -> int:
        where = shlex.quote(mountpoint)
        goes_on = f"it goes on in the mount; to see how far it is: {PROGRAM} uploads {where}"
        print(f"\n{PROGRAM}: interrupted; {goes_on}", file=sys.stderr, flush=True)
        if self._as_json:
            self._print_json(mountpoint, Exit.INTERRUPTED)
        return Exit.INTERRUPTED

    def _print_json(self, mountpoint: str, code: Exit) -> None:
        reports = [one.report() for one in self._wishes]
        print_json([{"mountpoint": mountpoint, "exit": int(code)} | one for one in reports])
