"""Files that are only elsewhere, read over http(s) while they stay there: rucio-fs beside rclone.

Here: the rounds, and whole files in order.  What is small is in streaming_small, what happens at
once in streaming_together.
"""

from __future__ import annotations

from benchmarks import streaming_small, streaming_together
from benchmarks.bench import Bench, say
from benchmarks.far import FAR, LIMITED, LINKS, LOOPBACK, TLS, Far, far
from benchmarks.report import Result, Verdict, at_least, at_most, number
from benchmarks.ways import (
    COLUMNS,
    CURL,
    RCLONE,
    RCLONE_CACHED,
    fresh,
    has_rclone,
    is_measured,
    median,
    note,
    ways,
)
from rucio_fs.config import StreamingConfig

_GIB = 1 << 30
_RATE, _FIRST, _CPU = "GB/s", "first byte, ms", "CPU-s/GiB"
_FASTER_THAN_RCLONE = {LOOPBACK: 1.5, FAR: 1.3, LIMITED: 3.0}


def streaming(bench: Bench) -> Result:
    """Read through fresh mounts, round by round, everything in turn."""
    result = Result("streaming", "files that are elsewhere, read over http(s)", ["what", *COLUMNS])
    with far(bench) as there:
        for round_ in range(bench.sizes.rounds):
            say(f"streaming, round {round_ + 1} of {bench.sizes.rounds}")
            for link in LINKS:
                _sequential(bench, there, link, result)
            streaming_small.measure(bench, there, round_, result)
            streaming_together.measure(bench, there, result)
    for what in _rows():
        cells = [
            number(median(result, what, way)) if is_measured(result, what, way) else "-"
            for way in COLUMNS
        ]
        result.rows.append([what, *cells])
    result.verdicts += _verdicts(result)
    result.verdicts += streaming_small.verdicts(result)
    result.verdicts += streaming_together.verdicts(result)
    result.notes.append(
        f"each figure in a fresh mount with empty caches; a file is {bench.sizes.file_bytes >> 20}"
        f" MiB, a part {bench.sizes.shared_bytes >> 20} MiB; curl: {_streams()} ranges at once;"
        f" streams open: {bench.sizes.streams}"
    )
    if not has_rclone():
        result.notes.append("rclone is not installed: not measured, no ratios to it")
    return result


def _sequential(bench: Bench, there: Far, link: str, result: Result) -> None:
    file = there.files.big[link]
    for way in ways():
        with fresh(bench, way, file) as mount:
            used = mount.served.cpu()
            first, took = bench.client("streamed", mount.paths[0], file.size)
            there.log.settle()  # checking and writing to disk may take longer than the reader
            used = mount.served.cpu() - used
        note(result, f"{link}: {_RATE}", way, file.size / took / 1e9)
        note(result, f"{link}: {_FIRST}", way, 1000 * first)
        note(result, f"{link}: {_CPU}", way, used / file.size * _GIB)
    took = bench.client("curls", file.url, file.size, _streams(), bench.lake.ca_file)
    note(result, f"{link}: {_RATE}", CURL, file.size / took / 1e9)


def _streams() -> int:
    """As many as rucio-fs has to one storage."""
    return int(StreamingConfig().connections)


def _rows() -> list[str]:
    rows = [f"{link}: {what}" for link in LINKS for what in (_RATE, _FIRST, _CPU)]
    return [*rows, *streaming_small.ROWS, *streaming_together.ROWS]


def _verdicts(result: Result) -> list[Verdict]:
    found = []
    if has_rclone():
        for link, target in _FASTER_THAN_RCLONE.items():
            what = f"{link}: {_RATE}"
            best = max(median(result, what, way) for way in (RCLONE, RCLONE_CACHED))
            ratio = median(result, what) / best
            found.append(at_least(f"{link}, ratio to the faster rclone", ratio, target))
    secure = f"{TLS}: {_RATE}"
    ratio = median(result, secure) / median(result, secure, CURL)
    used = median(result, f"{LOOPBACK}: {_CPU}")
    return [
        *found,
        at_most("server, CPU-s/GiB, http", used, 0.9),
        at_least(f"{TLS}, ratio to {_streams()} curls", ratio, 0.8),
    ]
