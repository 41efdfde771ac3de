"""Tells Rucio about the sample data: replicas, collections, metadata, rules, and a cycle.

Called by bootstrap.py within its transaction.
"""

from collections import defaultdict
from typing import Any

from rucio.core import did as core_did
from rucio.core import did_meta_plugins, replica, rule
from rucio.db.sqla import models
from rucio.db.sqla.constants import DIDType
from sqlalchemy import delete, insert

from lake import samples
from lake.inside import base
from lake.rses import BY_NAME

_Manifest = dict[str, dict[str, Any]]


def register(session: Any, ids: dict[str, str], manifest: _Manifest, ports: dict[str, int]) -> None:
    """Register everything samples.py declares."""
    _add_replicas(session, ids, manifest, ports)
    _add_collections(session)
    _add_cycle(session)
    documents = [(file.did, file.metadata) for file in samples.FILES]
    documents += [(dataset.did, dataset.metadata) for dataset in samples.DATASETS]
    for did, metadata in documents:
        if metadata:
            key = base.did_key(did)
            did_meta_plugins.set_metadata_bulk(**key, meta=dict(metadata), session=session)
    for kept in samples.rules():
        rule.add_rule(
            dids=[base.did_key(kept.did)],
            account=base.account(kept.account),
            copies=1,
            rse_expression=kept.rse,
            grouping="DATASET",
            weight=None,
            lifetime=None,
            locked=False,
            subscription_id=None,
            comment="sample data",
            session=session,
        )
    # Every rule is made and complete.  Left to re-evaluate, the judge would follow the cycle's
    # parents until Python's recursion limit, in every round.
    session.execute(delete(models.UpdatedDID))


def _add_replicas(
    session: Any, ids: dict[str, str], manifest: _Manifest, ports: dict[str, int]
) -> None:
    batches: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for file in samples.FILES:
        facts = manifest[file.did]
        for name in file.rses:
            entry = {
                **base.did_key(file.did),
                "bytes": facts["bytes"],
                "adler32": facts["adler32"],
                "md5": facts["md5"],
            }
            if file.path is not None:
                prefix = BY_NAME[name].prefix
                entry["pfn"] = f"https://{base.HOST}:{ports['davs']}{prefix}{file.path}"
            batches[name, file.account].append(entry)
    for (name, owner), files in batches.items():
        replica.add_replicas(ids[name], files, base.account(owner), session=session)


def _add_collections(session: Any) -> None:
    for collection in (*samples.DATASETS, *samples.CONTAINERS):
        owner = base.account(collection.account)
        key = base.did_key(collection.did)
        kind = DIDType.CONTAINER if collection.is_container else DIDType.DATASET
        core_did.add_did(**key, did_type=kind, account=owner, session=session)
        if collection.members:
            members = [base.did_key(member) for member in collection.members]
            core_did.attach_dids(**key, dids=members, account=owner, session=session)
        if not collection.is_open:
            core_did.set_status(**key, session=session, open=False)


def _add_cycle(session: Any) -> None:
    parent, child = (base.did_key(did) for did in samples.CYCLE)
    row = {
        **parent,
        "child_scope": child["scope"],
        "child_name": child["name"],
        "did_type": DIDType.CONTAINER,
        "child_type": DIDType.CONTAINER,
    }
    session.execute(insert(models.DataIdentifierAssociation), [row])
