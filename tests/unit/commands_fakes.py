"""A mount in memory for the commands: its files and attributes, its time, and who asks it."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rucio_fs.commands import places, touching
from rucio_fs.commands.asking import Found, question, settle
from rucio_fs.commands.touching import Inspection
from rucio_fs.errors import UsageError

TOP = "/mnt/rucio"


@dataclass
class FakeEntry:
    """One path.  *refuses* are errnos by attribute that is set, *attributes* those beside."""

    did: str | None
    is_dir: bool = False
    size: int = 1000
    progress: dict[str, Any] | None = None
    refuses: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    look_fails: int | None = None
    on_request: Callable[[FakeMount], None] | None = None


class FakeMount:
    """Implements `touching.Filesystem`; `at` makes things happen when its clock gets there."""

    def __init__(self) -> None:
        self.time = 0.0
        self.entries: dict[str, FakeEntry] = {}
        self.files = {f"{TOP}/.rucio/events": b"", f"{TOP}/.rucio/status": b"{}"}
        self.sets: list[tuple[str, str, str]] = []
        self.local: dict[str, Inspection] = {}  # files of the site's storage, by their paths
        self.on_write: Callable[[str, bytes], None] | None = None
        self.looks: list[tuple[float, str]] = []
        self.release: dict[str, bytes] = {}  # events that come of it, by name
        self.hangs = False
        self.is_dead = False
        self.is_private = False
        self._plan: list[tuple[float, Callable[[], None]]] = []

    def add(self, name: str, **more: Any) -> FakeEntry:
        """Add TOP/s/*name*, on its way."""
        is_dir = bool(more.get("is_dir"))
        entry = FakeEntry(f"s:{name}", **more)
        if entry.progress is None:
            entry.progress = progress(
                did=entry.did,
                type="DATASET" if is_dir else "FILE",
                files=10 if is_dir else 1,
                bytes=10_000 if is_dir else entry.size,
            )
        self.entries[f"{TOP}/s/{name}"] = entry
        return entry

    def show(self, name: str, **facts: Any) -> None:
        """Let the progress of TOP/s/*name* change."""
        known = self.entries[f"{TOP}/s/{name}"].progress
        assert known is not None
        known.update(facts)

    def tell(self, name: str, state: str, **facts: Any) -> None:
        """Write an event, and change the progress to suit."""
        self.show(name, state=state, error=facts.get("error"))
        event = {"time": "t", "event": state.lower(), "did": f"s:{name}", "state": state, **facts}
        self.files[f"{TOP}/.rucio/events"] += json.dumps(event, ensure_ascii=False).encode() + b"\n"

    def at(self, time: float, happen: Callable[[], None]) -> None:
        self._plan.append((time, happen))

    def advance(self, seconds: float) -> None:
        until = self.time + seconds
        while due := [one for one in self._plan if one[0] <= until]:
            first = min(due, key=lambda one: one[0])
            self._plan.remove(first)
            self.time = max(self.time, first[0])
            first[1]()
        self.time = until

    # --- the system calls ------------------------------------------------------------------------

    def stat(self, path: str) -> os.stat_result:
        self._check()
        if path in self.files:
            mode, size = stat.S_IFREG, len(self.files[path])
        elif path in (TOP, f"{TOP}/s"):
            mode, size = stat.S_IFDIR, 0
        else:
            entry = self._entry(path)
            mode, size = stat.S_IFDIR if entry.is_dir else stat.S_IFREG, entry.size
        return os.stat_result((mode, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def getxattr(self, path: str, name: str) -> bytes:
        self._check()
        if path in (TOP, f"{TOP}/s") or path in self.files:
            raise _error(errno.ENODATA)
        entry, short = self._entry(path), name.removeprefix("user.rucio.")
        known = entry.progress or {}
        if short == "progress":
            self.looks.append((self.time, path))
            if entry.look_fails is not None:
                raise _error(entry.look_fails)
            if entry.progress is None:
                raise _error(errno.ENODATA)
            return json.dumps(known).encode()
        values = {"did": entry.did, **{k: known.get(k) for k in ("state", "rule_id", "error")}}
        value = (values | entry.attributes).get(short)
        if value is None:
            raise _error(errno.ENODATA)
        return value.encode()

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        self._check()
        short = name.removeprefix("user.rucio.")
        if path in (TOP, f"{TOP}/s") or path in self.files:
            raise _error(errno.ENOTSUP)
        entry = self._entry(path)
        if short in entry.refuses:
            raise _error(entry.refuses[short])
        inside = path.removeprefix(f"{TOP}/s/")
        self.sets.append((inside, short, value.decode()))
        if short == "release":
            self.files[f"{TOP}/.rucio/events"] += self.release.get(inside, b"")
        if entry.on_request is not None:
            entry.on_request(self)

    def read(self, path: str, offset: int) -> tuple[bytes, int]:
        self._check()
        if path not in self.files:
            raise _error(errno.ENOENT)
        return self.files[path][offset:], len(self.files[path])

    def write(self, path: str, data: bytes) -> None:
        self._check()
        if path not in self.files:
            raise _error(errno.ENOENT)
        if self.on_write is None:
            raise _error(errno.EROFS)
        self.on_write(path, data)

    def inspect(self, path: str, size: int) -> Inspection:
        return self.local[path]

    def _entry(self, path: str) -> FakeEntry:
        if path not in self.entries:
            raise _error(errno.ENOENT)
        return self.entries[path]

    def _check(self) -> None:
        if self.is_dead:
            raise _error(errno.ENOTCONN)
        if self.is_private:
            raise _error(errno.EACCES)


class FakeClock:
    """The mount's time: it goes on only when somebody waits and nothing is answered."""

    def __init__(self, mount: FakeMount) -> None:
        self._mount = mount

    def now(self) -> float:
        return self._mount.time

    def wait(self, futures: Iterable[Future[Found]], seconds: float) -> set[Future[Found]]:
        done = {future for future in futures if future.done()}
        if not done:
            assert 0 < seconds < 1000
            self._mount.advance(seconds)
        return done


class FakeAsker:
    """Asks in the same process, at once; JSON goes between as it does with a child."""

    def __init__(self, mount: FakeMount) -> None:
        self._mount = mount
        self.is_closed = False

    def ask(self, operation: str, path: str, **arguments: object) -> Future[Found]:
        future: Future[Found] = Future()
        if not self._mount.hangs:
            asked = json.loads(json.dumps(question(TOP, operation, path, arguments)))
            settle(future, json.loads(json.dumps(touching.answer(self._mount, asked))))
        return future

    def close(self) -> None:
        self.is_closed = True


def locate(path: Path) -> places.Where:
    """As `places.locate`, with one mount at TOP."""
    if not str(path).startswith(TOP):
        raise UsageError(f"{path}: not inside a rucio-fs mount")
    return places.Where(TOP, str(path))


def progress(**facts: Any) -> dict[str, Any]:
    """A whole user.rucio.progress: on its way, unless *facts* say otherwise."""
    return {
        "did": "s:n",
        "type": "DATASET",
        "state": "REPLICATING",
        "rule_id": "r1",
        "expires_at": None,
        "since": None,
        "files": 10,
        "files_here": 0,
        "files_stuck": 0,
        "bytes": 10_000,
        "bytes_here": 0,
        "eta": None,
        "error": None,
    } | facts


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
