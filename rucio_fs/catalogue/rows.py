"""Rucio's JSON rows as our nouns.  Pure; its dictionaries end here.

Called in the worker threads, on rows that `client.RucioClient` has read.
"""

from __future__ import annotations

import calendar
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rucio_fs.did import DID, DIDInfo, DIDType, FileReplicas, Member, Replica, Rule, RuleState

Row = Mapping[str, Any]

_TYPES = {kind.value: kind for kind in DIDType}
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


def scopes(answer: Any) -> list[str]:
    """The document of list_scopes, sorted.  Raises: TypeError"""
    if not isinstance(answer, list) or not all(isinstance(scope, str) for scope in answer):
        raise TypeError("not a list of scopes")
    return sorted(answer)


def members(rows: Iterable[Row]) -> Iterator[Member]:
    """Rows of list_content, of a scope's listing or of a search, one by one.

    A hundred thousand members share the strings of their scopes.
    """
    for row in rows:
        kind = row.get("type") or row["did_type"]
        yield Member(
            DID(sys.intern(row["scope"]), row["name"]),
            _TYPES[kind],
            row.get("bytes"),
            row.get("adler32"),
        )


def did_info(row: Row) -> DIDInfo:
    """A row of get_metadata with the plugin DID_COLUMN.  Raises: KeyError, TypeError"""
    is_open = bool(row["is_open"])
    return DIDInfo(
        did=DID(row["scope"], row["name"]),
        type=_TYPES[row["did_type"]],
        size=row["bytes"],
        created_ns=time_ns(row["created_at"]),
        updated_ns=time_ns(row["updated_at"]),
        is_open=is_open,
        account=row["account"],
        adler32=row.get("adler32"),
        md5=row.get("md5"),
        length=None if is_open else row["length"],
    )


def file_replicas(row: Row) -> FileReplicas:
    """A row of list_replicas.  PFNs of replicas that are not AVAILABLE are left out."""
    states: dict[str, str] = dict(row.get("states") or {})  # absent without any replica
    pfns = sorted(row["pfns"].items(), key=lambda item: item[1]["priority"])
    return FileReplicas(
        did=DID(row["scope"], row["name"]),
        size=row["bytes"] or 0,
        adler32=row.get("adler32"),
        md5=row.get("md5"),
        replicas=tuple(
            Replica(
                facts["rse"],
                pfn,
                is_lan=facts["domain"] == "lan",
                is_tape=facts.get("type") == "TAPE",
            )
            for pfn, facts in pfns
            if states.get(facts["rse"]) == "AVAILABLE"
        ),
        states=states,
    )


def metadata(row: Any) -> dict[str, str]:
    """User-defined metadata as text: strings as they are, all else as JSON.

    Raises: TypeError
    """
    if not isinstance(row, dict):
        raise TypeError("not a mapping")
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in row.items()
    }


def rule(row: Row) -> Rule:
    """A row of list_replication_rules, or the document of get_replication_rule.

    Raises: KeyError, TypeError
    """
    expires = row.get("expires_at")
    return Rule(
        id=row["id"],
        did=DID(row["scope"], row["name"]),
        account=row["account"],
        state=RuleState[row["state"]],
        rse_expression=row["rse_expression"],
        created_ns=time_ns(row["created_at"]),
        expires_ns=None if expires is None else time_ns(expires),
        comment=row.get("comments") or "",
        error=row.get("error"),
        ok=row["locks_ok_cnt"],
        replicating=row["locks_replicating_cnt"],
        stuck=row["locks_stuck_cnt"],
    )


def states_at(row: Row) -> tuple[DID, dict[str, str]]:
    """A row of list_replicas without its PFNs."""
    return DID(row["scope"], row["name"]), dict(row.get("states") or {})


def time_ns(text: Any) -> int:
    """``Fri, 20 Nov 2026 10:47:45 UTC`` (or ISO 8601, taken as UTC) in ns since the epoch.

    By hand, because strptime follows the locale and takes 8 µs of a row's 12.

    Raises: TypeError, ValueError
    """
    if not isinstance(text, str):
        raise TypeError("not a time")
    if text.endswith(" UTC"):
        _, day, month, year, clock, _ = text.split()
        hour, minute, second = clock.split(":")
        date = (
            int(year),
            _MONTHS.index(month) // 3 + 1,
            int(day),
            int(hour),
            int(minute),
            int(second),
        )
        return calendar.timegm(date) * 1_000_000_000
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000
