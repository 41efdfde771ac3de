"""Reads across what is in memory and on disk, against the bytes of the file."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import count, pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rucio_fs.checksums import adler32
from rucio_fs.did import DID, FileReplicas
from rucio_fs.diskcache.segments import Segment
from rucio_fs.diskcache.store import Store
from rucio_fs.streams.holdings import Holdings
from rucio_fs.streams.judging import CACHE
from rucio_fs.streams.pieces import Piece

SIZE = 1000
DATA = random.Random(3).randbytes(SIZE)
FILE = FileReplicas(DID("s", "f"), SIZE, None, None, (), {})


class Bench:
    """Holdings of one file, and the store behind them."""

    def __init__(self, directory: Path) -> None:
        self.store = Store.open(directory, 1 << 30, 0)
        self.holdings: Holdings

    async def begin(self, *on_disk: tuple[int, int], has_entry: bool = True) -> Holdings:
        entry = await self.store.use(FILE) if has_entry else None
        for start, end in on_disk:
            assert entry is not None
            data = memoryview(DATA)[start:end]
            assert await entry.write(Segment(start, end, adler32(data)), data)
        self.holdings = Holdings(SIZE, entry, count())
        return self.holdings

    def piece(self, start: int, end: int, got: int | None = None) -> Piece:
        """One that has *got* so many bytes, all of them if that is not said."""
        length = end - start
        piece = Piece(start, end, memoryview(bytearray(b"?" * (length + 50))), is_urgent=False)
        piece.got = length if got is None else got
        piece.buffer[: piece.got] = DATA[start : start + piece.got]
        self.holdings.add(piece)
        return piece

    async def has(self, offset: int, end: int) -> bool:
        """Whether it is here; what is given is right."""
        data = await self.holdings.read(offset, end)
        assert data is None or bytes(data) == DATA[offset:end]
        return data is not None


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "cache")
    yield made
    await made.store.close()


async def test_from_memory(bench: Bench) -> None:
    await bench.begin(has_entry=False)
    bench.piece(100, 200)
    for offset, end in [(100, 200), (100, 101), (199, 200), (150, 160)]:
        assert await bench.has(offset, end)
    for offset, end in [(99, 100), (99, 150), (150, 201), (200, 201), (0, SIZE)]:
        assert not await bench.has(offset, end)


async def test_of_a_piece_on_its_way_what_has_come(bench: Bench) -> None:
    await bench.begin(has_entry=False)
    bench.piece(100, 200, got=50)
    assert await bench.has(100, 150)
    assert await bench.has(149, 150)
    assert not await bench.has(100, 151)
    assert not await bench.has(150, 151)


async def test_from_disk(bench: Bench) -> None:
    await bench.begin((100, 200), (300, 400))
    for offset, end in [(100, 200), (150, 151), (399, 400)]:
        assert await bench.has(offset, end)
    for offset, end in [(99, 101), (199, 201), (100, 400), (200, 300)]:
        assert not await bench.has(offset, end)


async def test_whose_bytes_they_are(bench: Bench) -> None:
    await bench.begin((100, 200), (300, 400))
    bench.piece(200, 250).rses.add("A")
    bench.piece(250, 300).rses.add("B")
    assert bench.holdings.rses(200, 250) == {"A"}
    assert bench.holdings.rses(240, 260) == {"A", "B"}
    assert bench.holdings.rses(150, 210) == {"A", CACHE}
    assert bench.holdings.rses(299, 301) == {"B", CACHE}
    assert bench.holdings.rses(100, 200) == {CACHE}


async def test_across_memory_and_disk(bench: Bench) -> None:
    await bench.begin((100, 200), (300, 400))
    bench.piece(200, 250)
    bench.piece(250, 300)
    bench.piece(0, 100, got=80)
    assert await bench.has(100, 400)
    assert await bench.has(210, 390)
    assert await bench.has(120, 290)
    assert await bench.has(240, 260)
    assert not await bench.has(79, 400)
    assert not await bench.has(0, 101)
    assert not await bench.has(100, 401)


async def test_a_piece_goes_before_the_disk(bench: Bench) -> None:
    """The same range may be in both: it is in memory as long as it is being written."""
    await bench.begin((100, 200))
    bench.piece(150, 160)
    assert await bench.has(100, 200)
    assert await bench.has(150, 200)
    bench.piece(170, 180, got=5)
    assert await bench.has(100, 200), "the disk has it all"
    assert await bench.has(172, 174)


async def test_what_is_forgotten_meanwhile_is_not_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    holdings = await bench.begin((100, 200))
    bench.piece(200, 300)
    assert holdings.entry is not None
    entry = holdings.entry
    read = entry.read

    async def forgotten(offset: int, size: int) -> bytes | None:
        entry.forget()
        return await read(offset, size)

    monkeypatch.setattr(entry, "read", forgotten)
    assert not await bench.has(100, 300)
    assert await bench.has(200, 300)


async def test_a_piece_that_goes_while_the_disk_is_read_is_not_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    holdings = await bench.begin((100, 200))
    piece = bench.piece(200, 300)
    entry = holdings.entry
    assert entry is not None
    read = entry.read

    async def drop(offset: int, size: int) -> bytes | None:
        data = await read(offset, size)
        if piece in holdings.pieces:
            holdings.pieces.remove(piece)
            piece.buffer[:] = b"?" * len(piece.buffer)  # it is somebody else's now
        return data

    monkeypatch.setattr(entry, "read", drop)
    assert not await bench.has(100, 300)
    assert await bench.has(100, 200)


async def test_pieces_are_in_order_however_they_come(bench: Bench) -> None:
    holdings = await bench.begin(has_entry=False)
    for start in (500, 100, 900, 300, 0):
        bench.piece(start, start + 100)
    assert [piece.start for piece in holdings.pieces] == [0, 100, 300, 500, 900]
    assert [piece.start for piece in holdings.between(150, 501)] == [100, 300, 500]
    assert holdings.between(200, 300) == []
    assert [piece.start for piece in holdings.between(199, 300)] == [100]


async def test_what_is_used_is_noted(bench: Bench) -> None:
    holdings = await bench.begin(has_entry=False)
    first, second = bench.piece(0, 100), bench.piece(100, 200)
    assert first.used_at < second.used_at
    await holdings.read(10, 20)
    assert first.used_at > second.used_at
    await holdings.read(50, 150)
    assert first.used_at < second.used_at


async def test_whether_a_piece_is_on_disk(bench: Bench) -> None:
    holdings = await bench.begin((100, 200))
    assert holdings.is_on_disk(bench.piece(100, 200))
    assert not holdings.is_on_disk(bench.piece(200, 201))
    assert "pieces" in repr(holdings)
    await bench.begin(has_entry=False)
    assert not bench.holdings.is_on_disk(bench.piece(100, 200))


CUTS = st.sets(st.integers(1, SIZE - 1), max_size=12)
KINDS = st.lists(st.sampled_from(["disk", "memory", "coming", "gap"]), min_size=13, max_size=13)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=CUTS, kinds=KINDS, first=st.integers(0, SIZE - 1), length=st.integers(1, SIZE))
def test_what_is_missing_and_what_is_here_make_up_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    cuts: set[int],
    kinds: list[str],
    first: int,
    length: int,
) -> None:
    """Each range is on disk, in memory, on its way or nowhere."""
    last = min(SIZE, first + length)
    flags = [""] * SIZE

    async def look() -> None:
        bench = Bench(tmp_path_factory.mktemp("cache"))
        ranges = list(zip(pairwise(sorted({0, SIZE, *cuts})), kinds, strict=False))
        await bench.begin(*(where for where, kind in ranges if kind == "disk"))
        for (start, end), kind in ranges:
            flags[start:end] = [kind] * (end - start)
            if kind == "memory":
                bench.piece(start, end)
            elif kind == "coming":
                bench.piece(start, end, got=0)
        holdings = bench.holdings
        gaps = holdings.missing(first, last)
        missing = [place for start, end in gaps for place in range(start, end)]
        assert missing == [place for place in range(first, last) if flags[place] == "gap"]
        assert all(end > start for start, end in gaps)
        until = holdings.covered_until(first)
        assert all(flags[place] != "gap" for place in range(first, until))
        assert until == SIZE or flags[until] == "gap"
        is_here = not {"gap", "coming"} & set(flags[first:last])
        assert await bench.has(first, last) is is_here
        assert holdings.entry is not None
        await bench.store.give_back(holdings.entry)
        await bench.store.close()

    trio.run(look)
