"""The file beside each cached file that says which bytes of it are there.  Blocking.

Written in one go and put in place by a rename, so that a crash leaves the old one or the new one.
It never promises what is not there: data is written before it is named here.
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rucio_fs.diskcache.segments import Segment

_VERSION = 1
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_HEAD = 4096  # bytes; a DID of 280 characters takes up to 1680, spelled in ASCII


@dataclass(frozen=True)
class Map:
    """What is known of a cached file.

    *boot* is the boot of this machine in which it was written: bytes written since then are where
    they were written to, whatever became of the program; after another boot that has to be proved.
    It *is_whole* if all of it was compared with the catalogue's checksum.
    """

    did: str
    size: int
    adler32: str | None
    md5: str | None
    is_whole: bool
    boot: str
    segments: tuple[Segment, ...]


def this_boot() -> str:
    """What tells one boot from another; "" where that is not known."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def room(segments: int) -> int:
    """Bytes on disk that suffice for a map of so many segments."""
    return _HEAD + -(-segments * 24 // 4096) * 4096


def write(path: Path, found: Map) -> int:
    """Put *found* into the file *path*; return its bytes.  Raises: OSError"""
    numbers = array("Q", [number for segment in found.segments for number in segment])
    payload = numbers.tobytes()
    head = {
        "version": _VERSION,
        "did": found.did,
        "size": found.size,
        "adler32": found.adler32,
        "md5": found.md5,
        "is_whole": found.is_whole,
        "boot": found.boot,
        "segments": len(found.segments),
        "crc32": zlib.crc32(payload),
    }
    data = json.dumps(head).encode() + b"\n" + payload
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_bytes(data)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return len(data)


def read(path: Path) -> Map | None:
    """What the file says; None if there is none, or none that can be believed."""
    try:
        line, _, payload = path.read_bytes().partition(b"\n")
        head = json.loads(line)
        if head["version"] != _VERSION or head["crc32"] != zlib.crc32(payload):
            return None
        numbers = array("Q")
        numbers.frombytes(payload)
        triples: Iterable[tuple[int, ...]] = zip(*[iter(numbers)] * 3, strict=True)
        return Map(
            str(head["did"]),
            int(head["size"]),
            head["adler32"],
            head["md5"],
            bool(head["is_whole"]),
            str(head["boot"]),
            tuple(Segment(*triple) for triple in triples),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
