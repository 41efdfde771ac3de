"""A mounted filesystem and the process that serves it: ours, bindfs, rclone.

Nothing here touches the mount itself: a client is a process of its own with a timeout.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from benchmarks.report import MB

_DEADLINE = 30.0  # s, for a mount to come or to go
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Something that was to be measured did not work; the message says what."""


def is_mounted(path: Path) -> bool:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(path) for line in lines)


def unmount(path: Path) -> None:
    """Take the mount at *path* away, whatever became of its server."""
    for command in (["fusermount3", "-uz", str(path)], ["umount", "-l", str(path)]):
        if not is_mounted(path):
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=_DEADLINE)


class Served:
    """A mount and its server, from construction until the end of the ``with``."""

    def __init__(
        self, name: str, command: Sequence[str | Path], path: Path, environment: Mapping[str, str]
    ) -> None:
        """Start *command*, which mounts at *path* and stays in the foreground."""
        self.name = name
        self.path = path
        self._log = path.with_suffix(".log")
        path.mkdir()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(environment),
                # Ctrl-C is for the benchmark, which ends its servers in good order.
                start_new_session=True,
            )
        try:
            self._wait_until_mounted()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_until_mounted(self) -> None:
        deadline = time.monotonic() + _DEADLINE
        while not is_mounted(self.path):
            if self._process.poll() is not None:
                log = self._log.read_text(errors="replace").strip()
                raise BenchError(f"{self.name} ended instead of mounting: {log}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} did not mount in {_DEADLINE:g} s")
            time.sleep(0.01)  # the kernel's table has no event
        subprocess.run(["stat", str(self.path)], capture_output=True, timeout=_DEADLINE)

    def rss(self) -> float:
        """Resident memory of the server in MB."""
        return self._memory("VmRSS")

    def rss_peak(self) -> float:
        """The most it ever was, in MB."""
        return self._memory("VmHWM")

    def _memory(self, field: str) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024 / MB

    def cpu(self) -> float:
        """CPU seconds of the server so far."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def close(self) -> None:
        """Unmount and end the server."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_DEADLINE)
        unmount(self.path)
