"""Which collections files go to, with what the journal and Rucio know of those that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rucio_fs.catalogue.base import ROOT
from rucio_fs.did import DID
from rucio_fs.uploads import naming, options
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.looking import infos_of
from rucio_fs.uploads.records import Collection


async def datasets_for(
    context: Context,
    paths: Sequence[str],
    has_directories: Mapping[str, bool],
    chosen: Mapping[str, DID | None],
) -> Mapping[str, DID | None]:
    """The dataset of each file by its path; None: it is in none.

    The arguments are those of `naming.arrange`.  The journal then has the collections that are
    needed.  Raises: what the catalogue raises
    """
    journal = context.ledger.journal
    # Many files are in few directories.
    directories = {path.rpartition("/")[0]: path for path in paths}
    above = {
        naming.did_of(one)
        for path in directories.values()
        for one in options.directories(path)
        if "/" in one
    }
    roots = {DID(did.scope, did.name + ROOT) for did in above}
    asked = above | roots | {*filter(None, chosen.values())}
    existing = {did: journal.collections[did].type for did in asked if did in journal.collections}
    infos, _ = await infos_of(context, sorted(asked - existing.keys()))
    existing |= {did: one.type for did, one in infos.items() if one.type.is_collection}
    plan = naming.arrange(paths, has_directories, existing, chosen)
    for did, type in plan.collections.items():
        if did not in journal.collections:
            journal.put_collection(Collection(did, type, plan.parent_of.get(did)))
    return plan.dataset_of
