"""What the server holds in memory: idle, after large listings, and over a million entries."""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType
from typing import Self

from benchmarks.bench import Bench, say
from benchmarks.report import Result, at_most, number
from benchmarks.served import Served

_SETTLE = 1.0  # s, for what runs after the mount answers


def memory(bench: Bench) -> Result:
    """RSS of a fresh mount, after `ls` of three directories, after `ls -l` of the same."""
    sizes = bench.sizes
    total = sizes.entries + sizes.files + sizes.datasets
    result = Result(
        "memory",
        "RSS of the server, MB (10^6 bytes), cache limit at its default",
        ["after", "RSS", "peak", "cache bytes", "entries held"],
    )
    scope = bench.scope
    directories = ["", "big", "all"]
    say("memory")
    with bench.mount() as mount:
        time.sleep(_SETTLE)
        _note(bench, mount, result, "mounting")
        for directory in directories:
            bench.time(["ls", mount.path / scope / directory])
        _note(bench, mount, result, f"ls of {total:,}")
        for directory in directories:
            bench.time(["ls", "-l", mount.path / scope / directory])
        _note(bench, mount, result, f"ls -l of {total:,}")
    result.verdicts += [
        at_most("RSS idle, MB", result.median("mounting: RSS MB"), 60),
        at_most(f"RSS after ls of {total:,}, MB", result.median(f"ls of {total:,}: RSS MB"), 200),
    ]
    if bench.is_long:
        _million(bench, result)
    return result


def _note(bench: Bench, mount: Served, result: Result, case: str) -> None:
    rss, peak = mount.rss(), mount.rss_peak()
    status = bench.status(mount)
    result.add(f"{case}: RSS MB", rss)
    result.add(f"{case}: peak MB", peak)
    cached = result.add(f"{case}: cache bytes", status["cache"]["bytes"])
    inodes = result.add(f"{case}: inodes", status["inodes"])
    result.rows.append([case, *map(number, (rss, peak, cached, inodes))])


def _million(bench: Bench, result: Result) -> None:
    """List ten scopes, twice, so that the cache has to forget most of them each time."""
    total = bench.sizes.scopes * bench.sizes.entries
    say(f"filling scopes with {total:,} DIDs, which takes minutes")
    scopes = list(bench.more_scopes())
    say(f"ls of {total:,} entries, twice")
    case = f"ls of {total:,}, twice"
    most, limit = 0.0, 0.0
    with bench.mount() as mount, _Sampler(mount) as sampler:
        for _ in range(2):
            for scope in scopes:
                bench.time(["ls", mount.path / scope])
                status = bench.status(mount)["cache"]
                most, limit = max(most, status["bytes"]), status["limit"]
        _note(bench, mount, result, case)
        result.samples[f"{case}: RSS MB over time"] = sampler.samples
    result.verdicts.append(at_most("cache bytes over it all", most, limit, "cache limit"))
    highest = max(sampler.samples)
    result.notes.append(
        f"{case}: RSS never above {highest:.0f} MB ({len(sampler.samples)} looks); beside the cache"
        " are the inodes that the kernel remembers, and gives back when memory gets short"
    )


class _Sampler:
    """Looks at the server's RSS ten times a second; reads /proc only, never the mount."""

    def __init__(self, served: Served) -> None:
        self.samples: list[float] = []
        self._served = served
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        # A server that died is found out by whoever uses its mount.
        with contextlib.suppress(OSError):
            while not self._ended.wait(0.1):
                self.samples.append(self._served.rss())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
