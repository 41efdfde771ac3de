"""Making a connection to a storage that another thread can end at any moment.  Blocking."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable

STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
"""How a kept connection fails that the server had closed meanwhile."""

TROUBLE = (OSError, http.client.HTTPException, ValueError)
"""How a connection fails."""


class NoSuchFile(ssl.SSLCertVerificationError):
    """A file of certificates on this machine does not exist.

    Of this class, because another try is of as little use as where a certificate is not trusted.
    """


def connect(
    host: str,
    port: int,
    context: Callable[[], ssl.SSLContext] | None,
    timeout: float,
    watch: Callable[[socket.socket], None],
) -> socket.socket:
    """A connection to *host*, over TLS where a *context* is made for it.

    *watch* is told of each socket before something is waited for on it, and raises OSError if it
    is not wanted any more.  *timeout* (s) is that of each step.

    Raises: OSError; ssl.SSLCertVerificationError at once, whatever other addresses there are
    """
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        found = socket.socket(family, kind, protocol)
        try:
            watch(found)
            found.settimeout(timeout)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found.connect(address)
            if context is not None:
                found = context().wrap_socket(
                    found, server_hostname=host, do_handshake_on_connect=False
                )
                watch(found)
                found.do_handshake()
        except OSError as exc:
            found.close()
            if isinstance(exc, ssl.SSLCertVerificationError):
                raise
            failure = exc
        else:
            return found
    raise failure or OSError("no address")


def words(error: BaseException) -> str:
    """What has gone wrong with a connection, on one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, NoSuchFile):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({error.verify_message}); name its"
            " authority in storages.ca"
        )
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
