"""The command line: python -m benchmarks [NAME...] [--quick] [--long] [--json FILE]."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import click

from benchmarks.bench import QUICK, Bench, Sizes, prepared
from benchmarks.bringing import bringing
from benchmarks.listing import listing, long_listing, stat
from benchmarks.memory import memory
from benchmarks.reading import reading
from benchmarks.report import Result, machine, markdown, publish
from benchmarks.saving import saving
from benchmarks.served import BenchError
from benchmarks.starting import start
from benchmarks.streaming import streaming
from lake.errors import LakeError

BENCHMARKS: Mapping[str, Callable[[Bench], Result]] = {
    "listing": listing,
    "long-listing": long_listing,
    "stat": stat,
    "reading": reading,
    "memory": memory,
    "start": start,
    "bringing": bringing,
    "streaming": streaming,
    "saving": saving,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="Small sizes: shows that it works, measures nothing.")
@click.option("--long", "is_long", is_flag=True, help="Also memory over a million entries.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write every measurement to this file.",
)
@click.option(
    "--publish",
    "published",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also put the figures between the markers in this Markdown file.",
)
@click.option(
    "--lake",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Measure on the lake that runs in this directory (scopes are added to it).",
)
def main(
    names: tuple[str, ...],
    quick: bool,
    is_long: bool,
    json_file: Path | None,
    published: Path | None,
    lake: Path | None,
) -> None:
    """Measure rucio-fs on a lake of its own and print each figure beside its target.

    Exit code 0 says that all was measured, not that every target was met.
    """
    _interrupt_once()
    before = machine()
    command = f"python -m benchmarks {shlex.join(sys.argv[1:])}".rstrip()
    print(command)
    print(", ".join(f"{key} {value}" for key, value in before.items()) + "\n", flush=True)
    begin = time.monotonic()
    results = []
    try:
        with prepared(QUICK if quick else Sizes(), is_long=is_long, lake=lake) as bench:
            for name in names or BENCHMARKS:
                results.append(BENCHMARKS[name](bench))
                print(results[-1].text(), flush=True)
    except (BenchError, LakeError) as error:
        raise click.ClickException(str(error)) from error
    missed = sum(not verdict.met for result in results for verdict in result.verdicts)
    load = os.getloadavg()[0]
    print(f"{missed} targets not met; {time.monotonic() - begin:.0f} s; load at the end {load:.1f}")
    if json_file is not None:
        document = {
            "command": command,
            "machine": before,
            "benchmarks": [result.json() for result in results],
        }
        json_file.write_text(json.dumps(document, indent=1) + "\n")
    if published is not None:
        publish(published, markdown(command, before, results))


def _interrupt_once() -> None:
    """Let the first Ctrl-C or SIGTERM end everything in good order, and no second one stop that."""

    def interrupt(*_: object) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
