"""A file that is read from one place until it can be read from a better one.

Its bytes should be the same wherever they come from, for a DID is immutable.  That they are is seen
to before the change: at the better place nobody knows what was given before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from rucio_fs.errors import Corrupt, RucioFsError
from rucio_fs.sources.base import Data, Source

log = logging.getLogger(__name__)


class Beginning(Source, Protocol):
    """Where a file is read first."""

    async def agrees_with(self, copy: Source) -> bool:
        """Whether *copy* has the bytes that were given; if not, reading here fails from now on.

        True holds until somebody else runs.  Raises: what reading *copy* raises.
        """
        ...


class Relay:
    """A `Source` whose bytes come from *source* until `change_over` names another one.

    *reopen* opens the first kind of source again, for when the better one turns out not to be.
    *on_read* is called with each read.
    """

    def __init__(
        self,
        source: Beginning,
        reopen: Callable[[], Awaitable[Beginning]],
        on_read: Callable[[], None],
    ) -> None:
        self.size = source.size
        self.is_closed = False
        self.has_switched = False
        self._begun = source
        self._source: Source = source
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
                data = await self._read(source, offset, size)
                if source is self._source or self.is_closed:
                    return data
                continue  # what is given by a place that was left was compared with nothing
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
                self._begun = again
                self._switch(again)
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

    async def change_over(self, source: Source) -> bool:
        """Read from *source* from now on, if it agrees with what was given; whether it does.

        What is being read meanwhile is read there too.  If it is not gone over to, *source* is
        closed.

        Raises: what reading *source* raises; then all stays as it was.
        """
        begun, is_same = self._begun, False
        try:
            is_same = self.has_switched or await begun.agrees_with(source)
        finally:
            # atomic since it was compared
            is_same = is_same and begun is self._begun and not self.is_closed
            if not is_same:
                source.close()
        if is_same:
            self._switch(source)
            self.has_switched = True
        return is_same

    def _switch(self, source: Source) -> None:
        old, self._source = self._source, source
        if old not in self._reading:
            old.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self._source not in self._reading:
                self._source.close()
