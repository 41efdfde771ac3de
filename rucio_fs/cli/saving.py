"""What is saved."""

from __future__ import annotations

from pathlib import Path

import click

from rucio_fs.cli.options import as_json, paths, recursive, seconds


@click.command(
    epilog="Exit codes: 0 all is in the lake, or without --wait: nothing has failed; 1 failed;"
    " 2 wrong call; 4 not yet: the time is over; 130 interrupted: uploads go on in the mount."
)
@click.argument("paths", nargs=-1, type=Path, metavar="[PATH...]")
@click.option("--wait", "waits", is_flag=True, help="Return when nothing is on its way any more.")
@click.option("--timeout", metavar="TIME", callback=seconds, help="Wait no longer than this.")
@click.option("--now", is_flag=True, help="First: upload at once what was saved a moment ago.")
@click.option("--retry", is_flag=True, help="First: try again what has failed.")
@as_json
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


@click.command(
    epilog="Exit codes: 0 all is in the lake; 1 some of it failed; 2 wrong call; 130 interrupted:"
    " it goes on in the mount."
)
@paths
@recursive
@click.option("--scope", metavar="NAME", help="Where the DIDs belong, if the account has several.")
@click.option("--dataset", metavar="NAME", help="One dataset for all, or SCOPE:NAME.")
@click.option("--rse", metavar="NAME", help="The storage they lie at, if the mount's is another.")
@click.option("--rule", metavar="EXPRESSION", help="RSEs that they are to be brought to as well.")
@click.option(
    "--lifetime", metavar="TIME", callback=seconds, help="How long the rules live, such as 30d."
)
@click.option("--mount", "mountpoint", type=Path, metavar="PATH", help="The mount that does it.")
@as_json
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
