"""Far files read by many: one file by several, several files at once, one file a second time."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.far import LOOPBACK, Far
from benchmarks.report import Result, Verdict, at_least, at_most
from benchmarks.rest import LocalFile
from benchmarks.ways import (
    OURS,
    RCLONE,
    RCLONE_CACHED,
    UNCACHED,
    fresh,
    median,
    most,
    note,
    ways,
)

_READERS = 16
_REPEATS = 3  # of what takes a tenth of a second
_MIB = 1 << 20
_BURST, _PACE, _SECONDS = 8 * _MIB, _MIB, 4  # bytes at first, bytes/s then, for so long
_ONCE = f"{_READERS} readers of a part: moved, times its size"
_AGAIN = "a part again: GB/s"
_REQUESTS = "a part again: requests"
_LOCAL = "as much of a local file, same mount: GB/s"
_ALONE, _TOGETHER = "one file alone: GB/s", "8 parts at once: GB/s"
_RSS = "streams open: RSS, MB"
ROWS = (_ONCE, _AGAIN, _REQUESTS, _LOCAL, _ALONE, _TOGETHER, _RSS)


def measure(bench: Bench, there: Far, result: Result) -> None:
    """One round."""
    for way in ways():
        _many_readers(bench, there, way, result)
    _second_time(bench, there, result)
    for way in (OURS, UNCACHED):
        _many_files(bench, there, way, result)
    for way in ways():
        if way in (OURS, RCLONE):
            _many_streams(bench, there, way, result)


def verdicts(result: Result) -> list[Verdict]:
    again = median(result, _AGAIN) / median(result, _LOCAL)
    together = median(result, _TOGETHER) / median(result, _ALONE)
    return [
        at_most(f"{_ONCE}, at most", most(result, _ONCE), 1.05),
        at_most(f"{_REQUESTS}, at most", most(result, _REQUESTS), 0),
        at_least("a part again, ratio to a local file", again, 0.8),
        at_least("8 parts at once, ratio to one file", together, 1.0),
        at_most(f"{_RSS}, at most", most(result, _RSS), 250),
    ]


def _many_readers(bench: Bench, there: Far, way: str, result: Result) -> None:
    """All of them read the whole file, from its start."""
    file = there.files.parts[0]
    begin = there.log.end()
    with fresh(bench, way, file) as mount:
        bench.client("each", [str(mount.paths[0])] * _READERS, file.size)
        there.log.settle()
    there.log.settle()  # requests that the end of the mount has broken off
    note(result, _ONCE, way, there.log.moved(begin, file) / file.size)


def _second_time(bench: Bench, there: Far, result: Result) -> None:
    """Beside a local file, which a mount with a site has."""
    _again(bench, there, OURS, result, local=there.local, site="HERE", rse="COLO")
    if RCLONE_CACHED in ways():
        _again(bench, there, RCLONE_CACHED, result)


def _again(
    bench: Bench,
    there: Far,
    way: str,
    result: Result,
    local: LocalFile | None = None,
    **options: object,
) -> None:
    """The kernel's own pages are dropped, so that it asks the mount, each time."""
    file = there.files.parts[1]
    with fresh(bench, way, file, **options) as mount:
        files = {_AGAIN: mount.paths[0]}
        if local is not None:
            files[_LOCAL] = mount.served.path / local.scope / local.name
        for path in files.values():
            bench.client("sequential", path, file.size, False)
        there.log.settle()
        begin = there.log.end()
        for _ in range(_REPEATS):
            for what, path in files.items():
                took = bench.client("sequential", path, file.size, True)
                note(result, what, way, file.size / took / 1e9)
        there.log.settle()
        note(result, _REQUESTS, way, len(there.log.since(begin)))


def _many_files(bench: Bench, there: Far, way: str, result: Result) -> None:
    big, parts = there.files.big[LOOPBACK], there.files.parts
    with fresh(bench, way, big, *parts) as mount:
        took = bench.client("sequential", mount.paths[0], big.size, False)
        note(result, _ALONE, way, big.size / took / 1e9)
        there.log.settle()
        took = bench.client("each", list(map(str, mount.paths[1:])), parts[0].size)
        note(result, _TOGETHER, way, len(parts) * parts[0].size / took / 1e9)


def _many_streams(bench: Bench, there: Far, way: str, result: Result) -> None:
    """Programs that read and compute in turn: each holds what was fetched ahead for it."""
    with fresh(bench, way, *there.files.streams) as mount:
        paths = list(map(str, mount.paths))
        bench.client("slowly", paths, _BURST, _PACE, _SECONDS)
        note(result, _RSS, way, mount.served.rss_peak())
