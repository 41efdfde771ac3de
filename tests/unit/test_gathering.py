"""Many askers, few calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rucio_fs.errors import NotFound, RucioFsError, Unreachable
from rucio_fs.gathering import Gatherer


class Server:
    """Answers with the square of a number, once it may; *error* for all, or for some."""

    def __init__(self, nursery: trio.Nursery, limit: int = 10, at_once: int = 2) -> None:
        self.asked: list[list[int]] = []
        self.gate = trio.Event()
        self.error: Exception | None = None
        self.errors: dict[int, RucioFsError] = {}
        self.silent_about: set[int] = set()
        self.gatherer: Gatherer[int, int] = Gatherer(
            self._fetch, nursery, limit=limit, at_once=at_once
        )
        self.answers: dict[int, object] = {}
        self._nursery = nursery

    async def _fetch(self, keys: Sequence[int]) -> Mapping[int, int | RucioFsError]:
        self.asked.append(list(keys))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {
            key: self.errors.get(key, key * key) for key in keys if key not in self.silent_about
        }

    async def ask(self, *keys: int) -> None:
        """Ask in the background."""
        for key in keys:
            self._nursery.start_soon(self._ask, key)
        await wait_all_tasks_blocked()

    async def _ask(self, key: int) -> None:
        try:
            self.answers[key] = await self.gatherer.ask(key)
        except RucioFsError as exc:
            self.answers[key] = exc


@pytest.fixture
def server(nursery: trio.Nursery) -> Server:
    return Server(nursery)


async def test_a_single_question_goes_out_at_once(server: Server) -> None:
    await server.ask(3)
    assert server.asked == [[3]]
    server.gate.set()
    await wait_all_tasks_blocked()
    assert server.answers == {3: 9}


async def test_what_comes_while_calls_run_is_gathered(server: Server) -> None:
    await server.ask(1)
    await server.ask(2)
    await server.ask(*range(3, 30))
    assert server.asked == [[1], [2]]
    server.gate.set()
    await wait_all_tasks_blocked()
    assert server.answers == {key: key * key for key in range(1, 30)}
    assert sorted(len(keys) for keys in server.asked) == [1, 1, 7, 10, 10]
    assert sorted(key for keys in server.asked for key in keys) == list(range(1, 30))


async def test_so_many_calls_at_once_and_no_more(server: Server) -> None:
    server.gate.set()
    for key in range(10):
        await server.ask(key)
    server.gate = trio.Event()
    await server.ask(10)
    await server.ask(11)
    await server.ask(12)
    assert server.asked[-2:] == [[10], [11]]


async def test_the_same_key_is_asked_once(server: Server) -> None:
    await server.ask(1)
    await server.ask(2)
    await server.ask(*[3] * 20)
    server.gate.set()
    await wait_all_tasks_blocked()
    assert server.asked == [[1], [2], [3]]
    assert server.answers[3] == 9


async def test_a_key_is_asked_anew_while_its_call_runs(server: Server) -> None:
    """What that call answers may be older than the second question."""
    await server.ask(1)
    await server.ask(1)
    assert server.asked == [[1], [1]]


async def test_an_error_is_told_to_whom_it_concerns(server: Server) -> None:
    server.errors[2] = NotFound("no 2")
    server.gate.set()
    await server.ask(1, 2, 3)
    assert (server.answers[1], server.answers[3]) == (1, 9)
    assert isinstance(server.answers[2], NotFound)
    assert server.answers[2] is not server.errors[2], "each has its own traceback"


async def test_an_error_of_the_call_is_everybodys(server: Server) -> None:
    await server.ask(1, 2, 3)
    server.error = Unreachable("away")
    server.gate.set()
    await wait_all_tasks_blocked()
    assert {type(answer) for answer in server.answers.values()} == {Unreachable}
    server.error = None
    await server.ask(4)
    assert server.answers[4] == 16, "and nobody else's"


async def test_no_answer_is_no_endless_wait(server: Server) -> None:
    server.silent_about.add(2)
    server.gate.set()
    await server.ask(1, 2)
    assert isinstance(server.answers[2], Unreachable)


async def test_a_bug_ends_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.error = ZeroDivisionError("oops")
    server.gate.set()
    await server.ask(1)
    assert "internal error" in str(server.answers[1])
    assert "bug while asking" in caplog.text
    server.error = None
    await server.ask(2)
    assert server.answers[2] == 4


async def test_who_gives_up_takes_nothing_from_the_others(server: Server) -> None:
    with trio.CancelScope() as scope:
        server._nursery.start_soon(server._ask, 2)
        await wait_all_tasks_blocked()
        scope.cancel()
        await server.gatherer.ask(1)
    assert scope.cancelled_caught
    await server.ask(1)
    server.gate.set()
    await wait_all_tasks_blocked()
    assert server.answers == {1: 1, 2: 4}


async def test_the_end_lands_every_wish() -> None:
    """The nursery is cancelled as the mount ends: nobody hangs for ever."""
    async with trio.open_nursery() as outer:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                server = Server(inner)
                server._nursery = outer
                await server.ask(1, 2)
                scope.cancel()
    assert {type(answer) for answer in server.answers.values()} == {Unreachable}
