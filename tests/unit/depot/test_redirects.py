"""Redirects: followed with the credentials that belong there, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lake.tls import Tls
from rucio_fs.depot.depot import Depot
from rucio_fs.depot.failures import NoMove, WriteRefused
from rucio_fs.errors import RucioFsError, Unreachable
from tests.unit.depot.conftest import MIB, TOKEN, MakeDepot, MakeStore
from tests.unit.depot.server import Store, Turn
from tests.unit.streams.conftest import noise


def to(url: str, *, status: int = 307, after: int | None = 0) -> Turn:
    return Turn(status=status, headers={"Location": url}, after=after)


@pytest.fixture
def door(make_store: MakeStore, tls: Tls) -> Store:
    return make_store(tls)


@pytest.fixture
def pool(make_store: MakeStore, tls: Tls) -> Store:
    """On another host by its name."""
    return make_store(tls, "127.0.0.1")


async def test_a_token_is_shown_over_tls_only(
    depot: Depot, door: Store, plain: Store, file: Path
) -> None:
    for store, token in ((door, TOKEN), (plain, "")):
        await depot.put(f"{store.url}/d/f", file, 300_000)
        await depot.adler32(f"{store.url}/d/f", 300_000)
        await depot.read_back(f"{store.url}/d/f", 300_000)
        await depot.move(f"{store.url}/d/f", f"{store.url}/d/g")
        store.plan(Turn(status=409))
        await depot.put(f"{store.url}/e/f", file, 300_000)
        await depot.delete(f"{store.url}/d/g")
        methods = ["PUT", "HEAD", "GET", "HEAD", "MOVE", "HEAD", "PUT", "MKCOL", "PUT", "DELETE"]
        assert [(one.method, one.token) for one in store.requests] == [
            (method, token) for method in methods
        ]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    ("trusted", "token"), [((), ""), (("127.0.0.*",), TOKEN)], ids=["other", "trusted"]
)
async def test_the_token_stays_where_it_belongs(
    make_depot: MakeDepot,
    door: Store,
    pool: Store,
    great: Path,
    status: int,
    trusted: tuple[str, ...],
    token: str,
) -> None:
    door.plan(to(f"{pool.url}/f?uuid=1", status=status))
    await make_depot(trusted=trusted).put(f"{door.url}/f", great, 64 * MIB)
    assert len(pool.files["/f"]) == 64 * MIB
    assert door.received == 0
    assert [one.token for one in door.requests] == [TOKEN]
    assert [(one.path, one.token) for one in pool.requests] == [("/f?uuid=1", token)]


async def test_the_same_host_by_another_port_is_shown_it(
    depot: Depot, door: Store, make_store: MakeStore, tls: Tls, file: Path
) -> None:
    other = make_store(tls)
    door.plan(to(f"{other.url}/f"))
    await depot.put(f"{door.url}/f", file, 300_000)
    assert other.files["/f"] == noise(300_000)
    assert other.requests[0].token == TOKEN


async def test_a_redirect_in_the_middle_of_the_file(
    depot: Depot, door: Store, pool: Store, great: Path
) -> None:
    door.plan(to(f"{pool.url}/f", after=3 * MIB))
    told: list[int] = []
    await depot.put(f"{door.url}/f", great, 64 * MIB, progress=told.append)
    assert len(pool.files["/f"]) == 64 * MIB
    again = told.index(MIB, 1)
    assert told[again:] == [*range(MIB, 65 * MIB, MIB)]


async def test_a_redirect_along_the_path(depot: Depot, plain: Store, file: Path) -> None:
    plain.plan(to("/elsewhere/f"))
    await depot.put(f"{plain.url}/f", file, 300_000)
    assert list(plain.files) == ["/elsewhere/f"]


async def test_a_loop_ends(depot: Depot, plain: Store, file: Path) -> None:
    plain.plan(*[to(f"{plain.url}/f")] * 10)
    with pytest.raises(Unreachable, match=r"/f: the server redirects more than 5 times$"):
        await depot.put(f"{plain.url}/f", file, 300_000)
    assert len(plain.requests) == 6


async def test_a_door_before_pools_without_tls_relays_the_file(
    depot: Depot, door: Store, plain: Store, great: Path
) -> None:
    door.plan(to(f"{plain.url}/f"))
    await depot.put(f"{door.url}/f", great, 64 * MIB)
    assert ["Expect" in one.headers for one in door.requests] == [True, False]
    assert len(door.files["/f"]) == 64 * MIB
    assert plain.requests == []


@pytest.mark.parametrize("where", ["http://127.0.0.1:1/f", "root://h:1094//f", "https://[nonsense"])
async def test_what_is_not_followed_is_said(
    depot: Depot, door: Store, great: Path, file: Path, where: str
) -> None:
    door.plan(*[to(f"{where}?uuid=hidden")] * 3)
    for sent, size in ((great, 64 * MIB), (file, 300_000)):
        with pytest.raises(WriteRefused, match="the server redirects to what is not followed") as e:
            await depot.put(f"{door.url}/f", sent, size)
        assert "hidden" not in str(e.value)


async def test_303_is_another_request_and_no_success(
    depot: Depot, plain: Store, file: Path
) -> None:
    plain.plan(to(f"{plain.url}/g", status=303))
    with pytest.raises(RucioFsError) as caught:
        await depot.put(f"{plain.url}/f", file, 300_000)
    assert type(caught.value) is WriteRefused
    assert plain.told == ["PUT /f"]


async def test_others_are_redirected_too(depot: Depot, door: Store, pool: Store) -> None:
    pool.files["/f"] = b"x"
    door.plan(*[to(f"{pool.url}/f")] * 3)
    assert await depot.size(f"{door.url}/f") == 1
    assert await depot.read_back(f"{door.url}/f", 1) == "00790079"
    assert await depot.delete(f"{door.url}/f")


async def test_a_rename_stays_on_its_server(depot: Depot, door: Store, pool: Store) -> None:
    with pytest.raises(NoMove, match="not on one server"):
        await depot.move(f"{door.url}/f", f"{pool.url}/f")
    assert door.requests == []
