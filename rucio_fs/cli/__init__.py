"""The command line: arguments to a `Config`, failures to one line and an exit code.

Imports little: `--help`, `umount` and the wait for a mount in the background never load Rucio's
clients, pyfuse3 or trio.  What a command does lies in `rucio_fs.commands` or beside it, and is
imported when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from rucio_fs import PROGRAM, __version__
from rucio_fs.cli import bringing, caring, mounting, saving
from rucio_fs.commands.words import complain
from rucio_fs.errors import RucioFsError, UsageError

_COMMANDS = (
    *(mounting.mount, mounting.umount, mounting.refresh),
    *(bringing.get, bringing.wait, bringing.release, bringing.status),
    *(saving.uploads, saving.register),
    *(caring.doctor, caring.cache),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (the process's own if None); return the exit code."""
    try:
        # With standalone_mode, click would print its usage text around a mistake.
        code = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as exc:
        said = exc.format_message().rstrip(".")
        if exc.ctx is not None:
            see = " See" if said.endswith("?") else "; see"
            said += f"{see}: {exc.ctx.command_path} --help"
        return _fail(said, exc.exit_code)
    except click.ClickException as exc:
        return _fail(exc.format_message(), exc.exit_code)
    except RucioFsError as exc:
        return _fail(str(exc), 2 if isinstance(exc, UsageError) else 1)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)  # 128 + SIGINT, as a shell reports it
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    complain(message)
    return code


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def cli(context: click.Context) -> None:
    """Mount a Rucio data lake as an ordinary directory."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


for command in _COMMANDS:
    cli.add_command(command)
