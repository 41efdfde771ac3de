"""Declarations of suspicious replicas over real HTTP: what Rucio is sent, and what it answers."""

from __future__ import annotations

import json

import pytest

from rucio_fs.did import DID, Identity
from rucio_fs.errors import Denied, NoReplica, RucioFsError, TooSlow, Unreachable
from tests.unit.catalogue.conftest import Make
from tests.unit.catalogue.server import Server, answer, error, stream

MY = Identity()
F = DID("s", "f")
LIST, DECLARE = "/replicas/list", "/replicas/suspicious"


def row(name: str = "f", **pfns: tuple[str, int]) -> dict[str, object]:
    """A row of list_replicas: PFNs by their schemes, each with its RSE and priority."""
    return {
        "scope": "s",
        "name": name,
        "pfns": {
            f"{scheme}://h/{name}": {"rse": rse, "priority": priority, "domain": "wan"}
            for scheme, (rse, priority) in pfns.items()
        },
    }


async def test_the_best_pfn_at_the_rse_is_declared(server: Server, make: Make) -> None:
    there = [row("g", root=("R", 1)), row(root=("OTHER", 1), https=("R", 3), davs=("R", 2))]
    server.on(LIST, stream(*there))
    server.on(DECLARE, answer("{}", "201 Created"))
    await make().declare_suspicious(MY, F, "R", "why")
    assert server.bodies[LIST][-1]["rse_expression"] == "R"
    assert server.bodies[DECLARE] == [{"pfns": ["davs://h/f"], "reason": "why"}]


@pytest.mark.parametrize(
    "there", [[], [row()], [row(root=("OTHER", 1))], [row("g", root=("R", 1))]]
)
async def test_without_a_pfn_nothing_is_declared(
    server: Server, make: Make, there: list[dict[str, object]]
) -> None:
    server.on(LIST, stream(*there))
    with pytest.raises(NoReplica, match=r"^Rucio lists no PFN of s:f at R$"):
        await make().declare_suspicious(MY, F, "R", "why")
    assert server.count(DECLARE) == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"R": ["davs://h/f Unknown replica"]}, "R: davs://h/f Unknown replica"),
        ({"unknown": ["davs://h/f"]}, "unknown: davs://h/f"),
        (["davs://h/f"], r"\['davs://h/f'\]"),
    ],
)
async def test_what_rucio_does_not_declare_is_an_error(
    server: Server, make: Make, said: object, words: str
) -> None:
    server.on(LIST, stream(row(davs=("R", 1))))
    server.on(DECLARE, answer(json.dumps(said), "201 Created"))
    with pytest.raises(NoReplica, match=f"s:f at R is not declared suspicious: {words}$"):
        await make().declare_suspicious(MY, F, "R", "why")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (error("401 UNAUTHORIZED", "AccessDenied", "not you"), Denied),
        (error("500 INTERNAL SERVER ERROR", "DatabaseException"), Unreachable),
        (answer("", "503 Service Unavailable", "text/html"), Unreachable),
        (answer("<html>", "201 Created", "text/html"), Unreachable),
        (answer("{", "201 Created"), Unreachable),
    ],
)
async def test_it_is_asked_once(
    server: Server, make: Make, said: bytes, kind: type[RucioFsError]
) -> None:
    """Each declaration counts, and that of a lost answer may have been made."""
    server.on(LIST, stream(row(davs=("R", 1))))
    server.on(DECLARE, said, answer("{}", "201 Created"))
    with pytest.raises(kind, match="declaration of s:f at R"):
        await make().declare_suspicious(MY, F, "R", "why")
    assert server.count(DECLARE) == 1


async def test_no_answer_in_time(server: Server, make: Make) -> None:
    server.on(LIST, stream(row(davs=("R", 1))))
    server.on(DECLARE, None)
    with pytest.raises(TooSlow, match="may have been made"):
        await make(timeout=30.0, deadline=0.5).declare_suspicious(MY, F, "R", "why")
