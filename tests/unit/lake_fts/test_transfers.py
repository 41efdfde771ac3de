"""Bytes arrive, or the right words say why not."""

from __future__ import annotations

import hashlib
import zlib

import pytest

from tests.unit.lake_fts.conftest import CONTENT, Fts, StartFts, StartStorage, transfer
from tests.unit.lake_fts.storage import Storage

WRONG = "ADLER32:00000bad"


@pytest.mark.parametrize("kinds", [("XrootD", "nginx/1.22.1"), ("nginx/1.22.1", "XrootD")])
@pytest.mark.parametrize("algorithm", ["adler32", "md5"])
def test_streaming_between_all_kinds(
    fts: Fts, storage: StartStorage, kinds: tuple[str, str], algorithm: str
) -> None:
    source, target = storage(kinds[0]), storage(kinds[1])
    source.files["/f1"] = CONTENT
    file = transfer([source.url("/f1")], target.url("/dir/f1"))
    if algorithm == "md5":
        digest = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
        file["checksum"] = f"MD5:{digest}"
    job = fts.finish(fts.submit(file))
    assert (job["job_state"], job["files"][0]["reason"]) == ("FINISHED", "")
    assert target.files == {"/dir/f1": CONTENT}
    (record,) = fts.control.log()
    assert (record.via, record.size, record.state) == ("stream", len(CONTENT), "FINISHED")


def test_two_xrootds_copy_by_themselves(
    start_fts: StartFts, source: Storage, target: Storage
) -> None:
    fts = start_fts("tpc")
    fts.finish(fts.submit(transfer([source.url("/f1")], target.url("/f1"))))
    assert target.files == {"/f1": CONTENT}
    assert "GET" not in source.methods
    assert [record.via for record in fts.control.log()] == ["tpc"]


@pytest.mark.parametrize("kinds", [("nginx", "XrootD"), ("XrootD", "nginx"), ("nginx", "nginx")])
def test_copy_is_never_sent_where_one_end_is_no_xrootd(
    start_fts: StartFts, storage: StartStorage, kinds: tuple[str, str]
) -> None:
    fts = start_fts("tpc")
    source, target = storage(kinds[0]), storage(kinds[1])
    source.files["/f1"] = CONTENT
    fts.finish(fts.submit(transfer([source.url("/f1")], target.url("/f1"))))
    assert "COPY" not in source.methods + target.methods
    assert target.files == source.files == {"/f1": CONTENT}


@pytest.mark.parametrize("mode", ["stream", "tpc"])
def test_each_end_gets_its_own_token(start_fts: StartFts, storage: StartStorage, mode: str) -> None:
    fts = start_fts("tpc" if mode == "tpc" else "stream")
    source, target = storage(token="read"), storage(token="write")
    source.files["/f1"] = CONTENT
    file = transfer([source.url("/f1")], target.url("/f1"))
    tokens = {"source_tokens": ["read"], "destination_tokens": ["write"]}
    job_id = fts.submit(file | tokens)
    assert fts.finish(job_id)["job_state"] == "FINISHED"
    assert target.files == {"/f1": CONTENT}
    assert "write" not in str(fts.poll(job_id))
    refused = fts.finish(fts.submit(file | tokens | {"destination_tokens": ["read"]}))
    assert refused["job_state"] == "FAILED"
    assert "403" in refused["files"][0]["reason"]


def test_a_missing_source(fts: Fts, source: Storage, target: Storage) -> None:
    job = fts.finish(fts.submit(transfer([source.url("/none")], target.url("/f1"))))
    assert job["files"][0]["reason"] == "SOURCE [2] HTTP 404 : File not found"


@pytest.mark.parametrize(
    ("change", "verify", "reason"),
    [
        ({"filesize": 1}, "both", "SOURCE [5] Source and user file size mismatch"),
        ({"checksum": WRONG}, "both", "SOURCE [5] CHECKSUM MISMATCH"),
        ({"checksum": WRONG}, "source", "SOURCE [5] CHECKSUM MISMATCH"),
        ({"checksum": WRONG}, "target", "DESTINATION [5] CHECKSUM MISMATCH"),
        ({"checksum": WRONG}, "none", ""),
        ({"checksum": None}, "both", ""),
    ],
)
@pytest.mark.parametrize("kind", ["XrootD", "nginx"])
def test_what_is_verified(
    fts: Fts, storage: StartStorage, kind: str, change: dict[str, object], verify: str, reason: str
) -> None:
    source, target = storage(kind), storage(kind)
    source.files["/f1"] = CONTENT
    file = transfer([source.url("/f1")], target.url("/f1")) | change
    job = fts.finish(fts.submit(file, verify_checksum=verify))
    assert job["files"][0]["reason"].startswith(reason)
    assert (job["job_state"] == "FINISHED") == (reason == "")
    assert bool(target.files) == (reason == "")


def test_a_storage_that_loses_bytes(fts: Fts, source: Storage, target: Storage) -> None:
    target.swallow = 1
    job = fts.finish(fts.submit(transfer([source.url("/f1")], target.url("/f1"))))
    assert "file size mismatch" in job["files"][0]["reason"]
    assert target.files == {}


def test_overwriting_needs_leave(fts: Fts, source: Storage, target: Storage) -> None:
    target.files["/f1"] = b"old"
    file = transfer([source.url("/f1")], target.url("/f1"))
    refused = fts.finish(fts.submit(file))["files"][0]
    assert "Destination file exists and overwrite is not enabled" in refused["reason"]
    assert refused["file_metadata"]["dst_file"] == {
        "file_size": 3,
        "checksum_type": "adler32",
        "checksum_value": f"{zlib.adler32(b'old'):08x}",
        "file_on_tape": False,
    }
    assert target.files == {"/f1": b"old"}
    assert fts.finish(fts.submit(file, overwrite=True))["job_state"] == "FINISHED"
    assert target.files == {"/f1": CONTENT}


@pytest.mark.parametrize("url", ["dav://127.0.0.1:1/f1", "root://127.0.0.1:1//f1"])
def test_an_end_that_cannot_be_reached(fts: Fts, target: Storage, url: str) -> None:
    job = fts.finish(fts.submit(transfer([url], target.url("/f1"))))
    assert job["job_state"] == "FAILED"
    assert job["files"][0]["reason"].startswith("TRANSFER [")
