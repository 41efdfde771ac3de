"""One mount's life: build every object, mount, serve, unmount.

The only place that knows all parts.  `serve` runs in the process that serves the mount and must
never touch the mountpoint itself: a request to one's own mount is a deadlock.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pyfuse3
import trio

from rucio_fs import __version__, kernel, logs, readme
from rucio_fs.availability import Policy, Site
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.catalogue.rucio_rules import RucioRules
from rucio_fs.config import Config, default_cache
from rucio_fs.did import Identity
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import MountError, RucioFsError, UsageError
from rucio_fs.nodes.base import Node
from rucio_fs.nodes.control import (
    CacheFile,
    ControlDir,
    GrowingFile,
    RefreshFile,
    StatusFile,
    TextFile,
)
from rucio_fs.nodes.dids import Services
from rucio_fs.nodes.scopes import RootDir
from rucio_fs.nodes.scratch_root import ScratchRoot
from rucio_fs.opening import Bringing, Opener
from rucio_fs.operations import Operations, OperationsWithXattrs, Presentation
from rucio_fs.rules import services
from rucio_fs.rules.delivery import Delivery
from rucio_fs.rules.events import Events
from rucio_fs.rules.services import RuleServices
from rucio_fs.saving import Saving
from rucio_fs.streams.streams import Streams
from rucio_fs.tracing import Tracer

log = logging.getLogger(__name__)

_LAST_REQUESTS = 0.1  # s in which requests are read that the kernel had before a signal


def serve(config: Config, mountpoint: Path, on_ready: Callable[[], None]) -> None:
    """Mount at *mountpoint* and serve until it is unmounted or a signal says stop.

    *on_ready* is called once the mount answers.  SIGTERM and SIGINT unmount, also with processes
    inside; SIGHUP asks Rucio again for everything; SIGUSR1 dumps all stacks to stderr.

    Raises: UsageError, LoginFailed, Unreachable (before anything is mounted), MountError.
    """
    logs.set_up(config.log.level, config.log.file)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        trio.run(_Mount(config, mountpoint, on_ready).run)
    except BaseExceptionGroup as group:
        # The nursery wraps whatever ends it; whoever called wants the reason.
        expected, others = group.split(RucioFsError)
        if expected is None or others is not None:
            raise
        raise _first(expected) from None


def _first(group: BaseExceptionGroup[RucioFsError]) -> RucioFsError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


class _Mount:
    def __init__(self, config: Config, mountpoint: Path, on_ready: Callable[[], None]) -> None:
        self._config = config
        self._mountpoint = mountpoint
        self._on_ready = on_ready
        self._who = Identity(config.rucio.account or "")
        self._born_ns = time.time_ns()
        self._is_mounted = False
        self._is_told_to_stop = False
        self._events = Events()
        self._opener: Opener | None = None

    async def run(self) -> None:
        config = self._config
        asking = Asking(config.rucio)
        rucio = RucioCatalogue(asking, site=config.site.name, scope_listing=config.scopes.listing)
        account = await rucio.connect(self._who)
        saving = await Saving.open(config, self._mountpoint)
        try:
            store = await self._open_store()
            try:
                await self._serve(asking, rucio, account, store, saving)
            finally:
                if store is not None:
                    with trio.CancelScope(shield=True):
                        await store.close()
        finally:
            if saving is not None:
                with trio.CancelScope(shield=True):
                    await saving.close()

    async def _open_store(self) -> Store | None:
        """The cache of what is streamed, which must be this mount's alone."""
        config = self._config.diskcache
        if not config.size or not self._may_stream():
            return None
        directory = config.dir or default_cache(self._mountpoint)
        return await trio.to_thread.run_sync(Store.open, directory, config.size, config.min_free)

    async def _serve(
        self,
        asking: Asking,
        rucio: RucioCatalogue,
        account: str,
        store: Store | None,
        saving: Saving | None,
    ) -> None:
        config = self._config
        async with trio.open_nursery() as nursery:
            catalogue = CachedCatalogue(rucio, config.cache, nursery)
            rules = self._rules(RucioRules(asking), rucio.host, account, catalogue, nursery)
            tracer = Tracer(RucioRules(asking), account, config.site.name)
            streams = self._streams(store, nursery)
            # The first `ls` finds the scopes at hand, and a Rucio that only lets us log in is
            # found out before anything is mounted.
            await catalogue.scopes(self._who)
            if rules is not None:
                await self._check_target(rules)
            if saving is not None:
                await saving.build(
                    self._who, account, self._mountpoint, asking, rucio, catalogue, self._events
                )
            operations = self._operations(
                catalogue, rules, streams, tracer, rucio.host, account, saving, nursery
            )
            # Before there is a mount: a signal must never end the process and leave one behind.
            await nursery.start(self._heed_signals, catalogue, rules, streams)
            if self._is_told_to_stop:
                return
            self._mount(operations)  # atomic since the look: no await, no signal is heard
            ended_well = False
            try:
                nursery.start_soon(self._tune, operations)
                nursery.start_soon(operations.interrupts.run)
                nursery.start_soon(tracer.run)
                if streams is not None:
                    nursery.start_soon(streams.run)
                if store is not None:
                    nursery.start_soon(store.run)
                if rules is not None:
                    nursery.start_soon(rules.keeper.run)
                    nursery.start_soon(rules.using.run)
                if saving is not None:
                    nursery.start_soon(saving.uploads.run)
                    nursery.start_soon(saving.admission.run)
                log.info("%s is mounted", self._mountpoint)
                self._on_ready()
                await pyfuse3.main(max_tasks=config.mount.max_tasks)
                ended_well = True
            except Exception:
                log.critical(
                    "rucio-fs died serving %s, which now answers 'Transport endpoint is not"
                    " connected'. Run 'rucio-fs umount %s' and mount again; please report the"
                    " traceback below",
                    self._mountpoint,
                    self._mountpoint,
                    exc_info=True,
                )
                raise MountError(f"{self._mountpoint}: internal error, see the log") from None
            finally:
                # After a crash the mount stays: an empty directory in its place would make
                # `rsync --delete` delete its mirror.
                pyfuse3.close(unmount=ended_well)
                if saving is not None:
                    saving.stop()
                operations.handles.close_all()
                if streams is not None:
                    streams.stop()
                if saving is not None and ended_well:
                    await saving.finish()
                asking.close()
                nursery.cancel_scope.cancel()
        log.info("%s is unmounted", self._mountpoint)

    async def _check_target(self, rules: RuleServices) -> None:
        """Find out now, not at the first open, that a name is misspelt."""
        config = self._config
        expression = config.rules.rse_expression or config.site.rse
        if expression is not None and not await rules.keeper.finder.rses(self._who, expression):
            key = "rules.rse_expression" if config.rules.rse_expression else "site.rse"
            raise UsageError(f"{key} = {expression!r}: Rucio knows no such RSE")

    def _rules(
        self,
        rules: RucioRules,
        host: str,
        account: str,
        catalogue: CachedCatalogue,
        nursery: trio.Nursery,
    ) -> RuleServices | None:
        """What brings files to the site; None where no rule is ever to be made."""
        config = self._config
        terms = services.terms(config.rules, config.site.rse, account, str(self._mountpoint))
        if terms is None or config.opening.policy == "stream":
            return None

        def on_arrival(delivery: Delivery) -> None:
            catalogue.forget_replicas(delivery.did)
            if self._opener is not None:
                self._opener.arrived(delivery.who, delivery.did)

        return RuleServices.build(
            config,
            terms,
            rules,
            host,
            nursery,
            on_arrival,
            self._events,
        )

    def _may_stream(self) -> bool:
        config = self._config
        brings = config.rules.rse_expression is not None or config.site.rse is not None
        return config.opening.policy != "replicate" or not brings

    def _streams(self, store: Store | None, nursery: trio.Nursery) -> Streams | None:
        """What reads files where they are; None where they have to come here first."""
        config = self._config
        if not self._may_stream():
            return None
        return Streams(
            config.streaming,
            config.storages,
            store,
            nursery,
            lambda did, message: self._events.problem(did, "WRONG_BYTES", message),
            lambda did, message: self._events.problem(did, "UNREADABLE", message),
        )

    def _operations(
        self,
        catalogue: CachedCatalogue,
        rules: RuleServices | None,
        streams: Streams | None,
        tracer: Tracer,
        host: str,
        account: str,
        saving: Saving | None,
        nursery: trio.Nursery,
    ) -> Operations:
        config, born_ns = self._config, self._born_ns
        site = Site.of(
            config.site.name,
            config.site.rse,
            config.site.paths,
            tuple(PurePosixPath(root) for root in config.site.roots),
        )
        opener = self._opener = Opener(
            catalogue,
            site,
            timeout=config.mount.timeout_local,
            now_ttl=config.cache.now_ttl,
            policy=Policy(
                brings=rules is not None,
                recalls=config.opening.recall,
                streams=streams is not None,
                min_size=config.opening.rule_min_size,
            ),
            bringing=None
            if rules is None
            else Bringing(rules.keeper, rules.using, kernel.bearable(config.opening.wait)),
            streams=streams,
            tracer=tracer if config.rules.traces else None,
            nursery=nursery,
        )
        tree = Services(
            catalogue,
            opener,
            born_ns,
            rules,
            config.scopes.allow,
            config.scopes.deny,
            config.cache.missing_ttl,
            config.cache.now_ttl,
        )
        status = StatusFile(
            "status",
            lambda: self._status(operations, catalogue, rules, streams, host, account),
            born_ns,
        )
        control: dict[str, Node] = {
            "status": status,
            "refresh": RefreshFile("refresh", catalogue.forget_all, born_ns),
            **_event_files(self._events, born_ns),
        }
        if rules is not None:
            control["transfers"] = _shown("transfers", rules.keeper.board.transfers, born_ns)
        if streams is not None and streams.store is not None:
            control["cache"] = CacheFile("cache", streams.store, nursery, born_ns)
        scratch: ScratchRoot | None = None
        if saving is not None:
            saving.read_with(opener)
            scratch = saving.root(born_ns)
            control["uploads"] = saving.control(born_ns)
        fixed: dict[str, Node] = {
            "README.txt": TextFile(
                "README.txt",
                readme.text(
                    host,
                    site,
                    brings=rules is not None,
                    streams=streams is not None,
                    saves=saving is not None,
                ),
                born_ns,
            ),
            ".rucio": ControlDir(".rucio", control, born_ns),
        }
        if scratch is not None:
            fixed["scratch"] = scratch
        root = RootDir(tree, fixed)
        kind = OperationsWithXattrs if config.mount.xattrs else Operations
        presentation = Presentation(config.mount.uid, config.mount.gid, config.mount.umask)
        operations = kind(root, presentation, self._who, disk=scratch)
        return operations

    def _mount(self, operations: Operations) -> None:
        options = {f"fsname={self._config.mount.fsname}", "subtype=rucio-fs"}
        # Who may do what is said by Rucio and by the nodes: the tree is read-only for everybody
        # (EROFS), and setting user.rucio.refresh needs no write permission.  Only modes that
        # somebody asked for are the kernel's to enforce.
        if self._config.mount.umask:
            options.add("default_permissions")
        if self._config.mount.allow_other:
            options.add("allow_other")
        try:
            pyfuse3.init(operations, str(self._mountpoint), options)
        except RuntimeError as exc:
            # libfuse has said why on stderr; pyfuse3 only says that.
            raise MountError(f"cannot mount at {self._mountpoint}: {exc}") from exc
        self._is_mounted = True

    async def _tune(self, operations: Operations) -> None:
        """What only the kernel's side files can set, and only after it heard our INIT answer."""
        await operations.negotiated.wait()
        await trio.lowlevel.checkpoint()
        kernel.set_read_ahead(self._mountpoint, self._config.mount.read_ahead)
        kernel.set_max_background(self._mountpoint, self._config.mount.max_tasks)
        # What lives now lives as long as the mount: the collector need not look at it again.  And
        # not so often: building a listing of 100,000, it stopped all requests for 0.3 s at a time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    async def _heed_signals(
        self,
        catalogue: CachedCatalogue,
        rules: RuleServices | None,
        streams: Streams | None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    log.info("SIGHUP: asking Rucio again for everything")
                    catalogue.forget_all()
                else:
                    log.info("%s: unmounting %s", signal.Signals(number).name, self._mountpoint)
                    # Those who wait for Rucio are answered now, or terminate() would wait too.
                    self._is_told_to_stop = True
                    catalogue.stop()
                    if rules is not None:
                        rules.keeper.stop()
                        rules.outlooks.stop()
                    if streams is not None:
                        streams.stop()
                    if self._is_mounted:
                        # close(2) returns before we are told of it: whoever has closed a file, and
                        # then ends the mount, has saved it all the same.
                        await trio.sleep(_LAST_REQUESTS)
                        pyfuse3.terminate()
                    return

    def _status(
        self,
        operations: Operations,
        catalogue: CachedCatalogue,
        rules: RuleServices | None,
        streams: Streams | None,
        host: str,
        account: str,
    ) -> str:
        health = catalogue.health
        status: dict[str, Any] = {
            "version": __version__,
            "mountpoint": str(self._mountpoint),
            "mounted_at": _iso(self._born_ns / 1e9),
            "config_file": str(self._config.file) if self._config.file else None,
            "rucio": {
                "host": host,
                "account": account,
                "state": "ok" if health.trouble is None else "unreachable",
                "trouble": health.trouble,
                "trouble_since": _iso(health.trouble_since),
                "answered_at": _iso(health.answered_at),
            },
            "site": {"name": self._config.site.name, "rse": self._config.site.rse},
            "opening": {
                "policy": self._config.opening.policy if rules is not None else "stream",
                **(rules.keeper.status() if rules is not None else {}),
                "problems": len(self._events.problems()),
                **({} if self._opener is None else asdict(self._opener.counters)),
            },
            "cache": catalogue.status(),
            **({} if streams is None else _stream_status(streams)),
            "inodes": len(operations.inodes),
            "open_files": operations.handles.open_files,
        }
        return json.dumps(status, indent=2) + "\n"


def _event_files(events: Events, born_ns: int) -> dict[str, Node]:
    return {
        "problems": _shown("problems", events.problems, born_ns),
        "events": GrowingFile("events", events),
    }


def _shown(name: str, facts: Callable[[], Any], born_ns: int) -> StatusFile:
    """A file of `.rucio/` that shows *facts* as JSON."""
    return StatusFile(
        name, lambda: json.dumps(facts(), indent=2, ensure_ascii=False) + "\n", born_ns
    )


def _stream_status(streams: Streams) -> dict[str, Any]:
    store = streams.store
    return {
        "streaming": streams.status(),
        "diskcache": None if store is None else store.status(),
    }


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
