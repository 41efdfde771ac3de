"""What tests of credentials need.  The tokens of who runs them are none of theirs."""

from __future__ import annotations

from pathlib import Path

from rucio_fs.webdav.addresses import Address, address
from tests.unit.streams.conftest import no_credentials

__all__ = ["at", "no_credentials", "written"]


def at(url: str) -> Address:
    found = address(url)
    assert found is not None
    return found


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file
