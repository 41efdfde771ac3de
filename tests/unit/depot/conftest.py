"""Storages on this machine, and the depot that puts files there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from lake.tls import Tls
from rucio_fs.config import StoragesConfig
from rucio_fs.depot.depot import Depot
from rucio_fs.webdav.credentials import Credentials
from tests.unit.depot.server import Store
from tests.unit.streams.conftest import no_credentials, no_socket_lost, noise

__all__ = ["no_credentials", "no_socket_lost"]

TOKEN = "a-secret-token"
TIMEOUT = 5.0

MIB = 1 << 20


class MakeStore(Protocol):
    def __call__(self, tls: Tls | None = None, host: str = "localhost") -> Store: ...


class MakeDepot(Protocol):
    def __call__(
        self, *, timeout: float = TIMEOUT, connections: int = 4, trusted: tuple[str, ...] = ()
    ) -> Depot: ...


@pytest.fixture
def make_store(no_socket_lost: None) -> Iterator[MakeStore]:
    running: list[Store] = []

    def make(tls: Tls | None = None, host: str = "localhost") -> Store:
        running.append(Store(tls, host))
        return running[-1]

    yield make
    for one in running:
        one.close()


@pytest.fixture
def make_depot(
    no_socket_lost: None, no_credentials: None, tls: Tls, tmp_path: Path
) -> Iterator[MakeDepot]:
    made: list[Depot] = []
    token = tmp_path / "token"
    token.write_text(TOKEN)

    def make(
        *, timeout: float = TIMEOUT, connections: int = 4, trusted: tuple[str, ...] = ()
    ) -> Depot:
        config = StoragesConfig(token_file=token, ca=tls.ca_file, trusted=trusted)
        made.append(Depot(Credentials(config), timeout=timeout, connections=connections))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert depot_threads() == []


@pytest.fixture
def depot(make_depot: MakeDepot) -> Depot:
    return make_depot()


@pytest.fixture(params=["http", "https"])
def store(request: pytest.FixtureRequest, make_store: MakeStore, tls: Tls) -> Store:
    return make_store(tls if request.param == "https" else None)


@pytest.fixture
def plain(make_store: MakeStore) -> Store:
    return make_store()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Some bytes, fewer than are announced before they are sent."""
    path = tmp_path / "file"
    path.write_bytes(noise(300_000))
    return path


@pytest.fixture
def great(tmp_path: Path) -> Path:
    """More than all buffers on the way hold together; nothing but a hole."""
    path = tmp_path / "great"
    path.touch()
    with path.open("r+b") as opened:
        opened.truncate(64 * MIB)
    return path


def depot_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("rucio-fs depot")]
