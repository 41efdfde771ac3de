"""The command line: arguments to a `Config`, failures to one line and an exit code.

Imports little: `--help`, `umount` and the wait for a mount in the background never load Rucio's
clients, pyfuse3 or trio.  Exit codes: 0 done, 1 it did not work, 2 the call was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from rucio_fs import __version__, mounts
from rucio_fs.errors import RucioFsError, UsageError

PROGRAM = "rucio-fs"

# Paths are read by pathlib and not by click.Path, which looks at what they name: a mount whose
# server hangs would hang the command that is to end it.

# Flag of `mount` -> key of the configuration; the values go there as written.
_FLAGS = {
    "rucio_config": "rucio.config_file",
    "account": "rucio.account",
    "site": "site.name",
    "rse": "site.rse",
    "log_level": "log.level",
    "log_file": "log.file",
    "allow_other": "mount.allow_other",
    "xattrs": "mount.xattrs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (the process's own if None); return the exit code."""
    try:
        # With standalone_mode, click would print its usage text around a mistake.
        code = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as exc:
        see = f"; see: {exc.ctx.command_path} --help" if exc.ctx else ""
        return _fail(exc.format_message().rstrip(".") + see, exc.exit_code)
    except click.ClickException as exc:
        return _fail(exc.format_message(), exc.exit_code)
    except RucioFsError as exc:
        return _fail(str(exc), 2 if isinstance(exc, UsageError) else 1)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)  # 128 + SIGINT, as a shell reports it
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    one_line = " ".join(message.split())
    print(f"{PROGRAM}: error: {one_line}", file=sys.stderr)
    return code


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def cli(context: click.Context) -> None:
    """Mount a Rucio data lake as an ordinary directory."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


@cli.command()
@click.argument("mountpoint", type=Path)
@click.option("-f", "--foreground", is_flag=True, help="Serve in this process, log to stderr.")
@click.option(
    "--config",
    "config_file",
    type=Path,
    metavar="FILE",
    help="The rucio-fs.toml to read instead of those in ~/.config and /etc.",
)
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="Any key of the configuration, as in fstab: -o uid=1000,cache.size=128M.",
)
@click.option("--rucio-config", metavar="FILE", help="The rucio.cfg of your Rucio.")
@click.option("--account", metavar="NAME", help="The Rucio account.")
@click.option("--site", metavar="NAME", help="The site this machine is at, as Rucio calls it.")
@click.option("--rse", metavar="NAME", help="The storage (RSE) mounted on this machine.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option("--log-file", metavar="FILE", help="Where to log.")
@click.option(
    "--allow-other",
    is_flag=True,
    default=None,
    help="Let every user of this machine in, with the mount's rights in Rucio.",
)
@click.option("--xattrs/--no-xattrs", default=None, help="Extended attributes user.rucio.*.")
def mount(
    mountpoint: Path,
    foreground: bool,
    config_file: Path | None,
    options: tuple[str, ...],
    **flags: object,
) -> None:
    """Mount at the directory MOUNTPOINT.

    Returns when the mount answers, or with -f when it is unmounted.  Every key of the
    configuration is explained in docs/CONFIGURATION.md.
    """
    from rucio_fs import background, config, preflight

    settings = config.load(
        flags={
            _FLAGS[name]: (f"--{name.replace('_', '-')}", value)
            for name, value in flags.items()
            if value is not None
        },
        options=options,
        file=config_file,
    )
    where = Path(mounts.resolve(mountpoint))
    for warning in preflight.check(where, allow_other=settings.mount.allow_other):
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    if foreground:
        from rucio_fs.mount import serve

        serve(settings, where, lambda: None)
    else:
        log = background.start(settings, where)
        print(f"mounted at {where}; log: {log}; end with: {PROGRAM} umount {where}")


@cli.command()
@click.argument("mountpoint", type=Path)
@click.option("--lazy", is_flag=True, help="Detach at once, also when it is in use.")
def umount(mountpoint: Path, lazy: bool) -> None:
    """End the mount at MOUNTPOINT, also one whose server has died."""
    if note := mounts.unmount(mountpoint, lazy=lazy):
        print(f"{PROGRAM}: {note}", file=sys.stderr)


@cli.command()
@click.argument("path", type=Path)
def refresh(path: Path) -> None:
    """Ask Rucio again about PATH, which lies inside a mount."""
    from rucio_fs.refreshing import refresh as ask

    ask(path)
