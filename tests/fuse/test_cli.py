"""The command as a user types it: one line for a mistake, the right exit code, no traceback.

Every mistake is tried in the foreground and in the background, where a second process makes it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lake import Lake
from tests.mounting import DEADLINE, clean_environment

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="sets up namespaces and mounts as root"),
]

NOBODY = 65534
COMMAND = [sys.executable, "-bb", "-m", "rucio_fs"]
FAST = "rucio.timeout=2,rucio.deadline=3"  # a Rucio that is not there is given up soon

foreground_and_background = pytest.mark.parametrize(
    "how", [["--foreground"], []], ids=["foreground", "background"]
)


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and its output."""

    code: int
    out: str
    err: str


def rucio_fs(
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
    within: Sequence[str] = (),
    timeout: float = DEADLINE,
) -> Done:
    """Run the command to its end; *within* is a program that starts it somewhere else."""
    done = subprocess.run(
        [*within, *COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd="/",
        env=clean_environment(
            RUCIO_FS_LOG_FILE="/dev/null", RUCIO_FS_DISKCACHE_SIZE="0", **(environment or {})
        ),
    )
    return Done(done.returncode, done.stdout, done.stderr)


def complaint(done: Done, code: int) -> str:
    """The one line of a command that failed with *code*."""
    assert done.code == code, done
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]
    assert len(lines) == 1, done.err  # beside the log, which the foreground has on stderr
    assert "Traceback" not in done.err
    assert lines[0].startswith("rucio-fs: error: ")
    return lines[0].removeprefix("rucio-fs: error: ")


def mounted_at(path: Path) -> list[str]:
    """Filesystem types mounted at *path*."""
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    return [row.split(" - ")[1].split()[0] for row in rows if row.split()[4] == str(path)]


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in {DEADLINE} s: {what}"
        time.sleep(0.01)  # polls the kernel's tables, which have no event


def server_of(mountpoint: Path) -> int | None:
    """Process id of the server in the background."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"rucio_fs.background" in words and os.fsencode(mountpoint) in words and state != "Z":
            return int(process.name)
    return None


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty mountpoint that everybody can reach; nothing is mounted there afterwards."""
    base = Path(tempfile.mkdtemp(prefix="rucio-fs-cli-"))
    base.chmod(0o755)
    path = base / "mnt"
    path.mkdir()
    yield path
    if server := server_of(path):
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: server_of(path) is None, "the server ends")
    while mounted_at(path):
        subprocess.run(["umount", "-l", path], check=True, timeout=DEADLINE)
    shutil.rmtree(base)


@pytest.fixture
def rucio_cfg(tmp_path: Path) -> Callable[..., Path]:
    """Writes a rucio.cfg: ``rucio_cfg("http://host")``."""

    def write(url: str, *more: str) -> Path:
        path = tmp_path / "rucio.cfg"
        lines = ["[client]", f"rucio_host = {url}", f"auth_host = {url}", "auth_type = userpass"]
        lines += ["username = ddmlab", "password = wrong", "account = root", *more]
        path.write_text("\n".join(lines))
        return path

    return write


# --- the call ----------------------------------------------------------------------------------


def test_help_and_version_load_nothing_heavy() -> None:
    program = (
        "import sys; from rucio_fs.cli import main; main(sys.argv[1:]);"
        "heavy = 'trio', 'pyfuse3', 'rucio', 'requests', 'rich';"
        "print([name for name in heavy if name in sys.modules])"
    )
    for arguments in (
        ["--help"],
        ["mount", "--help"],
        ["get", "--help"],
        ["get", "/nowhere"],
        ["release", "/nowhere"],
        ["--version"],
        ["umount", "/nowhere"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "[]"


def test_without_a_command_the_help_is_shown() -> None:
    done = rucio_fs()
    assert done.code == 2
    assert "umount" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["umont", "/x"], "No such command 'umont'"),
        (["gte"], "No such command 'gte'. Did you mean 'get'? See: rucio-fs --help"),
        (["get", "/nosuch"], "/nosuch: no such file or directory"),
        (["status", "/nosuch/x"], "/nosuch/x: no such file or directory"),
        (["mount"], "Missing argument 'MOUNTPOINT'; see: rucio-fs mount --help"),
        (["mount", "--rsee", "X", "/x"], "'--rse'"),
    ],
)
def test_a_wrong_call(arguments: list[str], message: str) -> None:
    assert message in complaint(rucio_fs(*arguments), 2)


@foreground_and_background
def test_no_such_mountpoint(directory: Path, how: list[str]) -> None:
    missing = directory / "missing"
    message = complaint(rucio_fs("mount", *how, missing), 2)
    assert message == f"{missing}: no such directory; run: mkdir -p {missing}"


@foreground_and_background
def test_mountpoint_is_no_directory(directory: Path, how: list[str]) -> None:
    (directory / "file").touch()
    message = complaint(rucio_fs("mount", *how, directory / "file"), 2)
    assert message.startswith(f"{directory}/file: not a directory")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["-o", "nodv"], {}, "unknown mount option 'nodv'; did you mean 'nodev'?"),
        (["-o", "cache.sise=1"], {}, "did you mean 'cache.size'?"),
        (["-o", "uid=me"], {}, "mount.uid = 'me' is not a numeric user or group id"),
        ([], {"RUCIO_FS_CACHE_SISE": "1"}, "did you mean 'RUCIO_FS_CACHE_SIZE'?"),
        (["--config", "/nope.toml"], {}, "/nope.toml: No such file or directory"),
        (["--rucio-config", "/nope.cfg"], {}, "--rucio-config: /nope.cfg does not exist"),
        (["--log-level", "loud"], {}, "--log-level: log.level = 'loud' is not one of debug"),
    ],
)
@foreground_and_background
def test_a_wrong_configuration(
    directory: Path,
    how: list[str],
    arguments: list[str],
    environment: dict[str, str],
    message: str,
) -> None:
    done = rucio_fs("mount", *how, *arguments, directory, environment=environment)
    assert message in complaint(done, 2)


def test_an_unknown_key_in_the_file(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "rucio-fs.toml"
    file.write_text("[cahce]\nsize = 1\n")
    message = complaint(rucio_fs("mount", "--config", file, directory), 2)
    assert message == f"{file}: unknown section [cahce]; did you mean 'cache'?"


def test_a_log_that_cannot_be_written(directory: Path, lake: Lake) -> None:
    done = rucio_fs(
        "mount", "--rucio-config", lake.client_config(), "--log-file", "/proc/no/log", directory
    )
    assert "cannot write the log /proc/no/log" in complaint(done, 2)


# --- the machine -------------------------------------------------------------------------------


def elsewhere(setup: str) -> list[str]:
    """Runs a command in a mount namespace of its own, after the shell code *setup*."""
    script = f'set -e\n{setup}\nexec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


def as_nobody() -> list[str]:
    """Runs a command as nobody, who may read the test's interpreter wherever it lies."""
    return [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
    ]  # fmt: skip


def device(mode: str) -> str:
    """Shell code that makes /dev/fuse one with *mode*."""
    return (
        "mount -t tmpfs none /mnt\n"
        f"mknod /mnt/fuse c 10 229; chmod {mode} /mnt/fuse; touch /mnt/fuse.conf\n"
        "mount --bind /mnt/fuse /dev/fuse; mount --bind /mnt/fuse.conf /etc/fuse.conf"
    )


@foreground_and_background
def test_no_dev_fuse(directory: Path, how: list[str]) -> None:
    done = rucio_fs("mount", *how, directory, within=elsewhere("mount -t tmpfs none /dev"))
    message = complaint(done, 1)
    assert message.startswith("cannot use /dev/fuse: No such file or directory; run: modprobe fuse")
    assert "--device /dev/fuse" in message


@foreground_and_background
def test_a_user_who_may_not_use_dev_fuse(directory: Path, how: list[str]) -> None:
    within = [*elsewhere(device("600")), *as_nobody()]
    message = complaint(rucio_fs("mount", *how, directory, within=within), 1)
    assert message.startswith("cannot use /dev/fuse: Permission denied; ask the administrator")


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ([], 2, "no permission to mount there"),
        (["--allow-other"], 2, "allow_other is for root unless /etc/fuse.conf has a line"),
    ],
)
def test_an_unprivileged_user(directory: Path, more: list[str], code: int, message: str) -> None:
    if more:
        os.chown(directory, NOBODY, NOBODY)
    within = [*elsewhere(device("666")), *as_nobody()]
    assert message in complaint(rucio_fs("mount", *more, directory, within=within), code)


def test_a_user_without_fusermount3(directory: Path) -> None:
    hide = "mount --bind /dev/null /usr/bin/fusermount3"  # not executable
    within = [*elsewhere(f"{device('666')}\n{hide}"), *as_nobody()]
    message = complaint(rucio_fs("mount", directory, within=within), 1)
    assert message.startswith("fusermount3 is missing, which users need to mount")


@foreground_and_background
def test_a_container_that_may_not_mount(directory: Path, how: list[str]) -> None:
    within = ["setpriv", "--bounding-set=-sys_admin"]
    message = complaint(rucio_fs("mount", *how, directory, within=within), 1)
    assert "--cap-add SYS_ADMIN" in message


# --- Rucio -------------------------------------------------------------------------------------


@foreground_and_background
def test_a_rucio_that_does_not_resolve(
    directory: Path, how: list[str], rucio_cfg: Callable[..., Path]
) -> None:
    config = rucio_cfg("http://rucio.invalid")
    done = rucio_fs("mount", *how, "--rucio-config", config, "-o", FAST, directory)
    assert "http://rucio.invalid" in complaint(done, 1)
    assert mounted_at(directory) == []


@foreground_and_background
def test_a_rucio_that_refuses(
    directory: Path, how: list[str], rucio_cfg: Callable[..., Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = rucio_fs("mount", *how, "--rucio-config", rucio_cfg(url), "-o", FAST, directory)
    assert url in complaint(done, 1)


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[str]:
    """URL of a server with a certificate that nobody has signed."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-nodes",
         "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=DEADLINE,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    connection.close()  # the client does not trust us, as it should

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://localhost:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@foreground_and_background
def test_a_wrong_ca(
    directory: Path, how: list[str], rucio_cfg: Callable[..., Path], tls_server: str, lake: Lake
) -> None:
    config = rucio_cfg(tls_server, f"ca_cert = {lake.ca_file}")
    done = rucio_fs("mount", *how, "--rucio-config", config, "-o", FAST, directory)
    message = complaint(done, 1)
    assert tls_server in message
    assert "certificate" in message.lower()


@foreground_and_background
def test_a_missing_rucio_cfg(directory: Path, how: list[str], tmp_path: Path) -> None:
    environment = {"RUCIO_CONFIG": str(tmp_path / "rucio.cfg")}
    message = complaint(rucio_fs("mount", *how, directory, environment=environment), 2)
    assert message.startswith(f"$RUCIO_CONFIG: {tmp_path}/rucio.cfg does not exist")
    environment = {"RUCIO_HOME": str(tmp_path), "VIRTUAL_ENV": "", "CONDA_PREFIX": ""}
    message = complaint(rucio_fs("mount", *how, directory, environment=environment), 2)
    assert f"{tmp_path}/etc/rucio.cfg" in message


@foreground_and_background
def test_a_wrong_password(
    directory: Path, how: list[str], rucio_cfg: Callable[..., Path], lake: Lake
) -> None:
    config = rucio_cfg(lake.rucio_url)
    message = complaint(rucio_fs("mount", *how, "--rucio-config", config, directory), 1)
    assert lake.rucio_url in message
    assert "wrong" not in message  # the password


# --- a mount in the background -----------------------------------------------------------------


@pytest.fixture
def mounted(directory: Path, lake: Lake, tmp_path: Path) -> Path:
    """A mount in the background."""
    log = tmp_path / "log"
    done = rucio_fs("mount", "--rucio-config", lake.client_config(), "--log-file", log, directory)
    assert done == Done(
        0, f"mounted at {directory}; log: {log}; end with: rucio-fs umount {directory}\n", ""
    )
    return directory


def test_mount_refresh_and_umount(mounted: Path) -> None:
    assert mounted_at(mounted) == ["fuse.rucio-fs"]
    server = server_of(mounted)
    assert server is not None
    assert os.getsid(server) == server
    assert os.readlink(f"/proc/{server}/cwd") == "/"
    assert os.readlink(f"/proc/{server}/fd/0") == "/dev/null"
    shown = subprocess.run(["ls", mounted], capture_output=True, text=True, timeout=DEADLINE)
    assert "README.txt" in shown.stdout
    assert rucio_fs("refresh", mounted) == Done(0, "", "")
    assert rucio_fs("umount", mounted) == Done(0, "", "")
    assert mounted_at(mounted) == []
    wait_until(lambda: server_of(mounted) is None, "the server ends")


def test_refresh_elsewhere(directory: Path) -> None:
    assert (
        complaint(rucio_fs("refresh", directory), 2) == f"{directory}: not inside a rucio-fs mount"
    )


def test_refresh_of_a_missing_name(mounted: Path) -> None:
    message = complaint(rucio_fs("refresh", mounted / "nope"), 1)
    assert message == f"{mounted}/nope: No such file or directory"


@foreground_and_background
def test_already_mounted(mounted: Path, how: list[str]) -> None:
    message = complaint(rucio_fs("mount", *how, mounted), 1)
    assert message == (
        f"{mounted}: already mounted by rucio-fs; end it with: rucio-fs umount {mounted}"
    )


@foreground_and_background
def test_a_server_that_died(mounted: Path, how: list[str]) -> None:
    server = server_of(mounted)
    assert server is not None
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: server_of(mounted) is None, "the server ends")
    message = complaint(rucio_fs("mount", *how, mounted), 1)
    assert "whose server has died; run: rucio-fs umount" in message
    assert "has died" in complaint(rucio_fs("refresh", mounted), 1)
    assert rucio_fs("umount", mounted) == Done(0, "", "")
    assert mounted_at(mounted) == []


@pytest.mark.parametrize("how", [[], ["--lazy"]], ids=["plain", "lazy"])
def test_a_server_that_hangs(mounted: Path, how: list[str]) -> None:
    server = server_of(mounted)
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    try:
        message = complaint(rucio_fs("mount", mounted), 1)
        assert "its server does not answer; run: rucio-fs umount" in message
        assert rucio_fs("umount", *how, mounted) == Done(0, "", "")
        assert mounted_at(mounted) == []
    finally:
        os.kill(server, signal.SIGCONT)
    wait_until(lambda: server_of(mounted) is None, "the server ends")


def test_umount_of_a_mount_in_use(mounted: Path) -> None:
    with subprocess.Popen(
        ["sh", "-c", 'cd "$1" && echo && exec sleep 60', "sh", mounted], stdout=subprocess.PIPE
    ) as user:
        try:
            assert user.stdout
            user.stdout.readline()  # it is inside
            wait_until(
                lambda: Path(f"/proc/{user.pid}/comm").read_text() == "sleep\n", "sleep runs"
            )
            done = rucio_fs("umount", mounted)
            assert (done.code, mounted_at(mounted)) == (0, [])
            assert f"in use by sleep (pid {user.pid}): detached" in done.err
        finally:
            user.kill()
    wait_until(lambda: server_of(mounted) is None, "the server ends")


def test_umount_of_what_is_not_ours(directory: Path) -> None:
    assert complaint(rucio_fs("umount", directory), 1) == f"{directory}: not mounted"
    # One of the test's own: a rucio-fs that does not refuse would take it away.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True, timeout=DEADLINE)
    try:
        assert "a tmpfs mount, not one of rucio-fs" in complaint(rucio_fs("umount", directory), 1)
        assert mounted_at(directory) == ["tmpfs"]
    finally:
        subprocess.run(["umount", directory], check=True, timeout=DEADLINE)


def test_a_directory_with_something_in_it(directory: Path, lake: Lake) -> None:
    (directory / "file").touch()
    done = rucio_fs("mount", "--rucio-config", lake.client_config(), directory)
    assert done.code == 0
    assert done.err == (
        f"rucio-fs: warning: {directory} is not empty; its content is hidden while mounted\n"
    )
    assert rucio_fs("umount", directory).code == 0


def test_an_ordinary_user_mounts_and_unmounts(directory: Path, lake: Lake) -> None:
    os.chown(directory, NOBODY, NOBODY)
    script = '"$@" && ls "$MNT" && exec {} umount "$MNT"'.format(" ".join(COMMAND))
    within = [*elsewhere(device("666")), *as_nobody(), "sh", "-c", script, "sh"]
    done = rucio_fs(
        "mount", "--rucio-config", lake.client_config(), directory,
        within=within, environment={"MNT": str(directory)},
    )  # fmt: skip
    assert done.err == ""
    assert done.code == 0
    assert "README.txt" in done.out
    wait_until(lambda: server_of(directory) is None, "the server ends")


def test_ctrl_c_while_waiting_ends_the_server(
    directory: Path, rucio_cfg: Callable[..., Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        config = rucio_cfg(f"http://127.0.0.1:{silent.getsockname()[1]}")
        patient = "rucio.timeout=10min,rucio.deadline=10min"  # so that it does not end by itself
        # A shell that starts the tests with & makes its children ignore SIGINT.
        command = ["env", "--default-signal=INT", *COMMAND, "mount"]
        with subprocess.Popen(
            [*command, "--rucio-config", config, "-o", patient, directory],
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(RUCIO_FS_LOG_FILE="/dev/null", RUCIO_FS_DISKCACHE_SIZE="0"),
        ) as waiting:
            silent.settimeout(DEADLINE)
            connection, _ = silent.accept()  # the server is logging in
            with connection:
                waiting.send_signal(signal.SIGINT)
                _, err = waiting.communicate(timeout=DEADLINE)
                # The empty line ends that of the terminal's ^C.
                assert (waiting.returncode, err) == (130, "\nrucio-fs: error: interrupted\n")
                wait_until(lambda: server_of(directory) is None, "the server ends")
