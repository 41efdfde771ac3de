"""Files that are streamed: right for every reader, moved once, and nothing left behind."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake.tls import Tls
from rucio_fs.checksums import adler32
from rucio_fs.config import StoragesConfig, StreamingConfig
from rucio_fs.did import DID, FileReplicas, Identity
from rucio_fs.diskcache.entry import Entry
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import (
    Corrupt,
    Denied,
    NoSource,
    NotFound,
    RucioFsError,
    TooSlow,
    Unreachable,
)
from rucio_fs.streams import connection, fetching, shared, storages
from rucio_fs.streams import reader as reading
from rucio_fs.streams import streams as whole
from rucio_fs.streams.buffers import SMALLEST
from rucio_fs.streams.reader import StreamSource
from rucio_fs.streams.streams import Streams
from tests.unit.streams.conftest import (
    FILE,
    KIB,
    MIB,
    Bench,
    MakeBench,
    MakeStorage,
    moved,
    noise,
    read_all,
    until,
)
from tests.unit.streams.storage_server import BEFORE, FINE, Fault, Request, Storage

OTHER = DID("s", "other")


@pytest.fixture
def near(make_storage: MakeStorage) -> Storage:
    return make_storage()


@pytest.fixture
def far(make_storage: MakeStorage) -> Storage:
    return make_storage()


@pytest.fixture(autouse=True)
def no_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second read after one that failed is tried, however soon it comes."""
    monkeypatch.setattr(reading, "_BURST", -1.0)


@pytest.fixture(autouse=True)
def no_favourite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of two servers of one machine is the faster one is a matter of chance."""
    monkeypatch.setattr(storages, "_SLOW", inf)


async def fails(source: StreamSource, offset: int, size: int, kind: type[RucioFsError]) -> str:
    with pytest.raises(RucioFsError) as caught:
        await source.read(offset, size)
    assert type(caught.value) is kind, caught.value
    return str(caught.value)


def lowest(found: str) -> int:
    """The first byte of a range that was asked for."""
    return int(found.split("-")[0])


def highest(found: str) -> int:
    return int(found.split("-")[1])


def below(limit: int) -> Callable[[Request], Fault]:
    """A server that is silent from byte *limit* of a file on, until it is released."""

    def fault(request: Request) -> Fault:
        begin = lowest(request.range)
        return FINE if highest(request.range) < limit else Fault(stalls=max(BEFORE, limit - begin))

    return fault


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 64 * KIB, 64 * KIB + 1, 3 * MIB + 17])
async def test_a_file_is_read(bench: Bench, near: Storage, size: int) -> None:
    source = await bench.open(bench.put(noise(size), near))
    assert source.size == size
    assert await read_all(source) == noise(size)
    source.close()
    await bench.settled()
    assert (bench.wrong, bench.asked) == ([], 0)
    assert await moved(near) == size, "each byte is moved once"


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (100_000, 1), (65_535, 2), (299_990, 100), (300_000, 10), (1 << 60, 10), (0, 0)],
)
async def test_reads_are_exact(bench: Bench, near: Storage, offset: int, size: int) -> None:
    data = noise(300_000)
    source = await bench.open(bench.put(data, near))
    assert bytes(await source.read(offset, size)) == data[offset : offset + size]
    source.close()


async def test_an_empty_file_asks_nobody(bench: Bench, near: Storage) -> None:
    source = await bench.open(bench.put(b"", near))
    assert bytes(await source.read(0, 4096)) == b""
    source.close()
    assert near.requests == []


async def test_many_readers_of_a_file_move_it_once(bench: Bench, near: Storage) -> None:
    data = noise(3 * MIB)
    file = bench.put(data, near)
    right: list[bool] = []

    async def one() -> None:
        source = await bench.open(file)
        right.append(await read_all(source) == data)
        source.close()

    async with trio.open_nursery() as nursery:
        keeper = await bench.open(file)  # so that it stays in memory
        for _ in range(16):
            nursery.start_soon(one)
    assert right == [True] * 16
    assert await moved(near) == len(data)
    assert bench.streams.status()["files"] == 1
    keeper.close()
    await bench.settled()
    assert bench.streams.status()["files"] == 0


async def test_opens_at_once_share_a_stream(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    bench = make_bench(store=store_at(tmp_path))
    file = bench.put(noise(1000), near)
    sources: list[StreamSource] = []

    async def one() -> None:
        sources.append(await bench.open(file))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert len({source._stream for source in sources}) == 1
    for source in sources:
        source.close()
    assert bench.streams.status()["files"] == 0
    await bench.settled()


async def test_identities_do_not_share(bench: Bench, near: Storage) -> None:
    file = bench.put(noise(1000), near)
    mine = await bench.open(file)
    theirs = await bench.open(file, who=Identity("theirs"))
    assert mine._stream is not theirs._stream
    mine.close()
    assert bytes(await theirs.read(0, 1000)) == noise(1000)
    theirs.close()


async def test_reads_at_once_of_one_handle(bench: Bench, near: Storage) -> None:
    """As the kernel sends them: they overtake each other."""
    data = noise(2 * MIB)
    source = await bench.open(bench.put(data, near))
    right: list[bool] = []

    async def one(offset: int) -> None:
        found = bytes(await source.read(offset, 128 * KIB))
        right.append(found == data[offset : offset + 128 * KIB])

    async with trio.open_nursery() as nursery:
        for offset in range(0, 2 * MIB, 128 * KIB):
            nursery.start_soon(one, offset)
    assert right == [True] * 16
    assert await moved(near) == len(data)
    source.close()


async def test_a_read_is_answered_before_its_piece_is_whole(bench: Bench, near: Storage) -> None:
    data = noise(MIB)
    file = bench.put(data, near)
    near.usual = Fault(stalls=200_000)
    first, second = await bench.open(file), await bench.open(file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.read, 0, MIB)
        await until(near, lambda found: found.sent >= 200_000)
        assert bytes(await second.read(0, 200_000)) == data[:200_000]
        assert bench.streams.status()["streams"][0]["on_its_way"] == MIB - 200_000
        near.release.set()
    for one in (first, second):
        one.close()


async def test_its_name_is_its_did(bench: Bench, near: Storage) -> None:
    source = await bench.open(bench.put(b"x", near))
    assert repr(source) == "<StreamSource of s:f>"
    source.close()


# --- how far ahead -------------------------------------------------------------------------------


async def test_who_reads_on_is_fetched_for_ahead(make_bench: MakeBench, near: Storage) -> None:
    bench = make_bench(window=2 * MIB, memory=16 * MIB)
    data = noise(8 * MIB)
    source = await bench.open(bench.put(data, near))
    ahead: list[int] = []
    for offset in range(0, 4 * MIB, 128 * KIB):
        await source.read(offset, 128 * KIB)
        await bench.settled()
        furthest = max(highest(found) + 1 for found in near.ranges)
        ahead.append(furthest - offset - 128 * KIB)
    assert ahead[0] <= 256 * KIB
    assert ahead[1] < ahead[4] < ahead[12], "it grows"
    assert MIB <= max(ahead) <= 2 * MIB
    assert len(near.requests) < 20, "in requests that are worth it"
    source.close()


async def test_who_jumps_gets_what_he_asks_for(bench: Bench, near: Storage) -> None:
    source = await bench.open(bench.put(noise(8 * MIB), near))
    for offset in (6 * MIB + 5, 3 * MIB, 7 * MIB + 100, MIB + 200_000):
        await source.read(offset, 1000)
    await bench.settled()
    assert [lowest(found) for found in near.ranges] == [
        6 * MIB,
        3 * MIB,
        7 * MIB,
        MIB + 3 * SMALLEST,
    ]
    assert await moved(near) == 4 * SMALLEST
    source.close()


async def test_memory_limits_what_is_fetched_ahead(make_bench: MakeBench, near: Storage) -> None:
    bench = make_bench(window=64 * MIB, memory=MIB)
    source = await bench.open(bench.put(noise(4 * MIB), near))
    most = 0
    for offset in range(0, 4 * MIB, 128 * KIB):
        assert bytes(await source.read(offset, 128 * KIB)) == noise(4 * MIB)[offset:][: 128 * KIB]
        most = max(most, bench.lent)
    assert 256 * KIB < most <= MIB + 256 * KIB, "with what is waited for"
    assert await moved(near) == 4 * MIB
    source.close()


async def test_one_reader_does_not_take_all_of_it(make_bench: MakeBench, near: Storage) -> None:
    bench = make_bench(window=64 * MIB, memory=4 * MIB)
    source = await bench.open(bench.put(noise(8 * MIB), near))
    ahead = 0
    for offset in range(0, 4 * MIB, 128 * KIB):
        await source.read(offset, 128 * KIB)
        await bench.settled()
        ahead = max(ahead, *(highest(found) + 1 - offset - 128 * KIB for found in near.ranges))
    assert MIB < ahead <= 2 * MIB
    source.close()


async def test_many_streams_share_the_memory(make_bench: MakeBench, near: Storage) -> None:
    bench = make_bench(window=64 * MIB, memory=4 * MIB)
    data = {DID("s", f"f{i}"): noise(2 * MIB, i) for i in range(8)}
    most = 0
    wrong: list[DID] = []

    async def one(did: DID) -> None:
        nonlocal most
        source = await bench.open(bench.put(data[did], near, did=did))
        for offset in range(0, 2 * MIB, 128 * KIB):
            found = bytes(await source.read(offset, 128 * KIB))
            most = max(most, bench.lent)
            if found != data[did][offset : offset + 128 * KIB]:
                wrong.append(did)
        source.close()

    async with trio.open_nursery() as nursery:
        for did in data:
            nursery.start_soon(one, did)
    assert wrong == []
    assert most <= 4 * MIB + 8 * 256 * KIB, "with what each of them waits for"
    await bench.settled()
    assert bench.lent == 0


async def test_reads_go_on_with_hardly_any_memory(make_bench: MakeBench, near: Storage) -> None:
    bench = make_bench(window=MIB, memory=1)
    data = noise(MIB)
    file = bench.put(data, near)
    sources = [await bench.open(file) for _ in range(3)]
    right: list[bool] = []

    async def one(source: StreamSource, step: int) -> None:
        right.append(await read_all(source, step) == data)

    async with trio.open_nursery() as nursery:
        for source, step in zip(sources, (50_000, 128 * KIB, MIB), strict=True):
            nursery.start_soon(one, source, step)
    assert right == [True] * 3
    for source in sources:
        source.close()


# --- nobody wants it any more --------------------------------------------------------------------


async def test_closing_in_the_middle_ends_what_is_on_its_way(
    make_bench: MakeBench, near: Storage
) -> None:
    bench = make_bench(timeout=1000.0, deadline=1000.0)
    file = bench.put(noise(8 * MIB), near)
    near.usual = below(512 * KIB)
    source = await bench.open(file)
    for offset in range(0, 384 * KIB, 128 * KIB):
        await source.read(offset, 128 * KIB)
    await until(near, lambda found: any(highest(one) >= 512 * KIB for one in found.ranges))
    await until(
        near,
        lambda found: found.finished == sum(highest(one) < 512 * KIB for one in found.ranges),
    )
    assert bench.lent > 0
    source.close()
    with trio.fail_after(10):
        await bench.settled()
    assert bench.lent == 0
    near.release.set()  # so that the server notices
    await until(near, lambda found: found.open == bench.streams._pool.open)
    assert near.finished == sum(highest(one) < 512 * KIB for one in near.ranges)


async def test_closing_under_a_read_ends_it(make_bench: MakeBench, near: Storage) -> None:
    bench = make_bench(timeout=1000.0, deadline=1000.0)
    near.usual = Fault(stalls=BEFORE)
    source = await bench.open(bench.put(noise(MIB), near))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, source, 0, 1000, Unreachable)
            await until(near, lambda found: bool(found.requests))
            source.close()
        await bench.settled()
    assert len(near.requests) == 1, "nobody is left to ask for"
    assert bench.lent == 0
    assert bench.streams.status()["files"] == 0


async def test_closing_twice_is_closing_once(bench: Bench, near: Storage) -> None:
    file = bench.put(noise(1000), near)
    source, other = await bench.open(file), await bench.open(file)
    source.close()
    source.close()
    assert bytes(await other.read(0, 1000)) == noise(1000)
    other.close()
    other.close()
    await fails(other, 0, 1, Unreachable)
    assert bench.streams.status()["files"] == 0


async def test_what_was_fetched_for_who_goes_elsewhere_is_given_up(
    make_bench: MakeBench, near: Storage
) -> None:
    bench = make_bench(timeout=1000.0, deadline=1000.0)
    data = noise(8 * MIB)
    file = bench.put(data, near)
    # What comes after the first MiB hangs, up to the sixth.
    near.usual = lambda request: (
        Fault(stalls=BEFORE) if MIB <= lowest(request.range) < 6 * MIB else FINE
    )
    source = await bench.open(file)
    for offset in range(0, MIB, 128 * KIB):
        await source.read(offset, 128 * KIB)
    await until(near, lambda found: any(lowest(one) >= MIB for one in found.ranges))
    assert bytes(await source.read(7 * MIB, 1000)) == data[7 * MIB : 7 * MIB + 1000]
    with trio.fail_after(10):
        await bench.settled()
    assert bench.streams.status()["streams"][0]["on_its_way"] == 0
    # It is there when it is wanted again.
    near.usual = FINE
    assert bytes(await source.read(2 * MIB, 1000)) == data[2 * MIB : 2 * MIB + 1000]
    source.close()


async def test_what_was_given_up_is_waited_for_and_fetched_again(
    make_bench: MakeBench, near: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who wants it while its thread has not come to its end."""
    monkeypatch.setattr(connection.Connection, "abort", lambda self: None)
    bench = make_bench(timeout=1000.0, deadline=1000.0)
    data = noise(8 * MIB)
    file = bench.put(data, near)
    near.usual = lambda request: (
        Fault(stalls=0, resets=0) if MIB <= lowest(request.range) < 6 * MIB else FINE
    )
    source, other = await bench.open(file), await bench.open(file)
    for offset in range(0, MIB, 128 * KIB):
        await source.read(offset, 128 * KIB)
    await until(near, lambda found: any(lowest(one) >= MIB for one in found.ranges))
    hanging = next(found for found in near.ranges if lowest(found) >= MIB)
    await source.read(7 * MIB, 1000)
    found: list[bytes] = []

    async def read() -> None:
        found.append(bytes(await other.read(lowest(hanging), 1000)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked(0.01)
        near.usual = FINE
        near.release.set()
    assert found == [data[lowest(hanging) :][:1000]]
    for one in (source, other):
        one.close()


async def test_another_reader_keeps_what_one_has_left(make_bench: MakeBench, near: Storage) -> None:
    bench = make_bench(timeout=1000.0, deadline=1000.0)
    data = noise(MIB)
    file = bench.put(data, near)
    near.usual = Fault(stalls=BEFORE)
    first, second = await bench.open(file), await bench.open(file)
    found: list[bytes] = []

    async def read() -> None:
        found.append(bytes(await second.read(0, 1000)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, first, 0, 1000, Unreachable)
        nursery.start_soon(read)
        await until(near, lambda found: bool(found.requests))
        first.close()
        near.usual = FINE
        near.release.set()
    assert found == [data[:1000]]
    assert len(near.requests) == 1
    second.close()


async def test_a_caller_who_gives_up_does_not_harm_the_others(
    make_bench: MakeBench, near: Storage
) -> None:
    bench = make_bench(timeout=1000.0, deadline=1000.0)
    near.usual = Fault(stalls=BEFORE)
    source = await bench.open(bench.put(noise(MIB), near))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.read, 0, 1000)
        await until(near, lambda found: bool(found.requests))
        nursery.cancel_scope.cancel()
    near.release.set()
    assert bytes(await source.read(0, 1000)) == noise(MIB)[:1000]
    assert len(near.requests) == 1
    source.close()


async def test_the_end_answers_who_waits(make_bench: MakeBench, near: Storage) -> None:
    """Else it would last until their deadline, for pyfuse3 ends when all handlers have."""
    bench = make_bench(timeout=1000.0, deadline=1000.0)
    near.usual = Fault(stalls=BEFORE)
    file = bench.put(noise(MIB), near)
    source = await bench.open(file)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, source, 0, 1000, Unreachable)
            await until(near, lambda found: bool(found.requests))
            bench.streams.stop()
        assert "ending" in await fails(source, 0, 1000, Unreachable)
        with pytest.raises(Unreachable, match="ending"):
            await bench.open(file)
        await bench.settled()
    assert len(near.requests) == 1
    source.close()
    assert bench.lent == 0


async def test_idle_connections_are_closed(
    make_bench: MakeBench, near: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "_JANITOR", 0.01)
    bench = make_bench(idle=0.0)
    source = await bench.open(bench.put(noise(1000), near))
    await source.read(0, 1000)
    assert bench.streams.status()["connections"] == near.open == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.streams.run)
        await until(near, lambda found: found.open == 0)
        nursery.cancel_scope.cancel()
    assert bench.streams.status()["connections"] == 0
    source.close()


@pytest.mark.parametrize(("idle", "is_given_back"), [(0.0, True), (1000.0, False)])
async def test_memory_is_kept_for_the_next_file_for_a_while(
    make_bench: MakeBench, near: Storage, idle: float, is_given_back: bool
) -> None:
    bench = make_bench(idle=idle)
    source = await bench.open(bench.put(noise(1000), near))
    await source.read(0, 1000)
    bench.streams.tidy()
    assert bench.held > 0, "it is in use"
    source.close()
    await bench.settled()
    assert bench.held > 0
    bench.streams.tidy()
    assert (bench.held == 0) is is_given_back


async def test_connections_are_reused(make_bench: MakeBench, near: Storage) -> None:
    bench = make_bench(connections=2)
    for number in range(10):
        did = DID("s", f"f{number}")
        source = await bench.open(bench.put(noise(300_000, number), near, did=did))
        assert await read_all(source) == noise(300_000, number)
        source.close()
        await bench.settled()
    assert len(near.requests) >= 20
    assert near.connections <= 4, "two for what is waited for, two for what is not"


async def test_what_status_says(bench: Bench, near: Storage) -> None:
    near.plan(Fault(status=500))
    source = await bench.open(bench.put(noise(4 * MIB), near))
    await source.read(3 * MIB, 1000)
    await bench.settled()
    found = bench.streams.status()
    assert found["files"] == 1
    assert found["received"] == SMALLEST
    assert (found["requests"], found["failures"]) == (2, 1)
    assert found["memory"] == bench.lent > 0
    (stream,) = found["streams"]
    assert (stream["did"], stream["readers"], stream["on_its_way"]) == ("s:f", 1, 0)
    assert stream["received"] == SMALLEST
    source.close()


# --- replicas that fail --------------------------------------------------------------------------

FAULTS = [
    Fault(status=500),
    Fault(status=503, headers={"Retry-After": "20"}),
    Fault(status=404),
    Fault(status=403),
    Fault(status=401),
    Fault(status=416),
    Fault(resets=BEFORE),
    Fault(resets=40_000),
    Fault(cuts=40_000),
    Fault(cuts=40_000, chunked=True),
    Fault(unending=True),
    Fault(lacks=1),
    Fault(headers={"Content-Range": "bytes 0-1/2"}),
    Fault(headers={"Content-Range": ""}),
    Fault(headers={"Content-Length": "1000"}),
    Fault(headers={"Content-Encoding": "gzip"}),
    Fault(whole=True),
    Fault(whole=True, chunked=True),
    Fault(chunked=True),
    Fault(chunked=True, surplus=b"x"),
    Fault(closes=True),
    Fault(status=302, headers={"Location": "/f"}),
    Fault(status=302, headers={"Location": "/elsewhere"}),
    Fault(stalls=BEFORE),
    Fault(stalls=40_000),
]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failing_replica_is_not_noticed(
    make_bench: MakeBench, make_storage: MakeStorage, fault: Fault
) -> None:
    bench = make_bench(timeout=0.2 if fault.stalls is not None else 5.0)
    data = noise(MIB)
    storages = [make_storage() for _ in range(3)]
    file = bench.put(data, *storages)
    storages[0].plan(FINE, FINE)  # it fails in the middle of the file
    storages[0].usual = storages[1].usual = fault
    source = await bench.open(file)
    assert await read_all(source) == data
    source.close()
    assert (bench.wrong, bench.asked) == ([], 0)
    for one in storages:
        one.release.set()


async def test_all_of_them_fail_for_good(bench: Bench, near: Storage, far: Storage) -> None:
    file = bench.put(noise(1000), near, far)
    near.usual, far.usual = Fault(status=404), Fault(headers={"Content-Range": "bytes 0-999/1001"})
    source = await bench.open(file)
    message = await fails(source, 0, 10, NoSource)
    assert "RSE0: http://127.0.0.1" in message
    assert "answers 404" in message
    assert "RSE1: http://127.0.0.1" in message
    assert "has 1001 bytes, the catalogue says 1000" in message
    assert bench.asked == 1
    assert bench.lent == 0
    # Whoever opens it anew has them asked anew.
    near.usual = FINE
    assert "404" in await fails(source, 0, 10, NoSource)
    again = await bench.open(file)
    assert bytes(await again.read(0, 10)) == noise(1000)[:10]
    for one in (source, again):
        one.close()


async def test_nobody_can_be_reached(
    quick: None, make_bench: MakeBench, near: Storage, far: Storage
) -> None:
    bench = make_bench(deadline=0.4)
    file = bench.put(noise(1000), near, far)
    near.close()
    far.usual = Fault(status=503)
    source = await bench.open(file)
    with trio.fail_after(5):
        with pytest.raises(Unreachable) as caught:
            await source.read(0, 10)
    assert "RSE0: " in str(caught.value)
    assert "RSE1: " in str(caught.value)
    assert "503" in str(caught.value)
    await bench.settled()
    # And it comes back.
    far.usual = FINE
    assert bytes(await source.read(0, 10)) == noise(1000)[:10]
    source.close()


@pytest.mark.parametrize("at", [BEFORE, 1000])
async def test_a_read_does_not_outlast_its_deadline(
    make_bench: MakeBench, near: Storage, at: int
) -> None:
    """Not even if its storage has said nothing yet that could be counted as a failure."""
    bench = make_bench(timeout=1000.0, deadline=0.3)
    near.usual = Fault(stalls=at)
    source = await bench.open(bench.put(noise(MIB), near))
    with trio.fail_after(5):
        message = await fails(source, 0, 100_000, TooSlow)
    assert message.startswith("s:f: ")
    assert "0.3 s: RSE0" in message
    source.close()
    with trio.fail_after(5):
        await bench.settled()
    assert bench.lent == 0


async def test_without_credentials_it_is_denied_by_no_wait(
    make_bench: MakeBench, make_storage: MakeStorage, tls: Tls
) -> None:
    bench = make_bench(shows=StoragesConfig(ca=tls.ca_file), deadline=1000.0)
    secure = make_storage(tls)
    secure.tokens = {"abc"}
    source = await bench.open(bench.put(noise(1000), secure))
    with trio.fail_after(10):
        assert "no credentials" in await fails(source, 0, 10, NoSource)
    source.close()


async def test_a_token_that_expires_in_the_middle(
    quick: None, make_bench: MakeBench, make_storage: MakeStorage, tls: Tls, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    bench = make_bench(shows=StoragesConfig(token_file=token, ca=tls.ca_file))
    secure = make_storage(tls)
    secure.tokens = {"old"}
    data = noise(4 * MIB)
    source = await bench.open(bench.put(data, secure))
    head = bytes(await source.read(0, 128 * KIB))
    await bench.settled()
    secure.tokens = {"new"}
    expired = len(secure.requests)
    found: list[bytes] = []

    async def read() -> None:
        parts = [bytes(await source.read(at, MIB)) for at in range(128 * KIB, 4 * MIB, MIB)]
        found.append(head + b"".join(parts))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await until(secure, lambda found: len(found.requests) > expired)
        token.write_text("new")
    assert found == [data]
    source.close()


async def test_no_other_token_comes(
    quick: None, make_bench: MakeBench, make_storage: MakeStorage, tls: Tls, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("old")
    bench = make_bench(
        shows=StoragesConfig(token_file=tmp_path / "token", ca=tls.ca_file), deadline=0.3
    )
    secure = make_storage(tls)
    secure.tokens = {"new"}
    source = await bench.open(bench.put(noise(1000), secure))
    with pytest.raises((Denied, TooSlow)) as caught:
        await source.read(0, 10)
    message = str(caught.value)
    assert "answers 401" in message
    assert "old" not in message
    source.close()


# --- what Rucio says by now ----------------------------------------------------------------------


async def test_replicas_of_now_are_asked_for_once_by_all_who_need_them(
    bench: Bench, near: Storage, far: Storage
) -> None:
    """Who comes second must not be told that there is none while the answer is on its way."""
    data = noise(4 * MIB)
    file = bench.put(data, near)
    now = bench.put(data, near, far)
    near.usual = Fault(status=404)
    answer = trio.Event()
    asked = 0

    async def of_now() -> FileReplicas:
        nonlocal asked
        asked += 1
        await answer.wait()
        return now

    sources = [await bench.open(file, of_now) for _ in range(3)]
    found: list[bytes] = []

    async def one(source: StreamSource, offset: int) -> None:
        found.append(bytes(await source.read(offset, 1000)))

    async with trio.open_nursery() as nursery:
        for number, source in enumerate(sources):
            nursery.start_soon(one, source, number * MIB)
        await until(near, lambda found: found.finished >= 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert found == []
        answer.set()
    assert sorted(found) == sorted(data[at : at + 1000] for at in (0, MIB, 2 * MIB))
    assert asked == 1
    for source in sources:
        source.close()


@pytest.mark.parametrize("error", [Unreachable("Rucio is away"), NotFound("s:f is not there")])
async def test_a_rucio_that_does_not_know_hides_no_reasons(
    bench: Bench, near: Storage, error: RucioFsError
) -> None:
    async def of_now() -> FileReplicas:
        raise error

    near.usual = Fault(status=404)
    source = await bench.open(bench.put(noise(1000), near), of_now)
    assert "RSE0: " in await fails(source, 0, 10, NoSource)
    source.close()


async def test_who_gives_up_asking_does_not_answer_for_the_others(
    make_bench: MakeBench, near: Storage, far: Storage
) -> None:
    bench = make_bench(deadline=1000.0)
    data = noise(4 * MIB)
    file = bench.put(data, near)
    now = bench.put(data, near, far)
    near.usual = Fault(status=404)
    answers = [trio.Event(), trio.Event()]
    asked: list[int] = []

    async def of_now() -> FileReplicas:
        asked.append(len(asked))
        await answers[asked[-1]].wait()
        return now

    first, second = await bench.open(file, of_now), await bench.open(file, of_now)
    found: list[bytes] = []

    async def read() -> None:
        found.append(bytes(await second.read(2 * MIB, 1000)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, first, 0, 1000, Unreachable)
        await until(near, lambda found: found.finished >= 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(read)
        await until(near, lambda found: found.finished >= 1)
        (piece,) = first._stream._holdings.between(0, 1000)  # type: ignore[attr-defined]
        first.close()
        piece.cancel()  # as where nobody was to read the file any more
        answers[1].set()
    assert found == [data[2 * MIB : 2 * MIB + 1000]]
    second.close()


# --- a file that is not the one in the catalogue -------------------------------------------------


def wrong_ones(*storages: Storage) -> None:
    for one in storages:
        one.usual = Fault(wrong=True)


@pytest.mark.parametrize("size", [1, 1000, 64 * KIB, 300_000])
async def test_a_file_that_is_read_at_once_is_right_unnoticed(
    bench: Bench, near: Storage, far: Storage, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    caplog.set_level(logging.INFO)
    file = bench.put(noise(size), near, far)
    wrong_ones(near)
    source = await bench.open(file)
    assert bytes(await source.read(0, size)) == noise(size)
    assert bytes(await source.read(0, size)) == noise(size)
    source.close()
    ((did, message),) = bench.wrong
    assert did == FILE
    assert message.startswith("s:f from RSE0: the file has adler32 ")
    assert file.adler32 is not None
    assert file.adler32 in message
    assert [one.levelname for one in caplog.records if "adler32" in one.getMessage()][-1] == "ERROR"
    # What the kernel had of it before is forgotten, once.
    assert [bench.streams.may_be_kept(FILE) for _ in range(3)] == [False, True, True]
    assert bench.streams.may_be_kept(OTHER)


async def test_wrong_bytes_of_a_request_that_has_not_ended_are_replaced_too(
    bench: Bench, near: Storage, far: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are in when they show to be wrong, but its thread is not done yet."""
    data = noise(2000)
    file = bench.put(data, near, far)
    wrong_ones(near)

    def slowly(found: memoryview) -> int:
        if found[:10] == data[:10]:
            time.sleep(0.3)
        return adler32(found)

    def fault(request: Request) -> Fault:
        if not lowest(request.range):
            near.wait(lambda found: found.finished > 0)
            time.sleep(0.1)  # until what was fetched ahead is taken in
        return Fault(wrong=True)

    monkeypatch.setattr(fetching, "adler32", slowly)
    near.usual = fault
    source = await bench.open(file)
    assert bytes(await source.read(0, 1000)) == data[:1000]
    assert await read_all(source) == data
    assert len(bench.wrong) == 1
    source.close()


@pytest.mark.parametrize("stays_open", [False, True])
async def test_a_longer_read_ends_before_the_last_byte(
    bench: Bench, near: Storage, far: Storage, stays_open: bool
) -> None:
    data = noise(MIB)
    file = bench.put(data, near, far)
    wrong_ones(near)
    source = await bench.open(file)
    read = 0

    async def read_on() -> None:
        nonlocal read
        for offset in range(0, MIB, 128 * KIB):
            read += len(await source.read(offset, 128 * KIB))

    with pytest.raises(Corrupt) as caught:
        await read_on()
    message = str(caught.value)
    assert "RSE0" in message
    assert "open it again" in message
    assert 0 < read < MIB
    await fails(source, 0, 1, Corrupt)  # it is over for this one
    if not stays_open:
        source.close()
    assert not bench.streams.may_be_kept(FILE)
    for _ in range(2):
        again = await bench.open(file)
        assert await read_all(again) == data
        again.close()
    assert bench.streams.may_be_kept(FILE)
    assert len(bench.wrong) == 1
    source.close()


async def test_all_of_them_are_wrong(bench: Bench, near: Storage, far: Storage) -> None:
    file = bench.put(noise(1000), near, far)
    wrong_ones(near, far)
    source = await bench.open(file)
    message = await fails(source, 0, 1000, NoSource)
    assert message.count("the file has adler32") == 2
    assert [message for _, message in bench.wrong] != []
    source.close()
    await bench.settled()
    assert bench.lent == 0


async def test_one_after_the_other_is_asked_where_it_is_not_known_whose_they_were(
    bench: Bench, near: Storage, far: Storage
) -> None:
    """A piece from each of two: both are doubted, and the innocent one gives the file."""
    data = noise(64 * KIB)
    file = bench.put(data, near, far)
    near.plan(Fault(cuts=10_000))
    near.usual = Fault(wrong=True)
    far.plan(Fault(wrong=True))
    source = await bench.open(file)
    assert bytes(await source.read(0, len(data))) == data
    assert bench.wrong[0][1].startswith("s:f from RSE0, RSE1: ")
    source.close()


async def test_the_last_byte_may_be_read_first(bench: Bench, near: Storage, far: Storage) -> None:
    """As formats do whose table of contents is at the end: nothing is held back for it, yet who
    has had it is told before he has had all."""
    data = noise(256 * KIB)
    file = bench.put(data, near, far)
    wrong_ones(near)
    source = await bench.open(file)
    await source.read(192 * KIB, 64 * KIB)
    await bench.settled()
    await fails(source, 0, 192 * KIB, Corrupt)
    source.close()
    again = await bench.open(file)
    assert bytes(await again.read(192 * KIB, 64 * KIB)) == data[192 * KIB :]
    assert bytes(await again.read(0, 192 * KIB)) == data[: 192 * KIB]
    again.close()


async def test_who_was_given_nothing_here_is_told_too(
    bench: Bench, near: Storage, far: Storage
) -> None:
    """The kernel may have answered him, with what it keeps of another one's reads."""
    data = noise(128 * KIB)
    file = bench.put(data, near, far)
    wrong_ones(near)
    first, second = await bench.open(file), await bench.open(file)
    await first.read(0, 10)
    await fails(second, 10, len(data), Corrupt)
    await fails(first, 10, 10, Corrupt)
    assert not bench.streams.may_be_kept(FILE)
    third = await bench.open(file)
    assert bytes(await third.read(0, len(data))) == data
    for one in (first, second, third):
        one.close()


async def test_where_nobody_was_given_any_nobody_is_told(
    bench: Bench, near: Storage, far: Storage
) -> None:
    data = noise(128 * KIB)
    file = bench.put(data, near, far)
    wrong_ones(near)
    first, second = await bench.open(file), await bench.open(file)
    assert bytes(await first.read(0, len(data))) == data
    assert bytes(await second.read(0, len(data))) == data
    assert len(bench.wrong) == 1
    for one in (first, second):
        one.close()


async def test_what_is_fetched_again_hides_nothing_of_what_was_given(
    make_bench: MakeBench, near: Storage
) -> None:
    """Its checksum was one with that of its neighbours, which are at hand or with the kernel."""
    bench = make_bench(window=0, memory=16 * MIB)
    data = noise(8 * MIB)
    file = bench.put(data, near)
    near.files["/f"] = data[: 3 * MIB] + b"?" + data[3 * MIB + 1 :]
    source = await bench.open(file)
    await source.read(0, 64 * KIB)
    await source.read(64 * KIB, 6 * MIB - 64 * KIB)
    await bench.settled()
    stream: Any = source._stream
    stream.drop(stream._holdings.piece_at(0))
    await source.read(0, 64 * KIB)
    await fails(source, 6 * MIB, 2 * MIB, Corrupt)
    source.close()


async def test_what_there_is_no_memory_to_fetch_again_stays_known(
    make_bench: MakeBench, near: Storage
) -> None:
    bench = make_bench(window=0, memory=16 * MIB)
    data = noise(2 * MIB)
    source = await bench.open(bench.put(data, near))
    await source.read(0, 2 * MIB)
    await bench.settled()
    stream: Any = source._stream
    stream.drop(stream._holdings.piece_at(0))
    bench.streams._buffers.limit = 0
    assert not stream._fetch(0, MIB, is_urgent=False)
    assert stream._proof.is_right
    source.close()


async def test_a_second_pass_is_compared_as_the_first_was(
    make_bench: MakeBench, near: Storage
) -> None:
    """Of a file larger than the memory, without a cache: some of it is at hand, some is not."""
    bench = make_bench(memory=4 * MIB, window=MIB)
    data = noise(6 * MIB)
    file = bench.put(data, near)
    first = await bench.open(file)
    assert await read_all(first) == data
    await bench.settled()
    near.files["/f"] = data[:777] + b"?" + data[778:]
    second = await bench.open(file)
    with pytest.raises(Corrupt):
        await read_all(second)
    for one in (first, second):
        one.close()


async def test_what_was_given_of_what_never_came_whole_is_compared(
    make_bench: MakeBench, near: Storage
) -> None:
    """The kernel keeps it, and the rest comes with other requests."""
    bench = make_bench(timeout=1000.0, deadline=1000.0)
    data = noise(2 * MIB)
    file = bench.put(data, near)
    near.files["/f"] = b"?" + data[1:]
    near.usual = Fault(stalls=200_000)
    first, second = await bench.open(file), await bench.open(file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, first, 0, MIB, Unreachable)
        await until(near, lambda found: found.sent >= 200_000)
        await second.read(0, 128 * KIB)
        first.close()
        stream: Any = second._stream
        stream._holdings.piece_at(0).cancel()  # as where its reader went elsewhere
    near.files["/f"] = data
    near.usual = FINE
    near.release.set()
    await fails(second, 128 * KIB, 2 * MIB, Corrupt)
    second.close()


@pytest.mark.parametrize("checksum", [None, "", "none", "-1", "123456789"])
async def test_without_a_checksum_nothing_is_held_back(
    bench: Bench, near: Storage, checksum: str | None
) -> None:
    data = noise(MIB)
    file = bench.put(data, near, has_adler32=False)
    file = FileReplicas(FILE, file.size, checksum, None, file.replicas, file.states)
    near.usual = lambda request: FINE if lowest(request.range) else Fault(stalls=1000)
    source = await bench.open(file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.read, 0, 512 * KIB)  # hangs
        await until(near, lambda found: "0-524287" in found.ranges)
        assert bytes(await source.read(MIB - 1000, 1000)) == data[-1000:]
        near.release.set()
    assert await read_all(source) == data
    assert bench.wrong == []
    source.close()


async def test_with_one_the_last_byte_waits_for_what_is_on_its_way(
    bench: Bench, near: Storage
) -> None:
    data = noise(MIB)
    file = bench.put(data, near)
    near.usual = lambda request: FINE if lowest(request.range) else Fault(stalls=1000)
    source = await bench.open(file)
    answered: list[int] = []

    async def read(offset: int, size: int) -> None:
        assert bytes(await source.read(offset, size)) == data[offset : offset + size]
        answered.append(offset)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, 0, 512 * KIB)
        await until(near, lambda found: "0-524287" in found.ranges)
        await read(512 * KIB, 256 * KIB)
        nursery.start_soon(read, 768 * KIB, 256 * KIB)
        await until(near, lambda found: found.sent >= 512 * KIB + 1000)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert answered == [512 * KIB]
        near.release.set()
    assert sorted(answered) == [0, 512 * KIB, 768 * KIB]
    source.close()


# --- the cache on disk ---------------------------------------------------------------------------


def store_at(path: Path, limit: int = 1 << 30) -> Store:
    return Store.open(path / "cache", limit, 0)


async def test_a_second_read_asks_nobody(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    bench = make_bench(store=store_at(tmp_path))
    data = noise(2 * MIB)
    file = bench.put(data, near)
    for _ in range(3):
        source = await bench.open(file)
        assert await read_all(source) == data
        source.close()
        await bench.settled()
        assert bench.lent == 0
    assert await moved(near) == len(data)
    assert bench.streams.cached_bytes(file) == len(data)


async def test_what_is_there_is_not_fetched(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    bench = make_bench(store=store_at(tmp_path))
    data = noise(2 * MIB)
    file = bench.put(data, near)
    source = await bench.open(file)
    await source.read(MIB + 500_000, 100_000)
    await bench.settled()
    assert bench.streams.cached_bytes(file) == await moved(near) < MIB
    source.close()
    await bench.settled()
    source = await bench.open(file)
    assert await read_all(source) == data
    assert await moved(near) == len(data)
    source.close()


async def test_what_is_ahead_of_a_reader_is_not_read_from_the_disk(
    make_bench: MakeBench, near: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read gives its memory back first: the disk is slower than not to have fetched."""
    looked: list[int] = []
    at_hand = Entry.at_hand

    def noted(entry: Entry, offset: int, size: int) -> memoryview | None:
        if entry.stored.covers(offset, offset + size):
            looked.append(offset)
        return at_hand(entry, offset, size)

    bench = make_bench(store=store_at(tmp_path), window=MIB, memory=2 * MIB)
    slow = await bench.open(bench.put(noise(4 * MIB, 1), near, did=DID("s", "slow")))
    quick = await bench.open(bench.put(noise(4 * MIB, 2), near, did=DID("s", "quick")))
    monkeypatch.setattr(Entry, "at_hand", noted)
    for source, end in ((slow, MIB), (quick, 4 * MIB)):
        for offset in range(0, end, 128 * KIB):
            await source.read(offset, 128 * KIB)
            await bench.settled()  # what was fetched is on the disk, and no read is urgent
    await slow.read(MIB, 128 * KIB)
    assert looked == []
    slow.close()
    quick.close()


@pytest.mark.parametrize("limit", [1, 300_000])
async def test_a_cache_that_is_too_small(
    make_bench: MakeBench, near: Storage, tmp_path: Path, limit: int
) -> None:
    bench = make_bench(store=store_at(tmp_path, limit))
    data = noise(2 * MIB)
    for _ in range(2):
        source = await bench.open(bench.put(data, near))
        assert await read_all(source) == data
        source.close()
        await bench.settled()
    store = bench.streams.store
    assert store is not None
    assert store.used <= limit


async def test_a_disk_that_takes_nothing(
    make_bench: MakeBench, near: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench = make_bench(store=store_at(tmp_path))
    data = noise(MIB)
    source = await bench.open(bench.put(data, near))
    monkeypatch.setattr(os, "pwrite", full)
    assert await read_all(source) == data
    assert await read_all(source) == data
    source.close()
    await bench.settled()


async def test_a_disk_that_gives_nothing(
    make_bench: MakeBench, near: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(store=store_at(tmp_path))
    data = noise(MIB)
    file = bench.put(data, near)
    source = await bench.open(file)
    assert await read_all(source) == data
    source.close()
    await bench.settled()

    def broken(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    source = await bench.open(file)
    monkeypatch.setattr(os, "pread", broken)
    monkeypatch.setattr(os, "preadv", broken)
    assert await read_all(source) == data
    assert await moved(near) == 2 * len(data)
    source.close()
    await bench.settled()


async def test_a_disk_that_hangs_holds_no_read_beyond_its_deadline(
    make_bench: MakeBench, near: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(store=store_at(tmp_path), deadline=0.3)
    data = noise(MIB)
    file = bench.put(data, near)
    source = await bench.open(file)
    assert await read_all(source) == data
    source.close()
    await bench.settled()
    answers = threading.Event()
    pread = os.pread

    def hangs(*args: Any) -> bytes:
        answers.wait(20)
        return pread(*args)

    def nothing(*args: Any) -> int:
        raise BlockingIOError  # not in the page cache

    source = await bench.open(file)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", hangs)
        patch.setattr(os, "preadv", nothing)
        try:
            with trio.fail_after(5):
                await fails(source, 0, 1000, TooSlow)
        finally:
            answers.set()
    assert await read_all(source) == data
    source.close()
    await bench.settled()


async def test_wrong_bytes_are_not_kept(
    make_bench: MakeBench, near: Storage, far: Storage, tmp_path: Path
) -> None:
    bench = make_bench(store=store_at(tmp_path))
    data = noise(MIB)
    file = bench.put(data, near, far)
    wrong_ones(near)
    source = await bench.open(file)
    with pytest.raises(Corrupt):
        await read_all(source)
    source.close()
    await bench.settled()
    for _ in range(2):
        source = await bench.open(file)
        assert await read_all(source) == data
        source.close()
        await bench.settled()
    assert await moved(far) == len(data)
    assert len(bench.wrong) == 1


async def test_wrong_bytes_that_are_being_written_are_read_by_nobody(
    make_bench: MakeBench,
    near: Storage,
    far: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are found to be wrong while the disk is still busy with them."""
    store = store_at(tmp_path)
    written = trio.Event()
    keep = store.keep

    async def slowly(*args: Any) -> bool:
        await written.wait()
        return await keep(*args)

    monkeypatch.setattr(store, "keep", slowly)
    bench = make_bench(store=store)
    data = noise(2 * MIB)
    file = bench.put(data, near, far)
    wrong_ones(near)
    first, second = await bench.open(file), await bench.open(file)
    await first.read(0, 64 * KIB)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await fails(second, 64 * KIB, 2 * MIB, Corrupt)
    await fails(first, 0, 10, Corrupt)
    third = await bench.open(file)
    assert bytes(await third.read(0, 64 * KIB)) == data[: 64 * KIB]
    written.set()
    await bench.settled()
    assert bytes(await third.read(0, 2 * MIB)) == data
    for one in (first, second, third):
        one.close()
    await bench.settled()
    assert bench.lent == 0


async def test_nor_do_they_come_to_lie_in_the_cache(
    make_bench: MakeBench,
    near: Storage,
    far: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where they would be read later, and blamed on others."""
    store = store_at(tmp_path)
    written = trio.Event()
    keep = store.keep

    async def slowly(*args: Any) -> bool:
        await written.wait()
        return await keep(*args)

    monkeypatch.setattr(store, "keep", slowly)
    bench = make_bench(store=store)
    data = noise(2 * MIB)
    file = bench.put(data, near, far)
    wrong_ones(near)
    source = await bench.open(file)
    await source.read(0, 64 * KIB)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await fails(source, 64 * KIB, 2 * MIB, Corrupt)
    await trio.testing.wait_all_tasks_blocked(0.05)
    written.set()
    source.close()
    await bench.settled()
    assert bench.lent == 0
    source = await bench.open(file)
    assert bytes(await source.read(0, 64 * KIB)) == data[: 64 * KIB]
    assert await read_all(source) == data
    assert len(bench.wrong) == 1
    source.close()
    await bench.settled()


async def test_what_is_opened_again_while_the_disk_is_busy_is_compared(
    make_bench: MakeBench, near: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes to the disk after that is known as well, and is not fetched again."""
    store = store_at(tmp_path)
    written = trio.Event()
    keep = store.keep

    async def slowly(*args: Any) -> bool:
        await written.wait()
        return await keep(*args)

    monkeypatch.setattr(store, "keep", slowly)
    bench = make_bench(store=store)
    data = noise(2 * MIB)
    file = bench.put(data, near)
    near.files["/f"] = data[:5] + b"?" + data[6:]
    first = await bench.open(file)
    await first.read(0, 512 * KIB)
    await trio.testing.wait_all_tasks_blocked(0.05)
    before = near.sent
    first.close()
    second = await bench.open(file)
    assert await second.read(0, 512 * KIB)
    assert near.sent == before
    written.set()
    await bench.settled()
    with pytest.raises(Corrupt):
        await read_all(second)
    second.close()
    await bench.settled()
    assert bench.streams.status()["files"] == bench.lent == 0


async def test_what_is_on_disk_alone_is_compared_after_a_part_was_fetched_again(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    bench = make_bench(store=store_at(tmp_path), window=0)
    data = noise(6 * MIB)
    file = bench.put(data, near)
    near.files["/f"] = data[: 3 * MIB] + b"?" + data[3 * MIB + 1 :]
    source = await bench.open(file)
    for offset in (0, MIB, 2 * MIB, 3 * MIB):
        await source.read(offset, MIB)
        await bench.settled()
    stream: Any = source._stream
    for piece in list(stream._holdings.pieces):
        stream.drop(piece)
    stream._proof._judge.doubt(0, 64 * KIB)
    assert stream._proof.received == 0, "it was one with all the rest"
    await fails(source, 4 * MIB, 2 * MIB, Corrupt)
    source.close()
    await bench.settled()


async def test_a_cache_that_is_closed_under_a_reader_ends_no_loop(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    bench = make_bench(store=store_at(tmp_path), window=0, deadline=0.3)
    data = noise(2 * MIB)
    source = await bench.open(bench.put(data, near))
    await source.read(0, MIB)
    await bench.settled()
    stream: Any = source._stream
    for piece in list(stream._holdings.pieces):
        stream.drop(piece)
    stream._proof._judge.doubt(0, 64 * KIB)
    await stream.entry.close()
    with trio.fail_after(5):
        await fails(source, MIB, MIB, TooSlow)
    source.close()
    await bench.settled()


async def test_what_was_given_is_compared_also_after_the_cache_is_cleared(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    store = store_at(tmp_path)
    bench = make_bench(store=store, memory=4 * MIB, window=MIB)
    data = noise(12 * MIB)
    file = bench.put(data, near)
    near.files["/f"] = data[: 11 * MIB] + b"?" + data[11 * MIB + 1 :]
    source = await bench.open(file)
    for offset in range(0, 6 * MIB, 128 * KIB):
        await source.read(offset, 128 * KIB)
    await bench.settled()
    await store.clear()
    with pytest.raises(Corrupt):
        await read_all(source)
    source.close()
    await bench.settled()


async def test_wrong_bytes_of_the_cache_are_not_blamed_on_who_gave_the_rest(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    """It is fetched once more, also from the only replica that there is."""
    store = store_at(tmp_path)
    data = noise(128 * KIB)
    bench = make_bench(store=store, window=0)
    file = bench.put(data, near)
    near.files["/f"] = data[:5] + b"?" + data[6:]
    source = await bench.open(file)
    await source.read(0, 64 * KIB)
    source.close()
    await bench.settled()
    near.files["/f"] = data  # it was repaired
    bench = make_bench(store=store)  # the next mount
    source = await bench.open(file)
    assert bytes(await source.read(0, len(data))) == data
    ((_, message),) = bench.wrong
    assert message.startswith("s:f from RSE0, the cache: the file has adler32 ")
    source.close()
    await bench.settled()


# --- what the kernel keeps -----------------------------------------------------------------------


async def reopened(bench: Bench, file: FileReplicas) -> tuple[StreamSource, bool]:
    """As `Opener.open` does: the file, and whether the kernel keeps its pages."""
    source = await bench.open(file)
    return source, bench.streams.may_be_kept(file.did)


async def test_what_a_stream_gave_is_forgotten_if_the_next_cannot_compare_it(
    bench: Bench, near: Storage
) -> None:
    """Without a cache, after a look at the start of a file."""
    file = bench.put(noise(MIB), near)
    source = await bench.open(file)
    await source.read(0, 1000)
    source.close()
    await bench.settled()
    for kept in (False, True):
        source, is_kept = await reopened(bench, file)
        assert is_kept is kept
        source.close()
        await bench.settled()


async def test_it_is_kept_if_all_was_compared(bench: Bench, near: Storage) -> None:
    file = bench.put(noise(MIB), near)
    for _ in range(2):
        source, is_kept = await reopened(bench, file)
        assert is_kept
        assert await read_all(source) == noise(MIB)
        source.close()
        await bench.settled()


async def test_it_is_kept_if_nothing_can_ever_be_compared(bench: Bench, near: Storage) -> None:
    file = bench.put(noise(MIB), near, has_adler32=False)
    for _ in range(2):
        source, is_kept = await reopened(bench, file)
        assert is_kept
        await source.read(0, 1000)
        source.close()
        await bench.settled()


async def test_it_is_kept_if_the_cache_has_it(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    bench = make_bench(store=store_at(tmp_path))
    file = bench.put(noise(4 * MIB), near)
    for number in range(4):
        source, is_kept = await reopened(bench, file)
        assert is_kept
        await source.read(number * MIB, SMALLEST)  # all of a request: what is cut is not kept
        source.close()
        if number % 2:  # else it is opened again at once
            await bench.settled()
    await bench.settled()


async def test_it_is_forgotten_if_the_cache_has_lost_it(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    store = store_at(tmp_path)
    bench = make_bench(store=store)
    file = bench.put(noise(4 * MIB), near)
    source = await bench.open(file)
    await source.read(0, 1000)
    source.close()
    await bench.settled()
    await store.clear()
    source, is_kept = await reopened(bench, file)
    assert not is_kept
    source.close()
    await bench.settled()


async def test_it_is_forgotten_when_the_file_is_read_elsewhere(bench: Bench, near: Storage) -> None:
    """From a local copy, of which nothing is compared."""
    source = await bench.open(bench.put(noise(MIB), near))
    await source.read(0, 1000)
    source.close()
    await bench.settled()
    assert not bench.streams.may_be_kept(FILE)
    assert bench.streams.may_be_kept(FILE)


async def test_what_an_earlier_stream_gave_is_told_to_be_wrong(
    make_bench: MakeBench, near: Storage, tmp_path: Path
) -> None:
    """The kernel has kept it, since it could be compared."""
    bench = make_bench(store=store_at(tmp_path), window=0)
    data = noise(2 * MIB)
    file = bench.put(data, near)
    near.files["/f"] = data[:5] + b"?" + data[6:]
    source = await bench.open(file)
    await source.read(0, 64 * KIB)
    source.close()
    await bench.settled()
    source, is_kept = await reopened(bench, file)
    assert is_kept
    await fails(source, 64 * KIB, 2 * MIB, Corrupt)
    source.close()
    await bench.settled()
    assert not bench.streams.may_be_kept(FILE)


# --- a disk that is slow -------------------------------------------------------------------------


async def test_a_slow_disk_does_not_hold_up_readers(
    make_bench: MakeBench, near: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path)
    written = threading.Event()
    pwrite = os.pwrite

    def slowly(*args: Any) -> int:
        written.wait(20)
        return pwrite(*args)

    monkeypatch.setattr(os, "pwrite", slowly)
    monkeypatch.setattr(shared, "_SLOW_DISK", 0.0)
    bench = make_bench(store=store, window=256 * KIB, memory=MIB)
    data = noise(4 * MIB)
    source = await bench.open(bench.put(data, near))
    try:
        assert await read_all(source) == data
        assert await moved(near) == len(data)
        assert bench.lent <= MIB + 256 * KIB
    finally:
        source.close()
        written.set()
    await bench.settled()


# --- any reads, any faults -----------------------------------------------------------------------

ANY = [*FAULTS[:23], FINE, FINE, FINE, FINE, FINE]


@given(
    size=st.integers(1, 1_500_000),
    faults=st.lists(st.lists(st.sampled_from(ANY), max_size=8), min_size=2, max_size=2),
    readers=st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400_000)), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    memory=st.sampled_from([1, MIB, 8 * MIB]),
    has_adler32=st.booleans(),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_reads_are_right_whatever_fails(
    size: int,
    faults: list[list[Fault]],
    readers: list[list[tuple[float, int]]],
    memory: int,
    has_adler32: bool,
) -> None:
    data = noise(1_500_000)[:size]
    wrong: list[str] = []

    async def one(bench: Bench, file: FileReplicas, reads: list[tuple[float, int]]) -> None:
        source = await bench.open(file)
        for place, length in reads:
            offset = int(place * size)
            found = bytes(await source.read(offset, length))
            if found != data[offset : offset + length]:
                wrong.append(f"{length} at {offset}")
        source.close()

    async def run(bench: Bench, storages: list[Storage]) -> None:
        for storage, script in zip(storages, faults, strict=False):
            storage.plan(*script)
        file = bench.put(data, *storages, has_adler32=has_adler32)
        async with trio.open_nursery() as nursery:
            for reads in readers:
                nursery.start_soon(one, bench, file, reads)

    await with_storages(3, memory, run)
    assert wrong == []


@given(
    size=st.integers(1, 600_000),
    cuts=st.lists(st.integers(1, 599_999), max_size=8, unique=True),
    order=st.randoms(use_true_random=False),
    memory=st.sampled_from([MIB, 8 * MIB]),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_who_has_read_all_of_a_wrong_file_in_any_order_knows_it(
    size: int, cuts: list[int], order: Any, memory: int
) -> None:
    data = noise(600_000)[:size]
    ends = sorted({cut for cut in cuts if cut < size} | {size})
    ranges = list(zip([0, *ends[:-1]], ends, strict=True))
    order.shuffle(ranges)

    async def run(bench: Bench, storages: list[Storage]) -> None:
        file = bench.put(data, *storages)
        wrong_ones(storages[0])
        for tries in range(2):
            source = await bench.open(file)
            found = bytearray(size)
            try:
                for start, end in ranges:
                    found[start:end] = await source.read(start, end - start)
            except Corrupt:
                assert tries == 0, "the other one is right"
                continue
            finally:
                source.close()
            assert bytes(found) == data
            return

    await with_storages(2, memory, run)


async def with_storages(
    count: int, memory: int, run: Callable[[Bench, list[Storage]], Awaitable[None]]
) -> None:
    """Run with storages and streams of its own, and look whether all was given back."""
    storages = [Storage() for _ in range(count)]
    try:
        async with trio.open_nursery() as nursery:
            streams = Streams(
                StreamingConfig(
                    connections=4, total_connections=8, window=MIB, memory=memory, deadline=20.0
                ),
                StoragesConfig(),
                None,
                nursery,
                lambda did, message: None,
            )
            bench = Bench(streams, nursery)
            await run(bench, storages)
            await bench.settled()
            assert bench.lent == 0
            streams.close()
            assert streams._pool.open == 0
    finally:
        for one in storages:
            one.close()
