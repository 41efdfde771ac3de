"""What uploads have to say to changes in staging: what is in the lake is not changed any more."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from rucio_fs.callers import Caller
from rucio_fs.did import DID, Identity
from rucio_fs.errors import BadName, Sealed
from rucio_fs.scratch.overseeing import Given
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.naming import did_of, top_of
from rucio_fs.uploads.options import FILE, METADATA
from rucio_fs.uploads.records import UNFINISHED, Record, State
from rucio_fs.uploads.settling import Settling


class Attributes(Protocol):
    """See `scratch.overseeing.Overseer`; *reconsider*: options at or above *path* have changed."""

    def reconsider(self, path: str) -> None: ...
    async def names(self, path: str, ino: int) -> Sequence[str]: ...
    async def get(self, path: str, ino: int, name: str) -> str: ...
    async def set(self, path: str, ino: int, name: str, value: str) -> None: ...


Reader = Callable[[Identity, DID, Caller], Awaitable[Given]]
"""Opens a file of the lake."""


class UploadOverseer:
    """Hears of every change in staging before it is made, and after.

    A file that changes before it is immutable is simply uploaded later: what was done for it so far
    is dropped, and it is looked at again even if the change then fails.  *on_drop* is called when
    something has to be written to the journal; *is_in_lake* says whether a path is that of a
    collection.  *reader*, set before the mount begins, opens what was given up here.
    """

    def __init__(
        self,
        ledger: Ledger,
        settling: Settling,
        attributes: Attributes,
        is_in_lake: Callable[[Identity, str], Awaitable[bool]],
        on_drop: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._settling = settling
        self._attributes = attributes
        self._is_in_lake = is_in_lake
        self._on_drop = on_drop
        self._is_dir = False  # what is being renamed
        self.reader: Reader | None = None

    def __repr__(self) -> str:
        return f"<UploadOverseer of {self._ledger!r}>"

    # --- changes ---------------------------------------------------------------------------------

    def changed(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        if not directory:
            return
        self._settling.changed(top_of(path))
        if path.count("/") == 1:  # it may be a directory, with all that lies in it
            self._settling.changed(path)
        if name == FILE:
            self._attributes.reconsider(directory)
        elif name.endswith(METADATA):
            record = self._ledger.at(path.removesuffix(METADATA))
            if record is not None and (not record.is_sealed or record.is_to_be_mended):
                self._drop(record)  # it is queued again, with what its sidecar says now

    def before_write(self, path: str, ino: int) -> None:
        record = self._ledger.of_file(ino, path)
        if record is None:
            return
        if record.is_sealed:
            raise _sealed(path, record)
        self._drop(record)

    def before_rename(
        self, path: str, ino: int, is_dir: bool, over: tuple[str, int] | None
    ) -> None:
        self._is_dir = is_dir
        for where, number in ((path, ino), over or ("", 0)):
            record = self._ledger.of_file(number, where)
            if record is not None and record.is_sealed:
                raise _sealed(where, record)
        if is_dir:
            for record in self._ledger.below(path):
                if record.is_sealed:
                    raise _sealed(record.path, record)
        if over is not None and (replaced := self._ledger.of_file(over[1])) is not None:
            self._drop(replaced)

    def renamed(self, old: str, new: str) -> None:
        one = self._ledger.at(old)
        found = self._ledger.below(old) if self._is_dir else [one] if one is not None else []
        for record in found:
            path = new + record.path[len(old) :]
            if record.error.startswith(UNFINISHED):  # by whatever name it is called
                with contextlib.suppress(BadName):  # which is told when it is looked at
                    record.did = did_of(path)
                self._ledger.moved(record, path)
                self._on_drop()
            else:
                self._drop(record)  # under its new name it is another DID
                self._settling.changed(top_of(path))

    def exchanged(self, one: str, other: str) -> None:
        for record in (*self._ledger.below(one), *self._ledger.below(other)):
            self._drop(record)

    def before_unlink(self, path: str, ino: int) -> None:
        record = self._ledger.of_file(ino, path)
        if record is None:
            return
        if record.is_sealed and record.is_in_place:
            raise Sealed(_kept(path, record))
        if record.is_sealed and record.state < State.REGISTERED:
            raise Sealed(
                f"{path} is just being registered as {record.did}: remove it when that is done"
            )
        if not record.is_sealed:
            self._drop(record)

    def removed(self, path: str, ino: int) -> None:
        record = self._ledger.of_file(ino)
        if record is not None and record.path == path:  # it is sealed, or was dropped before
            self._settling.changed(top_of(path))
            self._ledger.let_go(record)
            self._on_drop()

    def before_rmdir(self, path: str) -> None:
        """An empty directory is nothing in the lake."""

    def _drop(self, record: Record) -> None:
        self._settling.changed(top_of(record.path))
        self._ledger.drop(record)
        self._on_drop()

    # --- what is asked ---------------------------------------------------------------------------

    async def lookup_dir(self, who: Identity, path: str) -> bool:
        return await self._is_in_lake(who, path)

    async def xattr_names(self, who: Identity, path: str, ino: int) -> Sequence[str]:
        return await self._attributes.names(path, ino)

    async def xattr(self, who: Identity, path: str, ino: int, name: str) -> str:
        return await self._attributes.get(path, ino, name)

    async def set_xattr(self, who: Identity, path: str, ino: int, name: str, value: str) -> None:
        await self._attributes.set(path, ino, name, value)

    async def open_given_up(
        self, who: Identity, path: str, ino: int, caller: Caller
    ) -> Given | None:
        record = self._ledger.of_file(ino, path)
        if record is None or not record.is_given_up or self.reader is None:
            return None
        return await self.reader(who, record.did, caller)


def _kept(path: str, record: Record) -> str:
    """Why what lies in place is not for its user to remove."""
    if record.is_released:
        return f"{path} is at {record.rule} as {record.did}, and Rucio is about to remove it here"
    if record.is_leaving and record.state is State.DONE:
        return (
            f"{path} is kept at {record.rse} by rule {record.keeper}, which this account may not"
            " delete: ask Rucio's administrators"
        )
    if record.is_leaving:
        return (
            f"{path} is what Rucio has of {record.did} at {record.rse}: Rucio removes it here when"
            f" it is at {record.rule}"
        )
    return (
        f"{path} is what Rucio has of {record.did} at {record.rse}: to have it removed, delete its"
        " rule there"
    )


def _sealed(path: str, record: Record) -> Sealed:
    if record.state < State.REGISTERED:
        return Sealed(f"{path} is just being registered as {record.did}: it cannot be changed")
    return Sealed(
        f"{path} is in the lake as {record.did}: it cannot be changed; save it under another name"
    )
