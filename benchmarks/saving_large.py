"""One large file saved: how fast it is written, and how fast it is in the lake afterwards."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmarks.bench import Bench, say
from benchmarks.report import MB, Result, Verdict, at_least, at_most
from benchmarks.saving_ways import (
    CURL,
    DISK,
    OURS,
    scratch,
    storage_directory,
    stored,
    synced,
    upload,
)
from benchmarks.ways import median, most, note

_GIB = 1 << 30
_TIMES = 4  # `Sizes.file_bytes` are in it
_COPIES = 5  # of it that are on the disk at once, with one to spare
_ROUNDS = 3  # of some GiB each
_LOOK = 0.05  # s between two looks at its upload
_NAME = "large.root"
_WRITTEN, _WRITTEN_CPU = "large file written: MB/s", "large file written: server, CPU-s/GiB"
_STORED, _DONE = "large file on storage: MB/s", "large file in the lake: MB/s"
_LAKE_CPU, _RSS = "large file uploaded: server, CPU-s/GiB", "large file: RSS, MB"
_STEPS = {
    "UPLOADING": "large file: begun after, s",
    "SENT": "large file: sent after, s",
    "REGISTERING": "large file: proved after, s",
}
ROWS = (_WRITTEN, _WRITTEN_CPU, _STORED, _DONE, _LAKE_CPU, _RSS, *_STEPS.values())


def size(bench: Bench) -> int:
    """Bytes of the file; half as many where the disk is short."""
    wanted = _TIMES * bench.sizes.file_bytes
    has_room = shutil.disk_usage(bench.directory).free > _COPIES * wanted
    return wanted if has_room else wanted // 2


def measure(bench: Bench, length: int, round_: int, result: Result) -> None:
    """One round, of a few."""
    if round_ >= _ROUNDS:
        return
    say(f"a file of {length >> 20} MiB")
    with tempfile.TemporaryDirectory(prefix="disk-", dir=bench.directory) as disk:
        made = Path(disk, _NAME)
        synced()
        note(result, _WRITTEN, DISK, length / bench.client("written", made, length) / MB)
        note(result, _STORED, CURL, length / _curl(bench, made) / MB)
    _save(bench, length, f"large-{bench.tag}-{round_}", result)


def verdicts(result: Result) -> list[Verdict]:
    written = median(result, _WRITTEN) / median(result, _WRITTEN, DISK)
    sent = median(result, _STORED) / median(result, _STORED, CURL)
    return [
        at_least("large file written, ratio to the disk", written, 0.5),
        at_least("large file on storage, ratio to curl -T", sent, 0.8),
        at_most(f"{_RSS}, at most", most(result, _RSS), 150),
    ]


def _save(bench: Bench, length: int, scope: str, result: Result) -> None:
    with scratch(bench, scope) as saver:
        synced()
        used = saver.served.cpu()
        took = bench.client("written", saver.directory / _NAME, length)
        note(result, _WRITTEN, OURS, length / took / MB)
        note(result, _WRITTEN_CPU, OURS, (saver.served.cpu() - used) / length * _GIB)
        used = saver.served.cpu()
        done = upload(bench, saver, 1, _LOOK)
        note(result, _LAKE_CPU, OURS, (saver.served.cpu() - used) / length * _GIB)
        note(result, _RSS, OURS, saver.served.rss_peak())
    # A small one may be registered between two looks.
    note(result, _STORED, OURS, length / done.seen.get("REGISTERING", done.took) / MB)
    note(result, _DONE, OURS, length / done.took / MB)
    for state, what in _STEPS.items():
        if state in done.seen:
            note(result, what, OURS, done.seen[state])
    stored(bench, scope, _NAME).unlink()


def _curl(bench: Bench, made: Path) -> float:
    """Seconds to put the file on the same storage."""
    with storage_directory(bench) as url:
        synced()
        command = ["curl", "--silent", "--fail", "--noproxy", "*", "--output", "/dev/null"]
        command += ["--write-out", "%{time_total}", "--cacert", str(bench.lake.ca_file)]
        return float(bench.run([*command, "-T", made, url + made.name]))
