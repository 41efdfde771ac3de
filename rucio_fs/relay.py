"""A file that is read from one place until it can be read from a better one.

Its bytes are the same wherever they come from: a DID is immutable.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from rucio_fs.errors import Corrupt, RucioFsError
from rucio_fs.sources.base import Data, Source

log = logging.getLogger(__name__)


class Relay:
    """A `Source` whose bytes come from *source* until `switch` names another one.

    *reopen* opens the first kind of source again, for when the better one turns out not to be.
    *on_read* is called with each read.
    """

    def __init__(
        self,
        source: Source,
        reopen: Callable[[], Awaitable[Source]],
        on_read: Callable[[], None],
    ) -> None:
        self.size = source.size
        self.is_closed = False
        self.has_switched = False
        self._source = source
        self._reopen = reopen
        self._on_read = on_read
        self._reading: dict[Source, int] = {}

    def __repr__(self) -> str:
        return f"<Relay of {self._source!r}>"

    async def read(self, offset: int, size: int) -> Data:
        """Return the bytes at *offset*; see `Source.read`."""
        self._on_read()
        while True:
            source = self._source
            try:
                return await self._read(source, offset, size)
            except RucioFsError as exc:
                if self.is_closed or (source is self._source and not self.has_switched):
                    raise
                if source is not self._source:
                    if isinstance(exc, Corrupt):  # what it has given before was wrong
                        raise
                    continue  # there is a better one by now
                log.warning("%r fails, back to streaming: %s", source, exc)
                failure = exc
            again = await self._reopen()
            if source is self._source and not self.is_closed:
                self.switch(again)
                self.has_switched = False
            else:
                again.close()
            if self.is_closed:
                raise failure

    async def _read(self, source: Source, offset: int, size: int) -> Data:
        """From *source*, which is not closed meanwhile."""
        self._reading[source] = self._reading.get(source, 0) + 1
        try:
            return await source.read(offset, size)
        finally:
            self._reading[source] -= 1
            if not self._reading[source]:
                del self._reading[source]
                if source is not self._source or self.is_closed:
                    source.close()

    def switch(self, source: Source) -> None:
        """Read from *source* from now on; what is being read goes on where it is."""
        if self.is_closed:
            source.close()
            return
        old, self._source, self.has_switched = self._source, source, True
        if old not in self._reading:
            old.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self._source not in self._reading:
                self._source.close()
