"""What a storage may have against taking a file, as exceptions that tell what to do next.

Unreachable and TooSlow (of `errors`) are worth another try, Unauthorized after the credentials were
renewed, the others only once somebody has done something.  Messages show an address without its
query, which may be a signature, and never a token.
"""

from __future__ import annotations

import errno
import logging

from rucio_fs.errors import Denied, RucioFsError, TooSlow, Unreachable
from rucio_fs.webdav.addresses import Address

_LONGEST_REASON = 80  # characters of what a server says after its status


class Unauthorized(Denied):
    """The storage refuses the credentials: missing, expired, or not enough (401, 403)."""


class WriteRefused(RucioFsError):
    """The storage refuses the request, whoever makes it."""

    errno, level = errno.EACCES, logging.WARNING


class Full(RucioFsError):
    """The storage has no room (507).

    Not all say so: nginx answers 500, and XRootD 5.5 just hangs up.  These are Unreachable.
    """

    errno, level = errno.ENOSPC, logging.WARNING


class Taken(RucioFsError):
    """There is a file of that name already."""

    errno, level = errno.EEXIST, logging.INFO


class NoMove(RucioFsError):
    """The storage does not rename: put the file where it shall lie in the end."""

    errno, level = errno.EOPNOTSUPP, logging.INFO


class NotThere(RucioFsError):
    """The storage has no such file (any more)."""

    errno, level = errno.EIO, logging.WARNING


class Unreadable(RucioFsError):
    """The file on this machine that was to be put cannot be read, or has been changed."""

    errno, level = errno.EIO, logging.ERROR


def refusal(method: str, where: Address, status: int, reason: str) -> RucioFsError:
    """What an answer with *status* to *method* means where it is not what was hoped for."""
    said = "".join(char for char in reason if char.isprintable())[:_LONGEST_REASON]
    words = f"{method} {where.shown}: the server answers {f'{status} {said}'.rstrip()}"
    match status:
        case 401:
            return Unauthorized(f"{words}: renew the token, or name one in storages.tokens")
        case 403:
            # How XRootD answers to an expired token, too.
            return Unauthorized(f"{words}: these credentials may not do that there, or are expired")
        case 404 | 410 if method not in ("PUT", "MKCOL"):
            return NotThere(words)
        case 507:
            return Full(f"{words}: make room there, or choose another RSE")
        case 408 | 504:
            return TooSlow(f"{words}: try again later")
        case 423 | 425 | 429:  # XRootD says 423 while an earlier attempt still has the file open
            return Unreachable(f"{words}: try again later")
        case 501 | 505:
            return WriteRefused(f"{words}: it cannot do that")
        case _ if status >= 500 or status < 300:
            return Unreachable(f"{words}: try again later")
        case _:
            return WriteRefused(words)
