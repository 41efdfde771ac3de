"""The file that says what is there: read as it was written, or not believed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rucio_fs.diskcache import maps
from rucio_fs.diskcache.maps import Map, this_boot
from rucio_fs.diskcache.segments import Segment

U64 = st.integers(0, (1 << 64) - 1)
MAPS = st.builds(
    Map,
    did=st.text(max_size=30),
    size=st.integers(0, 1 << 60),
    adler32=st.none() | st.text(max_size=8),
    md5=st.none() | st.text(max_size=32),
    is_whole=st.booleans(),
    boot=st.text(max_size=36),
    segments=st.lists(st.builds(Segment, U64, U64, U64), max_size=20).map(tuple),
)
SOME = Map(
    "s:f",
    1000,
    "0cc737eb",
    None,
    is_whole=False,
    boot="b",
    segments=(Segment(0, 10, 7), Segment(20, 30, 8)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(found=MAPS)
def test_what_is_written_is_read(tmp_path: Path, found: Map) -> None:
    path = tmp_path / "m"
    assert maps.write(path, found) == path.stat().st_size
    assert maps.read(path) == found
    assert os.listdir(tmp_path) == ["m"]


def test_none_there(tmp_path: Path) -> None:
    assert maps.read(tmp_path / "m") is None


def test_however_it_is_torn_it_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    maps.write(path, SOME)
    data = path.read_bytes()
    for length in range(len(data)):
        for rest in (b"", bytes(len(data) - length)):  # zeros: a crash before the data came
            if data[:length] + rest == data:
                continue
            path.write_bytes(data[:length] + rest)
            assert maps.read(path) is None, length


def test_a_flipped_bit_never_changes_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "m"
    maps.write(path, SOME)
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
            found = maps.read(path)
            assert found is None or found.segments == SOME.segments
            assert found is None or found.is_whole is False


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    data=st.binary(max_size=200)
    | st.sampled_from([b"{}\n", b"[]\n", b"null\n", b"7\n", b'{"version": 2}\n', b"\n\n"])
)
def test_garbage_is_not_believed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m").write_bytes(data)
    assert maps.read(tmp_path / "m") is None


def test_another_version_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_VERSION", 2)
    maps.write(tmp_path / "m", SOME)
    monkeypatch.undo()
    assert maps.read(tmp_path / "m") is None


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_what_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "m"
    maps.write(path, SOME)

    def full(self: object, *args: object) -> Any:
        if step == "write_bytes":
            (tmp_path / "m.new").touch()  # it was opened, and then there was no room
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path if step == "write_bytes" else os, step, full)
    with pytest.raises(OSError, match="No space"):
        maps.write(path, Map("s:g", 1, None, None, is_whole=True, boot="", segments=()))
    monkeypatch.undo()
    assert maps.read(path) == SOME
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("count", [0, 1, 100, 170, 171, 1000, 20_000])
def test_the_room_it_takes_is_known_before(tmp_path: Path, count: int) -> None:
    name = "s" * 25 + ":" + "\U0001f600" * 62 + "\x00" * 2  # 250 bytes, spelled out in ASCII
    found = Map(
        name,
        1 << 60,
        "0cc737eb",
        "d41d8cd98f00b204e9800998ecf8427e",
        is_whole=True,
        boot="b" * 36,
        segments=tuple(Segment(1 << 62, 1 << 62, 1 << 31) for _ in range(count)),
    )
    assert maps.write(tmp_path / "m", found) <= maps.room(count)
    assert (tmp_path / "m").stat().st_blocks * 512 <= maps.room(count)


def test_a_machine_has_one_boot_at_a_time() -> None:
    assert this_boot() == this_boot()


def test_where_boots_are_not_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_BOOT", tmp_path / "none")
    assert this_boot() == ""
