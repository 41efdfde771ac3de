"""The lake's RSEs and storage servers, declared once: where bytes lie and how they are reached.

Standard library only: read by the lake, by the bootstrap (in Rucio's own environment) and by tests.
"""

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

# In Rucio 41 priority 0 is the best priority: an operation that is not offered must be left out.
_FIRST = {"read": 1, "write": 1, "delete": 1}
_SECOND = {"read": 2, "write": 2, "delete": 2}
_TPC_FIRST = {"third_party_copy_read": 1, "third_party_copy_write": 1}
_TPC_SECOND = {"third_party_copy_read": 2, "third_party_copy_write": 2}
WAN_FIRST = {"wan": _FIRST | _TPC_FIRST}
WAN_SECOND = {"wan": _SECOND | _TPC_SECOND}
LAN_READ = {"lan": {"read": 1}}  # a colocated reader sees files; writing goes through WebDAV


@dataclass(frozen=True)
class Protocol:
    """One way to reach an RSE.  port is a name from ports.py, or None for a local path."""

    scheme: str
    port: str | None
    implementation: str
    domains: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Rse:
    """One storage element."""

    name: str
    site: str
    tree: str  # below the lake's store/; the last component is also the prefix in its URLs
    owner: str  # the user whose server writes there
    protocols: tuple[Protocol, ...]
    deterministic: bool = True
    is_tape: bool = False  # Rucio has FTS bring its files online before they are copied

    @property
    def prefix(self) -> str:
        """The path its URLs begin with.  Must exist: Rucio's webdav protocol asks for it."""
        return f"/{PurePosixPath(self.tree).name}/"


@dataclass(frozen=True)
class WebDav:
    """A storage server: what it serves, and the ports (names from ports.py) of its two faces."""

    tree: str  # below the lake's store/
    owner: str
    plain: str
    tls: str


def _xrootd(port: str) -> tuple[Protocol, Protocol]:
    # gfal for the reaper: Rucio's webdav protocol takes only 204 for a deletion, XRootD says 200.
    return (
        Protocol("davs", port, "gfal.Default", WAN_FIRST),
        Protocol("https", port, "webdav.Default", WAN_SECOND),
    )


_LOCAL = Protocol("file", None, "posix.Default", LAN_READ)
# nginx answers 204 to MOVE where Rucio wants 201, so files are written under their final name.
_NGINX = (Protocol("https", "davs", "webdav.NoRename", WAN_FIRST),)

RSES = (
    Rse("COLO", "HERE", "colo/rucio", "xrootd", (*_xrootd("colo"), _LOCAL)),
    # The generic policy lets ordinary accounts add replicas only on *SCRATCHDISK and the like.
    Rse("COLO_SCRATCHDISK", "HERE", "colo/scratch", "xrootd", (*_xrootd("colo"), _LOCAL)),
    # What a mount's scratch may lie on: it is up to whoever writes there where a file is.
    Rse("COLO_NDSCRATCHDISK", "HERE", "colo/nd", "xrootd", (*_xrootd("colo"), _LOCAL), False),
    Rse("REM1", "FAR1", "rem1/rucio", "xrootd", _xrootd("rem1")),
    Rse("REM2", "FAR2", "rem2/rucio", "www-data", _NGINX),
    Rse("REMND", "FAR2", "rem2/nd", "www-data", _NGINX, deterministic=False),
    Rse("REMTAPE", "FAR2", "rem2/tape", "www-data", _NGINX, is_tape=True),
)
# XRootD tells TLS by a connection's first bytes.
WEBDAV = {
    "colo": WebDav("colo", "xrootd", "colo", "colo"),
    "rem1": WebDav("rem1", "xrootd", "rem1", "rem1"),
    "nginx": WebDav("rem2", "www-data", "dav", "davs"),
    "apache": WebDav("rem3", "www-data", "apache", "apaches"),
    "tokens": WebDav("tokens", "xrootd", "tokens", "tokens"),
}

# No RSE of Rucio's: the XRootD that takes only bearers of a token.
TOKENS = Rse("TOKENS", "HERE", "tokens/rucio", "xrootd", ())
BY_NAME = {rse.name: rse for rse in RSES}


def hash_path(scope: str, filename: str) -> str:
    """Return where a deterministic RSE keeps a file: Rucio's algorithm `hash`."""
    digest = hashlib.md5(f"{scope}:{filename}".encode()).hexdigest()
    return f"{scope.replace('.', '/')}/{digest[0:2]}/{digest[2:4]}/{filename}"
