"""Giving up the bytes in staging of what is in the lake: the disk is for what is still to come.

The file keeps its name, size and times; who opens it reads it from the lake.  What is open stays.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from rucio_fs import checksums
from rucio_fs.catalogue.base import BULK_LIMIT
from rucio_fs.errors import RucioFsError
from rucio_fs.rules.verdicts import is_here
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.journal import in_thread
from rucio_fs.uploads.records import Record, State

log = logging.getLogger(__name__)

_LOOK = 30.0  # s between two looks at the disk and the clock
_BLOCK = 1 << 20  # bytes; no filesystem has larger ones
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2); Python's os has no name for it
_libc = ctypes.CDLL(None, use_errno=True)


class GivingUp:
    """Frees space in staging: *keep* s after an upload is DONE, or where *min_free* bytes are gone.

    *is_open* says whether somebody has the file of that number open.  Rucio is asked once more
    before anything is freed.
    """

    def __init__(
        self, context: Context, is_open: Callable[[int], bool], *, keep: float, min_free: int
    ) -> None:
        self._context = context
        self._is_open = is_open
        self._keep = keep
        self._min_free = min_free
        self._wanted = trio.Event()
        self._is_wanted = False
        self._unfreed: set[int] = set()  # ids of records that are given up and still take space
        self._has_looked = False
        self._has_no_holes = False  # the disk frees whole files alone

    def __repr__(self) -> str:
        return f"<GivingUp in {self._context.staged.tree}>"

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            with trio.move_on_after(_LOOK):
                await self._wanted.wait()
            self._is_wanted, self._wanted = self._wanted.is_set(), trio.Event()
            try:
                await self.look()
            except RucioFsError as exc:
                log.info("nothing is given up in staging now: %s", exc)
            except Exception:
                log.exception("bug while giving up what is in the lake")

    def hurry(self) -> None:
        """Free all that may be freed, soon."""
        self._wanted.set()

    async def look(self) -> int:
        """Free what may be freed now; how many files.  Raises: what the catalogue raises."""
        freed = 0
        for records in self._batches():
            due = [one for one in records if self._is_due(one)]
            for record in await self._sure(due) if due else ():
                if self._is_due(record) and await self._give_up(record):
                    freed += 1
                if self._has_no_holes:
                    return freed
        return freed

    def _batches(self) -> Sequence[Sequence[Record]]:
        """What may be freed, the longest done first.  Each may be kept for another time."""
        if self._has_no_holes:
            return ()
        is_short = self._is_short()
        found = sorted(
            (
                one
                for one in self._context.ledger.in_state(State.DONE)
                if one.path and not one.is_in_place  # Rucio itself removes those
            ),
            key=lambda one: (one.done_at, one.id),
        )
        if not self._has_looked:
            self._unfreed.update(one.id for one in found if one.is_given_up and self._is_left(one))
            self._has_looked = True
        waiting = [
            one
            for one in found
            if one.size
            and (not one.is_given_up or one.id in self._unfreed)
            and (is_short or self._is_over(one))
        ]
        return [waiting[at : at + BULK_LIMIT] for at in range(0, len(waiting), BULK_LIMIT)]

    def _is_left(self, record: Record) -> bool:
        """Whether a mount before this one has given it up, and did not come to freeing it."""
        try:
            return bool(os.lstat(self._context.staged.tree / record.path).st_blocks)
        except OSError:
            return False

    def _is_due(self, record: Record) -> bool:
        return self._is_over(record) or self._is_short()

    def _is_over(self, record: Record) -> bool:
        """Whether the time is over for which it is kept here."""
        keep = self._keep if record.keep is None else record.keep
        if self._is_wanted or record.id in self._unfreed:  # nobody reads the latter here
            return True
        return time.time() - record.done_at >= keep

    def _is_short(self) -> bool:
        found = os.statvfs(self._context.staged.tree)
        return found.f_bavail * found.f_frsize < self._min_free

    async def _sure(self, records: Sequence[Record]) -> list[Record]:
        """Those of *records* that the lake has, as of now."""
        context = self._context
        found = await context.catalogue.replicas_of(context.who, [one.did for one in records])
        return [
            one
            for one in records
            if (known := found.get(one.did)) is not None
            and is_here(known.states)
            and known.size == one.size
            and checksums.is_same(known.adler32, one.adler32)
        ]

    async def _give_up(self, record: Record) -> bool:
        context = self._context
        if not context.ledger.is_known(record) or not record.path or self._is_open(record.ino):
            return False
        path = context.staged.tree / record.path
        try:
            # Opened now: what has its name, and its number, a moment later is another file.
            fd = _opened(path, record.ino)
        except OSError as exc:
            log.warning("scratch/%s still takes space: %s", record.path, exc.strerror)
            return False
        # atomic since the look: who opens it from now on reads from the lake
        record.is_given_up = True
        self._unfreed.add(record.id)
        try:
            await context.ledger.journal.commit(record)
            await in_thread(lambda: punch(fd))
        except OSError as exc:
            log.warning("scratch/%s still takes space: %s", record.path, exc.strerror)
            if exc.errno in (errno.EOPNOTSUPP, errno.ENOSYS):  # nothing was done to it
                self._has_no_holes = True
                record.is_given_up = False
                self._unfreed.discard(record.id)
                if context.ledger.is_known(record):
                    await context.ledger.journal.commit(record)
            return False
        finally:
            os.close(fd)
        self._unfreed.discard(record.id)
        context.events.note("given_up", record.did, path=record.path)
        return True


def _opened(path: Path, ino: int) -> int:
    """The file with that number, for writing, also where its mode forbids that.  Raises: OSError"""
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(found)
        if status.st_ino != ino or not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "it is another file by now")
        itself, mode = f"/proc/self/fd/{found}", stat.S_IMODE(status.st_mode)
        try:
            return os.open(itself, os.O_WRONLY | os.O_CLOEXEC)
        except PermissionError:
            os.chmod(itself, mode | stat.S_IWUSR)
            try:
                return os.open(itself, os.O_WRONLY | os.O_CLOEXEC)
            finally:
                os.chmod(itself, mode)
    finally:
        os.close(found)


def punch(fd: int) -> None:
    """Free the space of an open file, which keeps its size and times.  Raises: OSError"""
    status = os.fstat(fd)
    end = ctypes.c_int64(status.st_size + _BLOCK)  # or a part of the last block would stay
    if _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(0), end):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
