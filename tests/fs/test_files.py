"""Files through the handlers: opening, reading, and why it may fail; the control files."""

from __future__ import annotations

import errno
import gc
import json
import os

import pyfuse3
import pytest

from rucio_fs.callers import NOBODY
from rucio_fs.errors import Unreachable
from rucio_fs.nodes.control import StatusFile, UploadsFile
from tests.fakes import EPOCH_NS, MY
from tests.fs.conftest import World
from tests.fs.kernel import fails_with

DATA = bytes(range(256)) * 40
WRITING = [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_TRUNC]


@pytest.fixture
def filled(world: World) -> World:
    world.file("s:f", DATA)
    return world


def storage_file(world: World, index: int = 0) -> str:
    return str(world.storage / str(index))


def is_open_here(path: str) -> bool:
    fds = os.listdir("/proc/self/fd")
    return path in {os.path.realpath(f"/proc/self/fd/{fd}") for fd in fds}


# --- reading -----------------------------------------------------------------------------------


async def test_a_file_is_read(filled: World) -> None:
    assert await filled.kernel.cat("s/f") == DATA


async def test_reads_by_offset(filled: World) -> None:
    info = await filled.kernel.open("s/f")
    for offset, size in [(0, 10), (5000, 4096), (len(DATA) - 3, 10), (len(DATA), 10), (1 << 40, 1)]:
        got = bytes(await filled.operations.read(info.fh, offset, size))
        assert got == DATA[offset : offset + size]
    await filled.operations.release(info.fh)


async def test_the_kernel_may_keep_what_never_changes(filled: World) -> None:
    info = await filled.kernel.open("s/f")
    assert info.keep_cache
    assert not info.direct_io
    await filled.operations.release(info.fh)


async def test_flush_and_fsync_of_an_open_file(filled: World) -> None:
    info = await filled.kernel.open("s/f")
    for _ in range(3):  # dup and fork flush more than once
        await filled.operations.flush(info.fh)
    await filled.operations.fsync(info.fh, True)
    await filled.operations.release(info.fh)


async def test_two_descriptors_of_one_file(filled: World) -> None:
    one, other = await filled.kernel.open("s/f"), await filled.kernel.open("s/f")
    await filled.operations.release(one.fh)
    assert bytes(await filled.operations.read(other.fh, 0, 10)) == DATA[:10]
    await filled.operations.release(other.fh)


async def test_an_open_file_outlives_its_replica_and_its_did(filled: World) -> None:
    info = await filled.kernel.open("s/f")
    os.unlink(storage_file(filled))
    filled.rucio.delete("s:f")
    filled.cache.forget_all()
    assert bytes(await filled.operations.read(info.fh, 0, 10)) == DATA[:10]
    await filled.operations.release(info.fh)


async def test_a_released_file_is_stale_and_its_descriptor_closed(filled: World) -> None:
    info = await filled.kernel.open("s/f")
    await filled.operations.release(info.fh)
    assert not is_open_here(storage_file(filled))
    for request in (
        lambda: filled.operations.read(info.fh, 0, 10),
        lambda: filled.operations.flush(info.fh),
        lambda: filled.operations.fsync(info.fh, False),
        lambda: filled.operations.write(info.fh, 0, b"x"),
        lambda: filled.operations.release(info.fh),
    ):
        with fails_with(errno.ESTALE):
            await request()


@pytest.mark.parametrize("flags", WRITING)
@pytest.mark.parametrize("path", ["s/f", "README.txt", ".rucio/status"])
async def test_nothing_is_opened_for_writing(filled: World, path: str, flags: int) -> None:
    ino = await filled.kernel.ino(path)
    asked = filled.rucio.calls.total()
    with fails_with(errno.EROFS):
        await filled.operations.open(ino, flags, filled.kernel.ctx)
    assert filled.rucio.calls.total() == asked


async def test_a_file_that_is_open_for_reading_cannot_be_written(filled: World) -> None:
    info = await filled.kernel.open("s/f")
    with fails_with(errno.EROFS):
        await filled.operations.write(info.fh, 0, b"x")
    await filled.operations.release(info.fh)


@pytest.mark.parametrize("path", ["", "s"])
async def test_a_directory_is_not_opened_as_a_file(filled: World, path: str) -> None:
    ino = await filled.kernel.ino(path)
    with fails_with(errno.EISDIR):
        await filled.operations.open(ino, os.O_RDONLY, filled.kernel.ctx)


# --- why it may fail ---------------------------------------------------------------------------


async def cannot_open(world: World, caplog: pytest.LogCaptureFixture, number: int) -> str:
    with fails_with(number):
        await world.kernel.open("s/f")
    said = caplog.text
    assert "s:f" in said, "a message names the DID"
    caplog.clear()
    return said


@pytest.mark.parametrize(
    ("rse", "state", "number"),
    [
        ("COLO", "COPYING", errno.EAGAIN),
        ("COLO", "BEING_DELETED", errno.ENODATA),
        ("COLO", "BAD", errno.ENODATA),
        ("FAR", "AVAILABLE", errno.EAGAIN),
        ("FAR", "UNAVAILABLE", errno.ENODATA),
    ],
)
async def test_no_replica_here(
    world: World, caplog: pytest.LogCaptureFixture, rse: str, state: str, number: int
) -> None:
    caplog.set_level("INFO", "rucio_fs")
    world.rucio.file("s:f", DATA)
    world.rucio.replica("s:f", rse, "https://far/f", state=state)
    assert rse in await cannot_open(world, caplog, number)


async def test_no_replica_at_all(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.rucio.file("s:f", DATA)
    assert "none at all" in await cannot_open(world, caplog, errno.ENODATA)


async def test_a_local_copy_that_is_gone(filled: World, caplog: pytest.LogCaptureFixture) -> None:
    os.unlink(storage_file(filled))
    said = await cannot_open(filled, caplog, errno.EIO)
    assert "COLO" in said
    assert storage_file(filled) in said


async def test_a_local_copy_of_another_size(
    filled: World, caplog: pytest.LogCaptureFixture
) -> None:
    os.truncate(storage_file(filled), 100)
    said = await cannot_open(filled, caplog, errno.EIO)
    assert "100 bytes" in said
    assert str(len(DATA)) in said


async def test_a_path_that_climbs_is_not_opened(
    filled: World, caplog: pytest.LogCaptureFixture
) -> None:
    filled.rucio.replica("s:f", "COLO", f"file://{filled.storage}/x/../0")
    assert "'..'" in await cannot_open(filled, caplog, errno.EIO)


@pytest.mark.parametrize("what", ["gone", "short"])
async def test_the_next_local_copy_is_used(filled: World, what: str) -> None:
    other = filled.storage / "other"
    other.write_bytes(DATA)
    filled.rucio.replica("s:f", "ELSE", other.as_uri())
    if what == "gone":
        os.unlink(storage_file(filled))
    else:
        os.truncate(storage_file(filled), 5)
    assert await filled.kernel.cat("s/f") == DATA


async def test_a_failed_storage_is_no_corrupt_file(
    filled: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", broken)
        await cannot_open(filled, caplog, errno.EREMOTEIO)
    assert await filled.kernel.cat("s/f") == DATA


async def test_replicas_that_moved_are_found_before_an_error_is_told(filled: World) -> None:
    await filled.kernel.cat("s/f")
    moved = filled.storage / "moved"
    os.rename(storage_file(filled), moved)
    filled.rucio.replica("s:f", "COLO", moved.as_uri())
    filled.services.opener._now_ttl = 0.0
    assert await filled.kernel.cat("s/f") == DATA


async def test_a_replica_that_arrived_is_found_before_an_error_is_told(world: World) -> None:
    data = world.storage / "0"
    data.write_bytes(DATA)
    world.rucio.file("s:f", DATA)
    world.rucio.replica("s:f", "COLO", state="COPYING")
    world.services.opener._now_ttl = 0.0
    with fails_with(errno.EAGAIN):
        await world.kernel.open("s/f")
    world.rucio.replica("s:f", "COLO", data.as_uri())
    assert await world.kernel.cat("s/f") == DATA


async def test_a_file_that_shrinks_while_it_is_read(
    filled: World, caplog: pytest.LogCaptureFixture
) -> None:
    info = await filled.kernel.open("s/f")
    os.truncate(storage_file(filled), 4096)
    with fails_with(errno.EIO):
        await filled.operations.read(info.fh, 4096, 4096)
    assert "changed while open" in caplog.text
    await filled.operations.release(info.fh)
    caplog.clear()


async def test_failed_opens_leave_nothing_open(
    filled: World, caplog: pytest.LogCaptureFixture
) -> None:
    os.truncate(storage_file(filled), 5)
    gc.disable()
    try:
        for _ in range(3):
            await cannot_open(filled, caplog, errno.EIO)
        assert not is_open_here(storage_file(filled))
    finally:
        gc.enable()
    assert filled.operations.handles.open_files == 0


async def test_rucio_away_at_open(filled: World, caplog: pytest.LogCaptureFixture) -> None:
    ino = await filled.kernel.ino("s/f")
    filled.rucio.error = Unreachable("away")
    with fails_with(errno.EREMOTEIO):
        await filled.operations.open(ino, os.O_RDONLY, filled.kernel.ctx)
    caplog.clear()


# --- control files -----------------------------------------------------------------------------


async def test_the_readme(world: World) -> None:
    assert await world.kernel.cat("README.txt") == b"read me\n"
    assert (await world.kernel.walk("README.txt")).st_size == len(b"read me\n")
    info = await world.kernel.open("README.txt")
    assert bytes(await world.operations.read(info.fh, 2, 3)) == b"ad "
    await world.operations.release(info.fh)


async def test_status_is_rendered_at_each_open(filled: World) -> None:
    info = await filled.kernel.open(".rucio/status")
    assert info.direct_io, "its size is not known before"
    assert not info.keep_cache
    assert bytes(await filled.operations.read(info.fh, 0, 4096)) == b"asked 0\n"
    await filled.kernel.walk("s/f")
    assert bytes(await filled.operations.read(info.fh, 0, 4096)) == b"asked 0\n"
    await filled.operations.release(info.fh)
    assert (await filled.kernel.cat(".rucio/status")) != b"asked 0\n"


async def test_names_that_are_no_utf_8_are_told_and_taken() -> None:
    name = os.fsdecode(b"m\xfcnze")
    ordered: list[str] = []
    status = StatusFile("status", lambda: json.dumps([name], ensure_ascii=False), EPOCH_NS)
    uploads = UploadsFile("uploads", lambda: {"path": name}, ordered.append, EPOCH_NS)
    shown = await status.open(MY, os.O_RDONLY, NOBODY)
    assert json.loads(bytes(await shown.read(0, 4096)).decode()) == [name]
    opened = await uploads.open(MY, os.O_RDWR, NOBODY)
    assert json.loads(bytes(await opened.read(0, 4096)).decode()) == {"path": name}
    assert await opened.write(0, b"retry m\xfcnze\n") == 12
    assert ordered == [f"retry {name}\n"]


async def test_writing_into_refresh_forgets_all(filled: World) -> None:
    await filled.kernel.walk("s/f")
    assert filled.cache.status()["entries"] > 0
    ino = await filled.kernel.ino(".rucio/refresh")

    class Truncate(pyfuse3.SetattrFields):
        @property
        def update_size(self) -> bool:
            return True

    attr = pyfuse3.EntryAttributes()  # what the shell's > does before it opens
    await filled.operations.setattr(ino, attr, Truncate(), None, filled.kernel.ctx)
    assert filled.cache.status()["entries"] > 0, "that alone is no order"
    info = await filled.operations.open(ino, os.O_WRONLY, filled.kernel.ctx)
    assert await filled.operations.write(info.fh, 0, b"1\n") == 2
    assert filled.cache.status()["entries"] == 0
    assert bytes(await filled.operations.read(info.fh, 0, 10)) == b""
    await filled.operations.release(info.fh)


async def test_refresh_has_no_size(world: World) -> None:
    ino = await world.kernel.ino(".rucio/refresh")

    class Size(pyfuse3.SetattrFields):
        @property
        def update_size(self) -> bool:
            return True

    attr = pyfuse3.EntryAttributes()
    attr.st_size = 5
    with fails_with(errno.EROFS):
        await world.operations.setattr(ino, attr, Size(), None, world.kernel.ctx)


async def test_the_control_directory(world: World) -> None:
    assert await world.kernel.listdir(".rucio") == ["status", "refresh"]
