"""Arguments and options that several commands have.

Paths are read by pathlib and not by click.Path, which looks at what they name: a mount whose server
hangs would hang the command that is to end it.
"""

from __future__ import annotations

from pathlib import Path

import click


def seconds(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """The value of an option that is a time."""
    from rucio_fs.units import parse_seconds

    try:
        found = None if text is None else parse_seconds(text)
    except ValueError as exc:
        raise click.BadParameter(f'{text!r}: {exc}; write it as "90s", "2h" or "7d"') from exc
    if parameter.name == "lifetime" and found is not None and found < 1:
        raise click.BadParameter("a rule lives for one second at least")
    return found


paths = click.argument("paths", nargs=-1, required=True, type=Path, metavar="PATH...")
recursive = click.option(
    "-r", "--recursive", is_flag=True, help="Directories too: all that is in them."
)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
