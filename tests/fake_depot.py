"""Storages in memory that files are put on; what goes wrong is ordered.

`FakeDepot` obeys the same contract as the real one (tests/lake/test_depot.py).
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from rucio_fs import checksums
from rucio_fs.depot.failures import NoMove, NotThere, Taken
from rucio_fs.errors import Corrupt


def _bytes_of(file: Path | int, size: int) -> bytes:
    return file.read_bytes() if isinstance(file, Path) else os.pread(file, size + 1, 0)


@dataclass
class FakeDepot:
    """*objects* are what lies on storage, by URL.

    *errors* are raised by the method of that name, each once; *damages* puts arrive with other
    bytes, *cuts* puts raise after half of the file has arrived.  With *blocked* (a trio.Event) each
    put waits for it.  *has_checksums* and *can_move* are what the storage can do.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    errors: dict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))
    calls: Counter[str] = field(default_factory=Counter)
    puts: Counter[str] = field(default_factory=Counter)
    damages: int = 0
    cuts: list[Exception] = field(default_factory=list)
    blocked: trio.Event | None = None
    has_checksums: bool = True
    can_move: bool = True
    at_once: int = 0
    most_at_once: int = 0
    lost_moves: list[Exception] = field(default_factory=list)  # made, and then told to have failed

    async def put(
        self,
        url: str,
        file: Path | int,
        size: int,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        await self._arrive("put")
        self.puts[url] += 1
        data = _bytes_of(file, size)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if progress is not None:
                progress(size // 2)
            if self.blocked is not None:
                await self.blocked.wait()
            if self.cuts:
                self.objects[url] = data[: size // 2]
                raise self.cuts.pop(0)
        finally:
            self.at_once -= 1
        if self.damages:
            self.damages -= 1
            data = bytes(byte ^ 1 for byte in data) or b"x"
        self.objects[url] = data
        if progress is not None:
            progress(size)

    async def adler32(self, url: str, size: int) -> str | None:
        await self._arrive("adler32")
        return self._checksum(url, size) if self.has_checksums else None

    async def read_back(self, url: str, size: int) -> str:
        await self._arrive("read_back")
        return self._checksum(url, size)

    async def size(self, url: str) -> int | None:
        await self._arrive("size")
        return len(self.objects[url]) if url in self.objects else None

    async def move(self, source: str, target: str) -> None:
        await self._arrive("move")
        if not self.can_move:
            raise NoMove(f"{source}: 405")
        if source not in self.objects:
            raise NotThere(f"{source}: 404")
        if target in self.objects:
            raise Taken(f"{target}: 412")
        self.objects[target] = self.objects.pop(source)
        if self.lost_moves:
            raise self.lost_moves.pop(0)

    async def delete(self, url: str) -> bool:
        await self._arrive("delete")
        return self.objects.pop(url, None) is not None

    def _checksum(self, url: str, size: int) -> str:
        data = self.objects.get(url)
        if data is None:
            raise NotThere(f"{url}: 404")
        if len(data) != size:
            raise Corrupt(f"{url} has {len(data)} bytes instead of {size}")
        return f"{checksums.adler32(data):08x}"

    async def _arrive(self, method: str) -> None:
        self.calls[method] += 1
        await trio.lowlevel.checkpoint()
        if self.errors[method]:
            raise self.errors[method].pop(0)
