"""The cache directory: limits kept, nothing open evicted, one process at a time, nobody's files."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rucio_fs.diskcache import maps, threads
from rucio_fs.diskcache import store as store_module
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import UsageError
from tests.unit.diskcache.conftest import (
    BLOCK,
    KIB,
    MIB,
    NEXT_BOOT,
    SIZE,
    Caches,
    Sample,
    booted,
    damage,
    files,
    is_proved,
    is_right,
    keep,
    map_of,
    on_disk,
    put,
    sample,
    used,
)
from tests.unit.diskcache.test_entry import Stopped, broken

FILE = sample()
SPARE = store_module._OVERHEAD


def several(count: int, size: int = MIB) -> list[Sample]:
    return [sample(f"f{number}", size, number) for number in range(count)]


def here(store: Store, samples: list[Sample]) -> list[int]:
    """Which of them are here, all of each."""
    return [
        number
        for number, one in enumerate(samples)
        if store.cached_bytes(one.file) == len(one.data)
    ]


# --- use and keep ----------------------------------------------------------------------------


async def test_what_is_kept_is_there_for_the_next_use(store: Store) -> None:
    await put(store, FILE, (0, 1000), (5000, SIZE))
    assert store.cached_bytes(FILE.file) == SIZE - 4000
    entry = await used(store, FILE)
    assert await is_right(entry, FILE, [(0, 1000), (5000, SIZE)])
    assert store.cached_bytes(FILE.file) == SIZE - 4000
    await store.give_back(entry)


async def test_all_who_use_a_file_share_its_entry(store: Store) -> None:
    entries = []

    async def use() -> None:
        entries.append(await used(store, FILE))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(use)
    assert len({id(entry) for entry in entries}) == 1
    assert await keep(store, entries[0], FILE)
    for entry in entries[:4]:
        await store.give_back(entry)
        assert await is_right(entries[4], FILE, [(0, SIZE)])
    await store.give_back(entries[4])
    assert store.status()["open"] == 0
    assert store.status()["files"] == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"size": SIZE + 1},
        {"adler32": "00000001"},
        {"adler32": None},
        {"md5": "d41d8cd98f00b204e9800998ecf8427e"},
        {"did": FILE.file.did._replace(name="g")},
        {"did": FILE.file.did._replace(scope="t")},
    ],
    ids=repr,
)
async def test_another_size_checksum_or_name_is_another_file(
    store: Store, changed: dict[str, Any]
) -> None:
    await put(store, FILE)
    other = replace(FILE.file, **changed)
    assert store.cached_bytes(other) == 0
    entry = await store.use(other)
    assert entry is not None
    assert await entry.read(0, 100) is None
    await store.give_back(entry)
    assert store.cached_bytes(FILE.file) == SIZE


async def test_where_a_file_is_does_not_matter(store: Store) -> None:
    await put(store, FILE)
    assert store.cached_bytes(replace(FILE.file, states={"COLO": "AVAILABLE"})) == SIZE


async def test_names_do_not_run_into_each_other(store: Store) -> None:
    """Only their list tells s:a / b from s / a:b."""
    one = sample("a:b")
    other = Sample(replace(one.file, did=one.file.did._replace(scope="s:a", name="b")), one.data)
    assert one.key != other.key


async def test_a_file_that_was_only_looked_at_leaves_nothing(store: Store) -> None:
    entry = await used(store, FILE)
    assert entry.path.exists()
    await store.give_back(entry)
    assert files(store.directory) == set()
    assert store.status()["files"] == 0
    assert store.used == 0


@pytest.mark.parametrize("function", ["open", "ftruncate", "fstat"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EFBIG])
async def test_a_file_that_cannot_be_opened_is_read_without_the_cache(
    store: Store, monkeypatch: pytest.MonkeyPatch, warned: list[str], function: str, number: int
) -> None:
    monkeypatch.setattr(os, function, broken(number))
    assert await store.use(FILE.file) is None
    monkeypatch.undo()
    assert warned == [f"s:f is read without the cache: {os.strerror(number)}"]
    assert store.used == 0
    assert not [fd for fd in _targets() if FILE.key in fd]
    await put(store, FILE)


@pytest.mark.parametrize("function", ["open", "fstat"])
async def test_one_that_cannot_be_opened_for_a_while_goes_on_to_count(
    store: Store, monkeypatch: pytest.MonkeyPatch, warned: list[str], function: str
) -> None:
    """It takes its space, and can be evicted."""
    await put(store, FILE)
    before = store.used
    monkeypatch.setattr(os, function, broken(errno.EMFILE))
    assert await store.use(FILE.file) is None
    monkeypatch.undo()
    assert store.used == before
    assert store.cached_bytes(FILE.file) == SIZE
    entry = await used(store, FILE)
    assert await is_right(entry, FILE, [(0, SIZE)])
    await store.give_back(entry)
    await store.clear()
    assert store.used == 0
    assert files(store.directory) == set()
    assert warned


async def test_whoever_gives_up_opening_leaves_the_file_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, FILE)
    before = store.used
    monkeypatch.setattr("rucio_fs.diskcache.threads._threads", limiter := trio.CapacityLimiter(1))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            limiter.acquire_on_behalf_of_nowait(nursery)  # all threads hang
            nursery.start_soon(store.use, FILE.file)
            await wait_all_tasks_blocked()
            assert store.used == before
            scope.cancel()
    assert store.used == before
    assert store.cached_bytes(FILE.file) == SIZE


async def test_what_is_being_opened_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(store, FILE)
    before = store.used
    stopped = Stopped(monkeypatch, maps, "read")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.use, FILE.file)
        await stopped.came.wait()
        assert store.used >= before
        stopped.go()
    assert store.used == before
    await store.give_back(store._open[FILE.key])


async def test_whoever_gives_up_giving_back_has_given_back(store: Store) -> None:
    entry = await used(store, FILE)
    await keep(store, entry, FILE)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.give_back(entry)
    assert store.status()["open"] == 0
    assert store.cached_bytes(FILE.file) == SIZE


def _targets() -> list[str]:
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in _fds()]


def _fds() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


# --- limits ----------------------------------------------------------------------------------


async def test_the_longest_unused_goes_first(caches: Caches) -> None:
    samples = several(6)
    store = caches.open(4 * MIB + 4 * BLOCK + SPARE)
    for one in samples[:4]:
        await put(store, one)
    await store.give_back(await used(store, samples[0]))
    await put(store, samples[4])
    assert here(store, samples) == [0, 2, 3, 4]
    await put(store, samples[5])
    assert here(store, samples) == [0, 3, 4, 5]
    assert store.evicted == 2


async def test_no_more_goes_than_has_to(caches: Caches) -> None:
    """Also when several files need room at once."""
    large, *samples = sample("large", 4 * MIB), *several(6)
    store = caches.open(7 * MIB + 10 * BLOCK + 4 * SPARE)
    for one in (large, *samples[:3]):
        await put(store, one)
    async with trio.open_nursery() as nursery:
        for one in samples[3:]:
            nursery.start_soon(put, store, one)
    assert here(store, samples) == [0, 1, 2, 3, 4, 5]
    assert store.evicted == 1


async def test_what_is_open_stays(caches: Caches) -> None:
    samples = several(3)
    store = caches.open(2 * MIB + 4 * BLOCK + SPARE)
    entries = [await used(store, one) for one in samples[:2]]
    for entry, one in zip(entries, samples, strict=False):
        assert await keep(store, entry, one)
    third = await used(store, samples[2])
    assert not await keep(store, third, samples[2])
    assert store.refused == 1
    for entry, one in zip(entries, samples, strict=False):
        assert await is_right(entry, one, [(0, MIB)])
    await store.give_back(entries[0])
    assert await keep(store, third, samples[2])
    assert here(store, samples) == [1, 2]
    for entry in (entries[1], third):
        await store.give_back(entry)


async def test_what_cannot_fit_drives_nobody_out(caches: Caches) -> None:
    samples = several(3)
    store = caches.open(4 * MIB)
    for one in samples:
        await put(store, one)
    large = sample("large", 5 * MIB)
    entry = await used(store, large)
    assert not await keep(store, entry, large)
    assert here(store, samples) == [0, 1, 2]
    assert await keep(store, entry, large, 0, 2 * MIB)
    assert not await keep(store, entry, large, 2 * MIB, 5 * MIB)
    assert here(store, samples) == [2]
    await store.give_back(entry)


@pytest.mark.parametrize("limit", [0, 1, BLOCK, SPARE])
async def test_a_limit_too_small_for_anything(caches: Caches, limit: int) -> None:
    store = caches.open(limit)
    entry = await used(store, FILE)
    assert not await keep(store, entry, FILE, 0, 1)
    await store.give_back(entry)
    assert store.used == 0


async def test_writes_that_come_together_keep_the_limit(caches: Caches) -> None:
    """Each is promised its room before it writes."""
    store = caches.open(2 * MIB)
    large = sample("large", 16 * MIB)
    entry = await used(store, large)
    most = 0
    kept = []

    async def one(start: int) -> None:
        nonlocal most
        kept.append(await keep(store, entry, large, start, start + 256 * KIB))
        most = max(most, store.used, on_disk(store.directory))

    async with trio.open_nursery() as nursery:
        for start in range(0, 16 * MIB, 256 * KIB):
            nursery.start_soon(one, start)
    assert most <= 2 * MIB
    assert kept.count(True) >= 4
    assert entry.stored.nbytes == kept.count(True) * 256 * KIB
    await store.give_back(entry)


async def test_maps_count_before_they_are_written(caches: Caches) -> None:
    """Many small files, open at once: each is promised its map."""
    limit = 512 * KIB
    store = caches.open(limit)
    samples = several(80, BLOCK)
    entries = [await used(store, one) for one in samples]
    for entry, one in zip(entries, samples, strict=True):
        await keep(store, entry, one)
        assert store.used <= limit
    for entry in entries:
        await entry.save()
        assert store.used <= limit
        assert on_disk(store.directory) <= limit
    for entry in entries:
        await store.give_back(entry)
    assert store.refused > 0


async def test_large_maps_count(caches: Caches) -> None:
    """A reader that jumps leaves a segment for every block it reads."""
    limit = 3 * MIB
    large = sample("large", 16 * MIB)
    store = caches.open(limit)
    entry = await used(store, large)
    for start in range(0, 16 * MIB, 2 * BLOCK):
        await keep(store, entry, large, start, start + 512)
    await entry.save()
    assert entry.occupied.map > 4 * BLOCK
    assert on_disk(store.directory) <= store.used + BLOCK <= limit + BLOCK  # + the lock
    await store.give_back(entry)


async def test_space_is_left_to_others(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    store = caches.open(100 * MIB, min_free=10 * MIB)
    samples = several(4)
    disk = 14 * MIB + 4 * SPARE
    others = 0

    def statvfs(path: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=disk - others - on_disk(store.directory), f_frsize=1)

    monkeypatch.setattr(os, "statvfs", statvfs)
    for one in samples:
        await put(store, one)
    assert here(store, samples) == [0, 1, 2, 3]
    others = MIB
    await put(store, sample("extra", 64 * KIB))
    assert here(store, samples) == [1, 2, 3]
    assert disk - others - on_disk(store.directory) >= 10 * MIB
    others = 5 * MIB
    entry = await used(store, FILE)
    assert not await keep(store, entry, FILE)
    assert here(store, samples) == [], "others need the space"
    await store.give_back(entry)


async def test_what_is_about_to_be_written_is_not_free(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = caches.open(100 * MIB, min_free=MIB)
    large = sample("large", 4 * MIB)
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_bavail=2 * MIB + 2 * SPARE, f_frsize=1)
    )
    entry = await used(store, large)
    stopped = Stopped(monkeypatch, os, "pwrite")
    kept = []

    async def first() -> None:
        kept.append(await keep(store, entry, large, 0, MIB))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await stopped.came.wait()
        assert not await keep(store, entry, large, 2 * MIB, 3 * MIB)
        stopped.go()
    assert kept == [True]
    await store.give_back(entry)


async def test_a_disk_that_does_not_say_how_full_it_is_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", broken(errno.EIO))
    entry = await used(store, FILE)
    assert not await keep(store, entry, FILE)
    await store.give_back(entry)


async def test_a_smaller_limit_than_last_time_is_kept_at_once(
    caches: Caches, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """To the byte: two files, their maps and the lock."""
    samples = several(5)
    store = caches.open()
    for one in samples:
        await put(store, one)
    await caches.close(store)
    limit = 2 * MIB + 3 * BLOCK
    store = caches.open(limit)
    nursery.start_soon(store.run)
    # What is not here any more may still be being removed by a thread.
    while here(store, samples) != [3, 4] or on_disk(store.directory) > limit:
        await trio.testing.wait_all_tasks_blocked()
    await caches.close(store)
    store = caches.open(limit - 1)
    nursery.start_soon(store.run)
    while here(store, samples) != [4]:
        await trio.testing.wait_all_tasks_blocked()


async def test_what_fails_to_be_written_gives_its_promise_back(
    store: Store, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    entry = await used(store, FILE)
    monkeypatch.setattr(os, "pwrite", broken(errno.ENOSPC))
    for _ in range(5):
        assert not await keep(store, entry, FILE)
    assert store._reserved == 0
    assert len(warned) == 5
    await store.give_back(entry)
    assert store.used == 0


async def test_whoever_gives_up_keeping_gives_its_promise_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await used(store, FILE)
    stopped = Stopped(monkeypatch, os, "pwrite")
    monkeypatch.setattr(threads._threads, "total_tokens", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, store, entry, FILE, 0, 1000)
        await stopped.came.wait()
        nursery.start_soon(keep, store, entry, FILE, 1000, 2000)  # waits for a thread
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        stopped.go()
    assert store._reserved == 0
    assert await is_right(entry, FILE, [(0, 1000)])
    assert entry.stored.nbytes == 1000
    await store.give_back(entry)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EPERM])
async def test_what_cannot_be_deleted_goes_on_to_count(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, warned: list[str], number: int
) -> None:
    """And nobody hears of it but the log: a disk that is read-only must not end the mount."""
    samples = several(4)
    store = caches.open(3 * MIB + 4 * BLOCK)
    for one in samples[:2]:
        await put(store, one)
    entry = await used(store, samples[2])
    monkeypatch.setattr(os, "unlink", broken(number))
    before = store.used
    assert not await keep(store, entry, samples[2])
    await store.give_back(entry)
    await store.clear()
    assert store.used == before
    assert all(os.strerror(number) in line for line in warned)
    assert len(warned) == 3
    monkeypatch.undo()
    await caches.close(store)
    assert here(caches.open(), samples) == [0, 1], "the next mount has them"


async def test_a_file_that_is_opened_while_it_is_being_evicted_is_not(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = several(3)
    store = caches.open(2 * MIB + 4 * BLOCK + SPARE)
    for one in samples[:2]:
        await put(store, one)
    stopped = Stopped(monkeypatch, maps, "read")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.use, samples[0].file)
        await stopped.came.wait()
        nursery.start_soon(put, store, samples[2])
        await stopped.alone()
        stopped.go()
    entry = store._open[samples[0].key]
    assert await is_right(entry, samples[0], [(0, MIB)])
    assert os.fstat(entry._fd).st_nlink == 1
    assert here(store, samples) == [0, 2]
    await store.give_back(entry)
    assert store.used == sum(one.occupied.nbytes for one in store._resting.values())
    assert store.used <= store.limit


async def test_a_file_that_was_used_while_it_waited_to_be_evicted_is_not(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened and closed again before whoever evicts it gets at it."""
    store = caches.open()
    await put(store, FILE)
    lock = store._lock_of(FILE.key)
    resting = store._resting.pop(FILE.key)
    async with trio.open_nursery() as nursery:
        await lock.acquire()
        nursery.start_soon(_use_and_give_back, store)
        await wait_all_tasks_blocked()
        nursery.start_soon(store._remove, FILE.key, resting)
        await wait_all_tasks_blocked()
        lock.release()
    assert store.cached_bytes(FILE.file) == SIZE
    entry = await used(store, FILE)
    assert await is_right(entry, FILE, [(0, SIZE)])
    await store.give_back(entry)
    assert store.used == store._resting[FILE.key].occupied.nbytes


async def _use_and_give_back(store: Store) -> None:
    entry = await store.use(FILE.file)
    assert entry is not None
    # What waits for the lock is next; give_back would come after it otherwise.
    entry.users -= 1
    await entry.close()
    del store._open[FILE.key]
    store._rest(FILE.key, store_module._Resting(entry.path, entry.occupied, SIZE))


async def test_giving_back_and_opening_at_once(store: Store) -> None:
    for _ in range(30):
        entry = await used(store, FILE)
        await keep(store, entry, FILE, 0, 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.give_back, entry)
            nursery.start_soon(store.use, FILE.file)
        again = store._open[FILE.key]
        assert await is_right(again, FILE, [(0, 1000)])
        await store.give_back(again)
        assert store.status()["open"] == 0


# --- restarts --------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["closed", "killed"])
async def test_the_next_mount_has_what_rests(caches: Caches, ends: str) -> None:
    samples = several(3)
    store = caches.open()
    for one in samples:
        await put(store, one, (0, 1000), (500_000, MIB))
    before = store.used
    if ends == "closed":
        await caches.close(store)
    else:
        caches.kill(store)
    store = caches.open()
    assert store.used == before
    assert store.status()["files"] == 3
    for one in samples:
        assert store.cached_bytes(one.file) == 1000 + MIB - 500_000
        entry = await used(store, one)
        assert await is_right(entry, one, [(0, 1000), (500_000, MIB)])
        await store.give_back(entry)


async def test_what_is_open_at_the_end_is_saved(caches: Caches) -> None:
    store = caches.open()
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 1000)
    await caches.close(store)
    assert await entry.read(0, 1000) is None, "its descriptor is closed"
    assert entry.at_hand(0, 1000) is None
    assert caches.open().cached_bytes(FILE.file) == 1000


async def test_what_was_fetched_more_than_a_few_seconds_ago_outlives_a_crash(
    caches: Caches, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    autojump_clock.autojump_threshold = float("inf")
    store = caches.open()
    nursery.start_soon(store.run)
    entry = await used(store, FILE)
    await keep(store, entry, FILE, 0, 1000)
    await wait_all_tasks_blocked()
    autojump_clock.jump(5.0)
    while entry.is_dirty or entry._changing.locked():
        await trio.lowlevel.checkpoint()
    await keep(store, entry, FILE, 1000, 2000)
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        caches.kill(store)
        store = caches.open()
        assert store.cached_bytes(FILE.file) == 1000
        entry = await used(store, FILE)
        assert await is_right(entry, FILE, [(0, 1000)])
        assert await entry.read(1000, 1000) is None
        await store.give_back(entry)


async def test_the_order_of_use_outlasts_a_restart(caches: Caches) -> None:
    samples = several(4)
    store = caches.open()
    for one in samples:
        await put(store, one)
    long = await used(store, samples[1])
    await store.give_back(await used(store, samples[3]))
    await store.give_back(await used(store, samples[0]))
    await store.give_back(long)  # opened before the others, but closed after them
    order = list(store._resting)
    assert order == [samples[number].key for number in (2, 3, 0, 1)]
    await caches.close(store)
    store = caches.open(2 * MIB + 4 * BLOCK)
    assert list(store._resting) == order
    await store._evict(0)
    assert here(store, samples) == [0, 1]


async def test_leftovers_are_removed(caches: Caches) -> None:
    samples = several(5, 10_000)
    store = caches.open()
    for one in samples:
        await put(store, one)
    paths = [store._path(one.key) for one in samples]
    await caches.close(store)
    map_of(paths[0]).unlink()  # data without a map
    paths[1].unlink()  # a map without data
    map_of(paths[2]).with_suffix(".map.new").write_bytes(b"half a map")
    map_of(paths[3]).write_bytes(b"garbage")
    store = caches.open()
    assert here(store, samples) == [2, 4]
    left = {paths[2].name, paths[4].name}
    assert files(store.directory) == left | {f"{name}.map" for name in left}
    assert store.used == on_disk(store.directory) - on_disk_of(store.directory / "lock")


def on_disk_of(path: Path) -> int:
    return path.stat().st_blocks * 512


async def test_a_map_of_another_file_is_not_believed(caches: Caches) -> None:
    first, second = several(2, 10_000)
    store = caches.open()
    await put(store, first)
    await put(store, second)
    paths = [store._path(one.key) for one in (first, second)]
    await caches.close(store)
    map_of(paths[0]).write_bytes(map_of(paths[1]).read_bytes())
    store = caches.open()
    assert here(store, [first, second]) == [1]
    assert first.key not in files(store.directory)


@pytest.mark.parametrize("size", [0, 100, SIZE - 1, SIZE + 1])
async def test_data_of_another_size_are_not_believed_not_even_after_a_crash(
    caches: Caches, size: int
) -> None:
    store = caches.open()
    await put(store, FILE)
    await caches.close(store)
    os.truncate(store._path(FILE.key), size)
    for _ in range(2):
        store = caches.open()
        entry = await used(store, FILE)
        assert await entry.read(0, 100) is None
        caches.kill(store)  # the data have their size back: nothing may name them


async def test_other_peoples_files_are_left_alone(caches: Caches) -> None:
    """Whoever names his home as the cache directory keeps his two-letter directories."""
    store = caches.open()
    await put(store, FILE)
    await caches.close(store)
    mine = [
        caches.directory / name
        for name in ("cv/letter.txt", "de/notes.map", "de/x.new", FILE.key[:2] + "/y", "top.new")
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (caches.directory / "cv" / ("a" * 40)).write_text("mine")  # not the directory for that
    (caches.directory / FILE.key[:2] / "sub").mkdir()
    store = caches.open()
    assert store.cached_bytes(FILE.file) == SIZE
    await store.clear()
    await caches.close(store)
    assert all(path.read_text() == "mine" for path in mine)
    assert (caches.directory / "cv" / ("a" * 40)).exists()
    assert FILE.key not in files(caches.directory)


# --- the lock --------------------------------------------------------------------------------


def refusal(directory: Path) -> str:
    with pytest.raises(UsageError) as caught:
        Store.open(directory, MIB, 0)
    message = str(caught.value)
    assert str(directory) in message
    assert "\n" not in message
    return message


async def test_a_second_mount_is_told_who_has_it(store: Store) -> None:
    await put(store, FILE)
    message = refusal(store.directory)
    assert str(os.getpid()) in message
    assert "diskcache.dir" in message
    assert store.cached_bytes(FILE.file) == SIZE
    assert FILE.key in files(store.directory)


async def test_another_process_is_told(store: Store) -> None:
    script = (
        "import sys, pathlib\n"
        "from rucio_fs.diskcache.store import Store\n"
        "Store.open(pathlib.Path(sys.argv[1]), 1, 0)\n"
    )
    code = [os.sys.executable, "-c", script, str(store.directory)]  # type: ignore[attr-defined]
    done = await trio.run_process(code, capture_stderr=True, check=False)
    assert done.returncode != 0
    last = done.stderr.decode().splitlines()[-1]
    assert "UsageError" in last
    assert str(store.directory) in last


async def test_after_a_mount_has_ended_another_has_it(caches: Caches) -> None:
    for end in (caches.close, caches.kill):
        store = caches.open()
        refusal(caches.directory)
        ended = end(store)
        if ended is not None:
            await ended
    caches.open()


def test_a_refused_mount_keeps_no_descriptor(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "cache", MIB, 0)
    before = _fds()
    refusal(tmp_path / "cache")
    assert len(_fds()) == len(before)
    os.close(store._lock)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "open", broken(number))
    assert os.strerror(number) in refusal(tmp_path / "cache")


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert "exists" in refusal(tmp_path / "cache")


def test_a_filesystem_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", broken(errno.ENOLCK))
    message = refusal(tmp_path / "cache")
    assert os.strerror(errno.ENOLCK) in message
    assert "is used by" not in message


async def test_a_directory_that_cannot_be_read(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = caches.open()
    await put(store, FILE)
    await caches.close(store)
    monkeypatch.setattr(Path, "iterdir", broken(errno.EIO))
    assert os.strerror(errno.EIO) in refusal(caches.directory)
    monkeypatch.undo()
    caches.open()


def test_a_full_disk_does_not_stop_the_mount(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", broken(errno.ENOSPC))
    store = caches.open()
    monkeypatch.undo()
    assert "another process" in refusal(store.directory)


# --- clearing and verifying --------------------------------------------------------------------


async def test_clearing_forgets_everything(store: Store) -> None:
    samples = several(4)
    for one in samples:
        await put(store, one)
    entries = [await used(store, one) for one in samples[:2]]
    await store.clear()
    assert store.used < BLOCK
    assert here(store, samples) == []
    for entry, one in zip(entries, samples, strict=False):
        assert entry.at_hand(0, 100) is None
        assert await entry.read(0, 100) is None
        assert await keep(store, entry, one, 0, 1000), "they go on"
        assert await is_right(entry, one, [(0, 1000)])
        await store.give_back(entry)
    assert store.status()["files"] == 2


async def test_clearing_what_is_read_and_written_meanwhile(store: Store) -> None:
    samples = several(3)
    for one in samples:
        await put(store, one)
    entries = [await used(store, one) for one in samples]
    cleared = trio.Event()

    async def read(number: int) -> None:
        while not cleared.is_set():
            entry, one = entries[number], samples[number]
            for start in range(0, MIB, 128 * KIB):
                await is_right(entry, one, [(start, start + 128 * KIB)])
                await keep(store, entry, one, start, start + 128 * KIB)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(read, number)
            nursery.start_soon(read, number)
        for _ in range(20):
            async with trio.open_nursery() as both:
                both.start_soon(store.clear)
                both.start_soon(store.clear)
        cleared.set()
    for entry, one in zip(entries, samples, strict=True):
        for start, end, _ in list(entry.stored):
            assert await is_right(entry, one, [(start, end)])
        assert await is_right(entry, one, [(0, 0)])
        await store.give_back(entry)


async def test_clearing_forgets_also_what_is_just_being_opened(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, FILE)
    stopped = Stopped(monkeypatch, maps, "read")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.use, FILE.file)
        await stopped.came.wait()
        nursery.start_soon(store.clear)
        await stopped.alone()
        stopped.go()
    entry = store._open[FILE.key]
    assert entry.stored.nbytes == 0
    assert await entry.read(0, 100) is None
    await store.give_back(entry)
    assert store.used == 0


async def test_verifying_finds_a_flipped_bit(store: Store, warned: list[str]) -> None:
    samples = several(4)
    for one in samples:
        await put(store, one)
    damage(store._path(samples[1].key), 777)
    entry = await used(store, samples[2])
    damage(entry.path, 5)
    await store.verify()
    status = store.status()["verification"]
    assert status == {
        "files": 4,
        "done": 4,
        "bytes": 4 * MIB,
        "damaged_bytes": 2 * MIB,
        "is_running": False,
    }
    assert here(store, samples) == [0, 3]
    assert await entry.read(0, 100) is None
    assert len(warned) == 2
    await store.give_back(entry)
    assert files(store.directory) == {
        name for number in (0, 3) for name in (samples[number].key, f"{samples[number].key}.map")
    }


async def test_verifying_does_not_change_who_goes_first(store: Store) -> None:
    samples = several(4, 10_000)
    for one in samples:
        await put(store, one)
    order = list(store._resting)
    await store.verify()
    assert list(store._resting) == order
    assert store.status()["verification"]["damaged_bytes"] == 0


async def test_verifying_while_files_come_and_go(caches: Caches) -> None:
    samples = several(8)
    store = caches.open(4 * MIB + 8 * BLOCK + SPARE)
    for one in samples[:4]:
        await put(store, one)

    async def come(one: Sample) -> None:
        entry = await used(store, one)
        await keep(store, entry, one)  # there may be no room while all are verified
        await is_right(entry, one, [(0, MIB)])
        await store.give_back(entry)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(store.verify)
        for one in samples[4:]:
            nursery.start_soon(come, one)
        nursery.start_soon(store.clear)
    assert store.status()["open"] == 0
    assert store.used <= store.limit
    assert on_disk(store.directory) <= store.limit + BLOCK


async def test_verifying_after_another_boot_ends_the_doubt(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = caches.open()
    await put(store, FILE)
    await caches.close(store)
    booted(monkeypatch, NEXT_BOOT)
    store = caches.open()
    await store.verify()
    entry = await used(store, FILE)
    assert await is_proved(entry, FILE, 0, 100)
    await store.give_back(entry)


async def test_its_numbers(store: Store) -> None:
    await put(store, FILE)
    status = store.status()
    assert status["directory"] == str(store.directory)
    assert status["bytes"] == store.used > SIZE
    assert status["limit"] == 100 * MIB
    assert status["verification"] is None
    assert str(store.directory) in repr(store)


# --- a disk that is really full ----------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_full_disk_costs_nothing_but_the_cache(small_disk: Path, warned: list[str]) -> None:
    caches = Caches(small_disk / "cache")
    store = caches.open()
    samples = several(3)
    entries = [await used(store, one) for one in samples]
    for entry, one in zip(entries, samples, strict=True):
        for start in range(0, MIB, 256 * KIB):
            await keep(store, entry, one, start, start + 256 * KIB)
    assert store.refused > 0, "it is noticed before"
    (small_disk / "others").write_bytes(bytes(int(os.statvfs(small_disk).f_bavail) * BLOCK))
    for entry, one in zip(entries, samples, strict=True):
        for start in range(0, MIB, 64 * KIB):
            await is_right(entry, one, [(start, start + 64 * KIB)])
        await store.give_back(entry)
    caches.kill(store)
    store = caches.open()
    for one in samples:
        entry = await used(store, one)
        for start in range(0, MIB, 64 * KIB):
            await is_right(entry, one, [(start, start + 64 * KIB)])
        await store.give_back(entry)
    await store.clear()
    assert store.used < BLOCK
    caches.end()


async def test_a_disk_that_fills_up_between_the_look_and_the_write(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    caches = Caches(small_disk / "cache")
    store = caches.open()
    plenty = SimpleNamespace(f_bavail=1 << 40, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: plenty)
    large = sample("large", 4 * MIB)
    entry = await used(store, large)
    kept = [
        await keep(store, entry, large, start, start + 300_000)
        for start in range(0, 3_900_000, 300_000)
    ]
    assert kept.count(True) == 6
    assert warned
    assert store.used >= on_disk(small_disk) - BLOCK
    for start in range(0, 3_900_000, 50_000):
        await is_right(entry, large, [(start, start + 50_000)])
    await store.give_back(entry)
    await store.clear()
    assert on_disk(small_disk) <= BLOCK
    caches.end()
