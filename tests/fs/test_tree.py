"""The tree through the handlers: names, inodes, attributes, and what may be missing."""

from __future__ import annotations

import errno
import os
import stat

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from rucio_fs.config import CacheConfig
from rucio_fs.errors import Denied, LoginFailed, TooSlow, Unreachable
from rucio_fs.presentation import Presentation
from tests.fakes import EPOCH_NS, SECOND
from tests.fs.conftest import GID, UID, World
from tests.fs.kernel import fails_with


@pytest.fixture
def filled(world: World) -> World:
    world.file("user.alice:f", b"hello\n")
    world.rucio.dataset("user.alice:ds", "user.alice:f")
    world.rucio.container("user.alice:top", "user.alice:ds")
    return world


# --- lookup ------------------------------------------------------------------------------------


async def test_the_root_shows_scopes_and_fixed_entries(filled: World) -> None:
    filled.rucio.scope("data")
    filled.rucio.scope("secret.scope")
    assert await filled.kernel.listdir("") == ["README.txt", ".rucio", "data", "user.alice"]


@pytest.mark.parametrize(
    "path",
    ["README.txt", ".rucio/status", "user.alice/f", "user.alice/ds", "user.alice/top/ds/f"],
)
async def test_lookup_counts_one(filled: World, path: str) -> None:
    found = await filled.kernel.walk(path)
    assert filled.kernel.refs[found.st_ino] == 1
    assert filled.operations.inodes.lookups() == filled.kernel.refs.total()
    again = await filled.kernel.walk(path)
    assert again.st_ino == found.st_ino
    assert filled.kernel.refs[found.st_ino] == 2


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "secret.scope",
        "user.alice/nothing",
        "user.alice/ds/nothing",
        "user.alice/top/f",
        "user.alice/other:f",
        "user.alice/%66",
        "user.alice/%",
        "user.alice/%~0123~x",
        ".rucio/nothing",
        "user.alice/\udcff\udcfe",
        "\udcff",
        "user.alice/ds/\udcff",
    ],
)
async def test_what_is_not_there(filled: World, path: str) -> None:
    filled.rucio.scope("secret.scope")
    with fails_with(errno.ENOENT):
        await filled.kernel.walk(path)


@pytest.mark.parametrize("parent", ["", "user.alice", "user.alice/ds", ".rucio"])
async def test_names_are_at_most_255_bytes(filled: World, parent: str) -> None:
    ino = await filled.kernel.ino(parent)
    asked = filled.rucio.calls.total()
    for name in (b"n" * 256, "ü".encode() * 128):
        with fails_with(errno.ENAMETOOLONG):
            await filled.kernel.lookup(ino, name)
    assert filled.rucio.calls.total() == asked
    with fails_with(errno.ENOENT):
        await filled.kernel.lookup(ino, b"n" * 255)


async def test_a_did_with_parents_answers_by_name_in_its_scope(filled: World) -> None:
    assert await filled.kernel.listdir("user.alice") == ["top"]
    assert (await filled.kernel.walk("user.alice/f")).st_size == 6


async def test_a_member_of_another_scope(filled: World) -> None:
    filled.file("data:f", b"another\n")
    filled.rucio.attach("user.alice:ds", "data:f")
    assert sorted(await filled.kernel.listdir("user.alice/ds")) == ["data:f", "f"]
    assert await filled.kernel.cat("user.alice/ds/data:f") == b"another\n"
    assert await filled.kernel.cat("user.alice/ds/f") == b"hello\n"


async def test_a_scope_shows_no_did_of_another(filled: World) -> None:
    filled.file("data:f")
    for name in ("data:f", "data:nothing"):
        with fails_with(errno.ENOENT):
            await filled.kernel.walk(f"user.alice/{name}")


async def test_a_file_is_one_inode_and_a_directory_one_per_path(filled: World) -> None:
    filled.rucio.container("user.alice:other", "user.alice:ds")
    ways = ["user.alice/f", "user.alice/ds/f", "user.alice/top/ds/f", "user.alice/other/ds/f"]
    assert len({await filled.kernel.ino(path) for path in ways}) == 1
    directories = ["user.alice/ds", "user.alice/top/ds", "user.alice/other/ds"]
    assert len({await filled.kernel.ino(path) for path in directories}) == 3


@pytest.mark.parametrize("path", ["user.alice/top/ds/loop", "user.alice/loop/ds/loop"])
async def test_a_container_in_itself_is_a_loop(filled: World, path: str) -> None:
    filled.rucio.container("user.alice:loop", "user.alice:ds")
    filled.rucio.attach("user.alice:ds", "user.alice:loop")
    ino = await filled.kernel.ino(path)
    if path.count("loop") == 2:
        with fails_with(errno.ELOOP):
            await filled.operations.opendir(ino, filled.kernel.ctx)
        with fails_with(errno.ELOOP):
            await filled.kernel.lookup(ino, "ds")
    else:
        assert await filled.kernel.listdir(path) == ["ds"]


async def test_a_scope_made_after_the_list_was_read(
    filled: World, autojump_clock: MockClock
) -> None:
    await filled.kernel.listdir("")
    filled.rucio.scope("new")
    await trio.sleep(10.5)  # missing_ttl
    await filled.kernel.walk("new")


async def test_a_name_that_comes_into_being(filled: World, autojump_clock: MockClock) -> None:
    for path in ("user.alice/new", "user.alice/ds/new"):
        with fails_with(errno.ENOENT):
            await filled.kernel.walk(path)
    filled.rucio.attach("user.alice:ds", filled.rucio.file("user.alice:new"))
    await trio.sleep(10.5)
    await filled.kernel.walk("user.alice/new")
    await trio.sleep(60)
    await filled.kernel.walk("user.alice/ds/new")


# --- a failing Rucio is no missing file ----------------------------------------------------------


@pytest.mark.parametrize("error", [Unreachable("away"), TooSlow("away"), Denied("no")])
@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "user.alice/nothing",
        "user.alice/ds/nothing",
        "user.alice/ds/f",
        "user.alice/top",
        "user.alice/%~0123~x",
    ],
)
async def test_no_answer_is_never_enoent(
    filled: World,
    error: Unreachable | Denied,
    path: str,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    parent = await filled.kernel.ino(os.path.dirname(path))
    await trio.sleep(20)
    filled.rucio.error = error
    with fails_with(error.errno):
        await filled.kernel.lookup(parent, os.path.basename(path))
    caplog.clear()


async def test_what_is_known_is_served_while_rucio_is_away(
    filled: World, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    await filled.kernel.listdir("user.alice/ds")
    await filled.kernel.walk("user.alice/ds/f")
    await trio.sleep(3600)
    filled.rucio.error = Unreachable("away")
    assert await filled.kernel.listdir("user.alice/ds") == ["f"]
    found = await filled.kernel.walk("user.alice/ds/f")
    assert found.st_size == 6
    assert found.entry_timeout == pytest.approx(10.0), "until the next try"
    assert "away" in caplog.text
    caplog.clear()


async def test_a_login_that_fails_is_eacces(
    filled: World, caplog: pytest.LogCaptureFixture
) -> None:
    parent = await filled.kernel.ino("user.alice")
    filled.rucio.error = LoginFailed("the token has expired")
    with fails_with(errno.EACCES):
        await filled.kernel.lookup(parent, "nothing")
    caplog.clear()


# --- attributes --------------------------------------------------------------------------------


async def test_a_file_and_a_directory_as_stat_shows_them(filled: World) -> None:
    file = await filled.kernel.walk("user.alice/ds/f")
    assert stat.filemode(file.st_mode) == "-r--r--r--"
    assert (file.st_uid, file.st_gid, file.st_nlink) == (UID, GID, 1)
    assert (file.st_size, file.st_blocks, file.st_mtime_ns) == (6, 1, EPOCH_NS)
    directory = await filled.kernel.walk("user.alice/ds")
    assert stat.filemode(directory.st_mode) == "dr-xr-xr-x"
    assert (directory.st_uid, directory.st_gid, directory.st_nlink) == (UID, GID, 1)
    assert directory.st_mtime_ns == EPOCH_NS + SECOND, "the file was attached then"


async def test_bits_of_the_umask_are_taken_away(filled: World) -> None:
    filled.operations._presentation = Presentation(UID, GID, umask=0o027)
    for path, mode in [("user.alice", 0o550), ("user.alice/f", 0o440), (".rucio/refresh", 0o200)]:
        assert stat.S_IMODE((await filled.kernel.walk(path)).st_mode) == mode


@pytest.mark.parametrize(
    "path", ["", "README.txt", ".rucio", "user.alice", "user.alice/ds", "user.alice/ds/f"]
)
async def test_getattr_says_what_lookup_said(filled: World, path: str) -> None:
    found = await filled.kernel.walk(path) if path else None
    ino = found.st_ino if found else pyfuse3.ROOT_INODE
    attr = await filled.operations.getattr(ino, filled.kernel.ctx)
    assert attr.st_ino == ino
    if found:
        for field in ("st_mode", "st_size", "st_mtime_ns", "st_uid", "st_nlink"):
            assert getattr(attr, field) == getattr(found, field)
        assert attr.attr_timeout == pytest.approx(found.attr_timeout, abs=1)
    assert filled.operations.inodes.lookups() == filled.kernel.refs.total()


async def test_the_kernel_keeps_attributes_as_long_as_the_answer_counts(
    filled: World, autojump_clock: MockClock
) -> None:
    found = await filled.kernel.walk("user.alice/ds")
    assert found.attr_timeout == pytest.approx(60.0)
    await trio.sleep(45)
    found = await filled.kernel.walk("user.alice/ds")
    assert found.attr_timeout == pytest.approx(15.0)
    assert (await filled.kernel.walk("user.alice/f")).attr_timeout == pytest.approx(86400.0)
    assert (await filled.kernel.walk(".rucio/status")).attr_timeout == 0.0


async def test_a_forgotten_inode_is_stale(filled: World) -> None:
    ino = await filled.kernel.ino("user.alice/ds/f")
    await filled.kernel.forget_everything()
    with fails_with(errno.ESTALE):
        await filled.operations.getattr(ino, filled.kernel.ctx)
    with fails_with(errno.ESTALE):
        await filled.operations.open(ino, os.O_RDONLY, filled.kernel.ctx)


async def test_an_inode_lives_until_its_last_reference_goes(filled: World) -> None:
    ino = await filled.kernel.ino("user.alice/f")
    await filled.kernel.walk("user.alice/f")
    await filled.operations.forget([(ino, 1)])
    filled.kernel.refs[ino] -= 1
    await filled.operations.getattr(ino, filled.kernel.ctx)


async def test_a_file_deleted_from_rucio(filled: World, autojump_clock: MockClock) -> None:
    ino = await filled.kernel.ino("user.alice/ds/f")
    filled.rucio.delete("user.alice:f")
    filled.cache.forget_all()
    with fails_with(errno.ENOENT):
        await filled.kernel.walk("user.alice/ds/f")
    with fails_with(errno.ENOENT):
        await filled.operations.open(ino, os.O_RDONLY, filled.kernel.ctx)


async def test_statfs(filled: World) -> None:
    found = await filled.operations.statfs(filled.kernel.ctx)
    assert (found.f_namemax, found.f_bsize > 0, found.f_frsize > 0) == (255, True, True)


# --- the tree is read-only ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "user.alice", "user.alice/ds", ".rucio"])
async def test_every_change_is_refused(filled: World, path: str) -> None:
    ino, file = await filled.kernel.ino(path), await filled.kernel.ino("user.alice/f")
    ops, ctx = filled.operations, filled.kernel.ctx
    new, old = pyfuse3.FileNameT(b"new \xff"), pyfuse3.FileNameT(b"f")
    refs = ops.inodes.lookups()
    for change in (
        lambda: ops.create(ino, new, 0o644, os.O_WRONLY, ctx),
        lambda: ops.mknod(ino, new, stat.S_IFIFO | 0o644, 0, ctx),
        lambda: ops.mkdir(ino, new, 0o755, ctx),
        lambda: ops.symlink(ino, new, b"target", ctx),
        lambda: ops.link(file, ino, new, ctx),
        lambda: ops.unlink(ino, old, ctx),
        lambda: ops.rmdir(ino, old, ctx),
        lambda: ops.rename(ino, old, ino, new, 0, ctx),
    ):
        with fails_with(errno.EROFS):
            await change()
    assert ops.inodes.lookups() == refs


@pytest.mark.parametrize(
    "path", ["", "README.txt", ".rucio/status", "user.alice", "user.alice/ds", "user.alice/f"]
)
@pytest.mark.parametrize("change", ["size", "to 0 bytes", "mode"])
async def test_attributes_cannot_be_changed(filled: World, path: str, change: str) -> None:
    ino = await filled.kernel.ino(path)

    class Fields(pyfuse3.SetattrFields):
        @property
        def update_size(self) -> bool:
            return change != "mode"

    attr = pyfuse3.EntryAttributes()
    attr.st_size = 10 if change == "size" else 0
    with fails_with(errno.EROFS):
        await filled.operations.setattr(ino, attr, Fields(), None, filled.kernel.ctx)


async def test_a_name_missing_from_a_closed_dataset_is_looked_for_once_it_is_open_again(
    world: World, autojump_clock: MockClock
) -> None:
    world.rucio.file("s:f", b"f")
    world.rucio.dataset("s:ds", "s:f")
    world.rucio.close_did("s:ds")
    with fails_with(errno.ENOENT):
        await world.kernel.walk("s/ds/late")
    world.rucio.file("s:late", b"late")
    world.rucio.open_did("s:ds")
    world.rucio.attach("s:ds", "s:late")
    await trio.sleep(CacheConfig().missing_ttl + 1)
    asked = world.rucio.calls.total()
    assert (await world.kernel.walk("s/ds/late")).st_size == 4
    assert world.rucio.calls.total() - asked == 3  # is it open?  its members; the time of one


async def test_a_directory_named_by_its_scope_is_another_directory(world: World) -> None:
    world.rucio.dataset("s:ds")
    plain, full = await world.kernel.walk("s/ds"), await world.kernel.walk("s/s:ds")
    assert plain.st_ino != full.st_ino
    assert (await world.kernel.walk("s/ds")).st_ino == plain.st_ino
