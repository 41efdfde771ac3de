"""One range of a file on its way from a storage, and in memory for a while after that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import trio

from rucio_fs.errors import RucioFsError, Unreachable
from rucio_fs.streams.buffers import SMALLEST


class Piece:
    """The bytes from *start* up to *end*.

    A worker thread fills `buffer` and says so by `progress`; tasks wait by `until`.  *got* counts
    the bytes that are in, from *start* on.  It *is_urgent* if a reader waited for it when it was
    asked for.  *pins* are tasks that need the buffer; *error* ends it.
    """

    def __init__(self, start: int, end: int, buffer: memoryview, *, is_urgent: bool) -> None:
        self.start = start
        self.end = end
        self.buffer = buffer
        self.is_urgent = is_urgent
        self.got = 0
        self.pins = 0
        self.waiting = 0
        self.used_at = 0
        self.is_done = False
        self.is_cancelled = False
        self.is_void = False
        self.error: RucioFsError | None = None
        self.rses: set[str] = set()  # whose bytes it has
        self.scope = trio.CancelScope()
        self._wanted = end - start  # the loop is told when that many bytes are in
        self._change = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._abort: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Piece {self.start}-{self.end}: {self.got} bytes>"

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def is_idle(self) -> bool:
        """Whether its memory can be taken away."""
        return self.is_done and not self.pins and not self.waiting

    def has(self, end: int) -> bool:
        """Whether the bytes up to *end* are in."""
        return self.start + self.got >= end and not self.is_void

    def view(self, start: int, end: int) -> memoryview:
        return self.buffer[start - self.start : end - self.start]

    async def until(self, end: int) -> None:
        """Return when the bytes up to *end* are in.  Raises: what ended it."""
        self.waiting += 1
        try:
            while not self.has(end):
                if self.error is not None:
                    raise self.error.copy()
                # The thread writes got and then reads wanted, we the other way round: one of us
                # sees what the other has written.
                self._wanted = min(self._wanted, end - self.start)
                if not self.has(end):
                    await self._change.wait()
        finally:
            self.waiting -= 1

    def finish(self, error: RucioFsError | None = None) -> None:
        """All is in, or never will be."""
        self.error = error
        self.is_done = True
        self._tell()

    def void(self) -> None:
        """Its bytes are wrong, or may be: nobody is given them, also not who was just told."""
        self.is_void = True
        if self.is_done:
            self.finish(Unreachable("its bytes are wrong"))

    def cancel(self) -> None:
        """Nobody wants it any more: the thread ends as soon as it notices."""
        self.scope.cancel()
        with self._lock:
            self.is_cancelled = True
            # With the lock: afterwards the thread may have lent what it waited for to another one.
            if self._abort is not None:
                self._abort()

    # --- in the thread ---------------------------------------------------------------------------

    def progress(self, got: int) -> bool:
        """So many bytes are in; say whether to go on."""
        self.got = got
        if got >= self._wanted:
            self._wanted = self.end - self.start + 1
            self._token.run_sync_soon(self._tell)
        return not self.is_cancelled

    def aborts_by(self, abort: Callable[[], None] | None) -> None:
        """How whatever the thread waits for is ended, from another thread."""
        with self._lock:
            self._abort = abort
            is_late = self.is_cancelled and abort is not None
        if is_late and abort is not None:
            abort()

    def _tell(self, *_: Any) -> None:
        self._change.set()
        self._change = trio.Event()


def aligned(start: int, end: int, size: int) -> tuple[int, int]:
    """The range that is fetched for *start* to *end* of a file of *size* bytes."""
    return start // SMALLEST * SMALLEST, min(size, -(-end // SMALLEST) * SMALLEST)
