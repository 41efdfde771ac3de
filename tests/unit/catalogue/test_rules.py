"""Rucio's answers about rules over real HTTP, good and broken, as `RucioRules` reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rucio_fs.catalogue import rucio_rules
from rucio_fs.catalogue.rucio_rules import RucioRules
from rucio_fs.did import DID, Identity, Presence, RuleState
from rucio_fs.errors import (
    Denied,
    NoTarget,
    NotFound,
    NotYetHere,
    QuotaExceeded,
    Refused,
    RucioFsError,
    RuleExists,
    RuleGone,
    Unreachable,
)
from tests.fake_rules import TERMS
from tests.unit.catalogue.conftest import Make
from tests.unit.catalogue.server import Server, answer, error, stream

MY = Identity()
F, G = DID("s", "f"), DID("s", "g")
REPLICAS = "/replicas/list"
PAGE = answer("<html><body>Please log in, this is a long page</body></html>" * 3, kind="text/html")


def rule(rule_id: str = "r1", **facts: Any) -> dict[str, Any]:
    row = {
        "id": rule_id, "scope": "s", "name": "f", "account": "ann", "state": "OK",
        "rse_expression": "COLO", "created_at": "Sat, 21 Nov 2026 04:00:00 UTC",
        "expires_at": None, "comments": None, "error": None, "locks_ok_cnt": 1,
        "locks_replicating_cnt": 0, "locks_stuck_cnt": 0,
    }  # fmt: skip
    return row | facts


def at(name: str, states: dict[str, str] | None, size: int | None = 10) -> dict[str, Any]:
    """A row of list_replicas; without *states* as Rucio writes it for a file without replicas."""
    row: dict[str, Any] = {"scope": "s", "name": name, "bytes": size, "rses": {}, "pfns": {}}
    return row if states is None else row | {"states": states}


@pytest.fixture
def rules(make: Make) -> RucioRules:
    return RucioRules(make().asking)


# --- making --------------------------------------------------------------------------------------


async def test_ids_are_given_in_the_order_asked_for(server: Server, rules: RucioRules) -> None:
    server.on("/rules/", answer('["r1", "r2"]', "201 Created", "text/html"))  # Rucio calls it HTML
    assert await rules.add_rules(MY, [F, G], TERMS) == {F: "r1", G: "r2"}
    assert server.count("/rules/") == 1


@pytest.mark.parametrize(
    "said",
    [
        answer('["r1"]', "201 Created"),
        answer('["r1", "r2", "r3"]', "201 Created"),
        answer('{"id": "r1"}', "201 Created"),
        answer("", "201 Created"),
        answer('["r1", "r2"', "201 Created"),
        PAGE,
        answer("", "502 Bad Gateway", "text/html"),
    ],
    ids=["too few", "too many", "no list", "nothing", "cut", "a page", "a proxy"],
)
async def test_no_rule_is_believed_in(server: Server, rules: RucioRules, said: bytes) -> None:
    server.on("/rules/", said)
    with pytest.raises(Unreachable):
        await rules.add_rules(MY, [F, G], TERMS)
    assert server.count("/rules/") == 2, "worth another try"


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        ("409 CONFLICT", "InsufficientAccountLimit", QuotaExceeded),
        ("409 CONFLICT", "DuplicateRule", RuleExists),
        ("500 INTERNAL SERVER ERROR", "AccessDenied", Denied),  # 500 it is
        ("500 INTERNAL SERVER ERROR", "RSEWriteBlocked", NoTarget),
        ("409 CONFLICT", "InsufficientTargetRSEs", NoTarget),
        ("409 CONFLICT", "InvalidRSEExpression", Refused),
        ("404 NOT FOUND", "DataIdentifierNotFound", NotFound),
        ("409 CONFLICT", "ReplicationRuleCreationTemporaryFailed", NotYetHere),
    ],
)
async def test_refusals_are_told_apart_by_class(
    server: Server, rules: RucioRules, status: str, name: str, kind: type[RucioFsError]
) -> None:
    server.on("/rules/", error(status, name, "for a reason"))
    with pytest.raises(kind, match="for a reason") as caught:
        await rules.add_rules(MY, [F, G], TERMS)
    assert type(caught.value) is kind
    assert server.count("/rules/") == 1, "once refused is refused"
    for part in ("s:f", "1 more", "COLO", "root"):
        assert part in str(caught.value)


# --- changing ------------------------------------------------------------------------------------


async def test_changes_are_done_when_rucio_says_so(server: Server, rules: RucioRules) -> None:
    server.on("/rules/r1", answer("", kind="text/html"))
    await rules.set_lifetime(MY, "r1", 60)
    await rules.boost(MY, "r1")
    await rules.delete_rule(MY, "r1")
    assert [method for method, path, _ in server.requests if path == "/rules/r1"] == [
        "PUT", "PUT", "DELETE",
    ]  # fmt: skip


async def test_a_page_is_no_receipt(server: Server, rules: RucioRules) -> None:
    server.on("/rules/r1", PAGE)
    with pytest.raises(Unreachable):
        await rules.set_lifetime(MY, "r1", 60)
    with pytest.raises(Unreachable):
        await rules.delete_rule(MY, "r1")


async def test_who_may_not_change_rules(server: Server, rules: RucioRules) -> None:
    server.on("/rules/r1", error("401 UNAUTHORIZED", "AccessDenied"))
    with pytest.raises(Denied):
        await rules.boost(MY, "r1")


async def test_traces_are_sent_once(server: Server, rules: RucioRules) -> None:
    server.on("/traces/", answer("Created", "201 Created", "text/html"))
    await rules.trace(MY, [{"eventType": "get"}])
    ((method, headers),) = [(m, h) for m, path, h in server.requests if path == "/traces/"]
    assert (method, headers["x-rucio-auth-token"]) == ("POST", "token-1")
    server.on("/traces/", answer("", "502 Bad Gateway"))
    with pytest.raises(Unreachable):
        await rules.trace(MY, [{"eventType": "get"}])
    assert server.count("/traces/") == 2, "a lost trace is no loss"


# --- asking --------------------------------------------------------------------------------------


async def test_a_rule_in_our_words(server: Server, rules: RucioRules) -> None:
    row = rule(
        state="STUCK",
        error="no route",
        comments="mine",
        expires_at="Sat, 28 Nov 2026 04:00:00 UTC",
        locks_ok_cnt=3,
        locks_replicating_cnt=2,
        locks_stuck_cnt=1,
    )
    server.on("/rules/r1", answer(json.dumps(row)))
    found = await rules.rule(MY, "r1")
    assert (found.id, found.did, found.account, found.rse_expression) == ("r1", F, "ann", "COLO")
    assert (found.state, found.error, found.comment) == (RuleState.STUCK, "no route", "mine")
    assert (found.ok, found.replicating, found.stuck) == (3, 2, 1)
    assert found.expires_ns is not None
    assert found.expires_ns - found.created_ns == 7 * 86400 * 10**9


async def test_a_rule_that_is_not_there(server: Server, rules: RucioRules) -> None:
    server.on("/rules/r1", error("404 NOT FOUND", "RuleNotFound", "No rule with the id r1 found"))
    with pytest.raises(RuleGone):
        await rules.rule(MY, "r1")
    server.on("/rules/r1", answer("no such page", "404 Not Found", "text/html"))
    with pytest.raises(Unreachable):
        await rules.rule(MY, "r1")


@pytest.mark.parametrize("row", [{}, rule(state="ODD"), rule(created_at=None), rule(created_at=1)])
async def test_a_rule_that_is_not_understood(
    server: Server, rules: RucioRules, row: dict[str, Any]
) -> None:
    server.on("/rules/r1", answer(json.dumps(row)))
    with pytest.raises(Unreachable, match="not understood"):
        await rules.rule(MY, "r1")


async def test_rules_of_a_file_are_each_told_once(server: Server, rules: RucioRules) -> None:
    old = rule("r2", created_at="Sat, 21 Nov 2026 03:00:00 UTC", name="dataset")
    server.on("/dids/s/f/rules", stream(rule("r1")))
    server.on("/dids/s/f/associated_rules", stream(rule("r1"), old))
    assert [one.id for one in await rules.rules_of(MY, F)] == ["r2", "r1"]


async def test_states_at_the_site(server: Server, rules: RucioRules) -> None:
    server.on(REPLICAS, stream(at("f", {"COLO": "COPYING"}), at("x", {"COLO": "AVAILABLE"})))
    assert await rules.states_at(MY, [F, G], "COLO") == {F: {"COLO": "COPYING"}, G: {}}
    server.on(REPLICAS, stream(at("f", None), at("g", {})))
    assert await rules.states_at(MY, [F, G], "COLO") == {F: {}, G: {}}


async def test_a_collection_at_several_rses_counts_the_best(
    server: Server, rules: RucioRules
) -> None:
    rows = [
        at("f0", {"COLO": "COPYING", "SCRATCH": "AVAILABLE"}, 1),
        at("f1", {"COLO": "UNAVAILABLE", "SCRATCH": "COPYING"}, 10),
        at("f2", {"COLO": "UNAVAILABLE"}, 100),
        at("f3", {"COLO": "BEING_DELETED"}, 1000),
        at("f4", None, 10_000),
        at("f5", {"COLO": "AVAILABLE"}, None),
    ]
    server.on(REPLICAS, stream(*rows))
    expected = Presence(files=2, bytes=1, copying=1, stuck=1)
    assert await rules.presence(MY, DID("s", "d"), "COLO|SCRATCH") == expected


async def test_totals(server: Server, rules: RucioRules, monkeypatch: pytest.MonkeyPatch) -> None:
    def info(kind: str, length: int | None, size: float | None) -> bytes:
        return answer(json.dumps({"type": kind, "length": length, "bytes": size}))

    server.on("/dids/s/d", info("DATASET", 3, 30.0))
    assert await rules.total(MY, DID("s", "d")) == (3, 30)
    server.on("/dids/s/d", info("DATASET", None, None))
    assert await rules.total(MY, DID("s", "d")) == (0, 0)
    server.on("/dids/s/c", info("CONTAINER", 3, 30.0))
    files = [{"scope": "s", "name": name, "bytes": 10} for name in ("f", "g", "f")]
    server.on("/dids/s/c/files", stream(*files))
    assert await rules.total(MY, DID("s", "c")) == (2, 20)
    monkeypatch.setattr(rucio_rules, "_LONGEST_SUM", 2)
    assert await rules.total(MY, DID("s", "c")) == (None, None)


async def test_trouble_in_words(server: Server, rules: RucioRules) -> None:
    def failed(name: str, source: str | None = "REM1") -> dict[str, Any]:
        return {"scope": "s", "name": name, "rse": "COLO", "attempts": 4, "last_source": source}

    path = "/rules/r1/analysis"
    server.on(path, answer(json.dumps({"rule_error": None, "transfers": []})))
    assert await rules.trouble(MY, "r1") == ""
    server.on(path, answer(json.dumps({"transfers": [failed("f"), failed("g", None)]})))
    assert await rules.trouble(MY, "r1") == (
        "s:f to COLO from REM1 failed 4 times, s:g to COLO from nowhere failed 4 times"
    )
    many = [failed(f"f{number}") for number in range(12)]
    server.on(path, answer(json.dumps({"transfers": many})))
    assert (await rules.trouble(MY, "r1")).endswith("s:f2 to COLO from REM1 failed 4 times, 9 more")
