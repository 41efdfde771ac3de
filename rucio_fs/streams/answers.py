"""Answers to requests for a range of a file: whether they bring it, and reading it.  Blocking.

A short or wrong answer never counts as data: every answer's status, range, length and total are
checked.
"""

from __future__ import annotations

import http.client
import io
import re
from collections.abc import Callable
from typing import NamedTuple

from rucio_fs.streams.failures import Broken, Busy, Missing, NoRanges, Spoiled, Unauthorized
from rucio_fs.webdav.addresses import Origin

_STEP = 1 << 20  # bytes read at once
_FLOWING = 1 << 18  # bytes in one go, after which a reader's next request is larger than ...
_TOLD = 1 << 16  # ... what comes between two words about the progress; TLS gives 16 KiB at a time
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Range(NamedTuple):
    """Bytes *start* up to *end* of a file that has *size* bytes.

    *skips*: also from a server that sends whole files only, past all that comes before.
    """

    start: int
    end: int
    size: int
    skips: bool = False

    @property
    def length(self) -> int:
        return self.end - self.start


def check(answer: http.client.HTTPResponse, origin: Origin, wanted: Range) -> None:
    """Raise unless *answer* brings the range, or the whole file with it in front."""
    status, headers = answer.status, answer.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Spoiled(f"{origin} sends it encoded as {headers['Content-Encoding']}")
    if status == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            raise Spoiled(f"{origin} sends a part without saying which")
        start, last, total = found.groups()
        if total != "*" and int(total) != wanted.size:
            raise Spoiled(f"{origin} has {total} bytes, the catalogue says {wanted.size}")
        if (int(start), int(last) + 1) != (wanted.start, wanted.end):
            raise Spoiled(f"{origin} sends bytes {start}-{last} for {wanted.start}-{wanted.end}")
        _check_length(answer, origin, wanted.length)
    elif status == 200:
        _check_length(answer, origin, wanted.size)
        if wanted.start and not wanted.skips:
            raise NoRanges(f"{origin} sends no ranges")
    else:
        raise _refusal(answer, origin)


def _check_length(answer: http.client.HTTPResponse, origin: Origin, length: int) -> None:
    if answer.length is not None and answer.length != length:
        raise Spoiled(f"{origin} sends {answer.length} bytes where {length} are to be")


def _refusal(answer: http.client.HTTPResponse, origin: Origin) -> Exception:
    status = answer.status
    words = f"{origin} answers {status} {answer.reason}".rstrip()
    match status:
        case 401 | 403:
            return Unauthorized(words)
        case 404 | 410:
            return Missing(words)
        case 416:
            return Spoiled(f"{words}: the file is shorter there")
        case 408 | 429 | 500 | 502 | 503 | 504:
            return Busy(words, _retry_after(answer))
        case _:
            return Broken(words)


def _retry_after(answer: http.client.HTTPResponse) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def receive(
    answer: http.client.HTTPResponse,
    recv_into: Callable[[memoryview], int],
    wanted: Range,
    into: memoryview,
    progress: Callable[[int], bool],
) -> bool:
    """Read the body; return whether the connection can be used again."""
    # Chunks are http.client's business; else its buffer is passed by.
    read: Callable[[memoryview], int]
    read = answer.readinto if answer.chunked else answer.fp.readinto1
    length, got = wanted.length, 0
    skipped = 0 if answer.status == 200 else wanted.start
    ends_there = answer.chunked and (answer.status == 206 or wanted.end == wanted.size)
    while skipped < wanted.start:
        count = read(into[: min(len(into), wanted.start - skipped)])
        skipped += count
        if not count or not progress(0):
            raise Broken(f"the connection ended after {skipped} bytes")
    told = 0
    while got < length:
        room = into[got : min(length, got + _STEP)]
        count = read(room)
        if not answer.chunked and len(room) >= io.DEFAULT_BUFFER_SIZE:
            # That has emptied the buffer.  TLS gives 16 KiB at a time: each layer less counts.
            read = recv_into
        if not count:
            raise Broken(f"the connection ended after {got} of {length} bytes")
        got += count
        if told >= _FLOWING and got - told < _TOLD and got < length:
            continue
        told = got
        # Before the last bytes count: else nothing would be missing, and yet it has failed.
        if got == length and ends_there and answer.read(1):
            raise Spoiled("more bytes come than were asked for")
        if not progress(got):
            return False
    return answer.status == 206


def drained(answer: http.client.HTTPResponse) -> bool:
    """Read the short page that comes with a redirect; whether that was all."""
    if answer.length is None or answer.length > _STEP:
        return False
    answer.read()
    return True
