"""Files are put whole, or it is said what stood in the way."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import trio

from lake.tls import Tls
from rucio_fs.depot import wire
from rucio_fs.depot.depot import Depot
from rucio_fs.depot.failures import (
    Full,
    NotThere,
    Unauthorized,
    Unreadable,
    WriteRefused,
)
from rucio_fs.errors import RucioFsError, TooSlow, Unreachable
from tests.unit.depot.conftest import MIB, TOKEN, MakeDepot, MakeStore
from tests.unit.depot.server import Store, Turn
from tests.unit.streams.conftest import noise

ANSWERS: list[tuple[int, type[RucioFsError]]] = [
    (400, WriteRefused),
    (401, Unauthorized),
    (403, Unauthorized),
    (405, WriteRefused),
    (408, TooSlow),
    (413, WriteRefused),
    (429, Unreachable),
    (500, Unreachable),
    (501, WriteRefused),
    (502, Unreachable),
    (503, Unreachable),
    (504, TooSlow),
    (507, Full),
]


async def fails(
    depot: Depot, url: str, file: Path, kind: type[RucioFsError], size: int | None = None
) -> str:
    """What is said of a put that has to fail so."""
    with pytest.raises(RucioFsError) as caught:
        await depot.put(f"{url}?signature=hidden", file, size or os.stat(file).st_size)
    assert type(caught.value) is kind, caught.value
    words = str(caught.value)
    assert "hidden" not in words
    assert TOKEN not in words
    return words


def open_files() -> list[str]:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.lexists(link)]


# --- whole files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 5 * MIB + 17])
async def test_a_file_arrives_whole(depot: Depot, store: Store, tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(noise(size))
    told: list[int] = []
    await depot.put(f"{store.url}/d/f", tmp_path / "f", size, progress=told.append)
    assert store.files == {"/d/f": noise(size)}
    assert told == [*range(MIB, size, MIB), size][: None if size else 0]
    assert "Expect" in store.requests[0].headers if size > MIB else len(store.told) == 1


async def test_a_descriptor_is_left_as_it_was(depot: Depot, plain: Store, file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        os.lseek(fd, 17, os.SEEK_SET)
        await depot.put(f"{plain.url}/f", fd, 300_000)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 17
    finally:
        os.close(fd)
    assert plain.files["/f"] == noise(300_000)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a b/c+d", "/a b/c+d"),
        ("/50%25", "/50%"),
        ("/ünïcode/漢字", "/ünïcode/漢字"),
        ("/a%20b%3Fc", "/a b?c"),
        ("/x;y=z,1:2@3", "/x;y=z,1:2@3"),
    ],
)
async def test_names_arrive_as_they_are(
    depot: Depot, plain: Store, file: Path, path: str, name: str
) -> None:
    url = plain.url + path
    await depot.put(url, file, 300_000)
    assert list(plain.files) == [name]
    assert await depot.size(url) == 300_000
    await depot.move(url, f"{url}.moved")
    assert list(plain.files) == [f"{name}.moved"]
    (destination,) = [one.headers["Destination"] for one in plain.requests if one.method == "MOVE"]
    assert unquote(urlsplit(destination).path) == f"{name}.moved"
    assert await depot.delete(f"{url}.moved")


async def test_xrootd_gets_no_question_marks(depot: Depot, plain: Store, file: Path) -> None:
    plain.plan(Turn(status=404, headers={"Server": "XrootD/v5.5.3"}))
    words = await fails(depot, f"{plain.url}/a%3fb", file, WriteRefused)
    assert words.startswith(f"{plain.url}/a%3fb: XRootD ends a name at its question mark")
    assert plain.told == ["HEAD /a%3fb?signature=hidden"]


async def test_what_lay_there_is_replaced(depot: Depot, plain: Store, file: Path) -> None:
    plain.files["/f"] = b"old"
    await depot.put(f"{plain.url}/f", file, 300_000)
    assert plain.files["/f"] == noise(300_000)


# --- the file on this machine --------------------------------------------------------------------


async def test_a_file_of_another_size_is_not_sent(depot: Depot, plain: Store, file: Path) -> None:
    for size in (299_999, 300_001):
        words = await fails(depot, f"{plain.url}/f", file, Unreadable, size)
        assert words == f"{file} has 300000 bytes, {size} were to be put: it was changed meanwhile"
    assert plain.requests == []
    await depot.put(f"{plain.url}/f", file, 300_000)
    assert str(file) not in open_files()


async def test_a_file_that_shrinks_meanwhile_is_not_made_up(
    depot: Depot, plain: Store, great: Path
) -> None:
    def shrink(sent: int) -> None:
        os.truncate(great, 2 * MIB)

    with pytest.raises(Unreadable, match="was changed meanwhile"):
        await depot.put(f"{plain.url}/f", great, 64 * MIB, progress=shrink)
    await trio.to_thread.run_sync(plain.hang_up)
    assert plain.files == {}


async def test_what_is_no_file_is_not_read(depot: Depot, plain: Store, tmp_path: Path) -> None:
    await fails(depot, f"{plain.url}/f", tmp_path / "missing", Unreadable, 1)
    os.mkfifo(tmp_path / "fifo")
    words = await fails(depot, f"{plain.url}/f", tmp_path / "fifo", Unreadable, 1)
    assert words.endswith("fifo is not a regular file")


# --- directories ---------------------------------------------------------------------------------


async def test_missing_directories_are_made_once(depot: Depot, store: Store, file: Path) -> None:
    store.is_strict = True
    await depot.put(f"{store.url}/a/b/f", file, 300_000)
    assert store.told == [
        *("PUT /a/b/f", "MKCOL /a/b/", "MKCOL /a/", "MKCOL /a/b/", "PUT /a/b/f"),
    ]
    await depot.put(f"{store.url}/a/b/g", file, 300_000)
    assert store.told[5:] == ["PUT /a/b/g"]
    assert sorted(store.files) == ["/a/b/f", "/a/b/g"]


async def test_a_directory_that_was_deleted_is_made_again(
    depot: Depot, plain: Store, file: Path
) -> None:
    plain.is_strict = True
    await depot.put(f"{plain.url}/a/b/f", file, 300_000)
    plain.directories -= {"/a/", "/a/b/"}
    await depot.put(f"{plain.url}/a/b/g", file, 300_000)
    assert "/a/b/g" in plain.files


async def test_an_existing_directory_ends_the_climb(depot: Depot, plain: Store, file: Path) -> None:
    plain.is_strict = True
    plain.directories |= {"/a/", "/a/b/"}
    target = "/a/b/c/d/e/f?signature=hidden"
    await depot.put(plain.url + target, file, 300_000)
    climb = ("MKCOL /a/b/c/d/e/", "MKCOL /a/b/c/d/", "MKCOL /a/b/c/")
    descent = ("MKCOL /a/b/c/d/", "MKCOL /a/b/c/d/e/")
    assert plain.told == [f"PUT {target}", *climb, *descent, f"PUT {target}"]


async def test_at_the_top_there_is_nothing_to_make(depot: Depot, plain: Store, file: Path) -> None:
    plain.plan(Turn(status=409))
    await depot.put(f"{plain.url}/top", file, 300_000)
    assert plain.told == ["PUT /top", "PUT /top"]


async def test_what_exists_already_is_no_failure(depot: Depot, plain: Store, file: Path) -> None:
    """Somebody else may have made it meanwhile."""
    plain.directories |= {"/a/", "/a/b/"}
    plain.plan(Turn(status=409))
    await depot.put(f"{plain.url}/a/b/f?signature=x/y", file, 300_000)
    assert plain.told[1:2] == ["MKCOL /a/b/"]
    plain.plan(Turn(status=409), Turn(status=301, headers={"Location": f"{plain.url}/a/"}))
    await depot.put(f"{plain.url}/a/f", file, 300_000)
    assert sorted(plain.files) == ["/a/b/f", "/a/f"]


async def test_a_directory_that_may_not_be_made_says_so(
    depot: Depot, plain: Store, file: Path
) -> None:
    plain.is_strict = True
    plain.plan(Turn(), Turn(status=403))
    words = await fails(depot, f"{plain.url}/a/f", file, Unauthorized)
    assert f"MKCOL {plain.url}/a/: the server answers 403" in words


async def test_what_stays_missing_is_refused(depot: Depot, plain: Store, file: Path) -> None:
    for status in (404, 409):
        plain.plan(Turn(status=status), Turn(status=201), Turn(status=status))
        await fails(depot, f"{plain.url}/a/f", file, WriteRefused)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "kind"), ANSWERS)
async def test_a_refusal_comes_before_the_file_is_sent(
    depot: Depot, plain: Store, great: Path, status: int, kind: type[RucioFsError]
) -> None:
    plain.plan(Turn(status=status, after=0))
    words = await fails(depot, f"{plain.url}/d/f", great, kind)
    assert words.startswith(f"PUT {plain.url}/d/f: the server answers {status} because")
    assert plain.received == 0


@pytest.mark.parametrize(("status", "kind"), ANSWERS)
async def test_a_refusal_in_the_middle_is_heard(
    depot: Depot, store: Store, great: Path, status: int, kind: type[RucioFsError]
) -> None:
    store.plan(Turn(status=status, after=3 * MIB))
    told: list[int] = []
    with pytest.raises(kind, match=f"the server answers {status} because"):
        await depot.put(f"{store.url}/f", great, 64 * MIB, progress=told.append)
    assert store.received == 3 * MIB
    assert told[-1] < 64 * MIB


@pytest.mark.parametrize("manner", ["holds", "drains"])
async def test_a_refusal_is_heard_while_the_connection_stands(
    depot: Depot, store: Store, great: Path, manner: str
) -> None:
    store.plan(Turn(status=507, after=3 * MIB, holds=manner == "holds", drains=manner == "drains"))
    told: list[int] = []
    with pytest.raises(Full), trio.fail_after(10):
        await depot.put(f"{store.url}/f", great, 64 * MIB, progress=told.append)
    assert told[-1] < 32 * MIB


async def test_a_refusal_is_heard_though_nothing_holds_up_the_file(
    depot: Depot, store: Store, great: Path
) -> None:
    store.plan(Turn(status=507, after=3 * MIB, drains=True))
    last = 0

    def progress(sent: int) -> None:
        nonlocal last
        last = sent
        store.wait(lambda store: store.received == sent)

    with pytest.raises(Full):
        await depot.put(f"{store.url}/f", great, 64 * MIB, progress=progress)
    assert last <= 4 * MIB  # that may have been on its way


async def test_a_refusal_of_what_is_small_is_heard_though_the_server_has_closed(
    depot: Depot, store: Store, file: Path
) -> None:
    store.plan(Turn(status=507, after=0, body=b"x" * 100))
    await fails(depot, f"{store.url}/f", file, Full)


async def test_a_refusal_leaves_a_connection_that_is_not_used_again(
    depot: Depot, store: Store, great: Path, file: Path
) -> None:
    store.plan(Turn(status=403, after=0, drains=True))
    await fails(depot, f"{store.url}/f", great, Unauthorized)
    await depot.put(f"{store.url}/f", file, 300_000)
    assert [one.connection for one in store.requests] == [1, 2]


async def test_success_before_the_end_is_none(depot: Depot, store: Store, great: Path) -> None:
    store.plan(Turn(status=201, after=0), Turn(status=201, after=3 * MIB))
    for _ in range(2):
        words = await fails(depot, f"{store.url}/f", great, Unreachable)
        assert "201 before it has the whole file" in words


async def test_another_success_is_none(depot: Depot, plain: Store, file: Path) -> None:
    plain.plan(Turn(status=202))
    await fails(depot, f"{plain.url}/f", file, Unreachable)


async def test_what_a_server_says_is_shown_in_measure(
    depot: Depot, plain: Store, file: Path
) -> None:
    plain.plan(Turn(status=418, reason="tea\x1b[31m " * 100))
    words = await fails(depot, f"{plain.url}/f", file, WriteRefused)
    assert words.isprintable()
    assert len(words) < 200


@pytest.mark.parametrize("url", ["root://h:1094//f", "file:///f", "nonsense", "http://h:x/f"])
async def test_what_is_no_address_is_refused(depot: Depot, file: Path, url: str) -> None:
    words = await fails(depot, url, file, WriteRefused)
    assert words == f"{url} is no address of a storage that speaks HTTP"


# --- connections that fail -----------------------------------------------------------------------


@pytest.mark.parametrize("turn", [Turn(after=3 * MIB, resets=True), Turn(after=3 * MIB, ends=True)])
async def test_a_connection_that_breaks_in_the_middle(
    depot: Depot, store: Store, great: Path, turn: Turn
) -> None:
    store.plan(turn)
    words = await fails(depot, f"{store.url}/f", great, Unreachable)
    assert re.match(rf"PUT {store.url}/f: .*; try again later$", words)


async def test_a_connection_that_ends_instead_of_an_answer(
    depot: Depot, store: Store, file: Path
) -> None:
    store.plan(Turn(ends=True))
    words = await fails(depot, f"{store.url}/f", file, Unreachable)
    assert words.endswith("the connection ended without an answer; try again later")


@pytest.mark.parametrize("after", [0, 3 * MIB, None])
async def test_silence_has_an_end(
    make_depot: MakeDepot, store: Store, great: Path, after: int | None
) -> None:
    store.plan(Turn(is_silent=True, after=after, is_deaf=True))
    depot = make_depot(timeout=0.2)
    os.truncate(great, 64 * MIB if after is not None else 2 * MIB)
    words = await fails(depot, f"{store.url}/f", great, TooSlow)
    assert words == f"PUT {store.url}/f: no answer in time; try again later"


async def test_nobody_listens(depot: Depot, make_store: MakeStore, file: Path) -> None:
    store = make_store()
    url = store.url
    store.close()
    words = await fails(depot, f"{url}/f", file, Unreachable)
    assert words == f"PUT {url}/f: Connection refused; try again later"


async def test_a_server_that_nobody_vouches_for(
    make_depot: MakeDepot, make_store: MakeStore, file: Path, tmp_path: Path
) -> None:
    stranger = Tls(tmp_path / "stranger")
    stranger.make()
    store = make_store(stranger)
    words = await fails(make_depot(), f"{store.url}/f", file, Unreachable)
    assert words.endswith("name its authority in storages.ca")
    assert store.requests == []


# --- consent -------------------------------------------------------------------------------------


async def test_consent_is_heard_at_once(
    make_depot: MakeDepot, store: Store, great: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_EXPECTED", 60.0)
    with trio.fail_after(10):
        await make_depot(timeout=60).put(f"{store.url}/f", great, 64 * MIB)


async def test_a_server_that_knows_no_consent_gets_the_file_all_the_same(
    depot: Depot, store: Store, great: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_EXPECTED", 0.05)
    store.plan(Turn(is_deaf=True))
    await depot.put(f"{store.url}/f", great, 64 * MIB)
    assert len(store.files["/f"]) == 64 * MIB


async def test_what_is_said_meanwhile_is_no_answer(depot: Depot, store: Store, file: Path) -> None:
    store.plan(Turn(says=("102 Processing", "100 Continue", "103 Early Hints")))
    await depot.put(f"{store.url}/f", file, 300_000)
    assert len(store.files["/f"]) == 300_000


async def test_who_meets_no_expectations_is_not_asked_for_consent(
    depot: Depot, store: Store, great: Path
) -> None:
    store.plan(Turn(status=417, after=0))
    await depot.put(f"{store.url}/f", great, 64 * MIB)
    assert ["Expect" in one.headers for one in store.requests] == [True, False]


async def test_not_there_is_for_what_is_read(depot: Depot, plain: Store) -> None:
    with pytest.raises(NotThere):
        await depot.read_back(f"{plain.url}/f", 1)
