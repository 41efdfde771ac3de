"""A mount that others may use: they read and refresh, and nobody can change anything."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.conftest import Mounter
from tests.mounting import DEADLINE, Mount

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.lake,
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users"),
]
NOBODY = 65534


@pytest.fixture(scope="module")
def shared(module_mounter: Mounter) -> Mount:
    return module_mounter(allow_other=True)


def as_nobody(*command: object) -> subprocess.CompletedProcess[str]:
    setpriv = shutil.which("setpriv")
    assert setpriv
    return subprocess.run(
        [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def test_others_read(shared: Mount) -> None:
    done = as_nobody("cat", shared.path / "lab" / "notes.txt")
    assert (done.stdout[:22], done.stderr) == ("This is lab:notes.txt,", "")


def test_others_may_have_rucio_asked_again(shared: Mount) -> None:
    night = shared.path / "sky" / "night-001"
    assert as_nobody("ls", night).returncode == 0
    before = shared.status()["cache"]["misses"]
    assert as_nobody("setfattr", "-n", "user.rucio.refresh", "-v", "1", night).stderr == ""
    assert as_nobody("ls", night).returncode == 0
    assert shared.status()["cache"]["misses"] > before


@pytest.mark.parametrize("command", ["touch", "mkdir", "rm", "chmod 700", "mv README.txt"])
def test_the_tree_is_read_only_for_others_too(shared: Mount, command: str) -> None:
    known = "rm" in command or "chmod" in command
    path = shared.path / "sky" / ("night-001" if "chmod" in command else "README.txt")
    target = path if known else path.with_name("new")
    words = [str(shared.path / "README.txt") if w == "README.txt" else w for w in command.split()]
    done = as_nobody(*words, *(["-f"] if command == "rm" else []), target)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_access_tells_the_truth(shared: Mount) -> None:
    path = shared.path / "sky" / "README.txt"
    assert as_nobody("test", "-r", path).returncode == 0
    assert as_nobody("test", "-w", path).returncode == 1
