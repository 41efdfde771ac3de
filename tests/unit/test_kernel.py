"""The settings of a mount that lie in the kernel's files."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from rucio_fs import kernel

HERE = Path("/mnt/here")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bdi" / "0:57").mkdir(parents=True)
    (tmp_path / "connections" / "57").mkdir(parents=True)
    monkeypatch.setattr(kernel, "_BDI", tmp_path / "bdi")
    monkeypatch.setattr(kernel, "_CONNECTIONS", tmp_path / "connections")
    mount = SimpleNamespace(device="0:57")
    monkeypatch.setattr(kernel, "find", lambda path: mount if path == HERE else None)
    return tmp_path


def test_read_ahead_is_in_kib_and_of_this_mount(files: Path) -> None:
    kernel.set_read_ahead(HERE, 1 << 20)
    assert (files / "bdi" / "0:57" / "read_ahead_kb").read_text() == "1024\n"


def test_requests_in_the_background(files: Path) -> None:
    kernel.set_max_background(HERE, 99)
    assert (files / "connections" / "57" / "max_background").read_text() == "99\n"


def test_no_mount_no_setting(files: Path) -> None:
    kernel.set_read_ahead(Path("/else"), 1 << 20)
    kernel.set_max_background(Path("/else"), 99)
    assert [path for path in files.rglob("*") if path.is_file()] == []


def test_what_may_not_be_set_stays(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without root; it costs speed and nothing else."""
    (files / "bdi" / "0:57").rmdir()
    with caplog.at_level(logging.INFO, "rucio_fs"):
        kernel.set_read_ahead(HERE, 1 << 20)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "read_ahead_kb stays as it is" in record.getMessage()


# --- how long an answer may take -----------------------------------------------------------------


@pytest.fixture
def sysctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernel, "_SYSCTL", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("default", "most", "wait", "bearable"),
    [
        (None, None, 600.0, 600.0),  # a kernel before 6.15
        ("0", "0", 600.0, 600.0),
        ("60", "0", 600.0, 45.0),
        ("0", "60", 600.0, 45.0),
        ("100", "60", 600.0, 45.0),
        ("60", "100", 600.0, 45.0),
        ("1000", "0", 600.0, 600.0),
        ("60", "0", 45.0, 45.0),
        ("60", "0", 0.0, 0.0),
        ("nonsense", "", 600.0, 600.0),
    ],
)
def test_no_wait_is_longer_than_the_kernel_bears(
    sysctl: Path,
    caplog: pytest.LogCaptureFixture,
    default: str | None,
    most: str | None,
    wait: float,
    bearable: float,
) -> None:
    """It would give up the whole mount for one late answer."""
    for name, value in (("default_request_timeout", default), ("max_request_timeout", most)):
        if value is not None:
            (sysctl / name).write_text(f"{value}\n")
    assert kernel.bearable(wait) == bearable
    assert bool(caplog.records) is (bearable < wait), "said if it is shorter than was wanted"
