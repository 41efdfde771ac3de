"""Stand-ins for Rucio: a lake in memory, and a catalogue whose calls fail on order.

`FakeCatalogue` obeys the same contract as the real one (tests/unit/catalogue/contract.py).
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from lake import samples
from rucio_fs.catalogue.base import BULK_LIMIT, REASON_LIMIT, Catalogue, Listing
from rucio_fs.did import DID, DIDInfo, DIDType, FileReplicas, Identity, Member, Replica
from rucio_fs.errors import NoReplica, NotFound, Refused

SECOND = 1_000_000_000
EPOCH_NS = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z
MY = Identity()


def did(text: str | DID) -> DID:
    """The DID that *text*, ``scope:name``, stands for."""
    return text if isinstance(text, DID) else DID(*text.split(":", 1))


@dataclass
class _Record:
    info: DIDInfo
    children: list[DID] = field(default_factory=list)
    parents: int = 0  # of the same scope: Rucio's listing of a scope asks for no others
    metadata: dict[str, str] = field(default_factory=dict)
    replicas: list[tuple[Replica, str]] = field(default_factory=list)


class FakeCatalogue:
    """A catalogue in memory; build it with `scope`, `file`, `dataset`, `container`, `attach`.

    *calls* counts questions by method name, *askers* by identity.  With *blocked* (a trio.Event)
    each question waits for it; *delay* (s) makes each as slow; *error* is raised by each.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.askers: Counter[Identity] = Counter()
        self.asking = 0  # questions under way
        self.blocked: trio.Event | None = None
        self.delay = 0.0
        self.error: Exception | None = None
        self.shows_all = False  # scope_listing = "all"
        self.over: dict[Replica, Replica] = {}  # what an RSE has over HTTP, its best being another
        self.suspicious: list[tuple[DID, str, str]] = []  # DID, RSE and reason of declarations
        self._scopes: dict[str, list[DID]] = {}
        self._records: dict[DID, _Record] = {}

    # --- building --------------------------------------------------------------------------------

    def scope(self, name: str) -> None:
        self._scopes.setdefault(name, [])

    def file(
        self,
        name: str | DID,
        data: bytes | None = None,
        *,
        size: int = 0,
        adler32: str | None = None,
        md5: str | None = None,
        created_ns: int = EPOCH_NS,
        account: str = "root",
        replicas: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> DID:
        """Add a file of *size* bytes, or with *data*; *replicas* are PFNs by RSE, AVAILABLE."""
        if data is not None:
            size, adler32 = len(data), f"{zlib.adler32(data):08x}"
        info = DIDInfo(
            *(did(name), DIDType.FILE, size, created_ns, created_ns, False, account),
            *(adler32, md5),
        )
        self._add(info, metadata)
        for rse, pfn in (replicas or {}).items():
            self.replica(name, rse, pfn)
        return info.did

    def dataset(
        self,
        name: str | DID,
        *children: str | DID,
        is_open: bool = True,
        created_ns: int = EPOCH_NS,
        account: str = "root",
        metadata: Mapping[str, str] | None = None,
    ) -> DID:
        return self._collection(
            DIDType.DATASET, name, children, is_open, created_ns, account, metadata
        )

    def container(
        self,
        name: str | DID,
        *children: str | DID,
        is_open: bool = True,
        created_ns: int = EPOCH_NS,
        account: str = "root",
        metadata: Mapping[str, str] | None = None,
    ) -> DID:
        return self._collection(
            DIDType.CONTAINER, name, children, is_open, created_ns, account, metadata
        )

    def attach(self, parent: str | DID, *children: str | DID) -> None:
        """Append members, as Rucio does (a cycle is possible, as in real catalogues)."""
        record = self._records[did(parent)]
        for child in map(did, children):
            record.children.append(child)
            self._records[child].parents += child.scope == record.info.did.scope
        self._change(did(parent), updated_ns=record.info.updated_ns + SECOND)

    def detach(self, parent: str | DID, child: str | DID) -> None:
        self._records[did(parent)].children.remove(did(child))
        self._records[did(child)].parents -= did(child).scope == did(parent).scope

    def open_did(self, name: str | DID) -> None:
        """Open a collection again."""
        self._change(did(name), is_open=True, length=None, size=None)

    def close_did(self, name: str | DID) -> None:
        """Close a collection: its length and size are known from then on."""
        record = self._records[did(name)]
        if record.info.type is DIDType.DATASET:
            sizes = [self._records[child].info.size or 0 for child in record.children]
            self._change(record.info.did, is_open=False, length=len(sizes), size=sum(sizes))
        else:
            self._change(record.info.did, is_open=False)

    def replica(
        self,
        name: str | DID,
        rse: str,
        pfn: str = "",
        *,
        is_lan: bool | None = None,
        state: str = "AVAILABLE",
    ) -> None:
        """Add or change the replica of a file at *rse*; a ``file:`` PFN is a lan one."""
        record = self._records[did(name)]
        lan = pfn.startswith("file:") if is_lan is None else is_lan
        kept = [entry for entry in record.replicas if entry[0].rse != rse]
        record.replicas = [*kept, (Replica(rse, pfn, lan), state)]

    def drop_replica(self, name: str | DID, rse: str) -> None:
        record = self._records[did(name)]
        record.replicas = [entry for entry in record.replicas if entry[0].rse != rse]

    def states(self, name: str | DID) -> dict[str, str]:
        """Replica states of a file by RSE; nothing for what Rucio does not know."""
        record = self._records.get(did(name))
        return {replica.rse: state for replica, state in record.replicas} if record else {}

    def type_of(self, name: str | DID) -> DIDType:
        return self._records[did(name)].info.type

    def files_of(self, name: str | DID) -> dict[DID, int]:
        """Files nested in a DID, or itself, each once, with their sizes.  Raises: NotFound."""
        found: dict[DID, int] = {}
        seen: set[DID] = set()
        pending = [did(name)]
        while pending:
            one = pending.pop()
            record = self._record(one)
            if record.info.type is DIDType.FILE:
                found[one] = record.info.size or 0
            elif one not in seen:
                seen.add(one)
                pending += record.children
        return found

    def delete(self, name: str | DID) -> None:
        """Make Rucio forget a DID, also as a member."""
        gone = did(name)
        for child in self._records.pop(gone).children:
            self._records[child].parents -= child.scope == gone.scope
        self._scopes[gone.scope].remove(gone)
        for record in self._records.values():
            record.children = [child for child in record.children if child != gone]

    def _collection(
        self,
        kind: DIDType,
        name: str | DID,
        children: Sequence[str | DID],
        is_open: bool,
        created_ns: int,
        account: str,
        metadata: Mapping[str, str] | None,
    ) -> DID:
        info = DIDInfo(did(name), kind, None, created_ns, created_ns, True, account)
        self._add(info, metadata)
        if children:
            self.attach(name, *children)
        if not is_open:
            self.close_did(name)
        return info.did

    def _add(self, info: DIDInfo, metadata: Mapping[str, str] | None) -> None:
        assert info.did not in self._records, f"{info.did} exists"
        self.scope(info.did.scope)
        self._scopes[info.did.scope].append(info.did)
        self._records[info.did] = _Record(info, metadata=dict(metadata or {}))

    def _change(self, name: DID, **facts: Any) -> None:
        self._records[name].info = replace(self._records[name].info, **facts)

    # --- asking ----------------------------------------------------------------------------------

    async def _arrive(self, who: Identity, method: str) -> None:
        self.calls[method] += 1
        self.askers[who] += 1
        self.asking += 1
        try:
            await trio.lowlevel.checkpoint()
            if self.delay:
                await trio.sleep(self.delay)
            if self.blocked is not None:
                await self.blocked.wait()
        finally:
            self.asking -= 1
        if self.error is not None:
            raise self.error

    def _record(self, name: DID) -> _Record:
        try:
            return self._records[name]
        except KeyError:
            raise NotFound(f"{name}: Data identifier '{name}' not found") from None

    def _infos(self, names: Sequence[DID]) -> list[DIDInfo]:
        return [self._records[name].info for name in names]

    async def scopes(self, who: Identity) -> Sequence[str]:
        await self._arrive(who, "scopes")
        return sorted(self._scopes)

    async def scope_content(self, who: Identity, scope: str) -> Listing:
        await self._arrive(who, "scope_content")
        names = self._scopes.get(scope, [])
        shown = [name for name in names if self.shows_all or not self._records[name].parents]
        infos = self._infos(shown)
        return Listing((Member(info.did, info.type, info.size) for info in infos), scope)

    async def content(self, who: Identity, did: DID) -> Listing:
        await self._arrive(who, "content")
        infos = self._infos(self._record(did).children)
        return Listing(
            (
                Member(
                    info.did,
                    info.type,
                    None if info.type.is_collection else info.size,
                    info.adler32,
                )
                for info in infos
            ),
            did.scope,
            did.name,
        )

    async def parents(self, who: Identity, did: DID) -> Collection[DID]:
        await self._arrive(who, "parents")
        return [name for name, record in self._records.items() if did in record.children]

    async def info(self, who: Identity, did: DID) -> DIDInfo:
        await self._arrive(who, "info")
        return self._record(did).info

    async def infos(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, DIDInfo]:
        await self._arrive(who, "infos")
        if len(dids) > BULK_LIMIT:
            raise Refused(f"{len(dids)} DIDs at once; Rucio takes {BULK_LIMIT}")
        return {name: self._records[name].info for name in dids if name in self._records}

    async def metadata(self, who: Identity, did: DID) -> Mapping[str, str]:
        await self._arrive(who, "metadata")
        record = self._records.get(did)
        return dict(record.metadata) if record else {}

    async def replicas(self, who: Identity, did: DID) -> FileReplicas:
        await self._arrive(who, "replicas")
        return self._where(did)

    async def replicas_over(self, who: Identity, did: DID, schemes: Sequence[str]) -> FileReplicas:
        """An RSE has the PFN of each scheme that `over` names, else the one it has."""
        await self._arrive(who, "replicas_over")
        found = self._where(did)
        kept = [
            replica
            for replica in (self.over.get(one, one) for one in found.replicas)
            if replica.pfn.partition("://")[0] in schemes
        ]
        return replace(found, replicas=tuple(kept))

    async def replicas_of(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, FileReplicas]:
        await self._arrive(who, "replicas_of")
        if len(dids) > BULK_LIMIT:
            raise Refused(f"{len(dids)} DIDs at once; Rucio takes {BULK_LIMIT}")
        files = (name for name in dids if name in self._records)
        return {
            name: self._where(name)
            for name in files
            if self._records[name].info.type is DIDType.FILE
        }

    async def declare_suspicious(self, who: Identity, did: DID, rse: str, reason: str) -> None:
        await self._arrive(who, "declare_suspicious")
        if rse not in self.states(did):
            raise NoReplica(f"Rucio lists no PFN of {did} at {rse}")
        self.suspicious.append((did, rse, reason[:REASON_LIMIT]))

    def _where(self, did: DID) -> FileReplicas:
        record = self._record(did)
        if record.info.type is not DIDType.FILE:
            raise Refused(f"{did} is not a file but a {record.info.type.value.lower()}")
        available = (replica for replica, state in record.replicas if state == "AVAILABLE")
        return FileReplicas(
            did,
            record.info.size or 0,
            record.info.adler32,
            record.info.md5,
            tuple(sorted(available, key=lambda replica: not replica.is_lan)),
            {replica.rse: state for replica, state in record.replicas},
        )


def sample_lake() -> FakeCatalogue:
    """The lake's sample data (`lake.samples`) in memory; every file has the size of its name."""
    fake = FakeCatalogue()
    for scope in samples.SCOPES:
        fake.scope(scope)
    for file in samples.FILES:
        fake.file(
            file.did,
            file.did.encode(),
            account=file.account,
            replicas={rse: f"davs://{rse.lower()}/{file.filename}" for rse in file.rses},
            metadata=_as_text(file.metadata),
        )
    for collection in (*samples.DATASETS, *samples.CONTAINERS):
        make = fake.container if collection.is_container else fake.dataset
        make(
            collection.did,
            *collection.members,
            is_open=collection.is_open,
            account=collection.account,
            metadata=_as_text(collection.metadata),
        )
    fake.attach(*samples.CYCLE)
    return fake


def _as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }


class FailingCatalogue:
    """Passes questions on to *inner*, but those that `fail` names."""

    def __init__(self, inner: Catalogue) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self._failures: dict[str, dict[int, Exception]] = defaultdict(dict)
        self._broken: dict[str, Exception] = {}

    def fail(self, method: str, error: Exception, *, nth: int | None = None) -> None:
        """Let the *nth* call of *method* from now (1 is the next) raise *error*; None: every."""
        if nth is None:
            self._broken[method] = error
        else:
            self._failures[method][self.calls[method] + nth] = error

    def heal(self) -> None:
        """Forget every order to fail."""
        self._failures.clear()
        self._broken.clear()

    def _arrive(self, method: str) -> None:
        self.calls[method] += 1
        error = self._failures[method].pop(self.calls[method], None) or self._broken.get(method)
        if error is not None:
            raise error

    async def scopes(self, who: Identity) -> Sequence[str]:
        self._arrive("scopes")
        return await self.inner.scopes(who)

    async def scope_content(self, who: Identity, scope: str) -> Listing:
        self._arrive("scope_content")
        return await self.inner.scope_content(who, scope)

    async def content(self, who: Identity, did: DID) -> Listing:
        self._arrive("content")
        return await self.inner.content(who, did)

    async def parents(self, who: Identity, did: DID) -> Collection[DID]:
        self._arrive("parents")
        return await self.inner.parents(who, did)

    async def info(self, who: Identity, did: DID) -> DIDInfo:
        self._arrive("info")
        return await self.inner.info(who, did)

    async def infos(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, DIDInfo]:
        self._arrive("infos")
        return await self.inner.infos(who, dids)

    async def metadata(self, who: Identity, did: DID) -> Mapping[str, str]:
        self._arrive("metadata")
        return await self.inner.metadata(who, did)

    async def replicas_over(self, who: Identity, did: DID, schemes: Sequence[str]) -> FileReplicas:
        self._arrive("replicas_over")
        return await self.inner.replicas_over(who, did, schemes)

    async def replicas_of(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, FileReplicas]:
        self._arrive("replicas_of")
        return await self.inner.replicas_of(who, dids)

    async def declare_suspicious(self, who: Identity, did: DID, rse: str, reason: str) -> None:
        self._arrive("declare_suspicious")
        await self.inner.declare_suspicious(who, did, rse, reason)

    async def replicas(self, who: Identity, did: DID) -> FileReplicas:
        self._arrive("replicas")
        return await self.inner.replicas(who, did)
