"""RSEs made while the lake runs: files at an address that a test or a benchmark chooses.

Such an address may be a server of the lake (`Lake.webdav`), plain or with TLS, or a proxy before
it: what Rucio gives out as PFN is what the test says, and the bytes lie in a local directory.
"""

import hashlib
import os
import socket
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from lake import placing
from lake.errors import LakeError
from lake.lake import Lake
from lake.ports import HOST
from lake.rest import Rest, did_path
from lake.users import User

_SCHEMES = ("http", "https", "dav", "davs")
# Registering a file under its PFN takes a protocol that can write, moving it third-party copies.
_DOMAINS = {
    "lan": {"read": 1, "write": 1, "delete": 1},
    "wan": {
        **{"read": 1, "write": 1, "delete": 1},
        **{"third_party_copy_read": 1, "third_party_copy_write": 1},
    },
}
_TARGET = "COLO"  # rules may bring files there from an endpoint
_ADLER_BASE = 65521
_CHUNK = 4 << 20  # bytes read at once


@dataclass(frozen=True)
class Endpoint:
    """A WebDAV address that Rucio knows as an RSE of its own; its bytes lie in *tree*."""

    rse: str
    url: str  # "http://127.0.0.1:9080/nd/", ends with "/"; scheme http, https, dav or davs
    tree: Path  # the local directory behind that URL


class Endpoints:
    """Makes endpoints of one lake and places files there.  They last as long as the lake."""

    def __init__(self, lake: Lake) -> None:
        """Only takes notes; Rucio is asked by add() and place()."""
        self._lake = lake
        self._rest = Rest(lake.rucio_url)

    def add(self, url: str, tree: Path, *, rse: str | None = None, site: str = "FAR9") -> Endpoint:
        """Make a non-deterministic RSE whose one protocol is *url*, and *tree* if it is missing.

        The protocol reads, first choice in wan and lan.  A rule can bring files from here to COLO,
        unless the scheme is http or dav: to Rucio these do not go together with davs (STUCK,
        MISMATCH_SCHEME).  *rse* is a name that Rucio does not know yet, or None for one of our own.

        Raises: LakeError (no such URL, the name is taken).
        """
        parts = urlsplit(url)
        # Rucio writes a port into every PFN, and cuts host from port at the first colon.
        host, *port = parts.netloc.split(":")
        if parts.scheme not in _SCHEMES or len(port) != 1 or not parts.path.endswith("/"):
            known = ", ".join(_SCHEMES)
            raise LakeError(f"{url!r} is no endpoint: want SCHEME://HOST:PORT/PREFIX/ ({known})")
        rse = rse or f"EP-{uuid4().hex[:12].upper()}"
        placing.make_parents(tree / "x", tree.parent, _owner(tree.parent))
        self._rest.call("POST", f"/rses/{rse}", {"deterministic": False})
        protocol = {
            "hostname": host,
            "port": parts.port,
            "prefix": parts.path,
            # The one that takes every scheme; it needs X509_CERT_DIR where there is TLS.
            "impl": "rucio.rse.protocols.gfal.Default",
            "domains": _DOMAINS,
        }
        self._rest.call("POST", f"/rses/{rse}/protocols/{parts.scheme}", protocol)
        attributes = {
            "site": site,
            "fts": self._lake.fts_url,
            "greedyDeletion": True,
            "verify_checksum": True,
            "naming_convention": "lake_nd",
        }
        for key, value in attributes.items():
            self._rest.call("POST", f"/rses/{rse}/attr/{key}", {"value": value})
        self._rest.call("POST", f"/rses/{rse}/distances/{_TARGET}", {"distance": 1})
        self._forget_expressions()
        return Endpoint(rse, url, tree)

    def place(
        self,
        scope: str,
        filename: str,
        content: bytes | Path,
        endpoints: Sequence[Endpoint],
        *,
        adler32: str | None = None,
        md5: str | None = None,
        size: int | None = None,
        dataset: str | None = None,
    ) -> None:
        """Put *content* into the tree of each endpoint and register it there, AVAILABLE.

        A Path is hard-linked, or copied with its holes where the tree is on another filesystem: it
        must not be written to afterwards.  What lay there before is replaced.

        *adler32* (8 hex digits), *md5* (32) and *size* (bytes) are registered instead of the truth.
        The md5 of a Path is registered only if given: many GiB take minutes.  Rucio believes what
        it was told first: a second call can add replicas of a file, but not change it.

        The scope is made if it is missing, *dataset* (a name in *scope*) too, and left open.

        Raises: LakeError (Rucio refuses), OSError.
        """
        for endpoint in endpoints:
            _put(content, self.path(endpoint, scope, filename), endpoint.tree)
        if isinstance(content, bytes):
            true_size, true_adler32 = len(content), zlib.adler32(content)
            md5 = md5 or hashlib.md5(content).hexdigest()
        else:
            true_size = content.stat().st_size
            true_adler32 = 0 if adler32 else _adler32(content)
        did: dict[str, Any] = {"scope": scope, "name": filename}
        file = did | {
            "bytes": true_size if size is None else size,
            "adler32": adler32 or f"{true_adler32:08x}",
        }
        if md5:
            file["md5"] = md5
        self._rest.ensure(f"/scopes/root/{scope}")
        for endpoint in endpoints:
            entry = file | {"pfn": self.url(endpoint, scope, filename)}
            body = {"rse": endpoint.rse, "files": [entry], "ignore_availability": True}
            self._rest.call("POST", "/replicas", body)
        if dataset is not None:
            path = f"/dids/{did_path(scope, dataset)}"
            self._rest.ensure(path, {"type": "DATASET"})
            self._rest.ensure(f"{path}/dids", {"dids": [did]})

    def path(self, endpoint: Endpoint, scope: str, filename: str) -> Path:
        """Return where the bytes lie."""
        return endpoint.tree / _relative(endpoint, scope, filename)

    def url(self, endpoint: Endpoint, scope: str, filename: str) -> str:
        """Return the file's PFN."""
        return endpoint.url + _relative(endpoint, scope, filename)

    def _forget_expressions(self) -> None:
        """Empty Rucio's cache: it remembers for ten minutes which RSEs an expression stands for."""
        with socket.create_connection((HOST, self._lake.ports["memcached"])) as cache:
            cache.sendall(b"flush_all\r\n")
            cache.recv(64)


def _relative(endpoint: Endpoint, scope: str, filename: str) -> str:
    """Return a file's place below its endpoint, told by its DID alone.

    Names of Rucio's may be 250 characters long, end with a slash or hold `..`: a digest stands for
    what makes them unique, and a part to be recognised by.  Each RSE has a directory of its own, so
    that what is spoilt at one endpoint is whole at another with the same tree.
    """
    digest = hashlib.md5(filename.encode()).hexdigest()[:12]
    known_by = filename.rstrip("/").rpartition("/")[2][-100:]
    return f"{endpoint.rse}/{scope}/{digest}-{known_by}"


def _put(content: bytes | Path, target: Path, tree: Path) -> None:
    owner = _owner(tree)
    placing.make_parents(target, tree, owner)
    target.unlink(missing_ok=True)  # it may be a link to somebody's file
    if isinstance(content, bytes):
        target.write_bytes(content)
        owner.own(target)
    else:
        try:
            os.link(content, target)
        except OSError:  # on another filesystem, for one
            command = ["cp", "--reflink=auto", "--sparse=always", str(content), str(target)]
            subprocess.run(command, check=True)
            owner.own(target)
    target.chmod(target.stat().st_mode | 0o444)


def _owner(tree: Path) -> User:
    status = tree.stat()
    return User(str(status.st_uid), status.st_uid, status.st_gid)


def _adler32(path: Path) -> int:
    """Return the checksum of a file; holes cost nothing."""
    checksum, offset = 1, 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while offset < size:
            try:
                data = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole up to the end
                data = size
            checksum = _after_zeros(checksum, data - offset)
            if data < size:
                offset = os.lseek(file.fileno(), data, os.SEEK_HOLE)
                file.seek(data)
                while (left := offset - file.tell()) > 0:
                    checksum = zlib.adler32(file.read(min(left, _CHUNK)), checksum)
            else:
                offset = size
    return checksum


def _after_zeros(checksum: int, count: int) -> int:
    """Return the checksum after *count* more zero bytes: only its upper half moves."""
    lower, upper = checksum & 0xFFFF, checksum >> 16
    return ((upper + count * lower) % _ADLER_BASE) << 16 | lower
