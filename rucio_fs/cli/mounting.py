"""Making and ending mounts."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rucio_fs import PROGRAM, mounts

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


@click.command()
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
    from rucio_fs import background, loading, preflight, requirements

    settings = loading.load(
        flags={
            _FLAGS[name]: (f"--{name.replace('_', '-')}", value)
            for name, value in flags.items()
            if value is not None
        },
        options=options,
        file=config_file,
    )
    where = Path(mounts.resolve(mountpoint))
    own = requirements.own_places(settings, where, in_background=not foreground)
    warnings = preflight.check(where, allow_other=settings.mount.allow_other, own=own)
    for warning in warnings + requirements.check(settings):
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    if foreground:
        from rucio_fs.mount import serve

        serve(settings, where, lambda: None)
    else:
        log = background.start(settings, where)
        print(f"mounted at {where}; log: {log}; end with: {PROGRAM} umount {where}")


@click.command()
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


@click.command()
@click.argument("path", type=Path)
def refresh(path: Path) -> None:
    """Ask Rucio again about PATH, which lies inside a mount."""
    from rucio_fs.commands.releasing import refresh as ask

    ask(path)
