"""Faults as JSON, and a proxy steered from another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lake.faults import (
    Corrupt,
    Cut,
    DropHeader,
    Fault,
    FaultProxy,
    Latency,
    Refuse,
    ReplaceHeader,
    Reset,
    Stall,
    Status,
    Timeout,
)
from lake.faults.client import FaultControl, FaultControlError
from lake.faults.control import ControlServer
from tests.unit.lake_faults.upstream import PLAIN, Upstream

ROOT = Path(__file__).parents[3]


@pytest.fixture
def control(proxy: FaultProxy) -> Iterator[FaultControl]:
    with ControlServer(proxy) as server:
        yield FaultControl(server.url)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Status(503, b"\xff\x00", {"Retry-After": "1"}), "GET", "/x", nth=2),
        Fault(Timeout(), times=3),
        Fault(Stall(5)),
        Fault(Reset(None)),
        Fault(Reset(7)),
        Fault(Cut(9, "broken")),
        Fault(Latency(0.5)),
        Fault(Refuse()),
        Fault(Corrupt(1, 2, 3)),
        Fault(DropHeader("a", on="request")),
        Fault(ReplaceHeader("a", "b")),
    ],
    ids=lambda fault: fault.kind,
)
def test_faults_survive_the_trip_through_json(control: FaultControl, fault: Fault) -> None:
    control.add(fault)
    assert [remote.fault for remote in control.faults] == [fault]


def test_a_proxy_is_steered_over_http(proxy: FaultProxy, control: FaultControl) -> None:
    assert control.proxy_url == proxy.url
    first = control.add(Fault(Status(503), path="/plain"))
    control.add(Fault(Status(404), path="/plain"))
    assert requests.get(proxy.url + "/plain", timeout=10).status_code == 503
    assert [remote.hits for remote in control.faults] == [1, 1]
    control.remove(first)
    assert requests.get(proxy.url + "/plain", timeout=10).status_code == 404
    control.clear()
    assert control.faults == []
    assert requests.get(proxy.url + "/plain", timeout=10).status_code == 200
    assert control.requests == proxy.requests
    assert [record.status for record in control.requests] == [503, 404, 200]
    control.clear_requests()
    assert control.requests == []


def test_control_drops_connections(proxy: FaultProxy, control: FaultControl) -> None:
    with requests.Session() as session:
        session.get(proxy.url + "/plain", timeout=10)
        control.drop_connections()
        # urllib3 sees the reset before it sends, or the request fails: either is a dropped one.
        try:
            session.get(proxy.url + "/plain", timeout=10)
        except requests.ConnectionError:
            session.get(proxy.url + "/plain", timeout=10)


def test_nonsense_is_refused(control: FaultControl) -> None:
    with pytest.raises(FaultControlError, match="404"):
        control._call("DELETE", "/faults/17")
    with pytest.raises(FaultControlError, match="404"):
        control._call("GET", "/")
    for document in ({}, {"action": {"kind": "Explode"}}, {"action": {"kind": "Cut", "x": 1}}):
        with pytest.raises(FaultControlError, match="400"):
            control._call("POST", "/faults", document)


def test_the_command_line(upstream: Upstream) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lake.faults", "--upstream", upstream.url],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            url, control_url = (process.stdout.readline().strip() for _ in range(2))
            control = FaultControl(control_url)
            assert requests.get(url + "/plain", timeout=10).content == PLAIN
            control.add(Fault(Status(503)))
            assert requests.get(url + "/plain", timeout=10).status_code == 503
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
