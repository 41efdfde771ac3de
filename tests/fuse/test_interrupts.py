"""Whoever waits for Rucio can stop waiting: Ctrl-C, timeout(1) and kill -9 end a client."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from lake import Lake
from lake.faults import Fault, Timeout
from tests.faulty import FaultyMount
from tests.mounting import DEADLINE

pytestmark = [pytest.mark.fuse, pytest.mark.lake]


@pytest.fixture(scope="module")
def rig(lake: Lake) -> Iterator[FaultyMount]:
    """A mount that waits for Rucio far longer than a test does."""
    patient = {f"rucio.{key}": 600 for key in ("timeout", "deadline", "listing_deadline")}
    with FaultyMount(lake, patient) as rig:
        yield rig
        rig.check_log()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    ("command", "path", "asked"),
    [
        pytest.param(["stat"], "sky/nobody", "/nobody/meta", id="lookup"),
        pytest.param(["ls"], "sky/night-001", "/night-001/dids", id="opendir"),
        pytest.param(["cat"], "lab/whole.dat", "/replicas/list", id="open"),
        pytest.param(
            ["getfattr", "--absolute-names", "-n", "user.rucio.meta.band"],
            "sky/exp0002_r.fits",
            "plugin=JSON",
            id="getxattr",
        ),
    ],
)
def test_a_signal_ends_a_client_that_waits(
    rig: FaultyMount, command: list[str], path: str, asked: str, number: signal.Signals
) -> None:
    rig.refresh()
    with rig.proxy.add(Fault(Timeout(), path=asked)) as fault:
        client = subprocess.Popen(
            [*command, str(rig.mount.path / path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        fault.wait()
        client.send_signal(number)
        # Rucio does not answer for 600 s, and the fault lasts: only the signal can end it.
        assert client.wait(DEADLINE) == -number
    assert rig.look(*command, at=path).errnos == ({"ENOENT"} if "nobody" in path else set())
