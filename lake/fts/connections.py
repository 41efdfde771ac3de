"""Connections to the storages, kept open between requests.

A transfer makes four requests, and TLS handshakes cost more than small files: so a connection that
ended well waits here for the next.  XRootD is the better for it, too: opened and closed by the
hundred, links make 5.5 lose its accept loop ("Dispatch on closed link" in its log, then silence).
"""

from __future__ import annotations

import http.client
import re
import select
import ssl
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lake.fts.states import TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lake.fts.cancelling import Cancellation

# Longer than any pause a healthy storage makes; a cancelled copy does not wait for it.
_TIMEOUT = 300.0
_IDLE = 8  # connections kept for one storage and one token
_TLS = ssl._create_unverified_context()

# Scheme, host, port and token: XRootD remembers with a connection who logged in.
_Key = tuple[str, str, int | None, str | None]


@dataclass(frozen=True)
class Endpoint:
    """One end of a copy: a ``davs``/``https``/``dav``/``http`` URL and its bearer token, if any."""

    url: str
    token: str | None = None

    @property
    def http_url(self) -> str:
        """The URL with the scheme HTTP software knows."""
        return re.sub(r"^dav(s?)://", r"http\1://", self.url)


@contextmanager
def blame(scope: str) -> Iterator[None]:
    """Turn what the network raises into a TransferError that blames *scope*."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        code = getattr(error, "errno", None) or 70  # ECOMM: what FTS says when it knows no more
        raise TransferError(scope, code, f"{type(error).__name__}: {error}") from error


class Connections:
    """The connections of one service.  Safe from any thread; each is used by one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: defaultdict[_Key, list[http.client.HTTPConnection]] = defaultdict(list)
        self._closed = False

    @contextmanager
    def to(
        self, end: Endpoint, scope: str, cancellation: Cancellation
    ) -> Iterator[tuple[http.client.HTTPConnection, str]]:
        """Give a connection to *end* and the request target.

        The block has to read every answer to its end; after an exception the connection is closed.
        Raises: TransferError that blames *scope*; TransferCanceledError.
        """
        parts = urlsplit(end.http_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TransferError(scope, 93, f"Protocol not supported or path/url invalid: {end.url}")
        key = (parts.scheme, parts.hostname, parts.port, end.token)
        cancellation.check()
        connection = self._take(key)
        try:
            if connection.sock is None:
                with blame(scope):
                    connection.connect()
            with cancellation.guard(connection.sock):
                yield connection, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        except BaseException:
            connection.close()
            raise
        self._put_back(key, connection)

    def close(self) -> None:
        """Close the idle ones; one in use is closed when its block ends."""
        with self._lock:
            self._closed = True
            waiting = [one for several in self._idle.values() for one in several]
            self._idle.clear()
        for connection in waiting:
            connection.close()

    def _take(self, key: _Key) -> http.client.HTTPConnection:
        with self._lock:
            waiting = self._idle[key]
            while waiting:
                connection = waiting.pop()
                if _is_alive(connection):
                    return connection
                connection.close()
        scheme, host, port, _ = key
        if scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=_TLS)
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)

    def _put_back(self, key: _Key, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            # No socket: the storage asked to close, and http.client did.
            is_open = connection.sock is not None and not self._closed
            if is_open and len(self._idle[key]) < _IDLE:
                self._idle[key].append(connection)
                return
        connection.close()


def _is_alive(connection: http.client.HTTPConnection) -> bool:
    """Whether the storage still listens: an idle connection has nothing to read but its end."""
    # poll, not select: with a thousand files open a descriptor may be past select's 1024.
    look = select.poll()
    look.register(connection.sock, select.POLLIN)
    return not look.poll(0)
