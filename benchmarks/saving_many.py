"""Many small files saved at once: an archive that is unpacked, and the upload of what was in it."""

from __future__ import annotations

import os
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.report import Result, Verdict, at_least, at_most
from benchmarks.saving_ways import (
    DISK,
    OURS,
    Saver,
    has,
    rclone,
    remote,
    scratch,
    storage_directory,
    synced,
    upload,
)
from benchmarks.ways import RCLONE, median, most, note
from rucio_fs.config import ScratchConfig

_SIZE = 1024  # bytes of a file
_UPLOADS = 2  # rounds in which they are uploaded as well, which takes minutes
_COPIED = 5  # of so many, rclone copies one: it would take as long
_LOOK = 1.0  # s between two looks at uploads; each costs the server 10 ms
_TOP = "run"
_TAR, _TAR_CPU = "tar x: files/s", "tar x: server, CPU-ms a file"
_LAKE, _LAKE_CPU = "uploaded: files/s", "uploaded: server, CPU-ms a file"
_CALLS, _RSS = "requests to Rucio a file", "many files: RSS, MB"
ROWS = (_TAR, _TAR_CPU, _LAKE, _LAKE_CPU, _CALLS, _RSS)


def archive(bench: Bench) -> Path:
    """Make the archive of as many files as `Sizes.files`.  No two of them are the same."""
    path = bench.directory / "many.tar"
    with tarfile.open(path, "w") as made:
        for number in range(bench.sizes.files):
            member = tarfile.TarInfo(f"{_TOP}/event-{number:06d}.root")
            member.size, member.mode = _SIZE, 0o644
            made.addfile(member, BytesIO(os.urandom(_SIZE)))
    return path


def measure(bench: Bench, made: Path, round_: int, result: Result) -> None:
    """One round."""
    with_uploads = round_ < _UPLOADS
    with tempfile.TemporaryDirectory(prefix="disk-", dir=bench.directory) as disk:
        _unpack(bench, made, Path(disk), DISK, result)
        if with_uploads and has(RCLONE):
            _copy(bench, Path(disk), result)
    with scratch(bench, f"many-{bench.tag}-{round_}") as saver:
        _save(bench, made, saver, OURS, result)
        if with_uploads:
            _upload(bench, saver, result)
    if has(RCLONE):
        with rclone(bench) as saver:
            _save(bench, made, saver, RCLONE, result)


def verdicts(result: Result) -> list[Verdict]:
    return [
        at_least(_TAR, median(result, _TAR), 1000),
        at_most(f"{_CALLS}, at most", most(result, _CALLS), 0.1),
    ]


def _save(bench: Bench, made: Path, saver: Saver, way: str, result: Result) -> None:
    used = saver.served.cpu()
    _unpack(bench, made, saver.directory, way, result)
    used = saver.served.cpu() - used
    note(result, _TAR_CPU, way, 1000 * used / bench.sizes.files)


def _unpack(bench: Bench, made: Path, directory: Path, way: str, result: Result) -> None:
    """As users do: root's tar would set owners, too."""
    synced()
    took = bench.time(
        ["tar", "xf", made, "--no-same-owner", "--no-same-permissions", "-C", directory]
    )
    note(result, _TAR, way, bench.sizes.files / took)


def _upload(bench: Bench, saver: Saver, result: Result) -> None:
    files = bench.sizes.files
    synced()
    used, calls = saver.served.cpu(), bench.calls()
    done = upload(bench, saver, files, _LOOK)
    note(result, _LAKE, OURS, files / done.took)
    note(result, _LAKE_CPU, OURS, 1000 * (saver.served.cpu() - used) / files)
    note(result, _CALLS, OURS, (bench.calls() - calls) / files)
    note(result, _RSS, OURS, saver.served.rss_peak())


def _copy(bench: Bench, disk: Path, result: Result) -> None:
    """Some of the same files to the same storage, as many at once as rucio-fs has."""
    names = sorted(os.listdir(disk / _TOP))[::_COPIED]
    chosen = disk / "chosen"
    chosen.write_text("\n".join(names))
    with storage_directory(bench) as url:
        synced()
        command: list[str | Path] = ["rclone", "copy", disk / _TOP, *remote(bench, url)]
        command += ["--files-from", chosen, "--transfers", str(ScratchConfig().connections)]
        took = bench.time(command)
    note(result, _LAKE, RCLONE, len(names) / took)
