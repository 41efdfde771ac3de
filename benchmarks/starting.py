"""From the command that mounts to the first `ls` that is answered."""

from __future__ import annotations

import shutil
import sys
import time

from benchmarks.bench import Bench, say
from benchmarks.report import Result, at_most, number
from benchmarks.served import unmount

_TARGET = 1.5  # s


def start(bench: Bench) -> Result:
    """`rucio-fs mount` (which returns once the mount answers), then `ls` of the mount."""
    result = Result(
        "start", "from process start to the first ls", ["login", "mount s", "ls s", "together s"]
    )
    say("starting")
    program = [sys.executable, "-m", "rucio_fs"]
    for _ in range(bench.sizes.rounds):
        for login in ("with a password", "with a token at hand"):
            if login == "with a password":
                shutil.rmtree(bench.directory / "runtime", ignore_errors=True)
            path = bench.mountpoint("start")
            path.mkdir()
            options = [*bench.options(), "--log-file", str(path.with_suffix(".log"))]
            try:
                begin = time.perf_counter()
                mounting = bench.time([*program, "mount", *options, path])
                listing = bench.time(["ls", path])
                together = time.perf_counter() - begin
                bench.run([*program, "umount", path])
            finally:
                unmount(path)
            result.add(f"{login}: mount s", mounting)
            result.add(f"{login}: ls s", listing)
            result.add(f"{login}: together s", together)
    for login in ("with a password", "with a token at hand"):
        parts = [result.median(f"{login}: {part} s") for part in ("mount", "ls", "together")]
        result.rows.append([login, *map(number, parts)])
    slowest = result.median("with a password: together s")
    result.verdicts.append(at_most("to the first ls, s", slowest, _TARGET))
    return result
