"""The lake as its users see it: bring one up, find a running one, take it down."""

import contextlib
import fcntl
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from lake import layout, ports, state
from lake.errors import LakeError
from lake.install import node_modules, server_python
from lake.namespaces import check_allowed
from lake.placing import make_parents
from lake.processes import Server, is_running, stop, uninterrupted
from lake.rounds import Rounds
from lake.rses import BY_NAME, TOKENS, WEBDAV
from lake.server import RucioServer
from lake.starting import Starter
from lake.system import check as check_packages
from lake.tls import Tls
from lake.users import service_user

_FTS_MODES = ("stream", "tpc")
_SCOPE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,24}"  # Rucio's schema
_FOR_ENDPOINTS = "endpoints"  # in every storage server's tree
_NO_WAIT = fcntl.LOCK_EX | fcntl.LOCK_NB


class Lake:
    """A running lake.  Made by up() or load()."""

    def __init__(self, running: state.State) -> None:
        """Take over a state; use up() or load()."""
        self._state = running
        self._rucio = RucioServer(running.directory, running.ports["rucio"])
        self._tls = Tls(running.directory / "tls")
        self._rounds = Rounds(running.directory / "run")
        self.directory = running.directory
        self.ports: Mapping[str, int] = dict(running.ports)

    @classmethod
    def up(
        cls,
        directory: Path | None = None,
        *,
        free_ports: bool = False,
        oidc: bool = False,
        daemons: bool = True,
        samples: bool = True,
        fts_mode: str = "stream",
        wanted_ports: Mapping[str, int] | None = None,
    ) -> Self:
        """Start a lake in *directory*, or in one made under /var/tmp; return when it is usable.

        A lake that runs in *directory* already is returned as it is.  Takes 5 to 8 s.

        Raises: LakeError and its kinds; nothing is left behind then.
        """
        if fts_mode not in _FTS_MODES:
            raise LakeError(f"no FTS mode {fts_mode}; there are: {', '.join(_FTS_MODES)}")
        if directory is not None:
            directory = directory.absolute()
            running = state.load(directory)
            if running is not None:
                return cls._already(running)
        check_packages(oidc=oidc)
        server_python()
        if oidc:
            check_allowed()
            node_modules()
        chosen = ports.choose(wanted_ports or {}, free=free_ports, oidc=oidc)
        if directory is None:
            directory, made = layout.fresh_directory(), True
        else:
            made = layout.prepare(directory)
        fresh = state.State(
            directory=directory,
            made_directory=made,
            boot_id=state.boot_id(),
            ports=chosen,
            oidc=oidc,
            fts_mode=fts_mode,
            daemons=daemons,
            samples=samples,
        )
        with _locked(directory):
            try:
                fresh.save()  # from here on down() knows what to remove, whatever happens to us
                Starter(fresh).run()
            except BaseException:
                with uninterrupted():  # an impatient second Ctrl-C would leave servers behind
                    _end(fresh)
                raise
        return cls(fresh)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Return the lake that runs in *directory*.  Raises: LakeError where there is none."""
        running = state.load(Path(directory).absolute())
        if running is None:
            raise LakeError(f"no lake in {directory}: python -m lake up --directory {directory}")
        return cls(running)

    @classmethod
    def _already(cls, running: state.State) -> Self:
        lake = cls(running)
        if lake.is_up():
            return lake
        with _locked(lake.directory):  # or it is just coming up
            pass
        raise LakeError(
            f"the lake in {lake.directory} is not whole (status tells what is down): "
            f"python -m lake down --directory {lake.directory}"
        )

    def down(self) -> None:
        """End every server with its children and remove the lake's files."""
        with _locked(self.directory):
            _end(self._state)

    def is_up(self) -> bool:
        """Say whether the start got to its end and every server still runs."""
        return self._state.complete and all(up for _, up in self.servers())

    def servers(self) -> list[tuple[Server, bool]]:
        """Return every server and whether it runs."""
        same_boot = self._state.boot_id == state.boot_id()
        return [(server, same_boot and is_running(server)) for server in self._state.servers]

    def pause_daemons(self, *names: str) -> None:
        """Keep some of Rucio's daemons (rounds.DAEMONS) from working; return when none does.

        Without "repairer" a STUCK rule stays STUCK, without "submitter", "poller" or "finisher" a
        rule stays REPLICATING, without "cleaner" an expired rule, without "reaper" its replicas.
        Raises: LakeError.
        """
        self._rounds.pause(names, self._have_daemons)

    def resume_daemons(self, *names: str) -> None:
        """Let daemons work again, all of them if none is named.  Raises: LakeError."""
        self._rounds.resume(names, self._have_daemons)

    def run_daemons(self) -> None:
        """Have every daemon that is not paused work once from now; return when all have.

        Raises: LakeError.
        """
        self._rounds.run(self._have_daemons)

    def paused_daemons(self) -> tuple[str, ...]:
        """Return the names of the daemons that are paused."""
        return self._rounds.paused()

    @property
    def rucio_url(self) -> str:
        """Rucio's REST interface and its authentication."""
        return self._rucio.url

    @property
    def fts_url(self) -> str:
        """The FTS stand-in."""
        return f"http://{ports.HOST}:{self.ports['fts']}"

    @property
    def oidc_url(self) -> str | None:
        """The issuer of tokens, if there is one."""
        return f"https://localhost:{self.ports['oidc']}" if self._state.oidc else None

    @property
    def ca_file(self) -> Path:
        """The certificate of the lake's authority."""
        return self._tls.ca_file

    @property
    def ca_directory(self) -> Path:
        """The same, as a hashed directory (X509_CERT_DIR)."""
        return self._tls.ca_directory

    @property
    def user_proxy(self) -> Path:
        """A user's certificate and key in one file (X509_USER_PROXY)."""
        return self._tls.user_proxy

    @property
    def access_log(self) -> Path:
        """Rucio's access log: time, "method path?query", status, bytes, microseconds, agent."""
        return self._rucio.access_log

    @property
    def trace_log(self) -> Path:
        """Where Rucio notes traces: a line of JSON each, and its complaints about bad ones."""
        return self._rucio.trace_log

    def traces(self) -> list[dict[str, Any]]:
        """Return the traces Rucio took, oldest first, with the trace* fields it adds."""
        lines = self.trace_log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def server_python(self) -> Path:
        """The python of Rucio's environment."""
        return server_python()

    def client_config(self, account: str = "root") -> Path:
        """Return the rucio.cfg of root, alice or bob."""
        path = self._rucio.client_config(account)
        if not path.exists():
            raise LakeError(f"the lake has no account {account}; there are: root, alice, bob")
        return path

    def store(self, rse: str) -> Path:
        """Return the local directory of an RSE's files (TOKENS: the token-guarded XRootD's)."""
        if rse == TOKENS.name and self._state.oidc:
            return self.directory / "store" / TOKENS.tree
        if rse not in BY_NAME:
            raise LakeError(f"the lake has no RSE {rse}; there are: {', '.join(BY_NAME)}")
        return self.directory / "store" / BY_NAME[rse].tree

    def webdav(self, server: str, *, tls: bool) -> tuple[str, Path]:
        """Return the URL of a storage server's directory for others' files, and that directory.

        *server* is colo, rem1, nginx or apache, with --oidc also tokens.  The directory is
        made if it is missing, its server's user's; nothing of the samples is in it.

        Raises: LakeError (no such server).
        """
        known = {name: dav for name, dav in WEBDAV.items() if dav.tls in self.ports}
        if server not in known:
            raise LakeError(f"the lake has no server {server}; there are: {', '.join(known)}")
        found = known[server]
        root = self.directory / "store" / found.tree
        tree = root / _FOR_ENDPOINTS
        make_parents(tree / "x", root, service_user(found.owner))
        scheme, port = ("https", found.tls) if tls else ("http", found.plain)
        return f"{scheme}://localhost:{self.ports[port]}/{_FOR_ENDPOINTS}/", tree

    def exports(self) -> dict[str, str]:
        """Return the variables a client needs, apart from those it has."""
        search = os.environ.get("PATH", os.defpath)
        return {
            "LAKE": str(self.directory),
            "RUCIO_CONFIG": str(self.client_config()),
            "X509_USER_PROXY": str(self.user_proxy),
            "X509_CERT_DIR": str(self.ca_directory),
            "PATH": f"{self.server_python.parent}{os.pathsep}{search}",
        }

    def environment(self) -> dict[str, str]:
        """Return a whole environment for a client's process."""
        return dict(os.environ) | self.exports()

    def _have_daemons(self) -> bool:
        return any(server.name == "daemons" and up for server, up in self.servers())

    def fill(
        self, scope: str, *, datasets: int = 0, loose: int = 0, big: int = 0, both: bool = False
    ) -> None:
        """Make *scope* with many DIDs that have no bytes (inside/fill.py).

        *datasets* empty ones, all in the container `all`; *loose* files; *big* files in the dataset
        `big`.  Replicas are at REM1, with *both* also at COLO.  130,000 DIDs take 10 s.

        Raises: LakeError (the scope exists, for one).
        """
        if not re.fullmatch(_SCOPE, scope):
            raise LakeError(f"{scope!r} is no scope: up to 25 of letters, digits, and ._-")
        options = ["--both-rse"] if both else []
        done = subprocess.run(
            [
                *[str(self.server_python), "-m", "lake.inside.fill"],
                *[scope, str(datasets), str(loose), str(big), *options],
            ],
            env=self.environment()
            | {
                "RUCIO_CONFIG": str(self._rucio.config),
                "PYTHONPATH": str(Path(__file__).parent.parent),
            },
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise LakeError(f"filling scope {scope} failed: {reason}")


def _end(ending: state.State) -> None:
    if ending.boot_id == state.boot_id():
        stop(ending.servers, ending.directory)
    layout.remove(ending.directory, made=ending.made_directory)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep two commands from starting or ending one lake at once."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:
        raise LakeError(f"no lake in {directory}") from None
    try:
        fcntl.flock(handle, _NO_WAIT)
        yield
    except BlockingIOError:
        raise LakeError(f"another command is at work on the lake in {directory}") from None
    finally:
        os.close(handle)
