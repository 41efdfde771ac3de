"""Rucio's rows as nouns: the corners that the lake does not show."""

from __future__ import annotations

import pytest

from rucio_fs.catalogue import rows
from rucio_fs.did import DID, DIDType, Member, Replica


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Fri, 20 Nov 2026 10:47:45 UTC", 1795171665),
        ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
        ("Sat, 29 Feb 2020 23:59:59 UTC", 1583020799),
        ("2026-11-20T10:47:45", 1795171665),
        ("2026-11-20T10:47:45+00:00", 1795171665),
    ],
)
def test_times(text: str, seconds: int) -> None:
    assert rows.time_ns(text) == seconds * 10**9


def test_members_share_scopes_and_types() -> None:
    found = list(
        rows.members(
            [
                {"scope": "s" * n, "name": "a", "type": "FILE", "bytes": 1, "adler32": "00000001"}
                for n in (300, 300)
            ]
        )
    )
    assert found[0].did.scope is found[1].did.scope
    assert found[0].type is DIDType.FILE


def test_the_search_calls_the_type_did_type() -> None:
    row = {"scope": "s", "name": "d", "did_type": "DATASET", "bytes": None, "length": None}
    assert list(rows.members([row])) == [Member(DID("s", "d"), DIDType.DATASET)]


def test_replicas_are_in_rucios_order_and_available() -> None:
    def pfn(rse: str, domain: str, priority: int) -> dict[str, object]:
        return {"rse": rse, "domain": domain, "priority": priority}

    found = rows.file_replicas(
        {
            "scope": "s",
            "name": "f",
            "bytes": 3,
            "adler32": None,
            "md5": None,
            "pfns": {
                "davs://c/f": pfn("C", "wan", 3),
                "davs://b/f": pfn("B", "wan", 2),
                "file://a/f": pfn("A", "lan", 1),
            },
            "states": {"A": "AVAILABLE", "B": "COPYING", "C": "AVAILABLE", "D": "BAD"},
        }
    )
    assert found.replicas == (
        Replica("A", "file://a/f", is_lan=True),
        Replica("C", "davs://c/f"),
    )
    assert found.states == {"A": "AVAILABLE", "B": "COPYING", "C": "AVAILABLE", "D": "BAD"}


def test_a_file_without_replicas() -> None:
    row = {"scope": "s", "name": "f", "bytes": 3, "pfns": {}, "rses": {}}
    found = rows.file_replicas(row)
    assert (found.replicas, found.states) == ((), {})


def test_metadata_is_text() -> None:
    assert rows.metadata({"a": "x", "b": 1.5, "c": None, "d": ["é", {"e": True}]}) == {
        "a": "x",
        "b": "1.5",
        "c": "null",
        "d": '["é", {"e": true}]',
    }
