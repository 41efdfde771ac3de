"""What users write, as options; and what they are told when they have written something else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rucio_fs.errors import BadName, Refused
from rucio_fs.uploads import options
from rucio_fs.uploads.options import KEYS, Options

DAY = 86400


@pytest.mark.parametrize(
    ("key", "value", "meaning"),
    [
        ("rse", " DESY-DCACHE\n", "DESY-DCACHE"),
        ("rule", "tier=1&country=de", "tier=1&country=de"),
        ("lifetime", "30d", 30 * DAY),
        ("lifetime", 3600, 3600),
        ("lifetime", "0", None),
        ("lifetime", "1500 ms", 2),
        ("keep", "2 h", 7200.0),
        ("keep", 0, 0.0),
        ("keep", 0.5, 0.5),
        ("dataset", "run1/a", "run1/a"),
        ("dataset", "user.bob:run1", "user.bob:run1"),
        ("dataset", "", ""),
        ("upload", "never", "never"),
    ],
)
def test_values(key: str, value: object, meaning: object) -> None:
    found = options.parse(key, value)
    assert found == meaning
    assert type(found) is type(meaning)


def test_a_lifetime_that_is_hardly_any_is_not_for_ever() -> None:
    assert options.parse("lifetime", "500 ms") == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rse", ""),
        ("rse", "  "),
        ("rse", 5),
        ("rse", "A\nB"),
        ("rule", "\udcff"),
        ("lifetime", "soon"),
        ("lifetime", "-5"),
        ("lifetime", -5),
        ("lifetime", True),
        ("lifetime", ["30d"]),
        ("lifetime", "101 weeks of years"),
        ("lifetime", "9" * 70),
        ("lifetime", "9" * 5000),
        ("lifetime", "9" * 1_000_001 + "d"),
        ("lifetime", float("nan")),
        ("lifetime", 200 * 365 * DAY),
        ("keep", float("inf")),
        ("keep", {}),
        ("dataset", ":"),
        ("dataset", "s:"),
        ("dataset", ":n"),
        ("dataset", "a:b:c"),
        ("dataset", "\udcff"),
        ("dataset", "a\0b"),
        ("dataset", 7),
        ("upload", "yes"),
        ("upload", []),
        ("upload", True),
    ],
)
def test_what_is_no_value_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(Refused, match=f"^{key} = ") as caught:
        options.parse(key, value)
    assert len(str(caught.value)) < 250
    str(caught.value).encode()


@given(st.sampled_from(sorted(KEYS)), st.one_of(st.text(), st.floats(), st.integers()))
def test_any_value_is_taken_or_refused(key: str, value: object) -> None:
    try:
        options.merged(Options(), {key: options.parse(key, value)})
    except Refused:
        return


@pytest.mark.parametrize(
    ("key", "hint"), [("lifetme", "did you mean lifetime?"), ("zzz", "there are rse, rule, ")]
)
def test_no_such_option(key: str, hint: str) -> None:
    with pytest.raises(Refused, match=f"'{key}' is no option of an upload; ") as caught:
        options.parse(key, "x")
    assert hint in str(caught.value)


# --- .rucio-upload.toml ---------------------------------------------------------------------------

TOML = "s/run/.rucio-upload.toml"


def test_toml() -> None:
    text = b'rse = "COLO"\nlifetime = "1d"\nkeep = 60\ndataset = ""\nupload = "now"\n'
    assert options.from_toml(TOML, text) == {
        "rse": "COLO",
        "lifetime": DAY,
        "keep": 60.0,
        "dataset": "",
        "upload": "now",
    }
    assert options.from_toml(TOML, b"# nothing\n") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"rse = COLO", "line 1"),
        (b"rse = '\xff'", "utf-8"),
        (b"lifetime = 'soon'", "lifetime = 'soon'"),
        (b"lifetime = 2024-01-01", "lifetime = "),
        (b"[run]\nrse = 'COLO'", "'run' is no option"),
        (b"RSE = 'COLO'", "'RSE' is no option"),
        (b"keep = " + b"9" * 5000, ""),
        (b"rse = " + b"[" * 50_000, "recursion"),
    ],
)
def test_a_toml_that_is_wrong_says_where(text: bytes, words: str) -> None:
    with pytest.raises(Refused) as caught:
        options.from_toml(TOML, text)
    assert str(caught.value).startswith(f"{TOML}: ")
    assert words in str(caught.value)


# --- what counts ----------------------------------------------------------------------------------


def test_the_nearest_word_counts() -> None:
    base = Options(rse="MOUNT", lifetime=5)
    found = options.merged(base, {"rse": "A", "keep": 1.0}, {"rse": "B", "lifetime": None})
    assert found == Options(rse="B", lifetime=None, keep=1.0)
    assert base == Options(rse="MOUNT", lifetime=5)


@pytest.mark.parametrize(
    ("facts", "expression"),
    [({}, None), ({"rse": "A"}, "A"), ({"rse": "A", "rule": "tier=1"}, "tier=1")],
)
def test_the_rule_keeps_it_where_it_is_unless_told_otherwise(
    facts: dict[str, Any], expression: str | None
) -> None:
    assert Options(**facts).rse_expression == expression


def test_the_directories_of_a_path() -> None:
    assert list(options.directories("s/run/a/f")) == ["s", "s/run", "s/run/a"]
    assert list(options.directories("s")) == []


@pytest.mark.parametrize(
    ("text", "did"),
    [("", None), ("run1", ("s", "run1")), ("a/b", ("s", "a/b")), ("user.bob:a", ("user.bob", "a"))],
)
def test_the_dataset_that_was_said(text: str, did: tuple[str, str] | None) -> None:
    assert options.dataset_did("s", text) == did


@pytest.mark.parametrize("text", [":", "s:", ":n", "a:b:c"])
def test_what_is_no_dataset(text: str) -> None:
    with pytest.raises(BadName, match="neither a name nor scope:name"):
        options.dataset_did("s", text)
