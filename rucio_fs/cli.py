"""The command line: arguments to a `Config`, failures to one line and an exit code.

Imports little: `--help`, `umount` and the wait for a mount in the background never load Rucio's
clients, pyfuse3 or trio.  What a command does lies in `rucio_fs.commands` or beside it, and is
imported when it is called.
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
    """End the mount at MOUNTPOINT, also one whose server has died.

    Says what was saved there and is not in the lake yet.
    """
    from rucio_fs.commands.uploads_asking import left_behind

    left = left_behind(mountpoint)
    note = mounts.unmount(mountpoint, lazy=lazy or left.is_stuck)
    for words in filter(None, (left.words, note)):
        print(f"{PROGRAM}: {words}", file=sys.stderr)


@cli.command()
@click.argument("path", type=Path)
def refresh(path: Path) -> None:
    """Ask Rucio again about PATH, which lies inside a mount."""
    from rucio_fs.commands.releasing import refresh as ask

    ask(path)


# --- bringing data -------------------------------------------------------------------------------


def _seconds(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """The value of an option that is a time."""
    from rucio_fs.units import parse_seconds

    try:
        seconds = None if text is None else parse_seconds(text)
    except ValueError as exc:
        raise click.BadParameter(f'{text!r}: {exc}; write it as "90s", "2h" or "7d"') from exc
    if parameter.name == "lifetime" and seconds is not None and seconds < 1:
        raise click.BadParameter("a rule lives for one second at least")
    return seconds


_paths = click.argument("paths", nargs=-1, required=True, type=Path, metavar="PATH...")
_recursive = click.option(
    "-r", "--recursive", is_flag=True, help="Directories too: all that is in them."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _with_exit_codes(command: click.Command) -> click.Command:
    command.epilog = (
        "Exit codes: 0 done; 1 failed; 2 wrong call; 3 partly: some files or paths are here and"
        " others failed or are stuck; 4 not yet: the time is over; 130 interrupted."
    )
    return command


@_with_exit_codes
@cli.command()
@_paths
@_recursive
@click.option("--no-wait", is_flag=True, help="Return when the rules are made.")
@click.option(
    "--lifetime", metavar="TIME", callback=_seconds, help="How long it is to stay, such as 7d."
)
@_json
@click.option("-q", "--quiet", is_flag=True, help="Show errors alone.")
def get(
    paths: tuple[Path, ...],
    recursive: bool,
    no_wait: bool,
    lifetime: float | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Have every PATH brought to the site, and wait until it is here.

    Makes a replication rule for each, or joins the one that is there; Ctrl-C leaves the rules.
    """
    from rucio_fs.commands import getting

    return getting.get(
        paths,
        recursive=recursive,
        waits=not no_wait,
        lifetime=lifetime,
        as_json=as_json,
        quiet=quiet,
    )


@_with_exit_codes
@cli.command()
@_paths
@_recursive
@click.option("--timeout", metavar="TIME", callback=_seconds, help="Wait no longer than this.")
@_json
def wait(paths: tuple[Path, ...], recursive: bool, timeout: float | None, as_json: bool) -> int:
    """Wait until every PATH is here, whoever has it brought."""
    from rucio_fs.commands import getting

    return getting.wait(paths, recursive=recursive, timeout=timeout, as_json=as_json)


@_with_exit_codes
@cli.command()
@_paths
@_json
def release(paths: tuple[Path, ...], as_json: bool) -> int:
    """Give back the rules that rucio-fs made for PATH."""
    from rucio_fs.commands import releasing

    return releasing.release(paths, as_json=as_json)


@_with_exit_codes
@cli.command()
@click.argument("paths", nargs=-1, type=Path, metavar="[PATH...]")
@_json
def status(paths: tuple[Path, ...], as_json: bool) -> int:
    """Show what every mount is doing, or what is known of PATH."""
    from rucio_fs.commands import status as showing

    if paths:
        return showing.of_paths(paths, as_json=as_json)
    return showing.of_mounts(as_json=as_json)


# --- what is saved -------------------------------------------------------------------------------


@cli.command(
    epilog="Exit codes: 0 all is in the lake, or without --wait: nothing has failed; 1 failed;"
    " 2 wrong call; 4 not yet: the time is over; 130 interrupted: uploads go on in the mount."
)
@click.argument("paths", nargs=-1, type=Path, metavar="[PATH...]")
@click.option("--wait", "waits", is_flag=True, help="Return when nothing is on its way any more.")
@click.option("--timeout", metavar="TIME", callback=_seconds, help="Wait no longer than this.")
@click.option("--now", is_flag=True, help="First: upload at once what was saved a moment ago.")
@click.option("--retry", is_flag=True, help="First: try again what has failed.")
@_json
@click.option("-q", "--quiet", is_flag=True, help="Show errors alone.")
def uploads(
    paths: tuple[Path, ...],
    waits: bool,
    timeout: float | None,
    now: bool,
    retry: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Show what was saved in scratch/ and is not in the lake yet, or wait for it.

    PATH in a mount's scratch/ stands for all below it, any other PATH for the whole mount; it may
    be left out where there is one mount.  Ctrl-C ends the wait alone.
    """
    if timeout is not None and not waits:
        raise click.UsageError("--timeout is for --wait")
    from rucio_fs.commands import uploading

    orders = [order for order, is_given in (("retry", retry), ("now", now)) if is_given]
    return uploading.Errand(paths, as_json=as_json, quiet=quiet).run(
        orders, waits=waits, timeout=timeout
    )


@cli.command(
    epilog="Exit codes: 0 all is in the lake; 1 some of it failed; 2 wrong call; 130 interrupted:"
    " it goes on in the mount."
)
@_paths
@_recursive
@click.option("--scope", metavar="NAME", help="Where the DIDs belong, if the account has several.")
@click.option("--dataset", metavar="NAME", help="One dataset for all, or SCOPE:NAME.")
@click.option("--rse", metavar="NAME", help="The storage they lie at, if the mount's is another.")
@click.option("--rule", metavar="EXPRESSION", help="RSEs that they are to be brought to as well.")
@click.option(
    "--lifetime", metavar="TIME", callback=_seconds, help="How long the rules live, such as 30d."
)
@click.option("--mount", "mountpoint", type=Path, metavar="PATH", help="The mount that does it.")
@_json
@click.option("-q", "--quiet", is_flag=True, help="Show errors alone.")
def register(
    paths: tuple[Path, ...],
    recursive: bool,
    scope: str | None,
    dataset: str | None,
    rse: str | None,
    rule: str | None,
    lifetime: float | None,
    mountpoint: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Register files that lie on a mounted storage (RSE) where they lie.

    With -r, the directory PATH becomes a dataset of its name, or a container of what is in it.
    Nothing is copied, changed or removed; what is registered already is left as it is.
    """
    from rucio_fs.commands.registering import Registration

    terms = {
        "recursive": recursive,
        "scope": scope,
        "dataset": dataset,
        "rse": rse,
        "rule": rule,
        "lifetime": None if lifetime is None else round(lifetime),
    }
    return Registration(paths, terms, mountpoint=mountpoint, as_json=as_json, quiet=quiet).run()


# --- what went wrong, and what lies on this machine's disk ---------------------------------------


@cli.command(
    epilog="Exit codes: 0 nothing is wrong; 1 it cannot be read, asked for or reported; 2 wrong"
    " call; 3 it can be read, but a replica seems damaged; several paths: 3 if they differ."
)
@_paths
@click.option(
    "--report-suspicious",
    is_flag=True,
    help="Tell Rucio which replicas seem damaged: it notes them as suspicious, never as bad.",
)
@_json
def doctor(paths: tuple[Path, ...], report_suspicious: bool, as_json: bool) -> int:
    """Say all that is known of each file PATH, and which of its replicas seem damaged."""
    from rucio_fs.commands import doctoring

    return doctoring.doctor(paths, reports=report_suspicious, as_json=as_json)


_mountpoint = click.argument("mountpoint", required=False, type=Path)


@cli.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """See to the cache of streamed files that a mount keeps on this machine's disk.

    MOUNTPOINT may be any path in the mount; it may be left out where there is one mount.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


@cache.command("status")
@_mountpoint
@_json
def cache_status(mountpoint: Path | None, as_json: bool) -> int:
    """Show where it is, how full, and what a verification has found."""
    from rucio_fs.commands import caching

    return caching.Errand(mountpoint, as_json=as_json).status()


@cache.command("clear")
@_mountpoint
@_json
def cache_clear(mountpoint: Path | None, as_json: bool) -> int:
    """Empty it; what is open is read on, from its storage."""
    from rucio_fs.commands import caching

    return caching.Errand(mountpoint, as_json=as_json).clear()


@cache.command(
    "verify",
    epilog="Exit codes: 0 nothing is damaged; 1 failed; 2 wrong call; 3 some bytes were damaged"
    " and dropped, and are fetched again when they are read; 130 interrupted: it goes on in the"
    " mount.",
)
@_mountpoint
@_json
def cache_verify(mountpoint: Path | None, as_json: bool) -> int:
    """Have all of it read, and drop what is not what was written."""
    from rucio_fs.commands import caching

    return caching.Errand(mountpoint, as_json=as_json).verify()
