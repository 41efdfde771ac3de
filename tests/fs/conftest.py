"""A mount without a kernel: a catalogue in memory, files in a directory, the handlers."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import pytest
import trio

from rucio_fs.availability import Site
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.config import CacheConfig
from rucio_fs.did import DID
from rucio_fs.nodes.control import ControlDir, RefreshFile, StatusFile, TextFile
from rucio_fs.nodes.dids import Services
from rucio_fs.nodes.scopes import RootDir
from rucio_fs.opening import Opener
from rucio_fs.presentation import Presentation
from rucio_fs.xattrs import OperationsWithXattrs
from tests.fakes import EPOCH_NS, MY, FailingCatalogue, FakeCatalogue
from tests.fs.kernel import Kernel, readdir_reply

UID, GID = 1234, 5678


@dataclass
class World:
    """Rucio, what stands between it and the kernel, and the kernel."""

    rucio: FakeCatalogue
    failing: FailingCatalogue
    cache: CachedCatalogue
    services: Services
    operations: OperationsWithXattrs
    kernel: Kernel
    storage: Path

    def file(self, name: str, data: bytes = b"data\n", rse: str = "COLO") -> DID:
        """A file DID whose bytes lie at *rse*, which this machine can read."""
        path = self.storage / f"{len(list(self.storage.iterdir()))}"
        path.write_bytes(data)
        return self.rucio.file(name, data, replicas={rse: path.as_uri()})


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A test that provokes warnings says so by clearing them."""
    yield
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings] == []


@pytest.fixture(autouse=True)
def fake_readdir_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", readdir_reply)


@pytest.fixture
def rucio() -> FakeCatalogue:
    return FakeCatalogue()


@pytest.fixture
async def world(
    rucio: FakeCatalogue, tmp_path: Path, nursery: trio.Nursery
) -> AsyncIterator[World]:
    """At the end the kernel forgets everything: then nothing may be left, open or referred to."""
    storage = tmp_path / "storage"
    storage.mkdir()
    failing = FailingCatalogue(rucio)
    cache = CachedCatalogue(failing, CacheConfig(), nursery)
    # No deadline: the clock of some tests jumps while a thread is at work.
    opener = Opener(cache, Site.of("site", "COLO", {}, ()), timeout=math.inf, now_ttl=2.0)
    services = Services(cache, opener, EPOCH_NS, deny=("secret*",))
    control = {
        "status": StatusFile("status", lambda: f"asked {rucio.calls.total()}\n", EPOCH_NS),
        "refresh": RefreshFile("refresh", cache.forget_all, EPOCH_NS),
    }
    root = RootDir(
        services,
        {
            "README.txt": TextFile("README.txt", "read me\n", EPOCH_NS),
            ".rucio": ControlDir(".rucio", control, EPOCH_NS),
        },
    )
    operations = OperationsWithXattrs(root, Presentation(UID, GID), MY)
    kernel = Kernel(operations)
    yield World(rucio, failing, cache, services, operations, kernel, storage)
    await kernel.forget_everything()
    assert operations.inodes.lookups() == 0
    assert len(operations.inodes) == 1, "only the root is left"
    assert operations.handles.open_files == 0
