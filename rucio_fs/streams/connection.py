"""One connection to a storage that ranges of files are read over.  Blocking.

http.client rather than requests: it reads into memory that is there already, and what streams a
gigabyte must not copy it once more than it has to.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from rucio_fs.streams.answers import Range
from rucio_fs.webdav.addresses import PORTS, USER_AGENT, Address, Origin
from rucio_fs.webdav.connecting import connect


class _OverTls(http.client.HTTPConnection):
    """Over sockets that we secure; names the port in Host only where that is another one."""

    default_port = PORTS[True]


class Connection:
    """One connection to *origin*, made with the first request."""

    def __init__(
        self, origin: Origin, tls: Callable[[str], ssl.SSLContext], timeout: float
    ) -> None:
        self.origin = origin
        self.is_fresh = True
        self.is_aborted = False
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
