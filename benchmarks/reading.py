"""Reads of a file whose replica lies on this machine: rucio-fs, native, bindfs, rclone.

Native reading is measured twice.  A filesystem that keeps a file in large folios (ext4 since Linux
6.16, XFS) copies it out of the page cache three times as fast as one that keeps it in pages of
4 KiB, as tmpfs does, and as the kernel does for every FUSE mount.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench, say
from benchmarks.report import Result, Verdict, at_least, at_most, number
from benchmarks.rest import LocalFile, Rest, local_file
from benchmarks.served import Served

READERS = 16
_GIB = 1 << 30
_NATIVE, _SMALL = "native", "native, 4 KiB pages"


@dataclass(frozen=True)
class _Way:
    """One way to the same bytes.  *length* and *reads*: how much of it is measured."""

    name: str
    path: Path
    served: Served | None
    length: int
    reads: int


def reading(bench: Bench) -> Result:
    """Read one file natively and through each mount, all of them in turn."""
    result = Result(
        "reading",
        "a local file, its bytes in the page cache; ratios to native and to native in 4 KiB pages",
        [
            *["way", "GB/s cold", "ratio", "small", "GB/s warm", "ratio", "small", "4 KiB/s"],
            *["16 x 4 KiB/s", "16 readers", "CPU-s/GiB"],
        ],
    )
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(local_file(bench, Rest(bench), bench.scope))
        ways = _ways(bench, stack, file)
        say(f"reading through {', '.join(way.name for way in ways)}")
        wanted = bench.client("checksums", file.path, file.size, READERS, False)
        for way in ways:
            _first_touch(bench, way)
        for _ in range(bench.sizes.rounds):
            for way in ways:
                # Into the page cache again: rclone advises the kernel to drop what it has read.
                for native in ways[:2]:
                    bench.client("sequential", native.path, native.length, False)
                _measure(bench, way, result)
        ours = ways[2]
        found = bench.client("checksums", ours.path, file.size, READERS, True)
    for way in ways:
        result.rows.append(_row(way, result))
    result.verdicts += _verdicts(result)
    wrong = float(sum(a != b for a, b in zip(wanted, found, strict=True)))
    result.verdicts.append(at_most(f"{READERS} readers at once, wrong checksums", wrong, 0))
    result.notes.append("cold: the mount's own pages dropped; warm: the second read")
    missing = {"bindfs", "rclone"} - {way.name for way in ways}
    result.notes += [f"{name} is not installed: not measured" for name in sorted(missing)]
    return result


def _ways(bench: Bench, stack: contextlib.ExitStack, file: LocalFile) -> list[_Way]:
    sizes = bench.sizes
    mount = stack.enter_context(bench.mount())
    small = stack.enter_context(_copy_in_small_pages(file.path))
    ways = [
        _Way(_NATIVE, file.path, None, sizes.file_bytes, sizes.reads),
        _Way(_SMALL, small, None, sizes.file_bytes, sizes.reads),
        _Way("rucio-fs", mount.path / file.scope / file.name, mount, sizes.file_bytes, sizes.reads),
    ]
    backing = file.path.parent
    command: list[str | Path]
    if shutil.which("bindfs"):
        path = bench.mountpoint("bindfs")
        command = ["bindfs", "-f", "-r", "--no-allow-other", backing, path]
        served = stack.enter_context(Served("bindfs", command, path, bench.environment))
        ways.append(_Way("bindfs", path / file.name, served, sizes.file_bytes, sizes.reads))
    if shutil.which("rclone"):
        path = bench.mountpoint("rclone")
        options = ["--read-only", "--config=/dev/null", f"--cache-dir={bench.directory / 'rc'}"]
        command = ["rclone", "mount", *options, f":local:{backing}", path]
        served = stack.enter_context(Served("rclone", command, path, bench.environment))
        ways.append(_Way("rclone", path / file.name, served, sizes.slow_bytes, sizes.slow_reads))
    return ways


@contextlib.contextmanager
def _copy_in_small_pages(path: Path) -> Iterator[Path]:
    """A copy whose pages are 4 KiB each, since that is how they came into the page cache."""
    copy = path.with_name(f"{path.name}.small")
    try:
        with path.open("rb") as source, copy.open("wb", buffering=0) as target:
            while page := source.read(4096):
                target.write(page)
            os.fsync(target.fileno())
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _first_touch(bench: Bench, way: _Way) -> None:
    """Look the path up and open the file once: that is not what is measured."""
    bench.client("sequential", way.path, min(way.length, 1 << 20), False)


def _measure(bench: Bench, way: _Way, result: Result) -> None:
    name, length = way.name, way.length
    before = way.served.cpu() if way.served else 0.0
    # The native file's pages stay: cold is about the mount, not about the disk below it.
    cold = bench.client("sequential", way.path, length, way.served is not None)
    used = way.served.cpu() - before if way.served else 0.0
    result.add(f"{name}: cold B/s", length / cold)
    result.add(f"{name}: CPU-s/GiB", used / length * _GIB)
    result.add(f"{name}: warm B/s", length / bench.client("sequential", way.path, length, False))
    drop = way.served is not None
    for readers in (1, READERS):
        took = bench.client("scattered", way.path, length, way.reads, readers, drop)
        result.add(f"{name}: 4 KiB/s by {readers}", way.reads / took)
    alone, together = (
        bench.client("concurrent", way.path, length, readers, drop) for readers in (1, READERS)
    )
    result.add(f"{name}: {READERS} readers to one", alone / together)


def _row(way: _Way, result: Result) -> list[str]:
    def median(key: str) -> float:
        return result.median(f"{way.name}: {key}")

    cold, warm = median("cold B/s"), median("warm B/s")
    figures = [
        cold / 1e9,
        *[cold / result.median(f"{native}: cold B/s") for native in (_NATIVE, _SMALL)],
        warm / 1e9,
        *[warm / result.median(f"{native}: warm B/s") for native in (_NATIVE, _SMALL)],
        *[median("4 KiB/s by 1"), median(f"4 KiB/s by {READERS}")],
        median(f"{READERS} readers to one"),
    ]
    used = number(median("CPU-s/GiB")) if way.served else "-"
    return [way.name, *map(number, figures), used]


def _verdicts(result: Result) -> list[Verdict]:
    def ratio(key: str, native: str) -> float:
        return result.median(f"rucio-fs: {key}") / result.median(f"{native}: {key}")

    together = result.median(f"rucio-fs: {READERS} readers to one")
    verdicts = []
    for native in (_SMALL, _NATIVE):
        for name, target in {"cold": 0.25, "warm": 0.45}.items():
            what = f"sequential {name}, ratio to {native}"
            verdicts.append(at_least(what, ratio(f"{name} B/s", native), target))
    return [
        *verdicts,
        at_least("random 4 KiB, reads/s", result.median("rucio-fs: 4 KiB/s by 1"), 20_000),
        # As fast as one: what is below 1 but above this comes and goes with the load.
        at_least(f"{READERS} readers together, ratio to one", together, 1.0),
        at_most("server, CPU-s/GiB", result.median("rucio-fs: CPU-s/GiB"), 0.35),
    ]
