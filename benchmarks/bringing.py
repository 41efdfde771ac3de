"""Opening what is elsewhere: how long it takes, and what hundreds of waiting opens cost.

On a lake with Rucio's daemons and the FTS stand-in, so that real bytes move; the transfers are held
back where only the waiting is measured.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.bench import Bench, say
from benchmarks.report import Result, at_most, number
from benchmarks.rest import Rest
from benchmarks.served import BenchError, Served
from lake import Lake, placing
from lake.fts.client import FtsControl
from lake.rses import BY_NAME, hash_path

_POLL = 1.0  # s: rules.poll
_JITTER = 1.1
_PATIENCE = 60.0  # s for what takes one
_SIZE = 1_000_000  # bytes of a file that is brought
_LONG_WAIT = 20.0  # s for which hundreds wait before they are looked at: their polls are slow then


def bringing(bench: Bench) -> Result:
    """`cat` of files at REM1 and REM2, and as many waiting opens as `Sizes.waiting`."""
    result = Result(
        "bringing",
        "opening files that are elsewhere",
        ["what", "median", "largest", "samples"],
    )
    say("starting a lake with Rucio's daemons")
    lake = Lake.up(free_ports=True, samples=False)
    try:
        own = replace(bench, lake=lake)
        rest = Rest(own)
        _latency(own, rest, result)
        _interrupts(own, rest, result)
        _crowd(own, rest, result)
    finally:
        lake.down()
    return result


# --- one file ------------------------------------------------------------------------------------


def _latency(bench: Bench, rest: Rest, result: Result) -> None:
    """Time of a whole `cat`, and from "the rule is OK" to its end."""
    scope = f"bring-{bench.tag}"
    rest.call("POST", f"/scopes/root/{scope}", None)
    say("bringing single files")
    with bench.mount(policy="replicate") as mount:
        for number_ in range(2 * bench.sizes.rounds):
            rse = ("REM1", "REM2")[number_ % 2]
            name = f"one-{number_:03d}"
            _place(bench.lake, rest, rse, scope, name)
            bench.run(["stat", mount.path / scope / name])
            began = time.perf_counter()
            reader = subprocess.Popen(
                ["cat", str(mount.path / scope / name)], stdout=subprocess.DEVNULL
            )
            watch = _Watch(rest, scope, name)
            if reader.wait(_PATIENCE):
                raise BenchError(f"cat of {scope}:{name} failed")
            ended = time.perf_counter()
            watch.join(_PATIENCE)
            if watch.ok_at is None:
                raise BenchError(f"no rule for {scope}:{name} became OK")
            result.add(f"cat of a file at {rse}, s", ended - began)
            result.add("from rule OK to open, s", ended - watch.ok_at)
    for what in ("cat of a file at REM1, s", "cat of a file at REM2, s", "from rule OK to open, s"):
        _row(result, what)
    slowest = max(result.samples["cat of a file at REM1, s"])
    slowest = max(slowest, *result.samples["cat of a file at REM2, s"])
    result.verdicts += [
        at_most("slowest cat of a file that is elsewhere, s", slowest, 3.0),
        at_most(
            "longest from rule OK to open, s",
            max(result.samples["from rule OK to open, s"]),
            _POLL * _JITTER + 0.2,
            "one poll interval + 0.2 s",
        ),
    ]


class _Watch(threading.Thread):
    """Asks Rucio for the rule of a file as fast as it answers, until it is OK."""

    def __init__(self, rest: Rest, scope: str, name: str) -> None:
        super().__init__(daemon=True)
        self.ok_at: float | None = None
        self._rest = rest
        self._path = f"/dids/{scope}/{name}/rules"
        self.start()

    def run(self) -> None:
        deadline = time.perf_counter() + _PATIENCE
        while self.ok_at is None and time.perf_counter() < deadline:
            answered = self._rest.call("GET", self._path, None)
            rules = [json.loads(line) for line in answered.splitlines()]
            if any(rule["rse_expression"] == "COLO" and rule["state"] == "OK" for rule in rules):
                self.ok_at = time.perf_counter()


def _place(lake: Lake, rest: Rest, rse: str, scope: str, name: str) -> None:
    """Make a file that is at *rse* only."""
    content = name.encode().ljust(_SIZE, b".")
    placing.put(BY_NAME[rse], lake.directory / "store", hash_path(scope, name), content)
    file = {
        "scope": scope,
        "name": name,
        "bytes": len(content),
        "adler32": f"{zlib.adler32(content):08x}",
    }
    rest.call("POST", "/replicas", {"rse": rse, "files": [file], "ignore_availability": True})


# --- ending a wait -------------------------------------------------------------------------------


def _interrupts(bench: Bench, rest: Rest, result: Result) -> None:
    """From a signal to the end of an open that waits; and O_NONBLOCK, which does not wait."""
    rounds = bench.sizes.rounds
    scope = f"end-{bench.tag}"
    bench.lake.fill(scope, big=4 * rounds)
    names = _names(bench, rest, scope)
    say("ending waits")
    with bench.mount(policy="replicate") as mount, _stalled(bench.lake):
        for index, number_ in enumerate([signal.SIGINT, signal.SIGTERM, signal.SIGKILL] * rounds):
            path = mount.path / scope / "big" / names[index]
            reader = subprocess.Popen(["cat", str(path)], stdout=subprocess.DEVNULL)
            _until(bench, mount, waiting=1)
            began = time.perf_counter()
            reader.send_signal(number_)
            reader.wait(_PATIENCE)
            result.add("from a signal to the end, s", time.perf_counter() - began)
            _until(bench, mount, waiting=0)
        for name in names[3 * rounds :]:
            took = bench.client("nonblocking", str(mount.path / scope / "big" / name))
            result.add("O_NONBLOCK open, ms", 1000 * took)
    for what in ("from a signal to the end, s", "O_NONBLOCK open, ms"):
        _row(result, what)
    result.verdicts += [
        at_most(
            "longest from a signal to the end, s",
            max(result.samples["from a signal to the end, s"]),
            0.5,
        ),
        at_most("longest O_NONBLOCK open, ms", max(result.samples["O_NONBLOCK open, ms"]), 50),
    ]


# --- hundreds ------------------------------------------------------------------------------------


def _crowd(bench: Bench, rest: Rest, result: Result) -> None:
    """Opens of as many absent files of a dataset, and what everybody else notices of them."""
    count = bench.sizes.waiting
    scope = f"crowd-{bench.tag}"
    bench.lake.fill(scope, big=count, loose=100)
    names = _names(bench, rest, scope)
    _place(bench.lake, rest, "COLO", scope, "local")
    say(f"{count} opens wait")
    with (
        # The client reads hundreds of times a second, and each read is told to Rucio by itself.
        bench.mount(policy="replicate", rules__traces="no") as mount,
        _stalled(bench.lake),
        contextlib.ExitStack() as readers,
    ):
        bench.run(["ls", mount.path / scope / "big"])
        before = bench.calls()
        began = time.perf_counter()
        for name in names:
            path = mount.path / scope / "big" / name
            reader = subprocess.Popen(["head", "-c", "1", str(path)], stderr=subprocess.DEVNULL)
            readers.callback(reader.wait, _PATIENCE)
            readers.callback(reader.kill)
        _until(bench, mount, waiting=count)
        result.add("until all wait, s", time.perf_counter() - began)
        _until_under_way(bench, mount)
        result.add("requests to have all brought", bench.calls() - before)
        for age in ("young", "old"):
            calls, start = bench.calls(), time.perf_counter()
            seen = bench.client(
                "meanwhile", str(mount.path / scope), str(mount.path / scope / "local"), _LONG_WAIT
            )
            span = time.perf_counter() - start
            # One request for the name `local` and one for its replicas are the client's own.
            result.add(f"requests a second, {age} waits", (bench.calls() - calls) / span)
            for what, times in seen.items():
                result.samples.setdefault(f"{what}, ms", []).extend(times)
        rss = result.add("RSS, MB", mount.rss_peak())
    _row(result, "until all wait, s")
    _row(result, "requests to have all brought")
    for age in ("young", "old"):
        _row(result, f"requests a second, {age} waits")
    for what in ("ls", "stat", "read"):
        times = sorted(result.samples[f"{what}, ms"])
        p99 = times[int(0.99 * len(times))]
        result.rows.append(
            [f"{what} meanwhile, ms (p99)", number(result.median(f"{what}, ms")), number(p99),
             number(len(times))]
        )  # fmt: skip
        result.verdicts.append(at_most(f"{what} while {count} opens wait, p99, ms", p99, 100))
    rate = max(result.samples[f"requests a second, {age} waits"][0] for age in ("young", "old"))
    result.verdicts += [
        at_most(f"requests a second while {count} opens wait", rate, 2.0),
        at_most(f"RSS with {count} opens waiting, MB", rss, 120),
    ]


def _names(bench: Bench, rest: Rest, scope: str) -> Sequence[str]:
    answered = rest.call("GET", f"/dids/{scope}/big/dids", None)
    return [json.loads(line)["name"] for line in answered.splitlines()]


@contextlib.contextmanager
def _stalled(lake: Lake) -> Iterator[None]:
    """Let no transfer begin."""
    fts = FtsControl(lake.fts_url)
    fts.stall()
    try:
        yield
    finally:
        fts.clear()


def _until(bench: Bench, mount: Served, *, waiting: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while bench.status(mount)["opening"]["waiting"] != waiting:
        if time.monotonic() > deadline:
            raise BenchError(f"{waiting} opens should wait, {bench.status(mount)['opening']} do")
        time.sleep(0.02)  # asks the mount


def _until_under_way(bench: Bench, mount: Served) -> None:
    """Wait until a rule is made or found for everything."""
    events = mount.path / ".rucio" / "events"
    deadline = time.monotonic() + _PATIENCE
    wanted = bench.sizes.waiting
    while bench.run(["cat", events]).count('"requested"') < wanted:
        if time.monotonic() > deadline:
            raise BenchError("not all rules were made")
        time.sleep(0.2)  # asks the mount


def _row(result: Result, key: str) -> None:
    values = result.samples[key]
    result.rows.append([key, number(result.median(key)), number(max(values)), number(len(values))])
