"""Mounts to save files in, fresh each time: rucio-fs and rclone, over one storage of the lake."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.rest import Rest
from benchmarks.served import BenchError, Served
from benchmarks.ways import RCLONE, has_rclone
from lake.rses import hash_path

OURS, CURL, DISK = "rucio-fs", "curl", "disk"
COLUMNS = (OURS, RCLONE, CURL, DISK)
RSE = "COLO_SCRATCHDISK"
_SERVER = "colo"  # it serves that RSE, and takes what others put there
_NEVER = "1h"  # uploads begin when they are told to, not while files are saved
_LOOK = 120.0  # s in which something has to come of uploads


@dataclass(frozen=True)
class Saver:
    """A mount that nothing was saved in yet.  *directory*: where files are put."""

    served: Served
    directory: Path


@dataclass(frozen=True)
class Uploaded:
    """Seconds from the order until all was in the lake, and until each state was first seen."""

    took: float
    seen: dict[str, float]


@contextlib.contextmanager
def scratch(bench: Bench, scope: str) -> Iterator[Saver]:
    """Mount with an empty staging area; *scope* is made.  Nothing is uploaded before `upload`."""
    Rest(bench).call("POST", f"/scopes/root/{scope}", None)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=bench.directory) as area:
        served = bench.mount(
            scratch__dir=area,
            scratch__rse=RSE,
            scratch__delay=_NEVER,
            scratch__longest_delay=_NEVER,
            storages__ca=bench.lake.ca_file,
        )
        with served:
            yield Saver(served, served.path / "scratch" / scope)


def upload(bench: Bench, saver: Saver, count: int, pace: float) -> Uploaded:
    """Have all *count* files uploaded that were saved.  Raises: BenchError."""
    board = saver.served.path / ".rucio" / "uploads"
    start, order, seen = time.perf_counter(), "now", dict[str, float]()
    progress: object = None
    while True:
        before = 0.0 if order else time.perf_counter() - start
        found: dict[str, Any] = bench.client("uploaded", board, order, count, pace, _LOOK)
        order = ""
        for state, after in found["seen"].items():
            seen.setdefault(state, before + after)
        if found["done"]:
            return Uploaded(before + found["seconds"], seen)
        if found["failed"] or found["progress"] == progress:
            reason = next(iter(found["reasons"]), f"nothing has happened for {_LOOK:g} s")
            raise BenchError(f"not everything was uploaded: {reason}")
        progress = found["progress"]


@contextlib.contextmanager
def rclone(bench: Bench) -> Iterator[Saver]:
    """Mount the storage, with an empty cache that takes what is written and keeps it."""
    with (
        tempfile.TemporaryDirectory(prefix="cache-", dir=bench.directory) as cache,
        storage_directory(bench) as directory,
    ):
        path = bench.mountpoint("rclone")
        command: list[str | Path] = ["rclone", "mount", f"--cache-dir={cache}"]
        command += ["--vfs-cache-mode", "full", "--vfs-write-back", _NEVER]
        with Served(
            "rclone", [*command, *remote(bench, directory), path], path, bench.environment
        ) as served:
            yield Saver(served, path)


@contextlib.contextmanager
def storage_directory(bench: Bench) -> Iterator[str]:
    """URL of a new directory at the storage, where anybody may put files; ends with a slash."""
    url, tree = bench.lake.webdav(_SERVER, tls=True)
    made = Path(tempfile.mkdtemp(prefix="saving-", dir=tree))
    shutil.chown(made, tree.stat().st_uid, tree.stat().st_gid)
    try:
        yield f"{url}{made.name}/"
    finally:
        shutil.rmtree(made)


def remote(bench: Bench, url: str) -> list[str | Path]:
    """Arguments of rclone: the directory at *url* as a remote."""
    options: list[str | Path] = ["--config=/dev/null", "--ca-cert", bench.lake.ca_file]
    return [*options, "--webdav-vendor", "other", "--webdav-url", url, ":webdav:"]


def stored(bench: Bench, scope: str, name: str) -> Path:
    """Where the storage keeps a file that was uploaded."""
    return bench.lake.store(RSE) / hash_path(scope, name)


def synced() -> None:
    """Let no earlier writing go on behind what is measured."""
    os.sync()


def has(way: str) -> bool:
    """Whether *way* can be measured here."""
    return way != RCLONE or has_rclone()
