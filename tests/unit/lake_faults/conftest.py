"""A real upstream and a proxy before it."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lake.faults import FaultProxy, Tls
from tests.unit.lake_faults.upstream import Upstream

Connect = Callable[[FaultProxy], http.client.HTTPConnection]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[FaultProxy]:
    with FaultProxy(upstream.url) as running:
        yield running


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open connections to a proxy that are closed after the test."""
    opened: list[http.client.HTTPConnection] = []

    def open_one(proxy: FaultProxy) -> http.client.HTTPConnection:
        parts = urlsplit(proxy.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A self-made certificate for localhost."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = Path(directory / "host.pem"), Path(directory / "host.key")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [*command.split(), names, "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return Tls(cert, key)
