"""One file on its way to storage: to a name of its own, proved there, then to where it belongs.

Whoever finds a file under its final name finds all of it.  Two who upload different files of one
name do not replace each other's: a move replaces nothing.
"""

from __future__ import annotations

import logging
import os

import trio

from rucio_fs.depot.failures import NoMove, NotThere, Taken, Unreadable, WriteRefused
from rucio_fs.errors import Corrupt, Differs, RucioFsError, Unreachable
from rucio_fs.uploads.context import Context
from rucio_fs.uploads.records import Record, State

log = logging.getLogger(__name__)


class Changed(RucioFsError):
    """The file in staging is not any more what was queued."""


class Storer:
    """Uploads files, one a call.  What it has come to is in the journal before it goes on."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __repr__(self) -> str:
        return f"<Storer over {self._context.depot!r}>"

    async def store(self, record: Record) -> None:
        """Bring *record*, which is UPLOADING or PLACING, to STORED.

        Raises: Changed, Differs (another file lies where it belongs), Corrupt (it arrived damaged),
        what the depot raises, Unreachable (the journal cannot be written).
        """
        ledger = self._context.ledger
        if ledger.journal.is_unwritten(record):
            await ledger.journal.commit()
        if record.state is State.UPLOADING:
            await self._upload(record)
            await trio.lowlevel.checkpoint_if_cancelled()  # changed since the proof was on its way
            # From here on nobody may change the file: what lies there is to be what Rucio is told.
            ledger.advance(record, State.PLACING)
            await ledger.journal.commit()
        await self._place(record)
        record.temp_url = ""
        ledger.advance(record, State.STORED)

    async def _upload(self, record: Record) -> None:
        path = self._context.staged.tree / record.path
        record.sent = 0

        def progress(sent: int) -> None:
            record.sent = sent

        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            raise Changed(f"{record.path}: {exc.strerror}") from exc
        try:
            _compare(fd, record)
            try:
                await self._context.depot.put(record.temp_url, fd, record.size, progress=progress)
            except Unreadable as exc:
                raise Changed(str(exc)) from exc
            _compare(fd, record)
            record.sent = record.size
        finally:
            os.close(fd)
        await self._prove(record, record.temp_url)

    async def _prove(self, record: Record, url: str) -> None:
        """Raises: Corrupt, and what the depot raises"""
        found = await self._found(record, url)
        if found is not None and found != record.adler32:
            await self._context.depot.delete(url)
            raise Corrupt(
                f"{record.did} arrived damaged at {record.rse}: adler32 {found} instead of"
                f" {record.adler32}; it is sent again"
            )

    async def _found(self, record: Record, url: str) -> str | None:
        """The checksum of what lies at *url*; None where the size has to be enough.

        Raises: Corrupt (another size), NotThere
        """
        depot, verify = self._context.depot, self._context.verify
        found: str | None = None
        if verify != "size":
            found = await depot.adler32(url, record.size)
            if found is None and verify == "read":
                found = await depot.read_back(url, record.size)
            elif found is None:
                raise WriteRefused(
                    f"{record.rse} tells no checksum of what lies there: set scratch.verify to"
                    ' "read" or "size"'
                )
        if found is None:
            size = await depot.size(url)
            if size is None:
                raise NotThere(f"{record.did} is not at {record.rse} any more; it is sent again")
            if size != record.size:
                raise Corrupt(
                    f"{record.did} arrived damaged at {record.rse}: {size} bytes instead of"
                    f" {record.size}; it is sent again"
                )
        return found

    async def _place(self, record: Record) -> None:
        depot = self._context.depot
        with trio.CancelScope(shield=True):  # what is done to the final name is done to its end
            try:
                await depot.move(record.temp_url, record.url)
                record.is_placed = True
            except Taken:
                await self._compare_with_taken(record)
                await depot.delete(record.temp_url)
            except NotThere as exc:
                # An earlier attempt has moved it, and was not heard of; or somebody cleaned up.
                try:
                    await self._compare_with_taken(record)
                except NotThere:
                    self._context.ledger.back(record, State.UPLOADING)
                    raise Unreachable(f"{exc}; it is sent again") from exc
            except NoMove:
                await self._put_in_place(record)
                await depot.delete(record.temp_url)

    async def _compare_with_taken(self, record: Record) -> None:
        """Something lies where the file belongs: it is the same, or the end.

        Raises: Differs, NotThere
        """
        try:
            found = await self._found(record, record.url)
            if found is None:  # its size proves what was just sent, not what somebody has put there
                depot = self._context.depot
                found = await depot.adler32(record.url, record.size)
                found = found or await depot.read_back(record.url, record.size)
        except Corrupt as exc:
            found = str(exc)
        if found != record.adler32:
            raise Differs(
                f"{record.did}: another file lies at its place at {record.rse}, which Rucio does"
                " not know: give yours another name, or have the other one removed"
            )

    async def _put_in_place(self, record: Record) -> None:
        """Where the storage cannot rename.  Raises: as `store`"""
        depot, ledger = self._context.depot, self._context.ledger
        if not record.is_direct:
            if await depot.size(record.url) is not None:
                await self._compare_with_taken(record)
                return
            record.is_direct = True  # a part of it that lies there later is ours
            await ledger.journal.commit(record)
        path = self._context.staged.tree / record.path
        await depot.put(record.url, path, record.size)
        record.is_placed = True
        await self._prove(record, record.url)


def _compare(fd: int, record: Record) -> None:
    """Raises: Changed"""
    status = os.fstat(fd)
    seen = (status.st_ino, status.st_size, status.st_mtime_ns)
    if seen != (record.ino, record.size, record.mtime_ns):
        raise Changed(f"{record.path} has changed since it was queued")
