"""Transfers spoilt on order, and the command line."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from lake.fts.client import FtsControl, FtsControlError, Injection, Kind
from tests.unit.lake_fts.conftest import CONTENT, Fts, StartFts, StartStorage, transfer
from tests.unit.lake_fts.storage import Storage

ROOT = Path(__file__).parents[3]


def send(fts: Fts, source: Storage, target: Storage, name: str = "f1") -> tuple[str, str]:
    """Transfer and return the file's state and reason."""
    job = fts.finish(fts.submit(transfer([source.url("/f1")], target.url(f"/{name}"))))
    return job["files"][0]["file_state"], job["files"][0]["reason"]


def test_fail_by_match_and_times(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.fail("/bad", reason="SOURCE [110] Connection timed out", times=2)
    failed = ("FAILED", "SOURCE [110] Connection timed out")
    assert send(fts, source, target, "bad1") == failed
    assert send(fts, source, target, "good") == ("FINISHED", "")
    assert send(fts, source, target, "bad2") == failed
    assert fts.control.faults() == []
    assert send(fts, source, target, "bad3") == ("FINISHED", "")
    assert [record.faults for record in fts.control.log()] == [("fail",), (), ("fail",), ()]
    assert "/bad1" not in target.files


def test_fail_matches_the_source_too_and_lasts(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.fail(source.url("/"))
    assert [send(fts, source, target)[0] for _ in range(3)] == ["FAILED"] * 3
    fts.control.clear()
    assert send(fts, source, target) == ("FINISHED", "")


@pytest.mark.parametrize("mode", ["stream", "tpc"])
@pytest.mark.parametrize("kind", ["XrootD", "nginx"])
def test_corruption_is_found(
    start_fts: StartFts, source: Storage, storage: StartStorage, mode: str, kind: str
) -> None:
    fts, target = start_fts("tpc" if mode == "tpc" else "stream"), storage(kind)
    fts.control.corrupt(times=1)
    state, reason = send(fts, source, target)
    assert (state, reason[:35]) == ("FAILED", "DESTINATION [5] CHECKSUM MISMATCH: ")
    assert target.files == {}
    assert send(fts, source, target) == ("FINISHED", "")


def test_silent_corruption_is_not_found(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.corrupt(silent=True)
    assert send(fts, source, target) == ("FINISHED", "")
    assert target.files["/f1"] == bytes((CONTENT[0] ^ 0xFF,)) + CONTENT[1:]


def test_delay(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.delay(0.2)
    start = time.monotonic()
    send(fts, source, target)
    assert time.monotonic() - start >= 0.2


def test_throttle(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.throttle(10 * len(CONTENT))
    start = time.monotonic()
    send(fts, source, target)
    assert time.monotonic() - start >= 0.1


def test_stall_and_release(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.stall()
    ids = [fts.submit(transfer([source.url("/f1")], target.url(f"/{n}"))) for n in range(20)]
    waiting = fts.control.wait_stalled(20)
    assert sorted(waiting) == sorted(target.url(f"/{n}") for n in range(20))
    assert fts.poll(ids[0])["files"][0]["file_state"] == "ACTIVE"
    assert target.files == {}
    fts.control.release()
    assert {fts.finish(job_id)["job_state"] for job_id in ids} == {"FINISHED"}
    assert send(fts, source, target, "later") == ("FINISHED", "")


def test_clear_releases_and_cancel_ends_a_stall(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.stall()
    first = fts.submit(transfer([source.url("/f1")], target.url("/1")))
    second = fts.submit(transfer([source.url("/f1")], target.url("/2")))
    fts.control.wait_stalled(2)
    requests.delete(f"{fts.url}/jobs/{first}", timeout=10)
    fts.control.clear()
    assert fts.finish(second)["job_state"] == "FINISHED"
    assert fts.finish(first)["job_state"] == "CANCELED"
    assert list(target.files) == ["/2"]


def test_faults_of_different_kinds_add_up(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.delay(0.01)
    fts.control.fail(times=1)
    send(fts, source, target)
    assert fts.control.log()[0].faults == ("delay", "fail")
    fts.control.clear_log()
    assert fts.control.log() == []


def test_listing(fts: Fts) -> None:
    added = [fts.control.fail("a", times=2), fts.control.throttle(5, "b"), fts.control.stall()]
    assert fts.control.faults() == added
    with pytest.raises(TimeoutError, match="0 of 1"):
        fts.control.wait_stalled(timeout=0.01)


def test_nonsense_is_refused(fts: Fts) -> None:
    with pytest.raises(ValueError):
        Injection(Kind.FAIL, times=0)
    with pytest.raises(ValueError):
        fts.control.throttle(0)
    documents: list[object] = [{}, {"kind": "explode"}, {"kind": "fail", "x": 1}, []]
    for document in documents:
        with pytest.raises(FtsControlError, match="400"):
            fts.control._call("POST", "/control/faults", document=document)


def test_the_command_line(source: Storage, target: Storage) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lake.fts", "--port", "0", "--mode", "stream"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            document = {"files": [transfer([source.url("/f1")], target.url("/f1"))]}
            answer = requests.post(f"{url}/jobs", json=document, timeout=10)
            job_url = f"{url}/jobs/{answer.json()['job_id']}"
            while requests.get(job_url, timeout=10).json()["job_state"] != "FINISHED":
                pass
            assert target.files == {"/f1": CONTENT}
            assert [record.state for record in FtsControl(url).log()] == ["FINISHED"]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_starting_is_cheap() -> None:
    # Processor time, because other load on the machine does not count.  0.15 s here.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", "import lake.fts.service, lake.fts.client"], cwd=ROOT, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert used < 0.5
