"""The top of the tree: the root, and one directory for each scope.  Read-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rucio_fs import filenames
from rucio_fs.did import DID, DIDType, Identity
from rucio_fs.errors import BadName, NotFound
from rucio_fs.nodes import attributes
from rucio_fs.nodes.base import Attr, Dir, Entry, Key, Node, dir_attr, file_attr
from rucio_fs.nodes.dids import REFRESH, CollectionDir, DIDFile, Members, Services


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

    def ancestors(self) -> Iterator[DID]:
        return iter(())

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
            entry = await Members(self._services, who, self, at_hand).find(filename)
            if entry is not None:
                return entry
        foreign = _split_foreign(filename)
        if foreign is not None and foreign.scope != self.scope:
            raise NotFound(f"{foreign} is not a DID of the scope {self.scope}")
        did = foreign or DID(self.scope, _decode(filename))
        if "\0" in did.name:
            raise NotFound(f"{did!r}: no database keeps such a name, and Rucio fails to say so")
        info, ttl = await catalogue.info(who, did)
        node: Node
        if info.type is DIDType.FILE:
            node = DIDFile(self._services, did)
            return Entry(filename, node, file_attr(info.size or 0, info.mtime_ns, ttl), ttl)
        node = CollectionDir(self._services, did, self, filename)
        return Entry(filename, node, dir_attr(info.mtime_ns, ttl), ttl)

    async def children(self, who: Identity) -> Sequence[Entry]:
        known = await self._services.catalogue.scope_content(who, self.scope)
        self._services.catalogue.look_anew(who, known.value)
        return Members(self._services, who, self, known)

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
