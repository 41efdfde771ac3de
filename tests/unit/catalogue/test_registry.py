"""Registering over real HTTP with a Rucio that answers as told: lost answers, races, odd RSEs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lake.rses import hash_path
from rucio_fs.catalogue import destinations
from rucio_fs.catalogue.registry import NewCollection, NewFile
from rucio_fs.catalogue.rucio_registry import RucioRegistry
from rucio_fs.did import DID, DIDType, Identity
from rucio_fs.errors import (
    Closed,
    Denied,
    Differs,
    LoginFailed,
    NotYetHere,
    Refused,
    RucioFsError,
    Unreachable,
)
from tests.unit.catalogue.conftest import Make
from tests.unit.catalogue.server import Server, answer, error, stream

MY = Identity()
F, G, D = DID("s", "f"), DID("s", "g"), DID("s", "d")
FILE = NewFile(F, 10, "0000000a", md5="m")
BULKMETA, REPLICAS, LIST = "/dids/bulkmeta", "/replicas", "/replicas/list"
CREATED = answer("Created", "201 CREATED", "text/html; charset=utf-8")
PAGE = answer("<html><body>Please log in, this is a long page</body></html>" * 3, kind="text/html")
GATEWAY = answer("<html>bad gateway</html>", "502 Bad Gateway", "text/html")
AGAIN = error("409 CONFLICT", "DataIdentifierAlreadyExists")
TIME = "Sat, 21 Nov 2026 04:00:00 UTC"


def meta(did: DID = F, kind: str = "FILE", **facts: Any) -> dict[str, Any]:
    row = {
        "did_type": kind, "bytes": 10, "created_at": TIME, "updated_at": TIME, "is_open": False,
        "account": "ann", "adler32": "0000000a", "md5": None, "length": None,
    }  # fmt: skip
    return did._asdict() | row | facts


def at(did: DID, state: str) -> dict[str, Any]:
    return did._asdict() | {"bytes": 10, "rses": {}, "pfns": {}, "states": {"RSE": state}}


def settings(algorithm: str = "hash", **facts: Any) -> bytes:
    protocol = {
        "scheme": "davs", "hostname": "host", "port": 443, "prefix": "/data/", "impl": "x.Default",
        "domains": {"wan": {"write": 1}, "lan": {"write": None}}, "extended_attributes": None,
    }  # fmt: skip
    row = {
        "rse": "RSE", "deterministic": True, "availability_write": True, "volatile": False,
        "lfn2pfn_algorithm": algorithm, "protocols": [protocol | facts],
    }  # fmt: skip
    return answer(json.dumps(row))


@pytest.fixture
def registry(server: Server, make: Make) -> RucioRegistry:
    server.on("/accounts/whoami", answer('{"account": "ann"}'))
    server.on("/accounts/ann/attr/", answer("[]"))
    server.on("/accounts/ann/scopes/", answer('["s"]'))
    server.on("/scopes/", answer('["s", "t"]'))
    server.on("/rses/RSE", settings())
    server.on(BULKMETA, stream(), stream(meta()))
    server.on(REPLICAS, CREATED)
    server.on(LIST, stream(at(F, "AVAILABLE")))
    return RucioRegistry(make().asking)


# --- files ---------------------------------------------------------------------------------------


async def test_a_registration_whose_answer_is_lost_is_found(
    server: Server, registry: RucioRegistry
) -> None:
    server.on(REPLICAS, GATEWAY, CREATED)
    await registry.add_files(MY, "RSE", [FILE])
    row = {"scope": "s", "name": "f", "bytes": 10, "adler32": "0000000a", "md5": "m"}
    assert [body["files"] for body in server.bodies[REPLICAS]] == [[row], [row]]


async def test_somebody_else_was_quicker_with_other_content(
    server: Server, registry: RucioRegistry
) -> None:
    server.on(BULKMETA, stream(), stream(meta(adler32="0000000b")))
    with pytest.raises(Differs):
        await registry.add_files(MY, "RSE", [FILE])
    assert server.count(REPLICAS) == 1


async def test_other_content_is_not_even_sent(server: Server, registry: RucioRegistry) -> None:
    server.on(BULKMETA, stream(meta(bytes=11)))
    with pytest.raises(Differs):
        await registry.add_files(MY, "RSE", [FILE])
    assert server.count(REPLICAS) == 0


@pytest.mark.parametrize(
    ("facts", "is_same"),
    [
        ({"adler32": "0000000A"}, True),
        ({"adler32": "a"}, True),  # some catalogues leave zeros out
        ({"adler32": "0000000a", "md5": "other"}, True),  # as computed by whoever wrote it
        ({"adler32": None, "md5": "m"}, True),
        ({"adler32": None, "md5": "other"}, False),
        ({"adler32": None, "md5": None}, False),
    ],
)
async def test_which_content_is_the_same(
    server: Server, registry: RucioRegistry, facts: dict[str, Any], is_same: bool
) -> None:
    server.on(BULKMETA, stream(meta(**facts)))
    if is_same:
        await registry.add_files(MY, "RSE", [FILE])
        return
    with pytest.raises(Differs):
        await registry.add_files(MY, "RSE", [FILE])


async def test_what_is_said_to_be_registered_has_to_be(
    server: Server, registry: RucioRegistry
) -> None:
    server.on(BULKMETA, stream())
    with pytest.raises(Unreachable, match="does not know s:f at RSE"):
        await registry.add_files(MY, "RSE", [FILE])
    server.on(BULKMETA, stream(meta()))
    server.on(LIST, stream(at(F, "AVAILABLE") | {"states": {"OTHER": "AVAILABLE"}}))
    with pytest.raises(Unreachable, match="does not know s:f at RSE"):
        await registry.add_files(MY, "RSE", [FILE])


@pytest.mark.parametrize("state", ["COPYING", "UNAVAILABLE", "BEING_DELETED", "BAD"])
async def test_a_replica_that_is_not_there(
    server: Server, registry: RucioRegistry, state: str
) -> None:
    server.on(LIST, stream(at(F, state)))
    with pytest.raises(NotYetHere, match=f"s:f at RSE that is {state}"):
        await registry.add_files(MY, "RSE", [FILE])


async def test_a_login_that_fails_is_no_question_of_permission(
    server: Server, registry: RucioRegistry
) -> None:
    server.on("/auth/userpass", error("401 UNAUTHORIZED", "CannotAuthenticate", "bad password"))
    with pytest.raises(LoginFailed, match="bad password"):
        await registry.add_files(MY, "RSE", [FILE])
    assert server.count("/auth/userpass") == 1


async def test_whom_to_ask(server: Server, registry: RucioRegistry) -> None:
    denied = error("401 UNAUTHORIZED", "AccessDenied", "No.")
    server.on(REPLICAS, denied)
    with pytest.raises(Denied, match=r"account ann may not add files at RSE: .*SCRATCHDISK"):
        await registry.add_files(MY, "RSE", [FILE])
    server.on(BULKMETA, stream())
    with pytest.raises(Denied, match="account ann may not add files at RSE: the scope t is not"):
        await registry.add_files(MY, "RSE", [FILE, NewFile(DID("t", "f"), 1, "0000000a")])


# --- every change --------------------------------------------------------------------------------


async def test_a_page_is_no_receipt(server: Server, registry: RucioRegistry) -> None:
    for path in (REPLICAS, "/dids", "/dids/attachments", "/dids/s/d/dids", "/dids/s/f/meta"):
        server.on(path, PAGE)
    server.on(BULKMETA, stream())
    changes: list[Callable[[], Awaitable[None]]] = [
        lambda: registry.add_files(MY, "RSE", [FILE]),
        lambda: registry.add_collections(MY, [NewCollection(D, DIDType.DATASET)]),
        lambda: registry.attach(MY, {D: [F]}),
        lambda: registry.detach(MY, D, [F]),
        lambda: registry.set_metadata(MY, F, {"a": 1}),
    ]
    for change in changes:
        with pytest.raises(Unreachable, match="with a page"):
            await change()


# --- collections and members ---------------------------------------------------------------------


async def test_a_dataset_that_somebody_else_has_just_made(
    server: Server, registry: RucioRegistry
) -> None:
    server.on(BULKMETA, stream(), stream(meta(D, "DATASET")))
    server.on("/dids", AGAIN, CREATED)
    wanted = [NewCollection(D, DIDType.DATASET), NewCollection(G, DIDType.DATASET, lifetime=60)]
    await registry.add_collections(MY, wanted)
    first, second = server.bodies["/dids"]
    assert [row["name"] for row in first] == ["d", "g"]
    assert second == [{"scope": "s", "name": "g", "type": "DATASET", "lifetime": 60}]


@pytest.mark.parametrize("name", ["FileAlreadyExists", "DuplicateContent"])
async def test_a_member_that_somebody_else_has_just_attached(
    server: Server, registry: RucioRegistry, name: str
) -> None:
    server.on("/dids/attachments", error("409 CONFLICT", name), CREATED)
    await registry.attach(MY, {D: [F]})
    assert server.count("/dids/attachments") == 2


async def test_unsupported_is_several_things(server: Server, registry: RucioRegistry) -> None:
    server.on("/dids/attachments", error("409 CONFLICT", "UnsupportedOperation", "it is LOST"))
    rows = [meta(D, "DATASET", is_open=True), meta(G, "CONTAINER", is_open=True)]
    server.on(BULKMETA, stream(*rows))
    with pytest.raises(Refused, match=r"s:d and 1 more: it is LOST"):
        await registry.attach(MY, {D: [F], G: [D]})
    server.on(BULKMETA, stream(*(row | {"is_open": False} for row in rows)))
    with pytest.raises(Closed, match="s:d and 1 more are closed") as caught:
        await registry.attach(MY, {D: [F], G: [D]})
    assert caught.value.dids == (D, G)
    assert caught.value.copy().dids == (D, G)


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [object(), float("nan"), {1: {2}}])
async def test_what_json_lacks_is_not_even_sent(
    server: Server, registry: RucioRegistry, value: object
) -> None:
    with pytest.raises(Refused, match="metadata of s:f are not what JSON has"):
        await registry.set_metadata(MY, F, {"a": value})
    assert server.count("/dids/s/f/meta") == 0


TROUBLE = error("500 INTERNAL SERVER ERROR", "DatabaseException")


async def test_a_database_in_trouble_may_still_take_the_metadata(
    server: Server, registry: RucioRegistry
) -> None:
    server.on("/dids/s/f/meta", TROUBLE, CREATED)
    await registry.set_metadata(MY, F, {"a": 1})
    server.on("/dids/s/f/meta", TROUBLE)
    with pytest.raises(Refused, match="metadata of s:f: one of a, b"):
        await registry.set_metadata(MY, F, {"a": 1, "b": 2})
    server.on(BULKMETA, TROUBLE)
    with pytest.raises(Unreachable, match="DatabaseException"):
        await registry.set_metadata(MY, F, {"a": 1})


# --- where files belong --------------------------------------------------------------------------

PFNS = "/rses/RSE/lfns2pfns"


def told(**pfns: str) -> bytes:
    return answer(json.dumps({f"s:{name}": pfn for name, pfn in pfns.items()}))


async def test_one_pfn_tells_all(server: Server, registry: RucioRegistry) -> None:
    begins = "davs://host:443/service?x=/data/"
    server.on(PFNS, told(f=begins + hash_path(*F)))
    assert await registry.pfns(MY, "RSE", [F], ["davs"]) == {F: begins + hash_path(*F)}
    for _ in range(2):
        found = await registry.pfns(MY, "RSE", [G, F], ["davs"])
        assert found[G] == begins + hash_path(*G)
    assert (server.count(PFNS), server.count("/rses/RSE")) == (1, 1)


@pytest.mark.parametrize("algorithm", ["hash", "experiments-own"])
async def test_paths_that_only_the_server_knows(
    server: Server, registry: RucioRegistry, algorithm: str
) -> None:
    server.on("/rses/RSE", settings(algorithm))
    server.on(PFNS, told(f="davs://host:443/data/2026/f", g="davs://host:443/data/2025/g"))
    assert await registry.pfns(MY, "RSE", [F, G], ["davs"]) == {
        F: "davs://host:443/data/2026/f",
        G: "davs://host:443/data/2025/g",
    }


async def test_no_pfns_are_asked_for_no_files(server: Server, registry: RucioRegistry) -> None:
    assert await registry.pfns(MY, "RSE", [], ["davs"]) == {}
    assert server.count(PFNS) == 0


async def test_a_pfn_that_is_left_out(server: Server, registry: RucioRegistry) -> None:
    server.on(PFNS, told(g="davs://host:443/data/g"))
    with pytest.raises(Unreachable, match="not understood"):
        await registry.pfns(MY, "RSE", [F], ["davs"])


def test_names_are_asked_for_as_many_as_a_url_bears() -> None:
    dids = [DID("s", "n" * (length % 250 + 1)) for length in range(500)]
    batches = [*destinations._by_length(dids)]
    assert [did for batch in batches for did in batch] == dids
    assert max(sum(3 * len(str(did)) + 5 for did in batch) for batch in batches) <= 3000
    assert len(batches) < 100


@pytest.mark.parametrize(
    ("facts", "schemes"),
    [
        ({}, {"davs": "davs://host:443/data/"}),
        ({"port": 0, "prefix": "data"}, {"davs": "davs://host/data"}),
        ({"prefix": "//data/"}, {"davs": "davs://host:443/data/"}),
        ({"domains": {"wan": {"read": 1, "write": None}, "lan": {"write": 1}}}, {}),
        ({"domains": {"lan": {"write": 1}}}, {}),
    ],
)
async def test_how_an_rse_is_written(
    server: Server, registry: RucioRegistry, facts: dict[str, Any], schemes: dict[str, str]
) -> None:
    server.on("/rses/RSE", settings(**facts))
    assert (await registry.destination(MY, "RSE")).schemes == schemes


@pytest.mark.parametrize("facts", [{"availability_write": False}, {"volatile": True}])
async def test_an_rse_that_takes_nothing(
    server: Server, registry: RucioRegistry, facts: dict[str, Any]
) -> None:
    row = json.loads(settings().partition(b"\r\n\r\n")[2])
    server.on("/rses/RSE", answer(json.dumps(row | facts)))
    assert not (await registry.destination(MY, "RSE")).is_writable


async def test_settings_that_are_not_understood(server: Server, registry: RucioRegistry) -> None:
    server.on("/rses/RSE", answer("{}"))
    with pytest.raises(RucioFsError, match="not understood"):
        await registry.destination(MY, "RSE")


# --- the account ---------------------------------------------------------------------------------


async def test_one_scope_is_everybodys(server: Server, registry: RucioRegistry) -> None:
    assert await registry.own_scopes(MY) == ["s"]
    server.on("/scopes/", answer('["t", "s", "mock"]'))
    assert await registry.own_scopes(MY) == ["mock", "s"]


async def test_an_account_without_scopes(server: Server, registry: RucioRegistry) -> None:
    server.on("/accounts/ann/scopes/", error("404 NOT FOUND", "ScopeNotFound"))
    assert await registry.own_scopes(MY) == []


async def test_an_administrator_by_attribute(server: Server, registry: RucioRegistry) -> None:
    server.on("/accounts/ann/attr/", answer('[{"key": "x", "value": 1}, {"key": "admin"}]'))
    assert await registry.own_scopes(MY) == ["s", "t"]
    assert await registry.room(MY, "RSE") is None
    assert server.count("/accounts/whoami") == 1


async def test_more_is_kept_than_the_limit(server: Server, registry: RucioRegistry) -> None:
    row = {"rse": "RSE", "bytes": 10, "bytes_limit": 5, "bytes_remaining": -5}
    server.on("/accounts/ann/usage/local/RSE", stream(row))
    server.on("/accounts/ann/limits/global", answer("{}"))
    assert await registry.room(MY, "RSE") == 0


async def test_no_limit_and_nothing_kept_is_no_room(
    server: Server, registry: RucioRegistry
) -> None:
    server.on("/accounts/ann/usage/local/RSE", stream())
    server.on("/accounts/ann/limits/global", answer("{}"))
    assert await registry.room(MY, "RSE") == 0
