"""Files put on real storages: XRootD, nginx and Apache, with and without TLS."""

from __future__ import annotations

import random
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from lake import Lake
from rucio_fs.config import StoragesConfig
from rucio_fs.depot.depot import Depot
from rucio_fs.depot.failures import NoMove, NotThere, Taken, Unauthorized, WriteRefused
from rucio_fs.errors import Corrupt, RucioFsError
from rucio_fs.webdav.credentials import Credentials
from tests.lake.tokens import token_of

pytestmark = pytest.mark.lake

_CONTENT = random.Random(9).randbytes((5 << 20) + 17)
_SIZE = len(_CONTENT)
_ADLER32 = f"{zlib.adler32(_CONTENT):08x}"
_SERVERS = ("colo", "nginx", "apache")


@dataclass(frozen=True)
class Place:
    """A directory of its own on one server, which does not exist yet."""

    url: str  # ends with "/"
    tree: Path
    has_checksums: bool


@pytest.fixture(params=[(server, tls) for server in _SERVERS for tls in (False, True)], ids=str)
def place(request: pytest.FixtureRequest, lake: Lake) -> Place:
    server, tls = request.param
    url, tree = lake.webdav(server, tls=tls)
    name = f"depot-{uuid4().hex[:12]}"
    return Place(f"{url}{name}/", tree / name, has_checksums=server == "colo")


@pytest.fixture
async def depot(lake: Lake) -> AsyncIterator[Depot]:
    depot = Depot(Credentials(StoragesConfig(ca=lake.ca_file)), timeout=30, connections=4)
    yield depot
    depot.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(_CONTENT)
    return path


@pytest.mark.parametrize("name", ["c d+e", "ü漢/f", "50%25", "a#b"])
async def test_a_rename_to_a_name_that_is_quoted(
    depot: Depot, place: Place, file: Path, name: str
) -> None:
    part, whole = f"{place.url}f.part", f"{place.url}{name}".replace("#", "%23")
    await depot.put(part, file, _SIZE)
    try:
        await depot.move(part, whole)
    except NoMove:  # XRootD, of signs that it takes for its own
        assert place.has_checksums
        assert set(name) & set("%#")
        assert await depot.size(part) == _SIZE
        await depot.put(whole, file, _SIZE)
        await depot.delete(part)
    assert [
        str(path.relative_to(place.tree)) for path in place.tree.rglob("*") if path.is_file()
    ] == [name.replace("%25", "%")]
    assert await depot.read_back(whole, _SIZE) == _ADLER32


@pytest.mark.parametrize("name", ["plain.dat", "a/b/deep.dat", "a b/c+d%25 ü漢.dat"])
async def test_there_and_back(depot: Depot, place: Place, file: Path, name: str) -> None:
    url = place.url + name
    told: list[int] = []
    await depot.put(url, file, _SIZE, progress=told.append)
    assert told[-1] == _SIZE
    lies_there = place.tree / name.replace("%25", "%")
    assert lies_there.read_bytes() == _CONTENT
    assert await depot.size(url) == _SIZE
    assert await depot.adler32(url, _SIZE) == (_ADLER32 if place.has_checksums else None)
    assert await depot.read_back(url, _SIZE) == _ADLER32
    with pytest.raises(Corrupt):
        await depot.read_back(url, _SIZE + 1)
    assert await depot.delete(url) is True
    assert not lies_there.exists()
    assert await depot.delete(url) is False
    assert await depot.size(url) is None
    with pytest.raises(NotThere):
        await depot.read_back(url, _SIZE)
    with pytest.raises(NotThere):
        await depot.adler32(url, _SIZE)


async def test_no_name_ends_at_its_question_mark(depot: Depot, place: Place, file: Path) -> None:
    await depot.put(f"{place.url}a", file, _SIZE)
    if place.has_checksums:
        with pytest.raises(WriteRefused, match="give it another name"):
            await depot.put(f"{place.url}a%3Fb", file, _SIZE)
    else:
        await depot.put(f"{place.url}a%3Fb", file, _SIZE)
        assert (place.tree / "a?b").read_bytes() == _CONTENT


async def test_nothing_at_all(depot: Depot, place: Place, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    await depot.put(f"{place.url}empty", tmp_path / "empty", 0)
    assert await depot.size(f"{place.url}empty") == 0
    assert await depot.adler32(f"{place.url}empty", 0) in ("00000001", None)
    assert await depot.read_back(f"{place.url}empty", 0) == "00000001"


async def test_a_checksum_keeps_its_zeros(depot: Depot, place: Place, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a")
    await depot.put(f"{place.url}f", tmp_path / "f", 1)
    assert await depot.adler32(f"{place.url}f", 1) in ("00620062", None)


async def test_a_rename_replaces_nothing(depot: Depot, place: Place, file: Path) -> None:
    part, whole = f"{place.url}a/f.part", f"{place.url}b/c d/f"
    await depot.put(part, file, _SIZE)
    await depot.move(part, whole)
    assert await depot.size(part) is None
    assert await depot.read_back(whole, _SIZE) == _ADLER32
    with pytest.raises(NotThere):
        await depot.move(part, f"{place.url}a/g")
    await depot.put(part, file, _SIZE)
    with pytest.raises(Taken):
        await depot.move(part, whole)
    assert await depot.size(part) == _SIZE


async def test_directories_are_made(depot: Depot, place: Place, file: Path) -> None:
    for name in ("f", "g"):
        await depot.put(f"{place.url}a/b c/{name}", file, _SIZE)
        assert (place.tree / "a" / "b c" / name).is_file()


async def test_a_file_is_no_directory(depot: Depot, place: Place, file: Path) -> None:
    await depot.put(f"{place.url}f", file, _SIZE)
    with pytest.raises(RucioFsError, match=f"{place.url}f"):
        await depot.put(f"{place.url}f/g", file, _SIZE)
    assert await depot.read_back(f"{place.url}f", _SIZE) == _ADLER32


async def test_a_storage_that_wants_a_token(tmp_path: Path, file: Path) -> None:
    lake = Lake.up(free_ports=True, samples=False, oidc=True)
    try:
        url = f"{lake.webdav('tokens', tls=True)[0]}f"
        token = tmp_path / "token"
        config = StoragesConfig(ca=lake.ca_file, token_file=token)
        depot = Depot(Credentials(config), timeout=30, connections=4)
        token.write_text("eyJ.not.it")
        with pytest.raises(Unauthorized) as caught:
            await depot.put(url, file, _SIZE)
        assert "eyJ" not in str(caught.value)
        token.write_text(token_of(lake, scope="storage.modify:/ storage.read:/ storage.create:/"))
        await depot.put(url, file, _SIZE)
        assert await depot.adler32(url, _SIZE) == _ADLER32
        depot.close()
    finally:
        lake.down()
