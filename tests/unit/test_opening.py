"""From a DID to its bytes: what is tried, in which order, and what is told in the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from rucio_fs.availability import Arriving, Elsewhere, Local, Policy, Site
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.config import CacheConfig
from rucio_fs.did import DID
from rucio_fs.errors import Corrupt, NoReplica, NotFound, NotYetHere, TooSlow, Unreachable
from rucio_fs.opening import Opener
from rucio_fs.sources.local import LocalSource
from rucio_fs.streams.streams import Streams
from tests.fakes import MY, FakeCatalogue, did

F = did("s:f")
DATA = b"hello\n"


@pytest.fixture
def rucio() -> FakeCatalogue:
    fake = FakeCatalogue()
    fake.file(F, DATA)
    return fake


@pytest.fixture
def opener(rucio: FakeCatalogue, nursery: trio.Nursery) -> Opener:
    cache = CachedCatalogue(rucio, CacheConfig(), nursery)
    return Opener(cache, Site.of("site", "COLO", {}, ()), timeout=60.0, now_ttl=0.0)


def copy(rucio: FakeCatalogue, path: Path, rse: str = "COLO", data: bytes = DATA) -> None:
    path.write_bytes(data)
    rucio.replica(F, rse, path.as_uri())


async def content(opener: Opener) -> bytes:
    opened = await opener.open(MY, F)
    try:
        return bytes(await opened.source.read(0, 100))
    finally:
        opened.close()


async def test_the_colocated_copy_is_read(
    rucio: FakeCatalogue, opener: Opener, tmp_path: Path
) -> None:
    copy(rucio, tmp_path / "other", "OTHER", b"other\n")
    copy(rucio, tmp_path / "colo", "COLO", DATA)
    assert await content(opener) == DATA
    assert rucio.calls == {"replicas": 1}


async def test_the_next_copy_is_read_if_the_first_cannot_be(
    rucio: FakeCatalogue, opener: Opener, tmp_path: Path
) -> None:
    copy(rucio, tmp_path / "colo", "COLO", b"short")
    copy(rucio, tmp_path / "other", "OTHER")
    assert await content(opener) == DATA


async def test_every_copy_that_failed_is_named(
    rucio: FakeCatalogue, opener: Opener, tmp_path: Path
) -> None:
    copy(rucio, tmp_path / "colo", "COLO", b"short")
    rucio.replica(F, "OTHER", (tmp_path / "gone").as_uri())
    with pytest.raises(Corrupt) as caught:
        await opener.open(MY, F)
    for part in ("s:f", "COLO", "OTHER", "5 bytes", str(tmp_path / "gone")):
        assert part in str(caught.value)


async def test_a_storage_that_does_not_answer_is_worth_another_try(
    rucio: FakeCatalogue, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One copy is missing, the other cannot be asked: nobody knows that the data is lost."""
    rucio.replica(F, "COLO", (tmp_path / "gone").as_uri())
    copy(rucio, tmp_path / "hangs", "OTHER")
    really_open = LocalSource.open

    async def hang(path: str, size: int, timeout: float) -> LocalSource:
        if path.endswith("hangs"):
            raise TooSlow("no answer")
        return await really_open(path, size, timeout)

    monkeypatch.setattr(LocalSource, "open", hang)
    with pytest.raises(Unreachable, match="OTHER: no answer"):
        await opener.open(MY, F)


@pytest.mark.parametrize("error", [Corrupt, NotYetHere, NoReplica])
async def test_bad_news_is_checked_against_now(
    rucio: FakeCatalogue, opener: Opener, tmp_path: Path, error: type[Exception]
) -> None:
    if error is Corrupt:
        copy(rucio, tmp_path / "f", data=b"short")
    elif error is NotYetHere:
        rucio.replica(F, "FAR", "https://far/f")
    with pytest.raises(error):
        await opener.open(MY, F)
    assert rucio.calls["replicas"] == 2, "asked again before it was told"
    copy(rucio, tmp_path / "new")
    assert await content(opener) == DATA, "the news is better"
    assert rucio.calls["replicas"] == 3


async def test_news_that_cannot_be_checked_is_not_told(
    rucio: FakeCatalogue, opener: Opener, tmp_path: Path
) -> None:
    copy(rucio, tmp_path / "f")
    await content(opener)
    (tmp_path / "f").unlink()
    rucio.error = Unreachable("away")
    with pytest.raises(Unreachable):
        await opener.open(MY, F)


async def test_a_did_that_rucio_does_not_know(rucio: FakeCatalogue, opener: Opener) -> None:
    rucio.delete(F)
    with pytest.raises(NotFound):
        await opener.open(MY, F)
    with pytest.raises(NotFound):
        await opener.prospect(MY, F)


async def test_what_to_do_is_said(rucio: FakeCatalogue, opener: Opener) -> None:
    with pytest.raises(NoReplica, match=r"s:f has no available replica \(none at all"):
        await opener.open(MY, F)
    rucio.replica(F, "LOST", state="BAD")
    with pytest.raises(NoReplica, match=r"s:f has no available replica \(LOST BAD\)"):
        await opener.open(MY, F)
    rucio.replica(F, "FAR", "https://far/f")
    with pytest.raises(NotYetHere, match=r"s:f has no replica at this site \(COLO\).*FAR.*rule"):
        await opener.open(MY, F)
    rucio.replica(F, "COLO", state="COPYING")
    with pytest.raises(NotYetHere, match="being copied to COLO"):
        await opener.open(MY, F)


# --- prospect ----------------------------------------------------------------------------------


async def test_a_prospect_is_what_open_would_find(
    rucio: FakeCatalogue, opener: Opener, tmp_path: Path
) -> None:
    rucio.replica(F, "FAR", "https://far/f")
    prospect = await opener.prospect(MY, F)
    assert prospect.decision == Elsewhere(("FAR",))
    assert isinstance(prospect.error, NotYetHere)

    rucio.replica(F, "COLO", state="COPYING")
    assert (await opener.prospect(MY, F)).decision == Arriving("COLO")

    copy(rucio, tmp_path / "f", data=b"short")
    prospect = await opener.prospect(MY, F)
    assert isinstance(prospect.decision, Local)
    assert isinstance(prospect.error, Corrupt)

    copy(rucio, tmp_path / "f")
    prospect = await opener.prospect(MY, F)
    assert prospect.error is None
    assert prospect.file.size == len(DATA)


async def test_nothing_stays_open(rucio: FakeCatalogue, opener: Opener, tmp_path: Path) -> None:
    copy(rucio, tmp_path / "f")
    before = os.listdir("/proc/self/fd")
    await content(opener)
    await opener.prospect(MY, F)
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_a_prospect_is_no_old_answer(rucio: FakeCatalogue, opener: Opener) -> None:
    await opener.prospect(MY, F)
    rucio.error = Unreachable("away")
    with pytest.raises(Unreachable):
        await opener.prospect(MY, F)


async def test_a_pfn_that_leads_nowhere_here_asks_for_the_configuration(
    rucio: FakeCatalogue, opener: Opener
) -> None:
    rucio.replica(F, "COLO", "davs://colo/f", is_lan=False)
    with pytest.raises(NotYetHere, match=r"at COLO as davs://colo/f.*site\.paths"):
        await opener.open(MY, F)


# --- a copy that is damaged ----------------------------------------------------------------------


class FakeStreams:
    """Streams nothing; *words* are what the last read failed with."""

    words: Unreachable | None = None

    async def open(self, *_: Any) -> Any:
        return type("Stream", (), {"size": len(DATA), "close": lambda self: None})()

    def may_be_kept(self, _: DID) -> bool:
        return True

    def trouble(self, _: DID) -> Unreachable | None:
        return self.words


Problems = list[tuple[DID, str, str]]


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


@pytest.fixture
def problems() -> Problems:
    return []


@pytest.fixture
def streaming(
    rucio: FakeCatalogue, nursery: trio.Nursery, streams: FakeStreams, problems: Problems
) -> Opener:
    return Opener(
        CachedCatalogue(rucio, CacheConfig(), nursery),
        Site.of("site", "COLO", {}, ()),
        timeout=60.0,
        now_ttl=0.0,
        policy=Policy(streams=True),
        streams=cast("Streams", streams),
        on_problem=lambda *problem: problems.append(problem),
    )


async def test_what_is_streamed_in_place_of_a_damaged_copy_can_be_read(
    rucio: FakeCatalogue,
    streaming: Opener,
    streams: FakeStreams,
    problems: Problems,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy(rucio, tmp_path / "f", data=b"short")
    rucio.replica(F, "FAR", "davs://far/f", is_lan=False)
    prospect = await streaming.prospect(MY, F)
    assert isinstance(prospect.decision, Local)
    assert prospect.error is None
    assert isinstance(prospect.damage, Corrupt)
    assert [one.rse for one in prospect.fallback] == ["FAR"]
    assert problems == [], "nobody has tried to read it"

    (await streaming.open(MY, F)).close()
    ((found, state, words),) = problems
    assert (found, state) == (F, "DAMAGED")
    assert "COLO" in words
    assert words.endswith("; it is streamed from FAR")
    assert words in caplog.messages

    streams.words = Unreachable("FAR is away")
    assert (await streaming.prospect(MY, F)).error is streams.words


async def test_a_damaged_copy_that_nothing_replaces_is_a_problem(
    rucio: FakeCatalogue, streaming: Opener, problems: Problems, tmp_path: Path
) -> None:
    copy(rucio, tmp_path / "f", data=b"short")
    prospect = await streaming.prospect(MY, F)
    assert prospect.error is prospect.damage
    assert prospect.fallback == ()
    with pytest.raises(Corrupt) as caught:
        await streaming.open(MY, F)
    assert problems == [(F, "UNREADABLE", str(caught.value))]


async def test_a_file_that_is_nowhere_is_no_problem_of_a_storage(
    rucio: FakeCatalogue, streaming: Opener, problems: Problems
) -> None:
    with pytest.raises(NoReplica):
        await streaming.open(MY, F)
    assert problems == []
