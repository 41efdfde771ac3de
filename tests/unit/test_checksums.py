"""adler32 in pieces against zlib's own of the whole."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rucio_fs import checksums
from rucio_fs.checksums import EMPTY, adler32, combine, parse


@given(st.binary(max_size=2000))
def test_it_is_zlibs(data: bytes) -> None:
    assert adler32(data) == zlib.adler32(data)


@given(st.binary(max_size=2000), st.binary(max_size=2000))
@example(b"", b"")
@example(b"", b"a")
@example(b"a", b"")
@example(b"\xff" * 300, b"\x00")
def test_two_pieces_make_the_whole(first: bytes, second: bytes) -> None:
    assert combine(adler32(first), adler32(second), len(second)) == zlib.adler32(first + second)


@pytest.mark.parametrize("length", [65520, 65521, 65522, 2 * 65521, 3 * 65521 - 1, 1 << 20])
@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_pieces_about_as_long_as_the_prime(length: int, byte: bytes) -> None:
    first, second = b"\xfe" * 70_000, byte * length
    assert combine(adler32(first), adler32(second), length) == zlib.adler32(first + second)


@given(st.binary(max_size=500), st.lists(st.integers(0, 500), max_size=8))
def test_any_cut_and_any_order_of_joining(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    from_left = from_right = EMPTY
    for piece in pieces:
        from_left = combine(from_left, adler32(piece), len(piece))
    length = 0
    for piece in reversed(pieces):
        from_right = combine(adler32(piece), from_right, length)
        length += len(piece)
    assert from_left == from_right == zlib.adler32(data)


def test_no_bytes() -> None:
    assert zlib.adler32(b"") == EMPTY


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0cc737eb", 0x0CC737EB),
        ("0CC737EB", 0x0CC737EB),
        ("cc737eb", 0x0CC737EB),  # some tools leave the leading zero out
        ("00000001", 1),
        ("0", 0),
        ("ffffffff", 0xFFFFFFFF),
        (None, None),
        ("", None),
        ("none", None),
        ("100000000", None),  # nothing can have that one, and every file would look wrong
        ("-1", None),
        ("d41d8cd98f00b204e9800998ecf8427e", None),
    ],
)
def test_what_rucio_writes(text: str | None, value: int | None) -> None:
    assert parse(text) == value


@given(st.integers(0, (1 << 32) - 1))
def test_what_is_written_is_read(value: int) -> None:
    assert parse(f"{value:08x}") == value
    assert checksums.parse(f"{value:X}") == value
