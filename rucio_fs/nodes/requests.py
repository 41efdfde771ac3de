"""Asking for a DID without opening it, and giving it back: attributes that are set.

setfattr -n user.rucio.request -v 1 PATH
setfattr -n user.rucio.request -v '{"lifetime": 86400}' PATH
setfattr -n user.rucio.release -v 1 PATH
"""

from __future__ import annotations

import json

from rucio_fs.errors import NoRule, Refused
from rucio_fs.nodes.attributes import Subject
from rucio_fs.rules.services import RuleServices

REQUEST = "user.rucio.request"
RELEASE = "user.rucio.release"
NAMES = frozenset({REQUEST, RELEASE})


async def carry_out(subject: Subject, rules: RuleServices, name: str, value: str) -> None:
    """Do what setting the attribute *name* to *value* means.

    Returns when the rule is made, not when the data is here.

    Raises: Refused (the value), NoRule, and what `RuleKeeper` raises.
    """
    try:
        if name == REQUEST:
            info = await subject.info()
            await rules.keeper.request(subject.who, subject.did, info.type, _lifetime(value))
        elif not await rules.keeper.release(subject.who, subject.did):
            raise NoRule(f"{subject.did} has no rule that rucio-fs has made")
    finally:
        rules.outlooks.forget(subject.did)


def _lifetime(value: str) -> int | None:
    """Seconds; None for the configured lifetime."""
    try:
        options = json.loads(value or "1")
    except ValueError as exc:
        raise Refused(f"{REQUEST} = {value!r} is neither 1 nor JSON: {exc}") from exc
    if options == 1:
        return None
    if not isinstance(options, dict) or options.keys() - {"lifetime"}:
        raise Refused(f'{REQUEST} = {value!r}: write 1 or {{"lifetime": SECONDS}}')
    lifetime = options.get("lifetime")
    if lifetime is None:
        return None
    if not isinstance(lifetime, int | float) or isinstance(lifetime, bool) or lifetime < 1:
        raise Refused(f"{REQUEST}: a lifetime of {lifetime!r} is no number of seconds")
    return round(lifetime)
