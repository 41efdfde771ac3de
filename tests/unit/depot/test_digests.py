"""Checksums as storages write them."""

from __future__ import annotations

import pytest

from rucio_fs.depot.digests import adler32_of


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("adler32=0a1b2c3d", "0a1b2c3d"),
        ("ADLER32=0A1B2C3D", "0a1b2c3d"),
        ("adler32=a1b2c3d", "0a1b2c3d"),
        ("adler32=1", "00000001"),
        ("adler32=0x0a1b2c3d", "0a1b2c3d"),
        ('adler32="0a1b2c3d"', "0a1b2c3d"),
        ("adler32 = 0a1b2c3d", "0a1b2c3d"),
        ("md5=HUXZLQLMuI/KZ5KDcJPcOA==,adler32=0a1b2c3d", "0a1b2c3d"),
        ("adler32=0a1b2c3d;q=1, md5=x", "0a1b2c3d"),
        ("adler32=ChssPQ==", "0a1b2c3d"),
        ("adler32=MGExYjJjM2Q=", "0a1b2c3d"),
        ("adler=:ChssPQ==:", "0a1b2c3d"),
        ("adler=:AAAAAQ==:", "00000001"),
        ("adler32=nonsense, adler32=0a1b2c3d", "0a1b2c3d"),
        ("adler32=00a1b2c3d", None),  # nine digits
        ("adler32=", None),
        ("adler32=::", None),
        ("adler32", None),
        ("adler32=xyz", None),
        ("adler32=ChssPQ", None),
        ("adler32=äöü", None),
        ("adler32=HUXZLQLMuI/KZ5KDcJPcOA==", None),  # sixteen bytes
        ("md5=0a1b2c3d", None),
        ("sha-adler32=0a1b2c3d", None),
        ("", None),
    ],
)
def test_a_header(header: str, value: str | None) -> None:
    assert adler32_of([header]) == value


def test_the_first_that_has_one() -> None:
    assert adler32_of([]) is None
    assert adler32_of(["md5=x", "adler32=2", "adler32=3"]) == "00000002"
