"""Every failure this filesystem knows, each with its errno and the level it is logged at.

Lower layers raise these ``from`` the original exception; `operations.handler` alone turns them
into errnos.  Mapping is by class, never by message text.  A message names the DID, RSE or rule and
says what to do.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from typing import Self


class RucioFsError(Exception):
    """Root of the package's exceptions; one that reaches the user as such is a bug."""

    errno: int = errno.EIO
    level: int = logging.WARNING

    def copy(self) -> Self:
        """The same again: one exception raised in many tasks would collect all their tracebacks."""
        return type(self)(*self.args)


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


class NotPermitted(RucioFsError):
    """Nobody may do that here, whatever the modes say."""

    errno, level = errno.EPERM, logging.INFO


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


# --- about rules -------------------------------------------------------------------------------


class QuotaExceeded(RucioFsError):
    """The account may not keep that many bytes at the site."""

    errno, level = errno.EDQUOT, logging.WARNING


class NoTarget(RucioFsError):
    """The site's RSE takes nothing now: blocked for writing, full, or not there."""

    errno, level = errno.ENOSPC, logging.WARNING


class RuleExists(Refused):
    """Rucio has such a rule already; whoever asked for it uses that one."""

    level = logging.DEBUG


class Stuck(RucioFsError):
    """The transfers of the rule have failed; Rucio tries again now and then."""

    errno, level = errno.EIO, logging.WARNING


class Suspended(Stuck):
    """An operator or Rucio itself has stopped the rule; it does not go on by itself."""


class RuleGone(RucioFsError):
    """Somebody has deleted the rule that was waited for."""

    errno, level = errno.ECANCELED, logging.WARNING


class RuleExpired(RuleGone):
    """The rule ended before the file was here."""

    errno = errno.ETIME


class NoRule(RucioFsError):
    """There is no rule of this program to give back."""

    errno, level = errno.ENODATA, logging.DEBUG


class OnTape(RucioFsError):
    """Every replica is on tape, and opening a file does not have tapes mounted."""

    errno, level = errno.ENOMEDIUM, logging.INFO


# --- about uploads -----------------------------------------------------------------------------


class Differs(RucioFsError):
    """Rucio knows the DID with other content, or as something else: it needs another name.

    *dids* are those it is true of, where several were registered together.
    """

    errno, level = errno.EEXIST, logging.WARNING

    def __init__(self, message: str, dids: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.dids = tuple(dids)

    def copy(self) -> Self:
        return type(self)(str(self), self.dids)


class Closed(RucioFsError):
    """A dataset or container takes no more members; *dids* are those that are closed."""

    errno, level = errno.EPERM, logging.WARNING

    def __init__(self, message: str, dids: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.dids = tuple(dids)

    def copy(self) -> Self:
        return type(self)(str(self), self.dids)


# --- about bytes -------------------------------------------------------------------------------


class NotYetHere(RucioFsError):
    """No replica can be read here and now; asking again later may succeed."""

    errno, level = errno.EAGAIN, logging.INFO


class NeedsApproval(NotYetHere):
    """The rule is made and waits until somebody approves it."""


class NotForScanners(NotYetHere):
    """The program, or the pace of opens, is one that no rule is made for."""


class TooManyWaiting(NotYetHere):
    """As many opens wait as may wait."""


class NoReplica(RucioFsError):
    """Rucio knows of no replica anywhere."""

    errno, level = errno.ENODATA, logging.WARNING


class NoSource(RucioFsError):
    """Every replica that could be streamed has failed, and not only for now."""

    errno, level = errno.EIO, logging.WARNING


class Corrupt(RucioFsError):
    """What the storage holds is not what the catalogue describes."""

    errno, level = errno.EIO, logging.ERROR


# --- about scratch -----------------------------------------------------------------------------


class Sealed(NotPermitted):
    """The file is in the lake: what a DID names never changes."""


class NoScope(Denied):
    """A name at the top of scratch that is no scope of the account."""

    level = logging.INFO


class StagingError(RucioFsError):
    """The staging area's own disk refuses; whoever asked gets its errno.

    What is wrong with the disk is a warning, what is wrong with a request is not.
    """

    def __init__(self, message: str, number: int = errno.EIO) -> None:
        super().__init__(message)
        self.errno = number
        self.level = logging.WARNING if number in _OF_THE_DISK else logging.DEBUG

    @classmethod
    def of(cls, exc: OSError) -> Self:
        """What *exc* says, with the path that it names."""
        where = "the staging area" if exc.filename is None else str(exc.filename)
        return cls(f"{where}: {exc.strerror}", exc.errno or errno.EIO)

    def copy(self) -> Self:
        return type(self)(str(self), self.errno)


_OF_THE_DISK = frozenset({
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENODEV,
})  # fmt: skip


# --- about the mount ---------------------------------------------------------------------------


class UsageError(RucioFsError):
    """A mistake in arguments, configuration or environment: one line on stderr, exit code 2."""

    level = logging.ERROR


class MountError(RucioFsError):
    """The mount cannot be made or undone here and now: one line on stderr, exit code 1."""

    level = logging.ERROR
