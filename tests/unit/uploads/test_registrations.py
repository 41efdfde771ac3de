"""Files that lie on a mounted RSE are registered where they lie.  A lake in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from lake.rses import hash_path
from rucio_fs.did import DID, DIDType, Identity
from rucio_fs.errors import Refused, Unreachable
from rucio_fs.uploads import registering
from rucio_fs.uploads.in_place import is_same
from rucio_fs.uploads.places import Place
from rucio_fs.uploads.records import Record
from rucio_fs.uploads.registrations import Registrations
from tests.fakes import MY
from tests.unit.uploads.bench import Bench

RSE = "COLO_NDSCRATCHDISK"


@dataclass
class FakeMounted:
    """One RSE, below *directory*."""

    directory: Path
    is_deterministic: bool = False
    error: Unreachable | None = None
    begins: str = "davs://colo_ndscratchdisk/nd/"

    async def of(self, who: Identity, rse: str, path: Path) -> Place:
        if self.error is not None:
            raise self.error
        if rse != RSE or not path.is_relative_to(self.directory):
            raise Refused(f"{path} does not lie at {rse}")
        return Place(RSE, self.directory, self.begins, self.is_deterministic)


class Office:
    """A bench with a storage beside its scratch."""

    def __init__(self, bench: Bench, mounted: FakeMounted) -> None:
        self.bench = bench
        self.mounted = mounted
        self.registrations = Registrations(bench.context, mounted, ["COLO", RSE])
        bench.engine.is_registering = lambda: self.registrations.is_looking
        bench.rules.expressions["*"] |= {RSE}

    def put(self, name: str, data: bytes = b"data") -> Path:
        path = self.mounted.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    async def register(self, path: Path, **terms: Any) -> dict[str, Any]:
        """Have it done; what is told of it in the end."""
        order = {"id": "1", "path": str(path), "recursive": True, "scope": "s"} | terms
        self.registrations.order(json.dumps(order))
        with trio.fail_after(100_000):
            while True:
                facts = self.registrations.facts()[-1]
                if not facts["is_looking"] and not facts["left"]:
                    return facts
                with trio.move_on_after(0.1):
                    await self.bench.ledger.news()

    def errors(self) -> list[str]:
        return [one.error for one in self.bench.ledger if one.is_stopped]


@pytest.fixture
async def office(tmp_path: Path, nursery: trio.Nursery, bench: Bench) -> AsyncIterator[Office]:
    (tmp_path / "nd").mkdir()
    office = Office(bench, FakeMounted(tmp_path / "nd"))
    nursery.start_soon(office.registrations.run)
    yield office
    nursery.cancel_scope.cancel()


async def test_a_tree_is_registered(clock: MockClock, office: Office) -> None:
    office.put("data/README", b"1")
    office.put("data/a/hits", b"22")
    office.put("data/a/deep/er", b"333")
    top = office.mounted.directory / "data"
    facts = await office.register(top)
    assert (facts["files"], facts["failed"], facts["bytes"]) == (3, 0, 6)
    lake = office.bench.lake
    children = {did.name: lake._records[did].children for did in lake._records}
    assert set(children["data"]) == {DID("s", "data__root"), DID("s", "data/a")}
    assert children["data/a/deep"] == [DID("s", "data/a/deep/er")]
    did = DID("s", "data/a/hits")
    (replica,) = (await lake.replicas(office.bench.context.who, did)).replicas
    assert replica.pfn == "davs://colo_ndscratchdisk/nd/data/a/hits"
    assert office.bench.depot.calls.total() == 0
    assert len(office.bench.ledger) == 0, "what is registered is not remembered"


async def test_many_files_are_few_requests(clock: MockClock, office: Office) -> None:
    for number in range(1000):
        office.put(f"data/f{number:04d}", b"%d" % number)
    bench = office.bench
    facts = await office.register(office.mounted.directory / "data")
    assert facts["files"] == 1000
    calls = bench.lake.calls + bench.registry.calls + bench.rules.calls
    assert calls.total() <= 40, calls
    assert office.registrations._jobs[-1].records == [], "nor are they kept in memory"


async def test_it_may_be_asked_for_again(clock: MockClock, office: Office) -> None:
    path = office.put("data/hits")
    await office.register(path.parent)
    rules = office.bench.rules.ids()
    assert (await office.register(path.parent))["failed"] == 0
    assert office.bench.rules.ids() == rules


async def test_what_fails_twice_is_one_failure(clock: MockClock, office: Office) -> None:
    path = office.put("data/a\nb")
    for number in "12":
        facts = await office.register(path.parent, id=number)
        assert (facts["id"], facts["failed"]) == (number, 1)
        (record,) = office.bench.ledger
        assert office.registrations.requests()[record.id] == number


async def test_what_is_brought_elsewhere_is_kept_here(clock: MockClock, office: Office) -> None:
    path = office.put("data/hits")
    bench, did = office.bench, DID("s", "hits")
    office.registrations.order(
        json.dumps({"id": "1", "path": str(path), "scope": "s", "rule": "REM1", "lifetime": 60})
    )
    with trio.fail_after(1000):
        while len(bench.rules.ids(did)) < 2:
            await bench.ledger.news()
    assert {bench.rules.known(one).rse_expression for one in bench.rules.ids(did)} == {RSE, "REM1"}
    bench.rules.arrive(did, rse="REM1")
    with trio.fail_after(1000):
        while len(bench.ledger):
            await bench.ledger.news()
    assert not bench.rules.calls["set_lifetime"]
    assert path.exists()


async def test_one_dataset_for_all(clock: MockClock, office: Office) -> None:
    office.put("data/a/hits", b"1")
    office.put("data/b/hits", b"2")
    await office.register(office.mounted.directory / "data", dataset="all")
    lake = office.bench.lake
    assert len(lake._records[DID("s", "all")].children) == 2
    assert DID("s", "data") not in lake._records
    assert lake._records[DID("s", "all")].info.type is DIDType.DATASET


async def test_a_file_that_changes_before_it_is_registered(
    clock: MockClock, office: Office
) -> None:
    path = office.put("data/hits", b"old")
    office.bench.registry.errors["destination"] = Unreachable("away")
    office.registrations.order(json.dumps({"id": "1", "path": str(path), "scope": "s"}))
    await trio.sleep(5)
    path.write_bytes(b"newer")
    del office.bench.registry.errors["destination"]
    with trio.fail_after(1000):
        while not office.errors():
            await office.bench.ledger.news()
    assert "has changed since it was read: register it again" in office.errors()[0]
    assert DID("s", "hits") not in office.bench.lake._records
    assert (await office.register(path))["failed"] == 0
    assert office.errors() == []


async def test_a_storage_that_does_not_answer_stops_nobody_else(
    clock: MockClock, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[str] = []

    async def elsewhere(call: Callable[[], Any]) -> Any:
        where.append("thread")
        try:
            await trio.lowlevel.checkpoint()
            return call()
        finally:
            where.append("loop")

    def asked(path: Path, record: Record) -> bool:
        assert where[-1:] == ["thread"]
        return is_same(path, record)

    monkeypatch.setattr(registering, "in_thread", elsewhere)
    monkeypatch.setattr(registering, "is_same", asked)
    assert (await office.register(office.put("data/hits")))["failed"] == 0
    assert where


async def test_a_deterministic_storage(clock: MockClock, office: Office) -> None:
    registry = office.bench.registry
    registry.rses[RSE] = replace(registry.rses[RSE], is_deterministic=True)
    office.mounted.is_deterministic = True
    begins = next(iter(registry.rses[RSE].schemes.values()))
    office.mounted.begins = begins
    right, wrong = office.put(hash_path("s", "right")), office.put("s/wrong")
    assert (await office.register(right))["failed"] == 0
    (replica,) = (await office.bench.lake.replicas(MY, DID("s", "right"))).replicas
    assert replica.pfn == f"{begins}{hash_path('s', 'right')}"
    assert (await office.register(wrong))["failed"] == 1
    assert office.errors()[0].startswith(f"{wrong} is not where {RSE} keeps s:wrong: that is ")
    assert DID("s", "wrong") not in office.bench.lake._records


async def test_rucio_is_waited_for(clock: MockClock, office: Office) -> None:
    path = office.put("data/hits")
    office.mounted.error = Unreachable("Rucio is away")
    office.registrations.order(json.dumps({"id": "1", "path": str(path), "scope": "s"}))
    await trio.sleep(60)
    facts = office.registrations.facts()[0]
    assert (facts["is_looking"], facts["error"]) == (True, "Rucio is away")
    office.mounted.error = None
    await trio.sleep(60)
    facts = office.registrations.facts()[0]
    assert (facts["is_looking"], facts["left"], "error" in facts) == (False, 0, False)


async def test_what_cannot_be_registered_is_told_once(clock: MockClock, office: Office) -> None:
    """However often Rucio has to be asked, and however often its user asks."""
    bench, path = office.bench, office.put("data/wrong__root")
    office.put("data/hits")
    bench.lake.error = Unreachable("Rucio is away")
    order = {"id": "1", "path": str(path.parent), "recursive": True, "scope": "s"}
    office.registrations.order(json.dumps(order))
    await trio.sleep(3600)
    assert len(bench.ledger) <= 1
    bench.lake.error = None
    await trio.sleep(60)
    assert len(office.errors()) == 1
    for _ in range(2):
        facts = await office.register(path.parent)
        assert (facts["failed"], len(office.errors())) == (1, 1)
    path.rename(path.with_name("right"))
    assert (await office.register(path.parent))["failed"] == 0
    assert len(bench.ledger) == 0


async def test_a_retry_leaves_what_was_never_looked_at(clock: MockClock, office: Office) -> None:
    path = office.put("data/wrong__root")
    await office.register(path)
    assert office.bench.engine.retry() == 0
    assert office.registrations.facts()[-1]["failed"] == 1, "nobody would take it up"
    assert len(office.errors()) == 1


async def test_what_lies_in_scratch_or_elsewhere(
    clock: MockClock, office: Office, tmp_path: Path
) -> None:
    office.bench.save("s/hits")
    facts = await office.register(office.bench.staged.tree / "s")
    assert "what lies in scratch is registered by itself" in facts["error"]
    facts = await office.register(tmp_path)
    assert "what lies in scratch is registered by itself" in facts["error"]
    other = tmp_path / "file"
    other.write_bytes(b"x")
    facts = await office.register(other)
    assert "name the RSE it lies at (--rse)" in facts["error"]
    assert "does not lie at COLO" in facts["error"]


async def test_links_are_not_followed(clock: MockClock, office: Office, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    (office.put("data/hits").parent / "link").symlink_to(secret)
    assert (await office.register(office.mounted.directory / "data"))["files"] == 1
    facts = await office.register(office.mounted.directory / "data/link")
    assert facts["error"].endswith("is neither a file nor a directory")


async def test_the_scope_of_who_has_one(clock: MockClock, office: Office) -> None:
    path = office.put("hits")
    office.bench.lake.scope("mock")
    assert (await office.register(path, scope=""))["failed"] == 0
    assert DID("s", "hits") in office.bench.lake._records
    office.bench.lake.scope("t")
    facts = await office.register(path, scope="")
    assert facts["error"] == "say which scope it belongs in (--scope): s, t"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"id": "1"}',
        '{"id": "1", "path": "x"}',
        '{"id": "1", "path": "/x", "other": 1}',
        '{"id": "1", "path": "/x", "lifetime": 0}',
        '{"id": 1, "path": "/x"}',
    ],
)
async def test_orders_that_are_none(clock: MockClock, office: Office, text: str) -> None:
    with pytest.raises(Refused):
        office.registrations.order(text)
    assert office.registrations.facts() == []
