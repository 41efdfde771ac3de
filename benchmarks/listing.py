"""Times of `ls`, `ls -l` and `stat` in large directories."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from benchmarks.bench import Bench, say
from benchmarks.report import Result, at_least, at_most, number
from benchmarks.rest import Rest
from benchmarks.served import Served

_RATIO, _ALLOWANCE = 1.3, 0.2  # of the REST call that curl reads; s


def listing(bench: Bench) -> Result:
    """`ls` cold (a fresh mount) against the raw REST call read by curl."""
    result = Result(
        "listing",
        "ls of a large directory, cold (fresh mount) and warm",
        ["directory", "curl s", "ls cold s", "ratio", "calls", "ls warm s"],
    )
    rest, scope, sizes = Rest(bench), bench.scope, bench.sizes
    cases = {
        f"dataset of {sizes.files:,} files": (f"/dids/{scope}/big/dids", f"{scope}/big"),
        f"scope of {sizes.entries:,} DIDs": (f"/dids/{scope}/", scope),
    }
    say("ls of large directories")
    for _ in range(sizes.rounds):
        for case, (call, directory) in cases.items():
            result.add(f"{case}: curl", rest.curl(call))
            with bench.mount() as mount:
                before = bench.calls()
                result.add(f"{case}: cold", bench.time(["ls", mount.path / directory]))
                result.add(f"{case}: calls", bench.calls() - before)
                result.add(f"{case}: warm", bench.time(["ls", mount.path / directory]))
    for case in cases:
        raw, cold = result.median(f"{case}: curl"), result.median(f"{case}: cold")
        calls, warm = result.median(f"{case}: calls"), result.median(f"{case}: warm")
        result.rows.append([case, *map(number, (raw, cold, cold / raw, calls, warm))])
        how = f"{_RATIO} x curl + {_ALLOWANCE} s"
        result.verdicts.append(at_most(f"{case}, s", cold, _RATIO * raw + _ALLOWANCE, how))
    return result


def long_listing(bench: Bench) -> Result:
    """`ls -l` of a directory the mount knows, with and without extended attributes."""
    entries = bench.sizes.entries
    result = Result(
        "long-listing",
        f"ls -l of {entries:,} entries",
        ["mount", "first time s", "calls", "warm s", "warm entries/s"],
    )
    scope = bench.scope
    targets = {"xattrs=true": 15_000.0, "xattrs=false": 100_000.0}
    with contextlib.ExitStack() as stack:
        mounts: dict[str, Served] = {}
        for case in targets:
            say(f"ls -l with {case}")
            # The scope's minute of validity would end between the rounds.
            mount = bench.mount(xattrs=case.partition("=")[2], cache__open_ttl=3600)
            mounts[case] = stack.enter_context(mount)
            before = bench.calls()
            result.add(f"{case}: first", bench.time(["ls", "-l", mount.path / scope]))
            result.add(f"{case}: calls", bench.calls() - before)
        for _ in range(bench.sizes.rounds):
            for case, mount in mounts.items():
                result.add(f"{case}: warm", bench.time(["ls", "-l", mount.path / scope]))
    for case, target in targets.items():
        first, calls = result.median(f"{case}: first"), result.median(f"{case}: calls")
        warm = result.median(f"{case}: warm")
        result.rows.append([case, *map(number, (first, calls, warm, entries / warm))])
        result.verdicts.append(at_least(f"{case}, entries/s", entries / warm, target))
    return result


def stat(bench: Bench) -> Result:
    """Stats of paths that were looked up before, against a local directory of as many files."""
    result = Result(
        "stat", "stat of paths already looked up", ["directory", "stats/s", "ratio to local"]
    )
    scope, sizes = bench.scope, bench.sizes
    with contextlib.ExitStack() as stack:
        mount = stack.enter_context(bench.mount())
        cases = {
            "local (/var/tmp)": _local_directory(stack, sizes.files, Path("/var/tmp")),
            "local (tmpfs)": _local_directory(stack, sizes.files, Path("/dev/shm")),
            "rucio-fs": mount.path / scope / "big",
        }
        if shutil.which("bindfs"):
            path = bench.mountpoint("bindfs")
            command: list[str | Path] = [
                "bindfs",
                "-f",
                "--no-allow-other",
                cases["local (/var/tmp)"],
                path,
            ]
            cases["bindfs"] = stack.enter_context(
                Served("bindfs", command, path, bench.environment)
            ).path
        say("stat")
        count = min(sizes.stats, sizes.files)
        directories = [str(path) for path in cases.values()]
        bench.client("stats", directories, count, 1)
        before = mount.cpu()
        for figures in bench.client("stats", directories, count, 2 * sizes.rounds):
            for case, figure in zip(cases, figures, strict=True):
                result.add(case, figure)
        used = mount.cpu() - before
    local = result.median("local (/var/tmp)")
    for case in cases:
        figure = result.median(case)
        result.rows.append([case, number(figure), number(figure / local)])
    ratio = result.median("rucio-fs") / local
    result.verdicts.append(at_least("ratio to local", ratio, 0.8))
    result.notes.append(
        f"the server used {used:.2f} CPU-s while {2 * sizes.rounds} x {count:,} stats of it ran"
    )
    return result


def _local_directory(stack: contextlib.ExitStack, files: int, parent: Path) -> Path:
    temporary = tempfile.TemporaryDirectory(prefix="rucio-fs-bench-", dir=parent)
    directory = Path(stack.enter_context(temporary), "scope", "big")
    directory.mkdir(parents=True)
    for number_ in range(files):
        (directory / f"b{number_:06d}.dat").touch()
    return directory
