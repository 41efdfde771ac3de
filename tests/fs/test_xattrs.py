"""Extended attributes: what a DID says of itself, names of others, and refreshing."""

from __future__ import annotations

import errno

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DIDType
from rucio_fs.errors import Unreachable
from rucio_fs.operations import Operations
from rucio_fs.xattrs import OperationsWithXattrs
from tests.fs.conftest import World
from tests.fs.kernel import fails_with

NODES = ["", "README.txt", ".rucio", ".rucio/refresh", "s", "s/ds", "s/f"]


@pytest.fixture
def filled(world: World) -> World:
    path = world.storage / "f"
    path.write_bytes(b"hello\n")
    world.rucio.file(
        "s:f",
        b"hello\n",
        md5="b1946ac92492d2347c6235b4d2611184",
        account="alice",
        replicas={"COLO": path.as_uri()},
        metadata={"run": "7", "grüße": "schön"},
    )
    world.rucio.replica("s:f", "FAR", "https://far/f")
    world.rucio.dataset("s:ds", "s:f", is_open=False, metadata={"campaign": "2026"})
    world.rucio.dataset("s:open", "s:f")
    return world


async def attributes(world: World, path: str) -> dict[str, str]:
    """As `getfattr -d` shows them."""
    names = await world.operations.listxattr(await world.kernel.ino(path), world.kernel.ctx)
    return {
        name.decode().removeprefix("user.rucio."): await world.kernel.getxattr(path, name.decode())
        for name in names
    }


# --- values ------------------------------------------------------------------------------------


async def test_all_of_a_file(filled: World) -> None:
    path = str(filled.storage / "f")
    assert await attributes(filled, "s/f") == {
        "did": "s:f",
        "scope": "s",
        "name": "f",
        "type": DIDType.FILE.value,
        "bytes": "6",
        "account": "alice",
        "created_at": "2026-01-01T00:00:00Z",
        "adler32": "084b021f",
        "md5": "b1946ac92492d2347c6235b4d2611184",
        "state": "AVAILABLE",
        "locality": "LOCAL",
        "replicas": "COLO=AVAILABLE,FAR=AVAILABLE",
        "pfn": f"file://{path}",
        "local_path": path,
        "source": "COLO",
        "meta.run": "7",
        "meta.grüße": "schön",
    }


async def test_metadata_that_cannot_be_an_attribute_is_not_listed(world: World) -> None:
    longest, largest = "k" * (255 - len("user.rucio.meta.")), "v" * 65536
    fits = {longest: "1", "large": largest, "": "2"}
    world.rucio.file(
        "s:f",
        metadata=fits
        | {
            f"{longest}k": "3",
            "larger": f"{largest}v",
            "a\0b": "4",
            "\ud83d": "5",
            "half": "\ud83d",
        },
    )
    found = await attributes(world, "s/f")
    assert fits == {
        name.removeprefix("meta."): value
        for name, value in found.items()
        if name.startswith("meta.")
    }


async def test_all_of_a_closed_dataset(filled: World) -> None:
    assert await attributes(filled, "s/ds") == {
        "did": "s:ds",
        "scope": "s",
        "name": "ds",
        "type": "DATASET",
        "bytes": "6",
        "account": "root",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:01Z",
        "open": "false",
        "length": "1",
        "meta.campaign": "2026",
    }


async def test_an_open_dataset_has_no_length(filled: World) -> None:
    shown = await attributes(filled, "s/open")
    assert shown["open"] == "true"
    assert not {"length", "bytes"} & set(shown)


async def test_a_scope(filled: World) -> None:
    assert await attributes(filled, "s") == {"scope": "s"}


@pytest.mark.parametrize("path", ["", "README.txt", ".rucio", ".rucio/refresh"])
async def test_what_is_no_did_has_none(filled: World, path: str) -> None:
    assert await attributes(filled, path) == {}


@pytest.mark.parametrize(
    ("state", "expected"),
    [("COPYING", "REPLICATING"), ("BEING_DELETED", "NOT_AVAILABLE"), ("BAD", "NOT_AVAILABLE")],
)
async def test_a_file_that_cannot_be_read_here_says_why(
    filled: World, state: str, expected: str
) -> None:
    filled.rucio.replica("s:f", "COLO", state=state)
    shown = await attributes(filled, "s/f")
    assert shown["state"] == expected
    assert shown["replicas"] == f"COLO={state},FAR=AVAILABLE"
    assert shown["pfn"] == "https://far/f"
    assert "s:f" in shown["error"]
    assert not {"local_path", "source"} & set(shown)


async def test_a_local_copy_that_is_gone_is_an_error_and_no_source(filled: World) -> None:
    (filled.storage / "f").unlink()
    shown = await attributes(filled, "s/f")
    assert str(filled.storage / "f") in shown["error"]
    assert "source" not in shown


async def test_a_file_without_replicas(filled: World) -> None:
    filled.rucio.file("s:bare", size=1)
    shown = await attributes(filled, "s/bare")
    assert shown["state"] == "NOT_AVAILABLE"
    assert not {"replicas", "pfn", "local_path", "source", "adler32", "md5"} & set(shown)


async def test_looking_opens_nothing_for_long(filled: World) -> None:
    await attributes(filled, "s/f")
    assert filled.operations.handles.open_files == 0


async def test_all_attributes_cost_a_handful_of_questions(filled: World) -> None:
    await filled.kernel.walk("s/f")
    filled.rucio.calls.clear()
    await attributes(filled, "s/f")
    assert filled.rucio.calls.total() <= 4, filled.rucio.calls


async def test_values_are_of_now_and_not_of_the_cache(
    filled: World, autojump_clock: MockClock
) -> None:
    assert await filled.kernel.getxattr("s/f", "user.rucio.replicas") == (
        "COLO=AVAILABLE,FAR=AVAILABLE"
    )
    filled.rucio.drop_replica("s:f", "FAR")
    await trio.sleep(2.1)
    assert await filled.kernel.getxattr("s/f", "user.rucio.replicas") == "COLO=AVAILABLE"


async def test_rucio_away_is_no_missing_attribute(
    filled: World, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    ino = await filled.kernel.ino("s/f")
    await trio.sleep(3)
    filled.rucio.error = Unreachable("away")
    for name in (b"user.rucio.bytes", b"user.rucio.meta.run", b"user.rucio.replicas"):
        with fails_with(errno.EREMOTEIO):
            await filled.operations.getxattr(ino, pyfuse3.XAttrNameT(name), filled.kernel.ctx)
    with fails_with(errno.EREMOTEIO):
        await filled.operations.listxattr(ino, filled.kernel.ctx)
    caplog.clear()


# --- names of others -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", NODES)
@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"security.selinux", errno.EOPNOTSUPP),
        (b"security.capability", errno.EOPNOTSUPP),
        (b"system.posix_acl_access", errno.EOPNOTSUPP),
        (b"trusted.overlay.opaque", errno.EOPNOTSUPP),
        (b"user.mime_type", errno.ENODATA),
        (b"user.rucio", errno.ENODATA),
        (b"user.rucio.nothing", errno.ENODATA),
        (b"user.rucio.meta.nothing", errno.ENODATA),
        (b"user.rucio.", errno.ENODATA),
        (b"user.rucio.\xff", errno.ENODATA),
        (b"user.rucio.meta.\xff", errno.ENODATA),
    ],
)
async def test_attributes_that_are_not_there(
    filled: World, path: str, name: bytes, number: int
) -> None:
    ino = await filled.kernel.ino(path)
    with fails_with(number):
        await filled.operations.getxattr(ino, pyfuse3.XAttrNameT(name), filled.kernel.ctx)


async def test_foreign_names_cost_nothing(filled: World, caplog: pytest.LogCaptureFixture) -> None:
    """`ls -l` asks two of every file."""
    caplog.set_level("DEBUG", "rucio_fs")
    filled.rucio.error = Unreachable("away")
    for name in (b"security.selinux", b"user.x"):
        with pytest.raises(pyfuse3.FUSEError):
            await filled.operations.getxattr(12345, pyfuse3.XAttrNameT(name), filled.kernel.ctx)
    assert filled.rucio.calls.total() == 0
    assert caplog.records == []


@pytest.mark.parametrize("path", NODES)
@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"user.rucio.bytes", errno.EOPNOTSUPP),
        (b"user.other", errno.EOPNOTSUPP),
        (b"security.x", errno.EOPNOTSUPP),
    ],
)
async def test_attributes_cannot_be_set(filled: World, path: str, name: bytes, number: int) -> None:
    ino = await filled.kernel.ino(path)
    entries = filled.cache.status()["entries"]
    with fails_with(number):
        await filled.operations.setxattr(ino, pyfuse3.XAttrNameT(name), b"1", filled.kernel.ctx)
    assert filled.cache.status()["entries"] == entries, "and nothing is forgotten"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"user.rucio.bytes", errno.EROFS),
        (b"user.other", errno.ENODATA),
        (b"system.posix_acl_access", errno.EOPNOTSUPP),
    ],
)
async def test_attributes_cannot_be_removed(filled: World, name: bytes, number: int) -> None:
    ino = await filled.kernel.ino("s/f")
    with fails_with(number):
        await filled.operations.removexattr(ino, pyfuse3.XAttrNameT(name), filled.kernel.ctx)


@pytest.mark.parametrize("name", [b"user.rucio.bytes", b"user.rucio.refresh"])
async def test_attributes_of_a_forgotten_inode(filled: World, name: bytes) -> None:
    ino = await filled.kernel.ino("s/f")
    await filled.kernel.forget_everything()
    with fails_with(errno.ESTALE):
        await filled.operations.getxattr(ino, pyfuse3.XAttrNameT(name), filled.kernel.ctx)
    with fails_with(errno.ESTALE):
        await filled.operations.setxattr(ino, pyfuse3.XAttrNameT(name), b"1", filled.kernel.ctx)
    with fails_with(errno.ESTALE):
        await filled.operations.listxattr(ino, filled.kernel.ctx)


def test_without_xattrs_the_kernel_is_told_so_once_and_for_all() -> None:
    """ENOSYS, which pyfuse3 answers where there is no handler."""
    for name in ("setxattr", "listxattr", "removexattr"):
        assert getattr(Operations, name) is getattr(pyfuse3.Operations, name)
        assert getattr(OperationsWithXattrs, name) is not getattr(pyfuse3.Operations, name)


@pytest.mark.parametrize("name", [b"user.rucio.did", b"security.selinux", b"user.x"])
async def test_without_xattrs_reading_one_says_that_there_are_none(
    filled: World, name: bytes
) -> None:
    ino = await filled.kernel.ino("s/f")
    with fails_with(errno.EOPNOTSUPP):
        await Operations.getxattr(
            filled.operations, ino, pyfuse3.XAttrNameT(name), filled.kernel.ctx
        )


# --- refreshing --------------------------------------------------------------------------------


async def refresh(world: World, path: str, value: bytes = b"1") -> None:
    ino = await world.kernel.ino(path)
    name = pyfuse3.XAttrNameT(b"user.rucio.refresh")
    await world.operations.setxattr(ino, name, value, world.kernel.ctx)


async def test_a_refreshed_dataset_shows_new_members(filled: World) -> None:
    assert await filled.kernel.listdir("s/open") == ["f"]
    filled.rucio.attach("s:open", filled.rucio.file("s:new"))
    assert await filled.kernel.listdir("s/open") == ["f"]
    await refresh(filled, "s/open", b"\xff any value")
    assert await filled.kernel.listdir("s/open") == ["f", "new"]


async def test_a_refreshed_scope_shows_new_dids(filled: World) -> None:
    before = await filled.kernel.listdir("s")
    filled.rucio.dataset("s:new")
    await refresh(filled, "s")
    assert await filled.kernel.listdir("s") == [*before, "new"]


async def test_a_refreshed_root_shows_new_scopes(filled: World) -> None:
    await filled.kernel.listdir("")
    filled.rucio.scope("new")
    await refresh(filled, "")
    assert "new" in await filled.kernel.listdir("")


async def test_a_refreshed_file_is_looked_for_again(
    filled: World, caplog: pytest.LogCaptureFixture
) -> None:
    filled.rucio.drop_replica("s:f", "COLO")
    with fails_with(errno.EAGAIN):
        await filled.kernel.open("s/f")
    filled.rucio.replica("s:f", "COLO", (filled.storage / "f").as_uri())
    await refresh(filled, "s/f")
    assert await filled.kernel.cat("s/f") == b"hello\n"
    caplog.clear()


@pytest.mark.parametrize("path", ["README.txt", ".rucio", ".rucio/status"])
async def test_what_is_no_did_is_not_refreshed(filled: World, path: str) -> None:
    with fails_with(errno.EOPNOTSUPP):
        await refresh(filled, path)
