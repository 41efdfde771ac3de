"""Range requests over kept connections.  Blocking: called in worker threads."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping

from rucio_fs.streams.answers import Range, check, drained, receive
from rucio_fs.streams.connection import Connection
from rucio_fs.streams.failures import Broken, Untrusted
from rucio_fs.webdav.addresses import HOPS, Address, Origin
from rucio_fs.webdav.connecting import STALE, TROUBLE, words
from rucio_fs.webdav.idle import Idle

_MOVED = (301, 302, 303, 307, 308)

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
        self._idle: Idle[Connection] = Idle(self._drop)
        self._lock = threading.Lock()  # for what is counted
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
        for _ in range(HOPS + 1):
            more, certificate = headers(where, first)
            origin = where.origin._replace(certificate=certificate if where.origin.is_tls else "")
            follow = self._attempt(
                Address(origin, where.target), wanted, into, more, progress, aborts_by
            )
            if follow is None:
                return
            found = where.followed(follow)
            if found is None or (first.origin.is_tls and not found.origin.is_tls):
                raise Broken(f"{where.origin} redirects to what is not followed")
            where = found
        raise Broken(f"{first.origin} redirects more than {HOPS} times")

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
            except STALE as exc:
                self._drop(connection)
                if is_fresh or connection.is_aborted:
                    raise Broken(f"{where.origin}: {words(exc)}") from exc
                continue  # the server had closed it meanwhile, which says nothing of the server
            except ssl.SSLCertVerificationError as exc:
                self._drop(connection)
                raise Untrusted(f"{where.origin}: {words(exc)}") from exc
            except TROUBLE as exc:
                self._drop(connection)
                raise Broken(f"{where.origin}: {words(exc)}") from exc
            finally:
                aborts_by(None)
            is_reusable = False
            try:
                aborts_by(connection.abort)
                if answer.status in _MOVED:
                    is_reusable = drained(answer)
                    return str(answer.headers.get("Location", ""))
                check(answer, where.origin, wanted)
                is_reusable = receive(answer, connection.recv_into, wanted, into, progress)
                return None
            except TROUBLE as exc:
                raise Broken(f"{where.origin}: {words(exc)}") from exc
            finally:
                aborts_by(None)
                answer.close()  # it holds the socket, whoever else has closed it
                if is_reusable and not (answer.will_close or connection.is_aborted):
                    self._give(connection)
                else:
                    self._drop(connection)

    # --- the connections -------------------------------------------------------------------------

    def _take(self, origin: Origin) -> Connection:
        found = self._idle.take(origin)
        with self._lock:
            self.requests += 1
            self.open += found is None
        return found or Connection(origin, self._tls, self._timeout)

    def _give(self, connection: Connection) -> None:
        connection.is_fresh = False
        self._idle.keep(connection.origin, connection)

    def _drop(self, connection: Connection) -> None:
        connection.close()
        with self._lock:
            self.open -= 1

    def close_idle(self, longer_than: float) -> None:
        """End connections that nobody has used for that long (s)."""
        self._idle.end_older(longer_than)

    def close(self) -> None:
        """End all connections; those in use end with their request."""
        self._idle.close()
