"""`rucio-fs uploads`, and what `umount` and `status` tell of uploads, on a mount of a real lake."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lake import Lake
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.fuse.saving import Saving
from tests.fuse.test_commands import COMMAND, STEERING, complaint, rucio_fs
from tests.mounting import DEADLINE, Mount, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

SaverMaker = Callable[..., Saving]
RSE = "COLO_SCRATCHDISK"


@pytest.fixture
def saver(
    lake: Lake, mounter: Mounter, rest: Changer, new_scope: str, tmp_path: Path
) -> SaverMaker:
    """Makes mounts with a scratch, of which nothing is uploaded before it is asked for."""

    def make(**options: object) -> Saving:
        scratch = {"scratch__enabled": True, "scratch__dir": tmp_path / "scratch"}
        mount = mounter(**scratch, **({"scratch__delay": "1h", "scratch__rse": RSE} | options))
        if "uploads" not in mount.ls(".rucio"):
            pytest.skip("this mount uploads nothing of its scratch")
        return Saving(mount, lake, new_scope, rest)

    return make


def test_what_is_saved_is_shown_hurried_and_waited_for(saver: SaverMaker) -> None:
    site = saver()
    top = site.mount.path
    assert rucio_fs("uploads", top).out == f"{top}\n  nothing on its way\n"
    site.sh("mkdir run; printf bytes > run/hits; printf more > run/more")
    done = rucio_fs("uploads", top)
    assert (done.code, done.err) == (0, "")
    assert re.search(r"\n  \d director\w+ just changed\n$", done.out)
    late = rucio_fs("uploads", "--wait", "--timeout", "0", site.path("run"))
    assert "the time is over: " in complaint(late, 4)

    done = rucio_fs("uploads", "--now", "--wait", top)
    assert (done.code, done.err) == (0, "")
    # It may be there before the first look.
    words = r"in the lake: 2 files, 9 B, in 0:00:\d\d|nothing on its way, 2 done"
    assert re.fullmatch(words, done.out.splitlines()[-1])
    site.check("run/hits", b"bytes", rse=RSE, dataset="run")
    site.check("run/more", b"more", rse=RSE, dataset="run")
    done = rucio_fs("uploads", "--wait", site.path("run/hits"), site.path("run"))
    assert (done.code, done.out, done.err) == (0, "nothing on its way\n", "")
    (found,) = json.loads(rucio_fs("uploads", "--json", top).out)
    assert (found["mountpoint"], found["exit"], found["done"]) == (str(top), 0, 2)


def test_what_failed_is_told_and_tried_again(saver: SaverMaker) -> None:
    site = saver(scratch__rse="")
    site.sh("mkdir run; printf bytes > run/hits")
    path = site.path("run/hits")
    said = complaint(rucio_fs("uploads", "--now", "--wait", path), 1)
    assert said.startswith(f"{path}: no storage is named to upload it to: ")
    assert said.endswith(f"; to try again: rucio-fs uploads --retry {path}")
    shown = rucio_fs("uploads", site.mount.path)
    assert shown.code == 1
    assert shown.out.splitlines()[1].split(maxsplit=3) == [
        "FAILED",
        "5",
        "B",
        f"{site.scope}/run/hits",
    ]
    assert "no storage is named" in shown.out.splitlines()[2]
    block = rucio_fs("status").out.partition(f"{site.mount.path}\n")[2].partition("\n\n")[0]
    assert "  upload    nothing on its way, 1 failed" in block.splitlines()

    site.sh('setfattr -n user.rucio.rse -v "$1" run/hits', RSE)
    done = rucio_fs("uploads", "-q", "--retry", "--now", "--wait", path)
    assert (done.code, done.out, done.err) == (0, "", "")
    site.check("run/hits", b"bytes", rse=RSE)


def test_what_is_never_uploaded_is_not_said_to_be_in_the_lake(saver: SaverMaker) -> None:
    site = saver()
    site.sh("mkdir run; echo x > run/private; setfattr -n user.rucio.upload -v never run/private")
    private, nope = site.path("run/private"), site.path("nope")
    done = rucio_fs("uploads", "--now", "--wait", private, nope)
    assert done.code == 1
    assert done.err.splitlines() == [
        f"rucio-fs: error: {nope}: No such file or directory",
        f"rucio-fs: error: {private}: is neither on its way nor known to be in the lake;"
        " user.rucio.upload of it says more",
    ]


def test_ctrl_c_leaves_the_uploads_alone(saver: SaverMaker) -> None:
    site = saver()
    site.sh("mkdir run; printf bytes > run/f")
    with subprocess.Popen(
        [*COMMAND, "uploads", "--wait", str(site.mount.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=clean_environment(),
    ) as waiting:
        assert waiting.stdout is not None
        assert "just changed" in waiting.stdout.readline()
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=DEADLINE)
    assert waiting.returncode == 130
    assert err.startswith("\nrucio-fs: interrupted; uploads go on in the mount; ")
    assert rucio_fs("uploads", "--now", "--wait", site.mount.path).code == 0
    site.check("run/f", b"bytes", rse=RSE)


def test_on_a_terminal_there_is_a_bar(saver: SaverMaker) -> None:
    site = saver()
    site.sh("mkdir run; head -c 3000000 /dev/zero > run/f")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "uploads", "--now", "--wait", str(site.mount.path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd="/",
        env=clean_environment(COLUMNS="120", TERM="xterm"),
    ) as waiting:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert waiting.wait(DEADLINE) == 0
    os.close(ours)
    text = STEERING.sub("", shown.decode())
    assert "━━━━━━━━━━━━━━━━━━━━ 1/1 file 3.0 MB/3.0 MB" in text
    assert text.splitlines()[-1].startswith("in the lake: 1 file, 3.0 MB, in 0:00:")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # EIO: nobody has the other end
        return b""


# --- umount --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [[], ["--lazy"]], ids=["plain", "lazy"])
def test_umount_says_what_is_left_and_the_next_mount_goes_on(
    saver: SaverMaker, how: list[str], tmp_path: Path
) -> None:
    site = saver(scratch__rse="")
    site.sh("mkdir run; printf bytes > run/f")
    assert rucio_fs("uploads", "--now", "--wait", site.mount.path).code == 1
    done = rucio_fs("umount", *how, site.mount.path)
    assert (done.code, done.out) == (0, "")
    assert done.err == (
        "rucio-fs: 1 file (5 B) is not in the lake yet; 1 failed; it is kept in"
        f" {tmp_path}/scratch and goes on with the next mount there\n"
    )
    assert site.mount.process.wait(DEADLINE) == 0

    again = saver(scratch__rse=RSE, scratch__delay="0.2s")
    assert rucio_fs("uploads", "--now", "--retry", "--wait", again.mount.path).code == 0
    again.check("run/f", b"bytes", rse=RSE)
    assert rucio_fs("umount", *how, again.mount.path).err == ""
    assert again.mount.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("how", [[], ["--lazy"]], ids=["plain", "lazy"])
def test_umount_asks_no_longer_than_a_second(saver: SaverMaker, how: list[str]) -> None:
    site = saver()
    site.sh("printf bytes > f")
    site.mount.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = rucio_fs("umount", *how, site.mount.path)
        took = time.monotonic() - began
        assert (done.code, done.out, done.err) == (0, "", "")
        assert took < 1 + 4  # which Python and a busy machine have
        assert not site.mount.is_mounted()
    finally:
        site.mount.signal(signal.SIGCONT)
    assert site.mount.process.wait(DEADLINE) == 0


# --- mounts that cannot answer -------------------------------------------------------------------


def test_a_mount_without_a_scratch(mounter: Mounter) -> None:
    mount = mounter()
    said = complaint(rucio_fs("uploads", "--wait", mount.path), 1)
    assert said == (
        f"{mount.path}: nothing is saved in this mount: it has no scratch (scratch.enabled)"
    )


def test_a_server_that_hangs_or_died_hangs_nobody(
    lake: Lake, saver: SaverMaker, tmp_path: Path
) -> None:
    site = saver()
    site.mount.signal(signal.SIGSTOP)
    try:
        for flags in ([], ["--wait", "--now"]):
            said = complaint(rucio_fs("uploads", *flags, site.path("f")), 1)
            top = site.mount.path
            assert said == (
                f"{top}: the server of this mount does not answer; run: rucio-fs umount {top}"
            )
    finally:
        site.mount.signal(signal.SIGCONT)
    options = {"scratch.enabled": True, "scratch.dir": tmp_path / "other"}
    dead = Mount(lake.client_config(), options)
    try:
        dead.process.kill()
        dead.process.wait(DEADLINE)
        assert "has died" in complaint(rucio_fs("uploads", "--wait", dead.path), 1)
        assert rucio_fs("umount", dead.path) == (0, "", "")
    finally:
        dead.close()
        dead.remove()
