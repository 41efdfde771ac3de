"""Insert DIDs straight into Rucio's tables, past its checks of names: JSON on stdin.

    python -m tests.insert_rows < plan.json     (with the lake's Rucio; `tests.direct` calls it)

Rows only: no rules, no locks, no bytes.  ``{"hide": SCOPE}`` takes a scope out of sight again,
``{"revoke": [TOKEN, ...]}`` ends tokens (Rucio's cache knows them still).
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from lake.inside import base  # isort: skip - first: it sets the name that Rucio goes by
from rucio.core import scope as core_scope
from rucio.core.rse import get_rse_id
from rucio.db.sqla import models
from rucio.db.sqla.constants import DIDAvailability, DIDType, ReplicaState, ScopeStatus
from sqlalchemy import delete, insert, update

Row = dict[str, Any]


def _did(common: Row, kind: Any, name: str, **facts: Any) -> Row:
    return {
        **common,
        "name": name,
        "account": base.account("root"),
        "did_type": kind,
        "is_open": None,
        "monotonic": False,
        "hidden": False,
        "obsolete": False,
        "availability": DIDAvailability.AVAILABLE,
        "suppressed": False,
        "purge_replicas": True,
        "bytes": None,
        "adler32": None,
        "md5": None,
        "length": None,
        **facts,
    }


def _tables(plan: Row, session: Any) -> dict[Any, list[Row]]:
    scope = base.scope(plan["scope"])
    now = datetime.now(UTC).replace(tzinfo=None)  # Rucio's columns are naive UTC
    stamp = datetime.fromisoformat(plan["time"]) if plan.get("time") else now
    common = {"scope": scope, "created_at": stamp, "updated_at": stamp}
    rse_ids = {
        rse: get_rse_id(rse, session=session)
        for rse in {rse for file in plan["files"] for rse in file["rses"]}
    }
    facts = {
        file["name"]: {key: file[key] for key in ("bytes", "adler32", "md5")}
        for file in plan["files"]
    }
    dids = [_did(common, DIDType.FILE, name, **known) for name, known in facts.items()]
    replicas = [
        {
            **common,
            "name": file["name"],
            **facts[file["name"]],
            "rse_id": rse_ids[rse],
            "state": ReplicaState.AVAILABLE,
            "lock_cnt": 0,
        }
        for file in plan["files"]
        for rse in file["rses"]
    ]
    contents = []
    metadata = []
    for one in plan["collections"]:
        kind = DIDType.CONTAINER if one["is_container"] else DIDType.DATASET
        is_open = one["is_open"]
        length = None if is_open else len(one["members"])
        dids.append(_did(common, kind, one["name"], is_open=is_open, length=length))
        child_kind = DIDType.DATASET if one["is_container"] else DIDType.FILE
        contents += [
            {
                **common,
                "name": one["name"],
                "did_type": kind,
                "child_scope": scope,
                "child_name": member,
                "child_type": child_kind,
                **facts.get(member, {"bytes": None, "adler32": None, "md5": None}),
            }
            for member in one["members"]
        ]
    for name, meta in plan["metadata"].items():
        kind = next(row["did_type"] for row in dids if row["name"] == name)
        metadata.append({**common, "name": name, "did_type": kind, "meta": meta})
    return {
        models.DataIdentifier: dids,
        models.RSEFileAssociation: replicas,
        models.DataIdentifierAssociation: contents,
        models.DidMeta: metadata,
    }


def main() -> None:
    """Insert, hide or revoke, in one transaction."""
    plan = json.load(sys.stdin)
    with base.writing() as session:
        if "hide" in plan:
            session.execute(
                update(models.Scope)
                .where(models.Scope.scope == base.scope(plan["hide"]))
                .values(status=ScopeStatus.DELETED)
            )
            return
        if "revoke" in plan:
            session.execute(delete(models.Token).where(models.Token.token.in_(plan["revoke"])))
            return
        core_scope.add_scope(base.scope(plan["scope"]), base.account("root"), session=session)
        for model, rows in _tables(plan, session).items():
            if rows:
                session.execute(insert(model), rows)


if __name__ == "__main__":
    main()
