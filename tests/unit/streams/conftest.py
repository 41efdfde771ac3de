"""Storages on this machine, and what a mount reads them with."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest
import trio
import trio.testing

from lake.tls import Tls
from rucio_fs import tokens
from rucio_fs.config import StoragesConfig, StreamingConfig
from rucio_fs.did import DID, FileReplicas, Identity, Replica
from rucio_fs.diskcache.store import Store
from rucio_fs.sources.base import Source
from rucio_fs.streams import fetching, storages
from rucio_fs.streams.reader import StreamSource
from rucio_fs.streams.streams import Streams
from tests.fakes import MY
from tests.unit.streams.storage_server import Storage

KIB = 1 << 10
MIB = 1 << 20
FILE = DID("s", "f")


@cache
def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that are the same nowhere else in the file."""
    return random.Random(seed).randbytes(size)


class MakeStorage(Protocol):
    def __call__(self, tls: Tls | None = None, host: str = "127.0.0.1") -> Storage: ...


@pytest.fixture(autouse=True)
def no_socket_lost() -> Iterator[None]:
    """Also without the garbage collector, whose hour nobody knows."""
    before = _sockets()
    yield
    assert _sockets() <= before


def _sockets() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of whoever runs the tests are shown to nobody."""
    for name in (
        *("BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR"),
        *("X509_USER_PROXY", "X509_CERT_DIR"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tokens, "TEMPORARY", tmp_path / "nothing here")


@pytest.fixture
def make_storage(no_socket_lost: None) -> Iterator[MakeStorage]:
    running: list[Storage] = []

    def make(tls: Tls | None = None, host: str = "127.0.0.1") -> Storage:
        running.append(Storage(tls, host))
        return running[-1]

    yield make
    for one in running:
        one.close()


@pytest.fixture
def storage(make_storage: MakeStorage) -> Storage:
    return make_storage()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for a renewed token, and for a storage that is back, follow each other closely."""
    monkeypatch.setattr(fetching, "_TOKEN_LOOK", 0.02)
    monkeypatch.setattr(storages, "_FIRST_SETBACK", 0.001)
    monkeypatch.setattr(storages, "_LONGEST_SETBACK", 0.01)


def rse(number: int) -> str:
    return f"RSE{number}"


@dataclass
class Bench:
    """A mount's streams, and the storages that have the files."""

    streams: Streams
    nursery: trio.Nursery
    wrong: list[tuple[DID, str]] = field(default_factory=list)
    asked: int = 0  # times that Rucio was asked for the replicas of now

    def put(
        self, data: bytes, *at: Storage, did: DID = FILE, has_adler32: bool = True
    ) -> FileReplicas:
        """A file at RSE0, RSE1, ..., one for each storage."""
        for one in at:
            one.files[f"/{did.name}"] = data
        replicas = tuple(
            Replica(rse(number), f"{one.url}/{did.name}") for number, one in enumerate(at)
        )
        adler32 = f"{zlib.adler32(data):08x}" if has_adler32 else None
        states = {one.rse: "AVAILABLE" for one in replicas}
        return FileReplicas(did, len(data), adler32, None, replicas, states)

    async def open(
        self,
        file: FileReplicas,
        of_now: Callable[[], Awaitable[FileReplicas]] | None = None,
        who: Identity = MY,
    ) -> StreamSource:
        async def ask() -> FileReplicas:
            self.asked += 1
            return file if of_now is None else await of_now()

        return await self.streams.open(who, file, file.replicas, ask)

    @property
    def lent(self) -> int:
        """Bytes of memory."""
        return self.streams._buffers.lent

    @property
    def held(self) -> int:
        """Bytes that were asked of the system for them."""
        return self.streams._buffers.held

    async def settled(self) -> None:
        """Return when nothing runs on behind the files."""
        while self.nursery.child_tasks:
            await trio.testing.wait_all_tasks_blocked(0.001)


MakeBench = Callable[..., Bench]

SMALL = StreamingConfig(
    connections=4,
    total_connections=16,
    window=MIB,
    memory=4 * MIB,
    timeout=5.0,
    deadline=10.0,
)


@pytest.fixture
async def make_bench() -> AsyncIterator[MakeBench]:
    """Makes streams: ``make_bench(deadline=1.0, shows=StoragesConfig(...), store=...)``.

    At the end each has given its memory back and ended its connections.
    """
    made: list[Bench] = []
    async with trio.open_nursery() as nursery:

        def bench(
            *,
            shows: StoragesConfig | None = None,
            store: Store | None = None,
            **more: float,
        ) -> Bench:
            wrong: list[tuple[DID, str]] = []
            streams = Streams(
                replace(SMALL, **more),  # type: ignore[arg-type]
                shows or StoragesConfig(),
                store,
                nursery,
                lambda did, message: wrong.append((did, message)),
            )
            made.append(Bench(streams, nursery, wrong))
            return made[-1]

        yield bench
        for one in made:
            one.streams.stop()
            one.streams.close()
        with trio.fail_after(10):
            for one in made:
                await one.settled()
    assert [one.streams._pool.open for one in made] == [0] * len(made)
    left = [one.lent for one in made if not one.streams._streams]
    assert left == [0] * len(left)


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


async def read_all(source: Source, step: int = 128 * KIB) -> bytes:
    """As a program does that reads a file from its start to its end."""
    parts = [bytes(await source.read(at, step)) for at in range(0, source.size, step)]
    return b"".join(parts)


async def moved(storage: Storage) -> int:
    """Bytes that *storage* has sent, once it has answered all that it was asked."""
    await until(storage, lambda found: found.finished == len(found.requests))
    return storage.sent


async def until(storage: Storage, condition: Callable[[Storage], bool]) -> None:
    """Return when *condition* holds of *storage*."""
    await trio.to_thread.run_sync(storage.wait, condition)
