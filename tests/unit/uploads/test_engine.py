"""From a saved file to the lake, whatever fails on the way.  Real files, a lake in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.depot.failures import Full
from rucio_fs.did import DID, DIDType, RuleState
from rucio_fs.errors import Denied, LoginFailed, Unreachable
from rucio_fs.uploads import confirming, naming
from rucio_fs.uploads.arranging import datasets_for
from rucio_fs.uploads.options import Options
from rucio_fs.uploads.records import Record, State
from rucio_fs.uploads.resuming import resume
from rucio_fs.webdav.addresses import SCHEMES
from tests.fakes import MY
from tests.unit.uploads.bench import Bench, numbered
from tests.unit.uploads.conftest import MakeBench


async def test_a_saved_file_is_in_the_lake(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/hits.root", b"bytes")
    await bench.done("s/hits.root")
    assert bench.is_in_lake(did, b"bytes")
    assert len(bench.rules.ids(did)) == 1
    assert bench.litter() == []


async def test_a_directory_becomes_a_dataset(clock: MockClock, bench: Bench) -> None:
    dids = [bench.save(f"s/run/{name}", name.encode()) for name in "abc"]
    await bench.done("s/run/a", "s/run/b", "s/run/c")
    assert all(bench.is_in_lake(did, did.name[-1].encode()) for did in dids)
    run = DID("s", "run")
    assert bench.lake._records[run].info.type is DIDType.DATASET
    assert sorted(bench.lake._records[run].children) == dids
    assert len(bench.rules.ids(run)) == 1
    assert len(bench.rules.ids()) == 1, "one rule for all of it"


async def test_what_lies_beside_directories(clock: MockClock, bench: Bench) -> None:
    """As the tree in scratch, so the tree in the lake."""
    readme = bench.save("s/run/README", b"1")
    hits = bench.save("s/run/a/hits", b"2")
    deep = bench.save("s/run/a/b/deep", b"3")
    await bench.done("s/run/README", "s/run/a/hits", "s/run/a/b/deep")
    children = {did.name: bench.lake._records[did].children for did in bench.lake._records}
    assert children["run"] == [DID("s", "run__root"), DID("s", "run/a")] or children["run"] == [
        DID("s", "run/a"),
        DID("s", "run__root"),
    ]
    assert children["run__root"] == [readme]
    assert children["run/a__root"] == [hits]
    assert children["run/a/b"] == [deep]


async def test_many_files_are_few_requests(clock: MockClock, bench: Bench) -> None:
    paths = [f"s/run/f{number:05d}" for number in range(1000)]
    for path in paths:
        bench.save(path, path.encode())
    bench.lake.calls.clear()
    await bench.done(*paths)
    calls = bench.lake.calls + bench.registry.calls + bench.rules.calls
    assert calls.total() <= 100, calls
    assert bench.depot.calls["put"] == 1000
    assert bench.depot.most_at_once <= 4


async def test_files_are_left_alone_while_they_change(clock: MockClock, bench: Bench) -> None:
    for number in range(20):
        bench.save("s/run/growing", b"x" * number)
        await trio.sleep(4)
    assert bench.depot.calls["put"] == 0
    did = bench.save("s/run/growing", b"whole")
    await bench.done("s/run/growing")
    assert bench.is_in_lake(did, b"whole")


async def test_a_file_that_is_open_waits(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/open")
    bench.staged.writing.add(bench.ino("s/run/open"))
    other = bench.save("s/run/closed")
    await bench.done("s/run/closed")
    assert bench.is_in_lake(other, b"data")
    assert bench.ledger.at("s/run/open") is None
    bench.staged.writing.clear()
    bench.settling.changed("s/run")
    await bench.done("s/run/open")


async def test_what_the_lake_has_is_not_sent_again(clock: MockClock, bench: Bench) -> None:
    did = bench.lake.file("s:run/old", b"same", replicas={"REM1": "davs://rem1/x"})
    bench.save("s/run/old", b"same")
    await bench.until("s/run/old", "REPLICATING")
    assert bench.depot.calls["put"] == 0
    assert bench.lake._records[DID("s", "run")].children == [did]
    assert len(bench.rules.ids()) == 1
    bench.rules.arrive(did)
    await bench.done("s/run/old")


@pytest.mark.parametrize("kind", ["file", "dataset"])
async def test_a_name_that_is_taken_by_something_else(
    clock: MockClock, bench: Bench, kind: str
) -> None:
    if kind == "file":
        bench.lake.file("s:run/mine", b"other", replicas={"COLO": "davs://colo/x"})
    else:
        bench.lake.dataset("s:run/mine")
    bench.save("s/run/mine", b"mine")
    record = await bench.until("s/run/mine", "FAILED")
    assert "s:run/mine: " in record.error
    assert "rename yours" in record.error
    assert bench.depot.calls["put"] == 0
    # Renaming is enough, as the overseer and the staging area then do:
    bench.ledger.drop(record)
    (bench.staged.tree / "s/run/mine").rename(bench.staged.tree / "s/run/yours")
    bench.settling.changed("s/run")
    await bench.done("s/run/yours")
    assert bench.is_in_lake(DID("s", "run/yours"), b"mine")


# --- what fails ----------------------------------------------------------------------------------

AWAY = Unreachable("away")


@pytest.mark.parametrize("method", ["put", "adler32", "move"])
@pytest.mark.parametrize("times", [1, 5])
async def test_the_storage_is_away(clock: MockClock, bench: Bench, method: str, times: int) -> None:
    did = bench.save("s/run/a", b"bytes")
    bench.depot.errors[method] += [AWAY] * times
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"bytes")
    assert bench.litter() == []


@pytest.mark.parametrize(
    "method", ["destination", "pfns", "add_files", "add_collections", "attach"]
)
async def test_rucio_is_away_for_days(clock: MockClock, bench: Bench, method: str) -> None:
    dids = [bench.save(f"s/run/f{number}", b"bytes") for number in range(20)]
    bench.registry.errors[method] = AWAY
    began = bench.registry.calls[method]
    await trio.sleep(3 * 86400)
    assert bench.registry.calls[method] - began <= 3 * 24 * 60 + 20, "it is not hammered"
    assert bench.engine.rucio.reason == "away"
    del bench.registry.errors[method]
    await bench.done(*(f"s/run/f{number}" for number in range(20)))
    assert all(bench.is_in_lake(did, b"bytes") for did in dids)


async def test_what_waits_for_a_storage_takes_no_time_of_what_is_saved(
    clock: MockClock, bench: Bench
) -> None:
    """100,000 files that wait would be looked at again with each one that is saved."""
    looked_at = 0

    class Counting(dict[int, Record]):
        def values(self) -> Any:
            nonlocal looked_at
            for one in super().values():
                looked_at += 1
                yield one

    bench.ledger._ready[State.UPLOADING] = Counting()
    bench.depot.errors["put"] = [AWAY] * 100
    for path in numbered(200):
        bench.save(path)
    await bench.until("s/run/f00000", "UPLOADING 0%")
    bench.engine.storages["COLO"]._until = trio.current_time() + 1000
    await trio.sleep(10)
    looked_at = 0
    for number in range(100):
        bench.save(f"s/more/f{number}")
        bench.ledger.tell()
        await trio.sleep(0.1)
    assert looked_at < 1000
    bench.depot.errors.clear()
    bench.engine.storages["COLO"].end()
    bench.ledger.tell()
    await bench.done(*numbered(200), "s/more/f99")


async def test_many_files_of_a_directory_stop_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they become is found out in the event loop, for 100,000 of them at once."""
    named, did_of = 0, naming.did_of

    def counting(path: str) -> DID:
        nonlocal named
        named += 1
        return did_of(path)

    monkeypatch.setattr(naming, "did_of", counting)
    paths = [f"s/run/a{number % 10}/f{number}" for number in range(1000)]
    datasets = await datasets_for(bench.context, paths, {"s/run": True}, {})
    assert datasets["s/run/a3/f13"] == DID("s", "run/a3")
    assert named < 100


async def test_much_that_is_left_on_storage_is_removed_in_time(
    clock: MockClock, bench: Bench
) -> None:
    looked_at = 0

    class Counting(set[str]):
        def __iter__(self) -> Iterator[str]:
            nonlocal looked_at
            for one in super().__iter__():
                looked_at += 1
                yield one

    bench.depot.objects = {f"davs://colo/f{number}": b"" for number in range(300)}
    bench.depot.errors["delete"] = [AWAY]
    bench.journal.litter = Counting(bench.depot.objects)
    bench.ledger.tell()
    await trio.sleep(100)
    assert not bench.depot.objects
    assert looked_at < 1000


async def test_all_of_rucio_is_away(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/run/a", b"bytes")
    bench.lake.error = bench.registry.error = bench.rules.error = AWAY
    await trio.sleep(86400)
    bench.lake.error = bench.registry.error = bench.rules.error = None
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"bytes")


async def test_answers_that_are_lost(clock: MockClock, bench: Bench) -> None:
    """What was done all the same is not done twice."""
    dids = [bench.save(f"s/run/f{number}", b"bytes") for number in range(5)]
    bench.registry.lost_answers = 3
    bench.rules.lost_answers = 1
    bench.depot.lost_moves = [AWAY, AWAY]
    await bench.done(*(f"s/run/f{number}" for number in range(5)))
    assert all(bench.is_in_lake(did, b"bytes") for did in dids)
    assert len(bench.rules.ids()) == 1
    assert bench.litter() == []


async def test_a_put_that_is_cut(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/run/a", b"all of it")
    bench.depot.cuts = [AWAY, AWAY, Full("no room")]
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"all of it")
    assert bench.litter() == []


@pytest.mark.parametrize("has_checksums", [True, False])
async def test_a_file_that_arrives_damaged(
    clock: MockClock, bench: Bench, has_checksums: bool
) -> None:
    bench.depot.has_checksums = has_checksums
    did = bench.save("s/run/a", b"right")
    bench.depot.damages = 3
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"right")
    assert bench.litter() == []


async def test_what_cannot_be_proved_as_it_is_to_be_is_not_registered(
    clock: MockClock, make: MakeBench
) -> None:
    bench = make(verify="checksum")
    bench.depot.has_checksums = False
    did = bench.save("s/run/a", b"right")
    record = await bench.until("s/run/a", "FAILED")
    assert 'COLO tells no checksum of what lies there: set scratch.verify to "read"' in record.error
    assert did not in bench.lake._records
    await trio.sleep(60)
    assert bench.litter() == []


async def test_a_storage_that_damages_everything(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/a", b"right")
    bench.depot.damages = 100
    record = await bench.until("s/run/a", "FAILED")
    assert "s:run/a arrived damaged at COLO" in record.error
    assert bench.depot.calls["put"] == 5
    await trio.sleep(1000)
    assert bench.depot.objects == {}
    assert bench.lake._records.keys() & {DID("s", "run/a")} == set()
    bench.depot.damages = 0
    assert bench.engine.retry("s/run") == 1
    await bench.done("s/run/a")


@pytest.mark.parametrize("verify", ["read", "checksum", "size"])
@pytest.mark.parametrize("can_move", [True, False])
async def test_another_file_at_its_place(
    clock: MockClock, make: MakeBench, verify: str, can_move: bool
) -> None:
    """Also of the same size: nobody would have the bytes, once they are given up here."""
    bench = make(verify=verify)
    bench.depot.can_move = can_move
    did = bench.save("s/run/a", b"mine")
    (url,) = (await bench.registry.pfns(MY, "COLO", [did], SCHEMES)).values()
    bench.depot.objects[url] = b"dark"
    record = await bench.until("s/run/a", "FAILED")
    assert "another file lies at its place at COLO" in record.error
    await trio.sleep(100)
    assert bench.depot.objects == {url: b"dark"}, "it is not ours"
    assert not record.is_sealed


async def test_the_same_file_at_its_place(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/run/a", b"mine")
    (url,) = (await bench.registry.pfns(MY, "COLO", [did], SCHEMES)).values()
    bench.depot.objects[url] = b"mine"
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"mine")
    assert bench.litter() == []


async def test_a_storage_that_does_not_rename(clock: MockClock, bench: Bench) -> None:
    bench.depot.can_move = False
    did = bench.save("s/run/a", b"mine")
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"mine")
    assert bench.litter() == []


@pytest.mark.parametrize("method", ["add_files", "add_collections", "attach"])
async def test_what_is_forbidden_says_which_step(
    clock: MockClock, bench: Bench, method: str
) -> None:
    bench.save("s/run/a", b"mine")
    bench.registry.errors[method] = Denied(f"account alice may not {method} in scope s")
    record = await bench.until("s/run/a", "FAILED")
    assert f"may not {method}" in record.error
    assert "s:run/a" in record.error
    assert bench.events.problems()[0]["did"] == "s:run/a"
    del bench.registry.errors[method]
    bench.engine.retry()
    await bench.done("s/run/a")


async def test_no_quota_for_its_rule(clock: MockClock, bench: Bench) -> None:
    """The file is in the lake, and the rule is made once there is room."""
    bench.rules.quota = 0
    did = bench.save("s/run/a", b"mine")
    with trio.fail_after(1000):
        while "quota" not in (await bench.until("s/run/a", "REGISTERING")).error.lower():
            await bench.ledger.news()
    assert bench.is_in_lake(did, b"mine")
    bench.rules.quota = None
    await bench.done("s/run/a")


async def test_one_bad_name_among_many(clock: MockClock, bench: Bench) -> None:
    """What Rucio refuses of one does not hold up the others."""
    good = [f"s/run/f{number}" for number in range(30)]
    for path in good:
        bench.save(path, path.encode())
    bench.save("s/run/a name", b"spaces are refused")
    bench.save("s/run/été", b"and what is not ASCII")
    await bench.done(*good)
    for path in ("s/run/a name", "s/run/été"):
        record = await bench.until(path, "FAILED")
        assert str(record.did) in record.error
    assert len(bench.lake._records[DID("s", "run")].children) == 30


async def test_somebody_registers_another_file_meanwhile(clock: MockClock, bench: Bench) -> None:
    bench.depot.blocked = trio.Event()
    bench.save("s/run/a", b"mine")
    await bench.until("s/run/a", "UPLOADING 50%")
    bench.lake.file("s:run/a", b"theirs", replicas={"REM1": "davs://rem1/x"})
    bench.depot.blocked.set()
    record = await bench.until("s/run/a", "FAILED")
    assert "s:run/a" in record.error
    assert not record.is_sealed, "it can be renamed"
    await trio.sleep(100)
    assert bench.depot.objects == {}, "what was placed there was ours, and is of no use"


async def test_what_was_placed_and_refused_is_taken_away(clock: MockClock, bench: Bench) -> None:
    """Once its user has changed his mind; and the next attempt at that name is left alone."""
    bench.save("s/run/a", b"old")
    bench.registry.errors["add_files"] = Denied("alice may not add replicas at COLO")
    record = await bench.until("s/run/a", "FAILED")
    assert len(bench.depot.objects) == 1
    bench.depot.errors["delete"] += [AWAY] * 3
    bench.ledger.drop(record)  # as the overseer does when it is opened for writing
    del bench.registry.errors["add_files"]
    did = bench.save("s/run/a", b"new bytes")
    await bench.done("s/run/a")
    await trio.sleep(1000)
    assert bench.is_in_lake(did, b"new bytes")
    assert len(bench.depot.objects) == 1


async def test_what_somebody_else_has_placed_is_not_taken_away(
    clock: MockClock, bench: Bench
) -> None:
    did = bench.save("s/run/a", b"same")
    (url,) = (await bench.registry.pfns(MY, "COLO", [did], SCHEMES)).values()
    bench.depot.objects[url] = b"same"
    bench.registry.errors["add_files"] = Denied("alice may not add replicas at COLO")
    record = await bench.until("s/run/a", "FAILED")
    bench.ledger.drop(record)
    await trio.sleep(1000)
    assert bench.depot.objects == {url: b"same"}


async def test_a_dataset_that_is_closed(clock: MockClock, bench: Bench) -> None:
    dataset = bench.lake.dataset("s:run")
    bench.lake.close_did(dataset)
    did = bench.save("s/run/a", b"mine")
    record = await bench.until("s/run/a", "FAILED")
    assert "s:run is closed" in record.error
    assert bench.is_in_lake(did, b"mine")


async def test_a_file_that_changes_while_it_is_sent(clock: MockClock, bench: Bench) -> None:
    bench.depot.blocked = trio.Event()
    bench.save("s/run/a", b"old")
    record = await bench.until("s/run/a", "UPLOADING 33%")
    bench.ledger.drop(record)  # as the overseer does when it is opened for writing
    did = bench.save("s/run/a", b"new bytes")
    bench.depot.blocked.set()
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"new bytes")
    await trio.sleep(100)
    assert bench.litter() == []


async def test_a_file_that_changes_behind_our_back(clock: MockClock, bench: Bench) -> None:
    """Somebody writes into the staging directory itself."""
    bench.depot.blocked = trio.Event()
    bench.save("s/run/a", b"old")
    await bench.until("s/run/a", "UPLOADING 33%")
    did = bench.save("s/run/a", b"new bytes")
    bench.depot.blocked.set()
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"new bytes")
    await trio.sleep(100)
    assert bench.litter() == []


async def test_the_rule_is_stuck_and_goes_on(clock: MockClock, make: MakeBench) -> None:
    bench = make(base=Options(rse="COLO", rule="REM1"))
    did = bench.save("s/run/a", b"mine")
    await bench.until("s/run/a", "REPLICATING")
    (rule_id,) = bench.rules.ids()
    bench.rules.set_state(rule_id, RuleState.STUCK, "no route")
    with trio.fail_after(1000):
        while "STUCK" not in bench.record("s/run/a").error:
            await bench.ledger.news()
    assert "no route" in bench.record("s/run/a").error
    bench.rules.set_state(rule_id, None)
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/run/a")


async def test_the_rule_is_deleted(clock: MockClock, make: MakeBench) -> None:
    bench = make(base=Options(rse="COLO", rule="REM1"))
    did = bench.save("s/run/a", b"mine")
    run = DID("s", "run")
    await bench.until("s/run/a", "REPLICATING")
    bench.rules.end(bench.rules.ids(run)[0])
    record = await bench.until("s/run/a", "FAILED")
    assert "was deleted" in record.error
    bench.engine.retry()
    await bench.until("s/run/a", "REPLICATING")
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/run/a")


@pytest.mark.parametrize("path", ["s/one/a", "s/two/a"])
async def test_a_rule_that_is_deleted_is_seen_beside_one_that_waits(
    clock: MockClock, make: MakeBench, path: str
) -> None:
    bench = make(base=Options(rse="COLO", rule="REM1"))
    paths = {"s/one/a", "s/two/a"}
    for one in paths:
        bench.save(one)
    for one in paths:
        await bench.until(one, "REPLICATING")
    await trio.sleep(60)
    bench.rules.end(bench.record(path).rule_id)
    with trio.fail_after(3600):
        await bench.until(path, "FAILED")
    (other,) = paths - {path}
    assert bench.record(other).shown == "REPLICATING"


@pytest.mark.parametrize("rse", ["COLO", "REM2"])
async def test_rses_that_are_gone_are_in_nobodys_way(
    clock: MockClock, bench: Bench, rse: str
) -> None:
    """The one that it was uploaded to, or those of its rule."""
    bench.rules.expressions["tier=1"] = frozenset({"REM1"})
    bench.save("s/lost/.rucio-upload.toml", f'rse = "{rse}"\nrule = "tier=1"'.encode())
    did = bench.save("s/lost/a", b"1")
    await bench.until("s/lost/a", "REPLICATING")
    if rse == "COLO":
        del bench.rules.expressions["tier=1"]
    else:
        bench.rules.expressions["*"] -= {rse}
        bench.lake.drop_replica(did, rse)
        bench.engine._confirmer._confirmed.clear()
    with trio.fail_after(1000):
        while "Rucio does not tell" not in bench.record("s/lost/a").error:
            with trio.move_on_after(1):
                await bench.ledger.news()
    assert not bench.engine.rucio.reason
    bench.save("s/run/a", b"2")
    await bench.done("s/run/a")
    bench.rules.expressions |= {"tier=1": frozenset({"REM1"})}
    bench.rules.expressions["*"] |= {"REM2"}
    bench.lake.replica(did, rse)
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/lost/a")


async def test_the_dataset_is_deleted_meanwhile(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/a", b"1")
    await bench.done("s/run/a")
    bench.lake.delete(DID("s", "run"))
    bench.save("s/run/b", b"2")
    await bench.done("s/run/b")
    assert bench.lake._records[DID("s", "run")].children == [DID("s", "run/b")]


# --- what users say ------------------------------------------------------------------------------


async def test_options_in_a_file(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/.rucio-upload.toml", b'rse = "REM1"\nlifetime = "30d"\ndataset = "other"')
    did = bench.save("s/run/a", b"mine")
    await bench.done("s/run/a")
    assert bench.is_in_lake(did, b"mine", "REM1")
    assert bench.lake._records[DID("s", "other")].children == [did]
    (rule,) = [bench.rules.known(one) for one in bench.rules.ids()]
    assert rule.rse_expression == "REM1"
    assert rule.expires_ns is not None
    assert bench.ledger.at("s/run/.rucio-upload.toml") is None


async def test_options_that_are_wrong_say_so(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/.rucio-upload.toml", b'rsee = "REM1"')
    bench.save("s/run/a", b"mine")
    record = await bench.until("s/run/a", "FAILED")
    assert "s/run/.rucio-upload.toml" in record.error
    assert "did you mean rse" in record.error
    bench.save("s/run/.rucio-upload.toml", b'rse = "REM1"')
    await bench.done("s/run/a")


async def test_never(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/.rucio-upload.toml", b'upload = "never"')
    bench.save("s/run/a", b"mine")
    await trio.sleep(1000)
    assert bench.depot.calls["put"] == 0
    assert bench.ledger.at("s/run/a") is None


async def test_a_sidecar_becomes_metadata(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/run/a", b"mine")
    bench.save("s/run/a.meta", b'{"exposure": 30, "filter": "r"}')
    await bench.done("s/run/a")
    metadata = await bench.lake.metadata(MY, did)
    assert metadata["filter"] == "r"
    assert DID("s", "run/a.meta") not in bench.lake._records


async def test_no_storage_is_named(clock: MockClock, make: MakeBench) -> None:
    bench = make(base=Options())
    bench.save("s/run/a", b"mine")
    record = await bench.until("s/run/a", "FAILED")
    assert "scratch.rse" in record.error


# --- a mount that was killed ---------------------------------------------------------------------


async def test_what_was_open_when_it_was_killed(clock: MockClock, bench: Bench) -> None:
    """Half a file is not uploaded unless somebody says that it is whole."""
    bench.save("s/run/half", b"half")
    bench.staged.unfinished[bench.ino("s/run/half")] = "s/run/half"
    record = await bench.until("s/run/half", "FAILED")
    assert "not written to its end" in record.error
    assert bench.depot.calls["put"] == 0
    os.setxattr(bench.staged.tree / "s/run/half", "user.rucio-fs.upload", b"now")
    bench.settling.changed("s/run")
    await bench.done("s/run/half")


@pytest.mark.parametrize("said", ["run", "run/.rucio-upload.toml"])
async def test_what_is_said_of_a_directory_says_nothing_of_half_a_file(
    clock: MockClock, bench: Bench, said: str
) -> None:
    """Its user was in a hurry once; the mount was killed a day later."""
    bench.save("s/run/half", b"half")
    bench.staged.unfinished[bench.ino("s/run/half")] = "s/run/half"
    if said == "run":
        os.setxattr(bench.staged.tree / "s/run", "user.rucio-fs.upload", b"now")
    else:
        bench.save(f"s/{said}", b'upload = "now"')
    bench.save("s/run/whole", b"whole")
    await bench.done("s/run/whole")
    assert bench.record("s/run/half").shown == "FAILED"


@pytest.mark.parametrize("commit", range(14))
async def test_it_goes_on_after_being_killed_between_any_two_commits(
    clock: MockClock, bench: Bench, commit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the commit of that number has reached the disk, and started again."""
    killed = trio.Event()
    seen = 0

    async def dies(*records: Record) -> None:
        nonlocal seen
        for record in records:
            bench.journal.put(record)
        if seen == commit:
            killed.set()
            await trio.sleep_forever()
        seen += 1
        await original()

    original = bench.journal.commit
    monkeypatch.setattr(bench.journal, "commit", dies)
    dids = [bench.save(f"s/run/f{number}", b"bytes %d" % number) for number in range(3)]
    with trio.move_on_after(200):
        await killed.wait()
    await bench.restart()
    resume(bench.staged.tree, bench.ledger, bench.settling, frozenset())
    bench.run()
    await bench.done(*(f"s/run/f{number}" for number in range(3)))
    for number, did in enumerate(dids):
        assert bench.is_in_lake(did, b"bytes %d" % number)
    await trio.sleep(1000)
    assert bench.litter() == []
    assert len(bench.rules.ids()) == 1


async def test_it_ends_when_what_is_under_way_has_ended(clock: MockClock, bench: Bench) -> None:
    bench.depot.blocked = trio.Event()
    bench.save("s/run/a", b"mine")
    await bench.until("s/run/a", "UPLOADING 50%")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.engine.finish, 1000.0)
        await trio.sleep(10)
        bench.save("s/run/b", b"later")
        bench.settling.hurry("s/run")
        bench.depot.blocked.set()
    assert bench.record("s/run/a").is_sealed
    assert bench.depot.calls["put"] == 1


async def test_a_storage_that_there_is_not(clock: MockClock, bench: Bench) -> None:
    """It is not waited for; and others go on meanwhile."""
    bench.save("s/bad/.rucio-upload.toml", b'rse = "COLLO"')
    bench.save("s/bad/a", b"1")
    bench.save("s/good/a", b"2")
    await bench.done("s/good/a")
    record = await bench.until("s/bad/a", "FAILED")
    assert "COLLO" in record.error


async def test_a_storage_that_is_closed_for_writing(clock: MockClock, bench: Bench) -> None:
    bench.registry.rses["REM1"] = replace(bench.registry.rses["REM1"], is_writable=False)
    bench.save("s/closed/.rucio-upload.toml", b'rse = "REM1"')
    did = bench.save("s/closed/a", b"1")
    bench.save("s/good/a", b"2")
    await bench.done("s/good/a")
    with trio.fail_after(1000):
        while "REM1 is closed for writing" not in bench.record("s/closed/a").error:
            await bench.ledger.news()
    bench.registry.rses["REM1"] = replace(bench.registry.rses["REM1"], is_writable=True)
    await bench.done("s/closed/a")
    assert bench.is_in_lake(did, b"1", "REM1")


@pytest.mark.parametrize("method", ["add_files", "attach"])
async def test_an_expired_token_is_not_tried_for_each_file(
    clock: MockClock, bench: Bench, method: str
) -> None:
    """It is about none of them: a few logins an hour, and then all go on."""
    paths = [f"s/run/f{number}" for number in range(100)]
    for path in paths:
        bench.save(path, path.encode())
    bench.registry.errors[method] = LoginFailed("the token has expired: renew it in /tmp/token")
    await trio.sleep(1000)
    assert bench.registry.calls[method] <= 25
    assert bench.engine.rucio.reason.startswith("the token has expired")
    assert not any(record.is_stopped for record in bench.ledger)
    del bench.registry.errors[method]
    await bench.done(*paths)


async def test_a_replica_that_is_lost_is_sent_again(
    clock: MockClock, make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rucio is told of no bytes that may not be on storage any more."""
    bench = make(base=Options(rse="COLO", rule="REM1"))
    did = bench.save("s/run/a", b"mine")
    with monkeypatch.context() as patch:
        patch.setattr(bench.lake, "content", away)
        await bench.until("s/run/a", "REPLICATING")
        bench.lake.drop_replica(did, "COLO")
        bench.rules.end(bench.rules.ids()[0])
        bench.depot.objects.clear()
    await bench.until("s/run/a", State.UPLOADING)
    await bench.until("s/run/a", State.RULED)
    assert bench.is_in_lake(did, b"mine")


async def test_a_replica_that_is_lost_with_its_file(
    clock: MockClock, make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(base=Options(rse="COLO", rule="REM1"))
    did = bench.save("s/run/a", b"mine")
    with monkeypatch.context() as patch:
        patch.setattr(bench.lake, "content", away)
        record = await bench.until("s/run/a", "REPLICATING")
        (bench.staged.tree / "s/run/a").unlink()
        bench.ledger.let_go(record)
        bench.lake.drop_replica(did, "COLO")
        bench.depot.objects.clear()
    with trio.fail_after(1000):
        while not record.is_stopped:
            await bench.ledger.news()
    assert "save it again" in record.error
    assert "COLO" not in bench.lake.states(did)


@pytest.mark.parametrize("is_large", [False, True])
async def test_a_file_that_is_taken_out_of_its_dataset_is_attached_again(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    """Before we have looked for it there."""
    run = DID("s", "run")
    bench.save("s/run/a", b"first")
    await bench.done("s/run/a")
    monkeypatch.setattr(confirming, "_PARENTS", 0 if is_large else 1000)
    did = bench.save("s/run/b", b"second")
    with monkeypatch.context() as patch:
        patch.setattr(bench.lake, "replicas_of", away)
        await bench.until("s/run/b", "REPLICATING")
        bench.lake.detach(run, did)
    await bench.done("s/run/b")
    assert did in bench.lake._records[run].children


async def test_a_large_dataset_is_not_listed_for_each_file(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirming, "_PARENTS", 2)
    paths = [f"s/run/{name}" for name in "abc"]
    for path in paths:
        bench.save(path, b"bytes")
    await bench.done(*paths)
    bench.lake.calls.clear()
    bench.save("s/run/d", b"bytes")
    await bench.done("s/run/d")
    assert (bench.lake.calls["content"], bench.lake.calls["parents"]) == (0, 1)


async def away(*args: object) -> NoReturn:
    raise AWAY


async def test_what_rucio_may_know_of_is_not_taken_away(clock: MockClock, bench: Bench) -> None:
    """Its answer was lost, and the next one was another."""
    bench.save("s/run/a", b"mine")
    bench.registry.errors["add_files"] = AWAY
    record = await bench.until("s/run/a", State.STORED)
    with trio.fail_after(1000):
        while not bench.engine.rucio.reason:
            await trio.testing.wait_all_tasks_blocked()
    bench.registry.errors["add_files"] = Denied("alice may not add replicas at COLO")
    await bench.until("s/run/a", "FAILED")
    bench.ledger.drop(record)
    await trio.sleep(1000)
    assert len(bench.depot.objects) == 1
