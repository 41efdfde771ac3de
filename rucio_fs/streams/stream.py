"""One file that is being streamed: what is fetched for its readers, and when they are answered.

All readers of a file share one `Stream`, so that its bytes are moved once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import trio

from rucio_fs.did import FileReplicas
from rucio_fs.diskcache.entry import Entry
from rucio_fs.diskcache.segments import Segment
from rucio_fs.errors import Corrupt, RucioFsError, TooSlow, Unreachable
from rucio_fs.sources.base import Data, Source
from rucio_fs.streams import buffers
from rucio_fs.streams.candidates import Candidates
from rucio_fs.streams.comparing import difference
from rucio_fs.streams.holdings import Holdings
from rucio_fs.streams.judging import CACHE
from rucio_fs.streams.pieces import Piece, aligned
from rucio_fs.streams.proof import Proof
from rucio_fs.streams.reader import StreamSource
from rucio_fs.streams.shared import Shared, Spare
from rucio_fs.streams.window import NEAR

log = logging.getLogger(__name__)

_SMALLEST_AHEAD = 1 << 18  # bytes; smaller requests cost more than they bring


class Stream:
    """A file and its readers.

    *ask_again* has Rucio asked for the replicas of now, and says whether that gave new hope;
    *on_idle* is called once, when nobody reads it and nothing is written to the cache any more.
    It *has_given* bytes already if the kernel keeps some that an earlier stream gave.
    """

    def __init__(
        self,
        file: FileReplicas,
        candidates: Candidates,
        entry: Entry | None,
        shared: Shared,
        ask_again: Callable[[], Awaitable[bool]],
        on_idle: Callable[[], None],
        *,
        has_given: bool = False,
    ) -> None:
        self.file = file
        self.candidates = candidates
        self.entry = entry
        self.read_at = trio.current_time()
        self._readers: set[StreamSource] = set()
        self._shared = shared
        self._ask_again = ask_again
        self._on_idle = on_idle
        self._holdings = Holdings(file.size, entry, shared.clock)
        self._proof = Proof(file, self._holdings)
        self._is_over = False
        # To anybody, what may be wrong: the kernel keeps it for all who have the file open.
        self._has_given = has_given
        self._news = trio.Event()  # a piece has ended, or is written

    def __repr__(self) -> str:
        return f"<Stream of {self.file.did} for {len(self._readers)}: {self._holdings!r}>"

    @property
    def unproved(self) -> int:
        """Bytes that whoever goes on must know, since some of them were given and may be wrong."""
        return self._proof.unproved if self._has_given else 0

    # --- readers ---------------------------------------------------------------------------------

    def join(self) -> StreamSource:
        """A new reader."""
        reader = StreamSource(str(self.file.did), self.file.size, self)
        self._readers.add(reader)
        return reader

    def leave(self, reader: StreamSource) -> None:
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        # Also for a read that still waits: what it would fetch now nobody would give back.
        reader.error = Unreachable(f"{self.file.did} was closed")
        if self._readers:
            self._cancel_unwanted()
            return
        self.read_at = float("-inf")
        for piece in list(self._holdings.pieces):
            if piece.is_done:
                self.drop(piece)
            elif not piece.has(piece.end):  # else it is as good as here, and is kept
                piece.cancel()
        self._rest()

    def _rest(self) -> None:
        """Tell, once, when nobody reads it and nothing of it waits to be kept.

        Until then who opens the file again shares what is known of its bytes.
        """
        is_needed = self._readers or not all(one.is_cancelled for one in self._holdings.pieces)
        if not is_needed and not self._is_over:
            self._is_over = True
            self._on_idle()

    def end(self) -> None:
        """End what is on its way and give the memory back."""
        for piece in list(self._holdings.pieces):
            if piece.is_done:
                self.drop(piece)
            else:
                piece.cancel()

    def stop(self) -> None:
        """The mount ends: whoever waits is answered."""
        for reader in self._readers:
            reader.error = Unreachable("the mount is ending")
        self.end()

    async def read(self, reader: StreamSource, offset: int, size: int) -> Data:
        """The bytes for *reader*, all of them inside the file."""
        is_first = not reader.has_read
        try:
            data = await self._read(reader, offset, size)
        except RucioFsError as exc:
            self._shared.on_read(self.file, exc)
            raise
        if is_first:
            self._shared.on_read(self.file, None)
        return data

    async def _read(self, reader: StreamSource, offset: int, size: int) -> Data:
        if reader.error is not None:
            raise reader.error.copy()
        self.read_at = trio.current_time()
        reader.at = offset
        end = offset + size
        self._look_ahead(reader, offset, end)
        with trio.move_on_after(self._shared.deadline):
            while True:
                if end == self.file.size or reader.has_end:
                    await self._until_judged()
                version = self._proof.version
                data = await self._holdings.read(offset, end)
                if reader.error is not None:
                    raise reader.error.copy()
                if data is None:
                    await self._come(offset, end)
                elif version == self._proof.version and self._take_in(offset, end, data):
                    reader.has_read = True
                    self._has_given = not self._proof.is_right
                    reader.has_end |= end == self.file.size
                    return data
        raise TooSlow(
            f"{self.file.did}: its bytes did not come within {self._shared.deadline:g} s:"
            f" {self.candidates.reasons()}"
        )

    async def _come(self, offset: int, end: int) -> None:
        """Wait until the bytes are here, or gone again.

        Raises: what ended one of their pieces and is not over.
        """
        for start, stop in self._holdings.missing(*aligned(offset, end, self.file.size)):
            self._fetch(start, stop, is_urgent=True)
        version = self._proof.version
        for piece in self._holdings.between(offset, end):
            try:
                await piece.until(min(end, piece.end))
            except Unreachable:
                if not piece.is_cancelled and version == self._proof.version:
                    raise

    # --- what to fetch ---------------------------------------------------------------------------

    def _look_ahead(self, reader: StreamSource, offset: int, end: int) -> None:
        share = self._shared.share()
        ahead = reader.window.ahead(offset, end - offset, share.nbytes)
        if not ahead:
            reader.reach = (offset, end)
            self._cancel_unwanted()
            return
        # What was fetched for it stays its own, also when its share becomes smaller; and reads of
        # the kernel overtake each other.
        reader.reach = (offset - NEAR, max(reader.reach[1], end + ahead))
        length = _piece_length(ahead, share.requests)
        target = min(self.file.size, end + ahead)
        start = self._holdings.covered_until(end, target)
        while start < target:
            # Ends at multiples of the length, so that what is joined later fits together.
            stop = min(self.file.size, (start // length + 1) * length)
            if stop > target:
                return
            stop = self._holdings.missing(start, stop)[0][1]
            if not self._fetch(start, stop, is_urgent=False):
                return
            start = self._holdings.covered_until(stop, target)

    def _fetch(self, start: int, end: int, *, is_urgent: bool) -> bool:
        """Ask for a range that nobody has asked for yet; whether there is memory for it."""
        while start < end:
            stop = min(end, start + buffers.LARGEST)
            with self._proof.kept_beside(start, stop):
                buffer = self._shared.buffers.take(stop - start, is_urgent=is_urgent)
            if buffer is None:
                return False
            self._proof.doubt(start, stop)
            piece = Piece(start, stop, buffer, is_urgent=is_urgent)
            self._holdings.add(piece)
            self._shared.nursery.start_soon(self._bring, piece)
            start = stop
        return True

    async def _bring(self, piece: Piece) -> None:
        error: RucioFsError | None = None
        adler32 = 0
        try:
            with piece.scope:
                adler32 = await self._shared.fetcher.fill(
                    self.file.did, self.file.size, piece, self.candidates, self._ask_again
                )
            if piece.is_cancelled:
                error = Unreachable(f"{self.file.did}: nobody wanted it any more")
        except RucioFsError as exc:
            error = exc
        except trio.Cancelled:
            error = Unreachable("the mount is ending")
            raise
        except Exception as exc:
            log.exception("bug while fetching %s", self.file.did)
            error = RucioFsError(f"internal error: {exc!r}")
        finally:
            # atomic: whoever waits finds it as it is to be found
            if error is None:
                error = self._arrived(piece, adler32)
            piece.finish(error)
            if error is not None:
                self.drop(piece)
            self._tell()
        if error is None:
            await self._keep(piece, Segment(piece.start, piece.end, adler32))

    async def _keep(self, piece: Piece, segment: Segment) -> None:
        """Write a piece that has come to the cache."""
        entry, shared = self.entry, self._shared
        # Readers shall not wait for a slow disk.
        if entry is None or shared.store is None or shared.is_disk_slow():
            self._leave(piece)
            return
        piece.pins += 1
        entry.users += 1
        shared.keeping[piece] = trio.current_time()
        try:
            await shared.store.keep(entry, segment, piece.view(piece.start, piece.end))
        finally:
            del shared.keeping[piece]
            piece.pins -= 1
            if piece not in self._holdings.pieces:  # it was thrown away meanwhile
                shared.buffers.give(piece.buffer)
            else:
                self._leave(piece)
            self._tell()
            with trio.CancelScope(shield=True):
                await shared.store.give_back(entry)

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _cancel_unwanted(self) -> None:
        """End what was fetched ahead for somebody who went elsewhere."""
        for piece in self._holdings.pieces:
            is_wanted = piece.is_done or piece.is_urgent or piece.waiting
            if not is_wanted and not self._is_near(piece):
                piece.cancel()

    def _is_near(self, piece: Piece) -> bool:
        return any(reader.reaches(piece.start, piece.end) for reader in self._readers)

    def _is_ahead(self, piece: Piece) -> bool:
        return any(reader.reads_next(piece.start, piece.end) for reader in self._readers)

    # --- whether it is the right file ------------------------------------------------------------

    async def agrees_with(self, reader: StreamSource, copy: Source) -> bool:
        """Whether *copy* has what was received here and may be wrong.

        If not, all who have the file open are told that they were given wrong bytes.

        Raises: what reading *copy* raises.
        """
        proof = self._proof
        while self._has_given and not proof.is_right and reader.error is None:
            version = proof.version

            def is_over(version: int = version) -> bool:
                return proof.is_right or proof.version != version or reader.error is not None

            found = await difference(lambda: proof.segments, copy, is_over)
            if found is not None and not is_over():
                self._throw_away(
                    f"the copy that has come has other bytes between {found.start} and {found.end}"
                )
            elif not is_over():
                self._has_given = False  # atomic since all was compared
        return reader.error is None

    async def _until_judged(self) -> None:
        """Before the last byte is given: if the whole file is here or about to be, compare it."""
        while gaps := self._proof.gaps():
            part = self._proof.at_hand(gaps)
            if part is None:
                await self._news.wait()  # atomic since the look at the gaps
            else:
                version = self._proof.version
                data = await self._holdings.read(*part)
                if data is not None and version == self._proof.version:
                    self._take_in(*part, data)
                await trio.lowlevel.checkpoint()  # also where it cannot be read after all

    def _take_in(self, start: int, end: int, data: Data) -> bool:
        """Before bytes are given: have them known; False if something shows to be wrong now."""
        words = self._proof.take_in(start, end, data)
        if words is not None:
            self._throw_away(words)
        return words is None

    def _arrived(self, piece: Piece, adler32: int) -> RucioFsError | None:
        """Take a piece in; return what is wrong with the file if that shows now."""
        words = self._proof.arrived(piece, adler32)
        return None if words is None else self._throw_away(words)

    def _throw_away(self, words: str) -> RucioFsError:
        """The file is whole, and wrong."""
        rses = self._proof.rses
        message = f"{self.file.did} from {', '.join(sorted(rses))}: {words}"
        # Where the cache is among them, it need not be who gave the rest: nobody is ruled out.
        self.candidates.spoiled(rses, words)
        self._proof.begin_anew()
        for piece in self._holdings.pieces:
            piece.void()  # also what is on its way, until that has come to its end
        self.end()
        # Those that are being written to the cache give their memory back after that.
        writing = [one for one in self._holdings.pieces if one.is_done]
        self._holdings.pieces = [one for one in self._holdings.pieces if not one.is_done]
        if self.entry is not None:
            self.entry.forget()
            self.entry.users += 1
            self._shared.nursery.start_soon(self._empty, self.entry, writing)
        if self._has_given:
            for reader in self._readers:
                reader.error = Corrupt(f"{message}; what was read is wrong: open it again")
        self._has_given = False
        self._shared.on_wrong(self.file, message, rses - {CACHE})
        return Unreachable(f"{message}; it is fetched again")

    async def _empty(self, entry: Entry, writing: Sequence[Piece]) -> None:
        """Give the space on disk back, but not before *writing* have come to their end.

        Until then it takes nothing; afterwards it would take them, wrong as they are.
        """
        try:
            while any(piece.pins for piece in writing):
                await self._news.wait()
            await entry.empty()
        finally:
            if self._shared.store is not None:
                await self._shared.store.give_back(entry)

    # --- memory ----------------------------------------------------------------------------------

    def spare(self) -> Iterator[Spare]:
        """Pieces whose memory can be taken.

        What was fetched ahead of a reader is not among them until it is on disk.
        """
        for piece in self._holdings.pieces:
            if piece.is_idle:
                is_ahead = self._is_ahead(piece)
                if not is_ahead or self._holdings.is_on_disk(piece):
                    give_up = partial(self.drop, piece)
                    yield Spare(is_ahead, piece.used_at, len(piece.buffer), give_up)

    def drop(self, piece: Piece) -> None:
        """Take a piece's memory away, unless somebody needs it."""
        if piece in self._holdings.pieces and not piece.pins:
            self._holdings.pieces.remove(piece)
            self._shared.buffers.give(piece.buffer)
            self._rest()

    def _leave(self, piece: Piece) -> None:
        """A piece stays in memory for those who read the file, if there are any."""
        if not self._readers:
            self.drop(piece)

    def status(self) -> dict[str, Any]:
        """Facts for `.rucio/status`; sizes in bytes."""
        return {
            "did": str(self.file.did),
            "readers": len(self._readers),
            "received": self._proof.received,
            "on_its_way": sum(len(piece) - piece.got for piece in self._holdings.pieces),
        }


def _piece_length(ahead: int, requests: int) -> int:
    """Bytes of one request, a power of two: so many *requests* make up what is fetched ahead."""
    length = max(_SMALLEST_AHEAD, 1 << max(0, ahead // requests - 1).bit_length())
    return min(length, buffers.LARGEST)
