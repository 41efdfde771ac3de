"""RSEs made while the lake runs: what a test places is what Rucio tells and the server serves."""

from __future__ import annotations

import hashlib
import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from lake import Lake, LakeError
from lake.endpoints import Endpoint, Endpoints
from tests.lake.rest import Rest, did_path, eventually

pytestmark = pytest.mark.lake

_SERVERS = ("colo", "rem1", "nginx", "apache")
_CONTENT = random.Random(9).randbytes(100_000)


@pytest.fixture(scope="module")
def own_lake() -> Iterator[Lake]:
    lake = Lake.up(free_ports=True, samples=False)
    yield lake
    lake.down()


@pytest.fixture(scope="module")
def endpoints(own_lake: Lake) -> Endpoints:
    return Endpoints(own_lake)


@pytest.fixture
def scope() -> str:
    """A name; `place` makes the scope."""
    return f"e-{uuid4().hex[:12]}"


@pytest.fixture
def near(own_lake: Lake, endpoints: Endpoints) -> Endpoint:
    """Some endpoint."""
    return endpoints.add(*own_lake.webdav("nginx", tls=False))


def _get(lake: Lake, url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, verify=str(lake.ca_file), timeout=30)


def _replica(
    lake: Lake, scope: str, filename: str, site: str | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What Rucio tells of a file, and its PFNs."""
    body: dict[str, Any] = {"dids": [{"scope": scope, "name": filename}]}
    if site is not None:
        body["client_location"] = {"ip": "127.0.0.1", "fqdn": "localhost", "site": site}
    rest = Rest(lake)
    try:
        [row] = rest.rows("/replicas/list", body)
    finally:
        rest.close()
    return row, row["pfns"]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("server", _SERVERS)
def test_a_server_serves_what_is_placed_whole_and_by_range(
    own_lake: Lake, endpoints: Endpoints, scope: str, server: str, tls: bool
) -> None:
    url, tree = own_lake.webdav(server, tls=tls)
    endpoint = endpoints.add(url, tree)
    endpoints.place(scope, "a/file.dat", _CONTENT, [endpoint])
    pfn = endpoints.url(endpoint, scope, "a/file.dat")
    assert pfn.startswith(f"{'https' if tls else 'http'}://localhost:")
    whole = _get(own_lake, pfn)
    assert (whole.status_code, whole.content) == (200, _CONTENT)
    part = _get(own_lake, pfn, Range="bytes=50000-50099")
    assert (part.status_code, part.content) == (206, _CONTENT[50_000:50_100])
    assert part.headers["Content-Range"] == "bytes 50000-50099/100000"
    assert endpoints.path(endpoint, scope, "a/file.dat").read_bytes() == _CONTENT


@pytest.mark.parametrize(
    ("server", "name"),
    [("apache", "Apache/"), ("nginx", "nginx/"), ("colo", "XrootD"), ("rem1", "XrootD")],
)
def test_a_server_is_the_one_it_is_called(own_lake: Lake, server: str, name: str) -> None:
    for tls in (False, True):
        answer = _get(own_lake, own_lake.webdav(server, tls=tls)[0])
        assert answer.headers["Server"].startswith(name)


@pytest.mark.parametrize("scheme", ["http", "https", "dav", "davs"])
def test_rucio_tells_the_url_near_and_far(
    own_lake: Lake, endpoints: Endpoints, scope: str, scheme: str
) -> None:
    url, tree = own_lake.webdav("apache", tls=scheme.endswith("s"))
    endpoint = endpoints.add(scheme + url[url.index(":") :], tree, site="AFIELD")
    endpoints.place(scope, "b.dat", _CONTENT, [endpoint])
    pfn = endpoints.url(endpoint, scope, "b.dat")
    assert pfn.startswith(f"{scheme}://")
    for site, domain in ((None, "wan"), ("AFIELD", "lan"), ("HERE", "wan")):
        _, pfns = _replica(own_lake, scope, "b.dat", site)
        assert list(pfns) == [pfn]
        assert pfns[pfn]["rse"] == endpoint.rse
        assert (pfns[pfn]["domain"], pfns[pfn]["priority"]) == (domain, 1)


def test_every_replica_is_available_and_has_bytes_of_its_own(
    own_lake: Lake, endpoints: Endpoints, scope: str
) -> None:
    url, tree = own_lake.webdav("nginx", tls=True)
    first, second = endpoints.add(url, tree), endpoints.add(url, tree)
    endpoints.place(scope, "c.dat", _CONTENT, [first, second])
    row, pfns = _replica(own_lake, scope, "c.dat")
    assert row["states"] == {first.rse: "AVAILABLE", second.rse: "AVAILABLE"}
    assert set(pfns) == {endpoints.url(where, scope, "c.dat") for where in (first, second)}
    endpoints.path(first, scope, "c.dat").write_bytes(b"spoilt")
    assert _get(own_lake, endpoints.url(second, scope, "c.dat")).content == _CONTENT


def test_the_truth_is_registered(
    own_lake: Lake, endpoints: Endpoints, scope: str, near: Endpoint
) -> None:
    endpoints.place(scope, "d.dat", _CONTENT, [near])
    row, _ = _replica(own_lake, scope, "d.dat")
    assert row["bytes"] == len(_CONTENT)
    assert row["adler32"] == f"{zlib.adler32(_CONTENT):08x}"
    assert row["md5"] == hashlib.md5(_CONTENT).hexdigest()


def test_what_is_not_true_is_registered_as_told(
    own_lake: Lake, endpoints: Endpoints, scope: str, near: Endpoint
) -> None:
    endpoints.place(scope, "e.dat", _CONTENT, [near], adler32="00c0ffee", md5="ab" * 16, size=7)
    row, pfns = _replica(own_lake, scope, "e.dat")
    assert (row["bytes"], row["adler32"], row["md5"]) == (7, "00c0ffee", "ab" * 16)
    (pfn,) = pfns
    assert _get(own_lake, pfn).content == _CONTENT
    endpoints.place(scope, "empty.dat", _CONTENT, [near], size=0)
    assert _replica(own_lake, scope, "empty.dat")[0]["bytes"] == 0


def test_a_great_file_takes_neither_time_nor_space(
    own_lake: Lake, endpoints: Endpoints, scope: str, near: Endpoint, tmp_path: Path
) -> None:
    size, hole = 8 << 30, bytes(1 << 24)
    source = tmp_path / "great.dat"
    checksum = 1
    with source.open("wb") as file:
        for start in (0, 3 << 30, (5 << 30) + 13):  # data, hole, data, hole, data, hole
            checksum = _over_zeros(checksum, start - file.tell(), hole)
            file.seek(start)
            file.write(_CONTENT)
            checksum = zlib.adler32(_CONTENT, checksum)
        checksum = _over_zeros(checksum, size - file.tell(), hole)
        file.truncate(size)
    endpoints.place(scope, "great.dat", source, [near])
    source.unlink()
    row, (pfn,) = _replica(own_lake, scope, "great.dat")
    assert (row["bytes"], row["adler32"], row["md5"]) == (size, f"{checksum:08x}", None)
    path = endpoints.path(near, scope, "great.dat")
    assert path.stat().st_blocks * 512 < 1 << 20
    far = (3 << 30) + 5
    assert _get(own_lake, pfn, Range=f"bytes={far}-{far + 9}").content == _CONTENT[5:15]
    path.unlink()


def _over_zeros(checksum: int, count: int, zeros: bytes) -> int:
    """The slow way: through every byte."""
    while count > 0:
        checksum = zlib.adler32(zeros[:count], checksum)
        count -= len(zeros)
    return checksum


def test_a_file_on_another_filesystem_is_copied_with_its_holes(
    endpoints: Endpoints, scope: str, near: Endpoint
) -> None:
    source = Path("/dev/shm") / f"{scope}.dat"
    try:
        with source.open("wb") as file:
            file.write(_CONTENT)
            file.truncate(2 << 30)
        if os.stat("/dev/shm").st_dev == near.tree.stat().st_dev:
            pytest.skip("/dev/shm is no filesystem of its own here")
        endpoints.place(scope, "copied.dat", source, [near])
    finally:
        source.unlink()
    path = endpoints.path(near, scope, "copied.dat")
    assert path.stat().st_size == 2 << 30
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        assert file.read(len(_CONTENT)) == _CONTENT
    path.unlink()


def test_placing_anew_leaves_the_linked_file_alone(
    own_lake: Lake, endpoints: Endpoints, scope: str, near: Endpoint
) -> None:
    source = own_lake.directory / "mine.dat"
    source.write_bytes(_CONTENT)
    endpoints.place(scope, "f.dat", source, [near])
    assert endpoints.path(near, scope, "f.dat").samefile(source)
    endpoints.place(scope, "f.dat", b"other", [near])
    assert source.read_bytes() == _CONTENT
    assert _get(own_lake, endpoints.url(near, scope, "f.dat")).content == b"other"


@pytest.mark.parametrize(
    "filename", ["trail/", "up/../down.txt", "two//slashes", "dots...", "x" * 250]
)
def test_whatever_the_name_it_is_found(
    own_lake: Lake, endpoints: Endpoints, scope: str, near: Endpoint, filename: str
) -> None:
    endpoints.place(scope, filename, _CONTENT, [near])
    _, pfns = _replica(own_lake, scope, filename)
    assert list(pfns) == [endpoints.url(near, scope, filename)]
    assert _get(own_lake, *pfns).content == _CONTENT


def test_a_dataset_is_made_and_grows(
    own_lake: Lake, endpoints: Endpoints, scope: str, near: Endpoint
) -> None:
    for filename in ("one", "two", "one"):
        endpoints.place(scope, filename, b"1", [near], dataset="all")
    rest = Rest(own_lake)
    rows = rest.rows(f"/dids/{did_path(f'{scope}:all')}/dids")
    rest.close()
    assert sorted(row["name"] for row in rows) == ["one", "two"]


def test_a_closed_dataset_is_refused(
    own_lake: Lake, endpoints: Endpoints, scope: str, near: Endpoint
) -> None:
    endpoints.place(scope, "one", b"1", [near], dataset="all")
    endpoints._rest.call("PUT", f"/dids/{scope}/all/status", {"open": False})
    with pytest.raises(LakeError, match="UnsupportedOperation"):
        endpoints.place(scope, "two", b"2", [near], dataset="all")


def test_a_rule_brings_a_file_from_an_endpoint(
    own_lake: Lake, endpoints: Endpoints, scope: str
) -> None:
    endpoint = endpoints.add(*own_lake.webdav("apache", tls=True))
    endpoints.place(scope, "g.dat", _CONTENT, [endpoint])
    rest = Rest(own_lake)
    body = {
        "dids": [{"scope": scope, "name": "g.dat"}],
        "account": "root",
        "copies": 1,
        "rse_expression": "COLO",
        "grouping": "DATASET",
        "locked": False,
    }
    [rule] = rest.post("/rules/", body)
    done = eventually(lambda: rest.get(f"/rules/{rule}"), lambda now: now["state"] != "REPLICATING")
    rest.close()
    assert (done["state"], done["error"]) == ("OK", None)


def test_an_expression_finds_a_new_rse_at_once(own_lake: Lake, endpoints: Endpoints) -> None:
    site = f"SITE-{uuid4().hex[:8].upper()}"
    rest = Rest(own_lake)
    found = []
    for _ in range(2):
        endpoint = endpoints.add(*own_lake.webdav("nginx", tls=True), site=site)
        found.append(endpoint.rse)
        rows = rest.rows(f"/rses/?expression=site={site}")
        assert sorted(row["rse"] for row in rows) == sorted(found)
    rest.close()


def test_a_url_rucio_would_not_give_back_is_refused(endpoints: Endpoints, tmp_path: Path) -> None:
    for url in (
        "http://localhost/x/",  # Rucio puts a port into every PFN
        "http://localhost:9080/x",
        "root://localhost:1094//x/",
        "http://[::1]:9080/x/",
    ):
        with pytest.raises(LakeError, match="is no endpoint"):
            endpoints.add(url, tmp_path)


def test_a_name_in_use_is_refused(own_lake: Lake, endpoints: Endpoints) -> None:
    url, tree = own_lake.webdav("apache", tls=True)
    with pytest.raises(LakeError, match="Duplicate"):
        endpoints.add(url, tree, rse="COLO")


def test_an_unknown_server_is_told_from_those_there_are(own_lake: Lake) -> None:
    with pytest.raises(
        LakeError, match=r"no server lighttpd; there are: colo, rem1, nginx, apache$"
    ):
        own_lake.webdav("lighttpd", tls=True)
