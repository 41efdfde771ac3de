"""Whom to ask next: Rucio's order, but for who has failed, is slow, or has given wrong bytes."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from rucio_fs.did import Replica
from rucio_fs.streams.candidates import Candidate, Candidates
from rucio_fs.streams.failures import (
    Broken,
    Busy,
    Failure,
    Missing,
    NoRanges,
    Spoiled,
    Unauthorized,
)
from rucio_fs.streams.storages import Storages


def replica(rse: str, pfn: str = "", *, is_tape: bool = False) -> Replica:
    return Replica(rse, pfn or f"https://{rse.lower()}.example/f", is_tape=is_tape)


@pytest.fixture
def clock() -> MockClock:
    return MockClock()


def of(*rses: str) -> Candidates:
    return Candidates([replica(rse) for rse in rses], Storages(8, 32))


def order(candidates: Candidates) -> list[str]:
    return [one.rse for one in candidates.usable()]


def one(candidates: Candidates, rse: str) -> Candidate:
    return next(candidate for candidate in candidates._all if candidate.rse == rse)


# --- the order -----------------------------------------------------------------------------------


async def test_it_is_rucios() -> None:
    assert order(of("B", "A", "C")) == ["B", "A", "C"]
    assert order(of()) == []


async def test_what_cannot_be_streamed_is_none() -> None:
    found = Candidates(
        [
            replica("ROOT", "root://host//f"),
            replica("TAPE", is_tape=True),
            replica("DAVS", "davs://host/f"),
            replica("ODD", "https://host:port/f"),
            replica("NOTHING", "https:///f"),
        ],
        Storages(8, 32),
    )
    assert order(found) == ["DAVS"]
    assert len(found) == 1


async def test_who_failed_just_now_comes_last_for_a_while(clock: MockClock) -> None:
    found = of("A", "B", "C")
    one(found, "A").storage.failed()
    assert order(found) == ["B", "C", "A"]
    clock.jump(0.6)
    assert order(found) == ["A", "B", "C"]


async def test_of_those_set_back_who_may_be_asked_soonest_is_first(clock: MockClock) -> None:
    """Whoever waits for the first waits no longer than it has to."""
    found = of("A", "B", "C")
    one(found, "A").storage.failed(20.0)
    one(found, "B").storage.failed(1.0)
    one(found, "C").storage.failed(5.0)
    assert order(found) == ["B", "C", "A"]


async def test_the_slow_come_after_the_fast(clock: MockClock) -> None:
    found = of("SLOW", "FAST", "UNKNOWN")
    one(found, "SLOW").storage.succeeded(1 << 20, 5.0)
    one(found, "FAST").storage.succeeded(1 << 20, 1.0)
    assert order(found) == ["FAST", "UNKNOWN", "SLOW"]


async def test_a_little_slower_is_not_slow(clock: MockClock) -> None:
    found = of("NEAR", "FAR")
    one(found, "NEAR").storage.succeeded(1 << 20, 3.9)
    one(found, "FAR").storage.succeeded(1 << 20, 1.0)
    assert order(found) == ["NEAR", "FAR"]


async def test_who_sends_whole_files_only_is_the_last_choice_of_the_ready(
    clock: MockClock,
) -> None:
    found = of("WHOLE", "SLOW", "BUSY", "GOOD")
    found.failed(one(found, "WHOLE"), NoRanges("whole files only"))
    one(found, "SLOW").storage.succeeded(1 << 20, 10.0)
    one(found, "GOOD").storage.succeeded(1 << 20, 1.0)
    one(found, "BUSY").storage.failed()
    assert order(found) == ["GOOD", "SLOW", "WHOLE", "BUSY"]
    assert one(found, "WHOLE").reason == "", "it is still asked"


async def test_two_replicas_at_one_server_share_what_is_known_of_it() -> None:
    found = Candidates(
        [replica("A", "https://host/a"), replica("B", "https://host/b"), replica("C")],
        Storages(8, 32),
    )
    one(found, "A").storage.failed()
    assert order(found) == ["C", "A", "B"]


async def test_who_has_given_wrong_bytes_is_asked_last() -> None:
    found = of("A", "B", "C", "D")
    found.distrust(["A", "C", "UNKNOWN"])
    assert order(found) == ["B", "D", "A", "C"]


async def test_distrust_outlasts_what_rucio_says_anew() -> None:
    found = of("A", "B")
    found.distrust(["A"])
    found.update([replica("A"), replica("B"), replica("C")])
    assert order(found) == ["B", "C", "A"]
    found.forgive()
    assert order(found) == ["B", "C", "A"]


async def test_being_fast_does_not_make_up_for_wrong_bytes() -> None:
    found = of("A", "B")
    one(found, "A").storage.succeeded(1 << 24, 0.01)
    one(found, "B").storage.succeeded(1 << 20, 10.0)
    assert order(found) == ["A", "B"]
    found.distrust(["A"])
    assert order(found) == ["B", "A"]


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Missing("404"), Spoiled("size 7")], ids=repr)
async def test_a_final_failure_is_for_good(failure: Failure) -> None:
    found = of("A", "B")
    found.failed(one(found, "A"), failure)
    assert order(found) == ["B"]
    assert found.reasons() == f"A: {failure}; B: no answer yet"
    assert repr(one(found, "A")) == f"<Candidate A: {failure}>"


@pytest.mark.parametrize(
    "failure", [Broken("reset"), Busy("503"), Unauthorized("401"), NoRanges("200")], ids=repr
)
async def test_another_failure_is_not(failure: Failure) -> None:
    found = of("A", "B")
    found.failed(one(found, "A"), failure)
    assert set(order(found)) == {"A", "B"}
    assert found.reasons() == f"A: {failure}; B: no answer yet"
    found.give_up(one(found, "A"))
    assert order(found) == ["B"]
    found.give_up(one(found, "B"))
    assert order(found) == []
    assert "B: it gives nothing" in found.reasons()


async def test_whoever_opens_the_file_anew_has_everybody_asked_again() -> None:
    found = of("A", "B")
    for rse in ("A", "B"):
        found.failed(one(found, rse), Missing("404"))
    assert order(found) == []
    found.forgive()
    assert order(found) == ["A", "B"]


# --- what Rucio says now -------------------------------------------------------------------------


async def test_who_is_known_keeps_what_is_known_of_him() -> None:
    found = of("A", "B")
    found.failed(one(found, "A"), Missing("404"))
    found.failed(one(found, "B"), NoRanges("200"))
    assert not found.update([replica("A"), replica("B")])
    assert order(found) == ["B"]
    assert one(found, "B").whole_only


async def test_news_is_somebody_who_was_not_known() -> None:
    found = of("A")
    assert not found.update([replica("A")])
    assert found.update([replica("A"), replica("B")])
    assert not found.update([replica("B")])
    assert order(found) == ["B"]
    assert found.update([replica("B", "https://b.example/moved")])
    assert not found.update([replica("ROOT", "root://host//f")])
    assert order(found) == []


# --- wrong bytes ---------------------------------------------------------------------------------


async def test_one_alone_that_gave_wrong_bytes_is_not_asked_again() -> None:
    found = of("A", "B", "C")
    found.spoiled({"A"}, "wrong adler32")
    assert order(found) == ["B"], "from now on one at a time"
    assert "A: wrong adler32" in found.reasons()


async def test_of_several_nobody_knows_who_it_was() -> None:
    """They are asked one at a time, those who had no part in it first."""
    found = of("A", "B", "C")
    found.spoiled({"A", "B"}, "wrong adler32")
    assert order(found) == ["C"]
    found.spoiled({"C"}, "wrong adler32")
    assert order(found) == ["A"]
    found.spoiled({"A"}, "wrong adler32")
    assert order(found) == ["B"]
    found.spoiled({"B"}, "wrong adler32")
    assert order(found) == []


async def test_what_is_not_a_replica_any_more_may_have_been_it() -> None:
    found = of("A", "B")
    found.update([replica("A")])
    found.spoiled({"A", "B"}, "wrong adler32")
    assert order(found) == ["A"]


async def test_all_ways_to_one_replica_gave_it() -> None:
    found = Candidates(
        [replica("A", "https://a/f"), replica("A", "davs://a:1094/f"), replica("B")],
        Storages(8, 32),
    )
    found.spoiled({"A"}, "wrong adler32")
    assert order(found) == ["B"]
    found.give_up(one(found, "B"))
    assert order(found) == []


async def test_wrong_bytes_from_the_cache_are_nobodys() -> None:
    found = of("A", "B")
    found.spoiled(set(), "wrong adler32")
    assert order(found) == ["A"]
    assert "wrong" not in found.reasons()


async def test_the_one_that_is_asked_alone_fails_and_the_next_one_is() -> None:
    found = of("A", "B", "C")
    found.spoiled({"A", "B", "C"}, "wrong adler32")
    assert order(found) == ["A"]
    found.failed(one(found, "A"), Missing("404"))
    assert order(found) == ["B"]
    found.give_up(one(found, "C"))
    assert order(found) == ["B"]
    found.failed(one(found, "B"), Missing("404"))
    assert order(found) == []


async def test_the_one_that_is_asked_alone_is_waited_for_while_it_is_set_back() -> None:
    found = of("A", "B")
    found.spoiled({"A", "B"}, "wrong adler32")
    found.failed(one(found, "A"), Busy("503"))
    one(found, "A").storage.failed()
    assert order(found) == ["A"]


async def test_the_one_that_is_asked_alone_may_vanish() -> None:
    """Signed PFNs are new ones at each answer of Rucio."""
    found = of("A", "B")
    found.spoiled({"A", "B"}, "wrong adler32")
    found.update([replica("A", "https://a.example/f?signed=2"), replica("B")])
    assert order(found) == ["A"]
    found.update([replica("B")])
    assert order(found) == ["B"]


async def test_forgiven_they_are_still_asked_one_at_a_time() -> None:
    found = of("A", "B")
    found.spoiled({"A"}, "wrong adler32")
    found.spoiled({"B"}, "wrong adler32")
    assert order(found) == []
    found.forgive()
    assert order(found) == ["B"]
    found.failed(one(found, "B"), Missing("404"))
    assert order(found) == ["A"]
    found.forgive()
    assert order(found) == ["A"], "half of the file may be here: it goes on with the same one"


async def test_somebody_new_is_asked_alone_as_well() -> None:
    found = of("A")
    found.spoiled({"A"}, "wrong adler32")
    assert found.update([replica("A"), replica("B"), replica("C")])
    assert order(found) == ["B"]


async def test_without_wrong_bytes_all_are_asked() -> None:
    found = of("A", "B")
    for rse in ("A", "B"):
        found.give_up(one(found, rse))
    found.update([replica("A"), replica("B"), replica("C"), replica("D")])
    assert order(found) == ["C", "D"]
