"""A client program that waits for its test between two looks at a mount."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.mounting import DEADLINE, clean_environment

T = TypeVar("T")

_PRELUDE = """
import errno, json, os, sys
ROOT = sys.argv[1]
def show(value):
    print(json.dumps(value), flush=True)
def wait():
    assert sys.stdin.readline(), 'the test has ended'
"""


class Client:
    """A Python program that uses a mount: it calls ``show(VALUE)`` and ``wait()``.

    ``ROOT`` is *root*.  `seen` takes what it shows, `go_on` ends its wait.  An exception of its own
    ends it with a code that `end` returns.
    """

    def __init__(self, root: Path, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + code, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            cwd="/",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def seen(self) -> Any:
        """The next value it shows."""
        output = self._process.stdout
        assert output is not None
        assert select.select([output], [], [], DEADLINE)[0], "the client shows nothing"
        line = output.readline()
        assert line, f"the client ended with {self._process.wait(DEADLINE)}"
        return json.loads(line)

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """Wait for its end; its exit code."""
        self._process.communicate(timeout=DEADLINE)
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=DEADLINE)


def eventually(look: Callable[[], T], want: Callable[[T], object], deadline: float = DEADLINE) -> T:
    """Look again and again until it is as wanted; fail with what was seen last."""
    end = time.monotonic() + deadline
    while not want(seen := look()):
        assert time.monotonic() < end, f"after {deadline} s still: {seen!r}"
        time.sleep(0.02)  # what is waited for sends no event
    return seen
