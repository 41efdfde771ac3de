"""HTTP answers, believed only if they are Rucio's and whole.

What is checked here is what requests and urllib3 let pass: an answer that somebody else gave (an
HTML page with status 200), one that does not say where it ends, one cut within a row.  A cut that
HTTP knows of (Content-Length, chunks) raises in urllib3.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator
from typing import Any

import requests

from rucio_fs.catalogue.failures import BadAnswer, RucioSays

BLOCK = 1 << 16  # bytes; a row has about 130, and the server writes each as a chunk of its own
_STREAM, _DOCUMENT = "application/x-json-stream", "application/json"
_LONGEST_RECEIPT = 64  # bytes
_TOKENS = ("X-Rucio-Auth-Token", "X-Rucio-SSH-Challenge-Token")


class Kind(enum.Enum):
    """What an answer is to hold: a token, rows or a document, ids of what was made, or "done"."""

    LOGIN = enum.auto()
    DATA = enum.auto()
    IDS = enum.auto()
    RECEIPT = enum.auto()


def check(response: requests.Response, kind: Kind) -> None:
    """Judge *response* by status and headers.

    Raises: RucioSays (any status but success), BadAnswer
    """
    if response.status_code // 100 != 2:
        raise _what_rucio_says(response)
    if kind is Kind.LOGIN:
        if not any(response.headers.get(name) for name in _TOKENS):
            raise BadAnswer("answers a login without a token: not Rucio?")
        return
    if kind is Kind.RECEIPT:
        # Rucio says nothing or "Created"; a page of somebody else's with status 200 says more.
        if len(response.content) > _LONGEST_RECEIPT:
            raise BadAnswer("answers a change with a page: not Rucio?")
        return
    if kind is Kind.IDS:
        # Rucio calls this JSON HTML.
        if not isinstance(_parse(response.content), list):
            raise BadAnswer("answers with no list of ids: not Rucio?")
        return
    content_type = _content_type(response)
    if content_type not in (_STREAM, _DOCUMENT):
        raise BadAnswer(f"answers with {content_type or 'no content type'}: not Rucio?")
    if not _is_chunked(response) and "Content-Length" not in response.headers:
        raise BadAnswer("does not say where its answer ends")


def rows(response: requests.Response, check_deadline: Callable[[], None]) -> Iterator[Any]:
    """Rows of a stream, or the one document; *check_deadline* is called after each block.

    A line counts only with its line end, so that a body cut within a row is seen too.

    Raises: BadAnswer, urllib3's HTTPError, what *check_deadline* raises
    """
    try:
        blocks = _blocks(response, check_deadline)
        if _content_type(response) == _DOCUMENT:
            yield _parse(b"".join(blocks))
            return
        rest = b""
        for block in blocks:
            head, end, tail = block.rpartition(b"\n")
            if not end:
                rest += tail
                continue
            # One call of the parser for a block is three times as fast as one for each line.
            lines = (rest + head).split(b"\n")
            rest = tail
            parsed = _parse(b"[" + b",".join(line for line in lines if line) + b"]")
            if not all(type(row) is dict for row in parsed):
                raise BadAnswer("sends rows of another kind")
            yield from parsed
        if rest:
            raise BadAnswer("cut its answer within a row")
    finally:
        response.close()  # ends the connection, unless all was read and it is back in its pool


def _blocks(response: requests.Response, check_deadline: Callable[[], None]) -> Iterator[bytes]:
    raw = response.raw
    while block := raw.read(BLOCK, decode_content=True):
        check_deadline()
        yield block
    expected = response.headers.get("Content-Length")
    if expected is not None and raw.tell() != int(expected):  # urllib3 1.26 does not look
        raise BadAnswer("cut its answer")


def _what_rucio_says(response: requests.Response) -> RucioSays:
    try:
        said = _parse(response.content)
    except (BadAnswer, requests.RequestException):
        said = {}
    if not isinstance(said, dict):
        said = {}
    name = said.get("ExceptionClass") or response.headers.get("ExceptionClass") or ""
    text = said.get("ExceptionMessage") or response.headers.get("ExceptionMessage") or ""
    try:
        retry_after = max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        retry_after = None  # absent, or a date, which nobody before Rucio sends
    return RucioSays(response.status_code, str(name), str(text), retry_after)


def _content_type(response: requests.Response) -> str:
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _is_chunked(response: requests.Response) -> bool:
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise BadAnswer(f"sends no JSON: {exc}") from exc
