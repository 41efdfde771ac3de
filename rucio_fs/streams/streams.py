"""All files that are streamed by a mount, and what they share: connections, memory, the cache."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from cachetools import LRUCache

from rucio_fs.config import StoragesConfig, StreamingConfig
from rucio_fs.did import DID, FileReplicas, Identity, Replica
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import RucioFsError, Unreachable
from rucio_fs.streams.buffers import Buffers
from rucio_fs.streams.candidates import Candidates
from rucio_fs.streams.fetching import Fetcher
from rucio_fs.streams.pool import Pool
from rucio_fs.streams.reader import StreamSource
from rucio_fs.streams.shared import Share, Shared
from rucio_fs.streams.storages import Storages
from rucio_fs.streams.stream import Stream
from rucio_fs.webdav.credentials import Credentials

log = logging.getLogger(__name__)

_REMEMBERED = 10_000  # files of which it is known who gave wrong bytes
_ACTIVE = 2.0  # s; who has read in that time needs memory
_COUNTED = 0.5  # s for which the number of those counts
_JANITOR = 2.0  # s between two looks for connections that nobody needs
_ASK_AGAIN = 10.0  # s between two questions to Rucio where else a file could be

Replicas = Callable[[], Awaitable[FileReplicas]]
_Key = tuple[Identity, DID]


class Streams:
    """Opens files for streaming.  What runs on runs in *nursery*.

    *on_wrong* is told of a file whose bytes were wrong, in words; *on_trouble* of one that cannot
    be read.
    """

    def __init__(
        self,
        config: StreamingConfig,
        storages: StoragesConfig,
        store: Store | None,
        nursery: trio.Nursery,
        on_wrong: Callable[[DID, str], None],
        on_trouble: Callable[[DID, str], None] = lambda did, message: None,
    ) -> None:
        self.store = store
        self._config = config
        self._nursery = nursery
        self._on_wrong = on_wrong
        self._on_trouble = on_trouble
        credentials = Credentials(storages)
        self._pool = Pool(credentials.tls, config.timeout)
        self._storages = Storages(config.connections, config.total_connections)
        self._fetcher = Fetcher(self._pool, self._storages, credentials, config.deadline)
        self._buffers = Buffers(config.memory, self._reclaim)
        self._streams: dict[_Key, Stream] = {}
        self._distrusted: LRUCache[DID, frozenset[str]] = LRUCache(_REMEMBERED)
        self._troubles: LRUCache[DID, RucioFsError] = LRUCache(_REMEMBERED)
        # In the kernel's cache: of the first it is known that they are wrong; of the others, which
        # are open no more, how many bytes were known then of what was compared with nothing.
        self._spoiled: LRUCache[DID, bool] = LRUCache(_REMEMBERED)
        self._unproved: LRUCache[DID, int] = LRUCache(_REMEMBERED)
        self._active = 1
        self._counted_at = float("-inf")
        self._idle_since = float("-inf")
        self._is_ending = False
        self._opening: dict[_Key, trio.Event] = {}
        self._shared = Shared(
            self._fetcher,
            self._buffers,
            store,
            nursery,
            config.deadline,
            self._share,
            self._wrong,
            self._read,
        )

    def __repr__(self) -> str:
        return f"<Streams: {len(self._streams)} files, {self._pool!r}>"

    async def run(self) -> None:
        """Give up what is not needed any more, for ever."""
        while True:
            await trio.sleep(_JANITOR)
            self.tidy()

    def tidy(self) -> None:
        """Give up connections, and memory, that have not been used for a while."""
        self._pool.close_idle(self._config.idle)
        # Who reads many files, one after the other, has the next one open in a moment.
        if not self._streams and trio.current_time() - self._idle_since >= self._config.idle:
            self._buffers.clear()

    async def open(
        self, who: Identity, file: FileReplicas, replicas: tuple[Replica, ...], of_now: Replicas
    ) -> StreamSource:
        """A source that streams *file* from *replicas*; *of_now* asks Rucio for those of now.

        Raises: Unreachable (the mount is ending)
        """
        key = (who, file.did)
        while (opening := self._opening.get(key)) is not None:
            await opening.wait()
        if self._is_ending:
            raise Unreachable("the mount is ending")
        stream = self._streams.get(key)
        if stream is None:
            self._opening[key] = trio.Event()
            try:
                stream = await self._begin(key, file, replicas, of_now)
                self._streams[key] = stream
                return stream.join()
            finally:
                self._opening.pop(key).set()
        stream.candidates.update(replicas)
        stream.candidates.forgive()
        return stream.join()

    async def _begin(
        self, key: _Key, file: FileReplicas, replicas: tuple[Replica, ...], of_now: Replicas
    ) -> Stream:
        candidates = Candidates(replicas, self._storages)
        candidates.distrust(self._distrusted.get(file.did, ()))
        entry = await self.store.use(file) if self.store is not None else None
        asked_at = float("-inf")
        asking = trio.Lock()

        async def ask_again() -> bool:
            nonlocal asked_at
            async with asking:
                if candidates.usable():  # an answer to somebody else has brought hope
                    return True
                if trio.current_time() - asked_at < _ASK_AGAIN:
                    return False
                try:
                    now = (await of_now()).replicas
                except RucioFsError as exc:
                    log.info("%s may be elsewhere by now: %s", file.did, exc)
                    now = ()
                asked_at = trio.current_time()
                return bool(now) and candidates.update(now)

        given = self._unproved.pop(file.did, 0)
        if given > (entry.stored.nbytes if entry is not None else 0):
            # The kernel would answer with what the new stream cannot compare with the rest.
            self._spoiled[file.did], given = True, 0
        on_idle = partial(self._idle, key)
        return Stream(
            file, candidates, entry, self._shared, ask_again, on_idle, has_given=given > 0
        )

    def trouble(self, did: DID) -> RucioFsError | None:
        """Why the last read of *did* failed; None if it went well since, or never failed."""
        found: RucioFsError | None = self._troubles.get(did)
        return found

    def may_be_kept(self, did: DID) -> bool:
        """Whether the kernel may keep what it remembers of the file, asked at an open.

        After bytes that turned out to be wrong the next open has it forget them; also after some
        that nobody could compare with the rest of the file any more.
        """
        is_spoiled = self._spoiled.pop(did, False)
        is_unproved = self._unproved.pop(did, 0) > 0
        return not is_spoiled and not is_unproved

    def cached_bytes(self, file: FileReplicas) -> int | None:
        """How much of *file* is on this machine's disk; None where nothing is kept there."""
        return None if self.store is None else self.store.cached_bytes(file)

    def status(self) -> dict[str, Any]:
        """Numbers for `.rucio/status`; sizes in bytes."""
        return {
            "files": len(self._streams),
            "received": self._fetcher.counters.received,
            "requests": self._pool.requests,
            "failures": self._fetcher.counters.failures,
            "connections": self._pool.open,
            "memory": self._buffers.lent,
            "streams": [stream.status() for stream in list(self._streams.values())[:100]],
        }

    def stop(self) -> None:
        """The mount ends: what is on its way is given up."""
        self._is_ending = True
        for stream in self._streams.values():
            stream.stop()

    def close(self) -> None:
        """End the connections."""
        self._pool.close()

    # --- what the streams ask for ----------------------------------------------------------------

    def _share(self) -> Share:
        """What one stream may fetch ahead now, of memory and connections that all share."""
        now = trio.current_time()
        if now - self._counted_at >= _COUNTED:
            self._counted_at = now
            active = sum(now - one.read_at < _ACTIVE for one in self._streams.values())
            self._active = max(1, active)
        nbytes = min(self._config.window, self._buffers.limit // 2 // self._active)
        return Share(nbytes, max(2, self._config.connections // self._active))

    def _reclaim(self, nbytes: int, is_urgent: bool) -> None:
        """Take memory from pieces that nobody needs now.

        The longest unused first, and those that a reader is about to need last, for what is urgent
        alone: to read them from the disk again costs more than to have fetched less.
        """
        found = (item for stream in self._streams.values() for item in stream.spare())
        for spare in sorted(found, key=lambda one: (one.is_ahead, one.used_at)):
            if nbytes <= 0 or (spare.is_ahead and not is_urgent):
                return
            nbytes -= spare.nbytes
            spare.give_up()

    def _wrong(self, file: FileReplicas, message: str, rses: frozenset[str]) -> None:
        self._distrusted[file.did] = self._distrusted.get(file.did, frozenset()) | rses
        self._spoiled[file.did] = True
        log.error("%s", message)
        self._on_wrong(file.did, message)

    def _read(self, file: FileReplicas, error: RucioFsError | None) -> None:
        if error is None:
            self._troubles.pop(file.did, None)
        else:
            self._troubles[file.did] = error.copy()
            self._on_trouble(file.did, str(error))

    def _idle(self, key: _Key) -> None:
        """Nobody reads a stream any more."""
        stream = self._streams.pop(key)
        if stream.unproved:
            self._unproved[stream.file.did] = stream.unproved
        if stream.entry is not None and self.store is not None:
            self._nursery.start_soon(self.store.give_back, stream.entry)
        self._idle_since = trio.current_time()
