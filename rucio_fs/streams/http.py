"""Range requests over kept connections.  Blocking: called in worker threads.

The only module that speaks HTTP to storages.  http.client rather than requests: it reads into
memory that is there already, and what streams a gigabyte must not copy it once more than it has to.
A short or wrong answer never counts as data: every answer's status, range, length and total are
checked.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from requests.utils import requote_uri

from rucio_fs import __version__
from rucio_fs.streams.connecting import connect
from rucio_fs.streams.failures import (
    Broken,
    Busy,
    Missing,
    NoRanges,
    Spoiled,
    Unauthorized,
    Untrusted,
)

SCHEMES = {"http": False, "https": True, "dav": False, "davs": True}
"""PFN schemes that are HTTP, and whether over TLS."""

USER_AGENT = f"rucio-fs/{__version__}"

_HOPS = 5  # redirects in a row; a door, a pool and a proxy are three
_STEP = 1 << 20  # bytes read at once
_FLOWING = 1 << 18  # bytes in one go, after which a reader's next request is larger than ...
_TOLD = 1 << 16  # ... what comes between two words about the progress; TLS gives 16 KiB at a time
_PORTS = {False: 80, True: 443}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Origin(NamedTuple):
    """A server.  *certificate* is the file with which we present ourselves, "" without."""

    is_tls: bool
    host: str
    port: int
    certificate: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


class Address(NamedTuple):
    """Where a request goes: an origin and what follows it."""

    origin: Origin
    target: str  # path and query; the query may be a signature, so it is never shown

    @property
    def url(self) -> str:
        return f"{self.origin}{self.target}"


def address(pfn: str) -> Address | None:
    """The address of a PFN; None if it is not read over HTTP."""
    try:
        parts = urlsplit(requote_uri(pfn))  # as Rucio's own clients quote it
        if parts.scheme not in SCHEMES or not parts.hostname:
            return None
        is_tls = SCHEMES[parts.scheme]
        port = parts.port or _PORTS[is_tls]
    except ValueError:
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(Origin(is_tls, parts.hostname, port), target)


class Range(NamedTuple):
    """Bytes *start* up to *end* of a file that has *size* bytes.

    *skips*: also from a server that sends whole files only, past all that comes before.
    """

    start: int
    end: int
    size: int
    skips: bool = False


Headers = Callable[[Address, Address], tuple[Mapping[str, str], str]]
"""What a request to an address carries, and the certificate it is made with.

The second argument is the address that the PFN named: a redirect may lead elsewhere.
"""


class Pool:
    """Connections that are kept open between requests.  For many threads.

    *tls* gives the context for a certificate file.  *timeout* (s) is how long a server may be
    silent.
    """

    def __init__(self, tls: Callable[[str], ssl.SSLContext], timeout: float) -> None:
        self._tls = tls
        self._timeout = timeout
        self._idle: defaultdict[Origin, list[_Connection]] = defaultdict(list)
        self._lock = threading.Lock()
        self._is_closed = False
        self.open = 0  # connections there are, idle or in use
        self.requests = 0

    def __repr__(self) -> str:
        return f"<Pool of {self.open} connections>"

    def fetch(
        self,
        where: Address,
        wanted: Range,
        into: memoryview,
        headers: Headers,
        progress: Callable[[int], bool],
        aborts_by: Callable[[Callable[[], None] | None], None],
    ) -> None:
        """Read the range *wanted* into *into*.

        *progress* is told how many bytes are in and says whether to go on; *aborts_by* is told how
        to end what is waited for.  Returns early only if *progress* said so.

        Raises: the exceptions of `failures`.
        """
        first = where
        for _ in range(_HOPS + 1):
            more, certificate = headers(where, first)
            origin = where.origin._replace(certificate=certificate if where.origin.is_tls else "")
            follow = self._attempt(
                Address(origin, where.target), wanted, into, more, progress, aborts_by
            )
            if follow is None:
                return
            found = _followed(where, follow)
            if found is None or (first.origin.is_tls and not found.origin.is_tls):
                raise Broken(f"{where.origin} redirects to what is not followed")
            where = found
        raise Broken(f"{first.origin} redirects more than {_HOPS} times")

    def _attempt(
        self,
        where: Address,
        wanted: Range,
        into: memoryview,
        headers: Mapping[str, str],
        progress: Callable[[int], bool],
        aborts_by: Callable[[Callable[[], None] | None], None],
    ) -> str | None:
        """One request; return where it is redirected to, if it is."""
        while True:
            connection = self._take(where.origin)
            is_fresh = connection.is_fresh
            try:
                aborts_by(connection.abort)
                answer = connection.ask(where, wanted, headers)
            except _STALE as exc:
                self._drop(connection)
                if is_fresh or connection.is_aborted:
                    raise Broken(f"{where.origin}: {_words(exc)}") from exc
                continue  # the server had closed it meanwhile, which says nothing of the server
            except ssl.SSLCertVerificationError as exc:
                self._drop(connection)
                raise Untrusted(
                    f"{where.origin}: its certificate is not trusted ({exc.verify_message}); name"
                    " its authority in storages.ca"
                ) from exc
            except (OSError, http.client.HTTPException, ValueError) as exc:
                self._drop(connection)
                raise Broken(f"{where.origin}: {_words(exc)}") from exc
            finally:
                aborts_by(None)
            is_reusable = False
            try:
                aborts_by(connection.abort)
                if answer.status in (301, 302, 303, 307, 308):
                    is_reusable = _drained(answer)
                    return str(answer.headers.get("Location", ""))
                _check(answer, where.origin, wanted)
                is_reusable = _receive(answer, connection.recv_into, wanted, into, progress)
                return None
            except (OSError, http.client.HTTPException, ValueError) as exc:
                raise Broken(f"{where.origin}: {_words(exc)}") from exc
            finally:
                aborts_by(None)
                answer.close()  # it holds the socket, whoever else has closed it
                if is_reusable and not (answer.will_close or connection.is_aborted):
                    self._give(connection)
                else:
                    self._drop(connection)

    # --- the connections -------------------------------------------------------------------------

    def _take(self, origin: Origin) -> _Connection:
        with self._lock:
            self.requests += 1
            if self._idle[origin]:
                return self._idle[origin].pop()
            self.open += 1
        return _Connection(origin, self._tls, self._timeout)

    def _give(self, connection: _Connection) -> None:
        connection.is_fresh = False
        connection.idle_since = time.monotonic()
        with self._lock:
            if not self._is_closed:
                self._idle[connection.origin].append(connection)
                return
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        connection.close()
        with self._lock:
            self.open -= 1

    def close_idle(self, longer_than: float) -> None:
        """End connections that nobody has used for that long (s)."""
        latest = time.monotonic() - longer_than
        with self._lock:
            old = []
            for origin, idle in list(self._idle.items()):
                old += [one for one in idle if one.idle_since <= latest]
                self._idle[origin] = [one for one in idle if one.idle_since > latest]
                if not self._idle[origin]:
                    del self._idle[origin]
        for connection in old:
            self._drop(connection)

    def close(self) -> None:
        """End all connections; those in use end with their request."""
        with self._lock:
            self._is_closed = True
        self.close_idle(0)


_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class _OverTls(http.client.HTTPConnection):
    """Over sockets that we secure; names the port in Host only where that is another one."""

    default_port = _PORTS[True]


class _Connection:
    """One connection to *origin*, made with the first request."""

    def __init__(
        self, origin: Origin, tls: Callable[[str], ssl.SSLContext], timeout: float
    ) -> None:
        self.origin = origin
        self.is_fresh = True
        self.is_aborted = False
        self.idle_since = 0.0
        self._tls = tls
        self._timeout = timeout
        kind = _OverTls if origin.is_tls else http.client.HTTPConnection
        self._http = kind(origin.host, origin.port, timeout=timeout)
        self._socket: socket.socket | None = None

    def ask(
        self, where: Address, wanted: Range, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        if self._http.sock is None:
            self._http.sock = self._connected()
        headers = {
            "Range": f"bytes={wanted.start}-{wanted.end - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
            **headers,
        }
        self._http.request("GET", where.target, headers=headers)
        return self._http.getresponse()

    def _connected(self) -> socket.socket:
        """A socket that `abort` can end also while it connects."""
        origin = self.origin
        context = partial(self._tls, origin.certificate) if origin.is_tls else None
        return connect(origin.host, origin.port, context, self._timeout, self._watch)

    def _watch(self, found: socket.socket) -> None:
        self._socket = found
        # After the socket that `abort` would end was put in its place: one of us sees the other.
        if self.is_aborted:
            raise ConnectionAbortedError("it is not wanted any more")

    def recv_into(self, into: memoryview) -> int:
        """What comes next, past the buffer that http.client reads answers through."""
        assert self._socket is not None  # somebody has been asked
        return self._socket.recv_into(into)

    def abort(self) -> None:
        """End whatever another thread waits for on this connection, for good."""
        self.is_aborted = True
        found = self._socket
        if found is not None:
            with suppress(OSError):
                # Not that of an SSLSocket: it has what is encrypted read as if it were the file.
                socket.socket.shutdown(found, socket.SHUT_RDWR)

    def close(self) -> None:
        self._http.close()
        if self._socket is not None:
            self._socket.close()


# --- answers -------------------------------------------------------------------------------------


def _followed(where: Address, location: str) -> Address | None:
    try:
        return address(urljoin(where.url, location))
    except ValueError:
        return None


def _check(answer: http.client.HTTPResponse, origin: Origin, wanted: Range) -> None:
    """Raise unless *answer* brings the range, or the whole file with it in front."""
    status, headers = answer.status, answer.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Spoiled(f"{origin} sends it encoded as {headers['Content-Encoding']}")
    if status == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            raise Spoiled(f"{origin} sends a part without saying which")
        start, last, total = found.groups()
        if total != "*" and int(total) != wanted.size:
            raise Spoiled(f"{origin} has {total} bytes, the catalogue says {wanted.size}")
        if (int(start), int(last) + 1) != (wanted.start, wanted.end):
            raise Spoiled(f"{origin} sends bytes {start}-{last} for {wanted.start}-{wanted.end}")
        _check_length(answer, origin, wanted.end - wanted.start)
    elif status == 200:
        _check_length(answer, origin, wanted.size)
        if wanted.start and not wanted.skips:
            raise NoRanges(f"{origin} sends no ranges")
    else:
        raise _refusal(answer, origin)


def _check_length(answer: http.client.HTTPResponse, origin: Origin, length: int) -> None:
    if answer.length is not None and answer.length != length:
        raise Spoiled(f"{origin} sends {answer.length} bytes where {length} are to be")


def _refusal(answer: http.client.HTTPResponse, origin: Origin) -> Exception:
    status = answer.status
    words = f"{origin} answers {status} {answer.reason}".rstrip()
    match status:
        case 401 | 403:
            return Unauthorized(words)
        case 404 | 410:
            return Missing(words)
        case 416:
            return Spoiled(f"{words}: the file is shorter there")
        case 408 | 429 | 500 | 502 | 503 | 504:
            return Busy(words, _retry_after(answer))
        case _:
            return Broken(words)


def _retry_after(answer: http.client.HTTPResponse) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _receive(
    answer: http.client.HTTPResponse,
    recv_into: Callable[[memoryview], int],
    wanted: Range,
    into: memoryview,
    progress: Callable[[int], bool],
) -> bool:
    """Read the body; return whether the connection can be used again."""
    # Chunks are http.client's business; else its buffer is passed by.
    read: Callable[[memoryview], int]
    read = answer.readinto if answer.chunked else answer.fp.readinto1
    length, got = wanted.end - wanted.start, 0
    skipped = 0 if answer.status == 200 else wanted.start
    ends_there = answer.chunked and (answer.status == 206 or wanted.end == wanted.size)
    while skipped < wanted.start:
        count = read(into[: min(len(into), wanted.start - skipped)])
        skipped += count
        if not count or not progress(0):
            raise Broken(f"the connection ended after {skipped} bytes")
    told = 0
    while got < length:
        room = into[got : min(length, got + _STEP)]
        count = read(room)
        if not answer.chunked and len(room) >= io.DEFAULT_BUFFER_SIZE:
            # That has emptied the buffer.  TLS gives 16 KiB at a time: each layer less counts.
            read = recv_into
        if not count:
            raise Broken(f"the connection ended after {got} of {length} bytes")
        got += count
        if told >= _FLOWING and got - told < _TOLD and got < length:
            continue
        told = got
        # Before the last bytes count: else nothing would be missing, and yet it has failed.
        if got == length and ends_there and answer.read(1):
            raise Spoiled("more bytes come than were asked for")
        if not progress(got):
            return False
    return answer.status == 206


def _drained(answer: http.client.HTTPResponse) -> bool:
    """Read the short page that comes with a redirect; whether that was all."""
    if answer.length is None or answer.length > _STEP:
        return False
    answer.read()
    return True


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
