"""The extended attributes ``user.rucio.*`` of a DID: one table, one function per name.

Whoever reads one gets what is true now: every value is asked of Rucio with at most *now_ttl*
seconds of age, so that ``getfattr -d`` costs a handful of calls and not one per attribute.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from rucio_fs.availability import AVAILABLE, Arriving, Local
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.did import DID, DIDInfo, Identity
from rucio_fs.errors import NoAttribute
from rucio_fs.opening import Opener, Prospect

PREFIX = "user.rucio."
_META = PREFIX + "meta."


@dataclass(frozen=True, slots=True)
class Subject:
    """The DID somebody asks about, and where to look."""

    catalogue: CachedCatalogue
    opener: Opener
    who: Identity
    did: DID
    now_ttl: float
    is_file: bool

    async def info(self) -> DIDInfo:
        return (await self.catalogue.info(self.who, self.did, max_age=self.now_ttl)).value

    async def prospect(self) -> Prospect:
        return await self.opener.prospect(self.who, self.did)


Reader = Callable[[Subject], Awaitable[str | None]]


async def names(subject: Subject) -> list[str]:
    """Names of the attributes that have a value now."""
    found = [PREFIX + name for name in _table(subject) if await _read(subject, name) is not None]
    metadata = await subject.catalogue.metadata(subject.who, subject.did)
    return found + [_META + key for key in metadata]


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


async def _state(subject: Subject) -> str:
    """What a person wants to know first: can I read it here?"""
    decision = (await subject.prospect()).decision
    match decision:
        case Local():
            return AVAILABLE
        case Arriving():
            return "REPLICATING"
        case _:
            return "NOT_AVAILABLE"


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


async def _source(subject: Subject) -> str | None:
    """The RSE whose copy an open would read now."""
    prospect = await subject.prospect()
    if prospect.error is None and isinstance(prospect.decision, Local):
        return prospect.decision.copies[0].rse
    return None


async def _error(subject: Subject) -> str | None:
    """Why an open would fail now."""
    error = (await subject.prospect()).error
    return None if error is None else str(error)


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
_OF_COLLECTIONS: dict[str, Reader] = {
    **_OF_ALL,
    "updated_at": _updated_at,
    "open": _open,
    "length": _length,
}
_OF_FILES: dict[str, Reader] = {
    **_OF_ALL,
    "adler32": _adler32,
    "md5": _md5,
    "state": _state,
    "replicas": _replicas,
    "pfn": _pfn,
    "local_path": _local_path,
    "source": _source,
    "error": _error,
}
