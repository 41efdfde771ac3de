"""What went wrong, and what lies on this machine's disk."""

from __future__ import annotations

from pathlib import Path

import click

from rucio_fs.cli.options import as_json, paths


@click.command(
    epilog="Exit codes: 0 nothing is wrong; 1 it cannot be read, asked for or reported; 2 wrong"
    " call; 3 it can be read, but a replica seems damaged; several paths: 3 if they differ."
)
@paths
@click.option(
    "--report-suspicious",
    is_flag=True,
    help="Tell Rucio which replicas seem damaged: it notes them as suspicious, never as bad.",
)
@as_json
def doctor(paths: tuple[Path, ...], report_suspicious: bool, as_json: bool) -> int:
    """Say all that is known of each file PATH, and which of its replicas seem damaged."""
    from rucio_fs.commands import doctoring

    return doctoring.doctor(paths, reports=report_suspicious, as_json=as_json)


_mountpoint = click.argument("mountpoint", required=False, type=Path)


@click.group(invoke_without_command=True)
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
@as_json
def cache_status(mountpoint: Path | None, as_json: bool) -> int:
    """Show where it is, how full, and what a verification has found."""
    from rucio_fs.commands import caching

    return caching.Errand(mountpoint, as_json=as_json).status()


@cache.command("clear")
@_mountpoint
@as_json
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
@as_json
def cache_verify(mountpoint: Path | None, as_json: bool) -> int:
    """Have all of it read, and drop what is not what was written."""
    from rucio_fs.commands import caching

    return caching.Errand(mountpoint, as_json=as_json).verify()
