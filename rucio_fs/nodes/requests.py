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
        subject.catalogue.forget_replicas(subject.did)  # an open that follows has to see the rule


_LONGEST = 3_153_600_000  # s, a hundred years; far more is a date that nothing can keep


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
    is_number = isinstance(lifetime, int | float) and not isinstance(lifetime, bool)
    if not is_number or not 1 <= lifetime <= _LONGEST:  # also of NaN, which JSON readers take
        raise Refused(
            f"{REQUEST}: a lifetime of {lifetime!r} is no number of seconds from 1 to {_LONGEST}"
        )
    return round(float(lifetime))
