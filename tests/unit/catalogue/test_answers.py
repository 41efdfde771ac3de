"""No false ENOENT, and nothing partial shown as whole: every broken answer over real HTTP."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rucio_fs.did import DID, Identity
from rucio_fs.errors import Denied, NotFound, Refused, RucioFsError, TooSlow, Unreachable
from tests.unit.catalogue.conftest import Make
from tests.unit.catalogue.server import Server, answer, error, stream

MY = Identity()
SET = DID("s", "set")
PATH = "/dids/s/set/dids"
HTML = "<html><body>Please log in</body></html>"
STREAM = "application/x-json-stream"


def row(number: int) -> dict[str, Any]:
    name = f"file{number:04d}"
    return {"scope": "s", "name": name, "type": "FILE", "bytes": 1, "adler32": "0", "md5": None}


ROWS = [row(number) for number in range(1000)]  # more than a block of 64 KiB
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


@pytest.mark.parametrize(
    "whole",
    [
        stream(*ROWS),
        answer(LINES, kind=STREAM),
        answer(LINES.replace(b"\n", b"\n\n"), kind=f"{STREAM}; charset=utf-8"),
    ],
    ids=["chunked", "length", "empty lines"],
)
async def test_a_whole_listing(server: Server, make: Make, whole: bytes) -> None:
    server.on(PATH, whole)
    listing = await make().content(MY, SET)
    assert [member.did.name for member in listing.members] == [one["name"] for one in ROWS]
    assert server.count(PATH) == 1


async def test_an_answer_about_one_did_is_not_empty(server: Server, make: Make) -> None:
    whole = {
        "scope": "s", "name": "set", "did_type": "DATASET", "is_open": True, "bytes": None,
        "length": None, "account": "root", "created_at": "2026-01-01T00:00:00",
        "updated_at": "2026-01-01T00:00:00",
    }  # fmt: skip
    server.on("/dids/s/set/meta", answer(b"", kind=STREAM), stream(whole))
    assert (await make().info(MY, SET)).did == SET
    server.on("/dids/s/set/meta", answer(b"", kind=STREAM))
    with pytest.raises(Unreachable, match="sends an empty answer"):
        await make().info(MY, SET)


async def test_an_empty_listing(server: Server, make: Make) -> None:
    server.on(PATH, answer(b"", kind=STREAM))
    assert len(await make().content(MY, SET)) == 0


BROKEN = {
    "no final chunk": stream(*ROWS, end=b""),
    "no final chunk after nothing": stream(end=b""),
    "half a chunk": stream(*ROWS, end=b"ff\r\n{"),
    "half a chunk size": stream(*ROWS, end=b"f"),
    "half a row, framed": stream(*ROWS, cut=70_000),
    "a row without its line end, framed": stream(*ROWS, cut=-1),
    "short of its length": answer(LINES[:70_000], kind=STREAM, length=len(LINES)),
    "short of its length at a line": answer(
        LINES[: -len(LINES) // 2], kind=STREAM, length=len(LINES)
    ),
    "nothing of its length": answer(b"", kind=STREAM, length=len(LINES)),
    "neither length nor chunks": answer(LINES, kind=STREAM, length=None),
    "no JSON": answer(LINES + b"oops\n", kind=STREAM),
    "a login page": answer(HTML, kind="text/html"),
    "an empty page": answer(b"", kind="text/html"),
    "a page without a type": answer(HTML, kind=None),
    "rows of another kind": stream({"hello": "world"}),
    "a list": stream([1, 2]),
    "a proxy's 404": answer(HTML, "404 Not Found", "text/html"),
    "a proxy's 401": answer(HTML, "401 Unauthorized", "text/html"),
    "a proxy's 403": answer(HTML, "403 Forbidden", "text/html"),
    "a page with 500": answer(HTML, "500 Internal Server Error", "text/html"),
    "502": answer(HTML, "502 Bad Gateway", "text/html"),
    "503": error("503 SERVICE UNAVAILABLE", "ServiceUnavailable"),
    "504": answer("", "504 Gateway Timeout", "text/html"),
    "database": error("500 INTERNAL SERVER ERROR", "DatabaseException"),
    "a 404 of JSON, but not Rucio's": answer('{"error": "not found"}', "404 Not Found"),
    "half of Rucio's 404": answer('{"ExceptionCl', "404 Not Found", length=100),
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_is_unreachable(server: Server, make: Make, broken: bytes) -> None:
    server.on(PATH, broken)
    with pytest.raises(Unreachable, match=re.escape(server.url)) as caught:
        await make().content(MY, SET)
    assert not isinstance(caught.value, TooSlow)
    assert server.count(PATH) == 2  # asked once more


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_the_next_whole_answer_counts(server: Server, make: Make, broken: bytes) -> None:
    server.on(PATH, broken, stream(*ROWS))
    assert len(await make().content(MY, SET)) == len(ROWS)


@pytest.mark.parametrize(
    "document",
    [
        answer('{"scope": "s", "na', length=300),
        answer('{"scope": "s", "na'),
        answer(HTML, kind="text/html"),
        answer("[]"),
        answer("{}"),
    ],
    ids=["short", "half", "page", "list", "empty"],
)
async def test_a_broken_document(server: Server, make: Make, document: bytes) -> None:
    server.on("/dids/s/set/meta", document)
    with pytest.raises(Unreachable):
        await make().info(MY, SET)


@pytest.mark.parametrize("scopes", ['["s', '{"a": 1}', "12"])
async def test_broken_scopes(server: Server, make: Make, scopes: str) -> None:
    server.on("/scopes/", answer(scopes))
    with pytest.raises(Unreachable):
        await make().scopes(MY)


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        (error("404 NOT FOUND", "DataIdentifierNotFound"), NotFound),
        (error("500 INTERNAL SERVER ERROR", "AccessDenied"), Denied),
        (error("401 UNAUTHORIZED", "AccessDenied"), Denied),
        (error("409 CONFLICT", "UnsupportedDIDType"), Refused),
        (error("400 BAD REQUEST", "ValueError"), Refused),
        (answer("", "404 NOT FOUND", ExceptionClass="DataIdentifierNotFound"), NotFound),
    ],
)
async def test_what_rucio_says_is_asked_once(
    server: Server, make: Make, said: bytes, ours: type[RucioFsError]
) -> None:
    server.on(PATH, said)
    with pytest.raises(ours, match="s:set"):
        await make().content(MY, SET)
    assert server.count(PATH) == 1
    assert server.count("/auth/userpass") == 1  # a refusal asks for no new login


async def test_silence_is_too_slow(server: Server, make: Make) -> None:
    server.on(PATH, None)
    with pytest.raises(TooSlow):
        await make(timeout=0.1).content(MY, SET)


async def test_silence_within_an_answer_is_too_slow(server: Server, make: Make) -> None:
    server.on(PATH, answer(LINES[:1000], kind=STREAM, length=len(LINES)))
    server.silent_after_cut = True
    with pytest.raises(TooSlow):
        await make(timeout=0.1).content(MY, SET)


async def test_retry_after_is_kept(server: Server, make: Make) -> None:
    busy = answer("", "429 Too Many Requests", "text/html", Retry_After="3600")
    server.on(PATH, busy)
    with pytest.raises(Unreachable, match="429"):
        await make().content(MY, SET)
    assert server.count(PATH) == 1  # longer than patience


async def test_metadata_without_the_plugin(server: Server, make: Make) -> None:
    server.on("/dids/s/set/meta", error("400 BAD REQUEST", "UnsupportedMetadataPlugin"))
    assert await make().metadata(MY, SET) == {}


async def test_operators_can_tell_who_asks(server: Server, make: Make) -> None:
    server.on("/scopes/", answer("[]"))
    await make().scopes(MY)
    for _, _, headers in server.requests:
        assert headers["user-agent"].startswith("rucio-fs/")
        assert headers["x-rucio-script"] == "rucio-fs"
