"""Writing past the page cache, and as it is always done where that is refused."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rucio_fs.diskcache.direct import DirectWriter

PAGE = 4096
DATA = os.urandom(5 * PAGE + 100)


@pytest.fixture
def memory() -> memoryview:
    """The data at the beginning of a page, as streams have it."""
    pages = mmap.mmap(-1, len(DATA))
    pages[:] = DATA
    return memoryview(pages)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[DirectWriter]:
    fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    writer = DirectWriter(fd)
    yield writer
    writer.close()
    os.close(fd)


@pytest.fixture
def calls(writer: DirectWriter, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int, int]]:
    """Writes that were made: whether past the page cache, where, and how long."""
    pwrite = os.pwrite
    made: list[tuple[bool, int, int]] = []

    def noted(fd: int, data: memoryview, offset: int) -> int:
        made.append((fd != writer.fd, offset, len(data)))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    return made


def takes_direct(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    return True


def test_whole_pages_go_past_the_page_cache(
    writer: DirectWriter, memory: memoryview, calls: list[tuple[bool, int, int]], tmp_path: Path
) -> None:
    if not takes_direct(tmp_path / "probe"):
        pytest.skip("this filesystem has no O_DIRECT")
    writer.write(PAGE, memory)
    assert calls == [(True, PAGE, 5 * PAGE), (False, 6 * PAGE, 100)]
    assert (tmp_path / "data").read_bytes() == bytes(PAGE) + DATA


@pytest.mark.parametrize("offset", [1, 100, PAGE - 1, PAGE + 1])
def test_what_does_not_begin_with_a_page_does_not(
    offset: int,
    writer: DirectWriter,
    memory: memoryview,
    calls: list[tuple[bool, int, int]],
    tmp_path: Path,
) -> None:
    writer.write(offset, memory)
    assert calls == [(False, offset, len(DATA))]
    assert (tmp_path / "data").read_bytes() == bytes(offset) + DATA


def test_less_than_a_page_does_not(
    writer: DirectWriter, memory: memoryview, calls: list[tuple[bool, int, int]]
) -> None:
    writer.write(0, memory[: PAGE - 1])
    assert calls == [(False, 0, PAGE - 1)]


def test_its_file_may_have_another_name_or_none(
    writer: DirectWriter, memory: memoryview, tmp_path: Path
) -> None:
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "data").write_bytes(b"another file")
    writer.write(0, memory)
    assert (tmp_path / "data").read_bytes() == b"another file"
    assert (tmp_path / "elsewhere").read_bytes() == DATA


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("refused", ["open", "pwrite"])
def test_a_filesystem_that_refuses_is_asked_once(
    refused: str,
    number: int,
    writer: DirectWriter,
    memory: memoryview,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    call: Callable[..., Any] = getattr(os, refused)
    asked = 0

    def refuse(first: Any, *rest: Any, **others: Any) -> Any:
        nonlocal asked
        if first == writer.fd:
            return call(first, *rest, **others)
        asked += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, refused, refuse)
    writer.write(0, memory)
    writer.write(len(DATA) // PAGE * PAGE, memory)
    assert asked == 1
    monkeypatch.undo()
    assert (tmp_path / "data").read_bytes() == DATA[: 5 * PAGE] + DATA


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_trouble_with_the_disk_is_told(
    number: int, writer: DirectWriter, memory: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match=r"\S") as caught:
        writer.write(0, memory)
    assert caught.value.errno == number


def test_short_writes_are_completed(
    writer: DirectWriter, memory: memoryview, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:PAGE], offset))
    writer.write(0, memory)
    assert (tmp_path / "data").read_bytes() == DATA


def test_nothing_stays_open(writer: DirectWriter, memory: memoryview) -> None:
    before = len(os.listdir("/proc/self/fd"))
    writer.write(0, memory)
    writer.close()
    writer.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_its_name_tells_how_it_writes(writer: DirectWriter) -> None:
    assert "past the page cache" in repr(writer)
