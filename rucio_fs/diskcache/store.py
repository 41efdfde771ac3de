"""The cache directory: which files are in it, how much they take, who has to go.

Limits are kept before anything is written, never afterwards.  What is open stays.  One process at a
time: two would each believe to know how full it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from rucio_fs.did import DID, FileReplicas
from rucio_fs.diskcache import maps
from rucio_fs.diskcache.entry import MAP_SUFFIX, Entry, Occupied
from rucio_fs.diskcache.segments import Segment
from rucio_fs.diskcache.threads import in_thread
from rucio_fs.holding import held

log = logging.getLogger(__name__)

_SAVE_EVERY = 5.0  # s; what was fetched since is fetched again after a crash
_LOCK_BYTES = 4096  # it takes a block, which counts like all else that is in the directory
_OVERHEAD = 1 << 16  # bytes that a write may take beyond its data: the filesystem's own tables
_BLOCK = 512
_KEY = re.compile("[0-9a-f]{40}")


@dataclass(slots=True)
class _Resting:
    """A cached file that nobody has open."""

    path: Path
    occupied: Occupied
    stored: int  # bytes of the file


class Store:
    """The cache below *directory*, at most *limit* bytes, leaving *min_free* on its disk."""

    def __init__(self, directory: Path, limit: int, min_free: int, lock: int) -> None:
        self.directory = directory
        self.limit = limit
        self._room = max(0, limit - _LOCK_BYTES)
        self._min_free = min_free
        self._lock = lock
        self._open: dict[str, Entry] = {}
        self._resting: OrderedDict[str, _Resting] = OrderedDict()  # the longest unused first
        self._making_room = trio.Lock()
        self._locks = [trio.Lock() for _ in range(64)]
        self._reserved = 0
        self._resting_bytes = 0
        self._verification: dict[str, Any] | None = None
        self.evicted = 0
        self.refused = 0

    def __repr__(self) -> str:
        return f"<Store {self.directory}: {self.used} of {self.limit} bytes>"

    @classmethod
    def open(cls, directory: Path, limit: int, min_free: int) -> Store:
        """The cache in *directory*, made if it is not there.  Blocking.

        Raises: UsageError (another mount has it, it cannot be written)
        """
        with held(directory, "cache directory", "diskcache.dir") as lock:
            store = cls(directory, limit, min_free, lock)
            store._look_around()
        return store

    @property
    def used(self) -> int:
        """Bytes on disk, with what is about to be written."""
        return (
            self._resting_bytes
            + self._reserved
            + sum(entry.occupied.nbytes for entry in self._open.values())
        )

    async def run(self) -> None:
        """Make known to the next start what is kept, again and again."""
        await self._evict(0)  # the limit may be smaller than that of the last mount
        while True:
            await trio.sleep(_SAVE_EVERY)
            for entry in list(self._open.values()):
                await entry.save()

    # --- entries ---------------------------------------------------------------------------------

    async def use(self, file: FileReplicas) -> Entry | None:
        """The entry of *file*, to be given back by `give_back`; None if the disk has none."""
        key = _key(file)
        async with self._lock_of(key):
            entry = self._open.get(key)
            if entry is None:
                try:
                    entry = await in_thread(lambda: self._load(key, file))
                except OSError as exc:
                    log.warning("%s is read without the cache: %s", file.did, exc.strerror)
                    return None
                # It counts as resting until now, also where this was cancelled or has failed.
                self._open[key] = entry
                resting = self._resting.pop(key, None)
                if resting is not None:
                    self._resting_bytes -= resting.occupied.nbytes
            entry.users += 1
            return entry

    async def give_back(self, entry: Entry) -> None:
        """The counterpart of `use`."""
        key = _key(entry.file)
        with trio.CancelScope(shield=True):
            async with self._lock_of(key):
                entry.users -= 1
                if entry.users:
                    return
                await entry.save()
                await entry.close()
                if entry.stored.nbytes:
                    await in_thread(lambda: _touch(entry.path))
                del self._open[key]
                rests = _Resting(entry.path, entry.occupied, entry.stored.nbytes)
                self._rest(key, rests)
            if not rests.stored and self._resting.get(key) is rests:
                await self._remove(key, self._resting.pop(key))

    async def keep(self, entry: Entry, segment: Segment, data: memoryview) -> bool:
        """Write *data* where there is room for it; whether it is kept."""
        wanted = len(data) + _OVERHEAD
        if not await self._reserve(wanted):
            self.refused += 1
            return False
        try:
            return await entry.write(segment, data)
        finally:
            self._reserved -= wanted

    def cached_bytes(self, file: FileReplicas) -> int:
        """How much of *file* is here."""
        key = _key(file)
        if key in self._open:
            return self._open[key].stored.nbytes
        resting = self._resting.get(key)
        return 0 if resting is None else resting.stored

    # --- space -----------------------------------------------------------------------------------

    async def _reserve(self, nbytes: int) -> bool:
        async with self._making_room:  # two at once would each delete what suffices for both
            if not await self._evict(nbytes):
                return False
            # atomic since the last look: no await
            self._reserved += nbytes
            return True

    async def _evict(self, nbytes: int) -> bool:
        """Make room for *nbytes*; whether there is."""
        if nbytes and self.used - self._resting_bytes + nbytes > self._room:
            return False  # also without all that rests
        while self.used + nbytes > self._room or self._free() - nbytes < self._min_free:
            if not self._resting:
                return False
            await self._remove(*self._resting.popitem(last=False))
            self.evicted += 1
        return True

    async def _remove(self, key: str, resting: _Resting) -> None:
        """Delete what was taken out of those that rest, unless somebody has just opened it."""
        with trio.CancelScope(shield=True):
            async with self._lock_of(key):
                is_used = key in self._open or key in self._resting
                # What cannot be deleted goes on to count.
                if is_used or await in_thread(lambda: _unlink(resting.path)):
                    self._resting_bytes -= resting.occupied.nbytes

    def _lock_of(self, key: str) -> trio.Lock:
        """Whoever opens, closes or deletes an entry has it; shared by some keys."""
        return self._locks[hash(key) % len(self._locks)]

    def _free(self) -> int:
        """Bytes that the disk has left for us, without what is about to be written."""
        try:
            found = os.statvfs(self.directory)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize - self._reserved

    def _rest(self, key: str, resting: _Resting) -> None:
        self._resting[key] = resting
        self._resting_bytes += resting.occupied.nbytes

    # --- for people ------------------------------------------------------------------------------

    async def clear(self) -> None:
        """Forget everything; files that are open go on without."""
        while self._resting:
            await self._remove(*self._resting.popitem(last=False))
        # atomic: nothing rests, so these are all
        entries = list(self._open.values())
        for entry in entries:
            entry.forget()
        for entry in entries:
            await entry.empty()

    async def verify(self) -> None:
        """Read everything and drop what is not what was written; `status` tells how far it is."""
        keys = [*self._open, *self._resting]
        state = self._verification = {
            "files": len(keys), "done": 0, "bytes": 0, "damaged_bytes": 0, "is_running": True,
        }  # fmt: skip
        try:
            for key in keys:
                entry = await self._again(key)
                if entry is not None:
                    try:
                        state["bytes"] += entry.stored.nbytes
                        state["damaged_bytes"] += await entry.prove()
                    finally:
                        await self.give_back(entry)
                state["done"] += 1
        finally:
            state["is_running"] = False

    async def _again(self, key: str) -> Entry | None:
        """The entry of a key, of which the map alone knows the file."""
        if key in self._open:
            return await self.use(self._open[key].file)
        path = self._path(key)
        found = await in_thread(lambda: maps.read(_map_path(path)))
        return None if found is None else await self.use(_file(found))

    def status(self) -> dict[str, Any]:
        """Numbers for `.rucio/status` and `rucio-fs cache status`; sizes in bytes."""
        return {
            "directory": str(self.directory),
            "bytes": self.used,
            "limit": self.limit,
            "files": len(self._open) + len(self._resting),
            "open": len(self._open),
            "evicted": self.evicted,
            "refused": self.refused,
            "verification": self._verification,
        }

    async def close(self) -> None:
        """The mount ends: what is kept is made known to the next one."""
        for entry in list(self._open.values()):
            await entry.save()
            await entry.close()
        self._open.clear()
        os.close(self._lock)

    # --- in threads ------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Learn what an earlier mount has left; remove what it has not finished."""
        found: list[tuple[int, str, _Resting]] = []
        for path in self._files():
            if path.name.endswith(MAP_SUFFIX):
                continue
            known = maps.read(_map_path(path))
            if known is None or _key(_file(known)) != path.name:
                _unlink(path)
                continue
            status, map_status = path.stat(), _map_path(path).stat()
            occupied = Occupied(status.st_blocks * _BLOCK, map_status.st_blocks * _BLOCK)
            stored = sum(segment.end - segment.start for segment in known.segments)
            found.append((map_status.st_mtime_ns, path.name, _Resting(path, occupied, stored)))
        for _, key, resting in sorted(found, key=lambda item: item[0]):
            self._rest(key, resting)

    def _files(self) -> Iterator[Path]:
        """Data and maps.  What is not named as ours is left alone: it may be anybody's."""
        for directory in sorted(self.directory.iterdir()):
            if len(directory.name) != 2 or not directory.is_dir():
                continue
            names = {path.name for path in directory.iterdir()}
            for name in sorted(names):
                key = name.partition(".")[0]
                if not key.startswith(directory.name) or not _KEY.fullmatch(key):
                    continue
                path = directory / name
                is_left_over = name.endswith(".new") or (
                    name.endswith(MAP_SUFFIX) and name.removesuffix(MAP_SUFFIX) not in names
                )
                if is_left_over:
                    path.unlink(missing_ok=True)
                else:
                    yield path

    def _load(self, key: str, file: FileReplicas) -> Entry:
        path = self._path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            entry = Entry(path, file, fd, maps.read(_map_path(path)))
            if os.fstat(fd).st_size != file.size or not entry.stored.nbytes or not entry.compare():
                # The map first: it must never name bytes that are zeros.
                _map_path(path).unlink(missing_ok=True)
                os.ftruncate(fd, 0)
                os.ftruncate(fd, file.size)
                entry = Entry(path, file, fd, None)
            map_bytes = 0
            with contextlib.suppress(OSError):
                map_bytes = _map_path(path).stat().st_blocks * _BLOCK
            _touch(path)
            entry.occupied = Occupied(os.fstat(fd).st_blocks * _BLOCK, map_bytes)
            return entry
        except BaseException:
            os.close(fd)
            raise

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / key


def _key(file: FileReplicas) -> str:
    """Another DID, size or checksum is another file; adler32 alone tells too few apart."""
    text = json.dumps([*file.did, file.size, file.adler32, file.md5])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _file(found: maps.Map) -> FileReplicas:
    scope, _, name = found.did.partition(":")
    return FileReplicas(DID(scope, name), found.size, found.adler32, found.md5, (), {})


def _map_path(path: Path) -> Path:
    return path.with_name(path.name + MAP_SUFFIX)


def _touch(path: Path) -> None:
    """It was used last, also for the next mount."""
    now = time.time_ns()  # the kernel's own times are steps of some ms
    with contextlib.suppress(OSError):
        os.utime(_map_path(path), ns=(now, now))


def _unlink(path: Path) -> bool:
    """Delete a cached file; whether that could be done."""
    try:
        _map_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("%s cannot be deleted from the cache: %s", path, exc.strerror)
        return False
    return True
