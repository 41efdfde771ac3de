"""`rucio-fs cache`: what a mount keeps on this machine's disk; clear it, or have it verified."""

from __future__ import annotations

import contextlib
import errno
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait as wait_for_futures
from pathlib import Path
from typing import Any

from rucio_fs import PROGRAM
from rucio_fs.commands import places
from rucio_fs.commands.asking import Asker, Child
from rucio_fs.commands.deciding import Exit
from rucio_fs.commands.once import ALIVE, hanging
from rucio_fs.commands.waiting import Clock, RealClock
from rucio_fs.commands.words import complain, counted, print_json, size
from rucio_fs.errors import MountError, RucioFsError, UsageError

_LOOK = 0.25  # s between two looks at how far it is

Facts = Mapping[str, Any]


class Cache:
    """The cache of the mount at *mountpoint*, asked through its file `.rucio/cache`.

    *alive*: s that the mount has for an answer, which needs neither Rucio nor a storage.
    All methods raise MountError, with words for the user.
    """

    def __init__(self, mountpoint: str, asker: Asker, clock: Clock, alive: float) -> None:
        self.mountpoint = mountpoint
        self._asker = asker
        self._clock = clock
        self._alive = alive
        self._path = f"{mountpoint}/.rucio/cache"

    def facts(self) -> Facts:
        """`Store.status` of the mount, and whether *is_clearing*."""
        future = self._asker.ask("read", self._path)
        try:
            found = json.loads(future.result(self._alive)["text"])
        except TimeoutError:
            raise MountError(hanging(self.mountpoint)) from None
        except ValueError as exc:
            raise MountError(f"{self._path} is not JSON") from exc
        except RucioFsError as exc:
            raise self._in_words(exc) from exc
        return dict(found)

    def order(self, order: str) -> Facts:
        """Have *order* carried out; return the facts of when it is, or has begun."""
        future = self._asker.ask("order", self._path, order=order)
        while not future.done():
            self.facts()  # it may take long; a mount that lives answers meanwhile
            self._clock.wait([future], _LOOK)
        try:
            future.result()
        except RucioFsError as exc:
            raise self._in_words(exc) from exc
        return self.facts()

    def until(self, is_over: Callable[[Facts], bool], facts: Facts) -> Iterator[Facts]:
        """*facts* and those that follow, up to the first that say it *is_over*."""
        yield facts
        while not is_over(facts):
            self._clock.wait((), _LOOK)
            facts = self.facts()
            yield facts

    def _in_words(self, exc: RucioFsError) -> MountError:
        if exc.errno == errno.ENOENT:
            return MountError(
                "this mount has no cache on disk: it streams nothing (opening.policy), or"
                " diskcache.size is 0"
            )
        if exc.errno == errno.EINVAL:
            return MountError("the rucio-fs that serves this mount knows no such order")
        return MountError(str(exc))


class Errand:
    """One call of a command.  What touches the outside is replaced in tests."""

    def __init__(
        self,
        path: Path | None,
        *,
        as_json: bool,
        locate: Callable[[Path], places.Where] = places.locate,
        mountpoints: Callable[[], Sequence[str]] = places.ours,
        make_asker: Callable[[str], Asker] = Child,
        clock: Clock | None = None,
        alive: float = ALIVE,
    ) -> None:
        self._path = path
        self._as_json = as_json
        self._locate = locate
        self._mountpoints = mountpoints
        self._make_asker = make_asker
        self._clock = clock or RealClock()
        self._alive = alive

    def status(self) -> int:
        """Show how full it is and what was found; return the exit code."""
        with self._cache() as cache:
            facts = cache.facts()
        if self._as_json:
            print_json({"mountpoint": cache.mountpoint, **facts})
        else:
            from rucio_fs.commands import cache_screen

            cache_screen.show(cache.mountpoint, facts)
        return Exit.DONE

    def clear(self) -> int:
        """Empty it, and say how much was freed; return the exit code."""
        with self._cache() as cache:
            before, ordered = cache.facts(), cache.order("clear")
            *_, after = cache.until(lambda facts: not facts["is_clearing"], ordered)
        freed = max(0, before["bytes"] - after["bytes"])
        closed_before, closed = (facts["files"] - facts["open"] for facts in (before, after))
        words = None
        if closed >= closed_before > 0:
            words = f"{counted(closed, 'file')} could not be removed; the mount's log says why"
        exit_code = Exit.FAILED if words else Exit.DONE
        if self._as_json:
            print_json(
                {"mountpoint": cache.mountpoint, "exit": int(exit_code), "error": words}
                | {"freed": freed, "bytes": after["bytes"], "open": after["open"]}
            )
        elif not words:
            still = f"; {counted(after['open'], 'file')} still open" if after["open"] else ""
            print(f"{size(freed)} freed{still}", flush=True)
        if words:
            complain(f"{cache.mountpoint}: {words}")
        return exit_code

    def verify(self) -> int:
        """Have everything in it read and compared, and wait; return the exit code."""
        from rucio_fs.commands import cache_screen

        found: dict[str, Any] = {}
        exit_code, words = Exit.INTERRUPTED, "interrupted"
        with self._cache() as cache:
            shown = cache_screen.Progress(is_quiet=self._as_json, clock=self._clock)
            try:
                with shown:
                    for facts in cache.until(_is_verified, cache.order("verify")):
                        found = dict(facts["verification"] or {})
                        shown.update(found)
                exit_code, words = _judged(found)
            except KeyboardInterrupt:
                goes_on = "the verification goes on in the mount"
                look = f"to see how far it is: {PROGRAM} cache status {cache.mountpoint}"
                print(f"\n{PROGRAM}: interrupted; {goes_on}; {look}", file=sys.stderr, flush=True)
        if self._as_json:
            print_json(
                {"mountpoint": cache.mountpoint, "exit": int(exit_code)}
                | {"error": words or None, **found}
            )
        elif exit_code is Exit.DONE:
            print(f"nothing is damaged: {cache_screen.verified(found)}", flush=True)
        if words and exit_code is not Exit.INTERRUPTED:
            complain(f"{cache.mountpoint}: {words}")
        return exit_code

    @contextlib.contextmanager
    def _cache(self) -> Iterator[Cache]:
        """The cache that was named, or the only one; failures name its mount.

        Raises: UsageError, MountError
        """
        with contextlib.ExitStack() as ends:
            mountpoint = self._locate(self._path).mountpoint if self._path else self._only()
            asker = self._make_asker(mountpoint)
            ends.callback(asker.close)
            try:
                yield Cache(mountpoint, asker, self._clock, self._alive)
            except MountError as exc:
                raise MountError(f"{mountpoint}: {exc}") from exc

    def _only(self) -> str:
        """The one mount of this machine that lets this user in.  Raises: UsageError."""
        found = list(self._mountpoints())
        if len(found) > 1:
            found = self._open_to_us(found)
        if len(found) == 1:
            return found[0]
        if not found:
            raise UsageError("no rucio-fs mount on this machine is yours")
        raise UsageError(f"there are several mounts; name one: {', '.join(found)}")

    def _open_to_us(self, mountpoints: Sequence[str]) -> list[str]:
        """Those that do not belong to another user."""
        with contextlib.ExitStack() as ends:
            asked = {}
            for mountpoint in mountpoints:
                asker = self._make_asker(mountpoint)
                ends.callback(asker.close)
                asked[mountpoint] = asker.ask("read", f"{mountpoint}/.rucio/status")
            wait_for_futures(asked.values(), self._alive)
            return [
                mountpoint
                for mountpoint, future in asked.items()
                if not (future.done() and _is_refused(future.exception()))
            ]


def _is_refused(error: BaseException | None) -> bool:
    return isinstance(error, RucioFsError) and error.errno in (errno.EACCES, errno.EPERM)


def _is_verified(facts: Facts) -> bool:
    verification = facts["verification"]
    return verification is None or not verification["is_running"]


def _judged(found: Facts) -> tuple[Exit, str]:
    """The exit code of a verification that has ended, and words if not all is well."""
    if not found or found["done"] < found["files"]:
        return Exit.FAILED, "the verification did not get to its end; the mount's log says why"
    if found["damaged_bytes"]:
        damaged = size(found["damaged_bytes"])
        return Exit.PARTLY, f"{damaged} were damaged and dropped; they are fetched again when read"
    return Exit.DONE, ""
