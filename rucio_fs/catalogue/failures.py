"""What goes wrong between this machine and Rucio, told as one of this package's errors.

Called in the worker threads that hold a client.  Rucio's own exceptions are mapped by class
(`map_exceptions`), whatever the HTTP status; an answer that names no such class does not come from
Rucio (a proxy, a login page) and only means that Rucio was not reached.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import requests
import urllib3.exceptions
from rucio.common import exception  # noqa: TID251 - the table of its exceptions is here

from rucio_fs import errors
from rucio_fs.errors import RucioFsError, TooSlow, Unreachable, UsageError

_TABLE: dict[type[RucioFsError], str] = {
    errors.NotFound: """
        DataIdentifierNotFound OpenDataDataIdentifierNotFound ScopeNotFound
    """,
    errors.Denied: """
        AccessDenied CannotAuthorize RSEAccessDenied ScopeAccessDenied SourceAccessDenied
    """,
    errors.LoginFailed: """
        AccountNotFound CannotAuthenticate IdentityError IdentityNotFound NoAuthInformation
        VONotFound
    """,
    errors.Unreachable: """
        DatabaseException DestinationNotAccessible RSENotConnected ResourceTemporaryUnavailable
        ServerConnectionException ServiceUnavailable TransferToolWrongAnswer
    """,
    errors.TooSlow: """
        TransferToolTimeout
    """,
    errors.NoReplica: """
        MissingSourceReplica NoFilesDownloaded NotAllFilesDownloaded ReplicaNotFound
        ReplicaUnAvailable SourceNotFound
    """,
    errors.QuotaExceeded: """
        InsufficientAccountLimit RSEOverQuota
    """,
    errors.NoTarget: """
        FullStorage InsufficientTargetRSEs RSEWriteBlocked
    """,
    errors.RuleExists: """
        DuplicateRule
    """,
    errors.RuleGone: """
        RuleNotFound
    """,
    errors.NotYetHere: """
        ReplicationRuleCreationTemporaryFailed
    """,
    errors.Corrupt: """
        ChecksumCalculationError FileConsistencyMismatch
    """,
    errors.NotOffered: """
        DeprecationError RSEChecksumUnavailable RSEOperationNotSupported
        RSEProtocolDomainNotSupported RSEProtocolNotSupported SortingAlgorithmNotSupported
        UnsupportedMetadataPlugin UnsupportedOperation UnsupportedRequestedContentType
    """,
    errors.UsageError: """
        ClientParameterMismatch ClientProtocolNotFound ClientProtocolNotSupported
        ConfigLoadingError ConfigNotFound ConfigurationError ConnectionParameterNotFound
        ErrorLoadingCredentials ErrorLoadingPolicyPackage InvalidAlgorithmName
        InvalidPolicyPackageAlgorithmType MissingClientParameter MissingDependency
        MissingModuleException PolicyPackageBaseException PolicyPackageIsNotVersioned
        PolicyPackageNotFound PolicyPackageVersionError UndefinedPolicy
    """,
    # A request that Rucio understood and calls invalid, or one that only changes things make.
    errors.Refused: """
        CounterNotFound DIDError DIDFilterSyntaxError DataIdentifierAlreadyExists Duplicate
        DuplicateContent DuplicateCriteriaInDIDFilter DuplicateFileTransferSubmission
        FileAlreadyExists FileReplicaAlreadyExists FilterEngineGenericError
        InputValidationError InvalidAccountType
        InvalidMetadata InvalidObject InvalidPath InvalidRSEExpression InvalidReplicationRule
        InvalidRequest InvalidRuleWeight InvalidSourceReplicaExpression InvalidType
        InvalidValueForKey KeyNotFound LifetimeExceptionDuplicate LifetimeExceptionNotFound
        ManualRuleApprovalBlocked MetadataSchemaMismatchError MetalinkJsonParsingError
        NameTypeError NoDistance NoFilesUploaded NotAllFilesUploaded
        OpenDataDataIdentifierAlreadyExists OpenDataDuplicateDOI OpenDataDuplicateRecordID
        OpenDataError OpenDataInvalidState
        OpenDataInvalidStateUpdate RSEAttributeNotFound RSEFileNameNotSupported RSENotFound
        RSEProtocolPriorityError ReplicaIsLocked RequestNotFound
        RuleReplaceFailed ScratchDiskLifetimeConflict StagingAreaRuleRequiresLifetime
        SubscriptionDuplicate SubscriptionNotFound SubscriptionWrongParameter
        TraceValidationSchemaNotFound UnsupportedAccountName UnsupportedDIDType UnsupportedKeyType
        UnsupportedStatus UnsupportedValueType
    """,
}  # fmt: skip

map_exceptions: dict[type[Exception], type[RucioFsError]] = {
    getattr(exception, name): ours
    for ours, names in _TABLE.items()
    for name in names.split()
    if hasattr(exception, name)  # rucio-clients 38 lacks the youngest
}
"""Each class of rucio.common.exception but RucioException itself, which says nothing."""


_BAD_URL = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidHeader,
)


class RucioSays(Exception):
    """An answer other than success.

    *name* is the exception class it names, "" if it names none; *retry_after* is in seconds.
    """

    def __init__(self, status: int, name: str, text: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {name}: {text}")
        self.status = status
        self.name = name
        self.text = text
        self.retry_after = retry_after


class Busy(Unreachable):
    """Rucio, or what stands before it, asks to be left alone for *retry_after* seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)  # alone in `args`: the cache makes copies from those
        self.retry_after = retry_after


class BadAnswer(Exception):
    """The answer is cut, not framed, or not of a kind that Rucio gives."""


def translate(exc: Exception, asked: str, host: str) -> RucioFsError:
    """Return *exc*, raised while asking *host* for *asked*, as an error of this package.

    Raises: *exc* itself if it is none that the outside world causes, hence a bug.
    """
    if isinstance(exc, RucioFsError):
        return exc
    if isinstance(exc, RucioSays):
        return _translate_answer(exc, asked, host)
    if isinstance(exc, exception.ConfigNotFound | exception.ConfigLoadingError):
        _, _, looked = str(exc).strip().rpartition(":")
        paths = " ".join(looked.split())
        where = f" (looked for {paths})" if paths else ""
        return UsageError(
            f"no rucio.cfg is found{where}; name yours with --rucio-config or in RUCIO_CONFIG"
        )
    if isinstance(exc, exception.RucioException):
        ours = _ours(type(exc)) or errors.Refused
        return ours(f"{asked}: {one_line(str(exc))}")
    if isinstance(exc, BadAnswer):
        return Unreachable(f"{host} {exc} ({asked})")
    if _is_timeout(exc):
        return TooSlow(f"{host} sends nothing ({asked})")
    if isinstance(exc, _BAD_URL):
        return UsageError(one_line(str(exc)))
    if isinstance(exc, requests.RequestException | urllib3.exceptions.HTTPError):
        return Unreachable(f"{host} {_reason(exc)} ({asked})")
    if isinstance(exc, OSError) and (exc.errno is None or exc.filename is not None):
        return UsageError(one_line(str(exc)))  # a certificate or key; requests gives no errno
    if isinstance(exc, OSError):
        return Unreachable(f"{host} {_reason(exc)} ({asked})")
    if isinstance(exc, StopIteration):  # rucio-clients take the next row, and there is none
        return Unreachable(f"{host} sends an empty answer ({asked})")
    if isinstance(exc, KeyError | TypeError | ValueError):  # rows without what rows have
        return Unreachable(f"{host} sends what is not understood: {exc!r} ({asked})")
    raise exc


def one_line(text: str) -> str:
    """*text* without line ends, cut to what a log line bears (bulk errors echo a megabyte)."""
    text = " ".join(text.split())
    return text if len(text) <= 500 else text[:480] + " ..."


def _translate_answer(said: RucioSays, asked: str, host: str) -> RucioFsError:
    ours = _ours(getattr(exception, said.name, None))
    if ours is not None and not issubclass(ours, Unreachable):
        in_short = _of_schema(said.text) if said.name == "InvalidObject" else said.text
        return ours(f"{asked}: {one_line(in_short)}")
    if said.name and ours is None and 400 <= said.status < 500 and said.status != 429:
        return errors.Refused(f"{asked}: {said.name}: {one_line(said.text)}")
    text = f"{said.name}: {one_line(said.text)}" if said.name else "not Rucio's own answer"
    message = f"{host} answers {said.status}, {text} ({asked})"
    return Unreachable(message) if said.retry_after is None else Busy(message, said.retry_after)


def _of_schema(text: str) -> str:
    """The first sentence about what a schema refuses; the schema itself is printed behind it."""
    sentence = text.partition("Failed validating")[0]
    return sentence.partition("Details: ")[2] or sentence


def _ours(cls: object) -> type[RucioFsError] | None:
    if not isinstance(cls, type):
        return None
    return next((map_exceptions[base] for base in cls.__mro__ if base in map_exceptions), None)


def _is_timeout(exc: Exception) -> bool:
    # requests tells a timeout between two pieces of a body as a plain ConnectionError.
    kinds = (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
    no_host = urllib3.exceptions.NewConnectionError  # a timeout by inheritance only
    causes = _causes(exc)
    return any(isinstance(cause, kinds) and not isinstance(cause, no_host) for cause in causes)


def _reason(exc: Exception) -> str:
    """Why no answer came, in the words of the innermost cause that has some."""
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"has a certificate that is not trusted: {cause.verify_message} (see ca_cert)"
        if isinstance(cause, socket.gaierror):
            return "cannot be found: the name does not resolve"
        if isinstance(cause, ConnectionRefusedError):
            return "refuses the connection"
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return "cut its answer"
    innermost = list(_causes(exc))[-1]
    return f"cannot be reached: {one_line(str(innermost)) or type(innermost).__name__}"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """*exc* and what it wraps, in any of the ways requests and urllib3 do it."""
    pending: list[object] = [exc]
    seen: set[int] = set()
    while pending:
        cause = pending.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            pending += [getattr(cause, "reason", None), cause.__cause__, cause.__context__]
            pending += cause.args
