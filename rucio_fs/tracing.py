"""Telling Rucio what was read, so that popularity and last access are true.

Nothing here can fail or delay a read: traces are queued, dropped when there are too many, and not
sent for a while after the server has refused them (many servers do not take any).
"""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any

import trio

from rucio_fs import __version__
from rucio_fs.catalogue.base import Rules
from rucio_fs.did import DID, Identity
from rucio_fs.errors import RucioFsError

log = logging.getLogger(__name__)

_QUEUED = 1000  # traces that wait to be sent; the oldest are lost first
_BATCH = 100  # traces in one request
_PAUSE = 5.0  # s between two requests
_REFUSED_PAUSE = 3600.0  # s without traces after the server has not taken one


class Tracer:
    """The queue of traces and the task that sends them.  One instance a mount."""

    def __init__(self, rules: Rules, account: str, site: str | None) -> None:
        self._rules = rules
        self._account = account
        self._site = site
        self._hostname = socket.gethostname()
        self._queue: deque[tuple[Identity, Mapping[str, Any]]] = deque(maxlen=_QUEUED)
        self._filled = trio.Event()
        self._quiet_until = float("-inf")

    def read(
        self, who: Identity, did: DID, dataset: DID | None, rse: str, size: int, began: float
    ) -> None:
        """A file of *size* bytes at *rse* was read since *began* (s since the epoch)."""
        if trio.current_time() < self._quiet_until:
            return
        now = time.time()
        trace = {
            "eventType": "get",
            "eventVersion": f"rucio-fs-{__version__}",
            "clientState": "DONE",
            "stateReason": "OK",
            "uuid": uuid.uuid4().hex,
            "account": self._account,
            "hostname": self._hostname,
            "scope": did.scope,
            "filename": did.name,
            "datasetScope": dataset.scope if dataset is not None else None,
            "dataset": dataset.name if dataset is not None else "",
            "filesize": size,
            "localSite": self._site or rse,
            "remoteSite": rse,
            "protocol": "file",
            "timeStart": began,
            "transferStart": began,
            "transferEnd": now,
            "timeEnd": now,
        }
        self._queue.append((who, {key: value for key, value in trace.items() if value is not None}))
        self._filled.set()

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            while self._queue:
                await self._send()
            await trio.sleep(_PAUSE)

    async def _send(self) -> None:
        who = self._queue[0][0]
        batch: list[Mapping[str, Any]] = []
        while self._queue and self._queue[0][0] == who and len(batch) < _BATCH:
            batch.append(self._queue.popleft()[1])
        try:
            await self._rules.trace(who, batch)
        except RucioFsError as exc:
            log.info("Rucio takes no traces, so what is read counts for nobody's use: %s", exc)
            self._quiet_until = trio.current_time() + _REFUSED_PAUSE
            self._queue.clear()
        except Exception:
            log.exception("bug while sending traces")
