"""Asking mounts how their uploads stand, giving them orders, and what a mount that ends leaves."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rucio_fs import mounts
from rucio_fs.commands.asking import Asker, Child, Found
from rucio_fs.commands.once import PATIENCE, hanging
from rucio_fs.commands.tallying import Tally
from rucio_fs.commands.waiting import Clock
from rucio_fs.commands.words import counted, size
from rucio_fs.errors import RucioFsError

SCRATCH = "scratch"
"""The directory of a mount that files are saved in."""

REFUSED = (errno.EACCES, errno.EPERM)
"""What another user's mount answers."""

_MISSING = (errno.ENOENT, errno.ENOTDIR)
_NO_SCRATCH = "nothing is saved in this mount: it has no scratch (scratch.enabled)"
_ENDED = "this mount was ended; what is not in the lake yet goes on with the next mount there"
_UNKNOWN = "is neither on its way nor known to be in the lake; user.rucio.upload of it says more"
_ORDERS = {
    errno.EINVAL: "the rucio-fs that serves this mount refuses the order; its log says why",
    **dict.fromkeys(REFUSED, "whoever made this mount gives the orders"),
}
_FAREWELL = 1.0  # s that a mount has to say what it leaves behind
_LAST_WORDS = 0.2  # s after which a child that was killed and is still there sits in the mount


@dataclass(slots=True, eq=False)
class Mount:
    """One mount, asked about *paths* (those below scratch, as the user wrote them), or about all.

    *tally* is the last that it told, None: nothing yet.  *words* say why it cannot be asked any
    more, *troubles* what is wrong with single paths.  *files* are the paths that are files.
    """

    mountpoint: str
    asker: Asker
    paths: dict[str, str] = field(default_factory=dict)
    tally: Tally | None = None
    words: str | None = None
    troubles: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    @property
    def asked_about(self) -> list[str]:
        """The paths that nothing is wrong with."""
        return [path for path in self.paths if path not in self.troubles]

    @property
    def is_asked(self) -> bool:
        """Whether there is anything more to learn from it."""
        return self.words is None and (not self.paths or bool(self.asked_about))

    def where(self, path: str) -> str:
        """*path* as the mount tells it: below scratch, or of a file that lies elsewhere."""
        return path if path.startswith("/") else f"{self.mountpoint}/{SCRATCH}/{path}"


def board(mountpoint: str) -> str:
    """The file that tells how the uploads of a mount stand, and takes orders."""
    return f"{mountpoint}/.rucio/uploads"


class Questions:
    """What *mounts* are asked.  No method raises what a mount answers: it is in `Mount.words`."""

    def __init__(self, mounts: Sequence[Mount], clock: Clock) -> None:
        self._mounts = mounts
        self._clock = clock

    def look(self, patience: float) -> None:
        """How the uploads stand, of those mounts that tell within *patience* s."""
        asking = [one for one in self._mounts if one.is_asked]
        asked = {one: one.asker.ask("read", board(one.mountpoint)) for one in asking}
        answered(asked.values(), self._clock, patience)
        for mount, future in asked.items():
            try:
                mount.tally = Tally.of(_document(future), mount.asked_about)
            except TimeoutError:
                mount.words = hanging(mount.mountpoint)
            except (ValueError, TypeError, KeyError, AttributeError):
                mount.words = f"{board(mount.mountpoint)} is not what this rucio-fs understands"
            except RucioFsError as exc:
                missing = _NO_SCRATCH if mount.tally is None else _ENDED
                mount.words = missing if exc.errno == errno.ENOENT else str(exc)

    def see_paths(self) -> None:
        """Which of the paths there are, and which of them are files."""
        for mount, path, future in self._described(lambda mount: mount.asked_about):
            if not future.done():
                mount.troubles[path] = hanging(mount.mountpoint)
            elif failure(future) in _MISSING:
                mount.troubles[path] = str(future.exception())
            elif future.exception() is None:  # a directory is no DID yet, and has nothing to tell
                mount.files.add(path)

    def see_files(self) -> None:
        """What became of the files that are not listed: done, or never to be uploaded."""

        def unlisted(mount: Mount) -> list[str]:
            if mount.tally is None or not mount.tally.is_over:
                return []
            listed = {one.get("path") for one in mount.tally.uploads}
            return [path for path in mount.asked_about if path in mount.files - listed]

        for mount, path, future in self._described(unlisted):
            if not future.done():
                mount.troubles[path] = hanging(mount.mountpoint)
            elif (error := future.exception()) is not None:
                mount.troubles[path] = str(error)
            elif not _is_in_lake(future.result()):
                mount.troubles[path] = _UNKNOWN

    def give(self, order: str, patience: float) -> None:
        """Have *order* carried out for all that is asked about; mounts have so long (s) for it."""
        asked = [
            (mount, mount.asker.ask("order", board(mount.mountpoint), order=text))
            for mount in self._mounts
            if mount.is_asked
            for text in ([f"{order} {path}" for path in mount.asked_about] or [order])
        ]
        answered([future for _, future in asked], self._clock, patience)
        for mount, future in asked:
            if not future.done():
                mount.words = hanging(mount.mountpoint)
            elif (error := future.exception()) is not None:
                mount.words = _ORDERS.get(failure(future) or 0, str(error))

    def _described(
        self, paths: Callable[[Mount], Iterable[str]]
    ) -> list[tuple[Mount, str, Future[Found]]]:
        """Ask what *paths* are, for which a mount may ask Rucio."""
        asked = [
            (mount, path, mount.asker.ask("describe", mount.where(path)))
            for mount in self._mounts
            if mount.is_asked
            for path in paths(mount)
        ]
        answered([future for _, _, future in asked], self._clock, PATIENCE)
        return asked


def answered(futures: Iterable[Future[Found]], clock: Clock, seconds: float) -> None:
    """Wait until all *futures* are done, at most so long."""
    asked = list(futures)
    until = clock.now() + seconds
    while left := [future for future in asked if not future.done()]:
        remaining = until - clock.now()
        if remaining <= 0:
            return
        clock.wait(left, remaining)


def failure(future: Future[Found]) -> int | None:
    """The errno of what was asked; None if it is answered, or not yet."""
    error = future.exception() if future.done() else None
    return error.errno if isinstance(error, RucioFsError) else None


def _document(future: Future[Found]) -> Any:
    """Raises: TimeoutError (no answer yet), MountError, ValueError"""
    return json.loads(future.result(0)["text"])


# --- the end of a mount --------------------------------------------------------------------------


class Left(NamedTuple):
    """What a mount leaves behind, in *words* if anything.

    It *is_stuck* if it hangs and keeps who has asked inside, who makes it busy.
    """

    words: str | None = None
    is_stuck: bool = False


def left_behind(
    mountpoint: Path,
    *,
    make_asker: Callable[[str], Asker] = Child,
    patience: float = _FAREWELL,
    last_words: float = _LAST_WORDS,
) -> Left:
    """What was saved in the mount at *mountpoint* and is not in the lake; at most *patience* s.

    Fails never: a mount that does not tell is ended all the same.
    """
    try:
        mount = mounts.find(mountpoint)
        if mount is None or not mount.is_ours:
            return Left()
        asker = make_asker(mount.mountpoint)
        future = asker.ask("read", board(mount.mountpoint))
        try:
            wait_for_futures([future], patience)
            is_silent = not future.done()
        finally:
            asker.close()
        if is_silent:
            # The end of a child settles what it was asked.
            return Left(is_stuck=not wait_for_futures([future], last_words).done)
        found = _document(future)
        return Left(_leaves(Tally.of(found), found.get("directory") or "staging"))
    except (RucioFsError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return Left()


def _leaves(tally: Tally, directory: str) -> str | None:
    """What is said of what is not in the lake and stays in *directory*."""
    files = tally.pending + tally.failed
    if not files and not tally.unsettled:
        return None
    if not files:
        return (
            "files that were saved a moment ago may not be in the lake yet; they are kept in"
            f" {directory} and go on with the next mount there"
        )
    amount = f"{counted(files, 'file')} ({size(tally.bytes + tally.failed_bytes)})"
    failed = f"; {tally.failed} failed" if tally.failed else ""
    if files == 1:
        what, kept = "is not in the lake yet", f"it is kept in {directory} and goes on"
    else:
        what, kept = "are not in the lake yet", f"they are kept in {directory} and go on"
    return f"{amount} {what}{failed}; {kept} with the next mount there"


def _is_in_lake(facts: Mapping[str, Any]) -> bool:
    """Whether a file that is not on its way has arrived: its upload says so, or its rule does."""
    state = facts.get("upload")
    return state == "DONE" if state is not None else bool(facts.get("rule_id"))
