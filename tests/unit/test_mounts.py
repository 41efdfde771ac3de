"""The mount table, who uses a mount, unmounting, and the checks before mounting."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rucio_fs import mounts, preflight
from rucio_fs.errors import MountError, UsageError
from rucio_fs.mounts import Mount

Table = Callable[..., None]

OURS = "50 27 0:51 / {} rw,nosuid,nodev,relatime - fuse.rucio-fs rucio rw,user_id=0,group_id=0"
SSHFS = "51 27 0:52 / {} rw - fuse.sshfs me@host: rw,user_id=0"
TMPFS = "52 27 0:53 / {} rw - tmpfs none rw"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Table:
    """Sets the mount table: ``table((OURS, "/mnt"), (TMPFS, "/x"))``."""

    def fill(*entries: tuple[str, Path | str]) -> None:
        root = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
        lines = [root, *(line.format(str(path).replace(" ", "\\040")) for line, path in entries)]
        file = tmp_path / "mountinfo"
        file.write_bytes(os.fsencode("\n".join(lines) + "\n"))
        monkeypatch.setattr(mounts, "_MOUNTINFO", file)

    return fill


def escape(text: str) -> str:
    for character in "\\ \t\n":
        text = text.replace(character, f"\\{ord(character):03o}")
    return text


# --- looking -----------------------------------------------------------------------------------


def test_a_line_of_mountinfo() -> None:
    line = r"36 35 98:0 /sub /mnt/a\040b rw,noatime master:1 shared:2 - fuse.rucio-fs ru\134cio rw"
    assert mounts.parse(line) == [Mount("/mnt/a b", "fuse.rucio-fs", "ru\\cio", "98:0")]


def test_a_line_that_is_none_is_left_out() -> None:
    assert mounts.parse("\nnonsense\n1 2 3 - x\n") == []


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_escapes_are_undone(name: str) -> None:
    line = OURS.format(escape(f"/mnt/{name}"))
    assert [mount.mountpoint for mount in mounts.parse(line)] == [f"/mnt/{name}"]


@pytest.mark.parametrize(
    ("fstype", "is_fuse", "is_ours"),
    [
        ("fuse.rucio-fs", True, True),
        ("fuse.sshfs", True, False),
        ("fuse", True, False),
        ("fuseblk", True, False),
        ("fusectl", False, False),
        ("ext4", False, False),
    ],
)
def test_kinds(fstype: str, is_fuse: bool, is_ours: bool) -> None:
    mount = Mount("/x", fstype, "s", "0:1")
    assert (mount.is_fuse, mount.is_ours) == (is_fuse, is_ours)


def test_the_topmost_mount_is_found(table: Table, tmp_path: Path) -> None:
    table((TMPFS, tmp_path), (OURS, tmp_path))
    found = mounts.find(tmp_path)
    assert found is not None
    assert (found.fstype, found.source, found.device) == ("fuse.rucio-fs", "rucio", "0:51")
    table((OURS, tmp_path), (TMPFS, tmp_path))
    found = mounts.find(tmp_path)
    assert found is not None
    assert found.fstype == "tmpfs"
    assert mounts.find(tmp_path / "below") is None


def test_find_follows_links_and_blanks(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real dir"
    (real / "mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real dir")
    (tmp_path / "direct").symlink_to("link/mnt")
    (tmp_path / "loop").symlink_to("loop")
    table((OURS, real / "mnt"))
    for spelling in ("real dir/mnt", "link/mnt", "direct", "link/mnt/", "link/../link/./mnt"):
        assert mounts.find(Path(f"{tmp_path}/{spelling}")), spelling
    monkeypatch.chdir(tmp_path / "link")
    assert mounts.find(Path("mnt"))
    assert mounts.find(tmp_path / "loop") is None


def test_a_mountpoint_itself_is_never_touched(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    table((OURS, mountpoint))
    touched: list[str] = []
    for name in ("stat", "lstat", "readlink", "statvfs", "scandir", "listdir"):
        original = getattr(os, name)

        def watch(
            path: object, *args: object, original: Callable[..., object] = original, **kw: object
        ) -> object:
            touched.append(os.fspath(path))  # type: ignore[call-overload]
            return original(path, *args, **kw)

        monkeypatch.setattr(os, name, watch)
    assert mounts.find(mountpoint)
    assert mounts.containing(mountpoint)
    assert str(tmp_path) in touched  # the watch works
    assert str(mountpoint) not in touched


def test_containing(table: Table, tmp_path: Path) -> None:
    outer, inner = tmp_path / "a", tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    table((TMPFS, outer), (SSHFS, inner), (OURS, inner))

    def fstype(path: Path) -> str | None:
        mount = mounts.containing(path)
        return mount.fstype if mount else None

    assert fstype(outer / "x") == "tmpfs"
    assert fstype(inner) == fstype(inner / "x" / "y") == "fuse.rucio-fs"
    assert fstype(tmp_path / "abc") == "ext4"


def test_users_are_named(tmp_path: Path) -> None:
    mount = Mount(str(tmp_path), "fuse.rucio-fs", "rucio", "0:1")
    file = tmp_path / "f"
    file.touch()
    program = [sys.executable, "-c", "print(flush=True); import signal; signal.pause()"]
    with file.open() as stdin:
        processes = [
            subprocess.Popen(program, stdout=subprocess.PIPE, cwd=tmp_path),
            subprocess.Popen(program, stdout=subprocess.PIPE, stdin=stdin),
        ]
    try:
        for process in processes:
            assert process.stdout
            process.stdout.readline()  # it runs
        found = {user.pid: user.command for user in mounts.users(mount)}
        assert {process.pid for process in processes} <= set(found)
        assert found[processes[0].pid].startswith("python")
        assert str(mounts.User(1, "x")) == "x (pid 1)"
        other = Mount(f"{tmp_path}-other", "fuse.rucio-fs", "rucio", "0:1")
        assert mounts.users(other) == []
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_name_that_the_kernel_cut_within_a_letter_is_shown(tmp_path: Path) -> None:
    mount = Mount(str(tmp_path), "fuse.rucio-fs", "rucio", "0:1")
    program = tmp_path / "fourteen-bytesö"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "60"], cwd=tmp_path)
    try:
        (user,) = mounts.users(mount)
        assert (user.pid, user.command) == (process.pid, "fourteen-bytes\ufffd")
    finally:
        process.kill()
        process.wait()


# --- unmounting --------------------------------------------------------------------------------


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Puts a fusermount3 of shell code on the PATH; returns the file its calls are noted in."""

    def install(code: str, name: str = "fusermount3") -> Path:
        directory, calls = tmp_path / "bin", tmp_path / "calls"
        directory.mkdir()
        program = directory / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n{code}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(directory))
        return calls

    return install


def test_unmount_calls_fusermount3(
    table: Table, tmp_path: Path, helper: Callable[..., Path]
) -> None:
    table((OURS, tmp_path))
    calls = helper("exit 0")
    assert mounts.unmount(tmp_path) is None
    assert mounts.unmount(tmp_path, lazy=True) is None
    assert calls.read_text().splitlines() == [
        f"fusermount3 -u -- {tmp_path}",
        f"fusermount3 -u -z -- {tmp_path}",
    ]


def test_unmount_without_fusermount3(
    table: Table, tmp_path: Path, helper: Callable[..., Path]
) -> None:
    table((OURS, tmp_path))
    calls = helper("exit 0", name="umount")
    mounts.unmount(tmp_path)
    mounts.unmount(tmp_path, lazy=True)
    assert calls.read_text().splitlines() == [f"umount -- {tmp_path}", f"umount -l -- {tmp_path}"]


def test_unmount_without_any_helper(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table((OURS, tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountError, match="install the package fuse3"):
        mounts.unmount(tmp_path)


def test_a_busy_mount_is_detached_and_its_users_named(
    table: Table, tmp_path: Path, helper: Callable[..., Path]
) -> None:
    busy = tmp_path / "busy"
    busy.mkdir()
    table((OURS, busy))
    calls = helper(
        'case "$*" in *-z*) exit 0;; esac\n'
        'echo "fusermount3: failed to unmount $3: Device or resource busy" >&2; exit 1'
    )
    process = subprocess.Popen(["/bin/sleep", "60"], cwd=busy)
    try:
        note = mounts.unmount(busy)
    finally:
        process.kill()
        process.wait()
    assert note == (
        f"{busy} is in use by sleep (pid {process.pid}): detached, it ends when they do"
    )
    assert len(calls.read_text().splitlines()) == 2


def test_a_busy_mount_at_a_path_that_is_no_utf_8_is_detached(
    table: Table, tmp_path: Path, helper: Callable[..., Path]
) -> None:
    busy = tmp_path / os.fsdecode(b"m\xfcnze")
    busy.mkdir()
    table((OURS, busy))
    calls = helper(
        'case "$*" in *-z*) exit 0;; esac\n'
        'echo "fusermount3: failed to unmount $3: Device or resource busy" >&2; exit 1'
    )
    assert "is in use by" in (mounts.unmount(busy) or "")
    assert len(calls.read_bytes().splitlines()) == 2


def test_what_the_helper_says_is_passed_on(
    table: Table, tmp_path: Path, helper: Callable[..., Path]
) -> None:
    table((OURS, tmp_path))
    helper("printf 'not\\nallowed\\n' >&2; exit 1")
    with pytest.raises(MountError, match=r"^not allowed$"):
        mounts.unmount(tmp_path)


def test_a_helper_that_hangs_is_given_up(
    table: Table, tmp_path: Path, helper: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    table((OURS, tmp_path))
    helper("exec /bin/sleep 60")
    monkeypatch.setattr(mounts, "_COMMAND_TIMEOUT", 0.2)
    with pytest.raises(MountError, match="umount --lazy"):
        mounts.unmount(tmp_path)


def test_only_our_mounts_are_unmounted(
    table: Table, tmp_path: Path, helper: Callable[..., Path]
) -> None:
    calls = helper("exit 0")
    table((SSHFS, tmp_path))
    with pytest.raises(MountError, match=r"a fuse.sshfs mount, not one of rucio-fs"):
        mounts.unmount(tmp_path)
    table()
    with pytest.raises(MountError, match=r": not mounted$"):
        mounts.unmount(tmp_path)
    table((OURS, tmp_path))
    with pytest.raises(MountError, match=f"x: not mounted; did you mean {tmp_path}\\?"):
        mounts.unmount(tmp_path / "x")
    assert not calls.exists()


# --- before mounting ---------------------------------------------------------------------------


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: Table) -> Path:
    """A machine on which everything is in order; returns an empty directory to mount at."""
    monkeypatch.setattr(preflight, "_DEVICE", Path("/dev/null"))
    status(monkeypatch)
    table()
    directory = tmp_path / "mnt"
    directory.mkdir()
    return directory


def status(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    """Make /proc/self/status that of root, with *changes*."""
    root = {"CapEff": "000001ffffffffff", "CapBnd": "000001ffffffffff", "NoNewPrivs": "0"}
    monkeypatch.setattr(preflight, "_own_status", lambda: root | changes)


def check(mountpoint: Path, *, allow_other: bool = False) -> list[str]:
    return preflight.check(mountpoint, allow_other=allow_other)


def test_all_is_well(fit: Path) -> None:
    assert check(fit) == []


def test_the_root_of_the_machine_is_never_covered(fit: Path) -> None:
    for root in ("/", "//"):
        with pytest.raises(
            UsageError, match=r"^/: the root of this machine cannot be a mountpoint"
        ):
            check(Path(root))


def test_what_a_mount_uses_itself_is_not_hidden(fit: Path, tmp_path: Path) -> None:
    inside, outside, link = fit / "cache", tmp_path / "mnt2", tmp_path / "link"
    link.symlink_to(fit)
    own = {"log.file": outside, "diskcache.dir": tmp_path}
    assert preflight.check(fit, allow_other=False, own=own) == []
    for directory in (fit, inside, link / "cache"):
        own = {"log.file": outside, "diskcache.dir": directory}
        with pytest.raises(UsageError) as caught:
            preflight.check(fit, allow_other=False, own=own)
        assert f"{fit}: the mount would hide its own diskcache.dir, {directory};" in str(
            caught.value
        )


def test_no_directory(fit: Path) -> None:
    with pytest.raises(UsageError, match=f"no such directory; run: mkdir -p {fit}/x"):
        check(fit / "x")
    (fit / "file").touch()
    with pytest.raises(UsageError, match="file: not a directory"):
        check(fit / "file")
    with pytest.raises(UsageError, match="file/x: Not a directory"):
        check(fit / "file" / "x")


def test_what_is_in_the_directory_is_hidden(fit: Path) -> None:
    (fit / "file").touch()
    assert check(fit) == [f"{fit} is not empty; its content is hidden while mounted"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0, "already mounted by rucio-fs; end it with: rucio-fs umount"),
        (errno.EACCES, "already mounted by rucio-fs"),
        (errno.ENOTCONN, "whose server has died; run: rucio-fs umount"),
        (None, "its server does not answer; run: rucio-fs umount"),
    ],
)
def test_already_mounted(
    fit: Path, table: Table, monkeypatch: pytest.MonkeyPatch, answer: int | None, message: str
) -> None:
    table((OURS, fit))
    monkeypatch.setattr(preflight, "_probe", lambda mountpoint: answer)
    with pytest.raises(MountError, match=message):
        check(fit)


def test_other_filesystems_at_the_mountpoint(fit: Path, table: Table) -> None:
    table((SSHFS, fit))
    with pytest.raises(MountError, match=r"already the mountpoint of fuse.sshfs \(me@host:\)"):
        check(fit)
    table((TMPFS, fit))  # a container's volume
    assert check(fit) == []


def test_the_probe_asks_in_a_child_that_may_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert preflight._probe(str(tmp_path)) == 0
    assert preflight._probe(str(tmp_path / "x")) == errno.ENOENT
    monkeypatch.setattr(preflight, "_PROBE", "import signal; signal.pause()")
    monkeypatch.setattr(preflight, "_PROBE_TIMEOUT", 0.2)
    assert preflight._probe(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOENT, "modprobe fuse; in a container: run it with --device"),
        (errno.ENODEV, "modprobe fuse"),
        (errno.EACCES, "chmod 666"),
        (errno.EPERM, "run the container with --device"),
    ],
)
def test_the_device(fit: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str) -> None:
    original = os.open

    def refuse(path: object, *args: object, **kwargs: object) -> int:
        if path == Path("/dev/null"):
            raise OSError(code, os.strerror(code))
        return original(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MountError, match=f"cannot use /dev/null: {os.strerror(code)}; .*{advice}"):
        check(fit)


def test_users_need_fusermount3(fit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check(fit) == []  # root does not
    status(monkeypatch, CapEff="0")
    with pytest.raises(MountError, match="fusermount3 is missing"):
        check(fit)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CapBnd": "00000000a80425fb"}, "--cap-add SYS_ADMIN"),  # Docker's default
        ({"NoNewPrivs": "1"}, "no_new_privs"),
    ],
)
def test_privileges(
    fit: Path,
    monkeypatch: pytest.MonkeyPatch,
    helper: Callable[..., Path],
    changes: dict[str, str],
    message: str,
) -> None:
    helper("exit 0")
    status(monkeypatch, CapEff="0")
    assert check(fit) == []
    status(monkeypatch, CapEff="0", **changes)
    with pytest.raises(MountError, match=message):
        check(fit)


def test_a_user_mounts_where_they_can_write(
    fit: Path, monkeypatch: pytest.MonkeyPatch, helper: Callable[..., Path]
) -> None:
    helper("exit 0")
    status(monkeypatch, CapEff="0")
    original = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != fit and original(path, mode))
    with pytest.raises(UsageError, match="a user mounts where they can write"):
        check(fit)


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [("user_allow_other\n", True), ("#user_allow_other\n", False), ("", False), (None, False)],
)
def test_allow_other_of_a_user(
    fit: Path,
    monkeypatch: pytest.MonkeyPatch,
    helper: Callable[..., Path],
    tmp_path: Path,
    text: str | None,
    is_allowed: bool,
) -> None:
    helper("exit 0")
    conf = tmp_path / "fuse.conf"
    if text is not None:
        conf.write_text(text)
    monkeypatch.setattr(preflight, "_FUSE_CONF", conf)
    assert check(fit, allow_other=True) == []  # root needs no leave
    status(monkeypatch, CapEff="0")
    if is_allowed:
        assert check(fit, allow_other=True) == []
    else:
        with pytest.raises(UsageError, match="user_allow_other"):
            check(fit, allow_other=True)
