"""Scratch is an ordinary directory: whatever is done, there is no difference to one.

Random operations are done in scratch/SCOPE and in a directory of the local disk, by a process of
its own.  RUCIO_FS_TEST_STEPS is how many, about.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Mounter
from tests.fuse import posix_client
from tests.mounting import DEADLINE, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

STEPS = int(os.environ.get("RUCIO_FS_TEST_STEPS", "6000"))
_AT_ONCE = 50  # operations from one empty directory
_TICK_NS = 50_000_000  # two files written within one tick of a clock are equally old

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
numbers = st.integers(0, 4)
modes = st.sampled_from([0o644, 0o600, 0o755, 0o777, 0o666, 0o4755, 0o1777, 0o400, 0])
offsets = st.one_of(st.integers(0, 10_000), st.sampled_from([4096, 65_536, 131_072, 200_000]))
sizes = st.one_of(st.integers(0, 300), st.sampled_from([4096, 65_535, 65_536, 100_000, 1_200_000]))
seeds = st.integers(0, 250)
past = st.integers(10**9, posix_client.PAST_NS - 1)
xattrs = st.sampled_from(["user.x", "user.y.z", "user.rucio-is-not-ours"])
xattr_sizes = st.sampled_from([0, 1, 100, 3000, 70_000])
xattr_flags = st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE])
access = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
rename_flags = st.sampled_from([0, 0, 0, 1, 2, 3])
hows = st.lists(
    st.sampled_from([
        os.O_CREAT, os.O_CREAT, os.O_TRUNC, os.O_EXCL, os.O_APPEND, os.O_SYNC, os.O_DSYNC,
        os.O_NOFOLLOW,
    ])
).map(lambda flags: sum(set(flags)))  # fmt: skip


class Twins:
    """The process that does everything twice."""

    def __init__(self, mounted: Path, plain: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, posix_client.__file__, str(mounted), str(plain)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            cwd="/",
        )

    def do(self, operation: str, *arguments: object) -> tuple[Any, Any]:
        """What came of it in the mount and in the plain directory."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([operation, *arguments]) + "\n")
        stdin.flush()
        assert select.select([stdout], [], [], DEADLINE)[0], f"{operation}{arguments} hangs"
        line = stdout.readline()
        assert line, f"the client ended with {self._process.wait(DEADLINE)}"
        mounted, plain = json.loads(line)
        return mounted, plain

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=DEADLINE)


class PosixMachine(RuleBasedStateMachine):
    """Each example begins in directories of its own, with something in them and open.

    Looking at everything after each step would find a wrong state sooner, and never one that only
    the kernel's memory of what it saw last brings about; so that is done now and then.
    """

    numbering = itertools.count()
    twins: Twins

    def same(self, operation: str, *arguments: object) -> None:
        mounted, plain = self.twins.do(operation, *arguments)
        assert mounted == plain, f"{operation}{arguments}"

    @initialize(sizes=st.lists(sizes, min_size=5, max_size=5))
    def begin(self, sizes: list[int]) -> None:
        self.same("begin", f"example{next(self.numbering)}")
        for path in ("a", "a/a", "b"):
            self.same("mkdir", path, 0o755)
        for number, path in enumerate(("a/b", "a/a/c", "c", "b/a", "b/c")):
            self.same("open", number, path, os.O_RDWR | os.O_CREAT, 0o644)
            self.same("pwrite", number, 0, sizes[number], number)

    @rule()
    def look(self) -> None:
        self.same("tree")
        self.same("all_open")

    @rule(number=numbers)
    def look_at_one(self, number: int) -> None:
        self.same("fstat", number)
        self.same("pread", number, 0, 2_000_000)

    # --- descriptors ---------------------------------------------------------------------------

    @rule(number=numbers, path=paths, access=access, how=hows, mode=modes)
    def open(self, number: int, path: str, access: int, how: int, mode: int) -> None:
        self.same("open", number, path, access | how, mode)

    @rule(number=numbers, path=paths, mode=modes)
    def create(self, number: int, path: str, mode: int) -> None:
        self.same("open", number, path, os.O_RDWR | os.O_CREAT, mode)

    @rule(number=numbers)
    def close(self, number: int) -> None:
        self.same("close", number)

    @rule(number=numbers, offset=offsets, size=sizes, seed=seeds)
    def pwrite(self, number: int, offset: int, size: int, seed: int) -> None:
        self.same("pwrite", number, offset, size, seed)

    @rule(number=numbers, size=sizes, seed=seeds)
    def write(self, number: int, size: int, seed: int) -> None:
        self.same("write", number, size, seed)

    @rule(number=numbers, offset=offsets, size=sizes)
    def pread(self, number: int, offset: int, size: int) -> None:
        self.same("pread", number, offset, size)

    @rule(number=numbers)
    def seek_end(self, number: int) -> None:
        self.same("seek_end", number)

    @rule(number=numbers, offset=offsets, size=sizes, seed=seeds, flush=st.booleans())
    def map(self, number: int, offset: int, size: int, seed: int, flush: bool) -> None:
        self.same("map", number, offset, size, seed, flush)

    @rule(number=numbers, size=offsets)
    def ftruncate(self, number: int, size: int) -> None:
        self.same("ftruncate", number, size)

    @rule(number=numbers, only_data=st.booleans())
    def fsync(self, number: int, only_data: bool) -> None:
        self.same("fdatasync" if only_data else "fsync", number)

    @rule(number=numbers)
    def fstat(self, number: int) -> None:
        self.same("fstat", number)

    @rule(number=numbers, mode=modes)
    def fchmod(self, number: int, mode: int) -> None:
        self.same("fchmod", number, mode)

    @rule(number=numbers, time_ns=past)
    def futime(self, number: int, time_ns: int) -> None:
        self.same("futime", number, time_ns)

    @rule(number=numbers, name=xattrs, size=xattr_sizes, flags=xattr_flags)
    def fsetxattr(self, number: int, name: str, size: int, flags: int) -> None:
        self.same("fsetxattr", number, name, size, flags)

    @rule(number=numbers, name=xattrs)
    def fgetxattr(self, number: int, name: str) -> None:
        self.same("fgetxattr", number, name)

    # --- paths ---------------------------------------------------------------------------------

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        self.same("truncate", path, size)

    @rule(old=paths, new=paths, flags=rename_flags)
    def rename(self, old: str, new: str, flags: int) -> None:
        self.same("rename", old, new, flags)

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.same("unlink", path)

    @rule(path=paths, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self.same("mkdir", path, mode)

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.same("rmdir", path)

    @rule(path=paths, mode=modes)
    def mknod(self, path: str, mode: int) -> None:
        self.same("mknod", path, mode)

    @rule(to=paths, path=paths)
    def symlink(self, to: str, path: str) -> None:
        self.same("symlink", to, path)

    @rule(path=paths)
    def readlink(self, path: str) -> None:
        self.same("readlink", path)

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self.same("chmod", path, mode)

    @rule(path=paths, uid=st.sampled_from([-1, 0, 1234]), gid=st.sampled_from([-1, 0, 1234]))
    def chown(self, path: str, uid: int, gid: int) -> None:
        self.same("chown", path, uid, gid)

    @rule(path=paths, time_ns=past, follow=st.booleans())
    def utime(self, path: str, time_ns: int, follow: bool) -> None:
        self.same("utime", path, time_ns, follow)

    @rule(path=paths)
    def touch(self, path: str) -> None:
        self.same("touch", path)

    @rule(path=st.one_of(st.just(""), paths))
    def listdir(self, path: str) -> None:
        self.same("listdir", path)

    @rule(path=paths, follow=st.booleans())
    def stat(self, path: str, follow: bool) -> None:
        self.same("stat" if follow else "lstat", path)

    @rule(path=paths, mask=st.integers(0, 7))
    def access(self, path: str, mask: int) -> None:
        self.same("access", path, mask)

    @rule(path=paths, name=xattrs, size=xattr_sizes, flags=xattr_flags)
    def setxattr(self, path: str, name: str, size: int, flags: int) -> None:
        self.same("setxattr", path, name, size, flags)

    @rule(path=paths, name=xattrs)
    def getxattr(self, path: str, name: str) -> None:
        self.same("getxattr", path, name)

    @rule(path=paths, name=xattrs)
    def removexattr(self, path: str, name: str) -> None:
        self.same("removexattr", path, name)

    @rule(path=paths)
    def listxattr(self, path: str) -> None:
        self.same("listxattr", path)

    def teardown(self) -> None:
        self.same("all_open")
        self.same("tree")
        self.same("close_all")
        self.same("tree")
        _compare_ages(*self.twins.do("times"))


def _compare_ages(mounted: dict[str, int], plain: dict[str, int]) -> None:
    """What is clearly older in one is not younger in the other."""
    by_age = sorted(plain, key=lambda path: plain[path])
    for older, younger in itertools.combinations(by_age, 2):
        if plain[younger] - plain[older] > _TICK_NS:
            assert mounted[older] <= mounted[younger], (older, younger)


@pytest.fixture
def scratch(mounter: Mounter, tmp_path: Path) -> Path:
    # What is not finished is not uploaded: that would be a difference.
    mount = mounter(scratch__enabled=True, scratch__dir=tmp_path / "area", scratch__delay="1 d")
    return mount.path / "scratch" / "lab"


@pytest.mark.timeout(60 + STEPS // 10)
def test_scratch_is_an_ordinary_directory(scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()

    class Machine(PosixMachine):
        twins = Twins(scratch, tmp_path / "plain")

    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=max(1, STEPS // _AT_ONCE),
                stateful_step_count=_AT_ONCE,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        Machine.twins.end()
