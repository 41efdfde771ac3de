"""Every failure this filesystem knows, each with its errno and the level it is logged at.

Lower layers raise these ``from`` the original exception; `operations.handler` alone turns them
into errnos.  Mapping is by class, never by message text.  A message names the DID, RSE or rule and
says what to do.
"""

from __future__ import annotations

import errno
import logging


class RucioFsError(Exception):
    """Root of the package's exceptions; one that reaches the user as such is a bug."""

    errno: int = errno.EIO
    level: int = logging.WARNING


# --- about names and nodes ---------------------------------------------------------------------


class NotFound(RucioFsError):
    """Rucio (or the tree) says that the name does not exist.  Never raised for a failed call."""

    errno, level = errno.ENOENT, logging.DEBUG


class NotADir(RucioFsError):
    errno, level = errno.ENOTDIR, logging.DEBUG


class IsADir(RucioFsError):
    errno, level = errno.EISDIR, logging.DEBUG


class Loop(RucioFsError):
    """A container that is its own ancestor on this path."""

    errno, level = errno.ELOOP, logging.INFO


class BadName(RucioFsError):
    errno, level = errno.EINVAL, logging.INFO


class NameTooLong(BadName):
    errno = errno.ENAMETOOLONG


class Stale(RucioFsError):
    """An inode number or handle that this mount does not know (any more)."""

    errno, level = errno.ESTALE, logging.INFO


class Interrupted(RucioFsError):
    """The caller was told to stop while it waited."""

    errno, level = errno.EINTR, logging.DEBUG


class ReadOnly(RucioFsError):
    errno, level = errno.EROFS, logging.DEBUG


class NoAttribute(RucioFsError):
    """The extended attribute does not exist on this file."""

    errno, level = errno.ENODATA, logging.DEBUG


class NotOffered(RucioFsError):
    """An operation that this kind of node does not have."""

    errno, level = errno.EOPNOTSUPP, logging.DEBUG


# --- about Rucio -------------------------------------------------------------------------------


class Denied(RucioFsError):
    """Rucio knows the account and refuses."""

    errno, level = errno.EACCES, logging.WARNING


class LoginFailed(Denied):
    """Rucio does not accept the credentials, or the token has expired."""

    level = logging.ERROR


class Unreachable(RucioFsError):
    """Rucio or a storage did not give a whole, believable answer: worth another try."""

    errno, level = errno.EREMOTEIO, logging.WARNING


class TooSlow(Unreachable):
    """The deadline passed before the answer was whole."""

    errno = errno.ETIMEDOUT


class Refused(RucioFsError):
    """Rucio understood the request and calls it invalid."""

    errno, level = errno.EINVAL, logging.WARNING


# --- about bytes -------------------------------------------------------------------------------


class NotYetHere(RucioFsError):
    """No replica can be read here and now; asking again later may succeed."""

    errno, level = errno.EAGAIN, logging.INFO


class NoReplica(RucioFsError):
    """Rucio knows of no replica anywhere."""

    errno, level = errno.ENODATA, logging.WARNING


class Corrupt(RucioFsError):
    """What the storage holds is not what the catalogue describes."""

    errno, level = errno.EIO, logging.ERROR


# --- about the mount ---------------------------------------------------------------------------


class UsageError(RucioFsError):
    """A mistake in arguments, configuration or environment: one line on stderr, exit code 2."""

    level = logging.ERROR


class MountError(RucioFsError):
    """The mount cannot be made or undone here and now: one line on stderr, exit code 1."""

    level = logging.ERROR
