"""The extended attributes ``user.rucio.*`` of a DID: one table, one function per name.

Whoever reads one gets what is true now: every value is asked of Rucio with at most *now_ttl*
seconds of age, so that ``getfattr -d`` costs a handful of calls and not one per attribute.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from rucio_fs.availability import (
    Arriving,
    Bring,
    Elsewhere,
    Forbidden,
    Local,
    Nearline,
    Nowhere,
    Stream,
    Unmapped,
)
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.did import DID, DIDInfo, Identity
from rucio_fs.errors import NoAttribute
from rucio_fs.opening import Opener, Prospect
from rucio_fs.rules.delivery import State
from rucio_fs.rules.outlook import Outlook
from rucio_fs.rules.services import RuleServices

PREFIX = "user.rucio."
_META = PREFIX + "meta."
_LONGEST_NAME, _LARGEST_VALUE = 255, 65536  # bytes; Linux has no others


@dataclass(frozen=True, slots=True)
class Subject:
    """The DID somebody asks about, and where to look."""

    catalogue: CachedCatalogue
    opener: Opener
    rules: RuleServices | None
    who: Identity
    did: DID
    now_ttl: float
    is_file: bool

    async def info(self) -> DIDInfo:
        return (await self.catalogue.info(self.who, self.did, max_age=self.now_ttl)).value

    async def prospect(self) -> Prospect:
        return await self.opener.prospect(self.who, self.did)

    async def outlook(self) -> Outlook | None:
        """How the DID stands at the site; None where nothing can be brought."""
        if self.rules is None:
            return None
        if not self.is_file:
            return await self.rules.outlooks.of_collection(self.who, self.did)
        states = (await self.prospect()).file.states
        return await self.rules.outlooks.of_file(self.who, self.did, states)


Reader = Callable[[Subject], Awaitable[str | None]]


async def names(subject: Subject) -> list[str]:
    """Names of the attributes that have a value now.

    Metadata that cannot be an attribute is left out: ``rsync -X`` and ``cp --preserve=xattr`` fail
    over one that is listed and cannot be read.
    """
    found = [PREFIX + name for name in _table(subject) if await _read(subject, name) is not None]
    metadata = await subject.catalogue.metadata(subject.who, subject.did)
    return found + [_META + key for key, text in metadata.items() if _fits(_META + key, text)]


def _fits(name: str, text: str) -> bool:
    """Whether Linux has attributes of that name and size."""
    try:
        encoded, size = os.fsencode(name), len(os.fsencode(text))
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON may hold
        return False
    return len(encoded) <= _LONGEST_NAME and b"\0" not in encoded and size <= _LARGEST_VALUE


async def value(subject: Subject, name: str) -> str:
    """Value of the attribute *name*.  Raises: NoAttribute, and what the catalogue raises."""
    text: str | None = None
    if name.startswith(_META):
        metadata = await subject.catalogue.metadata(subject.who, subject.did)
        text = metadata.get(name.removeprefix(_META))
    elif name.startswith(PREFIX):
        text = await _read(subject, name.removeprefix(PREFIX))
    if text is None:
        raise NoAttribute(f"{subject.did} has no attribute {name}")
    return text


async def _read(subject: Subject, name: str) -> str | None:
    reader = _table(subject).get(name)
    return None if reader is None else await reader(subject)


def _table(subject: Subject) -> dict[str, Reader]:
    return _OF_FILES if subject.is_file else _OF_COLLECTIONS


# --- of every DID ------------------------------------------------------------------------------


async def _did(subject: Subject) -> str:
    return str(subject.did)


async def _scope(subject: Subject) -> str:
    return subject.did.scope


async def _name(subject: Subject) -> str:
    return subject.did.name


async def _type(subject: Subject) -> str:
    return (await subject.info()).type.value


async def _bytes(subject: Subject) -> str | None:
    size = (await subject.info()).size
    return None if size is None else str(size)


async def _account(subject: Subject) -> str:
    return (await subject.info()).account


async def _created_at(subject: Subject) -> str:
    return _iso((await subject.info()).created_ns)


# --- of collections ----------------------------------------------------------------------------


async def _updated_at(subject: Subject) -> str:
    return _iso((await subject.info()).updated_ns)


async def _open(subject: Subject) -> str:
    return "true" if (await subject.info()).is_open else "false"


async def _length(subject: Subject) -> str | None:
    length = (await subject.info()).length
    return None if length is None else str(length)


# --- of files ----------------------------------------------------------------------------------


async def _adler32(subject: Subject) -> str | None:
    return (await subject.info()).adler32


async def _md5(subject: Subject) -> str | None:
    return (await subject.info()).md5


async def _state_of_file(subject: Subject) -> str:
    """What a person wants to know first: can I read it here?"""
    decision = (await subject.prospect()).decision
    if isinstance(decision, Local):
        return State.AVAILABLE.value
    outlook = await subject.outlook()
    if outlook is not None and outlook.state not in (State.NOT_AVAILABLE, State.AVAILABLE):
        return str(outlook.state.value)
    match decision:
        case Arriving() | Stream(is_coming=True):
            return State.REPLICATING.value
        case Nearline():
            return State.NEARLINE.value
        case _:
            return State.NOT_AVAILABLE.value


async def _locality(subject: Subject) -> str:
    """The nearest kind of place that has it."""
    prospect = await subject.prospect()
    match prospect.decision:
        case Local() | Unmapped() | Forbidden():
            return "LOCAL"
        case Nearline():
            return "NEARLINE"
        case Nowhere():
            return "NONE"
        case Bring(rses) | Elsewhere(rses):
            tapes = {one.rse for one in prospect.file.replicas if one.is_tape}
            return "NEARLINE" if tapes.issuperset(rses) else "REMOTE"
        case _:
            return "REMOTE"


async def _replicas(subject: Subject) -> str | None:
    states = (await subject.prospect()).file.states
    return ",".join(f"{rse}={state}" for rse, state in sorted(states.items())) or None


async def _pfn(subject: Subject) -> str | None:
    prospect = await subject.prospect()
    if isinstance(prospect.decision, Local):
        return prospect.decision.copies[0].pfn
    return prospect.file.replicas[0].pfn if prospect.file.replicas else None


async def _local_path(subject: Subject) -> str | None:
    decision = (await subject.prospect()).decision
    return decision.copies[0].path if isinstance(decision, Local) else None


async def _local_error(subject: Subject) -> str | None:
    """Why the copy at the site is not read, also where the file is streamed in its place."""
    damage = (await subject.prospect()).damage
    return None if damage is None else str(damage)


async def _source(subject: Subject) -> str | None:
    """The RSE whose copy an open would read now."""
    prospect = await subject.prospect()
    match prospect.decision:
        case Local() if prospect.fallback:
            return prospect.fallback[0].rse
        case Local(copies) if prospect.damage is None:
            return copies[0].rse
        case Stream(replicas=replicas):
            return replicas[0].rse
        case _:
            return None


async def _cached_bytes(subject: Subject) -> str | None:
    """How much of it was streamed and is kept on this machine's disk."""
    cached = subject.opener.cached_bytes((await subject.prospect()).file)
    return None if cached is None else str(cached)


async def _error_of_file(subject: Subject) -> str | None:
    """Why an open would fail now, or why the file does not come."""
    prospect = await subject.prospect()
    if isinstance(prospect.decision, Local):
        return None if prospect.error is None else str(prospect.error)
    return await _error(subject) or (None if prospect.error is None else str(prospect.error))


# --- of rules, where there is a site to bring things to ------------------------------------------


async def _state(subject: Subject) -> str | None:
    outlook = await subject.outlook()
    return None if outlook is None else outlook.state.value


async def _error(subject: Subject) -> str | None:
    outlook = await subject.outlook()
    return None if outlook is None or outlook.error is None else str(outlook.error)


async def _rule_id(subject: Subject) -> str | None:
    outlook = await subject.outlook()
    if outlook is None:
        return None
    if outlook.delivery is not None:
        return outlook.delivery.rule_id
    return None if outlook.rule is None else outlook.rule.id


async def _rule_url(subject: Subject) -> str | None:
    rule_id = await _rule_id(subject)
    if rule_id is None or subject.rules is None:
        return None
    return subject.rules.url.replace("{rule_id}", rule_id)


async def _expires_at(subject: Subject) -> str | None:
    outlook = await subject.outlook()
    if outlook is None or outlook.rule is None or outlook.rule.expires_ns is None:
        return None
    return _iso(outlook.rule.expires_ns)


async def _eta(subject: Subject) -> str | None:
    """Seconds until it is here, as far as those before it tell."""
    outlook = await subject.outlook()
    if subject.rules is None or outlook is None or outlook.delivery is None:
        return None
    eta = subject.rules.keeper.board.eta(outlook.delivery)
    return None if eta is None else f"{eta:.0f}"


async def _progress(subject: Subject) -> str | None:
    outlook = await subject.outlook()
    if subject.rules is None or outlook is None:
        return None
    info = await subject.info()
    facts = await subject.rules.outlooks.progress(
        subject.who, subject.did, info.type, info.size, outlook
    )
    if subject.is_file:
        facts |= {"state": await _state_of_file(subject), "error": await _error_of_file(subject)}
    return json.dumps(facts, ensure_ascii=False)


def _iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_OF_ALL: dict[str, Reader] = {
    "did": _did,
    "scope": _scope,
    "name": _name,
    "type": _type,
    "bytes": _bytes,
    "account": _account,
    "created_at": _created_at,
}
_OF_RULES: dict[str, Reader] = {
    "state": _state,
    "error": _error,
    "rule_id": _rule_id,
    "rule_url": _rule_url,
    "expires_at": _expires_at,
    "eta": _eta,
    "progress": _progress,
}
_OF_COLLECTIONS: dict[str, Reader] = {
    **_OF_ALL,
    **_OF_RULES,
    "updated_at": _updated_at,
    "open": _open,
    "length": _length,
}
_OF_FILES: dict[str, Reader] = {
    **_OF_ALL,
    **_OF_RULES,
    "adler32": _adler32,
    "md5": _md5,
    "state": _state_of_file,
    "locality": _locality,
    "replicas": _replicas,
    "pfn": _pfn,
    "local_path": _local_path,
    "local_error": _local_error,
    "source": _source,
    "cached_bytes": _cached_bytes,
    "error": _error_of_file,
}
