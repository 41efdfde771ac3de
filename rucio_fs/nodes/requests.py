"""Attributes that are set: asking for a DID without opening it, giving it back, reporting it.

setfattr -n user.rucio.request -v 1 PATH
setfattr -n user.rucio.request -v '{"lifetime": 86400}' PATH
setfattr -n user.rucio.release -v 1 PATH
setfattr -n user.rucio.suspicious -v '{"rse": "REM1", "reason": "wrong checksum"}' FILE
"""

from __future__ import annotations

import json
import logging

from rucio_fs.errors import NoRule, Refused
from rucio_fs.nodes.attributes import Subject
from rucio_fs.rules.services import RuleServices

log = logging.getLogger(__name__)

REQUEST = "user.rucio.request"
RELEASE = "user.rucio.release"
NAMES = frozenset({REQUEST, RELEASE})
"""What takes a mount that brings files."""

SUSPICIOUS = "user.rucio.suspicious"
"""What every mount takes, for files."""


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


async def declare_suspicious(subject: Subject, value: str) -> None:
    """Tell Rucio that a replica of the file may be damaged; *value* names its RSE and the reason.

    Raises: Refused (the value), and what `Catalogue.declare_suspicious` raises.
    """
    rse, reason = _suspicion(value)
    await subject.catalogue.declare_suspicious(subject.who, subject.did, rse, reason)
    log.info("%s at %s is declared suspicious: %s", subject.did, rse, reason)


def _suspicion(value: str) -> tuple[str, str]:
    wanted = f'{SUSPICIOUS} takes {{"rse": RSE, "reason": TEXT}}'
    try:
        found = json.loads(value)
    except ValueError as exc:
        raise Refused(f"{wanted}, not {value[:200]!r}: {exc}") from exc
    if not isinstance(found, dict) or found.keys() != {"rse", "reason"}:
        raise Refused(f"{wanted}, not {value[:200]!r}")
    rse, reason = found["rse"], found["reason"]
    if not isinstance(rse, str) or not isinstance(reason, str) or not rse or not reason.strip():
        raise Refused(f"{wanted}, not {value[:200]!r}")
    return rse, " ".join(reason.split())


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
