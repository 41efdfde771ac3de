"""Directories on storages, made where they are missing.  Blocking."""

from __future__ import annotations

from threading import Lock

from cachetools import LRUCache

from rucio_fs.depot.asking import Asker, Reply, Request
from rucio_fs.depot.hangup import Hangup
from rucio_fs.streams.http import Address

_REMEMBERED = 10_000  # directories; Rucio's hashed paths have 65,536 below each scope
_THERE = (200, 201, 204, 405)  # 405: it exists; XRootD says 201 then too
_NO_PARENT = (404, 409)


class Parents:
    """Makes directories one by one, and remembers which there are.  For many threads."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._known: LRUCache[Address, bool] = LRUCache(_REMEMBERED)
        self._lock = Lock()

    def make(self, where: Address, hangup: Hangup, *, anew: bool = False) -> None:
        """Make the directories above *where*.

        From below: mostly all but the last one or two are there.  *anew*: what is remembered is
        doubted, because the storage says that one is missing.

        Raises: as `Asker.ask`; Unauthorized, WriteRefused, Full (they cannot be made).
        """
        missing: list[Address] = []
        directory = _parent(where)
        while directory is not None and (anew or not self._is_known(directory)):
            reply = self._ask(directory, hangup)
            if reply.status not in _NO_PARENT:
                self._heed(directory, reply)
                break
            missing.append(directory)
            directory = _parent(directory)
        for directory in reversed(missing):
            self._heed(directory, self._ask(directory, hangup))

    def _ask(self, directory: Address, hangup: Hangup) -> Reply:
        return self._asker.ask(Request(method="MKCOL", where=directory), hangup)

    def _heed(self, directory: Address, reply: Reply) -> None:
        if reply.status not in _THERE:
            raise reply.refusal()
        with self._lock:
            self._known[directory] = True

    def _is_known(self, directory: Address) -> bool:
        with self._lock:
            return self._known.get(directory, False)


def _parent(where: Address) -> Address | None:
    """The directory of *where*, with a slash at its end, as nginx wants it; None above the top."""
    path = where.target.partition("?")[0].rstrip("/")
    above = path.rpartition("/")[0]
    return where._replace(target=f"{above}/") if above else None
