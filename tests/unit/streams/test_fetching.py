"""One range of a file: from the best replica, from another one where that fails, in time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lake.tls import Tls
from rucio_fs.checksums import adler32
from rucio_fs.config import StoragesConfig
from rucio_fs.did import Replica
from rucio_fs.errors import Denied, NoSource, RucioFsError, Unreachable
from rucio_fs.streams.candidates import Candidates
from rucio_fs.streams.failures import Broken
from rucio_fs.streams.fetching import Fetcher
from rucio_fs.streams.pieces import Piece
from rucio_fs.streams.pool import Pool
from rucio_fs.streams.storages import Storages
from rucio_fs.webdav.credentials import Credentials
from tests.unit.streams.conftest import FILE, MakeStorage, noise, rse, until
from tests.unit.streams.storage_server import BEFORE, Fault, Storage

SIZE = 300_000
DATA = noise(SIZE)
START, END = 65_536, 200_000
DEADLINE = 60.0


@pytest.fixture
def clock() -> MockClock:
    """Time goes on when nothing else does; a request takes none.  Each test has to name it."""
    return MockClock(autojump_threshold=0)


@dataclass
class Desk:
    """A fetcher, and the replicas that it is given."""

    pool: Pool
    fetcher: Fetcher
    storages: Storages
    candidates: Candidates
    later: tuple[Replica, ...] = ()  # what Rucio says when it is asked again
    asked: int = 0
    made: list[Piece] = field(default_factory=list)

    def piece(self, start: int = START, end: int = END, *, is_urgent: bool = True) -> Piece:
        self.made.append(Piece(start, end, memoryview(bytearray(1 << 18)), is_urgent=is_urgent))
        return self.made[-1]

    async def fill(self, piece: Piece) -> bytes:
        with piece.scope:
            value = await self.fetcher.fill(FILE, SIZE, piece, self.candidates, self._ask_again)
            found = bytes(piece.view(piece.start, piece.end))
            assert value == adler32(found)
            assert found == DATA[piece.start : piece.end], "wrong bytes"
            return found
        return b""

    async def fails(self, kind: type[RucioFsError]) -> str:
        with pytest.raises(RucioFsError) as caught:
            await self.fill(self.piece())
        assert type(caught.value) is kind, caught.value
        assert str(FILE) in str(caught.value)
        return str(caught.value)

    async def _ask_again(self) -> bool:
        self.asked += 1
        return bool(self.later) and self.candidates.update(self.later)

    def set_back(self) -> list[bool]:
        now = trio.current_time()
        return [one.storage.set_back_until > now for one in self.candidates._all]


MakeDesk = Callable[..., Awaitable[Desk]]


def replicas(*storages: Storage) -> tuple[Replica, ...]:
    return tuple(Replica(rse(i), f"{one.url}/f?secret") for i, one in enumerate(storages))


@pytest.fixture
def make_desk() -> Iterator[MakeDesk]:
    """Makes desks: ``await make_desk(storage, ..., timeout=0.2, config=..., pool=...)``."""
    pools: list[Pool] = []

    async def desk(
        *storages: Storage,
        timeout: float = 5.0,
        deadline: float = DEADLINE,
        config: StoragesConfig | None = None,
        connections: int = 4,
        pool: Pool | None = None,
    ) -> Desk:
        for one in storages:
            one.files["/f"] = DATA
        credentials = Credentials(config or StoragesConfig())
        pools.append(pool or Pool(credentials.tls, timeout))
        known = Storages(connections, 16)
        fetcher = Fetcher(pools[-1], known, credentials, deadline)
        return Desk(pools[-1], fetcher, known, Candidates(replicas(*storages), known))

    yield desk
    for pool in pools:
        pool.close()
        assert pool.open == 0


@pytest.fixture
def near(make_storage: MakeStorage) -> Storage:
    return make_storage()


@pytest.fixture
def far(make_storage: MakeStorage) -> Storage:
    return make_storage()


# --- one replica fails ---------------------------------------------------------------------------


async def test_the_first_one_is_asked(
    clock: MockClock, make_desk: MakeDesk, near: Storage, far: Storage
) -> None:
    desk = await make_desk(near, far)
    piece = desk.piece()
    await desk.fill(piece)
    assert (near.ranges, far.ranges) == ([f"{START}-{END - 1}"], [])
    assert piece.rses == {"RSE0"}
    assert desk.fetcher.counters.received == END - START
    assert desk.fetcher.counters.failures == 0
    assert desk.asked == 0


PASSING = [
    Fault(status=500),
    Fault(status=503, headers={"Retry-After": "20"}),
    Fault(status=429),
    Fault(status=400),
    Fault(stalls=BEFORE),
    Fault(stalls=50_000),
    Fault(resets=BEFORE),
    Fault(resets=50_000),
    Fault(cuts=BEFORE),
    Fault(cuts=0),
    Fault(cuts=50_000),
    Fault(cuts=50_000, chunked=True),
    Fault(cuts=50_000, unsized=True),
    Fault(unending=True),
    Fault(status=307, headers={"Location": "/f"}),
    Fault(status=307, headers={"Location": "root://host//f"}),
]
FINAL = [
    Fault(status=404),
    Fault(status=416),
    Fault(lacks=1, headers={"Content-Range": ""}),
    Fault(headers={"Content-Length": "50000"}),
    Fault(headers={"Content-Range": f"bytes 0-{END - START - 1}/{SIZE}"}),
    Fault(headers={"Content-Range": f"bytes {START}-{END - 1}/{SIZE + 1}"}),
    Fault(headers={"Content-Encoding": "gzip"}),
    Fault(chunked=True, surplus=b"more"),
    Fault(whole=True, lacks=1),
]


@pytest.mark.parametrize("fault", [*PASSING, *FINAL, Fault(whole=True)])
async def test_the_next_one_gives_what_the_first_one_did_not(
    clock: MockClock, make_desk: MakeDesk, near: Storage, far: Storage, fault: Fault
) -> None:
    desk = await make_desk(near, far, timeout=0.2 if fault.stalls is not None else 5.0)
    near.usual = fault
    piece = desk.piece()
    await desk.fill(piece)
    assert len(far.requests) == 1
    first, last = map(int, far.ranges[0].split("-"))
    # What is in is not moved again.
    assert START <= first <= last == END - 1
    assert fault != Fault(cuts=50_000) or first == START + 50_000
    assert piece.rses == {"RSE0", "RSE1"}
    assert desk.fetcher.counters.failures == 1
    assert desk.fetcher.counters.received == END - START
    # Whoever comes next does not meet the same trouble.
    near_requests = len(near.requests)
    await desk.fill(desk.piece(0, START))
    assert len(near.requests) == near_requests
    assert trio.current_time() == 0, "nobody had to be waited for"
    near.release.set()


@pytest.mark.parametrize("fault", PASSING)
async def test_one_that_has_it_alone_is_asked_again(
    clock: MockClock, make_desk: MakeDesk, near: Storage, fault: Fault
) -> None:
    desk = await make_desk(near, timeout=0.2 if fault.stalls is not None else 5.0)
    near.plan(fault)
    await desk.fill(desk.piece())
    assert desk.fetcher.counters.failures == (0 if fault.headers.get("Location") == "/f" else 1)
    assert desk.set_back() == [False]
    near.release.set()


@pytest.mark.parametrize("fault", FINAL)
async def test_one_that_has_not_the_file_is_not_asked_again(
    clock: MockClock, make_desk: MakeDesk, near: Storage, fault: Fault
) -> None:
    desk = await make_desk(near)
    near.usual = fault
    message = await desk.fails(NoSource)
    assert message.startswith("s:f cannot be read: RSE0: ")
    assert len(near.requests) == 1
    assert desk.asked == 1
    assert desk.set_back() == [False], "its other files are not to blame"


async def test_nobody_is_asked_for_nothing(
    clock: MockClock, make_desk: MakeDesk, near: Storage, far: Storage
) -> None:
    """All bytes had come when the first one failed: an empty range would spoil the second one."""
    desk = await make_desk(near, far)
    near.plan(Fault(unending=True))
    piece = desk.piece(0, 100)
    await desk.fill(piece)
    assert far.ranges == ["0-99"]
    assert desk.candidates.reasons().startswith("RSE0: ")
    assert "RSE1: no answer yet" in desk.candidates.reasons()


async def test_each_failure_is_in_the_log_without_its_address(
    clock: MockClock,
    make_desk: MakeDesk,
    near: Storage,
    far: Storage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    desk = await make_desk(near, far)
    near.plan(Fault(status=500))
    await desk.fill(desk.piece())
    (record,) = [one for one in caplog.records if one.name.startswith("rucio_fs")]
    assert record.getMessage().startswith(f"s:f from RSE0: http://127.0.0.1:{near.port} answers 50")
    assert "secret" not in caplog.text


# --- servers that send whole files only ----------------------------------------------------------


async def test_a_server_without_ranges_is_the_last_choice(
    clock: MockClock, make_desk: MakeDesk, near: Storage, far: Storage
) -> None:
    desk = await make_desk(near, far)
    near.usual = Fault(whole=True)
    far.plan(Fault(status=404))
    await desk.fill(desk.piece())
    assert len(near.requests) == 2, "it was asked again, now for all before the range too"
    assert len(far.requests) == 1


async def test_a_server_without_ranges_serves_what_is_missing(
    clock: MockClock, make_desk: MakeDesk, near: Storage
) -> None:
    desk = await make_desk(near)
    near.usual = Fault(whole=True, chunked=True)
    for start, end in ((0, 65_536), (START, END), (250_000, SIZE)):
        await desk.fill(desk.piece(start, end))
    assert desk.fetcher.counters.failures == 1


# --- nobody has it -------------------------------------------------------------------------------


async def test_the_reason_of_each_is_told(
    clock: MockClock, make_desk: MakeDesk, make_storage: MakeStorage
) -> None:
    storages = [make_storage() for _ in range(3)]
    desk = await make_desk(*storages)
    storages[0].usual = Fault(status=404)
    storages[1].usual = Fault(status=401)
    storages[2].files["/f"] = DATA[:-1]
    message = await desk.fails(NoSource)
    parts = message.removeprefix("s:f cannot be read: RSE").split("; RSE")
    assert len(parts) == 3
    assert "answers 404" in parts[0]
    assert "answers 401" in parts[1]
    assert "no credentials are configured for it" in parts[1]
    assert "299999 bytes, the catalogue says 300000" in parts[2]
    assert "secret" not in message
    assert desk.asked == 1


async def test_without_replicas(clock: MockClock, make_desk: MakeDesk) -> None:
    assert "no replica" in await (await make_desk()).fails(NoSource)


async def test_rucio_knows_another_one_by_now(
    clock: MockClock, make_desk: MakeDesk, near: Storage, far: Storage
) -> None:
    desk = await make_desk(near)
    far.files["/f"] = DATA
    near.usual = Fault(status=404)
    desk.later = replicas(near, far)
    await desk.fill(desk.piece())
    assert (desk.asked, len(near.requests), len(far.requests)) == (1, 1, 1)
    assert trio.current_time() == 0


async def test_rucio_knows_no_other_one(
    clock: MockClock, make_desk: MakeDesk, near: Storage
) -> None:
    desk = await make_desk(near)
    near.usual = Fault(status=404)
    desk.later = replicas(near)
    assert "answers 404" in await desk.fails(NoSource)


# --- nobody answers ------------------------------------------------------------------------------


async def test_all_of_them_are_tried_until_the_deadline(
    clock: MockClock, make_desk: MakeDesk, near: Storage, far: Storage
) -> None:
    desk = await make_desk(near, far)
    for one in (near, far):
        one.usual = Fault(status=503)
    message = await desk.fails(Unreachable)
    assert trio.current_time() <= DEADLINE
    assert min(len(near.requests), len(far.requests)) > 2
    assert "after 60 s: RSE0: " in message
    assert "; RSE1: " in message
    assert desk.asked == 0, "they are where they were"


async def test_it_goes_on_as_soon_as_one_is_back(
    clock: MockClock, make_desk: MakeDesk, near: Storage, far: Storage
) -> None:
    desk = await make_desk(near, far)
    near.usual = Fault(status=503, headers={"Retry-After": "1000"})
    far.plan(Fault(resets=BEFORE))
    await desk.fill(desk.piece())
    assert trio.current_time() < 5
    assert (len(near.requests), len(far.requests)) == (1, 2)


class Slow(Pool):
    """Requests that fail, each after some time."""

    def __init__(self, clock: MockClock, seconds: float) -> None:
        super().__init__(lambda _: pytest.fail("it speaks to nobody"), 5.0)
        self._clock = clock
        self._seconds = seconds
        self.asked = 0

    def fetch(self, *args: object) -> None:
        self.asked += 1
        trio.from_thread.run_sync(self._clock.jump, self._seconds)
        raise Broken("no answer in time")


@pytest.mark.parametrize("seconds", [10.0, 25.0, 70.0])
async def test_slow_failures_of_many_do_not_outlast_the_deadline(
    clock: MockClock, make_desk: MakeDesk, make_storage: MakeStorage, seconds: float
) -> None:
    """There is always one that nothing is known against by now."""
    pool = Slow(clock, seconds)
    desk = await make_desk(*[make_storage() for _ in range(6)], pool=pool)
    message = await desk.fails(Unreachable)
    assert "no answer in time" in message
    assert trio.current_time() < DEADLINE + seconds
    assert pool.asked == -(-DEADLINE // seconds)


async def test_who_waits_for_a_place_hears_that_it_is_no_use(
    make_desk: MakeDesk, near: Storage, far: Storage, nursery: trio.Nursery
) -> None:
    """A storage that hangs must not cost each of the waiting its timeout."""
    desk = await make_desk(near, far, timeout=0.3, connections=2)
    near.usual = Fault(stalls=BEFORE)
    async with trio.open_nursery() as fills:
        for _ in range(10):
            fills.start_soon(desk.fill, desk.piece())
    assert len(near.requests) == 2
    assert len(far.requests) == 10
    assert all("RSE1" in piece.rses for piece in desk.made)
    assert sum("RSE0" in piece.rses for piece in desk.made) == 2
    near.release.set()


async def test_urgent_requests_do_not_wait_for_those_ahead(
    make_desk: MakeDesk, near: Storage, nursery: trio.Nursery
) -> None:
    desk = await make_desk(near, connections=2)
    near.plan(*[Fault(stalls=BEFORE)] * 2)
    ahead = [desk.piece(is_urgent=False) for _ in range(4)]
    async with trio.open_nursery() as fills:
        for piece in ahead:
            fills.start_soon(desk.fill, piece)
        await until(near, lambda found: len(found.requests) == 2)
        await desk.fill(desk.piece(0, START))
        assert [piece.got for piece in ahead] == [0] * 4
        near.release.set()


# --- credentials ---------------------------------------------------------------------------------


@pytest.fixture
def secure(make_storage: MakeStorage, tls: Tls) -> Storage:
    return make_storage(tls)


def shows(tls: Tls, token: Path) -> StoragesConfig:
    return StoragesConfig(token_file=token, ca=tls.ca_file)


async def test_a_renewed_token_is_waited_for_in_the_middle_of_a_file(
    quick: None, make_desk: MakeDesk, secure: Storage, tls: Tls, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    desk = await make_desk(secure, config=shows(tls, token))
    secure.tokens = {"old"}
    await desk.fill(desk.piece(0, START))
    secure.tokens = {"new"}
    piece = desk.piece()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.fill, piece)
        await until(secure, lambda found: len(found.requests) == 2)
        token.write_text("")  # it is being written
        await trio.sleep(0.1)  # a few looks
        token.write_text("new")
    assert [one.token for one in secure.requests] == ["old", "old", "new"]
    assert desk.asked == 0


async def test_no_renewed_token_comes(
    clock: MockClock, make_desk: MakeDesk, secure: Storage, tls: Tls, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2")
    desk = await make_desk(secure, config=shows(tls, token))
    secure.usual = Fault(status=403)
    message = await desk.fails(Denied)
    assert "answers 403" in message
    assert "no renewed token" in message
    assert "hunter2" not in message
    assert len(secure.requests) == 1, "what was refused is not shown again"
    assert trio.current_time() <= DEADLINE


async def test_another_replica_takes_the_token_that_one_refuses(
    clock: MockClock, make_desk: MakeDesk, secure: Storage, far: Storage, tls: Tls, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    desk = await make_desk(secure, far, config=shows(tls, token))
    secure.tokens = {"new"}
    await desk.fill(desk.piece())
    assert trio.current_time() == 0
    assert desk.set_back() == [False, False], "it is up, and others may read it"


async def test_a_renewed_proxy_is_waited_for_too(
    quick: None, make_desk: MakeDesk, secure: Storage, tls: Tls, tmp_path: Path
) -> None:
    proxy = tmp_path / "proxy.pem"
    proxy.write_bytes(tls.user_proxy.read_bytes())
    config = StoragesConfig(x509_proxy=proxy, ca=tls.ca_file)
    desk = await make_desk(secure, config=config)
    secure.plan(Fault(status=403))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.fill, desk.piece())
        await until(secure, lambda found: len(found.requests) == 1)
        with proxy.open("ab") as file:
            file.write(b"\n")
    assert [one.subject for one in secure.requests] == ["lake user"] * 2


@pytest.mark.parametrize("is_tls", [False, True])
async def test_without_credentials_nothing_is_waited_for(
    clock: MockClock,
    make_desk: MakeDesk,
    make_storage: MakeStorage,
    tls: Tls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_tls: bool,
) -> None:
    """Nor where there are some, but none that a plain server is shown."""
    config = StoragesConfig(ca=tls.ca_file)
    if not is_tls:
        (tmp_path / "token").write_text("abc")
        config = shows(tls, tmp_path / "token")
        monkeypatch.setenv("X509_USER_PROXY", str(tls.user_proxy))
    storage = make_storage(tls if is_tls else None)
    desk = await make_desk(storage, config=config)
    storage.usual = Fault(status=401)
    assert "no credentials are configured for it" in await desk.fails(NoSource)
    assert len(storage.requests) == 1
    assert trio.current_time() == 0


async def test_an_untrusted_certificate_is_not_tried_again(
    clock: MockClock, make_desk: MakeDesk, secure: Storage, far: Storage
) -> None:
    desk = await make_desk(secure)
    assert "storages.ca" in await desk.fails(NoSource)
    desk = await make_desk(secure, far)
    await desk.fill(desk.piece())
    assert secure.requests == []


async def test_a_missing_file_of_certificates_is_not_waited_for(
    clock: MockClock, make_desk: MakeDesk, secure: Storage, tls: Tls, tmp_path: Path
) -> None:
    missing = tmp_path / "none.pem"
    for config in (StoragesConfig(ca=missing), StoragesConfig(ca=tls.ca_file, x509_proxy=missing)):
        desk = await make_desk(secure, config=config)
        words = await desk.fails(NoSource)
        assert f"{missing}: no such file on this machine" in words
        assert trio.current_time() == 0


# --- nobody wants it any more --------------------------------------------------------------------


@pytest.mark.parametrize("at", [BEFORE, 0, 50_000])
async def test_a_request_that_is_given_up_blames_nobody(
    make_desk: MakeDesk, near: Storage, far: Storage, at: int
) -> None:
    desk = await make_desk(near, far, timeout=1000.0)
    near.plan(Fault(stalls=at))
    piece = desk.piece()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.fill, piece)
        await until(near, lambda found: bool(found.requests))
        piece.cancel()
    assert piece.scope.cancelled_caught
    assert desk.set_back() == [False, False]
    assert desk.fetcher.counters.failures == 0
    assert far.requests == []
    assert desk.pool.open == 0
    await desk.fill(desk.piece())
    assert len(near.requests) == 2


async def test_waiting_for_a_place_is_given_up(make_desk: MakeDesk, near: Storage) -> None:
    desk = await make_desk(near, connections=1)
    near.plan(Fault(stalls=BEFORE))
    first, second = desk.piece(), desk.piece()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.fill, first)
        await until(near, lambda found: bool(found.requests))
        nursery.start_soon(desk.fill, second)
        await trio.testing.wait_all_tasks_blocked()
        second.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert second.scope.cancelled_caught
        near.release.set()
    assert len(near.requests) == 1
    assert desk.storages.total.borrowed_tokens == 0
