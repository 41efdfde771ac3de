"""DID names as path components, and back.

A filename is the DID name with every character that a path component cannot carry, and ``%`` and
``:`` themselves, written as ``%XX`` of its UTF-8 bytes.  ``:`` is reserved, so that
``<scope>:<name>`` can name a member of another scope.  The encoding is total and one to one.

A name whose encoded form exceeds 255 bytes (the kernel's limit) becomes ``%~<digest>~<tail>``:
still unique and stable, but only a listing that holds the DID can turn it back, so `decode` refuses
it.
"""

from __future__ import annotations

import hashlib
import re

from rucio_fs.did import DID
from rucio_fs.errors import BadName

MAX_BYTES = 255
_LONG = "%~"
_EMPTY = "%"  # Rucio has no empty name; the encoding is total all the same
_SPECIAL = {"": _EMPTY, ".": "%2E", "..": "%2E%2E"}
_UNSAFE = re.compile(r"[\x00-\x1f\x7f%/:\ud800-\udfff]")
_ESCAPE = re.compile(r"%([0-9A-F]{2})")
_DIGEST_BYTES = 12


def encode(name: str) -> str:
    """Filename of the DID name *name*; at most 255 bytes of UTF-8."""
    if name.isascii() and len(name) <= MAX_BYTES and _UNSAFE.search(name) is None:
        return _SPECIAL.get(name, name)
    return _shorten(_escape_unsafe(name), name)


def decode(filename: str) -> str:
    """DID name that `encode` writes as *filename*.

    Raises: BadName if no name is written that way, or only a listing can tell which.
    """
    if filename == _EMPTY:
        return ""
    if filename.startswith(_LONG):
        raise BadName(f"{filename!r} stands for a long name; only a listing can tell which")
    raw = bytearray()
    position = 0
    for match in _ESCAPE.finditer(filename):
        raw += _plain(filename[position : match.start()])
        raw.append(int(match.group(1), 16))
        position = match.end()
    raw += _plain(filename[position:])
    try:
        name = raw.decode(errors="surrogatepass")
    except UnicodeDecodeError as exc:
        raise BadName(f"{filename!r} is not the name of a DID") from exc
    if encode(name) != filename:  # "%41" is not how "A" is written: one name, one filename
        raise BadName(f"{filename!r} is not the name of a DID")
    return name


def encode_foreign(did: DID) -> str:
    """Filename of *did* in a directory of another scope where its plain name is taken."""
    return _shorten(f"{encode(did.scope)}:{encode(did.name)}", "\0".join(did))


def split_foreign(filename: str) -> DID | None:
    """DID that ``<scope>:<name>`` stands for, None if *filename* is a plain name.

    Raises: BadName
    """
    scope, colon, name = filename.partition(":")
    return DID(decode(scope), decode(name)) if colon else None


def _escape_unsafe(name: str) -> str:
    return _UNSAFE.sub(lambda match: _escape(match.group()), name)


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


def _shorten(filename: str, key: str) -> str:
    """*filename* if the kernel takes it, else the digest of *key* with the end of *filename*."""
    encoded = filename.encode()
    if len(encoded) <= MAX_BYTES:
        return filename
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES)
    head = f"{_LONG}{digest.hexdigest()}~"
    return head + encoded[len(head) - MAX_BYTES :].decode(errors="ignore")


def _plain(text: str) -> bytes:
    if "%" in text or ":" in text:
        raise BadName(f"{text!r} is not part of the name of a DID")
    return text.encode(errors="surrogatepass")
