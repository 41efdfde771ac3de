"""`rucio-fs uploads`: what was saved in a mount and is not in the lake yet; wait for it."""

from __future__ import annotations

import contextlib
import errno
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rucio_fs import PROGRAM
from rucio_fs.commands import places
from rucio_fs.commands.asking import Asker, Child, Found
from rucio_fs.commands.deciding import Exit
from rucio_fs.commands.once import ALIVE
from rucio_fs.commands.tallying import Course, Facts, Tally, awaited, summary, together
from rucio_fs.commands.uploads_asking import (
    REFUSED,
    SCRATCH,
    Mount,
    Questions,
    answered,
    board,
    failure,
)
from rucio_fs.commands.waiting import SILENCE, Clock, RealClock
from rucio_fs.commands.words import complain, counted, duration, print_json, size
from rucio_fs.errors import UsageError

_LOOK = 0.5  # s between two looks at how far it is
_SHARE = 10  # times as long as a mount takes to tell, it is left alone: it may have very many
_LONGEST = 10.0  # s that this comes to at most


class Errand:
    """One call of the command.  What touches the outside is replaced in tests.

    *alive*: s that a mount has for an answer, which needs neither Rucio nor a storage.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        as_json: bool,
        quiet: bool = False,
        locate: Callable[[Path], places.Where] = places.locate,
        mountpoints: Callable[[], Sequence[str]] = places.ours,
        make_asker: Callable[[str], Asker] = Child,
        clock: Clock | None = None,
        alive: float = ALIVE,
    ) -> None:
        self._paths = paths
        self._as_json = as_json
        self._is_quiet = quiet or as_json
        self._locate = locate
        self._mountpoints = mountpoints
        self._make_asker = make_asker
        self._clock = clock or RealClock()
        self._alive = alive
        self._mounts: list[Mount] = []
        self._told: set[str] = set()

    def run(
        self, orders: Sequence[str] = (), *, waits: bool = False, timeout: float | None = None
    ) -> int:
        """Give *orders* (now, retry), wait if it is to (at most *timeout* s), show what is left.

        Return the exit code.  Raises: UsageError (a path in no mount; not one mount to choose)
        """
        course = Course(self._clock.now())
        with contextlib.ExitStack() as ends:
            self._find(ends)
            questions = Questions(self._mounts, self._clock)
            try:
                questions.look(self._alive)
                questions.see_paths()
                for order in orders:
                    questions.give(order, self._alive)
                if orders:
                    questions.look(self._alive)
                self._complain()
                if waits:
                    self._wait(questions, course, timeout)
                    questions.see_files()
            except KeyboardInterrupt:
                return self._interrupted()
        exits = [_exit(mount, waits=waits) for mount in self._mounts]
        if self._as_json:
            self._print_json(exits)
        elif not self._is_quiet:
            self._show(course, waits=waits)
        self._complain()
        if waits or self._is_quiet:
            self._complain_of_uploads(waits=waits)
        # Waiting longer would mend no failure, so it counts more than what is not over.
        return next((one for one in (Exit.FAILED, Exit.NOT_YET) if one in exits), Exit.DONE)

    # --- which mounts ----------------------------------------------------------------------------

    def _find(self, ends: contextlib.ExitStack) -> None:
        """Find the mounts that are meant.  Raises: UsageError"""
        found: dict[str, dict[str, str] | None] = {}  # None: all of it
        for path in self._paths:
            where = self._locate(path)
            inside = where.path.removeprefix(where.mountpoint).strip("/")
            top, _, below = inside.partition("/")
            named = found.setdefault(where.mountpoint, {})
            if top != SCRATCH or not below:
                found[where.mountpoint] = None
            elif named is not None:
                named[below] = str(path)
        if not self._paths:
            found = {self._only(): None}
        for mountpoint, named in found.items():
            asker = self._make_asker(mountpoint)
            ends.callback(asker.close)
            self._mounts.append(Mount(mountpoint, asker, named or {}))

    def _only(self) -> str:
        """The one mount of this machine that lets this user in and has a scratch.

        Raises: UsageError
        """
        found = list(self._mountpoints())
        if len(found) > 1:
            errnos = self._errnos(found)
            found = [one for one in found if errnos[one] not in REFUSED]
            # If none has a scratch, there is still one to say that of.
            found = [one for one in found if errnos[one] != errno.ENOENT] or found
        if len(found) == 1:
            return found[0]
        if not found:
            raise UsageError("no rucio-fs mount on this machine is yours")
        raise UsageError(f"there are several mounts; name one: {', '.join(found)}")

    def _errnos(self, mountpoints: Sequence[str]) -> dict[str, int | None]:
        """The errno of asking each mount; None if it tells, or does not answer."""
        with contextlib.ExitStack() as ends:
            asked: dict[str, Future[Found]] = {}
            for mountpoint in mountpoints:
                asker = self._make_asker(mountpoint)
                ends.callback(asker.close)
                asked[mountpoint] = asker.ask("read", board(mountpoint))
            answered(asked.values(), self._clock, self._alive)
            return {mountpoint: failure(future) for mountpoint, future in asked.items()}

    # --- waiting ---------------------------------------------------------------------------------

    def _wait(self, questions: Questions, course: Course, timeout: float | None) -> None:
        """Look until nothing goes on any more, or the time is over."""
        from rucio_fs.commands.uploads_screen import Progress

        clock = self._clock
        deadline = float("inf") if timeout is None else course.began_at + timeout
        pause = _LOOK
        with Progress("uploading", is_quiet=self._is_quiet, clock=clock) as shown:
            while True:
                now = clock.now()
                # Those of a mount that was lost on the way, too: they did not get to the lake.
                tally = together(one.tally for one in self._mounts if one.tally is not None)
                course.take(tally, now)
                shown.update(course, tally)
                if all(one.is_over for one in _asked(self._mounts)) or now >= deadline:
                    return
                clock.wait((), min(pause, deadline - now))
                began = clock.now()
                questions.look(min(SILENCE, max(self._alive, deadline - began)))
                pause = min(max(_LOOK, _SHARE * (clock.now() - began)), _LONGEST)

    # --- what is told ----------------------------------------------------------------------------

    def _show(self, course: Course, *, waits: bool) -> None:
        from rucio_fs.commands import uploads_screen

        if not waits:
            shown = [one for one in self._mounts if one.tally is not None and one.is_asked]
            uploads_screen.show([(one.mountpoint, one.tally or Tally()) for one in shown])
            return
        tallies = _asked(self._mounts)
        tally = together(tallies)
        if course.files and tally.is_over and not tally.failed:
            took = duration(self._clock.now() - course.began_at)
            what = f"{counted(course.files, 'file')}, {size(course.bytes)}"
            print(f"in the lake: {what}, in {took}", flush=True)
        elif tallies:
            print(summary(tally), flush=True)

    def _complain(self) -> None:
        """A line on stderr for each mount and path that something is wrong with, once."""
        for mount in self._mounts:
            for path, words in mount.troubles.items():
                self._complain_once(f"{mount.paths[path]}: {words}")
            if mount.words is not None:
                self._complain_once(f"{mount.mountpoint}: {mount.words}")

    def _complain_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            complain(line)

    def _complain_of_uploads(self, *, waits: bool) -> None:
        for mount in self._mounts:
            for line in _complaints(mount):
                complain(line)
            tally = mount.tally
            if waits and mount.is_asked and tally is not None and not tally.is_over:
                state = "; ".join([summary(tally), *awaited(tally)])
                complain(f"{mount.mountpoint}: the time is over: {state}")

    def _interrupted(self) -> int:
        where = " ".join(shlex.quote(mount.mountpoint) for mount in self._mounts)
        goes_on = f"uploads go on in the mount; to see how far they are: {PROGRAM} uploads {where}"
        print(f"\n{PROGRAM}: interrupted; {goes_on}", file=sys.stderr, flush=True)
        if self._as_json:
            self._print_json([Exit.INTERRUPTED] * len(self._mounts))
        return Exit.INTERRUPTED

    def _print_json(self, exits: Sequence[Exit]) -> None:
        reports: list[dict[str, Any]] = []
        for mount, code in zip(self._mounts, exits, strict=True):
            paths = {path: mount.troubles.get(path) for path in mount.paths}
            facts = {"mountpoint": mount.mountpoint, "exit": int(code), "error": mount.words}
            reports.append(facts | {"paths": paths} | (mount.tally or Tally()).report())
        print_json(reports)


def _asked(mounts: Sequence[Mount]) -> list[Tally]:
    """The tallies of those mounts that are still asked."""
    return [mount.tally for mount in mounts if mount.is_asked and mount.tally is not None]


def _exit(mount: Mount, *, waits: bool) -> Exit:
    tally = mount.tally
    if mount.words or mount.troubles or tally is None or tally.failed:
        return Exit.FAILED
    return Exit.NOT_YET if waits and not tally.is_over else Exit.DONE


def _complaints(mount: Mount) -> Iterator[str]:
    """A line for each upload that has failed: why, and what to do."""
    if mount.tally is None:
        return
    failures = mount.tally.failures
    for one in failures:
        path, words = one.get("path"), one.get("error") or "it failed; the mount's log says why"
        what = mount.where(path) if path else str(one.get("did"))
        line = words if what in words else f"{what}: {words}"
        if "uploads --retry" not in words:
            line += f"; to try again: {PROGRAM} {_again(mount, one)}"
        yield line
    if (more := mount.tally.failed - len(failures)) > 0:
        yield f"{mount.mountpoint}: {more} more failed"


def _again(mount: Mount, upload: Facts) -> str:
    """The command that tries a failed upload again."""
    path = upload.get("path")
    if path is None or not path.startswith("/"):
        return f"uploads --retry {shlex.quote(mount.where(path) if path else mount.mountpoint)}"
    # What lies elsewhere was asked for by `register`, and is only found again by that.
    scope, dataset = str(upload.get("did") or "").partition(":")[0], upload.get("dataset")
    options = {"--scope": scope, "--dataset": dataset, "--rse": upload.get("rse")}
    given = [word for name, value in options.items() if value for word in (name, value)]
    return shlex.join(["register", *given, path])
