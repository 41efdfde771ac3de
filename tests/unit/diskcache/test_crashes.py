"""kill -9 and power cuts between any two steps on the disk: never a byte that is not the file's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rucio_fs.diskcache.store import Store
from tests.unit.diskcache.conftest import (
    NEXT_BOOT,
    Caches,
    Sample,
    booted,
    copied,
    damage,
    keep,
    kill,
    right_bytes,
    sample,
    used,
)

SIZE = 40_000
FILE = sample(size=SIZE)
OTHER = sample("other", 10_000, 2)
STEPS = ("pwrite", "replace", "ftruncate", "unlink")


class Crashes:
    """Copies of the directory as it is before, in the middle of and after each step."""

    def __init__(self, directory: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies: list[Path] = []
        self._directory = directory
        self._to = copies
        self._patch = monkeypatch
        for name in STEPS:
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: self._write_bytes(path, data))

    def end(self) -> list[Path]:
        """The copies; no more are made."""
        self._patch.undo()
        return self.copies

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self._copy(f"before-{name}")
            if name == "pwrite":
                fd, data, offset = args
                half = call(fd, data[: len(data) // 2], offset)
                self._copy("amid-pwrite")
                return half + call(fd, data[half:], offset + half)
            result = call(*args, **kwargs)
            self._copy(f"after-{name}")
            return result

        return step

    def _write_bytes(self, path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            self._copy("amid-map")
            file.write(data[len(data) // 2 :])
        self._copy("after-map")
        return len(data)

    def _copy(self, name: str) -> None:
        to = self._to / f"{len(self.copies):03}-{name}"
        self.copies.append(to)
        _copy_tree(self._directory, to)


def _copy_tree(directory: Path, to: Path) -> None:
    """`copied`, with none of the functions that are watched."""
    for path in [directory, *sorted(directory.rglob("*"))]:
        target = to / path.relative_to(directory)
        if path.is_dir():
            target.mkdir()
        else:
            with target.open("wb") as copy:
                copy.write(path.read_bytes())
            status = path.stat()
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def crashes(caches: Caches, tmp_path: Path) -> Iterator[Crashes]:
    caches.directory.mkdir()
    (tmp_path / "copies").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        yield Crashes(caches.directory, tmp_path / "copies", patch)


async def a_life(store: Store) -> None:
    """Everything that happens to a file in the cache."""
    entry = await used(store, FILE)
    other = await used(store, OTHER)
    assert await keep(store, entry, FILE, 0, 10_000)
    await entry.save()
    assert await keep(store, entry, FILE, 20_000, 30_000)
    assert await keep(store, other, OTHER)
    await entry.save()
    assert await keep(store, entry, FILE, 10_000, 20_000)
    entry.forget()
    await entry.empty()
    assert await keep(store, entry, FILE, 5_000, 15_000)
    await entry.save()
    assert await keep(store, entry, FILE, 0, 5_000)
    assert await keep(store, entry, FILE, 15_000, SIZE)
    assert entry.is_whole
    await store.give_back(entry)
    await store.give_back(other)
    entry = await used(store, FILE)
    await store.clear()
    assert await keep(store, entry, FILE, 1_000, 2_000)
    await store.give_back(entry)


async def what_is_left(directory: Path, *samples: Sample) -> int:
    """Right bytes of what a mount finds there; a wrong one fails."""
    found = 0
    for _ in range(2):  # its own kill -9 must not do what the first one did not
        store = Store.open(directory, 1 << 30, 0)
        found = 0
        for one in samples:
            entry = await used(store, one)
            claimed = entry.stored.nbytes
            assert await right_bytes(entry, one) <= claimed
            found += entry.stored.nbytes
            await keep(store, entry, one, 0, 100)
            await right_bytes(entry, one)
            await store.give_back(entry)
        kill(store)
    return found


async def test_a_program_that_dies_anywhere(caches: Caches, crashes: Crashes) -> None:
    store = caches.open()
    await a_life(store)
    copies = crashes.end()
    assert len(copies) > 50
    left = {await what_is_left(copy, FILE, OTHER) for copy in copies}
    assert max(left) >= SIZE + 10_000
    assert len(left) > 5, "there was something to lose at most of them"


async def test_what_was_saved_is_there_after_a_crash_at_once(
    caches: Caches, tmp_path: Path
) -> None:
    store = caches.open()
    entry = await used(store, FILE)
    for start in range(0, SIZE, 10_000):
        await keep(store, entry, FILE, start, start + 10_000)
        await entry.save()
        copy = copied(caches.directory, tmp_path / str(start))
        assert await what_is_left(copy, FILE) == start + 10_000
    await store.give_back(entry)


async def test_a_power_cut_anywhere(
    caches: Caches,
    crashes: Crashes,
    monkeypatch: pytest.MonkeyPatch,
    warned: list[str],
) -> None:
    """Maps may have come to the disk, and data not: then they are zeros, or old bytes."""
    store = caches.open()
    await a_life(store)
    copies = crashes.end()
    booted(monkeypatch, NEXT_BOOT)
    for number, copy in enumerate(copies):
        for path in copy.rglob("*"):
            if path.is_file() and len(path.name) == 40 and path.stat().st_size:
                if number % 2:
                    size = path.stat().st_size
                    path.write_bytes(path.read_bytes()[: size // 2])
                    os.truncate(path, size)
                else:
                    damage(path, number * 97 % path.stat().st_size)
        await what_is_left(copy, FILE, OTHER)
    assert warned


async def test_a_map_that_is_torn_by_a_power_cut(
    caches: Caches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    store = caches.open()
    entry = await used(store, FILE)
    for start in range(0, SIZE, 10_000):
        await keep(store, entry, FILE, start, start + 5_000)
    await store.give_back(entry)
    await caches.close(store)
    booted(monkeypatch, NEXT_BOOT)
    name = f"{FILE.key}.map"
    data = (caches.directory / FILE.key[:2] / name).read_bytes()
    for length in range(0, len(data), 7):
        copy = copied(caches.directory, tmp_path / str(length))
        torn = data[:length] + bytes(len(data) - length)
        (copy / FILE.key[:2] / name).write_bytes(torn)
        left = await what_is_left(copy, FILE)
        assert left <= 100 or torn == data
    for place in range(0, len(data), 3):
        copy = copied(caches.directory, tmp_path / f"flip-{place}")
        damage(copy / FILE.key[:2] / name, place)
        await what_is_left(copy, FILE)
    assert warned == []
