"""One cached file: what is doubtful is proved, what fails is not here, what is emptied stays so."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rucio_fs.diskcache import maps, threads
from rucio_fs.diskcache.entry import Entry
from rucio_fs.diskcache.segments import Segment
from rucio_fs.diskcache.store import Store
from rucio_fs.diskcache.threads import in_thread
from tests.unit.diskcache.conftest import (
    BLOCK,
    KIB,
    NEXT_BOOT,
    SIZE,
    THIS_BOOT,
    Caches,
    booted,
    damage,
    is_proved,
    is_right,
    is_whole,
    keep,
    map_of,
    put,
    right_bytes,
    sample,
    settled,
    used,
)

FILE = sample()
THIRDS = [(0, 100_000), (100_000, 200_000), (200_000, SIZE)]


class Stopped:
    """A function of a module that stops in its thread until `go`, the first *times* it is called.

    `came` is set when it is there.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, module: Any, function: str, times: int = 1
    ) -> None:
        self.came = trio.Event()
        self.calls = 0
        self._times = times
        self._go = threading.Event()
        self._call: Callable[..., Any] = getattr(module, function)
        self._token = trio.lowlevel.current_trio_token()
        monkeypatch.setattr(module, function, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls <= self._times:
            self._token.run_sync_soon(self.came.set)
            assert self._go.wait(timeout=60)
        return self._call(*args, **kwargs)

    async def alone(self) -> None:
        """Wait until all others have done what they can while this one is stopped."""
        await wait_all_tasks_blocked()
        while threads._threads.borrowed_tokens > 1:
            await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()

    def go(self) -> None:
        self._go.set()


def broken(number: int) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> Any:
        raise OSError(number, os.strerror(number))

    return call


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_nowait", [True, False])
async def test_what_is_kept_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_nowait: bool
) -> None:
    entry = await used(store, FILE)
    for start, end in THIRDS[::2]:
        assert await keep(store, entry, FILE, start, end)
    if not is_nowait:
        monkeypatch.setattr(os, "preadv", broken(errno.EAGAIN))
        monkeypatch.setattr(entry, "at_hand", lambda offset, size: None)
    assert await is_right(entry, FILE, [(0, 100_000), (1, 99_999), (250_000, SIZE), (7, 8)])
    for start, end in [(0, 100_001), (99_999, 200_001), (150_000, 150_001), (0, SIZE)]:
        assert entry.at_hand(start, end - start) is None
        assert await entry.read(start, end - start) is None, "a hole is no zeros"
    await store.give_back(entry)


async def test_what_is_in_memory_is_read_without_a_thread(
    store: Store, caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it has to be proved."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, into, offset, flags: preadv(fd, into, offset))
    await put(store, FILE)
    entry = await used(store, FILE)
    quick = entry.at_hand(5, 1000)
    assert quick is not None
    assert bytes(quick) == FILE.data[5:1005]
    await store.give_back(entry)
    await caches.close(store)
    booted(monkeypatch, NEXT_BOOT)
    store = caches.open()
    entry = await used(store, FILE)
    assert entry.at_hand(5, 1000) is None
    await entry.read(5, 1000)
    assert entry.at_hand(5, 1000) is not None
    await store.give_back(entry)


async def test_a_read_over_many_segments(store: Store) -> None:
    entry = await used(store, FILE)
    for start in range(0, SIZE, 10_000):
        assert await keep(store, entry, FILE, start, start + 10_000)
    assert await entry.read(0, SIZE) == FILE.data
    await store.give_back(entry)


async def test_a_short_read_is_completed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 999), offset))
    assert await entry.read(5, 10_000) == FILE.data[5:10_005]
    await store.give_back(entry)


async def test_a_file_that_was_cut_short_is_not_here(store: Store) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    os.truncate(entry.path, 1000)
    assert entry.at_hand(0, 2000) is None
    assert await entry.read(0, 2000) is None
    await store.give_back(entry)


@pytest.mark.parametrize("function", ["preadv", "pread"])
async def test_a_disk_that_cannot_read_is_no_cache_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch, warned: list[str], function: str
) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    monkeypatch.setattr(os, function, broken(errno.EIO))
    if function == "preadv":
        assert entry.at_hand(0, 100) is None
    else:
        assert await entry.read(0, 100) is None
    monkeypatch.undo()
    assert entry.stored.nbytes == 0
    assert entry.at_hand(0, 100) is None
    assert await entry.read(0, 100) is None
    assert warned == ["s:f cannot be read from the cache: Input/output error"]
    await store.give_back(entry)
    assert store.cached_bytes(FILE.file) == 0
    assert store.used == 0


async def test_what_is_emptied_during_a_read_is_not_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may have read zeros."""
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    stopped = Stopped(monkeypatch, os, "pread")
    found: list[bytes | None] = []

    async def read() -> None:
        found.append(await entry.read(0, 1000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await stopped.came.wait()
        entry.forget()
        await entry.empty()
        stopped.go()
    assert found == [None]
    await store.give_back(entry)


@pytest.mark.parametrize("is_doubtful", [False, True])
async def test_who_gives_up_reading_does_not_wait_for_the_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_doubtful: bool
) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    if is_doubtful:
        entry._doubtful.add(0)
    stopped = Stopped(monkeypatch, os, "pread")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(entry.read, 0, 1000)
            await stopped.came.wait()
            nursery.cancel_scope.cancel()
    stopped.go()
    assert await is_right(entry, FILE, [(0, 1000)])
    await store.give_back(entry)


async def test_an_entry_that_is_closed_reads_nothing(store: Store, tmp_path: Path) -> None:
    """Its descriptor is somebody else's by then."""
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 200_000)
    number = entry._fd
    await store.give_back(entry)
    (tmp_path / "other").write_bytes(bytes(SIZE))
    other = os.open(tmp_path / "other", os.O_RDWR)
    try:
        assert other == number
        assert entry.at_hand(0, 100) is None
        assert await entry.read(0, 100) is None
        assert not await entry.write(FILE.segment(200_000, SIZE), memoryview(FILE.data)[200_000:])
        entry.forget()
        await entry.empty()
        await entry.save()
        assert os.fstat(other).st_size == SIZE
        assert os.pread(other, 100, 0) == bytes(100)
    finally:
        os.close(other)
    again = await used(store, FILE)
    assert await is_right(again, FILE, [(0, 200_000)])
    await store.give_back(again)


# --- writing -------------------------------------------------------------------------------------


async def test_what_is_here_is_not_written_over(store: Store) -> None:
    """Another stream of the file may have got other bytes, and never come to compare them."""
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 100_000)
    bad = bytes(60_000)
    for start in (0, 50_000, 40_000):
        segment = Segment(start, start + len(bad), 1)
        is_here = start + len(bad) <= 100_000
        assert await store.keep(entry, segment, memoryview(bad)) is is_here
    assert await is_right(entry, FILE, [(0, 100_000)])
    assert entry.stored.missing(0, SIZE) == [(100_000, SIZE)]
    await store.give_back(entry)


async def test_writes_of_disjoint_ranges_run_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await used(store, FILE)
    stopped = Stopped(monkeypatch, os, "pwrite")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, store, entry, FILE, *THIRDS[0])
        await stopped.came.wait()
        assert await keep(store, entry, FILE, *THIRDS[1])
        assert not await keep(store, entry, FILE, 99_999, 200_001), "one is here, one is written"
        stopped.go()
    assert await is_right(entry, FILE, THIRDS[:2])
    assert entry.stored.nbytes == 200_000
    assert entry.occupied.data == os.fstat(entry._fd).st_blocks * 512
    await store.give_back(entry)


async def test_a_range_is_written_by_one_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two may have different bytes, and only one checksum would be known."""
    entry = await used(store, FILE)
    stopped = Stopped(monkeypatch, os, "pwrite")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, store, entry, FILE, *THIRDS[1])
        await stopped.came.wait()
        assert not await keep(store, entry, FILE, 99_000, 100_001)
        assert not await keep(store, entry, FILE, 199_999, 201_000)
        stopped.go()
    assert entry.stored.nbytes == 100_000
    await store.give_back(entry)


async def test_closing_and_emptying_wait_for_every_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for end in (Entry.empty, Entry.close):
        entry = await used(store, FILE)
        with monkeypatch.context() as patch:
            stopped = Stopped(patch, os, "pwrite", times=2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep, store, entry, FILE, *THIRDS[0])
                nursery.start_soon(keep, store, entry, FILE, *THIRDS[1])
                await stopped.came.wait()
                entry.forget()
                nursery.start_soon(end, entry)
                await wait_all_tasks_blocked()
                assert os.fstat(entry._direct.fd).st_size == SIZE, "its descriptor is open"
                stopped.go()
        assert entry.stored.nbytes == 0
        if end is Entry.empty:
            assert entry.occupied.nbytes == 0
            await store.give_back(entry)


async def test_a_write_in_pieces_is_completed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7000], offset))
    entry = await used(store, FILE)
    assert await keep(store, entry, FILE)
    assert await is_right(entry, FILE, [(0, SIZE)])
    await store.give_back(entry)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG])
async def test_what_cannot_be_written_is_not_here_but_takes_its_space(
    store: Store, monkeypatch: pytest.MonkeyPatch, warned: list[str], number: int
) -> None:
    pwrite = os.pwrite
    entry = await used(store, FILE)

    def half(fd: int, data: memoryview, offset: int) -> int:
        if offset:
            raise OSError(number, os.strerror(number))
        return pwrite(fd, data[:100_000], offset)

    monkeypatch.setattr(os, "pwrite", half)
    assert not await keep(store, entry, FILE)
    monkeypatch.undo()
    assert entry.stored.nbytes == 0
    assert await entry.read(0, 100) is None
    assert entry.occupied.data == os.stat(entry.path).st_blocks * 512 >= 98_304
    assert warned == [f"s:f is not kept in the cache: {os.strerror(number)}"]
    assert await keep(store, entry, FILE), "there is room again"
    assert await is_right(entry, FILE, [(0, SIZE)])
    await store.give_back(entry)


async def test_a_write_that_was_under_way_when_it_was_emptied_harms_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are the wrong ones; they must not land on the right ones that come after them."""
    entry = await used(store, FILE)
    stopped = Stopped(monkeypatch, os, "pwrite")
    results = []

    async def keep_wrong() -> None:
        bad = memoryview(bytes(100_000))
        results.append(await store.keep(entry, Segment(0, 100_000, 1), bad))

    async def keep_right() -> None:
        await entry.empty()
        results.append(await keep(store, entry, FILE, 0, 100_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_wrong)
        await stopped.came.wait()
        entry.forget()
        nursery.start_soon(keep_right)
        await stopped.alone()
        stopped.go()
    assert results == [False, True]
    assert await is_right(entry, FILE, [(0, 100_000)])
    assert entry.occupied.data == os.stat(entry.path).st_blocks * 512
    await store.give_back(entry)


async def test_between_forgetting_and_emptying_nothing_is_written(store: Store) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 1000)
    entry.forget()
    assert not await keep(store, entry, FILE, 0, 1000)
    await entry.empty()
    assert await keep(store, entry, FILE, 0, 1000)
    assert await is_right(entry, FILE, [(0, 1000)])
    await store.give_back(entry)


async def test_emptying_twice_empties_once(store: Store) -> None:
    """A stream and a user may both have it emptied, and new bytes come in between."""
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    entry.forget()
    entry.forget()
    await entry.empty()
    assert await keep(store, entry, FILE)
    await entry.empty()
    assert await is_right(entry, FILE, [(0, SIZE)])
    await store.give_back(entry)


async def test_emptying_that_fails_leaves_nothing_to_read_or_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    await entry.save()
    before = entry.occupied
    monkeypatch.setattr(os, "unlink", broken(errno.EROFS))
    entry.forget()
    await entry.empty()
    monkeypatch.undo()
    assert await entry.read(0, 100) is None
    assert not await keep(store, entry, FILE)
    assert entry.occupied == before, "nothing was given back"
    await entry.empty()
    assert await keep(store, entry, FILE)
    await store.give_back(entry)


# --- the whole file ------------------------------------------------------------------------------


async def test_it_is_whole_when_all_of_it_is_the_catalogues(store: Store) -> None:
    entry = await used(store, FILE)
    for start, end in THIRDS:
        assert not entry.is_whole
        await keep(store, entry, FILE, start, end)
    assert entry.is_whole
    await store.give_back(entry)
    again = await used(store, FILE)
    assert again.is_whole
    await store.give_back(again)


async def test_what_several_streams_made_up_and_is_wrong_is_thrown_out(
    store: Store, warned: list[str]
) -> None:
    """None of them has received all of it, so none could compare it."""
    entry = await used(store, FILE)
    bad = sample(seed=2)
    await keep(store, entry, FILE, 0, 100_000)
    await keep(store, entry, bad, 100_000, 200_000)
    assert not await keep(store, entry, FILE, 200_000, SIZE)
    assert entry.stored.nbytes == 0
    assert not is_whole(entry)
    assert entry.occupied.data < BLOCK
    assert len(warned) == 1
    assert FILE.file.adler32 is not None
    assert FILE.file.adler32 in warned[0]
    for start, end in THIRDS:
        assert await keep(store, entry, FILE, start, end)
    assert is_whole(entry)
    assert await is_right(entry, FILE, [(0, SIZE)])
    await store.give_back(entry)


async def test_without_a_checksum_it_is_never_whole(store: Store) -> None:
    what = FILE.without_checksum()
    entry = await used(store, what)
    await keep(store, entry, what)
    assert not entry.is_whole
    assert await is_right(entry, what, [(0, SIZE)])
    await store.give_back(entry)


async def test_a_part_of_what_was_compared_is_not_whole(store: Store) -> None:
    """What is fetched for the gap has to be compared again."""
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 200_000)
    entry.is_whole = entry.is_dirty = True  # as its stream says that has received all of it
    await store.give_back(entry)
    again = await used(store, FILE)
    assert not again.is_whole
    assert again.stored.nbytes == 200_000
    await store.give_back(again)


async def test_a_file_on_disk_that_is_whole_and_wrong_is_not_believed(
    store: Store, warned: list[str]
) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 200_000)
    await entry.save()
    await store.give_back(entry)
    path = map_of(entry.path)
    found = maps.read(path)
    assert found is not None
    wrong = Segment(200_000, SIZE, 7)
    segments = (*found.segments, wrong)
    file = FILE.file
    maps.write(
        path,
        maps.Map("s:f", SIZE, file.adler32, None, is_whole=True, boot=THIS_BOOT, segments=segments),
    )
    again = await used(store, FILE)
    assert again.stored.nbytes == 0
    assert await again.read(0, 100) is None
    assert len(warned) == 1
    await store.give_back(again)


# --- after another boot --------------------------------------------------------------------------


@pytest.fixture
async def doubtful(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`FILE`, of which two of three segments were written before this boot; the data."""
    monkeypatch.setattr("rucio_fs.diskcache.segments.LARGEST", 100_000)
    store = caches.open()
    await put(store, FILE, THIRDS[0], THIRDS[2])
    await caches.close(store)
    booted(monkeypatch, NEXT_BOOT)
    return store._path(FILE.key)


async def test_what_was_not_damaged_is_read(doubtful: Path, caches: Caches) -> None:
    store = caches.open()
    entry = await used(store, FILE)
    assert entry.at_hand(0, 1000) is None, "nothing is read before it is proved"
    assert not await is_proved(entry, FILE, 0, 1000)
    assert await is_proved(entry, FILE, 0, 1000)
    entry.path.read_bytes()  # all of it is in memory
    assert entry.at_hand(250_000, 1000) is None, "that has not been proved"
    assert await is_right(entry, FILE, [THIRDS[0], THIRDS[2]])
    await store.give_back(entry)


@pytest.mark.parametrize("place", [0, 99_999, 50_000])
async def test_what_was_damaged_is_not_here(
    doubtful: Path, caches: Caches, warned: list[str], place: int
) -> None:
    damage(doubtful, place)
    store = caches.open()
    entry = await used(store, FILE)
    assert await entry.read(10, 10) is None
    assert entry.at_hand(10, 10) is None
    assert entry.stored.missing(0, SIZE) == [(0, 200_000)]
    assert await is_right(entry, FILE, [THIRDS[2]])
    assert len(warned) == 1
    assert await keep(store, entry, FILE, 0, 200_000)
    assert await is_right(entry, FILE, [(0, SIZE)])
    await store.give_back(entry)


async def test_new_bytes_beside_doubtful_ones_do_not_vouch_for_them(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    """They become one segment, on either side."""
    store = caches.open()
    await put(store, FILE, (100_000, 150_000), (200_000, 250_000))
    await caches.close(store)
    booted(monkeypatch, NEXT_BOOT)
    path = store._path(FILE.key)
    damage(path, 120_000)
    damage(path, 220_000)
    store = caches.open()
    entry = await used(store, FILE)
    for start, end in [(50_000, 100_000), (150_000, 200_000), (250_000, 260_000)]:
        assert await keep(store, entry, FILE, start, end)
    for start in range(50_000, 260_000, 10_000):
        await is_right(entry, FILE, [(start, start + 10_000)])
    assert warned
    await store.give_back(entry)


@pytest.mark.parametrize("is_damaged", [True, False])
async def test_bytes_that_come_beside_what_is_just_being_proved(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, warned: list[str], is_damaged: bool
) -> None:
    store = caches.open()
    await put(store, FILE, (0, 50_000), (100_000, 150_000))
    await caches.close(store)
    booted(monkeypatch, NEXT_BOOT)
    damage(store._path(FILE.key), 120_000)
    if is_damaged:
        damage(store._path(FILE.key), 20_000)
    store = caches.open()
    entry = await used(store, FILE)
    stopped = Stopped(monkeypatch, os, "pread")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(entry.read, 0, 1000)
        await stopped.came.wait()
        assert await keep(store, entry, FILE, 50_000, 100_000)
        stopped.go()
    for start in range(0, 150_000, 10_000):
        await is_right(entry, FILE, [(start, start + 10_000)])
    assert warned
    await store.give_back(entry)


async def test_many_readers_prove_at_once(doubtful: Path, caches: Caches) -> None:
    store = caches.open()
    entry = await used(store, FILE)
    async with trio.open_nursery() as nursery:
        for start in range(0, 100_000, 5000):
            nursery.start_soon(is_right, entry, FILE, [(start, start + 5000)])
            nursery.start_soon(is_right, entry, FILE, [(200_000 + start, 205_000 + start)])
    assert entry.stored.nbytes == 200_000
    await store.give_back(entry)


@pytest.mark.parametrize("ends", ["closed", "killed"])
async def test_reading_a_part_of_it_does_not_lose_the_rest(
    doubtful: Path, caches: Caches, ends: str
) -> None:
    store = caches.open()
    entry = await used(store, FILE)
    assert await is_right(entry, FILE, [(0, 1000)])
    assert await keep(store, entry, FILE, *THIRDS[1])
    await store.give_back(entry)
    if ends == "closed":
        await caches.close(store)
    else:
        caches.kill(store)
    store = caches.open()
    assert store.cached_bytes(FILE.file) == SIZE
    entry = await used(store, FILE)
    assert await is_right(entry, FILE, [(0, SIZE)])
    await store.give_back(entry)


async def test_doubt_outlasts_further_starts(
    doubtful: Path, caches: Caches, warned: list[str]
) -> None:
    """What was not read in the first mount after the boot is proved in the second."""
    damage(doubtful, 250_000)
    store = caches.open()
    entry = await used(store, FILE)
    assert await is_right(entry, FILE, [THIRDS[0]])
    await store.give_back(entry)
    await caches.close(store)
    store = caches.open()
    entry = await used(store, FILE)
    assert await entry.read(250_000, 1) is None
    assert await is_right(entry, FILE, [THIRDS[0]])
    assert len(warned) == 1
    await store.give_back(entry)


async def test_what_was_proved_is_not_proved_again(doubtful: Path, caches: Caches) -> None:
    store = caches.open()
    entry = await used(store, FILE)
    assert await is_right(entry, FILE, [THIRDS[0], THIRDS[2]])
    await store.give_back(entry)
    await caches.close(store)
    store = caches.open()
    entry = await used(store, FILE)
    assert await is_proved(entry, FILE, 0, 1000)
    await store.give_back(entry)


async def test_where_boots_are_not_told_apart_everything_is_proved(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    booted(monkeypatch, "")
    store = caches.open()
    await put(store, FILE)
    await caches.close(store)
    damage(store._path(FILE.key), 5)
    store = caches.open()
    entry = await used(store, FILE)
    assert entry.at_hand(0, 100) is None
    assert await entry.read(0, 100) is None
    assert len(warned) == 1
    await store.give_back(entry)


async def test_within_a_boot_nothing_is_proved(caches: Caches) -> None:
    """That is what makes the second reading fast; `verify` is for those who want to know."""
    store = caches.open()
    await put(store, FILE)
    caches.kill(store)
    store = caches.open()
    entry = await used(store, FILE)
    assert await is_proved(entry, FILE, 0, 1000)
    await store.give_back(entry)


# --- the map -------------------------------------------------------------------------------------


async def test_two_saves_at_once_leave_the_later_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 1000)
    stopped = Stopped(monkeypatch, os, "replace")

    async def keep_and_save() -> None:
        await keep(store, entry, FILE, 5000, 6000)
        await entry.save()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(entry.save)
        await stopped.came.wait()
        nursery.start_soon(keep_and_save)
        await stopped.alone()
        assert stopped.calls == 1, "the file that is being written is one"
        stopped.go()
    found = maps.read(map_of(entry.path))
    assert found is not None
    assert sum(one.end - one.start for one in found.segments) == 2000
    await store.give_back(entry)


async def test_a_save_under_way_does_not_outlive_the_bytes(
    store: Store, caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that comes after its data were emptied would name zeros."""
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 1000)
    stopped = Stopped(monkeypatch, maps, "write")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(entry.save)
        await stopped.came.wait()
        entry.forget()
        nursery.start_soon(entry.empty)
        await stopped.alone()
        stopped.go()
    caches.kill(store)
    again = caches.open()
    entry = await used(again, FILE)
    assert await entry.read(0, 1000) is None
    await again.give_back(entry)


async def test_nothing_new_is_not_saved(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    await entry.save()
    monkeypatch.setattr(maps, "write", broken(errno.EIO))
    await entry.save()
    await store.give_back(entry)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
async def test_a_map_that_cannot_be_saved_costs_the_next_mount_the_file(
    store: Store, caches: Caches, monkeypatch: pytest.MonkeyPatch, warned: list[str], number: int
) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    monkeypatch.setattr(os, "replace", broken(number))
    await entry.save()
    monkeypatch.undo()
    assert await is_right(entry, FILE, [(0, SIZE)]), "this mount has it"
    assert len(warned) == 1
    assert os.strerror(number) in warned[0]
    assert ".new" not in " ".join(os.listdir(entry.path.parent))
    caches.kill(store)
    assert caches.open().cached_bytes(FILE.file) == 0


async def test_a_map_that_cannot_be_saved_is_saved_later(
    store: Store, caches: Caches, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken(errno.ENOSPC))
        for _ in range(3):
            await entry.save()
    assert len(warned) == 1, "it is told once"
    await entry.save()
    caches.kill(store)
    assert caches.open().cached_bytes(FILE.file) == SIZE


async def test_a_map_that_names_what_is_damaged_does_not_outlast_that(
    store: Store, caches: Caches, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    """Also where there is no room for another one, and the mount is killed then."""
    await put(store, FILE, (0, 100_000), (200_000, SIZE))
    entry = await used(store, FILE)
    damage(entry.path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(maps, "write", broken(errno.ENOSPC))
        assert await entry.prove() == 100_000
    assert await is_right(entry, FILE, [(200_000, SIZE)]), "this mount has the rest"
    caches.kill(store)
    store = caches.open()
    entry = await used(store, FILE)
    assert await right_bytes(entry, FILE) == 0
    await store.give_back(entry)
    assert len(warned) == 2


async def test_closing_waits_for_who_changes_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that is closed under a thread may be another file's when it is emptied."""
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    stopped = Stopped(monkeypatch, os, "ftruncate")
    entry.forget()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(entry.empty)
        await stopped.came.wait()
        nursery.start_soon(store.give_back, entry)
        await stopped.alone()
        os.fstat(entry._fd)
        stopped.go()
    await settled(entry)
    assert store.used == 0


# --- verification --------------------------------------------------------------------------------


async def test_proving_finds_each_damaged_segment(
    store: Store, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    monkeypatch.setattr("rucio_fs.diskcache.segments.LARGEST", 50_000)
    entry = await used(store, FILE)
    for start in range(0, SIZE, 50_000):
        await keep(store, entry, FILE, start, start + 50_000)
    assert is_whole(entry)
    assert await entry.prove() == 0
    damage(entry.path, 10)
    damage(entry.path, 299_999)
    assert await entry.prove() == 100_000
    assert entry.stored.missing(0, SIZE) == [(0, 50_000), (250_000, SIZE)]
    assert not is_whole(entry)
    assert len(warned) == 2
    assert await right_bytes(entry, FILE) == 200_000
    await store.give_back(entry)
    again = await used(store, FILE)
    assert again.stored.nbytes == 200_000
    await store.give_back(again)


async def test_proving_what_cannot_be_read_drops_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    monkeypatch.setattr(os, "pread", broken(errno.EIO))
    assert await entry.prove() == SIZE
    monkeypatch.undo()
    assert entry.stored.nbytes == 0
    assert len(warned) == 1
    await store.give_back(entry)
    assert store.used == 0


async def test_space_is_what_the_disk_says(store: Store) -> None:
    entry = await used(store, FILE)
    assert entry.occupied.nbytes == 0
    await keep(store, entry, FILE, 0, 64 * KIB)
    assert entry.occupied.data == 64 * KIB
    assert entry.occupied.map >= BLOCK, "it will be saved, and that was promised when it was kept"
    await entry.save()
    assert entry.occupied.nbytes == 64 * KIB + BLOCK
    entry.forget()
    await entry.empty()
    assert entry.occupied.nbytes == 0
    await store.give_back(entry)


async def test_threads_of_the_cache_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    running = 0

    def hang() -> None:
        nonlocal running
        running += 1
        stopped.wait(timeout=60)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(in_thread, hang)
        await wait_all_tasks_blocked()
        while running < 8:
            await trio.lowlevel.checkpoint()
        assert running == 8
        stopped.set()
    assert running == 20


def test_its_name_is_its_did(store: Store) -> None:
    fd = os.open(store.directory, os.O_RDONLY)
    entry = Entry(store.directory, FILE.file, fd, None)
    assert "s:f" in repr(entry)
    os.close(fd)
