"""What the tests of streaming share: files behind proxies that break things, and their readers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from lake import Lake
from lake.endpoints import Endpoint, Endpoints
from lake.faults import FaultProxy
from tests.mounting import Mount

MIB = 1 << 20
_BLOCK = os.urandom(MIB)

READ = """
import hashlib
digest, size = hashlib.sha256(), 0
with open(os.path.join(ROOT, *ARGS), "rb", buffering=0) as file:
    while data := file.read(1 << 20):
        digest.update(data)
        size += len(data)
show([size, digest.hexdigest()])
"""


def content(size: int) -> bytes:
    """Bytes that are unlike those of any other call."""
    made = bytearray((_BLOCK * (size // MIB + 1))[:size])
    for start in range(0, size, MIB // 4):
        made[start : start + 16] = os.urandom(min(16, size - start))
    return bytes(made)


@dataclass(frozen=True)
class Placed:
    """A file of *data*, and the endpoints that have it."""

    scope: str
    name: str
    data: bytes
    endpoints: Sequence[Endpoint]

    @property
    def right(self) -> list[object]:
        """What `READ` shows of the right bytes."""
        return [len(self.data), hashlib.sha256(self.data).hexdigest()]

    def read(self, mount: Mount, timeout: float = 60.0) -> object:
        """What a program sees that reads all of it: `right`, or an errno."""
        return mount.python(READ, self.scope, self.name, timeout=timeout)

    def source(self, mount: Mount) -> Endpoint:
        """The replica that is asked first."""
        rse = mount.xattr("source", self.scope, self.name)
        return next(one for one in self.endpoints if one.rse == rse)

    def spoil(self, endpoints: Endpoints, endpoint: Endpoint, offset: int) -> None:
        """Change a byte where it lies."""
        path = endpoints.path(endpoint, self.scope, self.name)
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 0xFF]))


class Far:
    """Storages elsewhere, each behind a proxy: `proxies` by RSE."""

    def __init__(self, lake: Lake, servers: Sequence[str] = ("nginx", "apache")) -> None:
        self.endpoints = Endpoints(lake)
        self.scope = f"far-{uuid4().hex[:8]}"
        self.proxies: dict[str, FaultProxy] = {}
        self.all: list[Endpoint] = []
        for server in servers:
            url, tree = lake.webdav(server, tls=False)
            base, _, path = url.removeprefix("http://").partition("/")
            proxy = FaultProxy(f"http://{base}").start()
            address = proxy.url.replace("127.0.0.1", "localhost")
            endpoint = self.endpoints.add(f"{address}/{path}", tree)
            self.proxies[endpoint.rse] = proxy
            self.all.append(endpoint)
        if self.all:
            self.place(0)  # makes the scope

    def place(
        self,
        size: int,
        endpoints: Sequence[Endpoint] | None = None,
        *,
        adler32: str | None = None,
        registered: int | None = None,
    ) -> Placed:
        """A new file, at all endpoints if not said otherwise."""
        where = self.all if endpoints is None else endpoints
        data, name = content(size), f"{uuid4().hex[:8]}.dat"
        self.endpoints.place(self.scope, name, data, where, adler32=adler32, size=registered)
        return Placed(self.scope, name, data, where)

    def path(self, mount: Mount, placed: Placed) -> Path:
        return mount.path / placed.scope / placed.name

    def proxy(self, endpoint: Endpoint) -> FaultProxy:
        return self.proxies[endpoint.rse]

    def clear(self) -> None:
        for proxy in self.proxies.values():
            proxy.clear()

    def requests(self) -> int:
        """That have reached the proxies so far."""
        return sum(len(proxy.requests) for proxy in self.proxies.values())

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()
