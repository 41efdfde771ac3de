"""Asking about each of some paths once, also where a mount hangs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass
from pathlib import Path

from rucio_fs.commands import places
from rucio_fs.commands.asking import Asker, Child, Found
from rucio_fs.commands.deciding import Exit
from rucio_fs.errors import RucioFsError, UsageError

ALIVE = 5.0  # s a mount has for an answer that needs no Rucio
PATIENCE = 300.0  # s for all answers; each request of the mount to Rucio has a deadline of its own


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one path: what was *found*, or *words* for the user."""

    path: str
    exit: Exit
    found: Found | None = None
    words: str | None = None


def ask_each(
    operation: str,
    paths: Sequence[Path],
    arguments: Sequence[Mapping[str, object]] | None = None,
    *,
    locate: Callable[[Path], places.Where] = places.locate,
    make_asker: Callable[[str], Asker] = Child,
    alive: float = ALIVE,
) -> list[Outcome]:
    """Do *operation* on each of *paths*, all at once; return the outcomes in their order.

    *arguments* are those for each path, if it takes any.
    """
    asked: list[tuple[Path, places.Where, Future[Found]] | Outcome] = []
    askers: dict[str, Asker] = {}
    probes: dict[str, Future[Found]] = {}
    with contextlib.ExitStack() as ends:
        for path, more in zip(paths, arguments or [{}] * len(paths), strict=True):
            try:
                where = locate(path)
            except UsageError as exc:
                words = str(exc).removeprefix(f"{path}: ")
                asked.append(Outcome(str(path), Exit.WRONG_CALL, None, words))
                continue
            mountpoint = where.mountpoint
            if mountpoint not in askers:
                askers[mountpoint] = make_asker(mountpoint)
                ends.callback(askers[mountpoint].close)
                events = f"{mountpoint}/.rucio/events"
                probes[mountpoint] = askers[mountpoint].ask("events", events, offset=None)
            asked.append((path, where, askers[mountpoint].ask(operation, where.path, **more)))
        wait_for_futures(probes.values(), alive)
        living = [
            future
            for one in asked
            if not isinstance(one, Outcome)
            for _, where, future in [one]
            if probes[where.mountpoint].done()
        ]
        wait_for_futures(living, PATIENCE)
        return [one if isinstance(one, Outcome) else _outcome(*one) for one in asked]


def hanging(mountpoint: str) -> str:
    """What is said of a mount that does not answer."""
    return f"the server of this mount does not answer; run: rucio-fs umount {mountpoint}"


def _outcome(path: Path, where: places.Where, future: Future[Found]) -> Outcome:
    if not future.done():
        return Outcome(str(path), Exit.FAILED, None, hanging(where.mountpoint))
    try:
        return Outcome(str(path), Exit.DONE, future.result())
    except RucioFsError as exc:
        kind = Exit.WRONG_CALL if isinstance(exc, UsageError) else Exit.FAILED
        return Outcome(str(path), kind, None, str(exc))
