"""Whether there is room in the lake for what somebody is about to save: told at once, not later."""

from __future__ import annotations

import logging

import trio

from rucio_fs.catalogue.registry import Registry
from rucio_fs.did import Identity
from rucio_fs.errors import QuotaExceeded, RucioFsError

log = logging.getLogger(__name__)

_LOOK = 60.0  # s between two looks; Rucio itself sums up what is used once in a while
_PATIENCE = 5.0  # s that the first look may take; saving does not wait for Rucio


class Admission:
    """The room that the account has at *rse*, as of the last look; None: nothing is checked."""

    def __init__(self, registry: Registry, who: Identity, rse: str | None) -> None:
        self._registry = registry
        self._who = who
        self._rse = rse
        self._room: int | None = None  # no limit, or not known

    def __repr__(self) -> str:
        return f"<Admission to {self._rse}: {self._room} bytes>"

    def check(self, path: str) -> None:
        """Raises: QuotaExceeded (what is saved at *path* now could not be kept)"""
        if self._room is not None and self._room <= 0:
            raise QuotaExceeded(
                f"scratch/{path}: the account has no room at {self._rse}: give back what is not"
                " needed, or ask for more quota; files that are saved already are kept here"
            )

    async def look(self) -> None:
        """Ask Rucio; while it is away the last answer counts."""
        if self._rse is None:
            return
        with trio.move_on_after(_PATIENCE):
            try:
                self._room = await self._registry.room(self._who, self._rse)
            except RucioFsError as exc:
                log.info("the room at %s is not known: %s", self._rse, exc)

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await trio.sleep(_LOOK)
            await self.look()
