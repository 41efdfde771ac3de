"""DID names as filenames: total, one to one, within what the kernel takes."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lake import samples
from rucio_fs import filenames
from rucio_fs.did import DID
from rucio_fs.errors import BadName

# Everything a str can hold, lone surrogates (a filename that is no UTF-8) included, and a bias
# towards what is special.
CHARACTERS = st.one_of(
    st.sampled_from("/%:.~ aA\x00\n\x7f\\é\udc80\U0001f52d"),
    st.characters(codec=None),
)
NAMES = st.text(CHARACTERS, max_size=40)
LONG_NAMES = st.text(CHARACTERS, min_size=60, max_size=400)


def is_short(filename: str) -> bool:
    return not filename.startswith("%~")


@given(NAMES | LONG_NAMES)
@example("")
@example(".")
@example("..")
@example("%")
@example("%2F")
@example("a" * 255)
@example("a" * 256)
@example("é" * 127 + "a")
@example("é" * 128)
@example("/" * 85)
@example("/" * 86)
@example("%~x")
def test_every_name_has_a_filename(name: str) -> None:
    filename = filenames.encode(name)
    raw = filename.encode()  # raises for what is no UTF-8
    assert 0 < len(raw) <= 255
    assert b"/" not in raw
    assert b"\x00" not in raw
    assert filename not in {".", ".."}
    if is_short(filename):
        assert filenames.decode(filename) == name
    else:
        with pytest.raises(BadName):
            filenames.decode(filename)


@given(NAMES | LONG_NAMES, NAMES | LONG_NAMES)
def test_two_names_have_two_filenames(one: str, other: str) -> None:
    assume(one != other)
    assert filenames.encode(one) != filenames.encode(other)


@given(st.text(st.sampled_from("%2F5EeAaf~:./x"), max_size=12) | NAMES)
@example("%41")
@example("%2f")
@example("%")
@example("%%")
@example("%C3")
@example("%ED%B2%80")
def test_no_name_has_two_filenames(filename: str) -> None:
    """Whatever can be decoded is what encoding its name gives."""
    try:
        name = filenames.decode(filename)
    except BadName:
        return
    assert filenames.encode(name) == filename


@given(NAMES, NAMES)
def test_foreign_names_come_back(scope: str, name: str) -> None:
    did = DID(scope, name)
    filename = filenames.encode_foreign(did)
    assert len(filename.encode()) <= 255
    assert "/" not in filename
    if is_short(filename):
        assert filenames.split_foreign(filename) == did


@given(NAMES, NAMES, NAMES)
def test_a_foreign_name_is_no_plain_one(scope: str, name: str, plain: str) -> None:
    foreign = filenames.encode_foreign(DID(scope, name))
    assert foreign != filenames.encode(plain)


@given(NAMES)
def test_a_plain_filename_is_not_split(name: str) -> None:
    assert filenames.split_foreign(filenames.encode(name)) is None


@pytest.mark.parametrize("file", samples.FILES, ids=lambda file: file.did)
def test_the_names_of_the_sample_lake(file: samples.SampleFile) -> None:
    filename = filenames.encode(file.filename)
    if "/" not in file.filename:
        assert filename == file.filename  # what needs no escape is shown as it is
    if is_short(filename):
        assert filenames.decode(filename) == file.filename
    else:
        assert filename.endswith(file.filename[-20:])


def test_examples() -> None:
    assert filenames.encode("a/b/c") == "a%2Fb%2Fc"
    assert filenames.encode("50%") == "50%25"
    assert filenames.encode(".") == "%2E"
    assert filenames.encode("..") == "%2E%2E"
    assert filenames.encode("...") == "..."
    assert filenames.encode("a:b") == "a%3Ab"
    assert filenames.encode_foreign(DID("sky", "a/b")) == "sky:a%2Fb"
    assert filenames.split_foreign("sky:a%2Fb") == DID("sky", "a/b")
