"""Storages that want to see a bearer token: shown, and renewed while a file is read."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake
from lake.endpoints import Endpoint, Endpoints
from tests.fuse.clients import eventually
from tests.fuse.streaming import MIB, Placed, content
from tests.lake.tokens import token_of
from tests.mounting import DEADLINE, Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Lake, Endpoints, Endpoint]]:
    """A lake with a storage that serves bearers of its tokens only."""
    lake = Lake.up(free_ports=True, oidc=True, daemons=False, samples=False)
    endpoints = Endpoints(lake)
    yield lake, endpoints, endpoints.add(*lake.webdav("tokens", tls=True))
    lake.down()


@pytest.fixture
def placed(guarded: tuple[Lake, Endpoints, Endpoint], request: pytest.FixtureRequest) -> Placed:
    _, endpoints, endpoint = guarded
    data, name = content(3 * MIB), f"{request.node.name.replace('_', '-')}.dat"
    endpoints.place("guarded", name, data, [endpoint])
    return Placed("guarded", name, data, [endpoint])


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "token"


@pytest.fixture
def mount(
    guarded: tuple[Lake, Endpoints, Endpoint], placed: Placed, token_file: Path
) -> Iterator[Mount]:
    lake, _, _ = guarded
    options = {
        **{"policy": "stream", "storages.ca": lake.ca_file, "token_file": token_file},
        **{"streaming.deadline": 20, "diskcache.size": 0},
    }
    mount = Mount(lake.client_config(), options)
    yield mount
    mount.close()
    text = mount.log_text()
    mount.remove()
    assert "eyJ" not in text, "a token is in the log"


def reader_token(lake: Lake, **more: str) -> str:
    audience = f"https://localhost:{lake.ports['tokens']}"
    return token_of(lake, **{"scope": "storage.read:/", "aud": audience, **more})


def test_a_token_opens_the_storage(
    guarded: tuple[Lake, Endpoints, Endpoint], mount: Mount, placed: Placed, token_file: Path
) -> None:
    token_file.write_text(reader_token(guarded[0]) + "\n")
    assert placed.read(mount) == placed.right


def test_without_a_token_the_read_fails_and_says_what_to_do(mount: Mount, placed: Placed) -> None:
    assert placed.read(mount) == {"errno": "EIO"}
    assert "no credentials are configured" in mount.log_text()


def test_a_read_waits_for_a_token_that_is_renewed(
    guarded: tuple[Lake, Endpoints, Endpoint], mount: Mount, placed: Placed, token_file: Path
) -> None:
    token_file.write_text(reader_token(guarded[0], aud="https://elsewhere"))
    path = mount.path / placed.scope / placed.name
    with subprocess.Popen(
        ["sha256sum", path], stdout=subprocess.PIPE, text=True, cwd="/"
    ) as reader:
        eventually(lambda: mount.status()["streaming"]["failures"], lambda count: count > 0)
        token_file.write_text("")  # torn: it is being written
        token_file.write_text(reader_token(guarded[0]))
        assert reader.communicate(timeout=DEADLINE)[0].split()[0] == placed.right[1]
