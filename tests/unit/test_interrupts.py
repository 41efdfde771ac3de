"""Requests of callers who were told to stop end; all others are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rucio_fs import interrupts
from rucio_fs.errors import Interrupted, Unreachable
from rucio_fs.interrupts import Interrupts, is_told_to_stop

_PROGRAM = """
import signal, sys
if sys.argv[1] == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
elif sys.argv[1] == "ignored":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
"""


class Caller:
    """A process that has its signals *disposition* ("plain", "blocked" or "ignored")."""

    def __init__(self, disposition: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, disposition],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        """Freeze it, so that signals stay pending as they do in a request that waits."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    one = Caller(getattr(request, "param", "plain"))
    yield one
    one.process.kill()
    one.process.communicate()


@pytest.mark.parametrize(
    ("caller", "number", "expected"),
    [
        ("plain", signal.SIGINT, True),
        ("plain", signal.SIGTERM, True),
        ("plain", signal.SIGWINCH, False),
        ("plain", signal.SIGCHLD, False),
        ("blocked", signal.SIGTERM, False),
        ("ignored", signal.SIGTERM, False),
        ("ignored", signal.SIGHUP, True),
    ],
    indirect=["caller"],
)
def test_which_signals_mean_stop(caller: Caller, number: signal.Signals, expected: bool) -> None:
    caller.stop()
    assert not is_told_to_stop(caller.process.pid)
    caller.process.send_signal(number)
    assert is_told_to_stop(caller.process.pid) is expected


def test_a_caller_who_is_gone_waits_for_nothing(caller: Caller) -> None:
    caller.process.kill()
    caller.process.wait()
    assert is_told_to_stop(caller.process.pid)


def test_a_caller_whom_proc_hides_waits_for_the_answer(
    caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_PROC", tmp_path)  # as with hidepid=2
    assert not is_told_to_stop(caller.process.pid)

    def refuse(tid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)  # as it is for another user's process
    assert not is_told_to_stop(caller.process.pid)
    monkeypatch.undo()


async def _ask(found: Interrupts, tid: int, outcome: list[str]) -> None:
    try:
        with found.watch(tid):
            await trio.sleep(10)
        outcome.append(f"{tid} answered at {trio.current_time():g}")
    except Interrupted:
        outcome.append(f"{tid} interrupted at {trio.current_time():g}")


async def test_only_the_request_of_the_one_told_to_stop_ends(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    told: set[int] = set()
    monkeypatch.setattr(interrupts, "is_told_to_stop", lambda tid: tid in told)
    found, outcome = Interrupts(), list[str]()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as callers:
            nursery.start_soon(found.run)
            callers.start_soon(_ask, found, 7, outcome)
            callers.start_soon(_ask, found, 8, outcome)
            await trio.sleep(1.1)
            told.add(8)
        nursery.cancel_scope.cancel()
    assert outcome == ["8 interrupted at 1.2", "7 answered at 10"]


async def test_a_caller_in_another_pid_namespace_waits_for_the_answer(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(interrupts, "is_told_to_stop", lambda tid: True)
    found, outcome = Interrupts(), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        await _ask(found, 0, outcome)
        nursery.cancel_scope.cancel()
    assert outcome == ["0 answered at 10"]


@pytest.mark.parametrize("tid", [0, 7])
async def test_all_who_wait_are_released_when_the_mount_ends(
    autojump_clock: MockClock, tid: int
) -> None:
    found = Interrupts()

    async def ask() -> None:
        with pytest.raises(Unreachable, match="the mount is ending"), found.watch(tid):
            await trio.sleep(10)

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            found.stop()
        await ask()  # one that comes late
