"""What users say of their uploads, in ``.rucio-upload.toml`` or with extended attributes.

The nearest word counts: one on the file, then its directory and those above, then the mount's
configuration.  An attribute counts before the toml of the same directory.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

from rucio_fs.errors import BadName, Refused
from rucio_fs.units import DAY, parse_seconds

FILE = ".rucio-upload.toml"
METADATA = ".meta"  # ends the name of a file whose JSON becomes the metadata of the one beside it

Upload = Literal["auto", "now", "never"]

_LONGEST = 100 * 365 * DAY  # s; Rucio's clock ends in the year 9999
_LONGEST_TEXT = 80  # characters of a time, and of a wrong value that is shown


@dataclass(frozen=True, slots=True)
class Options:
    """How a file is uploaded.

    *rse* is the storage it is uploaded to, *rule* the RSE expression of the rule that keeps it for
    *lifetime* s (None: for ever).  *dataset* is the name or DID of another dataset than that of
    its directory, "" for none.  *upload*: by itself, at once, or not at all.  *keep* (s): how long
    its bytes stay in staging when it is in the lake, None: as long as those of others.
    """

    rse: str | None = None
    rule: str | None = None
    lifetime: int | None = None
    dataset: str | None = None
    upload: Upload = "auto"
    keep: float | None = None

    @property
    def rse_expression(self) -> str | None:
        return self.rule or self.rse


KEYS: Mapping[str, str] = {
    "rse": "the storage (RSE) it is uploaded to",
    "rule": "the RSE expression of the rule that keeps it",
    "lifetime": 'how long that rule lives, such as "30d"; 0: for ever',
    "dataset": 'another dataset than that of its directory; "" for none',
    "upload": '"auto", "now" or "never"',
    "keep": "how long its bytes stay in staging when it is in the lake",
}
"""The options that users can set, with what they mean."""

assert {field.name for field in fields(Options)} == KEYS.keys()


def parse(key: str, value: object) -> Any:
    """The value of the option *key* as people write it.

    Raises: Refused (no such option, or not a value of it)
    """
    if key not in KEYS:
        near = get_close_matches(key, KEYS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(KEYS)}"
        raise Refused(f"{_shown(key)} is no option of an upload{hint}")
    try:
        match key:
            case "lifetime":
                return math.ceil(_seconds(value)) or None  # half a second is not for ever
            case "keep":
                return _seconds(value)
            case "upload":
                if value not in get_args(Upload):
                    raise ValueError('"auto", "now" or "never" is expected')
                return value
            case "dataset":
                text = _text(value)
                _split(text)
                return text
        text = _text(value)
        if not text:
            raise ValueError("it is empty")
        return text
    except ValueError as exc:
        raise Refused(f"{key} = {_shown(value)}: {exc}") from exc


def _seconds(value: object) -> float:
    text = str(value)
    if len(text) > _LONGEST_TEXT:
        raise ValueError("it is too long")
    seconds = parse_seconds(text)
    if seconds > _LONGEST:
        raise ValueError("more than 100 years; 0 is for ever")
    return seconds


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text is expected")
    text = value.strip()
    if not text.isprintable():  # nor is what was no UTF-8
        raise ValueError("it has characters that cannot be printed")
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def from_toml(path: str, data: bytes) -> dict[str, Any]:
    """The options in a ``.rucio-upload.toml``.  Raises: Refused, naming *path*"""
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        raise Refused(f"{path}: {exc}") from exc
    found = {}
    for key, value in table.items():
        try:
            found[key] = parse(key, value)
        except Refused as exc:
            raise Refused(f"{path}: {exc}") from exc
    return found


def merged(base: Options, *said: Mapping[str, Any]) -> Options:
    """*base* with what was *said*, the nearest last."""
    for one in said:
        base = replace(base, **one)
    return base


def directories(path: str) -> Iterator[str]:
    """The scope and the directories that *path* lies in, the outermost first."""
    parts = path.split("/")[:-1]
    for end in range(1, len(parts) + 1):
        yield "/".join(parts[:end])


def dataset_did(scope: str, text: str) -> tuple[str, str] | None:
    """Scope and name of the option `dataset` of a file in *scope*; None: it is to be in none.

    Raises: BadName
    """
    try:
        named, name = _split(text)
    except ValueError as exc:
        raise BadName(f"dataset = {_shown(text)}: {exc}") from exc
    return (named or scope, name) if name else None


def _split(text: str) -> tuple[str, str]:
    """Scope, "" if none is said, and name."""
    if ":" not in text:
        return "", text
    scope, _, name = text.partition(":")
    if not scope or not name or ":" in name:
        raise ValueError("neither a name nor scope:name")
    return scope, name
