"""`.rucio/cache` as a node: what it shows, and the orders it takes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from rucio_fs.callers import NOBODY
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import Refused
from rucio_fs.nodes.control import CacheFile
from tests.fakes import EPOCH_NS, MY


class SlowStore(Store):
    """Clears and verifies nothing; both wait for *gate* and then raise *error*."""

    gate: trio.Event
    error: Exception | None = None
    cleared = verified = 0

    async def clear(self) -> None:
        self.cleared += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def verify(self) -> None:
        self.verified += 1
        self._verification = {"is_running": True}
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
        finally:
            self._verification["is_running"] = False


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SlowStore]:
    opened = Store.open(tmp_path, 10**9, 0)
    made = SlowStore(tmp_path, 10**9, 0, opened._lock)
    made.gate = trio.Event()
    yield made
    os.close(opened._lock)


@pytest.fixture
def file(store: SlowStore, nursery: trio.Nursery) -> CacheFile:
    return CacheFile("cache", store, nursery, EPOCH_NS)


async def facts(file: CacheFile) -> dict[str, Any]:
    opened = await file.open(MY, os.O_RDONLY, NOBODY)
    assert opened.direct_io, "its size is not known before"
    return dict(json.loads(bytes(await opened.read(0, 1 << 16))))


async def order(file: CacheFile, data: bytes) -> None:
    opened = await file.open(MY, os.O_WRONLY | os.O_TRUNC, NOBODY)
    assert await opened.write(0, data) == len(data)


async def test_it_shows_the_store(file: CacheFile, store: SlowStore) -> None:
    assert await facts(file) == store.status() | {"is_clearing": False}
    assert file.is_writable
    attr = await file.attr(MY)
    assert (attr.mode & 0o777, attr.size, attr.ttl) == (0o644, 0, 0.0)


async def test_truncating_is_no_order(file: CacheFile, store: SlowStore) -> None:
    await file.truncate(MY)
    assert (store.cleared, store.verified) == (0, 0)


async def test_clear_returns_when_it_is_done(
    file: CacheFile, store: SlowStore, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    nursery.start_soon(order, file, b"clear\n")
    nursery.start_soon(order, file, b"clear")  # joins it
    await trio.testing.wait_all_tasks_blocked()
    assert (await facts(file))["is_clearing"]
    store.gate.set()
    await order(file, b"clear\n")
    assert not (await facts(file))["is_clearing"]
    assert store.cleared == 1


async def test_a_clear_that_takes_long_goes_on_behind(
    file: CacheFile, store: SlowStore, autojump_clock: trio.abc.Clock
) -> None:
    began = trio.current_time()
    await order(file, b"clear\n")
    assert trio.current_time() - began == pytest.approx(10)
    assert (await facts(file))["is_clearing"]
    store.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert not (await facts(file))["is_clearing"]


async def test_verify_has_begun_when_it_returns_and_runs_once(
    file: CacheFile, store: SlowStore
) -> None:
    for _ in range(20):  # tasks start in a random order
        await order(file, b"verify")
        assert (await facts(file))["verification"] == {"is_running": True}
        await order(file, b"verify\n")
        store.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (await facts(file))["verification"] == {"is_running": False}
        store.gate = trio.Event()
    assert store.verified == 20


@pytest.mark.parametrize("data", [b"", b"\n", b"clear all", b"CLEAR", b"verify\0", b"\xff" * 5000])
async def test_anything_else_is_refused(file: CacheFile, store: SlowStore, data: bytes) -> None:
    with pytest.raises(Refused, match=r"^\.rucio/cache takes clear or verify, not ") as caught:
        await order(file, data)
    assert len(str(caught.value)) < 300
    assert (store.cleared, store.verified) == (0, 0)


@pytest.mark.parametrize("data", [b"clear", b"verify"])
@pytest.mark.parametrize("error", [OSError(5, "the disk is on fire"), RuntimeError("a bug")])
async def test_what_fails_is_logged_and_can_be_ordered_again(
    file: CacheFile,
    store: SlowStore,
    caplog: pytest.LogCaptureFixture,
    data: bytes,
    error: Exception,
) -> None:
    store.error = error
    store.gate.set()
    await order(file, data)
    await trio.testing.wait_all_tasks_blocked()
    assert not (await facts(file))["is_clearing"]
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert str(store.directory) in record.getMessage()
    store.error = None
    await order(file, data)
    assert max(store.cleared, store.verified) == 2
