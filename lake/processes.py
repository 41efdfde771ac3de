"""Starts servers, tells whether they still run, and ends them with all their children.

A server is known by its pid *and* its start time, so a recycled pid is never killed.  Nothing here
keeps a subprocess.Popen: the servers outlive the process that started them.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL = 0.02  # seconds between two looks at /proc while a server ends
_GRACE = 8.0  # seconds between asking and killing; PostgreSQL and gunicorn need well under 2


@dataclass(frozen=True)
class Server:
    """One started server, as lake.json keeps it."""

    name: str
    pid: int
    started: int  # clock ticks since boot, /proc/PID/stat field 22
    url: str
    log: str


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    session: int
    started: int
    state: str


def launch(
    name: str,
    command: Sequence[str],
    *,
    url: str,
    directory: Path,
    log: Path,
    environment: Mapping[str, str],
) -> Server:
    """Start *command* in its own session, in *directory*, with its output in *log*."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawnp(
        "env",
        ["env", "-C", str(directory), *command],
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],  # whatever uninterrupted() blocks, the server must hear
    )
    process = _look(pid)
    return Server(name, pid, process.started if process else 0, url, str(log))


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM: between a launch and its record nothing may come."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_running(server: Server) -> bool:
    """Say whether *server* itself lives (not a zombie, not another process with its pid)."""
    process = _look(server.pid)
    return process is not None and process.started == server.started and process.state not in "ZX"


def stop(servers: Iterable[Server], directory: Path, *, grace: float = _GRACE) -> None:
    """End *servers* and everything they started; return when all are gone.

    *directory* is the lake's: where a leader has died, its orphans are told by working in there.
    """
    servers = list(servers)
    family = {p.pid: p for server in servers for p in _family(server, directory)}
    for server in servers:
        if is_running(server):
            # PostgreSQL waits for its clients on SIGTERM; SIGINT is its fast shutdown.
            _send(server.pid, signal.SIGINT if server.name == "postgres" else signal.SIGTERM)
    leaders = {server.pid for server in servers}
    deadline = time.monotonic() + grace
    _await_end((p for p in family.values() if p.pid in leaders), deadline)
    # Children born meanwhile, and children whose leader left without them.
    family |= {p.pid: p for server in servers for p in _family(server, directory)}
    _await_end(family.values(), min(deadline, time.monotonic() + 1.0))
    left = [p for p in family.values() if _is_alive(p)]
    for process in left:
        _send(process.pid, signal.SIGKILL)
    _await_end(left, time.monotonic() + 5.0)
    for server in servers:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(server.pid, os.WNOHANG)


def _family(server: Server, directory: Path) -> list[_Process]:
    """Return the server, its descendants, and what is left of its session."""
    table = {p.pid: p for p in _all()}
    leader = table.get(server.pid)
    if leader is not None and leader.started != server.started:
        return []  # the pid belongs to somebody else now
    members = [p for p in table.values() if p.session == server.pid]
    if leader is None:
        members = [p for p in members if _works_in(p.pid, directory)]
    found = {p.pid: p for p in members} | ({leader.pid: leader} if leader else {})
    grown = True
    while grown:  # PostgreSQL's children have sessions of their own: follow the parents
        children = [p for p in table.values() if p.parent in found and p.pid not in found]
        grown = bool(children)
        found |= {p.pid: p for p in children}
    return list(found.values())


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(directory)
    except OSError:
        return False


def _await_end(processes: Iterable[_Process], deadline: float) -> None:
    waiting = [p for p in processes if _is_alive(p)]
    while waiting and time.monotonic() < deadline:
        time.sleep(_POLL)
        waiting = [p for p in waiting if _is_alive(p)]


def _is_alive(process: _Process) -> bool:
    with contextlib.suppress(ChildProcessError):  # reap it if it is our own child
        os.waitpid(process.pid, os.WNOHANG)
    now = _look(process.pid)
    return now is not None and now.started == process.started and now.state not in "ZX"


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _all() -> Iterable[_Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := _look(int(entry))) is not None:
            yield process


def _look(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command name may hold spaces and brackets
    return _Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0])
