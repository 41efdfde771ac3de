"""Requests to storages: over kept connections, with credentials, along redirects.  Blocking.

Whatever goes wrong comes out as one of the package's errors; what an answer means is the caller's
business.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from rucio_fs.depot.failures import WriteRefused, refusal
from rucio_fs.depot.hangup import Hangup
from rucio_fs.depot.staged import Staged
from rucio_fs.depot.wire import STEP, Answer, Connection
from rucio_fs.errors import RucioFsError, TooSlow, Unreachable
from rucio_fs.webdav.addresses import HOPS, USER_AGENT, Address, Origin
from rucio_fs.webdav.connecting import STALE, TROUBLE, words
from rucio_fs.webdav.credentials import Credentials
from rucio_fs.webdav.idle import Idle

_IDLE = 10.0  # s that a connection is kept; between the requests for one file it is milliseconds
_MOVED = (301, 302, 307, 308)  # 303 would make another request of it
_EXPECTS_FROM = 1 << 20  # bytes, as curl does: what is smaller is sent before a "no" is back


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of the server at *where*.

    *patience* (s) is added to the time it may be silent before it answers.  *progress* is told how
    many bytes of *body* are sent.  *consume* reads the body of an answer with status 200.  *rest*
    is how long (s) the connection is left alone after the answer.
    """

    method: str
    where: Address
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Staged | None = None
    patience: float = 0.0
    progress: Callable[[int], None] | None = None
    consume: Callable[[Answer], None] | None = None
    rest: float = 0.0

    def __repr__(self) -> str:
        return f"<{self.method} {self.where.shown}>"


@dataclass(frozen=True)
class Reply:
    """What the server at *where*, after all redirects, answers to *method*."""

    method: str
    where: Address
    status: int
    reason: str
    headers: Mapping[str, str]

    def refusal(self) -> RucioFsError:
        """What it means, where it is not what was hoped for."""
        return refusal(self.method, self.where, self.status, self.reason)


class Asker:
    """Asks storages.  For many threads.  *timeout* (s) is how long a server may be silent."""

    def __init__(self, credentials: Credentials, timeout: float) -> None:
        self._credentials = credentials
        self._timeout = timeout
        self._idle: Idle[Connection] = Idle(Connection.close)

    def __repr__(self) -> str:
        return f"<Asker: {len(self._idle)} idle connections>"

    def ask(self, request: Request, hangup: Hangup) -> Reply:
        """Return what the server answers, whatever that is.

        Redirects are followed, with the credentials that belong there, but not from https to http.
        A file over 1 MiB is announced first (``Expect: 100-continue``): dCache's doors redirect
        only whoever does so, and relay everybody else's bytes themselves, which is what we ask for
        if their pools speak plain http.
        Source: The dCache Book, webdav.redirect.on-write; RFC 9110 section 10.1.1.

        Raises: Unreachable, TooSlow, WriteRefused (redirects that are not followed), Unreadable
        (the body).
        """
        where, first = request.where, request.where
        expects = request.body is not None and request.body.size > _EXPECTS_FROM
        hops = 0
        while hops <= HOPS:
            reply = self._attempt(request, where, first, hangup, expects=expects)
            if reply.status == HTTPStatus.EXPECTATION_FAILED and expects:
                expects = False
                continue
            location = reply.headers.get("Location", "")
            if reply.status not in _MOVED or not location:
                return reply
            found = where.followed(location)
            if found is None or (first.origin.is_tls and not found.origin.is_tls):
                if not expects:
                    raise WriteRefused(
                        f"{request.method} {where.shown}: the server redirects to what is not"
                        f" followed, {found.shown if found else 'no http address'}"
                    )
                expects = False  # it is to relay the file itself
                continue
            where = found
            hops += 1
        raise Unreachable(
            f"{request.method} {first.shown}: the server redirects more than {HOPS} times"
        )

    def _attempt(
        self, request: Request, where: Address, first: Address, hangup: Hangup, *, expects: bool
    ) -> Reply:
        """The answer of one server."""
        credentials, certificate = self._credentials.headers(where, first)
        headers = {
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **request.headers,
            **credentials,
        }
        if request.body is not None:
            headers["Content-Length"] = str(request.body.size)
            if expects:
                headers["Expect"] = "100-continue"
        origin = where.origin._replace(certificate=certificate if where.origin.is_tls else "")
        while True:
            connection = self._take(origin)
            is_reusable = False
            try:
                answer = connection.ask(
                    request.method,
                    where,
                    headers,
                    hangup,
                    body=request.body,
                    expects=expects,
                    patience=request.patience,
                    progress=request.progress,
                )
                is_reusable = _finished(answer, request)
                return Reply(
                    request.method,
                    where,
                    answer.status,
                    answer.reason or "",
                    dict(_joined(answer)),
                )
            except STALE as exc:
                # A rename that was done is not to be asked for again: it would find nothing.
                if connection.is_kept and request.method != "MOVE":
                    continue  # the server had closed it meanwhile, which says nothing
                raise _failure(exc, request.method, where) from exc
            except TROUBLE as exc:
                raise _failure(exc, request.method, where) from exc
            finally:
                hangup.let_go()
                if is_reusable:
                    connection.is_kept = True
                    self._idle.keep(origin, connection, request.rest)
                else:
                    connection.close()

    # --- the connections -------------------------------------------------------------------------

    def _take(self, origin: Origin) -> Connection:
        self._idle.end_older(_IDLE)
        while (found := self._idle.take(origin)) is not None:
            if found.is_alive:
                return found
            found.close()
        return Connection(origin, self._credentials.tls, self._timeout)

    def close(self) -> None:
        """End the connections that are kept; those in use end with their request."""
        self._idle.close()


def _joined(answer: Answer) -> Mapping[str, str]:
    """The headers, those that came more than once as one."""
    found: dict[str, str] = {}
    for name, value in answer.headers.items():
        name = name.title()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _finished(answer: Answer, request: Request) -> bool:
    """Read what comes with an answer; whether the connection can be used again."""
    try:
        if request.consume is not None and answer.status == HTTPStatus.OK:
            request.consume(answer)
        if answer.will_close or answer.length is None or answer.length > STEP:
            # A chunked page is not worth the trouble of its unknown length.
            return False
        answer.read()
        return True
    finally:
        answer.close()


def _failure(error: BaseException, method: str, where: Address) -> Unreachable:
    what = f"{method} {where.shown}: {words(error)}"
    if isinstance(error, TimeoutError):
        return TooSlow(f"{what}; try again later")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(what)
    return Unreachable(f"{what}; try again later")
