"""Who gives up leaves nothing behind that goes on."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from rucio_fs.depot.depot import Depot
from rucio_fs.depot.hangup import Hangup
from tests.unit.depot.conftest import MIB, MakeDepot, depot_threads
from tests.unit.depot.server import Store, Turn

SOON = 1.0  # s


async def cancelled(
    call: Callable[[], Awaitable[object]], ready: Callable[[], Awaitable[object]]
) -> None:
    """Cancel *call* once it is *ready*; it has to have ended, thread and all, soon after."""
    is_done = False

    async def run() -> None:
        nonlocal is_done
        await call()
        is_done = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await ready()
        nursery.cancel_scope.cancel()
        before = trio.current_time()
    assert trio.current_time() - before < SOON
    assert not is_done
    assert depot_threads() == []


def until(store: Store, condition: Callable[[Store], bool]) -> Callable[[], Awaitable[object]]:
    return lambda: trio.to_thread.run_sync(store.wait, condition)


@pytest.fixture
def patient(make_depot: MakeDepot) -> Depot:
    return make_depot(timeout=60)


@pytest.mark.parametrize(
    "after", [0, 3 * MIB, None], ids=["before the body", "in the middle", "after it"]
)
async def test_a_put(patient: Depot, store: Store, great: Path, after: int | None) -> None:
    store.plan(Turn(is_silent=True, after=after))
    wanted = 64 * MIB if after is None else after
    await cancelled(
        lambda: patient.put(f"{store.url}/f", great, 64 * MIB),
        until(store, lambda store: len(store.requests) == 1 and store.received == wanted),
    )
    store.release.set()
    await trio.to_thread.run_sync(store.wait, lambda store: store.open == 0)


async def test_a_checksum(patient: Depot, store: Store) -> None:
    store.plan(Turn(is_silent=True))
    await cancelled(
        lambda: patient.adler32(f"{store.url}/f", 10**12),
        until(store, lambda store: bool(store.requests)),
    )


async def test_a_request_over_a_kept_connection_is_not_made_again(
    patient: Depot, store: Store
) -> None:
    await patient.size(f"{store.url}/f")
    store.plan(Turn(is_silent=True))
    await cancelled(
        lambda: patient.delete(f"{store.url}/f"),
        until(store, lambda store: len(store.requests) == 2),
    )
    store.release.set()
    assert store.connections == 1


async def test_while_it_connects(patient: Depot, file: Path) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):  # no room for another one

            async def connecting() -> None:
                # The kernel tells nobody when a connection begins to be made.
                while not _is_connecting(full.getsockname()[1]):  # noqa: ASYNC110
                    await trio.sleep(0.01)

            url = f"http://127.0.0.1:{full.getsockname()[1]}/f"
            await cancelled(lambda: patient.put(url, file, 300_000), connecting)


def _is_connecting(port: int) -> bool:
    wanted = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[2].endswith(wanted) and line[3] == "02" for line in lines)  # SYN_SENT


async def test_while_it_waits_for_its_turn(make_depot: MakeDepot, plain: Store) -> None:
    depot = make_depot(connections=1)
    plain.plan(Turn(is_silent=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(depot.size, f"{plain.url}/f")
        await trio.to_thread.run_sync(plain.wait, lambda store: bool(store.requests))
        with trio.move_on_after(0.05) as scope:
            await depot.size(f"{plain.url}/g")
        assert scope.cancelled_caught
        plain.release.set()
    assert len(plain.requests) == 1


async def test_what_was_done_by_then_counts(patient: Depot, plain: Store) -> None:
    plain.files["/f"] = b"x"
    with trio.CancelScope() as scope:
        plain.plan(Turn(is_silent=True))
        done = trio.Event()

        async def cancel_later() -> None:
            await trio.to_thread.run_sync(plain.wait, lambda store: bool(store.requests))
            plain.release.set()
            await trio.to_thread.run_sync(plain.wait, lambda store: "/f" not in store.files)
            # The event loop has not heard yet: nothing here lets it.
            while depot_threads():
                pass
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_later)
            assert await patient.delete(f"{plain.url}/f")
            done.set()
    assert done.is_set()


def test_a_socket_that_was_let_go_is_others() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        hangup = Hangup()
        hangup.watch(ours)
        hangup.let_go()
        hangup.hang_up()
        ours.send(b"x")
        assert theirs.recv(1) == b"x"
        with pytest.raises(ConnectionAbortedError):
            hangup.watch(ours)


def test_a_socket_that_is_watched_is_ended() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        hangup = Hangup()
        hangup.watch(ours)
        hangup.hang_up()
        assert ours.recv(1) == b""
