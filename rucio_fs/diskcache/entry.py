"""One file in the cache: a sparse file, and which of its bytes are there."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import trio

from rucio_fs import checksums
from rucio_fs.did import FileReplicas
from rucio_fs.diskcache import maps
from rucio_fs.diskcache.direct import DirectWriter
from rucio_fs.diskcache.segments import Segment, Segments
from rucio_fs.diskcache.threads import in_thread
from rucio_fs.sources.pagecache import PageCache

log = logging.getLogger(__name__)

MAP_SUFFIX = ".map"
_BLOCK = 512  # bytes in st_blocks
_PAGE = 4096  # bytes, the smallest that a filesystem gives


@dataclass(frozen=True, slots=True)
class Occupied:
    """Disk space: *data* and *map* bytes."""

    data: int
    map: int

    @property
    def nbytes(self) -> int:
        return self.data + self.map


class Entry:
    """An open cached file.  `Store` makes them, one for a file however many use it.

    *stored* is what is there; what was written before the last boot is proved before it is read.
    It *is_whole* when all of it was compared with the catalogue's checksum; *times_wrong* counts
    how often that was another one, and all of it was thrown out.
    """

    def __init__(self, path: Path, file: FileReplicas, fd: int, found: maps.Map | None) -> None:
        self.path = path
        self.file = file
        self.users = 0
        self.times_wrong = 0
        self.is_dirty = False
        self.stored = Segments(found.segments if found is not None else ())
        self.is_whole = found is not None and found.is_whole and self._is_complete
        self.occupied = Occupied(0, 0)
        self._boot = maps.this_boot()
        self._written_in = found.boot if found is not None else self._boot
        is_doubtful = self._written_in != self._boot or not self._boot
        self._doubtful = {segment.start for segment in self.stored} if is_doubtful else set()
        self._changing = trio.Lock()  # one at a time saves, empties or closes
        self._writing: set[tuple[int, int]] = set()  # writes that run, of disjoint ranges
        self._written = trio.Event()  # one of them has ended
        self._fd = fd
        self._direct = DirectWriter(fd)
        self._pages = PageCache(fd)
        self._generation = 0
        self._is_full_of_old = False
        self._is_map_wrong = False  # the one on disk names what was dropped since
        self._is_unsaved = False  # the last attempt failed, and was told

    def __repr__(self) -> str:
        return f"<Entry of {self.file.did}: {self.stored.nbytes} of {self.file.size} bytes>"

    # --- in the event loop -----------------------------------------------------------------------

    def at_hand(self, offset: int, size: int) -> memoryview | None:
        """The bytes if they are here and in the page cache; see `PageCache.read`."""
        end = offset + size
        if not self._has(offset, end) or self._next_doubtful(offset, end) is not None:
            return None
        try:
            return self._pages.read(offset, size)
        except OSError as exc:
            self._lose(exc)
            return None

    async def read(self, offset: int, size: int) -> bytes | None:
        """The bytes, or None if they are not here, not any more, or cannot be read."""
        if not self._has(offset, offset + size):
            return None
        generation = self._generation
        try:
            while self._doubtful:
                doubtful = self._next_doubtful(offset, offset + size)
                if doubtful is None:
                    break
                await self._prove(doubtful)
                if generation != self._generation or not self.stored.covers(offset, offset + size):
                    return None
            data = await self._read(offset, size)
        except OSError as exc:
            self._lose(exc)
            return None
        # Meanwhile it may have been emptied, and zeros were read.
        return data if generation == self._generation and len(data) == size else None

    async def write(self, segment: Segment, data: memoryview) -> bool:
        """Keep the bytes of *segment*; whether they are here.  Never raises for want of space.

        What is here already is not written over: it has its checksum, and perhaps was compared.
        """
        start, end, _ = segment
        if not self._may_write(start, end):
            return self.stored.covers(start, end)
        generation = self._generation
        self._writing.add((start, end))
        try:
            error = await in_thread(lambda: self._pwrite(start, data))
        finally:
            self._writing.remove((start, end))
            self._written.set()
            self._written = trio.Event()
        # atomic since the bytes were written
        map_bytes = max(self.occupied.map, maps.room(len(self.stored) + 1))  # when it is saved
        self.occupied = Occupied(self._data_bytes(start, end), map_bytes)
        if error is not None:
            log.warning("%s is not kept in the cache: %s", self.file.did, error.strerror)
            return False
        if generation != self._generation:
            return False
        self._take_in(segment)
        if not self.compare():
            self.times_wrong += 1
            self.forget()
            await self.empty()
        return self.stored.covers(start, end)

    def _may_write(self, start: int, end: int) -> bool:
        """Whether a range is to be written, by nobody else.  Disjoint ranges need no order."""
        is_new = self.stored.missing(start, end) == [(start, end)]
        is_free = not any(one < end and start < other for one, other in self._writing)
        return self._fd >= 0 and not self._is_full_of_old and is_new and is_free

    def _data_bytes(self, start: int, end: int) -> int:
        """Disk space, now that a write of a range has ended.

        While others run the file says more than it should: they have been promised their space.
        """
        if not self._writing:
            with contextlib.suppress(OSError):
                return os.fstat(self._fd).st_blocks * _BLOCK
        pages = -(-end // _PAGE) - start // _PAGE
        return self.occupied.data + pages * _PAGE

    async def _until_written(self) -> None:
        """Until no write runs.  Who has made sure that none begins waits for the last."""
        while self._writing:
            await self._written.wait()

    def compare(self) -> bool:
        """Once all of it is here: whether it is the file that the catalogue describes.

        Streams compare what they have received; it may have come to us from several of them.
        """
        wanted = checksums.parse(self.file.adler32)
        found = self.stored.adler32(self.file.size)
        if wanted is None or found is None:
            return True
        if found != wanted:
            log.warning("%s is thrown out of the cache: it has adler32 %08x, the catalogue says"
                        " %08x", self.file.did, found, wanted)  # fmt: skip
            return False
        self.is_whole = True
        return True

    async def save(self) -> None:
        """Make what is stored known to the next start."""
        async with self._changing:
            if not self.is_dirty or self._fd < 0:
                return
            found, is_wrong = self._map(), self._is_map_wrong
            self.is_dirty = self._is_map_wrong = False
            try:
                nbytes = await in_thread(lambda: self._save(found, is_wrong))
            except OSError as exc:
                self.is_dirty, self._is_map_wrong = True, self._is_map_wrong or is_wrong
                if not self._is_unsaved:  # it is tried again every few seconds
                    log.warning("%s is forgotten with the mount: %s", self._map_path, exc.strerror)
                self._is_unsaved = True
            else:
                self.occupied = Occupied(self.occupied.data, -(-nbytes // 4096) * 4096)
                self._is_unsaved = False

    async def prove(self) -> int:
        """Read all that is stored and drop what is not what was written; bytes dropped."""
        before = self.stored.nbytes
        try:
            for start in [segment.start for segment in self.stored]:
                while (segment := self.stored.at(start)) is not None:
                    if await self._prove(segment):
                        break
        except OSError as exc:
            self._lose(exc)
        await self.save()
        return before - self.stored.nbytes

    def forget(self) -> None:
        """Nothing of it counts any more, from now on; `empty` gives the space back."""
        self._generation += 1
        self._is_full_of_old = True  # what is written now would be lost when it is emptied
        self.stored.clear()
        self._doubtful.clear()
        self.is_whole, self.is_dirty = False, True

    async def empty(self) -> None:
        """Give the space back, after `forget`."""
        async with self._changing:
            await self._empty_now()

    async def close(self) -> None:
        async with self._changing:
            self._generation += 1  # who still reads may read another file's descriptor
            fd, self._fd, self._pages = self._fd, -1, PageCache(-1)
            await self._until_written()
            self._direct.close()
            if fd >= 0:
                os.close(fd)

    # --- helpers ---------------------------------------------------------------------------------

    @property
    def _is_complete(self) -> bool:
        return self.stored.nbytes == self.file.size

    @property
    def _map_path(self) -> Path:
        return self.path.with_name(self.path.name + MAP_SUFFIX)

    def _has(self, start: int, end: int) -> bool:
        return self._fd >= 0 and self.stored.covers(start, end)

    def _map(self) -> maps.Map:
        file = self.file
        return maps.Map(
            str(file.did),
            file.size,
            file.adler32,
            file.md5,
            self.is_whole and self._is_complete,
            # While some of it is in doubt, all of it is to be proved after the next start.
            self._written_in if self._doubtful else self._boot,
            tuple(self.stored),
        )

    def _take_in(self, segment: Segment) -> None:
        self.stored.add(segment)
        self.is_dirty = True
        joined = self.stored.at(segment.start)
        if joined is not None and joined.end > segment.end and segment.end in self._doubtful:
            self._doubtful.remove(segment.end)
            self._doubtful.add(joined.start)

    async def _empty_now(self) -> None:
        if self._fd < 0 or not self._is_full_of_old:
            return  # somebody else has emptied it, and there may be new bytes
        await self._until_written()
        with contextlib.suppress(OSError):
            self.occupied = Occupied(await in_thread(self._empty), 0)
            self._is_full_of_old = False

    def _next_doubtful(self, start: int, end: int) -> Segment | None:
        while start < end and self._doubtful:
            segment = self.stored.at(start)
            if segment is None:
                return None
            if segment.start in self._doubtful:
                return segment
            start = segment.end
        return None

    async def _prove(self, segment: Segment) -> bool:
        """Drop *segment* if it is damaged; False if it has changed meanwhile: then look again."""
        generation = self._generation
        data = await self._read(segment.start, segment.end - segment.start)
        if generation != self._generation:
            return True
        if self.stored.at(segment.start) != segment:
            return False
        if segment.start in self._doubtful:
            self._doubtful.remove(segment.start)
            self.is_dirty = True
        if checksums.adler32(data) != segment.adler32:
            log.warning("%s: bytes from %d on were damaged in the cache, and are fetched again",
                        self.file.did, segment.start)  # fmt: skip
            self.stored.remove(segment)
            self.is_whole, self.is_dirty, self._is_map_wrong = False, True, True
        return True

    async def _read(self, offset: int, size: int) -> bytes:
        """From the disk; a caller who is cancelled does not wait for one that hangs."""
        return await in_thread(lambda: self._pread(offset, size), may_be_left=True)

    def _lose(self, error: OSError) -> None:
        log.warning("%s cannot be read from the cache: %s", self.file.did, error.strerror)
        self.forget()

    # --- in threads ------------------------------------------------------------------------------

    def _pread(self, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = os.pread(self._fd, size, offset)
            if not part:
                break
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _pwrite(self, offset: int, data: memoryview) -> OSError | None:
        """What went wrong: some of it may be written all the same."""
        try:
            self._direct.write(offset, data)
        except OSError as exc:
            return exc
        return None

    def _save(self, found: maps.Map, is_wrong: bool) -> int:
        """Replace the map, which *is_wrong* if it names what is damaged; return its bytes."""
        if found.segments:
            try:
                return maps.write(self._map_path, found)
            except OSError:
                if is_wrong:  # rather none than one that is not true
                    self._map_path.unlink(missing_ok=True)
                raise
        self._map_path.unlink(missing_ok=True)
        return 0

    def _empty(self) -> int:
        # The map first: it must never name bytes that are zeros.
        self._map_path.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self.file.size)
        return os.fstat(self._fd).st_blocks * _BLOCK
