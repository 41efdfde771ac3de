"""Files on tape: a job that asks to bring them online is STAGING before anything is copied."""

from __future__ import annotations

import time
from typing import Any

import pytest
import requests

from tests.unit.lake_fts.conftest import CONTENT, Fts, transfer
from tests.unit.lake_fts.storage import Storage


def _await_state(fts: Fts, job_id: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while (job := fts.poll(job_id))["job_state"] != state:
        assert time.monotonic() < deadline, job
    return job


def test_a_file_is_staged_before_it_is_copied(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.stall_staging()
    job_id = fts.submit(transfer([source.url("/f1")], target.url("/f1")), bring_online=43200)
    assert fts.control.wait_stalled() == [target.url("/f1")]
    staging = fts.poll(job_id)
    assert staging["job_state"] == staging["files"][0]["file_state"] == "STAGING"
    assert staging["files"][0]["staging_start"] is not None
    assert staging["files"][0]["start_time"] is None
    assert source.seen == []
    assert [job["job_id"] for job in requests.get(f"{fts.url}/jobs", timeout=10).json()] == [job_id]
    fts.control.release()
    (file,) = _await_state(fts, job_id, "FINISHED")["files"]
    assert None not in (file["staging_finished"], file["start_time"])
    assert target.files == {"/f1": CONTENT}


def test_the_time_it_takes_can_be_set(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.stage(3600, "/slow")
    fts.control.stage(0)
    source.files["/slow"] = CONTENT
    slow = fts.submit(transfer([source.url("/slow")], target.url("/slow")), bring_online=1)
    fast = fts.submit(transfer([source.url("/f1")], target.url("/f1")), bring_online=1)
    _await_state(fts, fast, "FINISHED")
    assert fts.poll(slow)["job_state"] == "STAGING"
    requests.delete(f"{fts.url}/jobs/{slow}", timeout=10)
    assert fts.poll(slow)["job_state"] == "CANCELED"
    assert set(target.files) == {"/f1"}


def test_a_cancelled_staging_copies_nothing(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.stall_staging()
    job_id = fts.submit(transfer([source.url("/f1")], target.url("/f1")), bring_online=1)
    fts.control.wait_stalled()
    requests.delete(f"{fts.url}/jobs/{job_id}", timeout=10)
    deadline = time.monotonic() + 10
    while not fts.control.log():
        assert time.monotonic() < deadline
    assert [record.state for record in fts.control.log()] == ["CANCELED"]
    assert fts.poll(job_id)["files"][0]["file_state"] == "CANCELED"
    assert target.files == {}


def test_a_tape_can_be_broken(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.stage(0)
    fts.control.fail_staging(reason="STAGING [5] the tape is torn")
    job_id = fts.submit(transfer([source.url("/f1")], target.url("/f1")), bring_online=1)
    assert (
        _await_state(fts, job_id, "FAILED")["files"][0]["reason"] == "STAGING [5] the tape is torn"
    )
    assert target.files == {}


@pytest.mark.parametrize("params", [{}, {"bring_online": None}, {"bring_online": -1}])
def test_a_file_on_disk_is_not_staged(
    fts: Fts, source: Storage, target: Storage, params: dict[str, Any]
) -> None:
    fts.control.stall_staging()
    job = fts.finish(fts.submit(transfer([source.url("/f1")], target.url("/f1")), **params))
    assert job["job_state"] == "FINISHED"
    assert job["files"][0]["staging_start"] is None


def test_connections_serve_again(fts: Fts, source: Storage, target: Storage) -> None:
    for number in range(5):
        url = target.url(f"/copy-{number}")
        assert fts.finish(fts.submit(transfer([source.url("/f1")], url), overwrite=True))[
            "job_state"
        ] == ("FINISHED")
    assert (source.connections, target.connections) == (1, 1)


def test_a_storage_that_closed_its_connections_is_called_anew(
    fts: Fts, source: Storage, target: Storage
) -> None:
    for name in ("/one", "/two"):
        file = transfer([source.url("/f1")], target.url(name))
        assert fts.finish(fts.submit(file, overwrite=True))["job_state"] == "FINISHED"
        source.hang_up()
        target.hang_up()
    assert (source.connections, target.connections) == (2, 2)
