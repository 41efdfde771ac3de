"""Who gets no rules made by opening files."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.callers import Caller
from rucio_fs.config import ScannersConfig
from rucio_fs.errors import NotForScanners
from rucio_fs.rules.guard import Guard
from tests.fakes import did

F = did("s:f")


def _is_scanner(*names: str, config: ScannersConfig | None = None) -> bool:
    guard = Guard(config or ScannersConfig(), lambda tid: frozenset(names))
    try:
        guard.check_program(Caller(1, 1), F)
    except NotForScanners:
        return True
    return False


@pytest.mark.parametrize(
    "name",
    [
        "updatedb", "tracker-miner-f", "tracker-extract", "baloo_file", "baloo_file_extr",
        "ffmpegthumbnailer", "gdk-pixbuf-thumbnailer", "gvfsd-metadata", "clamscan", "restic",
        "nautilus",
    ],
)  # fmt: skip
def test_scanners_by_default(name: str) -> None:
    assert _is_scanner(name)
    assert _is_scanner("python3.11", name), "by any of its names"


@pytest.mark.parametrize(
    "name", ["python3.11", "cat", "root.exe", "updatedb2", "my-restic", "Borg"]
)
def test_no_scanners(name: str) -> None:
    assert not _is_scanner(name)
    assert not _is_scanner()


def test_the_kernel_cuts_names() -> None:
    """A name of more than 15 characters is seen with 15."""
    config = ScannersConfig(programs=("gdk-pixbuf-thumbnailer-x", "short"))
    assert _is_scanner("gdk-pixbuf-thum", config=config)
    assert _is_scanner("gdk-pixbuf-thumbnailer-x", config=config)
    assert not _is_scanner("gdk-pixbuf-thu", config=config)
    assert not _is_scanner("shor", config=config)


def test_nobody_is_a_scanner_where_none_are_named() -> None:
    assert not _is_scanner("updatedb", config=ScannersConfig(programs=()))


async def test_the_window_moves(clock: MockClock) -> None:
    guard = Guard(ScannersConfig(rate=2, window=10.0))
    ann, bob = Caller(1, 1000), Caller(2, 2000)
    guard.check_pace(ann, F)
    await trio.sleep(6)
    guard.check_pace(ann, F)
    with pytest.raises(NotForScanners, match=r"user 1000 .* 2 files .* 10 s .*scanners\.rate"):
        guard.check_pace(ann, F)
    guard.check_pace(bob, F)
    await trio.sleep(4)
    guard.check_pace(ann, F)
    with pytest.raises(NotForScanners):
        guard.check_pace(ann, F)
    await trio.sleep(6)
    guard.check_pace(ann, F)


async def test_any_number_may_be_brought_if_said_so(clock: MockClock) -> None:
    guard = Guard(ScannersConfig(rate=0))
    for _ in range(10_000):
        guard.check_pace(Caller(1, 1), F)
