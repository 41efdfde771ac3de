"""The kinds of values a configuration holds, and how people write them: "64 MiB", "10 min", "022".

Each `Kind` turns a TOML value, or text from the command line or the environment, into bytes,
seconds or whatever else the program counts in.  The dataclasses of `config` name the kinds as
types; `settings` finds them there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_ID_MAX = 2**32 - 2  # 2**32 - 1 is (uid_t)-1, "no change", in every system call
_UMASK_MAX = 0o777

# K, M, G and T alone are binary, as in mount(8), dd(1) and systemd; kB, MB, ... are powers of ten.
_BYTES = {
    unit: factor
    for power, letter in enumerate("kmgt", start=1)
    for unit, factor in (
        (letter, 1024**power),
        (f"{letter}ib", 1024**power),
        (f"{letter}b", 1000**power),
    )
} | {"": 1, "b": 1, "byte": 1, "bytes": 1}
_SECONDS = {
    spelling: Decimal(factor)
    for spellings, factor in (
        ("ms", "0.001"),
        ("s sec secs second seconds", "1"),
        ("m min mins minute minutes", "60"),
        ("h hour hours", "3600"),
        ("d day days", "86400"),
        ("w week weeks", "604800"),
    )
    for spelling in spellings.split()
} | {"": Decimal(1)}
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: what it is called, an example as TOML writes it, and how it is read.

    *parse* takes a TOML value or text and raises ValueError for anything else.
    """

    name: str
    example: str
    parse: Callable[[object], object]


def parse_bytes(raw: object) -> int:
    """Bytes of "64 MiB", "1.5G", "1 GB" or of a plain number."""
    number, unit = _quantity(raw)
    if unit.lower() not in _BYTES:
        raise ValueError(f"unknown unit {unit!r}")
    size = number * _BYTES[unit.lower()]
    if size != int(size):
        raise ValueError("not a whole number of bytes")
    return int(size)


def parse_seconds(raw: object) -> float:
    """Seconds of "10 min", "1d", "1h 30min", "500 ms" or of a plain number."""
    if not isinstance(raw, str):
        return float(_number(raw))
    parts = list(_QUANTITY.finditer(raw))
    if not parts or _QUANTITY.sub("", raw).strip():
        raise ValueError("neither a number nor a time")
    if len(parts) > 1 and not all(part[2] for part in parts):
        raise ValueError("a number without its unit")
    unknown = [part[2] for part in parts if part[2].lower() not in _SECONDS]
    if unknown:
        raise ValueError(f"unknown unit {unknown[0]!r}")
    return float(sum(Decimal(part[1]) * _SECONDS[part[2].lower()] for part in parts))


def parse_bool(raw: object) -> bool:
    """True or False of a TOML boolean or of true/false, yes/no, on/off, 1/0."""
    text = str(raw).strip().lower()
    if isinstance(raw, float) or text not in _TRUE | _FALSE:
        raise ValueError("neither true nor false")
    return text in _TRUE


def parse_umask(raw: object) -> int:
    """Permission bits; text is octal as in mount(8), a TOML integer is what TOML made of it."""
    value = int(raw.strip().removeprefix("0o"), 8) if isinstance(raw, str) else _integer(raw)
    if not 0 <= value <= _UMASK_MAX:
        raise ValueError("more than the nine permission bits")
    return value


def parse_text(raw: object) -> str:
    """Text that is not empty and has no control characters."""
    if not isinstance(raw, str):
        raise ValueError("not text")
    text = raw.strip()
    if not text or not text.isprintable():
        raise ValueError("empty or not printable")
    return text


def parse_names(raw: object) -> tuple[str, ...]:
    """Names or globs: a TOML array, or text in which comma, colon or blank stand between them."""
    items = re.split(r"[,:\s]+", raw.strip(",: \t\n")) if isinstance(raw, str) else raw
    if not isinstance(items, list):
        raise ValueError("not a list")
    return tuple(parse_text(item) for item in items if item != "")


def parse_path(raw: object) -> Path:
    """A path as written; who reads the setting anchors a relative one."""
    path = Path(parse_text(raw))
    try:
        return path.expanduser()
    except RuntimeError as exc:  # "~nosuchuser/x"
        raise ValueError(str(exc)) from exc


def parse_paths(raw: object) -> tuple[Path, ...]:
    """Paths: a TOML array, or text in which colons stand between them as in $PATH."""
    items = [item for item in raw.split(":") if item] if isinstance(raw, str) else raw
    if not isinstance(items, list):
        raise ValueError("not a list")
    return tuple(parse_path(item) for item in items)


def parse_prefixes(raw: object) -> dict[str, str]:
    """Map of PFN prefix to local path prefix: a TOML table, or text "pfn=/path pfn=/path"."""
    if isinstance(raw, str):
        pairs = [item.rpartition("=") for item in raw.split()]  # a PFN may hold "=", see RFC 3986
        table: object = {pfn: path for pfn, _, path in pairs}
    else:
        table = raw
    if not isinstance(table, dict):
        raise ValueError("not a table")
    prefixes = {parse_text(pfn): parse_text(path) for pfn, path in table.items()}
    for path in prefixes.values():
        if not path.startswith("/"):
            raise ValueError(f"the local path {path!r} does not start with /")
    return prefixes


def parse_files(raw: object) -> dict[str, str]:
    """Map of URL prefix to a file, or to "none": a TOML table, or text "url=/path url=none"."""
    if isinstance(raw, str):
        pairs = [item.rpartition("=") for item in raw.split()]
        table: object = {url: file for url, _, file in pairs}
    else:
        table = raw
    if not isinstance(table, dict):
        raise ValueError("not a table")
    files = {parse_text(url): parse_text(file) for url, file in table.items()}
    for url, file in files.items():
        if not re.match(r"(https?|davs?)://[^/\s]+", url):
            raise ValueError(f"{url!r} is no URL of a storage")
        if file != "none" and not file.startswith("/"):
            raise ValueError(f"the path {file!r} does not start with /")
    return files


def _quantity(raw: object) -> tuple[Decimal, str]:
    if not isinstance(raw, str):
        return _number(raw), ""
    match = _QUANTITY.fullmatch(raw.strip())
    if match is None:
        raise ValueError("not a number with a unit")
    return Decimal(match[1]), match[2]


def _number(raw: object) -> Decimal:
    if isinstance(raw, bool) or not isinstance(raw, int | float):  # a bool is an int to Python
        raise ValueError("not a number")
    number = Decimal(str(raw))
    if not number.is_finite() or number < 0:
        raise ValueError("negative or not finite")
    return number


def _integer(raw: object) -> int:
    if isinstance(raw, str) and _DIGITS.fullmatch(raw.strip()):
        return int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueError("not a whole number")
    return raw


def _integer_between(low: int, high: int) -> Callable[[object], int]:
    def parse(raw: object) -> int:
        value = _integer(raw)
        if not low <= value <= high:
            raise ValueError(f"not between {low} and {high}")
        return value

    return parse


def _parse_wait(raw: object) -> float:
    seconds = parse_seconds(raw)
    if seconds == 0:
        raise ValueError("zero would fail every request")
    return seconds


def _parse_url(raw: object) -> str:
    url = parse_text(raw)
    if not re.match(r"https?://[^/\s]+", url):
        raise ValueError("no http:// or https:// in front of a host")
    return url


def _parse_label(raw: object) -> str:
    label = parse_text(raw)
    if re.search(r"[,\\\s]", label):  # libfuse would read a comma as the next mount option
        raise ValueError("a comma, backslash or blank in it")
    return label


def choice(*allowed: str) -> Kind:
    """Kind of a setting that is one of a few words."""

    def parse(raw: object) -> str:
        word = parse_text(raw).lower()
        if word not in allowed:
            raise ValueError("none of the words it may be")
        return word

    return Kind(f"one of {', '.join(allowed)}", f'"{allowed[0]}"', parse)


Bytes = Annotated[int, Kind("a size", '"64 MiB"', parse_bytes)]
Seconds = Annotated[float, Kind("a time", '"10 min"', parse_seconds)]
Wait = Annotated[float, Kind("a time above zero", '"30 s"', _parse_wait)]
Count = Annotated[int, Kind("a number from 1 to 65535", "8", _integer_between(1, 65535))]
Number = Annotated[int, Kind("a number from 0 to 65535", "100", _integer_between(0, 65535))]
Priority = Annotated[int, Kind("a number from 1 to 5", "3", _integer_between(1, 5))]
UserId = Annotated[int, Kind("a numeric user or group id", "1000", _integer_between(0, _ID_MAX))]
Umask = Annotated[int, Kind("an octal umask", '"022"', parse_umask)]
Flag = Annotated[bool, Kind("true or false", "true", parse_bool)]
Label = Annotated[str, Kind("a word", '"rucio"', _parse_label)]
OptionalText = Annotated[str | None, Kind("text", '"NAME"', parse_text)]
OptionalUrl = Annotated[str | None, Kind("a URL", '"https://rucio.example.org"', _parse_url)]
OptionalPath = Annotated[Path | None, Kind("a path", '"/path/to/file"', parse_path)]
Names = Annotated[tuple[str, ...], Kind("a list of names", '["user.*", "data"]', parse_names)]
Paths = Annotated[tuple[Path, ...], Kind("a list of paths", '["/mnt/rse"]', parse_paths)]
Prefixes = Annotated[
    Mapping[str, str],
    Kind(
        "a table of PFN prefix = local path",
        '{ "davs://se.example.org/data" = "/mnt/data" }',
        parse_prefixes,
    ),
]
Files = Annotated[
    Mapping[str, str],
    Kind(
        "a table of storage = file",
        '{ "davs://se.example.org/" = "/run/token" }',
        parse_files,
    ),
]
