"""Bringing data, and giving it back."""

from __future__ import annotations

from pathlib import Path

import click

from rucio_fs.cli.options import as_json, paths, recursive, seconds


def _with_exit_codes(command: click.Command) -> click.Command:
    command.epilog = (
        "Exit codes: 0 done; 1 failed; 2 wrong call; 3 partly: some files or paths are here and"
        " others failed or are stuck; 4 not yet: the time is over; 130 interrupted."
    )
    return command


@_with_exit_codes
@click.command()
@paths
@recursive
@click.option("--no-wait", is_flag=True, help="Return when the rules are made.")
@click.option(
    "--lifetime", metavar="TIME", callback=seconds, help="How long it is to stay, such as 7d."
)
@as_json
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
@click.command()
@paths
@recursive
@click.option("--timeout", metavar="TIME", callback=seconds, help="Wait no longer than this.")
@as_json
def wait(paths: tuple[Path, ...], recursive: bool, timeout: float | None, as_json: bool) -> int:
    """Wait until every PATH is here, whoever has it brought."""
    from rucio_fs.commands import getting

    return getting.wait(paths, recursive=recursive, timeout=timeout, as_json=as_json)


@_with_exit_codes
@click.command()
@paths
@as_json
def release(paths: tuple[Path, ...], as_json: bool) -> int:
    """Give back the rules that rucio-fs made for PATH."""
    from rucio_fs.commands import releasing

    return releasing.release(paths, as_json=as_json)


@_with_exit_codes
@click.command()
@click.argument("paths", nargs=-1, type=Path, metavar="[PATH...]")
@as_json
def status(paths: tuple[Path, ...], as_json: bool) -> int:
    """Show what every mount is doing, or what is known of PATH."""
    from rucio_fs.commands import status as showing

    if paths:
        return showing.of_paths(paths, as_json=as_json)
    return showing.of_mounts(as_json=as_json)
