"""What uses a mount: a program of its own, so that a mount that hangs stops no benchmark.

    python client.py FUNCTION JSON-ARGUMENTS          prints JSON

Standard library only, and times what it does itself: the interpreter's start does not count.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

_BLOCK = 1 << 20  # bytes at a time of a sequential read, as cp and cat do it
_PAGE = 4096


def sequential(path: str, length: int, cold: bool) -> float:
    """Seconds to read the first *length* bytes in order."""
    fd = os.open(path, os.O_RDONLY)
    if cold:
        _drop(fd)
    start = time.perf_counter()
    _read(fd, 0, length)
    took = time.perf_counter() - start
    os.close(fd)
    return took


def scattered(path: str, length: int, count: int, readers: int, cold: bool) -> float:
    """Seconds for *count* reads of 4 KiB, no page twice, by *readers* processes at once."""
    fd = os.open(path, os.O_RDONLY)
    if cold:
        _drop(fd)
    pages = random.Random(count).sample(range(length // _PAGE), count)

    def read(number: int) -> None:
        own = os.open(path, os.O_RDONLY)
        for page in pages[number::readers]:
            if len(os.pread(own, _PAGE, page * _PAGE)) != _PAGE:
                raise OSError(f"short read at page {page}")

    return _together(read, readers)


def concurrent(path: str, length: int, readers: int, cold: bool) -> float:
    """Seconds for *readers* processes to read the file together, a part each."""
    fd = os.open(path, os.O_RDONLY)
    if cold:
        _drop(fd)
    part = length // readers

    def read(number: int) -> None:
        own = os.open(path, os.O_RDONLY)
        _read(own, number * part, part)

    return _together(read, readers)


def checksums(path: str, length: int, readers: int, cold: bool) -> list[int]:
    """adler32 of each reader's part, read at the same time."""
    fd = os.open(path, os.O_RDONLY)
    if cold:
        _drop(fd)
    part = length // readers
    results = mmap.mmap(-1, max(4 * readers, mmap.PAGESIZE))

    def read(number: int) -> None:
        own = os.open(path, os.O_RDONLY)
        value = _read(own, number * part, part, zlib.adler32)
        results[4 * number : 4 * number + 4] = value.to_bytes(4)

    _together(read, readers)
    return [int.from_bytes(results[4 * n : 4 * n + 4]) for n in range(readers)]


def streamed(path: str, length: int) -> list[float]:
    """Seconds from open to the first page and to the end of the first *length* bytes, in order."""
    start = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    _read(fd, 0, _PAGE)
    first = time.perf_counter()
    _read(fd, _PAGE, min(_BLOCK, length) - _PAGE)
    _read(fd, _BLOCK, length - _BLOCK)
    end = time.perf_counter()
    os.close(fd)
    return [first - start, end - start]


def pieces(path: str, ranges: list[tuple[int, int]]) -> list[float]:
    """Seconds of each read of (offset, length), one after the other; the open does not count."""
    fd = os.open(path, os.O_RDONLY)
    times = []
    for offset, length in ranges:
        start = time.perf_counter()
        _read(fd, offset, length)
        times.append(time.perf_counter() - start)
    os.close(fd)
    return times


def first_pages(paths: list[str], elsewhere: int) -> list[float]:
    """Seconds from open to the first page of files of which only the page *elsewhere* was read."""
    for path in paths:
        pieces(path, [(elsewhere, _PAGE)])
    time.sleep(1.0)  # what that set off is over
    times = []
    for path in paths:
        start = time.perf_counter()
        fd = os.open(path, os.O_RDONLY)
        _read(fd, 0, _PAGE)
        times.append(time.perf_counter() - start)
        os.close(fd)
    return times


def each(paths: list[str], length: int) -> float:
    """Seconds for as many processes as *paths* to read *length* bytes of one each."""

    def read(number: int) -> None:
        _read(os.open(paths[number], os.O_RDONLY), 0, length)

    return _together(read, len(paths))


def slowly(paths: list[str], burst: int, pace: int, seconds: int) -> float:
    """Read *burst* bytes of each file by a process each, then *pace* bytes/s for *seconds*."""

    def read(number: int) -> None:
        fd = os.open(paths[number], os.O_RDONLY)
        _read(fd, 0, burst)
        for second in range(seconds):
            time.sleep(1.0)  # a program that computes meanwhile
            _read(fd, burst + second * pace, pace)

    return _together(read, len(paths))


def curls(url: str, size: int, streams: int, authority: str) -> float:
    """Seconds for as many curls as *streams* to get a part of *url* each."""
    part = -(-size // streams)
    start = time.perf_counter()
    running = [
        subprocess.Popen(
            [
                *["curl", "--silent", "--fail", "--noproxy", "*", "--cacert", authority],
                *["--output", "/dev/null", "--range", f"{at}-{min(at + part, size) - 1}", url],
            ]
        )
        for at in range(0, size, part)
    ]
    codes = [one.wait() for one in running]
    took = time.perf_counter() - start
    if any(codes):
        raise OSError(f"curl of {url} failed: {codes}")
    return took


def stats(directories: list[str], count: int, rounds: int) -> list[list[float]]:
    """For each round, stats per second of *count* known paths in each of *directories*, in turn."""
    paths = []
    for directory in directories:
        names = sorted(os.listdir(directory))
        chosen = random.Random(count).sample(names, count)
        paths.append([f"{directory}/{name}" for name in chosen])
        for path in paths[-1]:
            os.stat(path)
    return [[_stat_all(some) for some in paths] for _ in range(rounds)]


def _stat_all(paths: list[str]) -> float:
    stat = os.stat
    start = time.perf_counter()
    for path in paths:
        stat(path)
    return len(paths) / (time.perf_counter() - start)


def _read(
    fd: int, offset: int, length: int, checksum: Callable[[memoryview, int], int] | None = None
) -> int:
    buffer = memoryview(mmap.mmap(-1, _BLOCK))
    value = 1
    end = offset + length
    while offset < end:
        got = os.preadv(fd, [buffer[: min(_BLOCK, end - offset)]], offset)
        if not got:
            raise OSError(f"the file ended at {offset}")
        if checksum is not None:
            value = checksum(buffer[:got], value)
        offset += got
    return value


def _drop(fd: int) -> None:
    """Take the file's pages out of the kernel's cache (a mount's own, not those below it)."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def nonblocking(path: str) -> float:
    """Seconds of an open with O_NONBLOCK, which has to be EAGAIN, once its replicas are known."""
    os.getxattr(path, "user.rucio.replicas")
    start = time.perf_counter()
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except BlockingIOError:
        return time.perf_counter() - start
    raise OSError(f"{path} is here")


def meanwhile(directory: str, file: str, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of `ls` of a directory, `stat` and a read of a file, again and again."""
    times: dict[str, list[float]] = {"ls": [], "stat": [], "read": []}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        os.listdir(directory)
        listed = time.perf_counter()
        os.stat(file)
        found = time.perf_counter()
        with open(file, "rb") as opened:
            opened.read(_PAGE)
        read = time.perf_counter()
        for what, took in (
            ("ls", listed - start),
            ("stat", found - listed),
            ("read", read - found),
        ):
            times[what].append(1000 * took)
        time.sleep(0.01)  # a user's pace, not a measurement of throughput
    return times


def written(path: str, length: int) -> float:
    """Seconds to write *length* bytes in order and have them on disk, from open to close."""
    block = bytearray(random.Random(length).randbytes(_BLOCK))
    start = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for offset in range(0, length, _BLOCK):
        block[:8] = offset.to_bytes(8)  # no two blocks are the same
        if os.write(fd, block) != _BLOCK:
            raise OSError(f"short write at {offset}")
    os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - start


def uploaded(board: str, order: str, count: int, pace: float, seconds: float) -> dict[str, Any]:
    """Look at `.rucio/uploads` every *pace* seconds until *count* are in the lake.

    *order* is written into it first.  Tells how long after that each state was first seen and how
    far everything is, at the latest after *seconds*, and at once when something has failed.
    """
    start = time.perf_counter()
    if order:
        with open(board, "w") as orders:
            orders.write(order)
    seen: dict[str, float] = {}
    while True:
        with open(board) as told:
            found = json.load(told)
        now = time.perf_counter() - start
        for one in found["uploads"]:
            state = one["state"].partition(" ")[0]  # "UPLOADING 38%"
            seen.setdefault(state, now)
            if state == "UPLOADING" and one["sent"] == one["bytes"]:
                seen.setdefault("SENT", now)
        is_done = found["done"] >= count
        if is_done or found["failed"] or now > seconds:
            return {
                "seconds": now,
                "done": is_done,
                "seen": seen,
                "failed": found["failed"],
                "progress": [found["done"], found["sent"]],
                "reasons": [
                    *[one["error"] for one in found["uploads"] if "error" in one],
                    *found["waits_for"].values(),
                ],
            }
        time.sleep(pace)  # what is looked at costs the server something


def _together(work: Callable[[int], None], workers: int) -> float:
    """Run *work* in as many processes; seconds from the starting shot to the end of the last."""
    waiting, shot = os.pipe()
    children = []
    for number in range(workers):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(shot)
                os.read(waiting, 1)  # end of file, once the parent closes its end
                work(number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    time.sleep(0.05)  # all of them are waiting by then
    start = time.perf_counter()
    os.close(shot)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    took = time.perf_counter() - start
    if any(codes):
        raise OSError("a reader failed")
    return took


if __name__ == "__main__":
    function: Any = globals()[sys.argv[1]]
    print(json.dumps(function(*json.loads(sys.argv[2]))))
