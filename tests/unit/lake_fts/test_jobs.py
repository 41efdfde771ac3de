"""Jobs of several files, and the words Rucio 41.5.1 compares with."""

from __future__ import annotations

import re
import threading
import uuid
from typing import Any

import pytest
import requests

from tests.unit.lake_fts.conftest import CONTENT, Fts, StartFts, StartStorage, transfer
from tests.unit.lake_fts.storage import Storage

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def states(job: dict[str, Any]) -> list[str]:
    return [file["file_state"] for file in job["files"]]


def test_what_the_poller_reads(fts: Fts, source: Storage, target: Storage) -> None:
    file = transfer([source.url("/f1")], target.url("/f1"))
    job_id = fts.submit(file, job_metadata={"issuer": "rucio", "multi_sources": False})
    job = fts.finish(job_id)
    assert (job["job_id"], job["job_type"]) == (job_id, "N")
    assert job["job_metadata"]["multi_sources"] is False
    (answer,) = job["files"]
    assert answer["file_metadata"] == file["metadata"]
    assert (answer["source_surl"], answer["dest_surl"]) == (source.url("/f1"), target.url("/f1"))
    assert TIME.fullmatch(answer["start_time"])
    assert TIME.fullmatch(answer["finish_time"])
    assert answer["staging_start"] is None
    assert answer["staging_finished"] is None
    details = requests.get(f"{fts.url}/jobs/{job_id}/files", timeout=10).json()
    assert details[0]["filesize"] == len(CONTENT)


def test_several_jobs_in_one_question(fts: Fts, source: Storage, target: Storage) -> None:
    ids = [fts.submit(transfer([source.url("/f1")], target.url(f"/f{n}"))) for n in range(2)]
    answer = requests.get(f"{fts.url}/jobs/{','.join(ids)}?files=file_state", timeout=10)
    assert (answer.status_code, [job["job_id"] for job in answer.json()]) == (200, ids)
    answer = requests.get(f"{fts.url}/jobs/{ids[0]},lost", timeout=10)
    assert answer.status_code == 207
    assert [job["http_status"] for job in answer.json()] == ["200 Ok", "404 Not Found"]
    answer = requests.get(f"{fts.url}/jobs/lost", timeout=10)
    assert answer.status_code == 404
    assert (answer.json()["job_id"], answer.json()["http_status"]) == ("lost", "404 Not Found")


def test_some_files_fail(fts: Fts, source: Storage, target: Storage) -> None:
    good = transfer([source.url("/f1")], target.url("/f1"))
    bad = transfer([source.url("/none")], target.url("/f2"))
    job = fts.finish(fts.submit(good, bad))
    assert (job["job_state"], states(job)) == ("FINISHEDDIRTY", ["FINISHED", "FAILED"])
    assert fts.finish(fts.submit(bad))["job_state"] == "FAILED"


def test_several_sources(fts: Fts, source: Storage, target: Storage) -> None:
    urls = [source.url("/none"), source.url("/f1"), source.url("/never")]
    job = fts.finish(fts.submit(transfer(urls, target.url("/f1"))))
    assert (job["job_type"], job["job_state"]) == ("R", "FINISHED")
    assert states(job) == ["FAILED", "FINISHED", "NOT_USED"]
    assert ("HEAD", "/never") not in source.seen
    assert target.files == {"/f1": CONTENT}
    job = fts.finish(fts.submit(transfer([urls[0], urls[2]], target.url("/f2"))))
    assert (job["job_state"], states(job)) == ("FAILED", ["FAILED", "FAILED"])


def test_several_hops(fts: Fts, source: Storage, target: Storage, storage: StartStorage) -> None:
    middle = storage("nginx")
    hops = [
        transfer([source.url("/f1")], middle.url("/m")),
        transfer([middle.url("/m")], target.url("/f1")),
    ]
    job = fts.finish(fts.submit(*hops, multihop=True))
    assert (job["job_type"], job["job_state"]) == ("H", "FINISHED")
    assert target.files == {"/f1": CONTENT}
    # Now the middle file is in the way; only the last hop may not overwrite.
    job = fts.finish(fts.submit(*hops, multihop=True))
    assert (job["job_state"], states(job)) == ("FAILED", ["FAILED", "NOT_USED"])
    job = fts.finish(fts.submit(*hops, multihop=True, overwrite_hop=True))
    assert (job["job_state"], states(job)) == ("FAILED", ["FINISHED", "FAILED"])


def test_cancelling_a_transfer_in_the_middle(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.throttle(1)
    job_id = fts.submit(transfer([source.url("/f1")], target.url("/f1")))
    assert target.put_begun.wait(10)
    answer = requests.delete(f"{fts.url}/jobs/{job_id}", timeout=10)
    assert answer.status_code == 200
    assert (answer.json()["job_state"], answer.json()["http_status"]) == ("CANCELED", "200 Ok")
    job = fts.poll(job_id)
    assert (job["files"][0]["file_state"], job["files"][0]["reason"]) == (
        "CANCELED",
        "Job canceled by the user",
    )
    with requests.Session() as session:
        again = session.delete(f"{fts.url}/jobs/{job_id}", timeout=10)
        assert (again.status_code, again.content) == (304, b"")
        # A body, which 304 must not have, would be read as the start of the next answer.
        assert session.get(f"{fts.url}/jobs/{job_id}", timeout=10).status_code == 200


def test_cancelling_frees_a_transfer_from_a_storage_that_hangs(
    start_fts: StartFts, source: Storage, storage: StartStorage
) -> None:
    # By third-party copy: when the target has the PUT, the stand-in can only wait for the end.
    fts, target = start_fts("tpc"), storage()
    target.put_gate = threading.Event()
    job_id = fts.submit(transfer([source.url("/f1")], target.url("/f1")))
    assert target.put_begun.wait(10)
    requests.delete(f"{fts.url}/jobs/{job_id}", timeout=10)
    while not (log := fts.control.log()):
        pass
    assert [record.state for record in log] == ["CANCELED"]


def test_priority(fts: Fts, source: Storage, target: Storage) -> None:
    fts.control.stall()
    job_id = fts.submit(transfer([source.url("/f1")], target.url("/f1")), priority=2)
    fts.control.wait_stalled()
    assert fts.poll(job_id)["priority"] == 2
    url = f"{fts.url}/jobs/{job_id}"
    answer = requests.post(url, json={"params": {"priority": 5}}, timeout=10)
    assert (answer.status_code, answer.json()["priority"]) == (200, 5)
    assert requests.post(url, json={}, timeout=10).status_code == 400
    active = requests.get(f"{fts.url}/jobs", timeout=10).json()
    assert [job["job_id"] for job in active] == [job_id]
    fts.control.release()
    fts.finish(job_id)
    assert requests.post(url, json={"params": {"priority": 1}}, timeout=10).status_code == 304
    assert requests.get(f"{fts.url}/jobs", timeout=10).json() == []


def test_a_deterministic_id_is_taken_once(fts: Fts, source: Storage, target: Storage) -> None:
    who = requests.get(f"{fts.url}/whoami", timeout=10).json()
    root = uuid.uuid5(uuid.UUID(who["base_id"]), who["vos"][0])
    file = transfer([source.url("/f1")], target.url("/f1"))
    params = {"id_generator": "deterministic", "sid": "r1"}
    assert fts.submit(file, **params) == str(uuid.uuid5(root, "r1"))
    answer = requests.post(f"{fts.url}/jobs", json={"files": [file], "params": params}, timeout=10)
    assert answer.status_code == 409


@pytest.mark.parametrize(
    "document",
    [[], {}, {"files": []}, {"files": [{"sources": []}]}, {"files": [{"sources": ["a"]}]}, "text"],
)
def test_nonsense_is_refused(fts: Fts, document: object) -> None:
    assert requests.post(f"{fts.url}/jobs", json=document, timeout=10).status_code == 400
    assert requests.put(f"{fts.url}/jobs", data=b"{", timeout=10).status_code == 400


def test_version_and_unknown_paths(fts: Fts) -> None:
    assert requests.get(f"{fts.url}/", timeout=10).json()["api"]["major"] == 3
    assert requests.get(f"{fts.url}/nothing", timeout=10).status_code == 404
    assert requests.get(f"{fts.url}/jobs/lost/files", timeout=10).status_code == 404
