"""Directories on storages, made where they are missing.  Blocking."""

from __future__ import annotations

from rucio_fs.depot.asking import Asker, Reply, Request
from rucio_fs.depot.hangup import Hangup
from rucio_fs.webdav.addresses import Address

_THERE = (200, 201, 204, 405)  # 405: it exists; XRootD says 201 then too
_NO_PARENT = (404, 409)


def make(asker: Asker, where: Address, hangup: Hangup) -> None:
    """Make the directories above *where*, of which the storage says that one is missing.

    From below: mostly all but the last one or two are there.

    Raises: as `Asker.ask`; Unauthorized, WriteRefused, Full (they cannot be made).
    """
    missing: list[Address] = []
    directory = _parent(where)
    while directory is not None:
        reply = _made(asker, directory, hangup)
        if reply.status not in _NO_PARENT:
            _heed(reply)
            break
        missing.append(directory)
        directory = _parent(directory)
    for directory in reversed(missing):
        _heed(_made(asker, directory, hangup))


def _made(asker: Asker, directory: Address, hangup: Hangup) -> Reply:
    return asker.ask(Request(method="MKCOL", where=directory), hangup)


def _heed(reply: Reply) -> None:
    if reply.status not in _THERE:
        raise reply.refusal()


def _parent(where: Address) -> Address | None:
    """The directory of *where*, with a slash at its end, as nginx wants it; None above the top."""
    path = where.target.partition("?")[0].rstrip("/")
    above = path.rpartition("/")[0]
    return where._replace(target=f"{above}/") if above else None
