"""Starts every server of a lake, as much at once as their needs allow.

The order: PostgreSQL makes its data directory while Rucio imports; keys, sample bytes and the
storages come meanwhile; the bootstrap waits for the database, the daemons for the bootstrap.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from lake import placing
from lake.database import Database
from lake.errors import LakeError
from lake.install import cache, node_modules, server_python, venv
from lake.ports import HOST, is_listening
from lake.processes import Server, is_running, launch, uninterrupted
from lake.rses import RSES, TOKENS, WEBDAV
from lake.server import RucioServer
from lake.state import State
from lake.storage import apache_command, nginx_command, xrootd_command
from lake.system import program
from lake.tls import Tls
from lake.users import service_user

_PATIENCE = 120.0  # seconds a server may take: 5 for all on two idle cores, 25 at a load of 10
_POLL = 0.02
_REPOSITORY = Path(__file__).parent.parent


class Starter:
    """One start of one lake."""

    def __init__(self, state: State) -> None:
        """Only names things; see run()."""
        self._state = state
        self._ports = state.ports
        self._directory = state.directory
        self._log = state.directory / "log"
        self._run = state.directory / "run"
        self._store = state.directory / "store"
        self._tls = Tls(state.directory / "tls")
        self._rucio = RucioServer(state.directory, self._ports["rucio"])
        self._issuer = f"https://localhost:{self._ports['oidc']}" if state.oidc else None
        self._environment = self._make_environment()
        self._waits: list[tuple[Server, Callable[[], bool]]] = []

    def run(self) -> None:
        """Start everything and return when all servers answer.  Raises: LakeError."""
        python = server_python()
        # Made first, although the storages need them later: the bootstrap reads the manifest.
        source = placing.samples_directory(cache()) if self._state.samples else None
        for directory in (self._log, self._run, self._store, self._tls.directory):
            directory.mkdir(mode=0o755)
            directory.chmod(0o755)
        self._start_database()
        bootstrap = self._start_rucio(python, source)
        try:
            self._tls.make()
            self._start_storages()
            self._start_transfers()
            if self._issuer is not None:
                self._start_oidc(self._issuer)
            if source is not None:
                placing.place(source, self._store)
            self._await_bootstrap(bootstrap)
        finally:
            bootstrap.kill()
            bootstrap.wait()
        if self._state.daemons:
            self._start_daemons(python)
        for server, is_ready in self._waits:
            self._await(server, is_ready)
        self._state.complete = True
        self._state.save()

    def _start_database(self) -> None:
        port, memcached = self._ports["postgres"], self._ports["memcached"]
        database = Database(self._directory / "postgres", port)
        self._launch("postgres", database.command(), port, cwd=database.directory)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [program("memcached"), *user, "-l", HOST, "-p", str(memcached), "-m", "128"]
        server = self._launch("memcached", command, memcached)
        templates = venv() / "rucio" / "etc" / "mail_templates"
        self._rucio.configure(database.url, memcached, self._issuer, templates=templates)
        # Rucio decides at import whether it caches; without, listing replicas takes 6 ms a file.
        self._await(server, lambda: is_listening(memcached))

    def _start_rucio(self, python: Path, source: Path | None) -> subprocess.Popen[bytes]:
        settings = self._rucio.config.parent / "bootstrap.json"
        settings.write_text(
            json.dumps(
                {
                    "ports": self._ports,
                    "store": str(self._store),
                    "fts_url": f"http://{HOST}:{self._ports['fts']}",
                    "issuer": self._issuer or "https://localhost:8450",
                    "manifest": None if source is None else str(source / "manifest.json"),
                }
            )
        )
        with (self._log / "bootstrap.log").open("wb") as log:
            bootstrap = subprocess.Popen(
                [str(python), "-m", "lake.inside.bootstrap", str(settings), str(os.getpid())],
                env=self._environment,
                cwd=self._run,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            url = f"{self._rucio.url}/ping"
            command = self._rucio.command(python)
            port = self._ports["rucio"]
            self._launch("rucio", command, port, lambda: _answers(url), self._rucio.url)
        except BaseException:
            bootstrap.kill()
            bootstrap.wait()
            raise
        return bootstrap

    def _start_storages(self) -> None:
        for rse in RSES:
            placing.make_tree(rse, self._store)
        for name in ("colo", "rem1"):
            port = self._ports[name]
            command = xrootd_command(name, port, self._store / name, self._run / name, self._tls)
            self._launch(name, command, port, url=f"https://localhost:{port}")
        dav, davs = self._ports["dav"], self._ports["davs"]
        run = self._run / "nginx"
        command = nginx_command(dav, davs, self._store / "rem2", run, self._tls)
        self._launch("nginx", command, davs, url=f"https://localhost:{davs}")
        self._start_apache()

    def _start_apache(self) -> None:
        declared = WEBDAV["apache"]
        http, https = self._ports[declared.plain], self._ports[declared.tls]
        store, run = self._store / declared.tree, self._run / "apache"
        placing.make_parents(store / "x", self._store, service_user(declared.owner))
        command = apache_command(http, https, store, run, self._tls)
        self._launch("apache", command, https, url=f"https://localhost:{https}")

    def _start_transfers(self) -> None:
        port = self._ports["fts"]
        options = ["--host", HOST, "--port", str(port), "--mode", self._state.fts_mode]
        command = [sys.executable, "-m", "lake.fts", *options]
        self._launch("fts", command, port, url=f"http://{HOST}:{port}")

    def _start_oidc(self, issuer: str) -> None:
        settings = self._directory / "etc" / "oidc.json"
        settings.write_text(
            json.dumps(
                {
                    "port": self._ports["oidc"],
                    "rucio_url": self._rucio.url,
                    "key": str(self._tls.host_key),
                    "certificate": str(self._tls.host_certificate),
                }
            )
        )
        run = self._run / "oidc"
        run.mkdir()
        script = Path(shutil.copy(Path(__file__).parent / "oidc" / "provider.mjs", run))
        (run / "node_modules").symlink_to(node_modules())  # node looks beside the script
        command = [program("node"), str(script), str(settings)]
        self._launch("oidc", command, self._ports["oidc"], url=issuer)
        placing.make_tree(TOKENS, self._store)
        port = self._ports["tokens"]
        store, run = self._store / "tokens", self._run / "tokens"
        guarded = xrootd_command("tokens", port, store, run, self._tls, issuer=issuer)
        self._launch("tokens", guarded, port, url=f"https://localhost:{port}")

    def _start_daemons(self, python: Path) -> None:
        ready = self._run / "daemons-ready"
        command = [str(python), "-m", "lake.inside.daemons", str(ready)]
        self._launch("daemons", command, None, ready.exists)

    def _launch(
        self,
        name: str,
        command: Sequence[str],
        port: int | None,
        is_ready: Callable[[], bool] | None = None,
        url: str | None = None,
        cwd: Path | None = None,
    ) -> Server:
        with uninterrupted():
            server = launch(
                name,
                command,
                url=url or (f"{HOST}:{port}" if port else "-"),
                directory=cwd or self._run,
                log=self._log / f"{name}.log",
                environment=self._environment,
            )
            self._state.servers.append(server)
            self._state.save()
        if is_ready is None and port is not None:
            is_ready = lambda: is_listening(port)  # noqa: E731
        if is_ready is not None:
            self._waits.append((server, is_ready))
        return server

    def _await(self, server: Server, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not is_ready():
            if not is_running(server):
                raise LakeError(f"{server.name} ended at once:\n{tail(Path(server.log))}")
            if time.monotonic() > deadline:
                raise LakeError(f"{server.name} does not answer:\n{tail(Path(server.log))}")
            time.sleep(_POLL)

    def _await_bootstrap(self, bootstrap: subprocess.Popen[bytes]) -> None:
        """Wait for the bootstrap, but not for longer than the database it needs lives."""
        deadline = time.monotonic() + _PATIENCE
        postgres = self._state.servers[0]
        while bootstrap.poll() is None and time.monotonic() < deadline:
            if not is_running(postgres):
                raise LakeError(f"postgres ended at once:\n{tail(Path(postgres.log))}")
            time.sleep(_POLL)
        if bootstrap.returncode != 0:
            raise LakeError(f"Rucio's bootstrap failed:\n{tail(self._log / 'bootstrap.log')}")

    def _make_environment(self) -> dict[str, str]:
        own = {
            "LAKE": str(self._directory),
            "HOME": str(self._run),
            "PYTHONPATH": str(_REPOSITORY),
            "RUCIO_CONFIG": str(self._rucio.config),
            "X509_USER_PROXY": str(self._tls.user_proxy),
            "X509_CERT_DIR": str(self._tls.ca_directory),
            "no_proxy": f"localhost,{HOST}",
            "NO_PROXY": f"localhost,{HOST}",
        }
        if self._issuer is not None:
            own["REQUESTS_CA_BUNDLE"] = str(self._tls.bundle)  # Rucio asks the provider for keys
        return dict(os.environ) | own


def tail(log: Path, lines: int = 12) -> str:
    """Return the end of a log, for an error message."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"{log}: {error.strerror}"
    return "\n".join([f"--- the end of {log.name}", *text.splitlines()[-lines:]])


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as response:
            response.read()
            return True
    except urllib.error.HTTPError:
        return False
    except OSError:
        return False
