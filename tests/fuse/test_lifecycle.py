"""Mounting, unmounting in every way, and what stays in the kernel in between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake
from tests import direct
from tests.conftest import Mounter
from tests.fuse.clients import Client, eventually
from tests.mounting import DEADLINE, Mount, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="writes kernel settings")

STAYS_INSIDE = """
os.chdir(ROOT + '/lab/mixed')
file = open('notes.txt', 'rb')
directory = os.open('.', os.O_RDONLY)
show(file.read(4).decode())
wait()
"""

WRITES = """
file = os.open(ROOT + '/.rucio/refresh', os.O_WRONLY)
show('writes')
os.write(file, b'1')
show('written')
"""


def _command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rucio_fs", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=clean_environment(),
        cwd="/",
    )


# --- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_unmounts_with_a_process_inside(mounter: Mounter, number: signal.Signals) -> None:
    mount = mounter()
    with Client(mount.path, STAYS_INSIDE) as client:
        assert client.seen() == "This"
        mount.signal(number)
        assert mount.process.wait(DEADLINE) == 0
        assert not mount.is_mounted()
    assert f"{mount.path} is unmounted" in mount.log_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_second_signal_leaves_no_dead_mount(lake: Lake, number: signal.Signals) -> None:
    mount = Mount(lake.client_config(), environment={"SLOW": "2"}, module="tests.fuse.slow_server")
    try:
        with Client(mount.path, WRITES) as client:
            assert client.seen() == "writes"
            time.sleep(0.2)  # until the mount has the request; that it begins has no sign
            mount.signal(number)
            mount.wait_for_log("unmounting")
            time.sleep(0.5)  # impatience
            mount.signal(number)
            assert mount.process.wait(DEADLINE) == 0, mount.log_text()
            assert not mount.is_mounted()
            assert client.seen() == "written"
        assert mount.log_text().count("unmounting") == 1
    finally:
        mount.close()
        mount.remove()


def test_fusermount_u_ends_the_server(mounter: Mounter) -> None:
    mount = mounter()
    assert mount.ls("lab", "mixed")
    done = subprocess.run(["fusermount3", "-u", mount.path], check=False, timeout=DEADLINE)
    assert done.returncode == 0
    assert mount.process.wait(DEADLINE) == 0
    assert not mount.is_mounted()


def test_a_lazy_unmount_ends_the_server_with_its_last_user(mounter: Mounter) -> None:
    mount = mounter()
    with Client(mount.path, STAYS_INSIDE) as client:
        assert client.seen() == "This"
        assert subprocess.run(["fusermount3", "-uz", mount.path], timeout=DEADLINE).returncode == 0
        assert not mount.is_mounted()
        assert mount.process.poll() is None
        client.go_on()
        assert client.end() == 0
    assert mount.process.wait(DEADLINE) == 0


def test_umount_command_ends_the_server(mounter: Mounter) -> None:
    mount = mounter()
    done = _command("umount", mount.path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert mount.process.wait(DEADLINE) == 0
    assert not mount.is_mounted()


def test_a_killed_server_leaves_enotconn_which_umount_clears(lake: Lake, mounter: Mounter) -> None:
    with tempfile.TemporaryDirectory(prefix="rucio-fs-test-") as base:
        directory = Path(base) / "mnt"
        mount = Mount(lake.client_config(), {"site": "HERE", "rse": "COLO"}, directory=directory)
        try:
            with Client(mount.path, STAYS_INSIDE) as client:
                assert client.seen() == "This"
                mount.process.kill()
                mount.process.wait(DEADLINE)
                assert mount.python("show(os.listdir(ROOT))") == {"errno": "ENOTCONN"}
                done = _command("umount", directory)
                assert done.returncode == 0, done.stderr
                assert not mount.is_mounted()
            again = Mount(
                lake.client_config(), {"site": "HERE", "rse": "COLO"}, directory=directory
            )
            assert again.ls("user.bob") == ["shared"]
            assert again.close() == 0
            again.remove()
        finally:
            mount.close()
            mount.remove()


def test_a_signal_at_the_moment_of_mounting_leaves_no_mount(mounter: Mounter) -> None:
    for _ in range(5):
        mount = mounter()  # returns as soon as the kernel's table has it
        assert mount.close() == 0
        assert not mount.is_mounted()


def test_the_directory_is_empty_and_usable_after_an_unmount(mounter: Mounter) -> None:
    mount = mounter()
    mount.close()
    assert os.listdir(mount.path) == []
    (mount.path / "file").touch()
    (mount.path / "file").unlink()


def test_nothing_stays_behind_after_an_unmount(mounter: Mounter) -> None:
    mount = mounter()
    mount.run("ls", "-lR", mount.path / "sky")
    pid = mount.process.pid
    assert mount.close() == 0
    assert subprocess.run(["pgrep", "-P", str(pid)], stdout=subprocess.PIPE).stdout == b""
    assert "is unmounted" in mount.log_text()


# --- in the background -------------------------------------------------------------------------


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rucio-fs-test-") as base:
        path = Path(base) / "mnt"
        path.mkdir()
        yield path
        subprocess.run(["umount", "-l", str(path)], check=False, stderr=subprocess.DEVNULL)


def test_the_mount_answers_when_the_command_returns(lake: Lake, directory: Path) -> None:
    log = directory.parent / "log"
    config = lake.client_config()
    done = _command(
        "mount", "--rucio-config", config, "--site", "HERE", "--log-file", log, directory
    )
    assert done.returncode == 0, done.stderr
    assert f"mounted at {directory}" in done.stdout
    listed = subprocess.run(
        ["ls", directory / "user.bob"], capture_output=True, text=True, timeout=DEADLINE
    )
    assert listed.stdout == "shared\n"
    assert _command("umount", directory).returncode == 0
    eventually(log.read_text, lambda text: "is unmounted" in text)
    assert not any(level in log.read_text() for level in (" WARNING ", " ERROR ", "Traceback"))


# --- several mounts ----------------------------------------------------------------------------


def test_two_mounts_of_one_lake_do_not_disturb_each_other(mounter: Mounter) -> None:
    first, second = mounter(), mounter()
    assert first.ls("sky", "survey") == second.ls("sky", "survey")
    assert first.close() == 0
    assert second.ls("sky", "survey", "survey.2025") == ["calibration", "night-004"]


def test_a_mountpoint_in_use_is_refused(lake: Lake, mounter: Mounter) -> None:
    mount = mounter()
    done = _command("mount", "--rucio-config", lake.client_config(), mount.path)
    assert done.returncode != 0
    assert str(mount.path) in done.stderr
    assert mount.ls("user.bob") == ["shared"]


def test_mounts_of_two_accounts_say_who_they_are(lake: Lake, mounter: Mounter) -> None:
    alice = mounter(config=lake.client_config("alice"))
    assert alice.status()["rucio"]["account"] == "alice"
    assert mounter().status()["rucio"]["account"] == "root"
    assert alice.ls("user.alice", "thesis")


# --- in the kernel -----------------------------------------------------------------------------


def _device(mount: Mount) -> str:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(mount.path):
            return fields[2]
    raise AssertionError("not mounted")


def test_the_mount_is_known_by_its_type_and_source(mounter: Mounter) -> None:
    mount = mounter(fsname="my-lake")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, where, kind, options = line.split()[:4]
        if where == str(mount.path):
            assert (source, kind) == ("my-lake", "fuse.rucio-fs")
            assert {"nosuid", "nodev"} <= set(options.split(","))
            return
    raise AssertionError("not mounted")


@needs_root
def test_the_kernel_reads_a_mebibyte_ahead(mounter: Mounter) -> None:
    mount = mounter()
    setting = Path("/sys/class/bdi") / _device(mount) / "read_ahead_kb"
    eventually(setting.read_text, lambda text: text == "1024\n")


@needs_root
def test_read_ahead_is_an_option(mounter: Mounter) -> None:
    mount = mounter(read_ahead="256 KiB")
    setting = Path("/sys/class/bdi") / _device(mount) / "read_ahead_kb"
    eventually(setting.read_text, lambda text: text == "256\n")


@needs_root
def test_the_kernel_gives_every_inode_back(lake: Lake, mounter: Mounter) -> None:
    scope = direct.fresh_scope()
    # The kernel takes up to 1 MiB of a directory at once; there have to be several times.
    lake.fill(scope, datasets=20, loose=50, big=15_000)
    mount = mounter()
    at_start = mount.status()["inodes"]
    found = mount.run("find", mount.path / scope, "-type", "f").stdout.splitlines()
    assert len(found) == 15_050
    assert mount.run("ls", "-lR", mount.path / "sky").returncode == 0
    mount.run("ls", mount.path / "lab" / "loop-a" / "loop-b" / "loop-a")  # ELOOP
    mount.run("cat", mount.path / "sky" / "night-002" / "exp0011_g.fits")  # EAGAIN
    mount.run("stat", mount.path / scope / "nothing")  # ENOENT

    def inodes() -> int:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        return int(mount.status()["inodes"])

    # What the look itself holds: the top, .rucio and the status file.
    eventually(inodes, lambda number: number <= at_start)
    assert at_start <= 4
    assert mount.status()["open_files"] == 0
    direct.hide(lake, scope)


@needs_root
def test_numbers_stay_the_same_after_the_kernel_forgot_them(mounter: Mounter) -> None:
    mount = mounter()
    before = mount.stat("sky", "survey", "survey.2026")["ino"]
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    assert mount.stat("sky", "survey", "survey.2026")["ino"] == before


def test_an_open_directory_outlives_what_the_kernel_forgets(mounter: Mounter) -> None:
    mount = mounter()
    code = """
os.chdir(ROOT + '/sky/survey')
show(sorted(os.listdir('.')))
wait()
show(sorted(os.listdir('survey.2026')))
wait()
"""
    with Client(mount.path, code) as client:
        assert client.seen() == ["survey.2025", "survey.2026"]
        if os.geteuid() == 0:
            Path("/proc/sys/vm/drop_caches").write_text("2\n")
        client.go_on()
        assert client.seen() == ["night-001", "night-002", "night-003"]
        client.go_on()
        assert client.end() == 0


def test_another_user_is_not_let_in_by_default(mounter: Mounter) -> None:
    if os.geteuid() != 0:
        pytest.skip("becomes another user")
    mount = mounter()
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", str(mount.path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode != 0
    assert os.strerror(errno.EACCES) in done.stderr
