"""Rucio's REST interface without any client between: what curl needs, and one file to read."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.bench import Bench, say
from lake.server import ACCOUNTS

_RSE = "COLO"
_CHUNK = 8 << 20  # bytes


@dataclass
class Rest:
    """Rucio as root sees it."""

    bench: Bench

    @cached_property
    def token(self) -> str:
        username, password = ACCOUNTS["root"]
        request = urllib.request.Request(
            f"{self.bench.lake.rucio_url}/auth/userpass",
            headers={
                "X-Rucio-Account": "root",
                "X-Rucio-Username": username,
                "X-Rucio-Password": password,
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.headers["X-Rucio-Auth-Token"])

    def curl(self, path: str) -> float:
        """Seconds that curl takes to read the whole answer of GET *path*."""
        command = ["curl", "--silent", "--fail", "--output", "/dev/null"]
        command += ["--write-out", "%{time_total}", "--header", f"X-Rucio-Auth-Token: {self.token}"]
        return float(self.bench.run([*command, self.bench.lake.rucio_url + path]))

    def call(self, method: str, path: str, body: object) -> str:
        request = urllib.request.Request(
            self.bench.lake.rucio_url + path,
            method=method,
            data=json.dumps(body).encode(),
            headers={"X-Rucio-Auth-Token": self.token, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())


@dataclass(frozen=True)
class LocalFile:
    """A file DID whose replica lies on this machine."""

    scope: str
    name: str
    path: Path  # at the RSE
    size: int


@contextlib.contextmanager
def local_file(
    bench: Bench, rest: Rest, scope: str, size: int | None = None
) -> Iterator[LocalFile]:
    """A DID of *size* random bytes in *scope* at the colocated RSE, gone afterwards.

    *size*: `file_bytes` if None.
    """
    size, name = size or bench.sizes.file_bytes, f"data-{bench.tag}.bin"
    did = {"scope": scope, "name": name}
    made = bench.directory / name
    say(f"writing a file of {size >> 20} MiB")
    checksum = _write(made, size)
    entry = {**did, "bytes": size, "adler32": f"{checksum:08x}"}
    rest.call("POST", "/replicas", {"rse": _RSE, "files": [entry], "ignore_availability": True})
    location = {"site": "HERE", "ip": "127.0.0.1", "fqdn": "localhost"}
    answer = rest.call("POST", "/replicas/list", {"dids": [did], "client_location": location})
    pfns = json.loads(answer.splitlines()[0])["pfns"]
    [local] = [pfn for pfn in pfns if pfn.startswith("file:")]
    path = Path(unquote(urlsplit(local).path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(made, path)
    except OSError:  # /tmp is another filesystem
        path.write_bytes(b"")
        with made.open("rb") as source, path.open("wb") as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)
        made.unlink()
    try:
        yield LocalFile(scope, name, path, size)
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path, size: int) -> int:
    """Fill *path* with random bytes; return their adler32."""
    checksum = 1
    with path.open("wb") as file:
        for _ in range(0, size, _CHUNK):
            chunk = os.urandom(min(_CHUNK, size - file.tell()))
            checksum = zlib.adler32(chunk, checksum)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())  # writing back must not disturb the reading
    return checksum
