"""The lake's own life: up, seen, up again, down without a trace, refused in one line."""

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake, LakeError, layout, ports
from lake.processes import Server, is_running, launch, stop

pytestmark = pytest.mark.lake

_PATIENCE = 60.0  # seconds for anything waited for here


def _lake(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lake", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def _processes_in(directory: Path) -> list[str]:
    """Command lines of live processes that work in *directory* or name it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = os.readlink(entry / "cwd")
        except OSError:
            continue
        if command and str(directory) in f"{command} {place}":
            found.append(command)
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory name where the servers' users can go; taken down afterwards."""
    directory = layout.fresh_directory() / "lake"
    yield directory
    _lake("down", "--directory", str(directory))
    directory.parent.rmdir()


@pytest.fixture(scope="module")
def own_lake() -> Iterator[Lake]:
    """A small lake that these tests only look at."""
    lake = Lake.up(free_ports=True, daemons=False, samples=False)
    yield lake
    lake.down()


def test_it_comes_up_and_goes_down_without_a_trace(place: Path) -> None:
    up = _lake("up", "--directory", str(place), "--free-ports", "--no-samples")
    assert "is up after" in up.stdout
    lake = Lake.load(place)
    numbers = list(lake.ports.values())
    status = _lake("status", "--directory", str(place))
    assert {line.split()[0] for line in status.stdout.splitlines()} == {
        *("postgres", "memcached", "rucio", "colo", "rem1", "nginx", "apache", "fts", "daemons")
    }
    assert " down " not in status.stdout
    assert _processes_in(place)

    _lake("down", "--directory", str(place))

    assert not _processes_in(place)
    assert not place.exists()
    for port in numbers:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is still served"


def test_a_second_up_finds_it_running(own_lake: Lake) -> None:
    pids = [server.pid for server, _ in own_lake.servers()]
    again = _lake("up", "--directory", str(own_lake.directory), "--free-ports")
    assert "is up already" in again.stdout
    assert [server.pid for server, _ in Lake.load(own_lake.directory).servers()] == pids


def test_every_server_listens_on_loopback_only(own_lake: Lake) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in listening.splitlines()]
    for name, port in own_lake.ports.items():
        hosts = {
            row[1].split(":")[0]
            for row in rows
            if row[1].endswith(f":{port:04X}") and row[3] == "0A"
        }
        assert hosts == {"0100007F"}, name


def test_env_makes_a_shell_a_client(own_lake: Lake) -> None:
    exports = _lake("env", "--directory", str(own_lake.directory)).stdout
    script = f'{exports}\nprintf "%s\\n" "$LAKE" "$X509_USER_PROXY"; rucio whoami'
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(own_lake.directory)
    assert Path(lines[1]).is_file()
    assert re.search(r"account\s*:\s*root", done.stdout)
    assert "[database]" not in own_lake.client_config("alice").read_text()


def test_the_access_log_tells_method_query_status_bytes_and_agent(own_lake: Lake) -> None:
    script = (
        "import urllib.request as u;"
        f"r = u.Request('{own_lake.rucio_url}/ping?who=me', headers={{'User-Agent': 'looker/1'}});"
        "print(len(u.urlopen(r).read()))"
    )
    size = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    wanted = re.compile(rf'"GET /ping\?who=me HTTP/1\.1" 200 {int(size)} \d+ "looker/1"')
    deadline = time.monotonic() + _PATIENCE
    while not wanted.search(own_lake.access_log.read_text()):
        assert time.monotonic() < deadline, own_lake.access_log.read_text()


def test_a_taken_port_is_named_and_nothing_is_left(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        options = ["--free-ports", "--port", f"fts={port}"]
        done = _lake("up", "--directory", str(place), *options, check=False)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert f"port {port} (fts) is taken" in done.stderr
    assert not place.exists()


def test_a_directory_out_of_the_servers_reach_is_refused(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user's servers reach what he reaches")
    place.mkdir(mode=0o700)
    try:
        done = _lake("up", "--directory", str(place / "lake"), check=False)
    finally:
        place.rmdir()
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{place} lacks o+x" in done.stderr


def test_a_foreign_directory_is_left_alone(place: Path) -> None:
    place.mkdir(mode=0o755)
    (place / "thesis.tex").write_text("years of work")
    done = _lake("up", "--directory", str(place), check=False)
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert (place / "thesis.tex").read_text() == "years of work"
    (place / "thesis.tex").unlink()
    place.rmdir()


def test_a_directory_we_did_not_make_stays(place: Path) -> None:
    place.mkdir(mode=0o755)
    lake = Lake.up(place, free_ports=True, daemons=False, samples=False)
    (place / "mine.txt").write_text("kept")
    lake.down()
    assert [path.name for path in place.iterdir()] == ["mine.txt"]
    (place / "mine.txt").unlink()
    place.rmdir()


def test_a_missing_environment_says_what_to_run(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lake", "up", "--directory", str(place), "--free-ports"],
        env=dict(os.environ, LAKE_VENV=str(place / "venv")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "run python -m lake install" in done.stderr
    assert not place.exists()


def test_a_failed_start_shows_the_log_and_cleans_up(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sh", "-c", "echo the disk is on fire; exit 1"]
    monkeypatch.setattr("lake.starting.nginx_command", lambda *_: command)
    with pytest.raises(LakeError, match=r"nginx ended at once:\n.*nginx.log\nthe disk is on fire"):
        Lake.up(place, free_ports=True, daemons=False, samples=False)
    assert not _processes_in(place)
    assert not place.exists()


def test_a_terminated_start_cleans_up(place: Path) -> None:
    command = [sys.executable, "-m", "lake", "up", "-d", str(place), "--free-ports"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as starting:
        deadline = time.monotonic() + _PATIENCE
        while not (place / "log" / "rucio.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        starting.send_signal(signal.SIGTERM)
    assert starting.returncode != 0
    assert not _processes_in(place)
    assert not place.exists()


def test_a_killed_start_can_be_taken_down(place: Path) -> None:
    command = [sys.executable, "-m", "lake", "up", "-d", str(place), "--free-ports"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as starting:
        deadline = time.monotonic() + _PATIENCE
        while not (place / "log" / "rucio.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        meanwhile = _lake("up", "--directory", str(place), check=False)
        assert "another command is at work" in meanwhile.stderr
        starting.kill()
    _lake("down", "--directory", str(place))
    assert not place.exists()
    # The bootstrap is no server: it ends with the command that started it.
    deadline = time.monotonic() + _PATIENCE
    while left := _processes_in(place):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_dead_server_shows_in_status(place: Path) -> None:
    lake = Lake.up(place, free_ports=True, daemons=False, samples=False)
    victim = next(server for server, _ in lake.servers() if server.name == "memcached")
    os.kill(victim.pid, signal.SIGKILL)
    os.waitpid(victim.pid, 0)
    status = _lake("status", "--directory", str(place), check=False)
    assert status.returncode == 1
    assert re.search(r"^memcached +down ", status.stdout, re.MULTILINE)
    again = _lake("up", "--directory", str(place), check=False)
    assert again.returncode == 1
    assert "is not whole" in again.stderr


def test_children_end_with_their_server_even_after_it_died(place: Path) -> None:
    place.mkdir(mode=0o755)
    pids = place / "pids"
    # One child in the server's session, one in a session of its own.
    script = f"sleep 600 & echo $! > {pids}; setsid sleep 600 & echo $! >> {pids}; wait"
    servers = []
    for killed_first in (False, True):
        pids.unlink(missing_ok=True)
        server = launch(
            "nest",
            ["sh", "-c", script],
            url="-",
            directory=place,
            log=place / "log",
            environment=os.environ,
        )
        servers.append(server)
        deadline = time.monotonic() + _PATIENCE
        while not pids.exists() or len(pids.read_text().split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = [int(pid) for pid in pids.read_text().split()]
        if killed_first:
            # Its own session is lost with it; that one is told by nothing and ended here.
            os.kill(server.pid, signal.SIGKILL)
            os.kill(children.pop(), signal.SIGKILL)
        stop([server], place)
        for child in children:
            assert not _is_alive(child)
    pids.unlink()
    (place / "log").unlink()
    place.rmdir()


def test_a_recycled_pid_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as innocent:
        recycled = Server("postgres", innocent.pid, 1, "-", str(tmp_path / "log"))
        assert not is_running(recycled)
        stop([recycled], tmp_path)
        assert innocent.poll() is None
        innocent.kill()


def test_a_closed_null_device_is_repaired_for_the_servers(place: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root's servers run as other users")
    null = tmp_path / "null"
    os.mknod(null, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    options = "--free-ports --no-samples --no-daemons"
    script = f'mount --bind {null} /dev/null && exec "$0" -m lake up -d {place} {options}'
    command = ["unshare", "-m", "--propagation", "private", "sh", "-ec", script, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert Lake.load(place).is_up()


def test_two_servers_get_no_common_port() -> None:
    with pytest.raises(LakeError, match="two servers cannot share port 8440"):
        ports.choose({"fts": 8440, "rucio": 8440}, free=True, oidc=False)
    chosen = ports.choose({}, free=True, oidc=True)
    assert set(chosen) == set(ports.DEFAULTS)
    assert len(set(chosen.values())) == len(chosen)


def test_a_mount_below_is_not_deleted_into(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "mnt").mkdir(parents=True)
    monkeypatch.setattr(layout, "_mounts", lambda: [place / "mnt"])
    with pytest.raises(LakeError, match=r"mnt is mounted: unmount it, try again"):
        layout.remove(place, made=True)
    assert (place / "mnt").exists()
    (place / "mnt").rmdir()
    place.rmdir()


def test_importing_the_lake_does_not_import_rucio() -> None:
    script = "import sys, lake; print(sorted(m for m in sys.modules if m.startswith('rucio')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert json.loads(done.stdout) == [], done.stderr
    assert shlex.split(done.stderr) == []


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
