"""Mounts of far files, fresh each time: rucio-fs and rclone, with and without a cache on disk."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.far import FarFile
from benchmarks.report import Result
from benchmarks.served import Served

OURS, UNCACHED = "rucio-fs", "rucio-fs, no cache"
RCLONE, RCLONE_CACHED = "rclone", "rclone, cache"
CURL = "curl"
COLUMNS = (OURS, UNCACHED, RCLONE, RCLONE_CACHED, CURL)
_RCLONE: Mapping[str, list[str]] = {
    RCLONE: [],
    RCLONE_CACHED: ["--vfs-cache-mode", "full", "--vfs-read-ahead", "256M"],
}


def ways() -> list[str]:
    """Names of the mounts that can be measured here."""
    return [OURS, UNCACHED, *(_RCLONE if has_rclone() else ())]


def has_rclone() -> bool:
    return shutil.which("rclone") is not None


@dataclass(frozen=True)
class Fresh:
    """A mount for which every file is new."""

    served: Served
    paths: list[Path]  # of the files that were asked for, looked up but never opened


@contextlib.contextmanager
def fresh(bench: Bench, way: str, *files: FarFile, **options: object) -> Iterator[Fresh]:
    """Mount, with nothing in any cache; *files* are at one endpoint.  *options*: of rucio-fs."""
    with tempfile.TemporaryDirectory(prefix="cache-", dir=bench.directory) as cache:
        if way in _RCLONE:
            endpoint = files[0].endpoint
            path = bench.mountpoint("rclone")
            command: list[str | Path] = ["rclone", "mount", "--read-only", "--config=/dev/null"]
            command += [f"--cache-dir={cache}", "--ca-cert", bench.lake.ca_file, *_RCLONE[way]]
            command += ["--webdav-vendor", "other", "--webdav-url", endpoint.url, ":webdav:", path]
            served = Served("rclone", command, path, bench.environment)
            paths = [path / file.relative for file in files]
        else:
            served = bench.mount(**_options(bench, way, cache) | options)
            paths = [served.path / file.scope / file.name for file in files]
        with served:
            bench.run(["stat", *paths])
            yield Fresh(served, paths)


def _options(bench: Bench, way: str, cache: str) -> dict[str, object]:
    """A mount beside no storage; ``rse=None`` leaves the option out."""
    options: dict[str, object] = {"policy": "stream", "site": None, "rse": None}
    options |= {"diskcache__dir": cache, "storages__ca": bench.lake.ca_file}
    return options | ({"diskcache__size": 0} if way == UNCACHED else {})


def note(result: Result, what: str, way: str, value: float) -> float:
    """Keep one measurement of *what* through *way*."""
    return result.add(f"{what}: {way}", value)


def median(result: Result, what: str, way: str = OURS) -> float:
    return result.median(f"{what}: {way}")


def most(result: Result, what: str, way: str = OURS) -> float:
    """Return the largest of the measurements."""
    return max(result.samples[f"{what}: {way}"])


def is_measured(result: Result, what: str, way: str) -> bool:
    return f"{what}: {way}" in result.samples
