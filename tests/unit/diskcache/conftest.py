"""Caches without streams: files whose bytes are known, and a disk that is looked at."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from rucio_fs.checksums import adler32
from rucio_fs.did import DID, FileReplicas
from rucio_fs.diskcache import maps
from rucio_fs.diskcache.entry import Entry
from rucio_fs.diskcache.segments import Segment
from rucio_fs.diskcache.store import Store, _key

KIB, MIB = 1 << 10, 1 << 20
SIZE = 300_000
BLOCK = 4096
THIS_BOOT, NEXT_BOOT = "boot-1", "boot-2"


@functools.cache
def noise(size: int, seed: int) -> bytes:
    """No two of its bytes can be taken for each other, nor for the zeros of a hole."""
    return random.Random(seed).randbytes(size).replace(b"\0", b"\1")


@dataclass(frozen=True)
class Sample:
    """A file as the catalogue describes it, and its bytes."""

    file: FileReplicas
    data: bytes

    @property
    def key(self) -> str:
        return _key(self.file)

    def segment(self, start: int, end: int) -> Segment:
        return Segment(start, end, adler32(self.data[start:end]))

    def without_checksum(self) -> Sample:
        return Sample(replace(self.file, adler32=None), self.data)


def sample(name: str = "f", size: int = SIZE, seed: int = 1) -> Sample:
    data = noise(size, seed)
    file = FileReplicas(DID("s", name), size, f"{adler32(data):08x}", None, (), {})
    return Sample(file, data)


async def used(store: Store, what: Sample) -> Entry:
    entry = await store.use(what.file)
    assert entry is not None
    return entry


async def keep(
    store: Store, entry: Entry, what: Sample, start: int = 0, end: int | None = None
) -> bool:
    end = len(what.data) if end is None else end
    data = bytearray(what.data[start:end])
    try:
        return await store.keep(entry, what.segment(start, end), memoryview(data))
    finally:
        data[:] = bytes(len(data))  # the memory goes to somebody else


async def put(store: Store, what: Sample, *ranges: tuple[int, int]) -> None:
    """Have *ranges* of a file in the cache, and nobody use it."""
    entry = await used(store, what)
    for start, end in ranges or ((0, len(what.data)),):
        assert await keep(store, entry, what, start, end)
    await store.give_back(entry)


async def is_right(entry: Entry, what: Sample, ranges: Iterable[tuple[int, int]]) -> bool:
    """Whether all *ranges* are here.  What is read has to be the file, always."""
    is_here = True
    for start, end in ranges:
        quick = entry.at_hand(start, end - start)
        if quick is not None:
            assert bytes(quick) == what.data[start:end]
        data = await entry.read(start, end - start)
        if data is not None:
            assert data == what.data[start:end]
        is_here &= data is not None
    return is_here


async def is_proved(entry: Entry, what: Sample, start: int, end: int) -> bool:
    """Whether a range is read without what is around it being read first."""
    sizes = []
    pread = os.pread

    def note(fd: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return pread(fd, size, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", note)
        assert await entry.read(start, end - start) == what.data[start:end]
    return sizes == [end - start]


async def right_bytes(entry: Entry, what: Sample) -> int:
    """How much can be read of what is claimed to be here, all of it right."""
    for start, end, _ in list(entry.stored):
        for middle in range(start, end, 100_000):
            await is_right(entry, what, [(middle, min(end, middle + 100_000))])
    return entry.stored.nbytes


def kill(store: Store) -> None:
    """What kill -9 leaves: nothing is saved, descriptors and lock are gone."""
    for fd, target in _open_fds():
        if target.startswith(f"{store.directory}/"):
            os.close(fd)
    for entry in store._open.values():
        entry._fd = -1


def on_disk(directory: Path) -> int:
    """What du says of the files."""
    nbytes = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # just deleted, in a thread
                nbytes += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return nbytes


def files(directory: Path) -> set[str]:
    """Names of all files but the lock."""
    return {path.name for path in directory.rglob("*") if path.is_file()} - {"lock"}


def map_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.map")


def is_whole(entry: Entry) -> bool:
    return entry.is_whole


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))


class Caches:
    """Opens stores in one directory, and closes them whatever happens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: list[Store] = []

    def open(self, limit: int = 100 * MIB, min_free: int = 0) -> Store:
        store = Store.open(self.directory, limit, min_free)
        self._open.append(store)
        return store

    async def close(self, store: Store) -> None:
        self._open.remove(store)
        await store.close()
        below = f"{self.directory}/"
        assert not [target for _, target in _open_fds() if target.startswith(below)]

    def kill(self, store: Store) -> None:
        self._open.remove(store)
        kill(store)

    def end(self) -> None:
        while self._open:
            kill(self._open.pop())


@pytest.fixture
def caches(tmp_path: Path) -> Iterator[Caches]:
    made = Caches(tmp_path / "cache")
    yield made
    made.end()


@pytest.fixture
def store(caches: Caches) -> Store:
    return caches.open()


@pytest.fixture(autouse=True)
def boot(monkeypatch: pytest.MonkeyPatch) -> None:
    booted(monkeypatch, THIS_BOOT)


def booted(monkeypatch: pytest.MonkeyPatch, boot: str) -> None:
    monkeypatch.setattr(maps, "this_boot", lambda: boot)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings of the test so far; one that does not ask for them must not cause any."""
    return _Warnings(caplog)


class _Warnings(list[str]):
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        super().__init__()
        caplog.handler.addFilter(self._note)

    def _note(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self.append(record.getMessage())
        return True


@pytest.fixture(autouse=True)
def no_surprise(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    seen = _Warnings(caplog)
    yield
    if "warned" not in request.fixturenames:
        assert seen == []


def _open_fds() -> set[tuple[int, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:
            continue
    return found


async def settled(*entries: Entry) -> None:
    """Wait until nobody changes the entries."""
    for entry in entries:
        while entry._changing.locked():
            await trio.lowlevel.checkpoint()


def copied(directory: Path, to: Path) -> Path:
    """The directory as a crash right now would leave it: sparse, times and all."""
    shutil.copytree(directory, to, copy_function=_copy)
    return to


def _copy(source: str, target: str) -> str:
    data = Path(source).read_bytes()
    Path(target).write_bytes(data)
    shutil.copystat(source, target)
    return target
