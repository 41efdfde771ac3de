"""Sizes, checksums, renames, deletions."""

from __future__ import annotations

import zlib
from pathlib import Path
from urllib.parse import unquote

import pytest
import trio

from rucio_fs.depot import verbs
from rucio_fs.depot.depot import Depot
from rucio_fs.depot.failures import NoMove, NotThere, Taken, Unauthorized, WriteRefused
from rucio_fs.errors import Corrupt, RucioFsError, TooSlow, Unreachable
from tests.unit.depot.conftest import MIB, MakeDepot
from tests.unit.depot.server import Store, Turn
from tests.unit.streams.conftest import noise

DATA = noise(3 * MIB + 17)
SIZE = len(DATA)
ADLER32 = f"{zlib.adler32(DATA):08x}"


# --- sizes ---------------------------------------------------------------------------------------


async def test_a_size(depot: Depot, store: Store) -> None:
    store.files = {"/f": DATA, "/empty": b""}
    assert await depot.size(f"{store.url}/f") == SIZE
    assert await depot.size(f"{store.url}/empty") == 0
    assert await depot.size(f"{store.url}/missing") is None
    assert store.connections == 1


async def test_a_size_that_head_does_not_tell(depot: Depot, plain: Store) -> None:
    plain.files = {"/f": DATA, "/empty": b""}
    for path, size in (("/f", SIZE), ("/empty", 0)):
        plain.plan(Turn(headers={"Content-Length": ""}))
        assert await depot.size(plain.url + path) == size


async def test_a_size_that_is_not_known_is_not_made_up(depot: Depot, plain: Store) -> None:
    plain.files["/f"] = DATA
    for length in ("", "-1", "x", "\xb2"):  # a digit of a kind
        turn = Turn(headers={"Content-Length": length})
        plain.plan(turn, turn)
        with pytest.raises(Unreachable):
            await depot.size(f"{plain.url}/f")
    for status, kind in ((401, Unauthorized), (403, Unauthorized), (503, Unreachable)):
        plain.plan(Turn(status=status))
        with pytest.raises(kind):
            await depot.size(f"{plain.url}/f")


# --- checksums -----------------------------------------------------------------------------------


async def test_the_storages_own_checksum(depot: Depot, store: Store) -> None:
    store.files["/f"] = DATA
    store.digest = "adler32=1b2c3d"
    assert await depot.adler32(f"{store.url}/f", SIZE) == "001b2c3d"
    assert store.requests[0].headers["Want-Digest"] == "adler32"


async def test_no_checksum(depot: Depot, plain: Store) -> None:
    plain.files["/f"] = DATA
    assert await depot.adler32(f"{plain.url}/f", SIZE) is None
    plain.digest = "md5=HUXZLQLMuI/KZ5KDcJPcOA=="
    assert await depot.adler32(f"{plain.url}/f", SIZE) is None
    for status in (400, 405, 501):
        plain.plan(Turn(status=status))
        assert await depot.adler32(f"{plain.url}/f", SIZE) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthorized), (403, Unauthorized), (404, NotThere), (500, Unreachable)],
)
async def test_a_checksum_that_is_not_to_be_had_now(
    depot: Depot, plain: Store, status: int, kind: type[RucioFsError]
) -> None:
    plain.plan(Turn(status=status))
    with pytest.raises(kind):
        await depot.adler32(f"{plain.url}/f", SIZE)


async def test_a_checksum_of_something_else(depot: Depot, plain: Store) -> None:
    plain.files["/f"] = DATA[:-1]
    plain.digest = "adler32=1b2c3d"
    with pytest.raises(Corrupt, match=rf"has {SIZE - 1} bytes there, {SIZE} were put"):
        await depot.adler32(f"{plain.url}/f", SIZE)


async def test_a_checksum_that_takes_its_time_is_waited_for(
    make_depot: MakeDepot, plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_PACE", SIZE / 20)
    depot = make_depot(timeout=0.1)
    plain.files["/f"] = DATA
    plain.digest = f"adler32={ADLER32}"
    plain.plan(Turn(is_silent=True))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def release() -> None:
            await trio.to_thread.run_sync(plain.wait, lambda store: store.requests)
            await trio.sleep(0.3)  # three times the silence that is allowed otherwise
            plain.release.set()

        assert await depot.adler32(f"{plain.url}/f", SIZE) == ADLER32
    plain.release.clear()
    plain.plan(Turn(is_silent=True))
    with pytest.raises(TooSlow):
        await depot.size(f"{plain.url}/f")


@pytest.mark.parametrize("turn", [Turn(), Turn(is_chunked=True)], ids=["sized", "chunked"])
async def test_a_file_is_read_back(depot: Depot, store: Store, turn: Turn) -> None:
    store.files = {"/f": DATA, "/empty": b""}
    store.plan(turn, turn)
    assert await depot.read_back(f"{store.url}/f", SIZE) == ADLER32
    assert await depot.read_back(f"{store.url}/empty", 0) == "00000001"
    assert store.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("wrong", [-1, 1, -SIZE])
async def test_what_comes_back_with_another_length_is_not_the_file(
    depot: Depot, plain: Store, wrong: int, is_chunked: bool
) -> None:
    plain.files["/f"] = (DATA + b"x")[: SIZE + wrong]
    plain.plan(Turn(is_chunked=is_chunked))
    with pytest.raises(Corrupt):
        await depot.read_back(f"{plain.url}/f", SIZE)


async def test_what_does_not_come_back_whole_is_asked_for_again(depot: Depot, store: Store) -> None:
    store.files["/f"] = DATA
    store.plan(Turn(cuts=MIB), Turn(status=404), Turn(status=503))
    for kind in (Unreachable, NotThere, Unreachable):
        with pytest.raises(kind):
            await depot.read_back(f"{store.url}/f", SIZE)


# --- renames -------------------------------------------------------------------------------------


async def test_a_rename(depot: Depot, store: Store) -> None:
    store.files["/a/f.part"] = DATA
    await depot.move(f"{store.url}/a/f.part", f"{store.url}/a/f")
    assert store.files == {"/a/f": DATA}


@pytest.mark.parametrize("heeds", [True, False])
async def test_nothing_is_replaced(depot: Depot, plain: Store, heeds: bool) -> None:
    plain.heeds_overwrite = heeds  # XRootD does not
    plain.files = {"/f.part": DATA, "/f": b"precious"}
    with pytest.raises(Taken, match=rf"{plain.url}/f is there already"):
        await depot.move(f"{plain.url}/f.part", f"{plain.url}/f?signature=hidden")
    assert plain.files == {"/f.part": DATA, "/f": b"precious"}


async def test_nothing_is_replaced_that_came_meanwhile(depot: Depot, plain: Store) -> None:
    plain.files = {"/f.part": DATA, "/f": b"precious"}
    plain.plan(Turn(status=404))  # the look
    with pytest.raises(Taken):
        await depot.move(f"{plain.url}/f.part", f"{plain.url}/f")
    assert plain.files == {"/f.part": DATA, "/f": b"precious"}


async def test_a_rename_to_another_name_than_was_asked_for(depot: Depot, plain: Store) -> None:
    plain.files["/f"] = DATA
    plain.plan(Turn(), Turn(), Turn(status=404))
    with pytest.raises(NoMove, match="was renamed, but not to"):
        await depot.move(f"{plain.url}/f", f"{plain.url}/a b")
    await depot.move(f"{plain.url}/a b", f"{plain.url}/f")
    await depot.move(f"{plain.url}/f", f"{plain.url}/g")
    assert plain.told[-2:] == ["HEAD /g", "MOVE /f"]  # nothing to doubt


async def test_a_rename_behind_a_proxy_that_changes_paths(depot: Depot, plain: Store) -> None:
    """Success is told of what is somewhere else: once it is looked whether that is so."""
    plain.files["/f"] = DATA
    plain.plan(Turn(), Turn(status=201))
    with pytest.raises(NoMove, match=r"was renamed, but not to .*/g, .* other paths"):
        await depot.move(f"{plain.url}/f", f"{plain.url}/g")


@pytest.mark.parametrize("name", ["c%20d+%C3%BC%E6%BC%A2", "plain"])
async def test_xrootd_is_told_the_bare_name(depot: Depot, plain: Store, name: str) -> None:
    plain.files["/f"] = DATA
    plain.plan(Turn(status=404, headers={"Server": "XrootD/v5.5.3"}))
    await depot.move(f"{plain.url}/f", f"{plain.url}/{name}")
    destination = plain.requests[1].headers["Destination"]
    assert destination.encode("latin-1").decode() == f"{plain.url}/{unquote(name)}"


@pytest.mark.parametrize("name", ["50%25", "a%3Fb", "a%23b", "a%0Ab", "a%20", "a%FF"])
async def test_xrootd_is_not_told_what_it_takes_for_something_else(
    depot: Depot, plain: Store, name: str
) -> None:
    plain.plan(Turn(status=404, headers={"Server": "XrootD/v5.5.3"}))
    with pytest.raises(NoMove, match="XRootD does not rename to"):
        await depot.move(f"{plain.url}/f", f"{plain.url}/{name}")
    assert len(plain.requests) == 1


@pytest.mark.parametrize("status", [403, 405, 501])
async def test_a_storage_that_renames_nothing(depot: Depot, plain: Store, status: int) -> None:
    plain.plan(Turn(), Turn(status=status))
    with pytest.raises(NoMove, match=f"answers {status} because"):
        await depot.move(f"{plain.url}/a", f"{plain.url}/b")


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (400, WriteRefused), (503, Unreachable)]
)
async def test_a_rename_that_fails(
    depot: Depot, plain: Store, status: int, kind: type[RucioFsError]
) -> None:
    plain.plan(Turn(), Turn(status=status))
    with pytest.raises(kind):
        await depot.move(f"{plain.url}/a", f"{plain.url}/b")


async def test_nothing_to_rename(depot: Depot, plain: Store) -> None:
    with pytest.raises(NotThere, match="/a is not there: put it again"):
        await depot.move(f"{plain.url}/a", f"{plain.url}/new/b")
    assert not any(told.startswith("MKCOL") for told in plain.told)


@pytest.mark.parametrize("status", [404, 409, 500])
async def test_a_rename_into_a_missing_directory(depot: Depot, plain: Store, status: int) -> None:
    plain.is_strict = True
    plain.files["/f"] = DATA
    plain.plan(Turn(), Turn(status=status))
    await depot.move(f"{plain.url}/f", f"{plain.url}/a/b/f")
    assert plain.files == {"/a/b/f": DATA}


# --- deletions -----------------------------------------------------------------------------------


async def test_a_deletion(depot: Depot, store: Store) -> None:
    store.files["/f"] = DATA
    assert await depot.delete(f"{store.url}/f") is True
    assert store.files == {}
    assert await depot.delete(f"{store.url}/f") is False


@pytest.mark.parametrize(("status", "was_there"), [(200, True), (202, True), (410, False)])
async def test_a_deletion_as_others_answer(
    depot: Depot, plain: Store, status: int, was_there: bool
) -> None:
    plain.plan(Turn(status=status))
    assert await depot.delete(f"{plain.url}/f") is was_there


@pytest.mark.parametrize("status", [401, 403, 409, 500])
async def test_a_deletion_that_fails_is_none(depot: Depot, plain: Store, status: int) -> None:
    plain.plan(Turn(status=status))
    with pytest.raises(RucioFsError):
        await depot.delete(f"{plain.url}/f")


# --- connections ---------------------------------------------------------------------------------


async def test_a_file_needs_one_connection(
    depot: Depot, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_REST", 0)
    await depot.put(f"{store.url}/f.part", file, 300_000)
    await depot.adler32(f"{store.url}/f.part", 300_000)
    await depot.read_back(f"{store.url}/f.part", 300_000)
    await depot.move(f"{store.url}/f.part", f"{store.url}/f")
    await depot.delete(f"{store.url}/missing")
    assert store.connections == 1
    depot.close()
    await trio.to_thread.run_sync(store.wait, lambda store: store.open == 0)


async def test_a_connection_rests_after_a_checksum(
    depot: Depot, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_REST", 1000)
    await depot.put(f"{store.url}/f", file, 300_000)
    await depot.adler32(f"{store.url}/f", 300_000)
    await depot.size(f"{store.url}/f")
    await depot.size(f"{store.url}/f")
    assert [one.connection for one in store.requests] == [1, 1, 2, 2]


async def test_a_connection_that_was_ended_meanwhile_is_replaced(
    depot: Depot, store: Store, file: Path
) -> None:
    assert await depot.size(f"{store.url}/f") is None
    await trio.to_thread.run_sync(store.hang_up)
    await depot.put(f"{store.url}/f", file, 300_000)
    assert store.connections == 2
    assert len(store.requests) == 2


async def test_a_connection_that_ends_just_now_is_replaced(
    depot: Depot, store: Store, file: Path
) -> None:
    assert await depot.size(f"{store.url}/f") is None
    store.plan(Turn(ends=True))
    await depot.put(f"{store.url}/f", file, 300_000)
    assert [one.connection for one in store.requests] == [1, 1, 2]


async def test_what_came_meanwhile_is_no_answer(depot: Depot, store: Store, file: Path) -> None:
    store.plan(Turn(late=b"HTTP/1.1 408 Too long\r\nContent-Length: 0\r\n\r\n"))
    assert await depot.size(f"{store.url}/f") is None
    store.release.set()
    await trio.to_thread.run_sync(store.wait, lambda store: store.late == 1)
    await depot.put(f"{store.url}/f", file, 300_000)
    assert [one.connection for one in store.requests] == [1, 2]


async def test_a_rename_is_not_asked_for_twice(depot: Depot, plain: Store) -> None:
    plain.files["/f"] = DATA
    plain.plan(Turn(), Turn(ends=True))
    with pytest.raises(Unreachable):
        await depot.move(f"{plain.url}/f", f"{plain.url}/g")
    assert plain.told == ["HEAD /g", "MOVE /f"]


async def test_so_many_requests_at_once_and_no_more(
    make_depot: MakeDepot, plain: Store, file: Path
) -> None:
    depot = make_depot(connections=2)
    plain.plan(*[Turn(is_silent=True)] * 6)
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(depot.put, f"{plain.url}/{number}", file, 300_000)
        await trio.to_thread.run_sync(plain.wait, lambda store: len(store.requests) == 2)
        plain.release.set()
    assert len(plain.files) == 6
    assert plain.most_open == 2
