"""The command line: python -m lake up|down|status|env|install|fill|daemons.

Exit codes: 0 done, 1 failed (status: not everything runs), 2 wrong usage, 3 something must be
installed first, 4 a port is taken.
"""

import errno
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from lake import layout
from lake.errors import LakeError
from lake.install import install as install_all
from lake.lake import Lake
from lake.ports import DEFAULTS


class _Group(click.Group):
    """Turns a LakeError into one message and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LakeError as error:
            click.echo(f"lake: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:  # a full disk, a file of another user
            if error.errno == errno.EPIPE:
                raise  # click knows what to do
            click.echo(f"lake: {error}", err=True)
            ctx.exit(1)


def _directory_option(function: Any) -> Any:
    return click.option(
        "--directory",
        "-d",
        type=click.Path(path_type=Path, file_okay=False),
        default=layout.default_directory,
        envvar="LAKE",
        show_default="/var/tmp/rucio-lake-UID",
        help="Where the lake lies.",
    )(function)


def _parse_ports(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, int]:
    parsed = {}
    for item in given:
        name, _separator, number = item.partition("=")
        if name not in DEFAULTS or not number.isdigit() or not 0 < int(number) < 65536:
            raise click.BadParameter(f"{item}: want NAME=NUMBER, NAME of {', '.join(DEFAULTS)}")
        parsed[name] = int(number)
    return parsed


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A real Rucio data lake on this machine, on loopback only."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that a killed `up` cleans up after itself


@main.command()
@_directory_option
@click.option("--free-ports", is_flag=True, help="Pick unused ports instead of the fixed ones.")
@click.option(
    "--port",
    "wanted",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_parse_ports,
    help="Another port for one server; may be repeated.",
)
@click.option("--oidc", is_flag=True, help="Add an OpenID provider and a token-guarded XRootD.")
@click.option("--no-daemons", is_flag=True, help="Leave Rucio's daemons out: no rule is served.")
@click.option("--no-samples", is_flag=True, help="Leave the sample data out.")
@click.option(
    "--fts",
    type=click.Choice(["stream", "tpc"]),
    default="stream",
    show_default=True,
    help="How the FTS stand-in moves bytes: itself, or by third-party copy between XRootDs.",
)
def up(
    directory: Path,
    free_ports: bool,
    wanted: dict[str, int],
    oidc: bool,
    no_daemons: bool,
    no_samples: bool,
    fts: str,
) -> None:
    """Start the lake and wait until it is usable."""
    start = time.monotonic()
    before = _find(directory)
    lake = Lake.up(
        directory,
        free_ports=free_ports,
        oidc=oidc,
        daemons=not no_daemons,
        samples=not no_samples,
        fts_mode=fts,
        wanted_ports=wanted,
    )
    if before is not None:
        click.echo(f"the lake in {lake.directory} is up already: {lake.rucio_url}")
        return
    click.echo(f"the lake in {lake.directory} is up after {time.monotonic() - start:.1f} s")
    click.echo(f"Rucio: {lake.rucio_url}  accounts: root (ddmlab/secret), alice, bob (secret)")
    env = shlex.join([sys.executable, "-m", "lake", "env", "-d", str(lake.directory)])
    click.echo(f'environment: eval "$({env})"')


@main.command()
@_directory_option
def down(directory: Path) -> None:
    """End every server of the lake and remove its files."""
    lake = _find(directory)
    if lake is None:
        click.echo(f"no lake in {directory}")
        return
    lake.down()
    click.echo(f"the lake in {directory} is down")


@main.command()
@_directory_option
def status(directory: Path) -> None:
    """Say for each server whether it runs, its pid and its address."""
    lake = Lake.load(directory)
    for server, is_up in lake.servers():
        click.echo(f"{server.name:10} {'up' if is_up else 'down':5} {server.pid:8} {server.url}")
    if not lake.is_up():
        sys.exit(1)


@main.command()
@_directory_option
def env(directory: Path) -> None:
    """Print shell commands that make this shell a client of the lake."""
    for name, value in Lake.load(directory).exports().items():
        click.echo(f"export {name}={shlex.quote(value)}")


@main.command()
@click.option("--oidc", is_flag=True, help="Also the OpenID provider's node modules.")
def install(oidc: bool) -> None:
    """Install Rucio's own environment (a minute the first time)."""
    for remark in install_all(oidc=oidc):
        click.echo(f"lake: {remark}", err=True)
    click.echo("installed")


@main.command()
@_directory_option
@click.argument("scope")
@click.option("--datasets", type=click.IntRange(0), default=0, help="Empty datasets, in `all`.")
@click.option("--loose", type=click.IntRange(0), default=0, help="Files in no dataset.")
@click.option("--big", type=click.IntRange(0), default=0, help="Files in the dataset `big`.")
@click.option("--both-rse", is_flag=True, help="Replicas at COLO too, not at REM1 alone.")
def fill(directory: Path, scope: str, datasets: int, loose: int, big: int, both_rse: bool) -> None:
    """Make SCOPE with many DIDs (no bytes behind them), for benchmarks."""
    start = time.monotonic()
    Lake.load(directory).fill(scope, datasets=datasets, loose=loose, big=big, both=both_rse)
    click.echo(f"filled {scope} in {time.monotonic() - start:.1f} s")


@main.group()
def daemons() -> None:
    """Pause Rucio's daemons, let them work again, have all work once."""


@daemons.command()
@_directory_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def pause(directory: Path, names: tuple[str, ...]) -> None:
    """Keep daemons from working: without the repairer a STUCK rule stays STUCK, for one."""
    lake = Lake.load(directory)
    lake.pause_daemons(*names)
    click.echo(f"paused: {', '.join(lake.paused_daemons())}")


@daemons.command()
@_directory_option
@click.argument("names", nargs=-1, metavar="[NAME...]")
def resume(directory: Path, names: tuple[str, ...]) -> None:
    """Let daemons work again, all if none is named."""
    lake = Lake.load(directory)
    lake.resume_daemons(*names)
    click.echo(f"paused: {', '.join(lake.paused_daemons()) or 'none'}")


@daemons.command()
@_directory_option
def run(directory: Path) -> None:
    """Have every daemon that is not paused work once, now."""
    Lake.load(directory).run_daemons()


def _find(directory: Path) -> Lake | None:
    """Return the lake of *directory* if there is one, in whatever state."""
    try:
        return Lake.load(directory)
    except LakeError:
        return None


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
