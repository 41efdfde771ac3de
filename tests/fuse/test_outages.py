"""Rucio goes away, comes back, is slow or answers in part; clients and the server end meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from lake import Lake
from lake.faults import Action, Cut, Fault, FaultProxy, Latency, Refuse, Reset, Status, Timeout
from tests import direct
from tests.faulty import PATIENCE, QUESTION, FaultyMount, through
from tests.mounting import DEADLINE, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

FORGETFUL = {
    f"cache.{key}": 0.5
    for key in (
        "scopes_ttl",
        "open_ttl",
        "closed_ttl",
        "file_ttl",
        "replicas_ttl",
        "stale_retry",
        "stale_after",
    )
}
NIGHT = ["exp0001_g.fits", "exp0002_r.fits", "exp0003_i.fits"]


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)  # polls a client's view, which has no event


@pytest.fixture(scope="module")
def rig(lake: Lake) -> Iterator[FaultyMount]:
    """One mount with the cache's usual lifetimes; each test looks at DIDs of its own."""
    with FaultyMount(lake) as rig:
        yield rig
        rig.check_log()


@pytest.fixture(scope="module")
def scope(lake: Lake) -> Iterator[str]:
    """Datasets d0, d1, ... of three files each."""
    name = direct.fresh_scope()
    files = [direct.File(f"d{n}.{letter}", b"whole") for n in range(20) for letter in "abc"]
    datasets = [
        direct.Collection(f"d{n}", [f"d{n}.{letter}" for letter in "abc"]) for n in range(20)
    ]
    direct.insert(lake, name, direct.Plan(files, datasets))
    yield name
    direct.hide(lake, name)


def test_while_rucio_is_away_what_is_cached_is_served(lake: Lake) -> None:
    with FaultyMount(lake, FORGETFUL) as rig:
        night = "sky/night-001"
        sums = rig.look("sh", "-c", 'cksum "$0"/*', at=night).out
        rows = rig.look("ls", "-l", at=night).out
        assert len(sums.splitlines()) == len(NIGHT)
        with rig.proxy.add(Fault(Refuse())):
            start = time.monotonic()
            before = rig.mount.status()["cache"]["served_stale"]
            # Until well after the answers' time was over; each look has to be as the first.
            while rig.mount.status()["cache"]["served_stale"] < before + 5:
                look = rig.look("ls", "-1", at=night)
                assert (look.code, look.lines) == (0, NIGHT), look.err
                assert rig.look("ls", "-l", at=night).out == rows
                assert rig.look("sh", "-c", 'cksum "$0"/*', at=night).out == sums
                assert time.monotonic() < start + DEADLINE
            said = rig.mount.status()["rucio"]
            assert said["state"] == "unreachable"
            assert rig.proxy.url in said["trouble"]
            assert said["trouble_since"] is not None

            unknown = rig.look("ls", at="lab/run-0008")
            assert unknown.errnos == {"EREMOTEIO"}, unknown.err
            assert unknown.seconds < PATIENCE
        assert rig.look("ls", "-1", at="lab/run-0008").lines == ["run-0008.root"]
        assert rig.mount.status()["rucio"]["state"] == "ok"
        assert rig.mount.status()["rucio"]["trouble"] is None
        log = rig.mount.log_text()
        assert log.count("Rucio does not answer") == log.count("Rucio answers again") == 1
        rig.check_log()


def test_what_is_new_in_rucio_shows_after_an_outage(lake: Lake, scope: str) -> None:
    with FaultyMount(lake, FORGETFUL) as rig:
        assert scope in rig.look("ls", "-1").lines
        new = direct.fresh_scope()
        with rig.proxy.add(Fault(Refuse())):
            direct.insert(lake, new, direct.Plan(collections=[direct.Collection("fresh")]))
            assert scope in rig.look("ls", "-1").lines
        try:
            eventually(lambda: new in rig.look("ls", "-1").lines, "the new scope is not shown")
            assert rig.look("ls", "-1", at=new).lines == ["fresh"]
        finally:
            direct.hide(lake, new)


@pytest.mark.parametrize(
    ("number", "action", "times"),
    [
        (0, Status(429, headers={"Retry-After": "1"}), 1),
        (1, Status(429), 2),
        (2, Status(503), 2),
        (3, Status(500, b"<html>", {"Content-Type": "text/html"}), 1),
        (4, Reset(), 2),
        (5, Reset(30), 1),
        (6, Cut(30, "broken"), 1),
        (7, Cut(30, "clean"), 1),
        (8, Timeout(), 1),
    ],
    ids=lambda value: value if isinstance(value, int) else type(value).__name__,
)
def test_trouble_that_ends_in_time_is_not_noticed(
    rig: FaultyMount, scope: str, number: int, action: Action, times: int
) -> None:
    before = len(rig.mount.log_text())
    with rig.proxy.add(Fault(action, path=f"/d{number}/dids$", times=times)) as fault:
        look = rig.look("ls", "-1", at=f"{scope}/d{number}")
        assert fault.hits == times
    assert (look.code, look.lines) == (0, [f"d{number}.{letter}" for letter in "abc"]), look.err
    assert rig.problems(before) == []


def test_a_retry_after_is_heeded(rig: FaultyMount, scope: str) -> None:
    fault = Fault(Status(429, headers={"Retry-After": "1"}), path="/d9/dids$", times=1)
    rig.proxy.clear_requests()
    with rig.proxy.add(fault):
        assert rig.look("ls", "-1", at=f"{scope}/d9").code == 0
    first, second = [record.time for record in rig.proxy.requests if "/d9/dids" in record.path]
    assert second - first >= 1.0


def test_one_unnoticeable_cut_of_a_closed_dataset_is_noticed(
    lake: Lake, rig: FaultyMount, scope: str
) -> None:
    row = _first_row(lake, rig, scope, "d10")
    fault = Fault(Cut(row, "clean"), path="/d10/dids$", times=1)
    with rig.proxy.add(fault) as handle:
        look = rig.look("ls", "-1", at=f"{scope}/d10")
        assert handle.hits == 1
    assert look.lines == ["d10.a", "d10.b", "d10.c"]


def test_two_unlike_cuts_are_an_error_and_no_listing(
    lake: Lake, rig: FaultyMount, scope: str
) -> None:
    row = _first_row(lake, rig, scope, "d11")
    before = len(rig.mount.log_text())
    with (
        rig.proxy.add(Fault(Cut(row, "clean"), path="/d11/dids$", nth=1)),
        rig.proxy.add(Fault(Cut(2 * row, "clean"), path="/d11/dids$", nth=2)),
    ):
        look = rig.look("ls", "-1", at=f"{scope}/d11")
    assert (look.lines, look.errnos) == ([], {"EREMOTEIO"})
    assert any("1, then 2 of 3 members" in line for line in rig.problems(before))
    assert rig.look("ls", "-1", at=f"{scope}/d11").lines == ["d11.a", "d11.b", "d11.c"]


def test_a_count_that_stays_off_is_shown_with_a_warning(
    lake: Lake, rig: FaultyMount, scope: str
) -> None:
    row = _first_row(lake, rig, scope, "d12")
    before = len(rig.mount.log_text())
    with rig.proxy.add(Fault(Cut(row, "clean"), path="/d12/dids$")):
        assert rig.look("ls", "-1", at=f"{scope}/d12").lines == ["d12.a"]
    warned = f"{scope}:d12 lists 1 members, Rucio counts 3"
    assert [warned in line for line in rig.problems(before)] == [True]


def test_twenty_clients_of_one_directory_are_one_question(rig: FaultyMount, scope: str) -> None:
    assert rig.look("stat", at=f"{scope}/d13").code == 0  # the name: lookups come one by one
    rig.proxy.clear_requests()
    loop = 'for i in $(seq 20); do ls -1 "$0" & done; wait'
    with rig.proxy.add(Fault(Latency(0.5))):
        look = rig.look("sh", "-c", loop, at=f"{scope}/d13")
    assert sorted(look.lines) == sorted(["d13.a", "d13.b", "d13.c"] * 20), look.err
    assert rig.asked("/d13/dids$") == 1
    assert look.seconds < 5 * 0.5 + PATIENCE - QUESTION  # not one after the other


def test_a_killed_client_is_gone_within_the_deadline(rig: FaultyMount, scope: str) -> None:
    with rig.proxy.add(Fault(Timeout(), path="/d14/")) as fault:
        client = subprocess.Popen(
            ["ls", str(rig.mount.path / scope / "d14")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        fault.wait()
        client.kill()
        start = time.monotonic()
        assert client.wait(DEADLINE) == -signal.SIGKILL
        assert time.monotonic() - start < QUESTION  # it does not wait for Rucio's deadline
        # Nobody else was stopped by it.
        assert rig.look("ls", "-1", at=f"{scope}/d15").code == 0
    assert rig.look("ls", "-1", at=f"{scope}/d14").lines == ["d14.a", "d14.b", "d14.c"]


def test_sigterm_does_not_wait_for_rucio(lake: Lake, scope: str) -> None:
    slow = {f"rucio.{key}": 60 for key in ("timeout", "deadline", "listing_deadline")}
    with FaultyMount(lake, slow) as rig:
        for n in range(3):
            assert rig.look("stat", at=f"{scope}/d{n}").code == 0
        with rig.proxy.add(Fault(Timeout(), path="/dids")) as fault:
            clients = [
                subprocess.Popen(
                    ["ls", str(rig.mount.path / scope / f"d{n}")],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for n in range(3)
            ]
            fault.wait(3)
            start = time.monotonic()
            rig.mount.signal(signal.SIGTERM)
            assert rig.mount.process.wait(DEADLINE) == 0, rig.mount.log_text()
            assert time.monotonic() - start < 5
            assert not rig.mount.is_mounted()
            for client in clients:
                out, err = client.communicate(timeout=DEADLINE)
                assert (client.returncode, out) == (2, ""), err
                assert "No such file" not in err
        rig.check_log()


def test_sigterm_does_not_wait_for_a_declaration(lake: Lake, scope: str) -> None:
    slow = {f"rucio.{key}": 60 for key in ("timeout", "deadline", "listing_deadline")}
    with FaultyMount(lake, slow) as rig:
        file = rig.mount.path / scope / "d0" / "d0.a"
        assert rig.look("stat", at=f"{scope}/d0/d0.a").code == 0
        with rig.proxy.add(Fault(Timeout(), path="/replicas")) as fault:
            value = '{"rse": "COLO", "reason": "wrong bytes"}'
            client = subprocess.Popen(
                ["setfattr", "-n", "user.rucio.suspicious", "-v", value, str(file)],
                stderr=subprocess.PIPE,
                text=True,
            )
            fault.wait()
            start = time.monotonic()
            rig.mount.signal(signal.SIGTERM)
            assert rig.mount.process.wait(DEADLINE) == 0, rig.mount.log_text()
            assert time.monotonic() - start < 5
            assert "Remote I/O error" in client.communicate(timeout=DEADLINE)[1]
        rig.check_log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_mount_that_waits_for_rucio_can_be_given_up(
    lake: Lake, tmp_path: Path, number: signal.Signals
) -> None:
    with FaultProxy(lake.rucio_url) as proxy, proxy.add(Fault(Timeout(), path="/scopes")) as fault:
        options = {**through(proxy), "diskcache.dir": tmp_path / "cache", "rucio.timeout": 60}
        command = [sys.executable, "-m", "rucio_fs", "mount", "--foreground"]
        command += ["--rucio-config", str(lake.client_config())]
        command += [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        directory = tmp_path / "mnt"
        directory.mkdir()
        server = subprocess.Popen(
            ["env", f"--default-signal={number.name.removeprefix('SIG')}", *command, directory],
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        fault.wait()
        server.send_signal(number)
        _, err = server.communicate(timeout=DEADLINE)
        assert "Traceback" not in err
        assert not directory.is_mount()
        if number == signal.SIGINT:
            assert (server.returncode, err.strip()) == (130, "rucio-fs: error: interrupted")


def _first_row(lake: Lake, rig: FaultyMount, scope: str, name: str) -> int:
    """Bytes of the first row of a listing whose rows are all as long; its length gets known."""
    assert rig.look("stat", at=f"{scope}/{name}").code == 0
    answer = requests.get(
        f"{lake.rucio_url}/dids/{scope}/{name}/dids",
        headers={"X-Rucio-Auth-Token": rig.tokens()[0]},
        timeout=DEADLINE,
    )
    lengths = {len(row) for row in answer.content.splitlines(keepends=True)}
    assert len(lengths) == 1
    return lengths.pop()
