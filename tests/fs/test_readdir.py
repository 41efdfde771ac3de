"""Directories being read: offsets, rewinding, changes meanwhile, references exact to one."""

from __future__ import annotations

import errno
import os
import stat

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DID
from rucio_fs.errors import Unreachable
from tests.fakes import EPOCH_NS
from tests.fs.conftest import World
from tests.fs.kernel import Shown, fails_with

NAMES = [f"f{i}" for i in range(7)]
STRANGE = ["a/b", "..", ".", "50%", "a:b", "new\nline", "ü", "\udcff", "n" * 300, "ü" * 200, " "]


@pytest.fixture
def filled(world: World) -> World:
    world.rucio.dataset("s:ds", *(world.rucio.file(f"s:{name}", size=3) for name in NAMES))
    return world


async def opendir(world: World, path: str) -> int:
    return await world.operations.opendir(await world.kernel.ino(path), world.kernel.ctx)


def named(shown: list[Shown]) -> list[str]:
    return [os.fsdecode(entry.name) for entry in shown]


# --- what is shown -----------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 2, 3, 5, 100])
async def test_a_directory_is_read_whole_in_pages_of_any_size(filled: World, room: int) -> None:
    fh = await opendir(filled, "s/ds")
    shown = await filled.kernel.read_all(fh, room)
    assert named(shown) == [".", "..", *NAMES]
    assert [entry.next_id for entry in shown] == list(range(1, 10))


async def test_only_what_went_out_is_counted(filled: World) -> None:
    fh = await opendir(filled, "s/ds")
    before = filled.operations.inodes.lookups()
    assert len(await filled.kernel.readdir(fh, 0, room=5)) == 5
    assert filled.operations.inodes.lookups() == before + 3, "the dots are not counted"
    assert await filled.kernel.readdir(fh, 5, room=0) == []
    assert filled.operations.inodes.lookups() == before + 3


async def test_entries_say_what_lookup_says(filled: World) -> None:
    await filled.kernel.walk("s/ds/f0")
    await filled.kernel.walk("s/ds/f1")  # the second one asks for all
    fh = await opendir(filled, "s/ds")
    for entry in (await filled.kernel.read_all(fh))[2:]:
        found = await filled.kernel.walk(f"s/ds/{os.fsdecode(entry.name)}")
        assert (entry.ino, entry.mode, entry.size, entry.mtime_ns) == (
            found.st_ino,
            found.st_mode,
            found.st_size,
            found.st_mtime_ns,
        )
        assert stat.S_ISREG(entry.mode)
        assert (entry.size, entry.mtime_ns) == (3, EPOCH_NS)


async def test_attributes_that_are_not_known_yet_do_not_count(filled: World) -> None:
    """Then the kernel asks before it shows them; a listing of Rucio brings no times."""
    fh = await opendir(filled, "s/ds")
    shown = (await filled.kernel.read_all(fh))[2:]
    assert {entry.attr_timeout for entry in shown} == {0.0}
    assert all(entry.entry_timeout > 0 for entry in shown), "that there are such names is known"
    found = await filled.operations.getattr(shown[3].ino, filled.kernel.ctx)
    assert (found.st_mtime_ns, found.st_size) == (EPOCH_NS, 3)
    assert found.attr_timeout > 0


async def test_listing_with_attributes_costs_two_questions(filled: World) -> None:
    ino = await filled.kernel.ino("s/ds")
    filled.rucio.calls.clear()
    fh = await filled.operations.opendir(ino, filled.kernel.ctx)
    for entry in (await filled.kernel.read_all(fh))[2:]:
        await filled.operations.getattr(entry.ino, filled.kernel.ctx)
    assert filled.rucio.calls == {"content": 1, "infos": 1}


async def test_the_dots_are_the_directory(filled: World) -> None:
    ino = await filled.kernel.ino("s/ds")
    fh = await filled.operations.opendir(ino, filled.kernel.ctx)
    here, _above = await filled.kernel.readdir(fh, 0, room=2)
    assert here.ino == ino
    assert stat.S_ISDIR(here.mode)


@pytest.mark.parametrize("name", STRANGE)
async def test_names_that_are_no_filenames_round_trip(world: World, name: str) -> None:
    world.rucio.dataset("s:ds", world.rucio.file(DID("s", name), size=5))
    (filename,) = await world.kernel.listdir("s/ds")
    assert len(os.fsencode(filename)) <= 255
    assert "/" not in filename
    found = await world.kernel.walk(f"s/ds/{filename}")
    assert found.st_size == 5
    alone = await world.kernel.walk("s")
    if not filename.startswith("%~"):  # those only a listing knows
        assert (await world.kernel.lookup(alone.st_ino, filename)).st_ino == found.st_ino


async def test_an_empty_dataset(world: World) -> None:
    world.rucio.dataset("s:ds")
    assert await world.kernel.listdir("s/ds") == []


# --- offsets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [9, 10, 1000, 1 << 40])
async def test_behind_the_end_there_is_nothing(filled: World, offset: int) -> None:
    assert await filled.kernel.readdir(await opendir(filled, "s/ds"), offset) == []


async def test_any_offset_that_was_told_leads_on(filled: World) -> None:
    """telldir and seekdir, and NFS, which comes back after hours."""
    fh = await opendir(filled, "s/ds")
    shown = await filled.kernel.read_all(fh)
    for position, entry in reversed(list(enumerate(shown))):
        rest = await filled.kernel.readdir(fh, entry.next_id)
        assert named(rest) == named(shown)[position + 1 :]


async def test_an_open_directory_does_not_change_while_it_is_read(filled: World) -> None:
    fh = await opendir(filled, "s/ds")
    first = await filled.kernel.readdir(fh, 0, room=4)
    filled.rucio.detach("s:ds", "s:f0")
    filled.rucio.attach("s:ds", filled.rucio.file("s:new"))
    filled.cache.forget_all()
    rest = await filled.kernel.readdir(fh, first[-1].next_id)
    assert named(first + rest) == [".", "..", *NAMES]


async def test_rewinding_shows_what_is_there_now(filled: World) -> None:
    fh = await opendir(filled, "s/ds")
    await filled.kernel.read_all(fh)
    filled.rucio.detach("s:ds", "s:f0")
    filled.rucio.attach("s:ds", filled.rucio.file("s:new"))
    filled.cache.forget_all()
    assert named(await filled.kernel.read_all(fh, 3)) == [".", "..", *NAMES[1:], "new"]


async def test_the_first_read_is_no_rewinding(filled: World) -> None:
    ino = await filled.kernel.ino("s/ds")
    fh = await filled.operations.opendir(ino, filled.kernel.ctx)
    filled.cache.forget_all()
    asked = filled.rucio.calls["content"]
    await filled.kernel.read_all(fh)
    assert filled.rucio.calls["content"] == asked


async def test_rewinding_while_rucio_is_away(
    filled: World, caplog: pytest.LogCaptureFixture
) -> None:
    fh = await opendir(filled, "s/ds")
    shown = await filled.kernel.read_all(fh)
    filled.cache.forget_all()
    filled.rucio.error = Unreachable("away")
    with fails_with(errno.EREMOTEIO):
        await filled.kernel.readdir(fh, 0)
    assert named(await filled.kernel.readdir(fh, 5)) == named(shown)[5:]
    filled.rucio.error = None
    assert named(await filled.kernel.readdir(fh, 0)) == named(shown)
    caplog.clear()


async def test_two_readers_of_one_directory(filled: World) -> None:
    one, other = await opendir(filled, "s/ds"), await opendir(filled, "s/ds")
    assert one != other
    first = await filled.kernel.readdir(one, 0, room=4)
    assert named(await filled.kernel.read_all(other)) == [".", "..", *NAMES]
    await filled.operations.releasedir(other)
    assert named(await filled.kernel.readdir(one, first[-1].next_id)) == NAMES[2:]


# --- handles -----------------------------------------------------------------------------------


async def test_a_released_directory_is_stale(filled: World) -> None:
    fh = await opendir(filled, "s/ds")
    await filled.operations.releasedir(fh)
    with fails_with(errno.ESTALE):
        await filled.kernel.readdir(fh, 0)
    with fails_with(errno.ESTALE):
        await filled.operations.releasedir(fh)


async def test_a_file_is_no_directory(filled: World) -> None:
    ino = await filled.kernel.ino("s/ds/f0")
    with fails_with(errno.ENOTDIR):
        await filled.operations.opendir(ino, filled.kernel.ctx)
    with fails_with(errno.ENOTDIR):
        await filled.kernel.lookup(ino, "x")


async def test_a_listing_that_takes_too_long_for_nobody_else(
    filled: World, autojump_clock: MockClock
) -> None:
    """One slow directory, and the rest of the tree answers."""
    filled.rucio.dataset("s:slow")
    slow = await filled.kernel.ino("s/slow")
    done = []

    async def read_slow() -> None:
        fh = await filled.operations.opendir(slow, filled.kernel.ctx)
        await filled.operations.releasedir(fh)
        done.append("slow")

    filled.rucio.blocked = trio.Event()
    async with trio.open_nursery() as tasks:
        tasks.start_soon(read_slow)
        await trio.testing.wait_all_tasks_blocked()
        blocked, filled.rucio.blocked = filled.rucio.blocked, None
        assert await filled.kernel.listdir("s/ds") == NAMES
        assert done == []
        blocked.set()
    assert done == ["slow"]


async def test_the_end_of_the_mount_gives_back_what_is_open(filled: World) -> None:
    await opendir(filled, "s/ds")
    filled.operations.handles.close_all()
    with fails_with(errno.ESTALE):
        await filled.kernel.readdir(pyfuse3.FileHandleT(1), 0)
