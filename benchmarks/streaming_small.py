"""A few bytes of a far file: how soon they come, and how many others are moved for them."""

from __future__ import annotations

import random

from benchmarks.bench import Bench
from benchmarks.far import FAR, ROUND_TRIP, Far
from benchmarks.report import Result, Verdict, at_most
from benchmarks.ways import fresh, median, most, note, ways

_PIECE = 64 << 10  # bytes
_MIB = 1 << 20
_FIRST = f"{FAR}: open again to first byte, ms"
_RANDOM = f"{FAR}: random 64 KiB, ms"
_HEAD = "moved by head -c 100, MiB"
_HEADER = "moved by 2,880 bytes at 0, MiB"
_FOOTER = "moved by the last 8 bytes, then 64 KiB, MiB"
_MOVED = (_HEAD, _HEADER, _FOOTER)
ROWS = (_FIRST, _RANDOM, *_MOVED)


def measure(bench: Bench, there: Far, round_: int, result: Result) -> None:
    """One round."""
    for way in ways():
        _first_bytes(bench, there, way, result)
        _random(bench, there, way, round_, result)
        _moved(bench, there, way, result)


def verdicts(result: Result) -> list[Verdict]:
    trip = 1000 * ROUND_TRIP
    return [
        at_most(_FIRST, median(result, _FIRST), trip + 15, "a round trip + 15 ms"),
        at_most(_RANDOM, median(result, _RANDOM), trip + 5, "a round trip + 5 ms"),
        *(at_most(f"{what}, at most", most(result, what), 4) for what in _MOVED),
    ]


def _first_bytes(bench: Bench, there: Far, way: str, result: Result) -> None:
    """Files that were opened before, so that replicas and connections are at hand."""
    files = there.files.far_parts
    with fresh(bench, way, *files) as mount:
        for took in bench.client("first_pages", list(map(str, mount.paths)), files[0].size // 2):
            note(result, _FIRST, way, 1000 * took)


def _random(bench: Bench, there: Far, way: str, round_: int, result: Result) -> None:
    file = there.files.big[FAR]
    chosen = random.Random(round_).sample(range(file.size // _PIECE), bench.sizes.random_reads)
    with fresh(bench, way, file) as mount:
        ranges = [(piece * _PIECE, _PIECE) for piece in chosen]
        for took in bench.client("pieces", mount.paths[0], ranges):
            note(result, _RANDOM, way, 1000 * took)


def _moved(bench: Bench, there: Far, way: str, result: Result) -> None:
    """Three huge files in one mount; what is fetched after the read counts as well."""
    head, header, footer = files = there.files.sparse
    begin = there.log.end()
    with fresh(bench, way, *files) as mount:
        bench.run(["head", "-c", "100", mount.paths[0]])
        bench.client("pieces", mount.paths[1], [(0, 2880)])
        last = footer.size
        bench.client("pieces", mount.paths[2], [(last - 8, 8), (last - _PIECE, _PIECE)])
        there.log.settle()
    there.log.settle()  # requests that the end of the mount has broken off
    for what, file in zip(_MOVED, (head, header, footer), strict=True):
        note(result, what, way, there.log.moved(begin, file) / _MIB)
