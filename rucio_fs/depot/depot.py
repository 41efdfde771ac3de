"""Putting files on storages, and whatever else an upload wants of them.

Every method waits for a worker thread of its own, at most *connections* for one server.  Cancelled,
it ends the thread's connection and returns once the thread has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from rucio_fs.depot import verbs
from rucio_fs.depot.asking import Asker
from rucio_fs.depot.failures import WriteRefused
from rucio_fs.depot.hangup import Hangup, in_thread
from rucio_fs.webdav.addresses import Address, Origin, address
from rucio_fs.webdav.credentials import Credentials

T = TypeVar("T")


class Depot:
    """The storages that files are put on.  A URL is a PFN over http, https, dav or davs.

    *timeout* (s) is how long a server may be silent; *connections* how many requests there are at
    once to one.

    Raises, each method beside what it names: Unreachable and TooSlow (worth another try),
    Unauthorized (worth one after the credentials were renewed), Full, WriteRefused (no such URL, or
    refused whoever asks).
    """

    def __init__(self, credentials: Credentials, *, timeout: float, connections: int) -> None:
        self._asker = Asker(credentials, timeout)
        self._limiters: defaultdict[Origin, trio.CapacityLimiter] = defaultdict(
            lambda: trio.CapacityLimiter(connections)
        )

        self._renaming: set[Origin] = set()  # servers that rename to where they are told

    def __repr__(self) -> str:
        return f"<Depot: {self._asker!r}>"

    async def put(
        self,
        url: str,
        file: Path | int,
        size: int,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Put *file*, which has *size* bytes, at *url*; what lay there is replaced.

        A descriptor is read by offset and left open.  Directories that the storage misses are made.
        *progress* is told how many bytes are sent, by a worker thread; when a request is made again
        it begins anew.  After a failure there may be a part of the file.

        Raises: Unreadable (*file*).
        """
        await self._run(
            url,
            lambda where, hangup: verbs.put(self._asker, where, hangup, file, size, progress),
        )

    async def adler32(self, url: str, size: int) -> str | None:
        """The checksum of the storage's own, eight hex digits; None if it has none to tell.

        A storage that has to read all *size* bytes first is given the time.

        Raises: NotThere, Corrupt (not *size* bytes).
        """
        return await self._run(
            url, lambda where, hangup: verbs.told_adler32(self._asker, where, hangup, size)
        )

    async def read_back(self, url: str, size: int) -> str:
        """The checksum of the bytes as they come back, eight hex digits.

        Raises: NotThere, Corrupt (not *size* bytes).
        """
        return await self._run(
            url, lambda where, hangup: verbs.read_back(self._asker, where, hangup, size)
        )

    async def size(self, url: str) -> int | None:
        """How many bytes the file at *url* has; None if there is none."""
        return await self._run(url, lambda where, hangup: verbs.size(self._asker, where, hangup))

    async def move(self, source: str, target: str) -> None:
        """Rename a file on its storage.

        After Unreachable it may have been done.  Nothing is replaced, except by XRootD where
        somebody puts a file at *target* between the look and the rename.

        Raises: Taken (there is a file at *target*), NotThere (none at *source*), NoMove.
        """
        to = _address(target)
        is_proved = to.origin in self._renaming
        await self._run(
            source,
            lambda where, hangup: verbs.move(self._asker, where, to, hangup, is_proved=is_proved),
        )
        self._renaming.add(to.origin)

    async def delete(self, url: str) -> bool:
        """Delete the file at *url*; whether there was one."""
        return await self._run(url, lambda where, hangup: verbs.delete(self._asker, where, hangup))

    def close(self) -> None:
        """End the connections that are kept; those in use end with their request."""
        self._asker.close()

    async def _run(self, url: str, call: Callable[[Address, Hangup], T]) -> T:
        where = _address(url)
        return await in_thread(lambda hangup: call(where, hangup), self._limiters[where.origin])


def _address(url: str) -> Address:
    where = address(url)
    if where is None:
        raise WriteRefused(f"{url.partition('?')[0]} is no address of a storage that speaks HTTP")
    return where
