"""Files at storages that are far away, and what the storage was asked for.

One storage server, reached in several ways: each is an RSE of its own whose PFNs lead there,
directly or through a proxy that delays (delay.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.bench import Bench, say
from benchmarks.delay import delayed
from benchmarks.rest import LocalFile, Rest, local_file
from benchmarks.served import BenchError
from lake.endpoints import Endpoint, Endpoints

ROUND_TRIP = 0.020  # s, within a continent
RATE = 150e6  # bytes/s that one connection gets where it is limited
_SPARSE = 10 << 30  # bytes
_STREAM = 1 << 30  # bytes of a file of which some are read, slowly
_CHUNK = 64 << 20
_LINE = re.compile(r'\S+ \S+ \S+ \[[^]]*\] "(\S+) (\S+) [^"]*" \d+ (\d+) ')
_QUIET = 0.5  # s without a request: nothing more is being fetched
_PATIENCE = 60.0  # s for the requests under way to end


@dataclass(frozen=True)
class FarFile:
    """A file DID whose one replica is at *endpoint*."""

    scope: str
    name: str
    size: int
    endpoint: Endpoint
    url: str

    @property
    def relative(self) -> str:
        """Its path below the endpoint's URL."""
        return self.url.removeprefix(self.endpoint.url)

    @property
    def url_path(self) -> str:
        """As it stands in the storage's log."""
        return urlsplit(self.url).path


@dataclass(frozen=True)
class Files:
    """Everything that is read.  Files of one list differ from each other."""

    big: dict[str, FarFile]  # the same bytes at each of LINKS
    parts: Sequence[FarFile]  # on loopback
    far_parts: Sequence[FarFile]  # the same, behind the delay
    sparse: Sequence[FarFile]
    streams: Sequence[FarFile]


LOOPBACK = "http, loopback"
FAR = f"http, {1000 * ROUND_TRIP:.0f} ms"
LIMITED = f"{FAR}, {RATE / 1e6:.0f} MB/s each"
TLS = "https, loopback"
LINKS = (LOOPBACK, FAR, LIMITED, TLS)


class Request(NamedTuple):
    """A line of the storage's access log."""

    method: str
    path: str
    nbytes: int  # of the body, as far as they were sent


class StorageLog:
    """The access log of the storage, which tells of a request when it has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def end(self) -> int:
        """Return where the log ends now, for `since`."""
        return self._path.stat().st_size

    def settle(self) -> None:
        """Wait until no request has ended for a while.  Raises: BenchError."""
        deadline = time.monotonic() + _PATIENCE
        end, since = self.end(), time.monotonic()
        while time.monotonic() < since + _QUIET:
            if time.monotonic() > deadline:
                raise BenchError(f"the storage is still busy after {_PATIENCE:g} s")
            time.sleep(0.02)  # a log has no event
            if self.end() != end:
                end, since = self.end(), time.monotonic()

    def since(self, offset: int) -> list[Request]:
        """Return the requests that were logged after `end` was *offset*."""
        with self._path.open("rb") as log:
            log.seek(offset)
            text = log.read().decode(errors="replace")
        found = [_LINE.match(line) for line in text.splitlines()]
        return [Request(m[1], m[2], int(m[3])) for m in found if m is not None]

    def moved(self, offset: int, file: FarFile) -> int:
        """Return how many bytes of *file* were sent since."""
        return sum(r.nbytes for r in self.since(offset) if r.path == file.url_path)


@dataclass(frozen=True)
class Far:
    """The storage with its files.  Made by `far`."""

    files: Files
    log: StorageLog
    local: LocalFile  # as large as a part, at the site's own storage


@contextlib.contextmanager
def far(bench: Bench) -> Iterator[Far]:
    """Place all files; they and the proxies are gone afterwards, the RSEs stay as the lake does."""
    with contextlib.ExitStack() as stack:
        files = _Maker(bench, stack).files()
        size = bench.sizes.shared_bytes
        local = local_file(bench, Rest(bench), files.parts[0].scope, size)
        log = StorageLog(bench.lake.directory / "run" / "nginx" / "access.log")
        yield Far(files, log, stack.enter_context(local))


class _Maker:
    def __init__(self, bench: Bench, stack: contextlib.ExitStack) -> None:
        self._sizes = bench.sizes
        self._scope = f"far-{bench.tag}"
        self._endpoints = Endpoints(bench.lake)
        url, tree = bench.lake.webdav("nginx", tls=False)
        # In the storage's tree, so that a link makes a replica of it.
        self._originals = tree / f"originals-{bench.tag}"
        self._originals.mkdir()
        stack.callback(shutil.rmtree, self._originals)
        port = urlsplit(url).port
        assert port is not None
        urls = {LOOPBACK: url, TLS: bench.lake.webdav("nginx", tls=True)[0]}
        for link, rate in ((FAR, 0.0), (LIMITED, RATE)):
            proxy = delayed(bench.directory, port, round_trip=ROUND_TRIP, rate=rate)
            urls[link] = url.replace(f":{port}/", f":{stack.enter_context(proxy)}/")
        self._at = {link: self._endpoints.add(urls[link], tree) for link in LINKS}
        for endpoint in self._at.values():
            stack.callback(shutil.rmtree, tree / endpoint.rse, ignore_errors=True)

    def files(self) -> Files:
        sizes = self._sizes
        total = sizes.file_bytes + 8 * sizes.shared_bytes
        say(f"writing {total >> 20} MiB of files")
        original, checksum = self._original("big", sizes.file_bytes)
        big = {}
        for number, link in enumerate(LINKS):
            big[link] = self._place(f"big-{number}", original, checksum, link)
        parts, far_parts = [], []
        for number in range(8):
            original, checksum = self._original(f"part-{number}", sizes.shared_bytes)
            parts.append(self._place(f"part-{number}", original, checksum, LOOPBACK))
            far_parts.append(self._place(f"far-part-{number}", original, checksum, FAR))
        sparse = [self._hole(f"sparse-{number}", _SPARSE + number) for number in range(3)]
        streams = [
            self._hole(f"stream-{number}", _STREAM + number) for number in range(sizes.streams)
        ]
        return Files(big, parts, far_parts, sparse, streams)

    def _original(self, name: str, size: int) -> tuple[Path, str]:
        """Write random bytes; return their adler32 too.  No two blocks are the same."""
        path, checksum = self._originals / name, 1
        block = bytearray(os.urandom(min(size, _CHUNK)))
        with path.open("wb", buffering=0) as file:
            for start in range(0, size, _CHUNK):
                block[:8] = start.to_bytes(8)
                written = memoryview(block)[: size - start]
                checksum = zlib.adler32(written, checksum)
                file.write(written)
            os.fsync(file.fileno())  # writing back must not disturb the reading
        return path, f"{checksum:08x}"

    def _hole(self, name: str, size: int) -> FarFile:
        """Place a file of zeros that takes no room.  Its size makes its checksum its own."""
        path = self._originals / name
        path.touch()
        os.truncate(path, size)
        return self._place(name, path, None, LOOPBACK)

    def _place(self, name: str, original: Path, checksum: str | None, link: str) -> FarFile:
        endpoint = self._at[link]
        self._endpoints.place(self._scope, name, original, [endpoint], adler32=checksum)
        url = self._endpoints.url(endpoint, self._scope, name)
        return FarFile(self._scope, name, original.stat().st_size, endpoint, url)
