"""`rucio-fs get` and `rucio-fs wait`: have paths brought, and wait until they are here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rucio_fs import PROGRAM
from rucio_fs.commands import places
from rucio_fs.commands.asking import Asker, Child
from rucio_fs.commands.deciding import End, Exit, overall
from rucio_fs.commands.reporting import ErrorsAlone, Lines, Reporter
from rucio_fs.commands.targets import Target
from rucio_fs.commands.waiting import Clock, RealClock, Waiting
from rucio_fs.commands.words import counted, print_json
from rucio_fs.errors import UsageError

Locate = Callable[[Path], places.Where]


def get(
    paths: Sequence[Path],
    *,
    recursive: bool,
    waits: bool,
    lifetime: float | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Have *paths* brought; return the exit code.  *lifetime* (s) None: as configured."""
    return Errand(paths, as_json=as_json, quiet=quiet).run(
        "request", only_asks=not waits, recursive=recursive, lifetime=lifetime
    )


def wait(paths: Sequence[Path], *, recursive: bool, timeout: float | None, as_json: bool) -> int:
    """Wait until *paths* are here, at most *timeout* (s); return the exit code."""
    return Errand(paths, as_json=as_json, timeout=timeout).run("first_look", recursive=recursive)


class Errand:
    """One call of a command.  What touches the outside is replaced in tests."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        as_json: bool,
        quiet: bool = False,
        timeout: float | None = None,
        locate: Locate = places.locate,
        make_asker: Callable[[str], Asker] = Child,
        clock: Clock | None = None,
        show: Reporter | None = None,
    ) -> None:
        self._targets = [Target(str(path)) for path in paths]
        self._as_json = as_json
        self._timeout = timeout
        self._locate = locate
        self._make_asker = make_asker
        self._clock = clock or RealClock()
        self._reporter = show or reporter(quiet=quiet or as_json)

    def run(self, operation: str, *, only_asks: bool = False, **arguments: object) -> int:
        try:
            with contextlib.ExitStack() as ends:
                ends.callback(self._reporter.close)
                askers = self._askers(ends)
                waiting = Waiting(
                    self._targets, askers, self._clock, self._reporter, timeout=self._timeout
                )
                waiting.run(operation, only_asks=only_asks, **arguments)
        except KeyboardInterrupt:
            self._interrupted(asks=operation == "request")
        if self._as_json:
            print_json([target.report() for target in self._targets])
        return overall(target.end.exit for target in self._targets if target.end is not None)

    def _askers(self, ends: contextlib.ExitStack) -> dict[str, Asker]:
        """Find the mounts of the targets; one that lies in none has ended with that."""
        askers: dict[str, Asker] = {}
        for target in self._targets:
            try:
                where = self._locate(Path(target.path))
            except UsageError as exc:
                words = str(exc).removeprefix(f"{target.path}: ")
                target.finish(End(Exit.WRONG_CALL, words), self._clock.now())
                continue
            target.mountpoint, target.where = where.mountpoint, where.path
            if where.mountpoint not in askers:
                askers[where.mountpoint] = self._make_asker(where.mountpoint)
                ends.callback(askers[where.mountpoint].close)
        return askers

    def _interrupted(self, *, asks: bool) -> None:
        left = [target for target in self._targets if target.is_open]
        begun = sum(target.has_begun for target in left)
        for target in left:
            target.finish(End(Exit.INTERRUPTED, "interrupted"), self._clock.now())
        goes_on = f"{counted(begun, 'path')} on the way"
        if asks:
            goes_on += f", whose rules stay; to give one back: {PROGRAM} release PATH"
            if begun < len(left):
                goes_on += f"; {len(left) - begun} may not have been asked for"
        print(f"\n{PROGRAM}: interrupted; {goes_on}", file=sys.stderr, flush=True)


def reporter(*, quiet: bool) -> Reporter:
    """The one that suits where stdout goes."""
    if quiet:
        return ErrorsAlone()
    if sys.stdout.isatty():
        from rucio_fs.commands.bars import Bars  # rich takes 50 ms to load

        return Bars()
    return Lines(sys.stdout)
