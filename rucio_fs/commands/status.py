"""`rucio-fs status`: what the mounts of this machine are doing, or what is known of paths."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from pathlib import Path
from typing import Any

from rucio_fs.commands import places
from rucio_fs.commands.asking import Asker, Child, Found
from rucio_fs.commands.deciding import Exit, overall
from rucio_fs.commands.once import ALIVE, Outcome, ask_each, hanging
from rucio_fs.commands.words import complain, print_json
from rucio_fs.errors import RucioFsError

_FILES = ("status", "transfers", "problems", "uploads")
_ABSENT: Mapping[str, Any] = {"transfers": [], "problems": [], "uploads": None}
"""What is there to tell where a mount has no such file: it brings nothing, or has no scratch."""

AskEach = Callable[[str, Sequence[Path]], list[Outcome]]


def of_paths(paths: Sequence[Path], *, as_json: bool, ask: AskEach = ask_each) -> int:
    """Show what is known of *paths*; return the exit code."""
    outcomes = ask("describe", paths)
    if as_json:
        print_json(
            [
                {"path": one.path, "exit": int(one.exit), "error": one.words}
                | dict(one.found or {})
                for one in outcomes
            ]
        )
    else:
        from rucio_fs.commands import screen

        screen.show_paths([(one.path, one.found) for one in outcomes if one.found is not None])
    for one in outcomes:
        if one.words is not None:
            complain(f"{one.path}: {one.words}")
    return overall(one.exit for one in outcomes)


def of_mounts(
    *,
    as_json: bool,
    mountpoints: Callable[[], Sequence[str]] = places.ours,
    make_asker: Callable[[str], Asker] = Child,
    alive: float = ALIVE,
) -> int:
    """Show every mount that answers this user; return the exit code."""
    found = _facts(mountpoints(), make_asker, alive)
    if as_json:
        print_json(found)
    else:
        from rucio_fs.commands import screen

        screen.show_mounts([facts for facts in found if facts["state"] == "ok"])
    for facts in found:
        if facts["error"] is not None:
            complain(f"{facts['mountpoint']}: {facts['error']}")
    if not found and not as_json:
        print("no rucio-fs mount on this machine")
    return overall(Exit.DONE if facts["error"] is None else Exit.FAILED for facts in found)


def _facts(
    mountpoints: Sequence[str], make_asker: Callable[[str], Asker], alive: float
) -> list[dict[str, Any]]:
    """What each mount tells, those of other users left out."""
    asked: dict[str, dict[str, Future[Found]]] = {}
    with contextlib.ExitStack() as ends:
        for mountpoint in mountpoints:
            asker = make_asker(mountpoint)
            ends.callback(asker.close)
            asked[mountpoint] = {
                name: asker.ask("read", f"{mountpoint}/.rucio/{name}") for name in _FILES
            }
        wait_for_futures([one for files in asked.values() for one in files.values()], alive)
        found = [_of_mount(mountpoint, files) for mountpoint, files in asked.items()]
    return [facts for facts in found if facts is not None]


def _of_mount(mountpoint: str, files: dict[str, Future[Found]]) -> dict[str, Any] | None:
    """One mount's facts; None if it is another user's."""
    facts: dict[str, Any] = {"mountpoint": mountpoint, "state": "ok", "error": None}
    empty = {"status": {}, **_ABSENT}
    if not all(future.done() for future in files.values()):
        return facts | empty | {"state": "hanging", "error": hanging(mountpoint)}
    contents: dict[str, Any] = {}
    for name, future in files.items():
        try:
            contents[name] = json.loads(future.result()["text"])
        except RucioFsError as exc:
            if exc.errno in (errno.EACCES, errno.EPERM):
                return None
            if exc.errno != errno.ENOENT or name not in _ABSENT:
                state = "dead" if exc.errno == errno.ENOTCONN else "failing"
                return facts | empty | {"state": state, "error": str(exc)}
            contents[name] = _ABSENT[name]
        except ValueError:
            error = f"{mountpoint}/.rucio/{name} is not JSON"
            return facts | empty | {"state": "failing", "error": error}
    return facts | contents
