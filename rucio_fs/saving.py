"""What a mount needs so that files can be saved in it: the staging area, its uploads, its nodes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import trio

from rucio_fs.callers import Caller
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.catalogue.registry import Registry
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.catalogue.rucio_registry import RucioRegistry
from rucio_fs.catalogue.rucio_rules import RucioRules
from rucio_fs.config import Config
from rucio_fs.depot.depot import Depot
from rucio_fs.did import DID, Identity
from rucio_fs.directories import default_scratch
from rucio_fs.errors import NoTarget, Refused, RucioFsError, UsageError
from rucio_fs.nodes.control import UploadsFile
from rucio_fs.nodes.scratch import ScratchServices
from rucio_fs.nodes.scratch_root import ScratchRoot
from rucio_fs.opening import Opened, Opener
from rucio_fs.rules import services
from rucio_fs.rules.events import Events
from rucio_fs.scratch.overseeing import Given
from rucio_fs.scratch.staging import Staging
from rucio_fs.sources.base import Data
from rucio_fs.uploads.admission import Admission
from rucio_fs.uploads.in_place import InPlace, Lock, prepare, refuse_link
from rucio_fs.uploads.places import Places
from rucio_fs.uploads.records import Record
from rucio_fs.uploads.services import UploadServices, terms_of
from rucio_fs.webdav.credentials import Credentials

log = logging.getLogger(__name__)

_SCOPES_TTL = 60.0  # s; scopes are made by administrators
_SCOPES_PATIENCE = 3.0  # s; then those of before count
_LOCK_LOOK = 0.2  # s between two looks whether the last mount has ended


class Saving:
    """One mount's scratch.  Made by `open`, before anything is mounted."""

    def __init__(self, config: Config, staging: Staging) -> None:
        self._config = config
        self._staging = staging
        self._uploads: UploadServices | None = None
        self._tree_lock: Lock | None = None
        self._depot: Depot | None = None

    def __repr__(self) -> str:
        return f"<Saving in {self._staging!r}>"

    @classmethod
    async def open(cls, config: Config, mountpoint: Path) -> Saving | None:
        """None where nothing can be saved.

        A mount that has just been ended may still be uploading: that is waited for.

        Raises: UsageError
        """
        scratch = config.scratch
        if scratch.in_place and (scratch.rse is None or scratch.dir is None):
            raise UsageError(
                "scratch.in_place needs scratch.rse, a storage (RSE) that is mounted here, and"
                " scratch.dir, a directory of it"
            )
        if not scratch.is_wanted:
            return None
        if scratch.in_place:
            assert scratch.dir is not None, "seen above"
            directory = scratch.journal_dir or default_scratch(mountpoint)
            await trio.to_thread.run_sync(prepare, directory, scratch.dir)
        else:
            directory = scratch.dir or default_scratch(mountpoint)
            refuse_link(directory)
        until = trio.current_time() + scratch.stop_timeout
        while True:
            try:
                return cls(config, await trio.to_thread.run_sync(Staging.open, directory))
            except UsageError:
                if trio.current_time() >= until:
                    raise
                await trio.sleep(_LOCK_LOOK)

    async def build(
        self,
        who: Identity,
        account: str,
        mountpoint: Path,
        asking: Asking,
        rucio: RucioCatalogue,
        catalogue: CachedCatalogue,
        events: Events,
    ) -> None:
        """Put its parts together.  Raises: UsageError"""
        config = self._config
        registry = RucioRegistry(asking)
        terms = services.terms(config.rules, config.scratch.rse or "", account, str(mountpoint))
        assert terms is not None
        if config.scratch.rse is not None:
            await self._check(registry, who, config.scratch.rse)
        places = Places(asking, registry, config.site.paths)
        in_place = await self._in_place(places, who)
        self._depot = Depot(
            Credentials(config.storages),
            timeout=config.scratch.timeout,
            connections=config.scratch.connections,
        )

        def on_done(record: Record) -> None:
            for did in (record.did, record.dataset):
                if did is not None:
                    catalogue.forget(did)
            catalogue.forget_scope(record.did.scope)

        depot = self._depot
        self._uploads = await trio.to_thread.run_sync(
            lambda: UploadServices.build(
                config.scratch,
                self._staging,
                who,
                terms_of(terms),
                rucio,
                registry,
                RucioRules(asking),
                depot,
                events,
                on_done,
                places,
                in_place,
                [one for one in (config.site.rse, config.scratch.rse) if one is not None],
            )
        )
        self._scopes = _OwnScopes(registry)
        self.admission = Admission(registry, who, config.scratch.rule or config.scratch.rse)
        await self.admission.look()

    async def _check(self, registry: RucioRegistry, who: Identity, rse: str) -> None:
        """A name that is misspelt is found out now, not when something was saved."""
        try:
            await registry.destination(who, rse)
        except NoTarget as exc:
            raise UsageError(f"scratch.rse = {rse!r}: {exc}") from exc

    async def _in_place(self, places: Places, who: Identity) -> InPlace | None:
        """Where scratch lies on its RSE, if it does.  Raises: UsageError"""
        scratch = self._config.scratch
        if not scratch.in_place or scratch.rse is None or scratch.dir is None:
            return None
        tree = await trio.to_thread.run_sync(scratch.dir.resolve)
        try:
            place = await places.of(who, scratch.rse, tree)
            place.pfn(tree)
        except (NoTarget, Refused) as exc:
            raise UsageError(f"scratch.in_place: scratch.dir: {exc}") from exc
        if place.is_deterministic:
            raise UsageError(
                f"scratch.in_place: {scratch.rse} is deterministic: it is Rucio that says where its"
                " files are; name one that is not, or set scratch.in_place = false"
            )
        self._tree_lock = Lock(tree)
        return InPlace(place, tree)

    @property
    def uploads(self) -> UploadServices:
        assert self._uploads is not None, "build comes first"
        return self._uploads

    def read_with(self, opener: Opener) -> None:
        """How files are read whose bytes were given up here."""

        async def reader(who: Identity, did: DID, caller: Caller) -> Given:
            return _FromLake(await opener.open(who, did, caller=caller))

        self.uploads.overseer.reader = reader

    def root(self, born_ns: int) -> ScratchRoot:
        """The directory `scratch`."""
        return ScratchRoot(
            ScratchServices(self._staging, self._scopes.known, born_ns, self.admission.check)
        )

    def control(self, born_ns: int) -> UploadsFile:
        """`.rucio/uploads`."""
        uploads, scratch = self.uploads, self._config.scratch
        in_place = scratch.dir if scratch.in_place else None
        kept = {"directory": str(in_place or self._staging.directory)}
        return UploadsFile("uploads", lambda: kept | uploads.board.render(), uploads.order, born_ns)

    def start(self, nursery: trio.Nursery) -> None:
        """Have everything running that goes on as long as the mount."""
        nursery.start_soon(self.uploads.run)
        nursery.start_soon(self.admission.run)

    def stop(self) -> None:
        """The mount has ended: who has files open for writing has not closed them."""
        self._staging.stop()

    async def finish(self) -> None:
        """Let what is under way come to its end, for as long as the configuration says."""
        if self._uploads is not None:
            await self._uploads.finish(self._config.scratch.stop_timeout)

    async def close(self) -> None:
        """Nothing runs any more."""
        if self._uploads is not None:
            self._uploads.close()
        if self._depot is not None:
            self._depot.close()
        if self._tree_lock is not None:
            self._tree_lock.close()
        await trio.to_thread.run_sync(self._staging.close)


class _FromLake:
    """A file that is read from the lake.  See `scratch.overseeing.Given`."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def read(self, offset: int, size: int) -> Data:
        return await self._opened.source.read(offset, size)

    def close(self) -> None:
        self._opened.close()


class _OwnScopes:
    """The scopes of the account, as of the last time that Rucio said so."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[Identity, Sequence[str]] = {}
        self._asked_at = float("-inf")
        self._asking = trio.Lock()

    async def known(self, who: Identity) -> Sequence[str]:
        async with self._asking:
            age = trio.current_time() - self._asked_at
            if who not in self._known:
                self._known[who] = await self._registry.own_scopes(who)
                self._asked_at = trio.current_time()
            elif age > _SCOPES_TTL:
                with trio.move_on_after(_SCOPES_PATIENCE):
                    try:
                        self._known[who] = await self._registry.own_scopes(who)
                    except RucioFsError as exc:
                        log.info("the scopes of before still count: %s", exc)
                self._asked_at = trio.current_time()
            return self._known[who]
