"""A real mount for tests: served by one process, used by others, never by the test's own.

A test that touched a mount whose server hangs would hang too; so every look at it is a subprocess
with a timeout.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DEADLINE = 30.0  # s; for what takes a fraction of a second on an idle machine
_CLEAN = {"RUCIO_ACCOUNT", "RUCIO_CONFIG", "RUCIO_HOME", "SITE_NAME", "X509_USER_PROXY"}


def clean_environment(**more: str) -> dict[str, str]:
    """The process's environment without what would steer Rucio's clients, and *more*."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _CLEAN and not name.startswith("RUCIO_FS_")
    }
    return kept | more


class Mount:
    """A mount served by a process of its own, from construction until `close`.

    *options* are those of ``-o``, *module* is the program.  `log` has what it says.
    """

    def __init__(
        self,
        rucio_config: Path,
        options: Mapping[str, object] | None = None,
        *,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        module: str = "rucio_fs",
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="rucio-fs-test-")
        base = Path(self._temporary.name)
        base.chmod(0o755)
        self.path = directory or base / "mnt"
        self.path.mkdir(exist_ok=True)
        self.log = base / "log"
        options = {"diskcache.dir": base / "cache", **(options or {})}
        arguments = [f"{key}={_text(value)}" for key, value in options.items()]
        # Not -bb: pyfuse3 itself compares bytes with text when an attribute of the root is set.
        command = [sys.executable, "-b", "-m", module, "mount", "--foreground"]
        command += ["--rucio-config", str(rucio_config)]
        for argument in arguments:
            command += ["-o", argument]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(**(environment or {})),
            )
        try:
            self._wait_until_mounted()
        except BaseException:
            self.close()
            self.remove()
            raise

    def _wait_until_mounted(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while not self.is_mounted():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{self.log_text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not mounted in {DEADLINE} s:\n{self.log_text()}")
            time.sleep(0.01)  # polls the kernel's table, which has no event

    def is_mounted(self) -> bool:
        return any(
            line.split()[4] == str(self.path)
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
        )

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def warnings(self) -> list[str]:
        """Lines of the log from WARNING on, and where bytes are taken for text."""
        return [
            line
            for line in self.log_text().splitlines()
            if any(level in line for level in (" WARNING ", " ERROR ", " CRITICAL ", "Traceback"))
            or ("BytesWarning" in line and "rucio_fs/" in line)
        ]

    def wait_for_log(self, text: str, since: int = 0) -> None:
        """Wait until *text* is in the log, past its first *since* characters."""
        deadline = time.monotonic() + DEADLINE
        while text not in self.log_text()[since:]:
            assert time.monotonic() < deadline, f"{text!r} is not in:\n{self.log_text()}"
            time.sleep(0.01)  # polls a file

    # --- clients -------------------------------------------------------------------------------

    def run(
        self, *command: str | Path, timeout: float = DEADLINE
    ) -> subprocess.CompletedProcess[str]:
        """Run a client program in the mount's top directory."""
        return subprocess.run(
            [str(part) for part in command],
            # Not cwd=: the chdir would be this process's child too, but its fork waits for it.
            cwd="/",
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            env=clean_environment(LC_ALL="C.UTF-8"),
        )

    def python(self, code: str, *arguments: object, timeout: float = DEADLINE) -> Any:
        """Run *code* in a fresh interpreter; return the JSON it prints.

        ``ROOT`` is the mountpoint and ``ARGS`` the *arguments* (JSON).  An OSError that escapes
        becomes ``{"errno": "ENOENT"}``.
        """
        program = (
            "import errno, json, os, sys\n"
            "ROOT = sys.argv[1]; ARGS = json.loads(sys.argv[2])\n"
            "def show(value): print(json.dumps(value))\n"
            "try:\n"
            + "".join(f"    {line}\n" for line in code.strip("\n").splitlines())
            + "except OSError as exc:\n"
            "    show({'errno': errno.errorcode.get(exc.errno, str(exc.errno))})\n"
        )
        done = self.run(
            sys.executable,
            "-c",
            program,
            self.path,
            json.dumps([str(a) if isinstance(a, Path) else a for a in arguments]),
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ls(self, *parts: str) -> list[str]:
        """Names in a directory, sorted; raises AssertionError with ls's words."""
        done = self.run("ls", "-1A", self.path.joinpath(*parts))
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.splitlines())

    def stat(self, *parts: str) -> dict[str, Any]:
        """size, mode, ino, mtime_ns, nlink, uid of a path, or {"errno": ...}."""
        found = self.python(
            """
s = os.lstat(os.path.join(ROOT, *ARGS))
show({"size": s.st_size, "mode": s.st_mode, "ino": s.st_ino, "mtime_ns": s.st_mtime_ns,
      "nlink": s.st_nlink, "uid": s.st_uid})
""",
            *parts,
        )
        return dict(found)

    def xattr(self, name: str, *parts: str) -> str | dict[str, str]:
        """Value of user.rucio.*name*, or {"errno": ...}."""
        found: str | dict[str, str] = self.python(
            "show(os.getxattr(os.path.join(ROOT, *ARGS[1:]), 'user.rucio.' + ARGS[0]).decode())",
            name,
            *parts,
        )
        return found

    def status(self) -> dict[str, Any]:
        """`.rucio/status`, parsed."""
        done = self.run("cat", self.path / ".rucio" / "status")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    # --- the end -------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> int | None:
        """Unmount, end the server, remove the directory; return the server's exit code."""
        code = self.process.poll()
        if code is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                code = self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                code = self.process.wait(DEADLINE)
        if self.is_mounted():
            subprocess.run(["umount", "-l", str(self.path)], check=False, timeout=DEADLINE)
        return code

    def remove(self) -> None:
        self._temporary.cleanup()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_all(commands: Sequence[Sequence[str | Path]], timeout: float = DEADLINE) -> list[str]:
    """Run *commands* at the same time; return what each printed.  All have to succeed."""
    processes = [
        subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, err
        printed.append(out)
    return printed
