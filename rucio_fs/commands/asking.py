"""Asking a mount through a child process that may be left behind: see `touching`."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from rucio_fs.commands import touching
from rucio_fs.errors import MountError, UsageError

_LAST_WORDS = 0.1  # s a child has to end after it was killed; one inside the kernel takes longer

Found = Mapping[str, Any]


class Asker(Protocol):
    """Whoever passes on questions to one mount."""

    def ask(self, operation: str, path: str, **arguments: object) -> Future[Found]:
        """Have `touching` do *operation* on *path*.

        The future raises: MountError or UsageError, with words for the user.
        """
        ...

    def close(self) -> None: ...


class Child:
    """A child process that asks the mount at *mountpoint*, from construction until `close`."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._numbers = itertools.count()
        self._asked: dict[int, Future[Found]] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", touching.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # One that hangs must not keep our caller's pipes open.
            stderr=subprocess.DEVNULL,
            cwd="/",
            # Ctrl-C is for us alone: what was begun is to be finished or ended by us.
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, operation: str, path: str, **arguments: object) -> Future[Found]:
        future: Future[Found] = Future()
        number = next(self._numbers)
        self._asked[number] = future
        asked = question(self._mountpoint, operation, path, arguments)
        line = json.dumps({"id": number, **asked}) + "\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError:  # it was killed
            self._lose(self._asked.pop(number, None))
        return future

    def close(self) -> None:
        """End the child, without waiting for one that hangs."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                answer = json.loads(line)
                settle(self._asked.pop(answer["id"]), answer)
        for number in list(self._asked):
            self._lose(self._asked.pop(number, None))

    def _lose(self, future: Future[Found] | None) -> None:
        if future is not None:
            lost = MountError("the process that asks the mount has ended; try again")
            future.set_exception(lost)


def question(
    mountpoint: str, operation: str, path: str, arguments: Mapping[str, object]
) -> dict[str, Any]:
    """What `touching.answer` is asked."""
    if operation not in touching.OPERATIONS:
        raise ValueError(operation)
    return {
        "mountpoint": mountpoint,
        "operation": operation,
        "path": path,
        "arguments": dict(arguments),
    }


def settle(future: Future[Found], answer: Mapping[str, Any]) -> None:
    """Give *future* the *answer* of `touching.answer`."""
    if "found" in answer:
        future.set_result(answer["found"])
    else:
        kind = UsageError if answer["exit"] == 2 else MountError
        error = kind(answer["failed"])
        if answer.get("errno") is not None:
            error.errno = answer["errno"]
        future.set_exception(error)
