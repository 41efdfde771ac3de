"""Questions to Rucio from async code: a worker thread for each, deadlines, repetitions.

The package's only way to Rucio.  What a client may do is in `client`, what its failures mean in
`failures`, when a question is asked again in `retrying`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from rucio_fs.catalogue.call import Call
from rucio_fs.catalogue.clients import Clients, RucioSettings
from rucio_fs.catalogue.retrying import persist
from rucio_fs.did import Identity

if TYPE_CHECKING:
    from rucio_fs.catalogue.client import RucioClient

T = TypeVar("T")


class Asking:
    """The pool of clients as tasks use it.  One instance a mount, shared by all that ask."""

    def __init__(self, settings: RucioSettings) -> None:
        self.settings = settings
        self._clients = Clients(settings)
        self._limiter = trio.CapacityLimiter(settings.connections)

    def close(self) -> None:
        """End the idle connections."""
        self._clients.close()

    async def ask(
        self,
        who: Identity,
        asked: str,
        question: Callable[[RucioClient], T],
        *,
        is_listing: bool = False,
    ) -> T:
        """The answer to *question*, asked again while that may help.

        *asked* says in an error what was wanted.  A change may be asked for twice too: Rucio says
        of the second that it is done.

        Raises: as `base.Catalogue`.
        """
        settings = self.settings
        limit = settings.listing_deadline if is_listing else settings.deadline
        return await persist(
            lambda: self.attempt(who, question, asked, limit),
            asked,
            patience=settings.deadline,
            limit=limit,
        )

    async def attempt(
        self, who: Identity, question: Callable[[RucioClient], T], asked: str, limit: float
    ) -> T:
        """Ask once.  A thread that hangs keeps its place until the socket's timeout."""
        call = Call(time.monotonic() + limit)
        try:
            return await trio.to_thread.run_sync(
                self._clients.answer,
                who,
                question,
                asked,
                call,
                abandon_on_cancel=True,  # a change that was sent is made, be it waited for or not
                limiter=self._limiter,
            )
        finally:
            call.abandon()
