"""The staging area: items, what the overseer hears, and what is refused."""

from __future__ import annotations

import errno
import gc
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rucio_fs.errors import (
    NoAttribute,
    NotFound,
    NotPermitted,
    Sealed,
    StagingError,
    Stale,
    UsageError,
)
from rucio_fs.scratch import files as files_module
from rucio_fs.scratch import syscalls
from rucio_fs.scratch.area import LAKE_MARK
from rucio_fs.scratch.files import StagedFile, backing_flags
from rucio_fs.scratch.items import Item
from rucio_fs.scratch.staging import Staging
from tests.unit.scratch.conftest import Listener

WRITE = os.O_WRONLY | os.O_CREAT


def scope(staging: Staging) -> Item:
    return staging.items.scope("s")


def create(staging: Staging, name: str, parent: Item | None = None) -> tuple[Item, StagedFile]:
    item, _, file = staging.files.create(parent or scope(staging), name, 0o644, WRITE)
    return item, file


def file(staging: Staging, name: str, data: bytes = b"data", parent: Item | None = None) -> Item:
    item, opened = create(staging, name, parent)
    os.pwrite(opened.fd, data, 0)
    opened.close()
    return item


def mkdir(staging: Staging, name: str, parent: Item | None = None) -> Item:
    return staging.directories.mkdir(parent or scope(staging), name, 0o755)[0]


# --- items -------------------------------------------------------------------------------------


def test_a_moved_directory_takes_along_all_below(staging: Staging) -> None:
    outer = mkdir(staging, "a")
    inner = mkdir(staging, "b", outer)
    deep = file(staging, "f", parent=inner)
    staging.directories.rename(scope(staging), "a", scope(staging), "z", 0)
    assert deep.path == "s/z/b/f"
    found = staging.attributes.stat(deep)
    assert found is not None
    assert found.st_size == 4


def test_the_same_file_is_one_item_and_one_key(staging: Staging) -> None:
    item = file(staging, "f")
    again, _ = staging.directories.find(scope(staging), "f")
    assert again is item
    staging.directories.rename(scope(staging), "f", scope(staging), "g", 0)
    assert staging.directories.find(scope(staging), "g")[0] is item
    key = item.key
    del item, again
    gc.collect()
    assert len(staging.items) == 0
    assert staging.directories.find(scope(staging), "g")[0].key == key, "also for another mount"


async def test_a_number_that_the_disk_uses_again_is_another_node(staging: Staging) -> None:
    """The kernel may still refer to the old one."""
    old = file(staging, "f")
    await staging.directories.unlink(scope(staging), "f")
    kept = [staging.items.at(scope(staging), f"new{i}", old.ino) for i in range(2)]
    assert kept[0] is kept[1]
    assert kept[0].key != old.key
    kept[0].removed = old.removed
    third = staging.items.at(scope(staging), "third", old.ino)
    assert len({old.key, kept[0].key, third.key}) == 3
    del old, kept
    gc.collect()
    fourth = staging.items.at(scope(staging), "fourth", third.ino)
    assert fourth is third


async def test_a_removed_file_lives_on_while_it_is_open(staging: Staging) -> None:
    item, opened = create(staging, "f")
    await staging.directories.unlink(scope(staging), "f")
    assert await opened.write(0, b"more") == 4
    staging.attributes.set_mode(item, 0o600)
    staging.attributes.set_times(item, None, 7)
    staging.attributes.set_xattr(item, "user.x", b"1")
    staging.files.truncate(item, 3, None)
    other = staging.files.open(item, os.O_RDONLY)
    assert bytes(await other.read(0, 10)) == b"mor"
    found = staging.attributes.stat(item)
    assert found is not None
    assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_nlink) == (3, 0o600, 0)
    assert staging.attributes.xattr(item, "user.x") == b"1"
    other.close()
    opened.close()
    assert staging.attributes.stat(item) is item.removed
    with pytest.raises(Stale):
        staging.files.open(item, os.O_RDONLY)


async def test_what_was_written_over_is_removed(staging: Staging) -> None:
    old = file(staging, "old", b"old bytes")
    opened = staging.files.open(old, os.O_RDONLY)
    new = file(staging, "new", b"new bytes")
    staging.directories.rename(scope(staging), "new", scope(staging), "old", 0)
    assert old.removed is not None
    assert new.path == "s/old"
    assert bytes(await opened.read(0, 9)) == b"old bytes"
    opened.close()


def test_an_exchange_swaps_two_items(staging: Staging) -> None:
    one, other = file(staging, "one"), mkdir(staging, "other")
    below = file(staging, "below", parent=other)
    staging.directories.rename(scope(staging), "one", other, "below", syscalls.EXCHANGE)
    assert (one.path, below.path) == ("s/other/below", "s/one")
    assert (staging.tree / "s/one").read_bytes() == b"data"


def test_something_else_in_its_place_is_stale(staging: Staging) -> None:
    item = file(staging, "f")
    other = file(staging, "g")
    os.rename(staging.tree / "s/g", staging.tree / "s/f")
    with pytest.raises(Stale):
        staging.attributes.stat(item)
    assert staging.directories.find(scope(staging), "f")[0] is other


# --- scopes ------------------------------------------------------------------------------------


def test_a_scope_is_made_by_whoever_writes_in_it_first(
    staging: Staging, listener: Listener
) -> None:
    item = scope(staging)
    assert staging.attributes.stat(item) is None
    assert staging.directories.names(item) == []
    assert staging.attributes.xattr_names(item) == []
    with pytest.raises(NoAttribute):
        staging.attributes.xattr(item, "user.x")
    with pytest.raises(NotFound):
        staging.directories.find(item, "f")
    assert staging.directories.scopes() == []
    assert listener.taken() == []
    staging.directories.symlink(item, "l", "target")
    assert staging.directories.scopes() == ["s"]
    assert listener.taken() == [("changed", "s"), ("changed", "s/l")]


def test_a_directory_that_is_not_there_is_no_scope_to_be_made(staging: Staging) -> None:
    gone = mkdir(staging, "d")
    os.rmdir(staging.tree / "s/d")
    with pytest.raises(NotFound):
        create(staging, "f", gone)


def test_moving_into_a_scope_makes_it(staging: Staging) -> None:
    item = file(staging, "f")
    staging.directories.rename(scope(staging), "f", staging.items.scope("other"), "g", 0)
    assert item.path == "other/g"
    assert (staging.tree / "other/g").exists()


def test_a_collection_of_the_lake_is_marked_and_so_looked_into(staging: Staging) -> None:
    directories = staging.directories
    assert directories.may_be_in_lake(scope(staging))
    plain = mkdir(staging, "plain")
    assert not directories.may_be_in_lake(plain)
    item, found = directories.adopt(scope(staging), "run1")
    assert stat.S_ISDIR(found.st_mode)
    assert directories.may_be_in_lake(item)
    assert staging.attributes.xattr_names(item) == []
    with pytest.raises(NoAttribute):
        staging.attributes.xattr(item, LAKE_MARK)
    with pytest.raises(NotPermitted):
        staging.attributes.set_xattr(item, LAKE_MARK, b"0")
    with pytest.raises(NoAttribute):
        staging.attributes.remove_xattr(item, LAKE_MARK)
    again, _ = directories.adopt(scope(staging), "plain")
    assert again is plain
    assert not directories.may_be_in_lake(plain), "what somebody made here is no collection"


# --- what the overseer hears -------------------------------------------------------------------


async def test_a_file_s_life(staging: Staging, listener: Listener) -> None:
    item, opened = create(staging, "f")
    assert listener.taken() == [("changed", "s"), ("changed", "s/f")]
    other = staging.files.open(item, os.O_RDWR)
    assert listener.taken() == [("before_write", "s/f", item.ino)]
    opened.close()
    assert staging.is_open_for_writing(item.ino)
    other.close()
    assert not staging.is_open_for_writing(item.ino)
    assert listener.taken() == [("changed", "s/f")] * 2
    staging.files.open(item, os.O_RDONLY).close()
    assert listener.taken() == []
    staging.files.open(item, os.O_RDONLY | os.O_TRUNC).close()
    assert listener.taken() == [("before_write", "s/f", item.ino), ("changed", "s/f")]
    staging.files.truncate(item, 7, None)
    assert listener.taken() == [("before_write", "s/f", item.ino), ("changed", "s/f")]
    staging.attributes.set_mode(item, 0o600)
    staging.attributes.set_xattr(item, "user.x", b"1")
    staging.attributes.remove_xattr(item, "user.x")
    staging.attributes.set_times(item, 1, None)
    staging.attributes.set_owner(item, os.geteuid(), None)
    assert listener.taken() == [("changed", "s/f")] * 5
    await staging.directories.unlink(scope(staging), "f")
    assert listener.taken() == [
        ("before_unlink", "s/f", item.ino),
        ("removed", "s/f", item.ino),
        ("changed", "s/f"),
    ]


async def test_what_has_no_name_is_nobodys_matter(staging: Staging, listener: Listener) -> None:
    item, opened = create(staging, "f")
    await staging.directories.unlink(scope(staging), "f")
    listener.taken()
    staging.files.truncate(item, 3, opened)
    staging.attributes.set_mode(item, 0o600)
    staging.files.open(item, os.O_RDWR).close()
    opened.close()
    assert listener.taken() == []


def test_moves(staging: Staging, listener: Listener) -> None:
    one, other = file(staging, "one"), file(staging, "other")
    directory = mkdir(staging, "d")
    listener.taken()
    staging.directories.rename(scope(staging), "one", directory, "new", 0)
    moved = [("renamed", "s/one", "s/d/new"), ("changed", "s/one"), ("changed", "s/d/new")]
    assert listener.taken() == [("before_rename", "s/one", one.ino, False, None), *moved]
    staging.directories.rename(scope(staging), "other", directory, "new", 0)
    assert listener.taken() == [
        ("before_rename", "s/other", other.ino, False, ("s/d/new", one.ino)),
        ("removed", "s/d/new", one.ino),
        ("renamed", "s/other", "s/d/new"),
        ("changed", "s/other"),
        ("changed", "s/d/new"),
    ]
    third = file(staging, "third")
    listener.taken()
    staging.directories.rename(scope(staging), "third", scope(staging), "d", syscalls.EXCHANGE)
    assert listener.taken() == [
        ("before_rename", "s/third", third.ino, False, None),
        ("before_rename", "s/d", directory.ino, True, None),
        ("exchanged", "s/third", "s/d"),
        ("changed", "s/third"),
        ("changed", "s/d"),
    ]


def test_removing_a_directory(staging: Staging, listener: Listener) -> None:
    mkdir(staging, "d")
    listener.taken()
    staging.directories.rmdir(scope(staging), "d")
    assert listener.taken() == [("before_rmdir", "s/d"), ("changed", "s/d")]


async def test_what_the_overseer_forbids_is_not_done(staging: Staging, listener: Listener) -> None:
    item, other = file(staging, "f"), file(staging, "g")
    mkdir(staging, "d")
    listener.forbids = Sealed("s/f is in the lake")
    top, files, directories = scope(staging), staging.files, staging.directories
    for change in (
        lambda: files.open(item, os.O_WRONLY),
        lambda: files.open(item, os.O_RDONLY | os.O_TRUNC),
        lambda: files.truncate(item, 0, None),
        lambda: files.create(top, "f", 0o644, WRITE | os.O_TRUNC),
        lambda: directories.rename(top, "f", top, "g", 0),
        lambda: directories.rename(top, "f", top, "g", syscalls.EXCHANGE),
        lambda: directories.rmdir(top, "d"),
    ):
        with pytest.raises(Sealed):
            change()
    with pytest.raises(Sealed):
        await directories.unlink(top, "f")
    assert (item.path, other.path) == ("s/f", "s/g")
    assert sorted(os.listdir(staging.tree / "s")) == ["d", "f", "g"]
    assert (staging.tree / "s/f").read_bytes() == b"data"
    assert not staging.is_open_for_writing(item.ino)


# --- creating and opening ----------------------------------------------------------------------


def test_what_has_just_appeared_is_opened_unless_that_is_excluded(staging: Staging) -> None:
    file(staging, "f", b"data")
    item, found, opened = staging.files.create(scope(staging), "f", 0o600, WRITE)
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == (4, 0o644)
    opened.close()
    with pytest.raises(StagingError) as caught:
        staging.files.create(scope(staging), "f", 0o600, WRITE | os.O_EXCL)
    assert caught.value.errno == errno.EEXIST
    assert item.fds == []


@pytest.mark.parametrize("mode", [0o666, 0o777, 0o600, 0o1777])
def test_the_umask_of_this_process_is_no_matter(
    area: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    before = os.umask(0o077)
    try:
        staging = Staging.open(area)
        _, found, opened = staging.files.create(scope(staging), "f", mode, WRITE)
        _, made = staging.directories.mkdir(scope(staging), "d", mode)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert (stat.S_IMODE(found.st_mode), stat.S_IMODE(made.st_mode)) == (mode, mode)
    opened.close()
    staging.close()


def test_the_kernel_appends_and_syncs_itself() -> None:
    dropped = os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_DIRECT
    kept = os.O_RDWR | os.O_TRUNC | os.O_NOATIME
    assert backing_flags(dropped | kept) == kept | os.O_CLOEXEC | os.O_NOFOLLOW


@pytest.mark.parametrize("size", [1, files_module.SMALL - 1, files_module.SMALL, 3 << 20])
async def test_bytes_written_are_bytes_read(staging: Staging, size: int) -> None:
    _, _, opened = staging.files.create(scope(staging), "f", 0o600, os.O_RDWR | os.O_CREAT)
    data = os.urandom(size)
    assert await opened.write(5, data) == size
    await opened.fsync(data_only=True)
    await opened.fsync(data_only=False)
    assert bytes(await opened.read(0, size + 4096)) == b"\0" * 5 + data
    assert bytes(await opened.read(size, 4096)) == (b"\0" * 5 + data)[size:]
    assert bytes(await opened.read(size + 5, 4096)) == b""
    assert bytes(await opened.read(1 << 40, 1)) == b""
    opened.close()


async def test_the_disk_begins_early_with_what_is_written_in_order(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_EARLY", 3 << 20)
    begun: list[tuple[int, int]] = []
    whole = syscalls.begin_sync

    def begin_sync(fd: int, offset: int, size: int) -> None:
        whole(fd, offset, size)
        begun.append((offset >> 20, size >> 20))

    monkeypatch.setattr(syscalls, "begin_sync", begin_sync)
    _, opened = create(staging, "f")
    data = os.urandom(1 << 20)
    for at in (0, 1, 2, 3, 4, 7, 9, 8, 9, 10, 11):  # MiB
        await opened.write(at << 20, data)
    assert begun == [(0, 3), (8, 3)]
    opened.close()
    expected = data * 5 + bytes(2 << 20) + data + data * 4
    assert (staging.tree / "s/f").read_bytes() == expected


async def test_a_full_disk_takes_what_it_can_and_then_says_so(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, opened = create(staging, "f")
    room = 5
    whole = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = whole(fd, bytes(data[: min(room, 3)]), offset)
        room -= written
        return written

    monkeypatch.setattr(os, "pwrite", full)
    assert await opened.write(0, b"0123456789") == 5
    with pytest.raises(StagingError, match="scratch/s/f: No space left") as caught:
        await opened.write(5, b"56789")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert (staging.tree / "s/f").read_bytes() == b"01234"
    opened.close()


def test_attributes_that_do_not_fit_are_no_full_disk(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = file(staging, "f")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "f")

    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", full)
        with pytest.raises(StagingError) as caught:
            staging.attributes.set_xattr(item, "user.x", b"1")
    assert (caught.value.errno, caught.value.level) == (errno.ENOSPC, logging.INFO)


async def test_large_files_are_removed_too(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rucio_fs.scratch.directories._MANY_BLOCKS", 0)
    item = file(staging, "f")
    await staging.directories.unlink(scope(staging), "f")
    assert item.removed is not None
    assert os.listdir(staging.tree / "s") == []
    with pytest.raises(NotFound):
        await staging.directories.unlink(scope(staging), "f")


def test_a_failed_change_leaves_the_items_as_they_were(staging: Staging) -> None:
    full = mkdir(staging, "full")
    below = file(staging, "f", parent=full)
    other = mkdir(staging, "other")
    with pytest.raises(StagingError) as caught:
        staging.directories.rename(scope(staging), "other", scope(staging), "full", 0)
    assert caught.value.errno == errno.ENOTEMPTY
    assert (full.removed, other.path, below.path) == (None, "s/other", "s/full/f")
    with pytest.raises(StagingError) as caught:
        staging.directories.rename(scope(staging), "full", other, "f", syscalls.NOREPLACE | 1 << 7)
    assert caught.value.errno == errno.EINVAL


# --- the directory and its lock ----------------------------------------------------------------


def test_a_second_mount_is_refused_with_the_pid_of_the_first(area: Path) -> None:
    first = Staging.open(area)
    try:
        code = f"from pathlib import Path; from rucio_fs.scratch.staging import Staging\n\
Staging.open(Path({str(area)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"used by the mount with pid {os.getpid()}: give each mount" in done.stderr
        with pytest.raises(UsageError, match=r"scratch\.dir"):
            Staging.open(area)
    finally:
        first.close()
    Staging.open(area).close()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Not a directory"):
        Staging.open(tmp_path / "file" / "area")


def test_df(staging: Staging) -> None:
    assert staging.statvfs().f_blocks == os.statvfs(staging.tree).f_blocks
