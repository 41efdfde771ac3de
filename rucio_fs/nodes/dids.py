"""DIDs in the tree: collections, files, and what a listing makes of its members.

A collection's key is its path, since one DID may lie in many parents and a directory must have one
number per path; a file's key is its DID, so that a file found by two ways is one inode.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Protocol, overload

from rucio_fs.callers import Caller
from rucio_fs.catalogue.base import Listing
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.catalogue.memory import Known
from rucio_fs.did import DID, DIDType, Identity
from rucio_fs.errors import Loop, NotFound
from rucio_fs.nodes import attributes, requests
from rucio_fs.nodes.base import Attr, Dir, Entry, File, Key, Node, OpenFile, dir_attr, file_attr
from rucio_fs.opening import Opened, Opener
from rucio_fs.rules.services import RuleServices
from rucio_fs.sources.base import Data

REFRESH = "user.rucio.refresh"
"""Setting this attribute on a directory or file asks Rucio again for what is known of it."""


@dataclass(frozen=True)
class Services:
    """What the nodes of this tree need.

    *born_ns*: time shown for what Rucio gives no time.  *rules* is None where nothing can be
    brought, for want of an RSE.
    """

    catalogue: CachedCatalogue
    opener: Opener
    born_ns: int
    rules: RuleServices | None = None
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    missing_ttl: float = 10.0
    now_ttl: float = 2.0

    def shows(self, scope: str) -> bool:
        return any(fnmatchcase(scope, glob) for glob in self.allow) and not any(
            fnmatchcase(scope, glob) for glob in self.deny
        )


class Parent(Protocol):
    """A directory that DIDs lie in: a scope or a collection."""

    @property
    def key(self) -> Key: ...

    def ancestors(self) -> Iterator[DID]:
        """Collections on the path, this one first."""
        ...


class _DIDNode(Node):
    """What files and collections share: a DID, its attributes, and where it was seen.

    *seen_in* is the listing it was found in, which saves asking for it alone: whoever wants the
    attributes of one member soon wants those of its neighbours.
    """

    __slots__ = ("_seen_in", "_services", "did")
    is_file: ClassVar[bool]

    def __init__(
        self, services: Services, did: DID, seen_in: weakref.ref[Listing] | None = None
    ) -> None:
        self._services = services
        self.did = did
        self._seen_in = seen_in

    def _place(self) -> tuple[Listing, int] | None:
        """The listing it was seen in, if that is still in memory, and its position there."""
        listing = self._seen_in() if self._seen_in is not None else None
        position = listing.position(self.did) if listing is not None else None
        return None if listing is None or position is None else (listing, position)

    async def xattr_names(self, who: Identity) -> Sequence[str]:
        return await attributes.names(self._subject(who))

    async def xattr(self, who: Identity, name: str) -> str:
        return await attributes.value(self._subject(who), name)

    async def set_xattr(self, who: Identity, name: str, value: str) -> None:
        services = self._services
        if name == REFRESH:
            services.catalogue.forget(self.did)
        elif services.rules is not None and name in requests.NAMES:
            await requests.carry_out(self._subject(who), services.rules, name, value)
        elif self.is_file and name == requests.SUSPICIOUS:
            await requests.declare_suspicious(self._subject(who), value)
        else:
            await super().set_xattr(who, name, value)

    def _subject(self, who: Identity) -> attributes.Subject:
        services = self._services
        return attributes.Subject(
            services.catalogue,
            services.opener,
            services.rules,
            who,
            self.did,
            services.now_ttl,
            self.is_file,
        )


class CollectionDir(_DIDNode, Dir):
    """A container or dataset under one parent, where it is called *filename*."""

    __slots__ = ("_filename", "_parent")
    is_file = False

    def __init__(
        self,
        services: Services,
        did: DID,
        parent: Parent,
        filename: str,
        seen_in: weakref.ref[Listing] | None = None,
    ) -> None:
        super().__init__(services, did, seen_in)
        self._parent = parent
        self._filename = filename

    @property
    def key(self) -> Key:
        # The filename too: <name> and <scope>:<name> are two paths, hence two directories.
        return (*self._parent.key, self._filename, *self.did)

    def ancestors(self) -> Iterator[DID]:
        yield self.did
        yield from self._parent.ancestors()

    async def attr(self, who: Identity) -> Attr:
        catalogue, place = self._services.catalogue, self._place()
        if place is not None:
            info, ttl = await catalogue.member_info(who, *place)
        else:
            info, ttl = await catalogue.info(who, self.did)
        return dir_attr(info.mtime_ns, ttl)

    async def child(self, who: Identity, filename: str) -> Entry:
        known = await self._content(who)
        entry = await Members(self._services, who, self, known).find(filename)
        if entry is None:
            now = await self._services.catalogue.opened_content(who, self.did, known)
            if now is not known:
                entry = await Members(self._services, who, self, now).find(filename)
        if entry is None:
            raise NotFound(f"{self.did} has no member {filename}")
        return entry

    async def children(self, who: Identity) -> Sequence[Entry]:
        known = await self._content(who)
        self._services.catalogue.look_anew(who, known.value)
        return Members(self._services, who, self, known)

    async def _content(self, who: Identity) -> Known[Listing]:
        if self.did in self._parent.ancestors():
            raise Loop(f"{self.did} contains itself")
        return await self._services.catalogue.content(who, self.did)


class DIDFile(_DIDNode, File):
    """A file DID.  *dataset* is one that it was seen in."""

    __slots__ = ("_dataset",)
    is_file = True

    def __init__(
        self,
        services: Services,
        did: DID,
        seen_in: weakref.ref[Listing] | None = None,
        dataset: DID | None = None,
    ) -> None:
        super().__init__(services, did, seen_in)
        self._dataset = dataset

    @property
    def key(self) -> Key:
        return ("file", *self.did)

    async def attr(self, who: Identity) -> Attr:
        catalogue, place = self._services.catalogue, self._place()
        if place is not None:
            listing, position = place
            size = listing.members[position].size
            if size is not None:
                mtime_ns = await catalogue.mtime_ns(who, listing, position)
                return file_attr(size, mtime_ns, catalogue.file_ttl)
        info, ttl = await catalogue.info(who, self.did)
        return file_attr(info.size or 0, info.mtime_ns, ttl)

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        opened = await self._services.opener.open(
            who,
            self.did,
            caller=caller,
            through=self._dataset,
            nonblocking=bool(flags & os.O_NONBLOCK),
        )
        return OpenDIDFile(opened)


class OpenDIDFile(OpenFile):
    """An open file DID.  Its bytes never change, so the kernel may keep its pages."""

    __slots__ = ("_opened", "_source", "keep_cache")

    def __init__(self, opened: Opened) -> None:
        self.keep_cache = opened.keeps_cache
        self._opened = opened
        self._source = opened.source

    async def read(self, offset: int, size: int) -> Data:
        return await self._source.read(offset, size)

    def close(self) -> None:
        self._opened.close()


class Members(Sequence[Entry]):
    """The entries of a listing below *parent*, each made when it is looked at."""

    def __init__(
        self, services: Services, who: Identity, parent: Parent, known: Known[Listing]
    ) -> None:
        self._services = services
        self._who = who
        self._parent = parent
        self._listing, self._ttl = known
        self._file_ttl = services.catalogue.file_ttl
        self._dataset = next(parent.ancestors(), None)  # files lie in no containers

    def __len__(self) -> int:
        return len(self._listing)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        """The member at *index* with what is known of it without asking.

        Without a known time or size `Attr.ttl` is 0: the kernel has to ask before it shows them.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        listing = self._listing
        member = listing.members[index]
        node: Node
        if member.type is DIDType.FILE:
            mtime_ns = listing.mtime_ns(index)
            is_complete = mtime_ns is not None and member.size is not None
            node = DIDFile(self._services, member.did, listing.ref, self._dataset)
            ttl = self._file_ttl if is_complete else 0.0
            attr = file_attr(member.size or 0, mtime_ns or 0, ttl)
        else:
            node = self._collection(index, listing.filenames[index])
            known = self._services.catalogue.info_at_hand(self._who, member.did)
            attr = dir_attr(0, 0.0) if known is None else dir_attr(known.value.mtime_ns, known.ttl)
        return Entry(listing.filenames[index], node, attr, self._ttl)

    async def find(self, filename: str) -> Entry | None:
        """The member shown as *filename* or named so, with all its attributes."""
        listing, who, catalogue = self._listing, self._who, self._services.catalogue
        position = listing.find(filename)
        if position is None:
            return None
        if listing.members[position].type is not DIDType.FILE:
            info, ttl = await catalogue.member_info(who, listing, position, alone=True)
            node = self._collection(position, filename)
            return Entry(filename, node, dir_attr(info.mtime_ns, ttl), self._ttl)
        await catalogue.mtime_ns(who, listing, position, alone=True)
        entry = self[position]
        if entry.attr.ttl == 0:  # Rucio listed no size
            return entry._replace(attr=await entry.node.attr(who))
        return entry

    def _collection(self, position: int, filename: str) -> CollectionDir:
        did = self._listing.members[position].did
        return CollectionDir(self._services, did, self._parent, filename, self._listing.ref)
