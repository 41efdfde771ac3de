"""One mount's life: have every part made, mount, serve, unmount.

`serve` runs in the process that serves the mount and must never touch the mountpoint itself: a
request to one's own mount is a deadlock.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pyfuse3
import trio

from rucio_fs import kernel, logs
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.config import Config
from rucio_fs.did import Identity
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import MountError, RucioFsError
from rucio_fs.operations import Operations
from rucio_fs.presentation import Presentation
from rucio_fs.reading import Reading, open_store
from rucio_fs.rules.events import Events
from rucio_fs.saving import Saving
from rucio_fs.tree import Tree
from rucio_fs.xattrs import OperationsWithXattrs

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
        if group.split(KeyboardInterrupt)[1] is None:
            raise KeyboardInterrupt from None
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
        self._is_mounted = False
        self._is_told_to_stop = False
        self._heeding = trio.CancelScope()

    async def run(self) -> None:
        config = self._config
        asking = Asking(config.rucio)
        rucio = RucioCatalogue(asking, site=config.site.name, scope_listing=config.scopes.listing)
        account = await rucio.connect(self._who)
        saving = await Saving.open(config, self._mountpoint)
        try:
            store = await open_store(config, self._mountpoint)
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

    async def _serve(
        self,
        asking: Asking,
        rucio: RucioCatalogue,
        account: str,
        store: Store | None,
        saving: Saving | None,
    ) -> None:
        config, mountpoint, events = self._config, self._mountpoint, Events()
        async with trio.open_nursery() as nursery:
            reading = Reading(config, mountpoint, account, asking, rucio, store, events, nursery)
            await reading.check(self._who)
            if saving is not None:
                catalogue = reading.catalogue
                await saving.build(self._who, account, mountpoint, asking, rucio, catalogue, events)
            operations = self._operations(reading, saving, nursery)
            # Before there is a mount: a signal must never end the process and leave one behind.
            await nursery.start(self._heed_signals, reading, operations)
            if self._is_told_to_stop:
                nursery.cancel_scope.cancel()
                return
            self._mount(operations)  # atomic since the look: no await, no signal is heard
            ended_well = False
            try:
                nursery.start_soon(self._tune, operations)
                nursery.start_soon(operations.interrupts.run)
                reading.start(nursery)
                if saving is not None:
                    saving.start(nursery)
                log.info("%s is mounted", mountpoint)
                self._on_ready()
                await pyfuse3.main(max_tasks=config.mount.max_tasks)
                ended_well = True
            except Exception:
                log.critical(
                    "rucio-fs died serving %s, which now answers 'Transport endpoint is not"
                    " connected'. Run 'rucio-fs umount %s' and mount again; please report the"
                    " traceback below",
                    mountpoint,
                    mountpoint,
                    exc_info=True,
                )
                raise MountError(f"{mountpoint}: internal error, see the log") from None
            finally:
                # After a crash the mount stays: an empty directory in its place would make
                # `rsync --delete` delete its mirror.
                pyfuse3.close(unmount=ended_well)
                self._heeding.cancel()  # a second signal need not wait for what is uploaded
                if saving is not None:
                    saving.stop()
                operations.handles.close_all()
                if reading.streams is not None:
                    reading.streams.stop()
                if saving is not None and ended_well:
                    await saving.finish()
                asking.close()
                nursery.cancel_scope.cancel()
        log.info("%s is unmounted", mountpoint)

    def _operations(
        self, reading: Reading, saving: Saving | None, nursery: trio.Nursery
    ) -> Operations:
        def counts() -> Mapping[str, int]:
            return {
                "inodes": len(operations.inodes),
                "open_files": operations.handles.open_files,
            }

        config = self._config
        tree = Tree(config, self._mountpoint, reading, saving, counts, nursery)
        kind = OperationsWithXattrs if config.mount.xattrs else Operations
        presentation = Presentation(config.mount.uid, config.mount.gid, config.mount.umask)
        operations = kind(tree.root, presentation, self._who, disk=tree.scratch)
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
        reading: Reading,
        operations: Operations,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        receiver = trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with receiver as signals, self._heeding:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    log.info("SIGHUP: asking Rucio again for everything")
                    reading.catalogue.forget_all()
                elif not self._is_told_to_stop:
                    log.info("%s: unmounting %s", signal.Signals(number).name, self._mountpoint)
                    self._is_told_to_stop = True
                    await self._end(reading, operations)
                # else it is under way, and to die of the second one would leave the mount behind

    async def _end(self, reading: Reading, operations: Operations) -> None:
        # Those who wait are answered now, or terminate() would wait too.
        reading.stop()
        if self._is_mounted:
            # close(2) returns before we are told of it: whoever has closed a file, and then ends
            # the mount, has saved it all the same.
            await trio.sleep(_LAST_REQUESTS)
            operations.interrupts.stop()
            pyfuse3.terminate()
