"""Telling Rucio what was read, which nothing may wait for or fail with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rucio_fs import tracing
from rucio_fs.did import Identity
from rucio_fs.errors import Refused, Unreachable
from rucio_fs.tracing import Tracer
from tests.fake_rules import FakeRules
from tests.fakes import MY, FakeCatalogue, did

F = did("s:f")


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> FakeRules:
    monkeypatch.setattr(tracing, "time", SimpleNamespace(time=lambda: 1000.0))
    return FakeRules(FakeCatalogue())


@pytest.fixture
def tracer(rules: FakeRules, nursery: trio.Nursery) -> Tracer:
    made = Tracer(rules, "ann", "HERE")
    nursery.start_soon(made.run)
    return made


async def test_a_trace_says_who_read_what_where(
    clock: MockClock, rules: FakeRules, tracer: Tracer
) -> None:
    tracer.read(MY, F, did("d:set"), "COLO", 77, 900.0)
    await trio.sleep(1)
    (trace,) = rules.traces
    expected = {
        "eventType": "get", "clientState": "DONE", "account": "ann", "scope": "s",
        "filename": "f", "datasetScope": "d", "dataset": "set", "filesize": 77,
        "localSite": "HERE", "remoteSite": "COLO", "protocol": "file",
        "timeStart": 900.0, "transferStart": 900.0, "transferEnd": 1000.0, "timeEnd": 1000.0,
    }  # fmt: skip
    assert {key: trace[key] for key in expected} == expected
    assert trace["eventVersion"].startswith("rucio-fs-")
    assert len(trace["uuid"]) == 32


async def test_what_is_not_known_is_left_out(clock: MockClock, rules: FakeRules) -> None:
    tracer = Tracer(rules, "ann", None)
    tracer.read(MY, F, None, "COLO", 1, 0.0)
    with trio.move_on_after(1):
        await tracer.run()
    (trace,) = rules.traces
    assert "datasetScope" not in trace
    assert (trace["dataset"], trace["localSite"]) == ("", "COLO")
    assert None not in trace.values()


async def test_many_reads_are_few_requests(
    clock: MockClock, rules: FakeRules, tracer: Tracer
) -> None:
    sizes: list[int] = []
    take = rules.trace

    async def trace(who: Identity, traces: Sequence[Mapping[str, Any]]) -> None:
        sizes.append(len(traces))
        await take(who, traces)

    rules.trace = trace  # type: ignore[method-assign]
    tracer.read(MY, F, None, "COLO", 1, 0.0)
    await trio.sleep(0.1)
    for number in range(200):
        tracer.read(MY, did(f"s:{number}"), None, "COLO", 1, 0.0)
    await trio.sleep(1)
    assert len(rules.traces) == 1, "there is a pause"
    await trio.sleep(10)
    assert len(rules.traces) == 201
    assert sizes == [1, 100, 100]
    assert [trace["filename"] for trace in rules.traces] == ["f", *map(str, range(200))]


async def test_each_is_told_for_its_own_account(
    clock: MockClock, rules: FakeRules, tracer: Tracer
) -> None:
    askers: list[tuple[Identity, int]] = []
    take = rules.trace

    async def trace(who: Identity, traces: Sequence[Mapping[str, Any]]) -> None:
        askers.append((who, len(traces)))
        await take(who, traces)

    rules.trace = trace  # type: ignore[method-assign]
    for who in (MY, MY, Identity("bob"), MY):
        tracer.read(who, F, None, "COLO", 1, 0.0)
    await trio.sleep(1)
    assert askers == [(MY, 2), (Identity("bob"), 1), (MY, 1)]


@pytest.mark.parametrize("error", [Refused("no such endpoint"), Unreachable("away")])
async def test_a_server_that_takes_none_is_left_alone_for_an_hour(
    clock: MockClock,
    rules: FakeRules,
    tracer: Tracer,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules.errors["trace"] = error
    with caplog.at_level(logging.INFO, "rucio_fs"):
        for _ in range(250):
            tracer.read(MY, F, None, "COLO", 1, 0.0)
        for _ in range(600):
            tracer.read(MY, F, None, "COLO", 1, 0.0)
            await trio.sleep(5)
    assert rules.calls["trace"] == 1
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    rules.errors.clear()
    await trio.sleep(700)
    tracer.read(MY, F, None, "COLO", 1, 0.0)
    await trio.sleep(10)
    assert len(rules.traces) == 1


async def test_a_slow_server_takes_the_newest(
    clock: MockClock, rules: FakeRules, tracer: Tracer
) -> None:
    rules.blocked = trio.Event()
    for number in range(5000):
        tracer.read(MY, did(f"s:{number}"), None, "COLO", 1, 0.0)
        if number % 1000 == 0:
            await trio.sleep(1)
    rules.blocked.set()
    await trio.sleep(60)
    names = [trace["filename"] for trace in rules.traces]
    assert len(names) <= 1100
    assert names[-1000:] == [str(number) for number in range(4000, 5000)]


async def test_a_bug_ends_nothing(
    clock: MockClock, rules: FakeRules, tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    rules.errors["trace"] = ZeroDivisionError("oops")
    tracer.read(MY, F, None, "COLO", 1, 0.0)
    await trio.sleep(1)
    assert "bug while sending traces" in caplog.text
    rules.errors.clear()
    tracer.read(MY, F, None, "COLO", 1, 0.0)
    await trio.sleep(10)
    assert len(rules.traces) == 1


async def test_nothing_read_is_nothing_sent(
    clock: MockClock, rules: FakeRules, tracer: Tracer
) -> None:
    await trio.sleep(3600)
    assert rules.calls == {}
