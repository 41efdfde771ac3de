"""`Source`: the bytes of one open file."""

from __future__ import annotations

from typing import Protocol

Data = bytes | memoryview


class Source(Protocol):
    """Bytes of one file, read by offset.  Safe to use from several tasks."""

    size: int

    async def read(self, offset: int, size: int) -> Data:
        """Return the bytes at *offset*.

        Exactly *size* bytes, or fewer only at end of file.  The buffer may be reused after the
        caller's next checkpoint: hand it on at once or copy it.

        Raises: Corrupt (fewer bytes than the catalogue promises), Unreachable, TooSlow.
        """
        ...

    def close(self) -> None:
        """Give the resources back; never raises, never waits."""
        ...
