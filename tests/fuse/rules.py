"""What the tests about rules share: a mount that brings files, and programs that open them."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fuse.clients import eventually
from tests.lake.rules import RuleLab
from tests.mounting import DEADLINE, Mount, clean_environment

_OPEN = """
import errno, hashlib, json, os, sys
try:
    fd = os.open(sys.argv[1], os.O_RDONLY | int(sys.argv[2]))
    with open(fd, 'rb') as file:
        print(json.dumps(hashlib.sha256(file.read()).hexdigest()))
except OSError as exc:
    print(json.dumps({'errno': errno.errorcode[exc.errno]}))
"""
OPENED = "opened"
"""What a program saw that could open a file and read the right bytes; else it is an errno."""


class Opening:
    """A program that opens the file *did* and reads it, from construction until `outcome`."""

    def __init__(self, bringer: Bringer, did: str, flags: int = 0) -> None:
        self._expected = hashlib.sha256(bringer.lab.content(did)).hexdigest()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _OPEN, str(bringer.path(did)), str(flags)],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            cwd="/",
        )

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def outcome(self, patience: float = DEADLINE) -> str:
        """`OPENED`, or the name of the errno; fails for other bytes than the file's.

        *patience* (s) is for what Rucio takes its time for.
        """
        printed, _ = self._process.communicate(timeout=patience)
        seen = json.loads(printed)
        if isinstance(seen, dict):
            return str(seen["errno"])
        assert seen == self._expected, "other bytes than the file's"
        return OPENED

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


class Bringer:
    """A *mount* that makes rules, with the eyes of its users.  DIDs are ``scope:name``."""

    def __init__(self, mount: Mount, lab: RuleLab) -> None:
        self.mount = mount
        self.lab = lab

    def path(self, did: str) -> Path:
        return self.mount.path.joinpath(*did.split(":", 1))

    def open(self, did: str, flags: int = 0) -> str:
        """Open and read a file; `OPENED` or the name of the errno."""
        with Opening(self, did, flags) as opening:
            return opening.outcome()

    def must_open(self, did: str) -> None:
        """Open and read a file; fails with the mount's log."""
        seen = self.open(did)
        assert seen == OPENED, f"{seen}:\n{self.mount.log_text()}"

    def opening(self, did: str) -> Opening:
        """A program that opens a file while the test goes on."""
        return Opening(self, did)

    def waiting(self, did: str) -> Opening:
        """The same; returns when the open waits for a rule."""
        opening = Opening(self, did)
        try:
            eventually(
                lambda: self.transfer(did), lambda one: one and one["waiting"] and one["rule_id"]
            )
        except BaseException:
            opening.__exit__(None, None, None)
            raise
        return opening

    # --- what users see --------------------------------------------------------------------------

    def xattr(self, name: str, did: str) -> str | None:
        """Value of user.rucio.*name*; None if there is none.  Another errno fails."""
        found = self.mount.xattr(name, *did.split(":", 1))
        if isinstance(found, dict):
            assert found == {"errno": "ENODATA"}, found
            return None
        return found

    def progress(self, did: str) -> dict[str, Any]:
        return dict(json.loads(self.xattr("progress", did) or "{}"))

    def set_xattr(self, name: str, did: str, value: str = "1") -> str | None:
        """Set user.rucio.*name*; the name of the errno, or None if that went well."""
        found = self.mount.python(
            "os.setxattr(os.path.join(ROOT, *ARGS[2:]), 'user.rucio.' + ARGS[0],"
            " ARGS[1].encode())\nshow(None)",
            name,
            value,
            *did.split(":", 1),
        )
        return None if found is None else str(found["errno"])

    def control(self, name: str) -> str:
        """Text of a file in `.rucio`."""
        done = self.mount.run("cat", self.mount.path / ".rucio" / name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def transfer(self, did: str) -> dict[str, Any] | None:
        """The entry of `.rucio/transfers` on *did*."""
        return next(
            (one for one in json.loads(self.control("transfers")) if one["did"] == did), None
        )

    def problems(self, did: str) -> list[dict[str, Any]]:
        """The entries of `.rucio/problems` on *did*, the newest first."""
        return [one for one in json.loads(self.control("problems")) if one["did"] == did]

    def events(self, did: str) -> list[dict[str, Any]]:
        """The lines of `.rucio/events` on *did*, oldest first."""
        lines = [json.loads(line) for line in self.control("events").splitlines()]
        return [line for line in lines if line["did"] == did]

    def names_of_events(self, did: str) -> list[str]:
        return [line["event"] for line in self.events(did)]

    # --- what Rucio knows ------------------------------------------------------------------------

    def our_rules(self, did: str) -> list[dict[str, Any]]:
        rules = self.lab.rules(did)
        return [rule for rule in rules if (rule["comments"] or "").startswith("rucio-fs")]

    def rule_id(self, did: str) -> str:
        """Id of the one rule on *did*."""
        (rule,) = self.lab.rules(did)
        return str(rule["id"])

    # --- a refusal, wherever it shows ------------------------------------------------------------

    def told(self, did: str, state: str, words: Sequence[str], event: str = "refused") -> str:
        """Check that *words* and the DID are said wherever people look; return the sentence."""
        text = eventually(
            lambda: self.xattr("error", did), lambda text: text and all(w in text for w in words)
        )
        assert text is not None
        assert did in text
        assert "\n" not in text
        # The replica that a lost rule leaves is COPYING for a moment more.
        eventually(lambda: self.xattr("state", did), lambda seen: seen == state)
        problem = self.problems(did)[0]
        assert problem["error"] == text
        assert problem["state"] == state
        events = [line for line in self.events(did) if line["event"] == event]
        assert events, self.events(did)
        assert events[-1]["error"] == text
        return text

    def eventually_opens(self, did: str) -> None:
        """Open again and again until it goes well, as a job's next attempts do."""
        eventually(lambda: self.open(did), lambda seen: seen == OPENED)


BringerMaker = Callable[..., Bringer]
ERRNOS = frozenset(errno.errorcode.values())
