"""What the benchmarks stand on: a lake, its content, mounts of it, and clients."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.served import BenchError, Served
from lake import Lake

_CLIENT = Path(__file__).parent / "client.py"
_CLIENT_TIMEOUT = 300.0  # s; nothing measured takes half of it
_FOREIGN = ("RUCIO", "X509", "XDG", "SITE_NAME", "ATLAS_SITE", "OSG_SITE", "BEARER_TOKEN")
# PostgreSQL gathers its statistics a minute after the filling; without them Rucio's bulk calls
# take a plan that costs seven times as much.
_ANALYZE = """
from rucio.db.sqla.session import get_engine
with get_engine().connect() as connection:
    connection.exec_driver_sql("ANALYZE")
    connection.commit()
"""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int = 5
    files: int = 10_000  # in the dataset `big`
    entries: int = 100_000  # what the scope shows
    datasets: int = 20_000  # in the container `all`
    file_bytes: int = 1 << 30
    slow_bytes: int = 128 << 20  # of these, for what reads a fiftieth as fast
    reads: int = 20_000
    slow_reads: int = 500
    stats: int = 10_000
    waiting: int = 500  # opens of files that are elsewhere
    scopes: int = 10  # of `entries` each, with --long
    shared_bytes: int = 256 << 20  # of a file that is streamed beside others, or by many
    random_reads: int = 50
    streams: int = 64  # open at once


QUICK = Sizes(
    rounds=2,
    files=200,
    entries=1_000,
    datasets=100,
    file_bytes=32 << 20,
    slow_bytes=8 << 20,
    reads=1_000,
    slow_reads=100,
    stats=100,
    waiting=20,
    scopes=2,
    shared_bytes=16 << 20,
    random_reads=10,
    streams=8,
)


@dataclass
class Bench:
    """A lake to measure on and a directory for mounts, logs and settings."""

    lake: Lake
    sizes: Sizes
    directory: Path
    is_long: bool = False
    tag: str = field(default_factory=lambda: secrets.token_hex(3))
    _mounts: int = 0

    @cached_property
    def scope(self) -> str:
        """A scope that shows `entries` DIDs, among them `big` and `all`."""
        sizes = self.sizes
        name = f"bench-{self.tag}"
        say(f"filling a scope with {sizes.entries + sizes.files + sizes.datasets:,} DIDs")
        self.lake.fill(name, datasets=sizes.datasets, loose=sizes.entries - 2, big=sizes.files)
        self.analyze()
        return name

    def more_scopes(self) -> Iterator[str]:
        """Make scopes of `entries` loose files each."""
        for number in range(self.sizes.scopes):
            name = f"bench-{self.tag}-{number}"
            self.lake.fill(name, loose=self.sizes.entries)
            yield name
        self.analyze()

    def analyze(self) -> None:
        config = self.lake.directory / "etc" / "rucio.cfg"
        subprocess.run(
            [str(self.lake.server_python), "-c", _ANALYZE],
            env=self.lake.environment() | {"RUCIO_CONFIG": str(config)},
            check=True,
            capture_output=True,
            timeout=_CLIENT_TIMEOUT,
        )

    # --- mounts --------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """Ours without what steers Rucio's clients; logins are not shared with anybody."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(_FOREIGN)}
        runtime = self.directory / "runtime"
        runtime.mkdir(mode=0o700, exist_ok=True)
        settings = self.directory / "rucio-fs.toml"
        settings.touch()
        return kept | {
            "XDG_RUNTIME_DIR": str(runtime),
            "RUCIO_FS_CONFIG": str(settings),
            "LC_ALL": "C.UTF-8",
        }

    def options(self, options: Mapping[str, object] | None = None) -> list[str]:
        """Arguments of ``rucio-fs mount``: the site with its storage, then *options* of ``-o``.

        An option that is None is left out: ``rse=None`` is a mount without storage beside it.
        """
        # By default it would be kept beyond the benchmark.
        blocks = self.directory / f"blocks-{self._mounts}"
        site = {"site": "HERE", "rse": "COLO", "diskcache.dir": blocks}
        wanted = site | dict(options or {})
        arguments = ["--rucio-config", str(self.lake.client_config())]
        for key, value in wanted.items():
            if value is not None:
                arguments += ["-o", f"{key}={value}"]
        return arguments

    def mount(self, **options: object) -> Served:
        """Mount the lake; ``cache__size`` is the option cache.size."""
        spelled = {key.replace("__", "."): value for key, value in options.items()}
        path = self.mountpoint("rucio-fs")
        command = [sys.executable, "-m", "rucio_fs", "mount", "--foreground"]
        return Served("rucio-fs", [*command, *self.options(spelled), path], path, self.environment)

    def mountpoint(self, name: str) -> Path:
        """A path that is not in use yet; not made."""
        self._mounts += 1
        return self.directory / f"{name}-{self._mounts}"

    # --- clients -------------------------------------------------------------------------------

    def client(self, function: str, *arguments: object) -> Any:
        """Run a function of client.py and return what it returns."""
        shown = [str(a) if isinstance(a, Path) else a for a in arguments]
        return json.loads(
            self.run([sys.executable, "-I", str(_CLIENT), function, json.dumps(shown)])
        )

    def run(self, command: Sequence[str | Path]) -> str:
        """Run a client program; return what it prints.  Raises: BenchError."""
        try:
            done = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_CLIENT_TIMEOUT,
                env=self.environment,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"{command[0]} took over {_CLIENT_TIMEOUT:g} s") from None
        if done.returncode:
            raise BenchError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
        return done.stdout

    def time(self, command: Sequence[str | Path]) -> float:
        """Seconds that a client program takes from its start to its end; its output is dropped."""
        start = time.perf_counter()
        try:
            subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=_CLIENT_TIMEOUT,
                env=self.environment,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            raise BenchError(str(error)) from None
        return time.perf_counter() - start

    def status(self, served: Served) -> dict[str, Any]:
        """`.rucio/status` of a mount."""
        return dict(json.loads(self.run(["cat", served.path / ".rucio" / "status"])))

    def calls(self) -> int:
        """Calls that mounts have made to this lake's Rucio so far."""
        text = self.lake.access_log.read_text(errors="replace")
        return sum("rucio-fs" in line.rpartition(' "')[2] for line in text.splitlines())


@contextlib.contextmanager
def prepared(sizes: Sizes, *, is_long: bool, lake: Path | None) -> Iterator[Bench]:
    """A lake of its own (or the running one in *lake*) and a temporary directory, for a while."""
    with contextlib.ExitStack() as stack:
        if lake is None:
            say("starting a lake")
            running = Lake.up(free_ports=True, daemons=False, samples=False)
            stack.callback(running.down)
        else:
            running = Lake.load(lake)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rucio-fs-bench-"))
        yield Bench(running, sizes, Path(directory), is_long)


def say(text: str) -> None:
    """Tell a person who waits what is going on."""
    print(f"... {text}", file=sys.stderr, flush=True)
