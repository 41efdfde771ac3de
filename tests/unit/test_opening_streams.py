"""Opening what is streamed: replicas over HTTP, of now."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from rucio_fs.availability import Elsewhere, Policy, Site, Stream
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.config import CacheConfig
from rucio_fs.did import DID, FileReplicas, Identity, Replica
from rucio_fs.errors import NotYetHere
from rucio_fs.opening import Opener
from tests.fakes import MY, FakeCatalogue, did

F = did("s:f")
DATA = b"hello\n"


@pytest.fixture
def rucio() -> FakeCatalogue:
    fake = FakeCatalogue()
    fake.file(F, DATA)
    return fake


class FakeStreams:
    """Opens what it is told to, and remembers the PFNs."""

    def __init__(self) -> None:
        self.pfns: list[str] = []

    async def open(self, who: Identity, file: FileReplicas, replicas: Any, of_now: Any) -> Any:
        self.pfns += [one.pfn for one in replicas]
        return Empty()

    def may_be_kept(self, did: DID) -> bool:
        return True

    def trouble(self, did: DID) -> None:
        return None


class Empty:
    size = 0

    def close(self) -> None: ...


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


@pytest.fixture
def streaming(rucio: FakeCatalogue, nursery: trio.Nursery, streams: Any) -> Opener:
    """For a mount that streams, and has no site."""
    return Opener(
        CachedCatalogue(rucio, CacheConfig(), nursery),
        Site.of("site", None, {}, ()),
        timeout=60.0,
        now_ttl=0.0,
        policy=Policy(streams=True),
        streams=streams,
    )


def over_http(rucio: FakeCatalogue, rse: str) -> None:
    """A replica of which Rucio's best PFN is root://, and another one https://."""
    best = Replica(rse, f"root://{rse.lower()}/f", False)
    rucio.replica(F, rse, best.pfn)
    rucio.over[best] = Replica(rse, f"https://{rse.lower()}/f", False)


async def test_what_is_told_of_a_file_knows_of_new_replicas_over_http(
    rucio: FakeCatalogue, streaming: Opener
) -> None:
    rucio.replica(F, "OLD", "root://old/f")
    assert isinstance((await streaming.prospect(MY, F)).decision, Elsewhere)
    over_http(rucio, "NEW")
    assert isinstance((await streaming.prospect(MY, F)).decision, Stream)


@pytest.mark.parametrize("is_seen", [False, True])
async def test_an_open_does_not_fail_for_want_of_a_new_replica_over_http(
    rucio: FakeCatalogue, streaming: Opener, streams: FakeStreams, is_seen: bool
) -> None:
    rucio.replica(F, "OLD", "root://old/f")
    with pytest.raises(NotYetHere):
        await streaming.open(MY, F)
    over_http(rucio, "NEW")
    if is_seen:  # but not, which of its PFNs can be streamed
        await streaming._catalogue.replicas(MY, F, max_age=0.0)
    (await streaming.open(MY, F)).close()
    assert streams.pfns == ["https://new/f"]
