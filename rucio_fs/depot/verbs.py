"""What is asked of one storage, each as one function.  Blocking.

How the servers answer was found by asking them: XRootD 5.5.3, nginx 1.22, Apache 2.4.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote

from rucio_fs.checksums import EMPTY, adler32
from rucio_fs.depot import parents
from rucio_fs.depot.asking import Asker, Reply, Request
from rucio_fs.depot.digests import adler32_of
from rucio_fs.depot.failures import NoMove, NotThere, Taken, WriteRefused
from rucio_fs.depot.hangup import Hangup
from rucio_fs.depot.staged import Staged
from rucio_fs.depot.wire import STEP, Answer
from rucio_fs.errors import Corrupt, Unreachable
from rucio_fs.webdav.addresses import Address

_DONE = (200, 201, 204)
_DELETED = (200, 202, 204)
_MISSING = (404, 410)
_NO_PARENT = (404, 409)
_NO_PARENT_TO_MOVE = (404, 409, 500)  # 500: Apache
_NO_MOVE = (403, 405, 501)
_PASSING = (401, 403, 408, 425, 429, 500, 502, 503, 504)  # say nothing of checksums
# XRootD answers with a checksum from a thread that is not done with the connection by then: what
# comes at once over the same one is never answered, or ends the server.  Seen with 5.5.3 every
# 300 to 3,000 files, and never in 12,000 with 2 ms between.
# Source: https://github.com/xrootd/xrootd/issues/2503
_REST = 0.02  # s
_PACE = 50e6  # bytes/s at which a storage surely reads, or stows away, what it has


def put(
    asker: Asker,
    where: Address,
    hangup: Hangup,
    file: Path | int,
    size: int,
    progress: Callable[[int], None] | None,
) -> None:
    """See `Depot.put`."""
    if "%3f" in where.target.lower():
        seen = asker.ask(Request(method="HEAD", where=where), hangup)
        if _is_xrootd(seen):
            raise WriteRefused(
                f"{where.shown}: XRootD ends a name at its question mark, and would put it in"
                " another file's place: give it another name"
            )
    with Staged(file, size) as body:
        # The last word may come only when the file is where it belongs, and has a checksum.
        request = Request(
            method="PUT", where=where, body=body, patience=size / _PACE, progress=progress
        )
        reply = asker.ask(request, hangup)
        if reply.status in _NO_PARENT:
            parents.make(asker, where, hangup)
            reply = asker.ask(request, hangup)
    if reply.status not in _DONE:
        raise reply.refusal()


def told_adler32(asker: Asker, where: Address, hangup: Hangup, size: int) -> str | None:
    """See `Depot.adler32`."""
    request = Request(
        method="HEAD",
        where=where,
        headers={"Want-Digest": "adler32"},
        patience=size / _PACE,
        rest=_REST,
    )
    reply = asker.ask(request, hangup)
    if reply.status in (*_MISSING, *_PASSING):
        raise reply.refusal()
    if reply.status != HTTPStatus.OK:
        return None  # it does not know the question
    length = _length(reply)
    if length is not None and length != size:
        raise Corrupt(f"{reply.where.shown} has {length} bytes there, {size} were put")
    return adler32_of(reply.headers[name] for name in _DIGESTS if name in reply.headers)


_DIGESTS = ("Digest", "Repr-Digest")


def read_back(asker: Asker, where: Address, hangup: Hangup, size: int) -> str:
    """See `Depot.read_back`."""
    checksum, got = EMPTY, 0

    def consume(answer: Answer) -> None:
        nonlocal checksum, got
        checksum, got = EMPTY, 0
        buffer = memoryview(bytearray(min(STEP, size + 1)))
        while (count := answer.readinto(buffer)) and got <= size:
            checksum = adler32(buffer[:count], checksum)
            got += count

    reply = asker.ask(Request(method="GET", where=where, consume=consume), hangup)
    if reply.status != HTTPStatus.OK:
        raise reply.refusal()
    length = _length(reply)
    if length not in (None, size):
        raise Corrupt(f"{reply.where.shown} has {length} bytes there, {size} were put")
    if got != size:
        words = f"{reply.where.shown}: {got} of {size} bytes came back"
        raise Unreachable(f"{words}; try again later") if length == size else Corrupt(words)
    return f"{checksum:08x}"


def size(asker: Asker, where: Address, hangup: Hangup) -> int | None:
    """See `Depot.size`."""
    reply = asker.ask(Request(method="HEAD", where=where), hangup)
    if reply.status == HTTPStatus.OK and _length(reply) is None:
        # Apache does not say it of an empty file; what is not empty is not read to its end.
        reply = asker.ask(Request(method="GET", where=where), hangup)
    if reply.status in _MISSING:
        return None
    if reply.status != HTTPStatus.OK:
        raise reply.refusal()
    length = _length(reply)
    if length is None:
        raise Unreachable(f"{reply.where.shown}: the server does not say how long it is")
    return length


def move(
    asker: Asker, source: Address, target: Address, hangup: Hangup, *, is_proved: bool = False
) -> None:
    """See `Depot.move`.  *is_proved*: the server has renamed to where it was told before."""
    if source.origin != target.origin:
        raise NoMove(f"{source.shown} and {target.shown} are not on one server: put it there")
    # XRootD takes no notice of Overwrite and replaces the file.
    seen = asker.ask(Request(method="HEAD", where=target), hangup)
    if seen.status not in _MISSING:
        raise _taken(target) if seen.status == HTTPStatus.OK else seen.refusal()
    destination = _destination(target, is_literal=_is_xrootd(seen))
    request = Request(
        method="MOVE", where=source, headers={"Destination": destination, "Overwrite": "F"}
    )
    reply = asker.ask(request, hangup)
    if reply.status in _NO_PARENT_TO_MOVE:
        if size(asker, source, hangup) is None:
            raise NotThere(f"{source.shown} is not there: put it again")
        parents.make(asker, target, hangup)
        reply = asker.ask(request, hangup)
    if reply.status == HTTPStatus.PRECONDITION_FAILED:
        raise _taken(target)
    if reply.status in _NO_MOVE:
        raise NoMove(f"{reply.refusal()}; {target.shown} has to be put there directly")
    if reply.status not in _DONE:
        raise reply.refusal()
    is_quoted = "%" in target.target
    if (is_quoted or not is_proved) and size(asker, target, hangup) is None:
        why = (
            "the server takes quoted names as they are written"
            if is_quoted
            else "the server knows its files by other paths, as behind a proxy that changes them"
        )
        raise NoMove(
            f"{source.shown} was renamed, but not to {target.shown}, which has to be put there"
            f" directly: {why}"
        )


def _destination(target: Address, *, is_literal: bool) -> str:
    """What tells a server the new name.

    XRootD takes what is written for the name.  Written without quotes it understands it, and so
    would a version that looks for some.
    """
    if "%" not in target.target or not is_literal:
        return target.url
    try:
        path = unquote(target.target, errors="strict")
    except UnicodeDecodeError:
        path = ""
    if not path.isprintable() or path.endswith(" ") or set(path) & set("%?#") or not path:
        raise NoMove(f"XRootD does not rename to {target.shown}: it has to be put there directly")
    return f"{target.origin}{path}"


def delete(asker: Asker, where: Address, hangup: Hangup) -> bool:
    """See `Depot.delete`."""
    reply = asker.ask(Request(method="DELETE", where=where), hangup)
    if reply.status not in (*_DELETED, *_MISSING):
        raise reply.refusal()
    return reply.status in _DELETED


def _length(reply: Reply) -> int | None:
    text = reply.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _is_xrootd(reply: Reply) -> bool:
    return reply.headers.get("Server", "").startswith("XrootD")


def _taken(target: Address) -> Taken:
    return Taken(f"{target.shown} is there already: choose another name, or delete it")
