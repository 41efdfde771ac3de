"""The catalogue's memory: one flight per question, lifetimes, old answers in need, forgetting."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rucio_fs.catalogue.base import BULK_LIMIT, Listing
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.catalogue.memory import BURST, Known
from rucio_fs.config import CacheConfig
from rucio_fs.did import DID, DIDInfo, DIDType, Identity, Member
from rucio_fs.errors import (
    Denied,
    LoginFailed,
    NotFound,
    Refused,
    RucioFsError,
    TooSlow,
    Unreachable,
)
from tests.fakes import EPOCH_NS, MY, SECOND, FailingCatalogue, FakeCatalogue, did

CONFIG = CacheConfig(
    size=10 << 20,
    scopes_ttl=300.0,
    open_ttl=60.0,
    closed_ttl=1000.0,
    file_ttl=2000.0,
    missing_ttl=10.0,
    replicas_ttl=30.0,
    now_ttl=2.0,
    stale_after=3.0,
    stale_retry=10.0,
)
FILE = did("s:f")
OPEN = did("s:open")
CLOSED = did("s:closed")
GONE = did("s:gone")


@pytest.fixture
def rucio() -> FakeCatalogue:
    fake = FakeCatalogue()
    fake.file(FILE, size=3, replicas={"COLO": "file:///f"}, metadata={"run": "1"})
    fake.dataset(OPEN, FILE)
    fake.dataset(CLOSED, FILE, is_open=False)
    return fake


@pytest.fixture
def failing(rucio: FakeCatalogue) -> FailingCatalogue:
    return FailingCatalogue(rucio)


@pytest.fixture
def cache(failing: FailingCatalogue, nursery: trio.Nursery) -> CachedCatalogue:
    return CachedCatalogue(failing, CONFIG, nursery)


Ask = Callable[[CachedCatalogue], Awaitable[Any]]

# Every question with the method of the catalogue it becomes and how long its answer counts.
QUESTIONS: list[Any] = [
    pytest.param("scopes", lambda cache: cache.scopes(MY), 300.0, id="scopes"),
    pytest.param("scope_content", lambda cache: cache.scope_content(MY, "s"), 60.0, id="scope"),
    pytest.param("content", lambda cache: cache.content(MY, OPEN), 60.0, id="content"),
    pytest.param("info", lambda cache: cache.info(MY, FILE), 2000.0, id="file"),
    pytest.param("info", lambda cache: cache.info(MY, OPEN), 60.0, id="open"),
    pytest.param("info", lambda cache: cache.info(MY, CLOSED), 1000.0, id="closed"),
    pytest.param("replicas", lambda cache: cache.replicas(MY, FILE), 30.0, id="replicas"),
    pytest.param("metadata", lambda cache: cache.metadata(MY, FILE), 2.0, id="metadata"),
]
question = pytest.mark.parametrize(("method", "ask", "ttl"), QUESTIONS)
stale_question = pytest.mark.parametrize(("method", "ask", "ttl"), QUESTIONS[:-1])


async def outcome(ask: Awaitable[Any], into: list[Any]) -> None:
    try:
        into.append(await ask)
    except RucioFsError as exc:
        into.append(exc)


# --- one question at a time --------------------------------------------------------------------


@question
async def test_twenty_askers_are_one_question(
    rucio: FakeCatalogue,
    cache: CachedCatalogue,
    method: str,
    ask: Ask,
    ttl: float,
    autojump_clock: MockClock,
) -> None:
    rucio.blocked = trio.Event()
    answers: list[Any] = []
    async with trio.open_nursery() as tasks:
        for _ in range(20):
            tasks.start_soon(outcome, ask(cache), answers)
        await wait_all_tasks_blocked()
        assert cache.status()["asking"] == 1
        rucio.blocked.set()
    assert rucio.calls.total() == rucio.calls[method] == 1
    assert len(answers) == 20
    assert all(answer == answers[0] for answer in answers)
    assert not isinstance(answers[0], RucioFsError)
    assert cache.status()["asking"] == 0


async def test_different_questions_do_not_wait_for_each_other(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    rucio.delay = 5.0
    started = trio.current_time()
    async with trio.open_nursery() as tasks:
        for one in (FILE, OPEN, CLOSED):
            tasks.start_soon(cache.info, MY, one)
    assert trio.current_time() - started == pytest.approx(5.0)


async def test_accounts_do_not_share_answers(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    bob = Identity("bob")
    await cache.info(MY, FILE)
    await cache.info(bob, FILE)
    await cache.info(bob, FILE)
    assert rucio.askers == {MY: 1, bob: 1}


@pytest.mark.parametrize("way", ["cancelled", "impatient"])
async def test_who_gives_up_does_not_take_the_answer_from_the_others(
    rucio: FakeCatalogue, cache: CachedCatalogue, way: str, autojump_clock: MockClock
) -> None:
    rucio.blocked = trio.Event()
    answers: list[Any] = []
    async with trio.open_nursery() as tasks:
        with trio.move_on_after(1) as first:
            async with trio.open_nursery() as inner:
                inner.start_soon(outcome, cache.info(MY, FILE), [])  # it started the question
                await wait_all_tasks_blocked()
                for _ in range(3):
                    tasks.start_soon(outcome, cache.info(MY, FILE), answers)
                await wait_all_tasks_blocked()
                if way == "cancelled":
                    first.cancel()
        assert first.cancelled_caught
        assert rucio.asking == 1
        rucio.blocked.set()
    assert [answer.value.did for answer in answers] == [FILE] * 3
    assert rucio.calls["info"] == 1


async def test_the_answer_of_an_abandoned_question_is_kept(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    rucio.delay = 5.0
    with trio.move_on_after(1):
        await cache.info(MY, FILE)
    await trio.sleep(10)
    await cache.info(MY, FILE)
    assert rucio.calls["info"] == 1


@pytest.mark.parametrize("error", [Unreachable("x"), TooSlow("x"), Denied("x"), Refused("x")])
async def test_all_who_wait_learn_of_the_failure(
    rucio: FakeCatalogue, cache: CachedCatalogue, error: RucioFsError, autojump_clock: MockClock
) -> None:
    rucio.blocked, rucio.error = trio.Event(), error
    answers: list[Any] = []
    async with trio.open_nursery() as tasks:
        for _ in range(5):
            tasks.start_soon(outcome, cache.info(MY, FILE), answers)
        await wait_all_tasks_blocked()
        rucio.blocked.set()
    assert [type(answer) for answer in answers] == [type(error)] * 5
    assert len({id(answer) for answer in answers} | {id(error)}) == 6, "each gets its own copy"
    assert rucio.calls["info"] == 1


# --- how long an answer counts -----------------------------------------------------------------


@question
async def test_an_answer_counts_for_its_time(
    rucio: FakeCatalogue,
    cache: CachedCatalogue,
    method: str,
    ask: Ask,
    ttl: float,
    autojump_clock: MockClock,
) -> None:
    if method == "content":
        await cache.info(MY, OPEN)
    first = await ask(cache)
    if isinstance(first, Known):
        assert first.ttl == pytest.approx(ttl)
    await trio.sleep(ttl - 0.5)
    again = await ask(cache)
    if isinstance(again, Known):
        assert again.ttl == pytest.approx(0.5), "the kernel may keep it for what is left"
    assert rucio.calls[method] == (2 if method == "content" and ttl == 0 else 1)
    await trio.sleep(1.0)
    await ask(cache)
    assert rucio.calls[method] == 2


@pytest.mark.parametrize(("name", "ttl"), [(OPEN, 60.0), (CLOSED, 1000.0)])
async def test_the_content_of_a_collection_known_to_be_closed_counts_longer(
    cache: CachedCatalogue, name: DID, ttl: float, autojump_clock: MockClock
) -> None:
    assert (await cache.content(MY, name)).ttl == pytest.approx(60.0), "not known yet"
    cache.forget_all()
    await cache.info(MY, name)
    assert (await cache.content(MY, name)).ttl == pytest.approx(ttl)


async def test_time_counts_from_the_answer_and_age_from_the_question(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    rucio.delay = 5.0
    assert (await cache.info(MY, FILE)).ttl == pytest.approx(2000.0)
    rucio.delay = 0.0
    await cache.info(MY, FILE, max_age=5.5)
    assert rucio.calls["info"] == 1
    await cache.info(MY, FILE, max_age=4.5)
    assert rucio.calls["info"] == 2, "what was asked 5 s ago may be 5 s old"


async def test_max_age_is_younger_than_the_lifetime(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.info(MY, FILE)
    await trio.sleep(1.9)
    await cache.info(MY, FILE, max_age=2.0)
    assert rucio.calls["info"] == 1
    await trio.sleep(0.2)
    await cache.info(MY, FILE, max_age=2.0)
    assert rucio.calls["info"] == 2
    await cache.info(MY, FILE)
    assert rucio.calls["info"] == 2, "a fresh answer serves everybody"


async def test_max_age_does_not_lengthen_the_lifetime(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.replicas(MY, FILE)
    await trio.sleep(31)
    await cache.replicas(MY, FILE, max_age=100.0)
    assert rucio.calls["replicas"] == 2


@pytest.mark.parametrize("method", ["info", "content", "replicas"])
async def test_not_found_is_remembered_briefly(
    rucio: FakeCatalogue, cache: CachedCatalogue, method: str, autojump_clock: MockClock
) -> None:
    for _ in range(3):
        with pytest.raises(NotFound, match="s:gone"):
            await getattr(cache, method)(MY, GONE)
    assert rucio.calls[method] == 1
    rucio.file(GONE)
    await trio.sleep(9.9)
    with pytest.raises(NotFound):
        await getattr(cache, method)(MY, GONE)
    await trio.sleep(0.2)
    await getattr(cache, method)(MY, GONE)
    assert rucio.calls[method] == 2


async def test_what_is_remembered_of_not_found_holds_no_frames(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    """A traceback would keep the whole conversation with Rucio alive, for each missing name."""

    class Conversation:
        pass

    async def info(who: Identity, did: DID) -> DIDInfo:
        conversation = Conversation()
        raise NotFound(f"{did} {conversation}")

    rucio.info = info  # type: ignore[method-assign]
    with pytest.raises(NotFound) as caught:
        await cache.info(MY, GONE)
    del caught
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Conversation)]
    with pytest.raises(NotFound):
        await cache.info(MY, GONE)


@question
@pytest.mark.parametrize("error", [Unreachable("x"), TooSlow("x"), Denied("x"), LoginFailed("x")])
async def test_a_failure_is_never_kept(
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    method: str,
    ask: Ask,
    ttl: float,
    error: RucioFsError,
    autojump_clock: MockClock,
) -> None:
    failing.fail(method, error, nth=1)
    with pytest.raises(type(error)):
        await ask(cache)
    await ask(cache)
    assert failing.calls[method] == 2


# --- old answers in need -----------------------------------------------------------------------


@stale_question
@pytest.mark.parametrize("error", [Unreachable("away"), TooSlow("away")])
async def test_the_old_answer_is_served_while_rucio_is_away(
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    method: str,
    ask: Ask,
    ttl: float,
    error: RucioFsError,
    autojump_clock: MockClock,
) -> None:
    fresh = await ask(cache)
    await trio.sleep(ttl + 1)
    failing.fail(method, error)
    started = trio.current_time()
    assert await ask(cache) == Known(fresh.value, 0.0)
    assert trio.current_time() == started, "a failure is known at once"
    assert cache.health.trouble == "away"
    assert cache.health.stale == 1


async def test_rucio_is_asked_again_after_a_while(
    failing: FailingCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.info(MY, OPEN)
    await trio.sleep(61)
    failing.fail("info", Unreachable("away"))
    for _ in range(5):
        await cache.info(MY, OPEN)
    assert failing.calls["info"] == 2, "not everybody waits for a Rucio that is away"
    await trio.sleep(10.1)
    await cache.info(MY, OPEN)
    assert failing.calls["info"] == 3
    failing.heal()
    await trio.sleep(10.1)
    assert (await cache.info(MY, OPEN)).ttl == pytest.approx(60.0)
    assert cache.health.trouble is None


@stale_question
async def test_the_old_answer_is_served_while_the_new_one_takes_its_time(
    rucio: FakeCatalogue,
    cache: CachedCatalogue,
    method: str,
    ask: Ask,
    ttl: float,
    autojump_clock: MockClock,
) -> None:
    fresh = await ask(cache)
    await trio.sleep(ttl + 1)
    rucio.blocked = trio.Event()
    started = trio.current_time()
    assert await ask(cache) == Known(fresh.value, 0.0)
    assert trio.current_time() - started == pytest.approx(3.0)
    assert await ask(cache) is not None
    assert trio.current_time() - started == pytest.approx(3.0), "the next one does not wait"
    assert rucio.calls[method] == 2
    rucio.blocked.set()
    await wait_all_tasks_blocked()
    assert (await ask(cache)).ttl == pytest.approx(ttl), "the late answer is the one that counts"
    assert rucio.calls[method] == 2


async def test_a_refresh_that_is_quick_is_waited_for(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.content(MY, OPEN)
    await trio.sleep(61)
    rucio.file("s:new")
    rucio.attach(OPEN, "s:new")
    rucio.delay = 2.9
    assert len((await cache.content(MY, OPEN)).value) == 2
    assert cache.health.stale == 0


async def test_a_refresh_that_was_slow_and_then_failed(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.info(MY, OPEN)
    await trio.sleep(61)
    rucio.delay, rucio.error = 20.0, Unreachable("away")
    await cache.info(MY, OPEN)
    await trio.sleep(60)
    assert (await cache.info(MY, OPEN)).ttl == 0.0, "the old answer is still there"


async def test_an_old_not_found_is_not_served(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    """A false "no such file" makes programs start from scratch; an error makes them stop."""
    with pytest.raises(NotFound):
        await cache.info(MY, GONE)
    await trio.sleep(11)
    rucio.error = Unreachable("away")
    with pytest.raises(Unreachable):
        await cache.info(MY, GONE)
    rucio.error, rucio.delay = None, 20.0
    rucio.file(GONE)
    assert (await cache.info(MY, GONE)).value.did == GONE, "it is waited for"


async def test_not_found_replaces_an_old_answer(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.info(MY, OPEN)
    await trio.sleep(61)
    rucio.delete(OPEN)
    with pytest.raises(NotFound):
        await cache.info(MY, OPEN)
    await trio.sleep(11)
    rucio.error = Unreachable("away")
    with pytest.raises(Unreachable):
        await cache.info(MY, OPEN)


async def test_no_old_answer_for_who_wants_a_young_one(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.info(MY, FILE)
    await trio.sleep(10)
    rucio.error = Unreachable("away")
    with pytest.raises(Unreachable):
        await cache.info(MY, FILE, max_age=2.0)
    with pytest.raises(Unreachable):
        await cache.info(MY, FILE, max_age=2.0)
    assert (await cache.info(MY, FILE)).value.did == FILE, "a fresh answer is no old one"


async def test_an_old_answer_stays_old_for_who_wants_a_young_one(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.info(MY, OPEN)
    await trio.sleep(61)
    rucio.error = Unreachable("away")
    await cache.info(MY, OPEN)  # now counts again for stale_retry
    with pytest.raises(Unreachable):
        await cache.info(MY, OPEN, max_age=20.0)


@pytest.mark.parametrize("error", [Denied("no"), LoginFailed("no"), Refused("no")])
async def test_a_refusal_is_not_papered_over(
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    error: RucioFsError,
    autojump_clock: MockClock,
) -> None:
    await cache.info(MY, OPEN)
    await trio.sleep(61)
    failing.fail("info", error)
    for _ in range(2):
        with pytest.raises(type(error)):
            await cache.info(MY, OPEN)
    assert cache.health.stale == 0


# --- forgetting --------------------------------------------------------------------------------


async def test_forget_asks_again_for_one_did(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    async def ask_all() -> None:
        await cache.info(MY, OPEN)
        await cache.content(MY, OPEN)
        await cache.info(Identity("bob"), OPEN)
        await cache.info(MY, CLOSED)
        await cache.scopes(MY)

    await ask_all()
    cache.forget(OPEN)
    await ask_all()
    assert rucio.calls == {"info": 5, "content": 2, "scopes": 1}


async def test_forget_scope_asks_again_for_its_listing_alone(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    rucio.file("t:f")

    async def ask_all() -> None:
        await cache.scope_content(MY, "s")
        await cache.scope_content(MY, "t")
        await cache.info(MY, FILE)

    await ask_all()
    cache.forget_scope("s")
    await ask_all()
    assert rucio.calls == {"scope_content": 3, "info": 1}


async def test_forget_all(cache: CachedCatalogue, autojump_clock: MockClock) -> None:
    await cache.info(MY, FILE)
    await cache.scope_content(MY, "s")
    cache.forget_all()
    assert cache.status()["entries"] == cache.status()["bytes"] == 0


async def test_forgotten_answers_are_not_served_in_need(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.info(MY, FILE)
    cache.forget(FILE)
    rucio.error = Unreachable("away")
    with pytest.raises(Unreachable):
        await cache.info(MY, FILE)


@pytest.mark.parametrize("way", ["forget", "forget_all"])
async def test_an_answer_on_its_way_when_forgotten_is_not_kept(
    rucio: FakeCatalogue, cache: CachedCatalogue, way: str, autojump_clock: MockClock
) -> None:
    def forget() -> None:
        cache.forget(OPEN) if way == "forget" else cache.forget_all()

    rucio.blocked = trio.Event()
    early: list[Any] = []
    late: list[Any] = []
    async with trio.open_nursery() as tasks:
        tasks.start_soon(outcome, cache.info(MY, OPEN), early)
        await wait_all_tasks_blocked()
        forget()
        tasks.start_soon(outcome, cache.info(MY, OPEN), late)
        await wait_all_tasks_blocked()
        assert rucio.calls["info"] == 2, "who asks after forget gets no answer from before"
        forget()
        rucio.blocked.set()
    assert early[0].value.did == late[0].value.did == OPEN
    await cache.info(MY, OPEN)
    assert rucio.calls["info"] == 3


async def test_the_question_after_forget_is_kept_though_the_one_before_lands_last(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    before, after = trio.Event(), trio.Event()
    rucio.blocked = before
    async with trio.open_nursery() as tasks:
        tasks.start_soon(cache.info, MY, OPEN)
        await wait_all_tasks_blocked()
        cache.forget(OPEN)
        rucio.blocked = after
        tasks.start_soon(cache.info, MY, OPEN)
        await wait_all_tasks_blocked()
        after.set()
        await wait_all_tasks_blocked()
        rucio._change(OPEN, account="changed")
        before.set()
    assert (await cache.info(MY, OPEN)).value.account == "root"
    assert rucio.calls["info"] == 2


# --- memory ------------------------------------------------------------------------------------


async def test_the_least_recently_used_go_first(
    rucio: FakeCatalogue,
    failing: FailingCatalogue,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:
    for name in "mnopqr":
        rucio.file(f"s:{name}")
    room = 4
    each = 2 * 1200
    small = CachedCatalogue(failing, replace(CONFIG, size=room * each), nursery)
    for name in "mnop":
        await small.info(MY, did(f"s:{name}"))
    await small.info(MY, did("s:m"))
    for name in "qr":
        await small.info(MY, did(f"s:{name}"))
    assert small.status()["bytes"] == small.status()["limit"] == room * each
    asked = rucio.calls["info"]
    for name in "mpqr":
        await small.info(MY, did(f"s:{name}"))
    assert rucio.calls["info"] == asked, "these are still there"
    for name in "no":
        await small.info(MY, did(f"s:{name}"))
    assert rucio.calls["info"] == asked + 2


async def test_a_large_listing_takes_the_place_of_many(
    rucio: FakeCatalogue,
    failing: FailingCatalogue,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:
    files = [rucio.file(f"s:{i}") for i in range(200)]
    large = rucio.dataset("s:large", *files)
    limit = 120_000
    small = CachedCatalogue(failing, replace(CONFIG, size=limit), nursery)
    for one in files[:50]:
        await small.info(MY, one)
    assert small.status()["bytes"] == limit
    listing = (await small.content(MY, large)).value
    assert small.status()["bytes"] <= limit
    assert small.status()["bytes"] >= listing.nbytes
    asked = rucio.calls["content"]
    await small.content(MY, large)
    assert rucio.calls["content"] == asked


async def test_what_is_larger_than_the_cache_is_served_and_not_kept(
    rucio: FakeCatalogue,
    failing: FailingCatalogue,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    files = [rucio.file(f"s:{i}") for i in range(200)]
    large = rucio.dataset("s:large", *files)
    small = CachedCatalogue(failing, replace(CONFIG, size=50_000), nursery)
    await small.info(MY, FILE)
    with caplog.at_level(logging.INFO, "rucio_fs"):
        for _ in range(2):
            assert len((await small.content(MY, large)).value) == 200
    assert "larger than the whole cache" in caplog.text
    assert rucio.calls["content"] == 2
    assert small.status()["entries"] == 1, "the others were not thrown out for it"


async def test_large_metadata_and_many_replicas_count_as_what_they_are(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    where = {f"SITE_{i}": f"davs://se{i}.example.org/{'x' * 100}" for i in range(50)}
    rucio.file("s:big", metadata={"k": "v" * 1_000_000}, replicas=where)
    await cache.metadata(MY, did("s:big"))
    assert cache.status()["bytes"] > 1_000_000
    cache.forget_all()
    await cache.replicas(MY, did("s:big"))
    assert 50 * 100 < cache.status()["bytes"] < 50 * 1000


async def test_status_counts(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    await cache.info(MY, FILE)
    await cache.info(MY, FILE)
    status = cache.status()
    assert (status["entries"], status["asking"], status["hits"], status["misses"]) == (1, 0, 1, 1)
    assert status["limit"] == CONFIG.size
    assert cache.health.answered_at is not None


# --- what is at hand ---------------------------------------------------------------------------


async def test_at_hand_asks_nobody(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    assert cache.scope_listing_at_hand(MY, "s") is None
    assert cache.info_at_hand(MY, OPEN) is None
    listing = await cache.scope_content(MY, "s")
    info = await cache.info(MY, OPEN)
    asked = rucio.calls.total()
    assert cache.scope_listing_at_hand(MY, "s") == listing
    assert cache.info_at_hand(MY, OPEN) == info
    assert cache.info_at_hand(Identity("bob"), OPEN) is None
    await trio.sleep(61)
    assert cache.scope_listing_at_hand(MY, "s") is None
    assert cache.info_at_hand(MY, OPEN) is None
    assert rucio.calls.total() == asked


async def test_not_found_is_nothing_at_hand(
    cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    with pytest.raises(NotFound):
        await cache.info(MY, GONE)
    assert cache.info_at_hand(MY, GONE) is None


# --- listings that were cut --------------------------------------------------------------------


class Cutting(FakeCatalogue):
    """Leaves out the last members of a listing, as a proxy does that cuts at a line's end."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts: list[int] = []  # members left out of the next answers

    async def content(self, who: Identity, did: DID) -> Listing:
        whole = await super().content(who, did)
        cut = self.cuts.pop(0) if self.cuts else 0
        return Listing(whole.members[: len(whole) - cut], did.scope)


@pytest.fixture
def cutting(nursery: trio.Nursery) -> tuple[Cutting, CachedCatalogue]:
    rucio = Cutting()
    rucio.dataset(CLOSED, *(rucio.file(f"s:{i}") for i in range(10)), is_open=False)
    rucio.dataset(OPEN, *(f"s:{i}" for i in range(10)))
    rucio.container("s:container", CLOSED, OPEN, is_open=False)
    return rucio, CachedCatalogue(rucio, CONFIG, nursery)


@pytest.mark.parametrize(
    ("cuts", "members", "calls"),
    [
        ([], 10, 1),
        ([3], 10, 2),
        ([10], 10, 2),
        ([3, 3], 7, 2),  # equal twice: then it is Rucio's count that is off
    ],
)
async def test_a_cut_listing_of_a_closed_dataset(
    cutting: tuple[Cutting, CachedCatalogue],
    caplog: pytest.LogCaptureFixture,
    cuts: list[int],
    members: int,
    calls: int,
    autojump_clock: MockClock,
) -> None:
    rucio, cache = cutting
    await cache.info(MY, CLOSED)
    rucio.cuts = cuts
    assert len((await cache.content(MY, CLOSED)).value) == members
    assert rucio.calls["content"] == calls
    assert ("s:closed lists 7 members, Rucio counts 10" in caplog.text) == (members == 7)


async def test_two_different_cuts_are_a_failure(
    cutting: tuple[Cutting, CachedCatalogue], autojump_clock: MockClock
) -> None:
    rucio, cache = cutting
    await cache.info(MY, CLOSED)
    rucio.cuts = [3, 4]
    with pytest.raises(Unreachable, match="7, then 6 of 10"):
        await cache.content(MY, CLOSED)
    assert len((await cache.content(MY, CLOSED)).value) == 10


@pytest.mark.parametrize("name", ["s:open", "s:container"])
async def test_no_length_is_expected_of_what_has_none(
    cutting: tuple[Cutting, CachedCatalogue], name: str, autojump_clock: MockClock
) -> None:
    rucio, cache = cutting
    rucio._change(did("s:container"), length=10)  # of a container Rucio counts something else
    await cache.info(MY, did(name))
    rucio.cuts = [1]
    await cache.content(MY, did(name))
    assert rucio.calls["content"] == 1


# --- times of a listing's members --------------------------------------------------------------


@pytest.fixture
def large(rucio: FakeCatalogue) -> DID:
    files = [rucio.file(f"s:{i:04}", created_ns=EPOCH_NS + i * SECOND) for i in range(2500)]
    return rucio.dataset("s:large", *files)


def bulk(rucio: FakeCatalogue) -> int:
    return rucio.calls["infos"]


@pytest.mark.parametrize("backwards", [False, True])
async def test_times_come_a_thousand_at_a_time(
    rucio: FakeCatalogue,
    cache: CachedCatalogue,
    large: DID,
    backwards: bool,
    autojump_clock: MockClock,
) -> None:
    listing = (await cache.content(MY, large)).value
    walk = list(range(2500))
    for position in reversed(walk) if backwards else walk:
        assert await cache.mtime_ns(MY, listing, position) == EPOCH_NS + position * SECOND
    assert bulk(rucio) <= 1 + -(-2500 // BULK_LIMIT)
    assert rucio.calls["info"] == 0


async def test_a_path_that_somebody_named_is_asked_for_alone_once(
    rucio: FakeCatalogue, cache: CachedCatalogue, large: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, large)).value
    assert await cache.mtime_ns(MY, listing, 7, alone=True) == EPOCH_NS + 7 * SECOND
    assert (rucio.calls["info"], bulk(rucio)) == (1, 0)
    await cache.mtime_ns(MY, listing, 7, alone=True)
    assert (rucio.calls["info"], bulk(rucio)) == (1, 0)
    await cache.mtime_ns(MY, listing, 8, alone=True)
    assert (rucio.calls["info"], bulk(rucio)) == (1, 1), "whoever names two may name them all"


async def test_concurrent_askers_share_the_bulk_calls(
    rucio: FakeCatalogue, cache: CachedCatalogue, large: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, large)).value
    rucio.delay = 1.0
    got: dict[int, int] = {}

    async def ask(position: int) -> None:
        got[position] = await cache.mtime_ns(MY, listing, position)

    async with trio.open_nursery() as tasks:
        for position in range(0, 2500, 50):
            tasks.start_soon(ask, position)
    assert got == {i: EPOCH_NS + i * SECOND for i in range(0, 2500, 50)}
    assert bulk(rucio) <= 1 + -(-2500 // BULK_LIMIT)


async def test_a_member_that_is_gone_is_not_found_and_hides_no_other(
    rucio: FakeCatalogue, cache: CachedCatalogue, large: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, large)).value
    rucio.delete("s:0003")
    with pytest.raises(NotFound, match="s:0003"):
        await cache.mtime_ns(MY, listing, 3)
    for position in (2, 4):
        assert await cache.mtime_ns(MY, listing, position) == EPOCH_NS + position * SECOND


@pytest.mark.parametrize("gone", [["s:0003"], ["s:0003", "s:0004", "s:2400"]])
async def test_not_found_is_said_to_who_asked_for_that_member_only(
    rucio: FakeCatalogue,
    cache: CachedCatalogue,
    large: DID,
    gone: list[str],
    autojump_clock: MockClock,
) -> None:
    """All of them wait for the same bulk call, which was made for a member that is gone."""
    listing = (await cache.content(MY, large)).value
    for name in gone:
        rucio.delete(name)
    rucio.blocked = trio.Event()
    answers: dict[int, list[Any]] = {i: [] for i in (3, 2, 4, 2400, 2401)}
    async with trio.open_nursery() as tasks:
        for position, into in answers.items():
            tasks.start_soon(outcome, cache.mtime_ns(MY, listing, position), into)
            await wait_all_tasks_blocked()
        rucio.blocked.set()
    for position, (answer,) in answers.items():
        name = f"s:{position:04}"
        if name in gone:
            assert isinstance(answer, NotFound)
            assert name in str(answer)
        else:
            assert answer == EPOCH_NS + position * SECOND


@pytest.mark.parametrize("method", ["infos", "info"])
async def test_rucio_goes_away_during_a_chunk(
    rucio: FakeCatalogue,
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    large: DID,
    method: str,
    autojump_clock: MockClock,
) -> None:
    listing = (await cache.content(MY, large)).value
    rucio.delete("s:0003")
    failing.fail(method, Unreachable("away"), nth=1)
    with pytest.raises(Unreachable):
        await cache.mtime_ns(MY, listing, 3)
    await trio.sleep(2 * BURST)
    assert await cache.mtime_ns(MY, listing, 4) == EPOCH_NS + 4 * SECOND
    with pytest.raises(NotFound):
        await cache.mtime_ns(MY, listing, 3)


async def test_who_waits_for_a_chunk_that_fails_does_not_ask_again(
    rucio: FakeCatalogue, cache: CachedCatalogue, large: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, large)).value
    rucio.delay, rucio.error = 5.0, Unreachable("away")
    answers: list[Any] = []
    async with trio.open_nursery() as tasks:
        for position in range(20):
            tasks.start_soon(outcome, cache.mtime_ns(MY, listing, position), answers)
    assert [type(answer) for answer in answers] == [Unreachable] * 20
    assert bulk(rucio) == 1


async def test_known_times_need_no_rucio(
    rucio: FakeCatalogue, cache: CachedCatalogue, large: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, large)).value
    await cache.mtime_ns(MY, listing, 0)
    rucio.error = Unreachable("away")
    assert await cache.mtime_ns(MY, listing, 999) == EPOCH_NS + 999 * SECOND


# --- collections of a listing ------------------------------------------------------------------


@pytest.fixture
def datasets(rucio: FakeCatalogue) -> DID:
    return rucio.container("s:many", *(rucio.dataset(f"s:d{i:04}") for i in range(1500)))


async def test_collections_are_asked_for_a_thousand_at_a_time(
    rucio: FakeCatalogue, cache: CachedCatalogue, datasets: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, datasets)).value
    for position in range(1500):
        known = await cache.member_info(MY, listing, position)
        assert known.value.did == listing.members[position].did
        assert known.ttl > 0
    assert (bulk(rucio), rucio.calls["info"]) == (2, 0)


async def test_a_named_collection_is_asked_for_alone_once(
    rucio: FakeCatalogue, cache: CachedCatalogue, datasets: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, datasets)).value
    await cache.member_info(MY, listing, 5, alone=True)
    assert (rucio.calls["info"], bulk(rucio)) == (1, 0)
    await cache.member_info(MY, listing, 6, alone=True)
    assert (rucio.calls["info"], bulk(rucio)) == (1, 1)


async def test_a_collection_that_is_gone_hides_no_other(
    rucio: FakeCatalogue, cache: CachedCatalogue, datasets: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, datasets)).value
    rucio.delete("s:d0003")
    rucio.blocked = trio.Event()
    answers: dict[int, list[Any]] = {i: [] for i in (3, 4, 1400)}
    async with trio.open_nursery() as tasks:
        for position, into in answers.items():
            tasks.start_soon(outcome, cache.member_info(MY, listing, position), into)
            await wait_all_tasks_blocked()
        rucio.blocked.set()
    assert isinstance(answers[3][0], NotFound)
    assert answers[4][0].value.did == did("s:d0004")
    assert answers[1400][0].value.did == did("s:d1400")


@pytest.mark.parametrize("way", ["away", "slow"])
async def test_old_collections_are_shown_while_rucio_is_away(
    rucio: FakeCatalogue, cache: CachedCatalogue, datasets: DID, way: str, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, datasets)).value
    await cache.member_info(MY, listing, 0)
    await trio.sleep(61)
    if way == "away":
        rucio.error = Unreachable("away")
    else:
        rucio.delay = 1000.0
    started = trio.current_time()
    known = await cache.member_info(MY, listing, 0)
    assert known == Known(known.value, 0.0)
    assert trio.current_time() - started <= 2 * CONFIG.stale_after


async def test_one_failure_answers_a_burst_of_questions_and_no_later_one(
    rucio: FakeCatalogue,
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    autojump_clock: MockClock,
) -> None:
    files = rucio.dataset("s:burst", *[rucio.file(f"s:f{n}") for n in range(100)])
    listing = (await cache.content(MY, files)).value
    failing.fail("infos", Unreachable("away"))
    asked = failing.calls["infos"]
    for position in range(100):
        with pytest.raises(Unreachable, match="away"):
            await cache.mtime_ns(MY, listing, position)
        await trio.sleep(BURST / 2)  # a slow `ls -l`, longer in all than a burst's pause
    assert failing.calls["infos"] - asked == 1
    failing.heal()
    with pytest.raises(Unreachable, match="away"):
        await cache.mtime_ns(MY, listing, 0)
    cache.look_anew(MY, listing)
    assert await cache.mtime_ns(MY, listing, 0)


async def test_a_bulk_answer_on_its_way_when_forgotten_is_not_kept(
    rucio: FakeCatalogue, cache: CachedCatalogue, datasets: DID, autojump_clock: MockClock
) -> None:
    listing = (await cache.content(MY, datasets)).value
    rucio.blocked = trio.Event()
    async with trio.open_nursery() as tasks:
        tasks.start_soon(cache.member_info, MY, listing, 0)
        await wait_all_tasks_blocked()
        cache.forget_all()
        rucio.blocked.set()
    assert cache.info_at_hand(MY, did("s:d0001")) is None


# --- bugs and endings --------------------------------------------------------------------------


async def test_a_bug_in_a_question_ends_neither_nursery_nor_cache(
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    failing.fail("info", ValueError("bug"), nth=1)
    with pytest.raises(RucioFsError, match="bug") as caught:
        await cache.info(MY, FILE)
    assert type(caught.value) is RucioFsError
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "ValueError: bug" in caplog.text
    assert (await cache.info(MY, FILE)).value.did == FILE


async def test_a_bug_is_not_papered_over(
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    await cache.info(MY, OPEN)
    await trio.sleep(61)
    failing.fail("info", ValueError("bug"), nth=1)
    with pytest.raises(RucioFsError, match="bug"):
        await cache.info(MY, OPEN)
    assert "Traceback" in caplog.text


async def test_stop_releases_who_waits(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    listing = Listing([Member(FILE, DIDType.FILE, 3)], "s")
    rucio.blocked = trio.Event()
    answers: list[Any] = []
    async with trio.open_nursery() as tasks:
        tasks.start_soon(outcome, cache.info(MY, FILE), answers)
        tasks.start_soon(outcome, cache.scopes(MY), answers)
        tasks.start_soon(outcome, cache.mtime_ns(MY, listing, 0), answers)
        await wait_all_tasks_blocked()
        cache.stop()
    assert [type(answer) for answer in answers] == [Unreachable] * 3
    assert {str(answer) for answer in answers} == {"the mount is ending"}


async def test_stop_releases_who_has_asked_before_a_refresh(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    rucio.blocked = trio.Event()
    answers: list[Any] = []
    with trio.fail_after(1):
        async with trio.open_nursery() as tasks:
            tasks.start_soon(outcome, cache.info(MY, FILE), answers)
            await wait_all_tasks_blocked()
            cache.forget_all()
            cache.stop()
    assert [str(answer) for answer in answers] == ["the mount is ending"]


async def test_nobody_waits_after_stop(
    rucio: FakeCatalogue, cache: CachedCatalogue, autojump_clock: MockClock
) -> None:
    """A handler of many questions asks its next one when the mount is already ending."""
    await cache.info(MY, FILE)
    rucio.blocked = trio.Event()
    cache.stop()
    with trio.fail_after(1):
        with pytest.raises(Unreachable):
            await cache.scopes(MY)
        assert (await cache.info(MY, FILE)).value.did == FILE
    assert rucio.calls["scopes"] == 0


async def test_who_waits_is_released_when_the_nursery_is_cancelled(
    rucio: FakeCatalogue, autojump_clock: MockClock
) -> None:
    rucio.blocked = trio.Event()
    answers: list[Any] = []
    async with trio.open_nursery() as tasks, trio.open_nursery() as nursery:
        cache = CachedCatalogue(rucio, CONFIG, nursery)
        tasks.start_soon(outcome, cache.info(MY, FILE), answers)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [type(answer) for answer in answers] == [Unreachable]


# --- health ------------------------------------------------------------------------------------


async def test_trouble_is_logged_once_and_its_end_too(
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    caplog.set_level(logging.INFO, "rucio_fs")
    await cache.scopes(MY)  # before the first answer, whoever starts the mount says it all
    failing.fail("info", Unreachable("away"))
    for _ in range(3):
        with pytest.raises(Unreachable):
            await cache.info(MY, FILE)
    since = cache.health.trouble_since
    assert since is not None
    failing.heal()
    await cache.info(MY, FILE)
    assert (cache.health.trouble, cache.health.trouble_since) == (None, None)
    levels = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in levels] == ["WARNING", "INFO"]
    assert "away" in levels[0][1]


@pytest.mark.parametrize("error", [NotFound("x"), Denied("x")])
async def test_an_answer_that_pleases_nobody_is_no_trouble(
    failing: FailingCatalogue,
    cache: CachedCatalogue,
    error: RucioFsError,
    autojump_clock: MockClock,
) -> None:
    failing.fail("info", error)
    with pytest.raises(type(error)):
        await cache.info(MY, FILE)
    assert cache.health.trouble is None
