"""Addresses on storages, from PFNs and redirects.  Pure."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from requests.utils import requote_uri

from rucio_fs import __version__

SCHEMES = ("davs", "https", "dav", "http")
"""Schemes of PFNs that are WebDAV or plain HTTP, the preferred first."""

_OVER_TLS = ("davs", "https")

PORTS = {False: 80, True: 443}
"""The port that is meant where none is named, without and with TLS."""

HOPS = 5
"""Redirects in a row that are followed; a door, a pool and a proxy are three."""

USER_AGENT = f"rucio-fs/{__version__}"


class Origin(NamedTuple):
    """A server.  *certificate* is the file with which we present ourselves, "" without."""

    is_tls: bool
    host: str
    port: int
    certificate: str = ""

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host as a URL has it."""
        return f"[{self.host}]" if ":" in self.host else self.host


class Address(NamedTuple):
    """Where a request goes: an origin and what follows it."""

    origin: Origin
    target: str  # path and query; the query may be a signature, so it is never shown

    @property
    def url(self) -> str:
        return f"{self.origin}{self.target}"

    @property
    def shown(self) -> str:
        """As messages show it."""
        return f"{self.origin}{self.target.partition('?')[0]}"

    def followed(self, location: str) -> Address | None:
        """Where a redirect from here to *location* leads; None if that is not HTTP."""
        try:
            return address(urljoin(self.url, location))
        except ValueError:
            return None


def address(pfn: str) -> Address | None:
    """The address of a PFN; None if it is not read over HTTP."""
    try:
        parts = urlsplit(requote_uri(pfn))  # as Rucio's own clients quote it
        if parts.scheme not in SCHEMES or not parts.hostname:
            return None
        is_tls = parts.scheme in _OVER_TLS
        port = parts.port or PORTS[is_tls]
    except ValueError:
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(Origin(is_tls, parts.hostname, port), target)
