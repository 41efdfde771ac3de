"""Storages, a running stand-in, and Rucio's side of the conversation."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from lake.fts.client import FtsControl
from lake.fts.service import FtsService
from lake.fts.transfers import Mode
from tests.unit.lake_fts.storage import Storage

# What Rucio's poller asks for, letter by letter (fts3.py, bulk_query).
FIELDS = (
    "file_state,dest_surl,finish_time,start_time,staging_start,staging_finished,"
    "reason,source_surl,file_metadata"
)
CONTENT = bytes(range(256)) * 12000


class Fts:
    """A running stand-in as Rucio's fts3 transfertool and a test see it."""

    def __init__(self, service: FtsService) -> None:
        self.url = service.url
        self.control = FtsControl(service.url)

    def submit(self, *files: dict[str, Any], **params: Any) -> str:
        document = {"files": files, "params": {"verify_checksum": "both", **params}}
        answer = requests.post(f"{self.url}/jobs", json=document, timeout=10)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])

    def poll(self, job_id: str) -> dict[str, Any]:
        answer = requests.get(f"{self.url}/jobs/{job_id}?files={FIELDS}", timeout=10)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        assert document["http_status"] == "200 Ok"
        return document

    def finish(self, job_id: str) -> dict[str, Any]:
        """Poll as Rucio does until the job has ended."""
        deadline = time.monotonic() + 10
        while (job := self.poll(job_id))["job_state"] in ("SUBMITTED", "ACTIVE"):
            assert time.monotonic() < deadline, job
        return job


def transfer(
    sources: list[str], destination: str, content: bytes = CONTENT, **more: Any
) -> dict[str, Any]:
    """Return a file as Rucio's `_file_from_transfer` writes it."""
    return {
        "sources": sources,
        "destinations": [destination],
        "metadata": {"request_id": "r1", "scope": "exp", "name": "f1"},
        "filesize": len(content),
        "checksum": f"ADLER32:{zlib.adler32(content):08x}",
        "activity": "User Subscriptions",
        **more,
    }


StartFts = Callable[[Mode], Fts]
StartStorage = Callable[..., Storage]


@pytest.fixture
def start_fts() -> Iterator[StartFts]:
    with ExitStack() as stack:

        def start(mode: Mode) -> Fts:
            service = stack.enter_context(FtsService("127.0.0.1", 0, mode))
            thread = threading.Thread(target=service.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(service.shutdown)
            stack.callback(service.faults.clear)
            return Fts(service)

        yield start


@pytest.fixture
def fts(start_fts: StartFts) -> Fts:
    return start_fts("stream")


@pytest.fixture
def storage() -> Iterator[StartStorage]:
    """Start storages that are stopped after the test."""
    with ExitStack() as stack:

        def start(*arguments: Any, **keywords: Any) -> Storage:
            return stack.enter_context(Storage(*arguments, **keywords))

        yield start


@pytest.fixture
def source(storage: StartStorage) -> Storage:
    there = storage()
    there.files["/f1"] = CONTENT
    return there


@pytest.fixture
def target(storage: StartStorage) -> Storage:
    return storage()
