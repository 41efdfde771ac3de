"""What the kernel has open."""

from __future__ import annotations

import pytest

from rucio_fs.did import Identity
from rucio_fs.errors import Stale
from rucio_fs.handles import HandleTable, OpenDir
from rucio_fs.nodes.base import Dir, OpenFile
from rucio_fs.nodes.control import ControlDir
from rucio_fs.sources.base import Data

NODE: Dir = ControlDir("d", {}, 0)


class Opened(OpenFile):
    def __init__(self, *, breaks: bool = False) -> None:
        self.closed = 0
        self._breaks = breaks

    async def read(self, offset: int, size: int) -> Data:
        return b""

    def close(self) -> None:
        self.closed += 1
        if self._breaks:
            raise ValueError("cannot close")


def test_a_handle_finds_what_was_opened() -> None:
    table, file, directory = HandleTable(), Opened(), OpenDir(NODE, Identity(), ())
    fh, dir_fh = table.add_file(file), table.add_dir(directory)
    assert table.file(fh) is file
    assert table.dir(dir_fh) is directory
    assert table.open_files == 1


def test_files_and_directories_share_no_number() -> None:
    table = HandleTable()
    numbers = [table.add_file(Opened()) for _ in range(3)]
    numbers += [table.add_dir(OpenDir(NODE, Identity(), ())) for _ in range(3)]
    assert len(set(numbers)) == 6
    for fh in numbers[:3]:
        with pytest.raises(Stale):
            table.dir(fh)
    for fh in numbers[3:]:
        with pytest.raises(Stale):
            table.file(fh)


def test_a_number_is_never_used_again() -> None:
    table = HandleTable()
    first = table.add_file(Opened())
    table.pop_file(first)
    assert table.add_file(Opened()) != first
    with pytest.raises(Stale):
        table.file(first)


def test_what_is_released_is_gone() -> None:
    table, file = HandleTable(), Opened()
    fh, dir_fh = table.add_file(file), table.add_dir(OpenDir(NODE, Identity(), ()))
    assert table.pop_file(fh) is file
    table.pop_dir(dir_fh)
    assert table.open_files == 0
    with pytest.raises(Stale):
        table.pop_file(fh)
    with pytest.raises(Stale):
        table.pop_dir(dir_fh)


def test_the_end_of_the_mount_closes_every_file_once() -> None:
    table, files = HandleTable(), [Opened() for _ in range(3)]
    released = Opened()
    for file in files:
        table.add_file(file)
    table.pop_file(table.add_file(released))
    table.close_all()
    table.close_all()
    assert [file.closed for file in files] == [1, 1, 1]
    assert released.closed == 0
    assert table.open_files == 0
