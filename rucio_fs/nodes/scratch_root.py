"""The top of scratch: one directory for each scope that the account may write to."""

from __future__ import annotations

from collections.abc import Sequence

from rucio_fs import filenames
from rucio_fs.did import Identity
from rucio_fs.errors import BadName, NoScope, NotFound, RucioFsError
from rucio_fs.nodes.base import Attr, Dir, Entry, Key, Space, dir_attr
from rucio_fs.nodes.scratch import (
    TTL,
    ScratchDir,
    ScratchServices,
    attr_of,
    missing_scope,
    space_of,
)


class ScratchRoot(Dir):
    """The scopes that files can be saved in; nothing else is made here."""

    __slots__ = ("_services",)

    def __init__(self, services: ScratchServices) -> None:
        self._services = services

    @property
    def key(self) -> Key:
        return ("scratch",)

    async def attr(self, who: Identity) -> Attr:
        return dir_attr(self._services.born_ns, TTL)

    async def child(self, who: Identity, filename: str) -> Entry:
        if filename in self._services.staging.directories.scopes():
            return self._entry(filename)
        try:
            scope = filenames.decode(filename)
        except BadName as exc:
            raise NotFound(str(exc)) from exc
        if scope not in await self._services.scopes(who):
            raise NotFound(_no_scope(scope))
        return self._entry(filename)

    async def children(self, who: Identity) -> Sequence[Entry]:
        staged = self._services.staging.directories.scopes()
        try:
            scopes = [filenames.encode(scope) for scope in await self._services.scopes(who)]
        except RucioFsError:  # Rucio is away: what is here is here all the same
            if not staged:
                raise
            scopes = []
        return [self._entry(filename) for filename in sorted({*staged, *scopes})]

    def _entry(self, filename: str) -> Entry:
        staging = self._services.staging
        item = staging.items.scope(filename)
        found = staging.attributes.stat(item)
        attr = missing_scope(self._services) if found is None else attr_of(item, found)
        return Entry(filename, ScratchDir(self._services, item), attr, TTL)

    async def space(self) -> Space:
        return space_of(self._services.staging)

    def refusal(self, filename: str) -> RucioFsError:
        if self._services.staging.items.knows_scope(filename):
            return NoScope(
                f"scratch/{filename} is a scope, which is neither moved nor removed here"
            )
        return NoScope(_no_scope(filename))


def _no_scope(scope: str) -> str:
    return f"{scope} is no scope of the account: files are saved in scratch/SCOPE/..."
