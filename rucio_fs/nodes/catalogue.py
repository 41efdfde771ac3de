"""The read-only tree of the catalogue: root, scopes, collections, files.

A collection's key is its path, since one DID may lie in many parents and a directory must have one
number per path; a file's key is its DID, so that a file found by two ways is one inode.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, overload

from rucio_fs import filenames
from rucio_fs.catalogue.base import Listing
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.catalogue.memory import Known
from rucio_fs.did import DID, DIDType, Identity, Member
from rucio_fs.errors import BadName, Loop, NotFound
from rucio_fs.nodes import attributes
from rucio_fs.nodes.base import Attr, Dir, Entry, File, Key, Node, OpenFile, dir_attr, file_attr
from rucio_fs.opening import Opener
from rucio_fs.sources.base import Data, Source

REFRESH = "user.rucio.refresh"
"""Setting this attribute on a directory or file asks Rucio again for what is known of it."""


@dataclass(frozen=True)
class Services:
    """What the nodes of this tree need.  *born_ns*: time shown for what Rucio gives no time."""

    catalogue: CachedCatalogue
    opener: Opener
    born_ns: int
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    missing_ttl: float = 10.0
    now_ttl: float = 2.0

    def shows(self, scope: str) -> bool:
        return any(fnmatchcase(scope, glob) for glob in self.allow) and not any(
            fnmatchcase(scope, glob) for glob in self.deny
        )


class RootDir(Dir):
    """Every scope that the configuration lets through, and the *fixed* entries beside them.

    A fixed entry hides a scope of the same name.
    """

    __slots__ = ("_fixed", "_services")

    def __init__(self, services: Services, fixed: Mapping[str, Node]) -> None:
        self._services = services
        self._fixed = dict(fixed)

    @property
    def key(self) -> Key:
        return ("root",)

    async def attr(self, who: Identity) -> Attr:
        return dir_attr(self._services.born_ns, self._services.missing_ttl)

    async def child(self, who: Identity, filename: str) -> Entry:
        node = self._fixed.get(filename)
        if node is not None:
            attr = await node.attr(who)
            return Entry(filename, node, attr, attr.ttl)
        scope = _decode(filename)
        if self._services.shows(scope):
            known = await self._services.catalogue.scopes(who)
            if scope not in known.value:
                # Somebody may just have made it; asked at most once per `missing_ttl`.
                known = await self._services.catalogue.scopes(
                    who, max_age=self._services.missing_ttl
                )
            if scope in known.value:
                return self._entry(scope, known.ttl)
        raise NotFound(f"there is no scope {scope}")

    async def children(self, who: Identity) -> Sequence[Entry]:
        entries = []
        for filename, node in self._fixed.items():
            attr = await node.attr(who)
            entries.append(Entry(filename, node, attr, attr.ttl))
        known = await self._services.catalogue.scopes(who)
        return entries + [
            self._entry(scope, known.ttl)
            for scope in known.value
            if self._services.shows(scope) and filenames.encode(scope) not in self._fixed
        ]

    def _entry(self, scope: str, ttl: float) -> Entry:
        node = ScopeDir(self._services, scope)
        return Entry(filenames.encode(scope), node, node.attr_for(ttl), ttl)

    async def set_xattr(self, who: Identity, name: str, value: str) -> None:
        if name != REFRESH:
            await super().set_xattr(who, name, value)
        self._services.catalogue.forget_all()


class ScopeDir(Dir):
    """The DIDs of one scope.  Shows those without parent; any DID of the scope answers by name."""

    __slots__ = ("_services", "scope")

    def __init__(self, services: Services, scope: str) -> None:
        self._services = services
        self.scope = scope

    @property
    def key(self) -> Key:
        return ("scope", self.scope)

    def attr_for(self, ttl: float) -> Attr:
        return dir_attr(self._services.born_ns, ttl)

    async def attr(self, who: Identity) -> Attr:
        known = await self._services.catalogue.scopes(who)
        return self.attr_for(known.ttl)

    async def child(self, who: Identity, filename: str) -> Entry:
        catalogue = self._services.catalogue
        at_hand = catalogue.scope_listing_at_hand(who, self.scope)
        if at_hand is None and filename.startswith("%~"):  # only a listing knows long names
            at_hand = await catalogue.scope_content(who, self.scope)
        if at_hand is not None:
            listing, ttl = at_hand
            position = listing.find(filename)
            if position is not None:
                return await _member_entry(self._services, who, self, listing, position, ttl)
        foreign = _split_foreign(filename)
        if foreign is not None and foreign.scope != self.scope:
            raise NotFound(f"{foreign} is not a DID of the scope {self.scope}")
        did = foreign or DID(self.scope, _decode(filename))
        info, ttl = await catalogue.info(who, did)
        node: Node
        if info.type is DIDType.FILE:
            node = DidFile(self._services, did, None)
            return Entry(filename, node, file_attr(info.size or 0, info.mtime_ns, ttl), ttl)
        node = CollectionDir(self._services, did, self)
        return Entry(filename, node, dir_attr(info.mtime_ns, ttl), ttl)

    async def children(self, who: Identity) -> Sequence[Entry]:
        listing, ttl = await self._services.catalogue.scope_content(who, self.scope)
        return _Children(self._services, who, self, listing, ttl)

    async def xattr_names(self, who: Identity) -> Sequence[str]:
        return [attributes.PREFIX + "scope"]

    async def xattr(self, who: Identity, name: str) -> str:
        if name == attributes.PREFIX + "scope":
            return self.scope
        return await super().xattr(who, name)

    async def set_xattr(self, who: Identity, name: str, value: str) -> None:
        if name != REFRESH:
            await super().set_xattr(who, name, value)
        self._services.catalogue.forget_scope(self.scope)


class CollectionDir(Dir):
    """A container or dataset under one parent.

    *seen_in* is the parent's listing it was found in: with it, its neighbours are asked for too.
    """

    __slots__ = ("_parent", "_seen_in", "_services", "did")

    def __init__(
        self,
        services: Services,
        did: DID,
        parent: ScopeDir | CollectionDir,
        seen_in: weakref.ref[Listing] | None = None,
    ) -> None:
        self._services = services
        self.did = did
        self._parent = parent
        self._seen_in = seen_in

    @property
    def key(self) -> Key:
        return (*self._parent.key, *self.did)

    async def attr(self, who: Identity) -> Attr:
        catalogue = self._services.catalogue
        listing = self._seen_in() if self._seen_in is not None else None
        position = listing.position(self.did) if listing is not None else None
        if listing is not None and position is not None:
            info, ttl = await catalogue.member_info(who, listing, position)
        else:
            info, ttl = await catalogue.info(who, self.did)
        return dir_attr(info.mtime_ns, ttl)

    async def child(self, who: Identity, filename: str) -> Entry:
        listing, ttl = await self._listing(who)
        position = listing.find(filename)
        if position is None:
            raise NotFound(f"{self.did} has no member {filename}")
        return await _member_entry(self._services, who, self, listing, position, ttl)

    async def children(self, who: Identity) -> Sequence[Entry]:
        listing, ttl = await self._listing(who)
        return _Children(self._services, who, self, listing, ttl)

    async def _listing(self, who: Identity) -> Known[Listing]:
        ancestor: ScopeDir | CollectionDir = self._parent
        while isinstance(ancestor, CollectionDir):
            if ancestor.did == self.did:
                raise Loop(f"{self.did} contains itself")
            ancestor = ancestor._parent
        known = await self._services.catalogue.content(who, self.did)
        return known

    async def xattr_names(self, who: Identity) -> Sequence[str]:
        return await attributes.names(self._subject(who))

    async def xattr(self, who: Identity, name: str) -> str:
        return await attributes.value(self._subject(who), name)

    def _subject(self, who: Identity) -> attributes.Subject:
        services = self._services
        return attributes.Subject(
            services.catalogue, services.opener, who, self.did, services.now_ttl, is_file=False
        )

    async def set_xattr(self, who: Identity, name: str, value: str) -> None:
        if name != REFRESH:
            await super().set_xattr(who, name, value)
        self._services.catalogue.forget(self.did)


class DidFile(File):
    """A file DID.  *seen_in* is the listing it was found in, which saves asking for it alone."""

    __slots__ = ("_seen_in", "_services", "did")

    def __init__(self, services: Services, did: DID, seen_in: weakref.ref[Listing] | None) -> None:
        self._services = services
        self.did = did
        self._seen_in = seen_in

    @property
    def key(self) -> Key:
        return ("file", *self.did)

    async def attr(self, who: Identity) -> Attr:
        catalogue = self._services.catalogue
        listing = self._seen_in() if self._seen_in is not None else None
        position = listing.position(self.did) if listing is not None else None
        if listing is not None and position is not None:
            size = listing.members[position].size
            if size is not None:
                mtime_ns = await catalogue.mtime_ns(who, listing, position)
                return file_attr(size, mtime_ns, catalogue.file_ttl)
        info, ttl = await catalogue.info(who, self.did)
        return file_attr(info.size or 0, info.mtime_ns, ttl)

    async def open(self, who: Identity, flags: int) -> OpenFile:
        return OpenDidFile(await self._services.opener.open(who, self.did))

    async def xattr_names(self, who: Identity) -> Sequence[str]:
        return await attributes.names(self._subject(who))

    async def xattr(self, who: Identity, name: str) -> str:
        return await attributes.value(self._subject(who), name)

    def _subject(self, who: Identity) -> attributes.Subject:
        services = self._services
        return attributes.Subject(
            services.catalogue, services.opener, who, self.did, services.now_ttl, is_file=True
        )

    async def set_xattr(self, who: Identity, name: str, value: str) -> None:
        if name != REFRESH:
            await super().set_xattr(who, name, value)
        self._services.catalogue.forget(self.did)


class OpenDidFile(OpenFile):
    """An open file DID.  Its bytes never change, so the kernel may keep its pages."""

    __slots__ = ("_source",)
    keep_cache = True

    def __init__(self, source: Source) -> None:
        self._source = source

    async def read(self, offset: int, size: int) -> Data:
        return await self._source.read(offset, size)

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True)
class _Children(Sequence[Entry]):
    """The entries of a listing, each made when it is looked at."""

    services: Services
    who: Identity
    parent: ScopeDir | CollectionDir
    listing: Listing
    ttl: float
    _file_ttl: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_file_ttl", self.services.catalogue.file_ttl)

    def __len__(self) -> int:
        return len(self.listing)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _entry(
            self.services,
            self.who,
            self.parent,
            self.listing,
            index,
            self.ttl,
            self._file_ttl,
        )

    def __iter__(self) -> Iterator[Entry]:
        return (self[index] for index in range(len(self)))


def _entry(
    services: Services,
    who: Identity,
    parent: ScopeDir | CollectionDir,
    listing: Listing,
    position: int,
    ttl: float,
    file_ttl: float,
) -> Entry:
    """The member at *position* with what is known of it without asking.

    Without a known time or size `Attr.ttl` is 0: the kernel has to ask before it shows them.
    """
    member: Member = listing.members[position]
    node: Any
    if member.type is DIDType.FILE:
        mtime_ns = listing.mtime_ns(position)
        node = DidFile(services, member.did, listing.ref)
        complete = mtime_ns is not None and member.size is not None
        attr = file_attr(member.size or 0, mtime_ns or 0, file_ttl if complete else 0.0)
    else:
        node = CollectionDir(services, member.did, parent, listing.ref)
        known = services.catalogue.info_at_hand(who, member.did)
        attr = dir_attr(0, 0.0) if known is None else dir_attr(known.value.mtime_ns, known.ttl)
    return Entry(listing.filenames[position], node, attr, ttl)


async def _member_entry(
    services: Services,
    who: Identity,
    parent: ScopeDir | CollectionDir,
    listing: Listing,
    position: int,
    ttl: float,
) -> Entry:
    """The same with all attributes, for a lookup of one name."""
    catalogue = services.catalogue
    if listing.members[position].type is not DIDType.FILE:
        info, info_ttl = await catalogue.member_info(who, listing, position, alone=True)
        entry = _entry(services, who, parent, listing, position, ttl, catalogue.file_ttl)
        return entry._replace(attr=dir_attr(info.mtime_ns, info_ttl))
    if listing.mtime_ns(position) is None:
        await catalogue.mtime_ns(who, listing, position, alone=True)
    entry = _entry(services, who, parent, listing, position, ttl, catalogue.file_ttl)
    if entry.attr.ttl == 0 and isinstance(entry.node, DidFile):
        return entry._replace(attr=await entry.node.attr(who))
    return entry


def _decode(filename: str) -> str:
    try:
        return filenames.decode(filename)
    except BadName as exc:
        raise NotFound(str(exc)) from exc


def _split_foreign(filename: str) -> DID | None:
    try:
        return filenames.split_foreign(filename)
    except BadName as exc:
        raise NotFound(str(exc)) from exc
