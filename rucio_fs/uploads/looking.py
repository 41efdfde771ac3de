"""Questions to Rucio that several steps ask."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rucio_fs.catalogue.base import BULK_LIMIT
from rucio_fs.did import DID, DIDInfo
from rucio_fs.errors import Refused
from rucio_fs.rules.verdicts import has_expired
from rucio_fs.uploads.context import Context


async def infos_of(
    context: Context, dids: Sequence[DID]
) -> tuple[dict[DID, DIDInfo], Mapping[DID, Refused]]:
    """What is known of *dids*, and what Rucio has against the names of others.

    It refuses a whole request for one of them: then halves are asked for.
    """
    found: dict[DID, DIDInfo] = {}
    refused: dict[DID, Refused] = {}
    parts = [dids[start : start + BULK_LIMIT] for start in range(0, len(dids), BULK_LIMIT)]
    while parts:
        part = parts.pop()
        try:
            found |= await context.catalogue.infos(context.who, part)
        except Refused as exc:
            if len(part) == 1:
                refused[part[0]] = exc
            else:
                middle = len(part) // 2
                parts += [part[:middle], part[middle:]]
    return found, refused


async def own_rule(context: Context, did: DID, rse_expression: str) -> str:
    """Id of the rule on *did* that Rucio would call one of ours a duplicate of; "" if none is left.

    Raises: what the rules raise
    """
    for rule in await context.rules.rules_of(context.who, did):
        is_same = (rule.account, rule.rse_expression) == (context.terms.account, rse_expression)
        if is_same and not has_expired(rule, time.time_ns()):
            return rule.id
    return ""
