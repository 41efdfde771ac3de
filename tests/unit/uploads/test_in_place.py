"""Scratch that lies on a mounted RSE.  Real files, a lake in memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.config import Config, ScratchConfig
from rucio_fs.did import DID, RuleState
from rucio_fs.errors import Denied, Differs, Sealed, Unreachable, UsageError
from rucio_fs.saving import Saving
from rucio_fs.uploads.giving_up import GivingUp
from rucio_fs.uploads.in_place import InPlace, Lock, prepare, refuse_link
from rucio_fs.uploads.options import Options
from rucio_fs.uploads.overseer import UploadOverseer
from rucio_fs.uploads.places import Place
from rucio_fs.uploads.records import State
from rucio_fs.uploads.resuming import resume
from tests.unit.uploads.bench import Bench
from tests.unit.uploads.conftest import MakeBench

RSE = "COLO_NDSCRATCHDISK"


@pytest.fixture
def make(make: MakeBench, tmp_path: Path) -> MakeBench:
    """Makes uploads of what lies on an RSE already."""

    def bench(**changes: Any) -> Bench:
        tree = tmp_path / "tree"
        tree.mkdir(exist_ok=True)
        tree.chmod(0o777)
        place = Place(RSE, tmp_path, "davs://colo/nd/", False)
        options = Options(rse=RSE, rule="REM1")
        made: Bench = make(in_place=InPlace(place, tree), base=options, **changes)
        made.rules.expressions["*"] |= {RSE}
        return made

    return bench


async def test_what_is_saved_is_registered_where_it_lies(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/run/hits", b"bytes")
    record = await bench.until("s/run/hits", State.RULED)
    assert bench.depot.calls.total() == 0, "nothing is sent"
    assert bench.lake.states(did)[RSE] == "AVAILABLE"
    (replica,) = (await bench.lake.replicas(bench.context.who, did)).replicas
    assert replica.pfn == "davs://colo/nd/tree/s/run/hits"
    assert bench.rules.known(record.keeper).rse_expression == RSE
    assert bench.rules.known(record.keeper).expires_ns is None
    assert bench.rules.known(record.rule_id).did == DID("s", "run")


async def test_it_is_kept_until_it_has_arrived(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/run/hits", b"bytes")
    record = await bench.until("s/run/hits", State.RULED)
    await trio.sleep(3600)
    assert record.state is State.RULED
    assert not bench.rules.calls["set_lifetime"]
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/run/hits")
    assert record.is_released
    await bench.rules.rses(bench.context.who, RSE)  # any question: rules end when one is asked
    assert record.keeper not in bench.rules.ids()
    (bench.staged.tree / "s/run/hits").unlink()  # as the reaper does
    await trio.sleep(60)
    assert len(bench.ledger) == 0


async def test_a_replica_without_its_rule_is_not_enough(clock: MockClock, bench: Bench) -> None:
    """It may be one that nothing keeps there."""
    did = bench.save("s/run/hits", b"bytes")
    record = await bench.until("s/run/hits", State.RULED)
    bench.rules.set_state(record.rule_id, RuleState.REPLICATING)
    bench.rules.arrive(did, rse="REM1")
    await trio.sleep(3600)
    assert record.state is State.RULED
    assert not bench.rules.calls["set_lifetime"]
    bench.rules.set_state(record.rule_id, None)
    await bench.done("s/run/hits")


async def test_who_may_not_change_rules_deletes_them(clock: MockClock, bench: Bench) -> None:
    bench.rules.errors["set_lifetime"] = Denied("no")
    did = bench.save("s/hits", b"bytes")
    record = await bench.until("s/hits", State.RULED)
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/hits")
    assert bench.rules.deleted == [record.keeper]


async def test_who_may_not_delete_rules_is_told(clock: MockClock, bench: Bench) -> None:
    """The file is where it was to be; only its copy stays."""
    bench.rules.errors |= {"set_lifetime": Denied("no"), "delete_rule": Denied("no")}
    did = bench.save("s/hits", b"bytes")
    record = await bench.until("s/hits", State.RULED)
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/hits")
    assert not record.is_released
    (problem,) = bench.events.problems()
    assert record.keeper in str(problem)


async def test_a_kill_while_the_rule_is_given_up(clock: MockClock, bench: Bench) -> None:
    """Rucio has removed the file meanwhile, and the mount does not know that it was done."""
    did = bench.save("s/hits", b"bytes")
    record = await bench.until("s/hits", State.RULED)
    await bench.journal.commit()
    await bench.restart()
    bench.rules.arrive(did, rse="REM1")
    bench.rules.end(record.keeper)
    (bench.staged.tree / "s/hits").unlink()
    resume(bench.staged.tree, bench.ledger, bench.settling, frozenset())
    assert len(bench.ledger) == 1
    bench.run()
    with trio.fail_after(1000):
        while len(bench.ledger):
            await bench.ledger.news()
    assert bench.lake.states(did)["REM1"] == "AVAILABLE"


async def test_what_stays_here_is_not_given_up(clock: MockClock, bench: Bench) -> None:
    target = bench.staged.tree / "s/hits"
    bench.save("s/hits", b"bytes")
    os.setxattr(target, "user.rucio-fs.rule", RSE.encode())
    await bench.done("s/hits")
    await trio.sleep(3600)
    record = bench.record("s/hits")
    assert (record.keeper, record.is_released) == ("", False)
    assert len(bench.rules.ids()) == 1


async def test_what_the_lake_has_already_is_registered_all_the_same(
    clock: MockClock, bench: Bench
) -> None:
    """Nobody would ever remove it from the storage otherwise."""
    did = bench.save("s/hits", b"bytes")
    bench.lake.file(did, size=5, adler32="066c0228")
    bench.lake.replica(did, "REM1", "davs://rem1/hits")
    await bench.done("s/hits")
    assert bench.lake.states(did)[RSE] == "AVAILABLE"
    assert bench.record("s/hits").is_released


async def test_what_is_not_kept_goes_no_further(clock: MockClock, bench: Bench) -> None:
    """What nobody keeps there may be gone before it is anywhere else."""
    bench.rules.quota = 0
    bench.save("s/run/hits", b"bytes")
    record = await bench.until("s/run/hits", State.REGISTERED)
    await trio.sleep(1000)
    assert (record.state, record.is_stopped) == (State.REGISTERED, False)
    assert DID("s", "run") not in bench.lake._records
    bench.rules.quota = None
    await bench.until("s/run/hits", State.RULED)


async def test_rules_that_were_made_without_being_heard(clock: MockClock, bench: Bench) -> None:
    dids = [bench.save(f"s/run/{name}", name.encode()) for name in "abc"]
    bench.rules.lost_answers = 1
    for name in "abc":
        record = await bench.until(f"s/run/{name}", State.RULED)
        assert bench.rules.known(record.keeper).did == record.did
    assert all(len(bench.rules.ids(did)) == 1 for did in dids)


async def test_somebody_else_is_quicker_with_the_name(clock: MockClock, bench: Bench) -> None:
    did = DID("s", "hits")
    bench.registry.errors["add_files"] = Differs(f"{did} is another file", [did])
    bench.save("s/hits", b"bytes")
    record = await bench.until("s/hits", "FAILED")
    assert (record.state, record.is_sealed, record.keeper) == (State.QUEUED, False, "")
    assert not bench.journal.litter, "what lies there is its user's"


async def test_another_file_of_its_name_stays_what_it_is(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/hits", b"bytes")
    bench.lake.file(did, size=7, adler32="00000001")
    record = await bench.until("s/hits", "FAILED")
    assert "rename yours" in record.error
    assert not record.is_sealed
    assert not bench.journal.litter
    assert (bench.staged.tree / "s/hits").read_bytes() == b"bytes"


async def test_a_file_that_changes_while_rucio_is_asked(clock: MockClock, bench: Bench) -> None:
    bench.registry.blocked = trio.Event()
    bench.save("s/run/hits", b"old")
    with trio.fail_after(100):
        await bench.until("s/run/hits", State.QUEUED)
        await trio.sleep(10)
    did = bench.save("s/run/hits", b"newer")
    bench.registry.blocked.set()
    bench.registry.blocked = None
    await bench.until("s/run/hits", State.RULED)
    assert bench.lake._records[did].info.size == 5


async def test_rucio_is_away_while_it_is_registered(clock: MockClock, bench: Bench) -> None:
    bench.registry.lost_answers = 1
    bench.registry.errors["attach"] = Unreachable("away")
    did = bench.save("s/run/hits", b"bytes")
    await bench.until("s/run/hits", State.REGISTERED)
    await trio.sleep(100)
    del bench.registry.errors["attach"]
    record = await bench.until("s/run/hits", State.RULED)
    assert [bench.rules.known(one).did for one in bench.rules.ids(did)] == [did]
    assert record.keeper == bench.rules.ids(did)[0]


async def test_nobody_removes_what_is_registered(clock: MockClock, bench: Bench) -> None:
    did = bench.save("s/hits", b"bytes")
    overseer = UploadOverseer(bench.ledger, bench.settling, None, None, lambda: None)  # type: ignore[arg-type]
    record = await bench.until("s/hits", State.RULED)
    with pytest.raises(Sealed, match="Rucio removes it here when it is at REM1"):
        overseer.before_unlink("s/hits", record.ino)
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/hits")
    with pytest.raises(Sealed, match="about to remove it"):
        overseer.before_unlink("s/hits", record.ino)
    # Its number on disk may be another file's once Rucio has removed it.
    overseer.before_write("s/other", record.ino)
    assert len(bench.ledger) == 0


async def test_another_file_where_one_was_removed(clock: MockClock, bench: Bench) -> None:
    """It is an upload of its own, also if it has the number of the one that Rucio removed."""
    did = bench.save("s/hits", b"bytes")
    record = await bench.until("s/hits", State.RULED)
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/hits")
    os.utime(bench.staged.tree / "s/hits", ns=(1, 1))  # as a successor would be told apart
    bench.settling.changed("s")
    with trio.fail_after(1000):
        while bench.ledger.is_known(record):
            await bench.ledger.news()
    assert (await bench.until("s/hits", State.DONE)).mtime_ns == 1


async def test_its_bytes_are_not_given_up(clock: MockClock, bench: Bench) -> None:
    """They are Rucio's replica."""
    giving_up = GivingUp(bench.context, lambda ino: False, keep=0, min_free=0)
    did = bench.save("s/hits", b"bytes")
    await bench.until("s/hits", State.RULED)
    bench.rules.arrive(did, rse="REM1")
    await bench.done("s/hits")
    assert await giving_up.look() == 0
    assert (bench.staged.tree / "s/hits").read_bytes() == b"bytes"


async def test_the_storages_server_is_let_in(clock: MockClock, bench: Bench) -> None:
    bench.save("s/run/a/hits", b"bytes")
    tree = bench.staged.tree
    for path in ("s", "s/run", "s/run/a"):
        (tree / path).chmod(0o700)
    (tree / "s/run/a/hits").chmod(0o600)
    await bench.until("s/run/a/hits", State.RULED)
    modes = {path: stat.S_IMODE((tree / path).stat().st_mode) for path in ("s", "s/run/a")}
    assert modes == {"s": 0o777, "s/run/a": 0o777}
    assert stat.S_IMODE((tree / "s/run/a/hits").stat().st_mode) == 0o644


async def test_a_name_that_no_pfn_has(clock: MockClock, bench: Bench) -> None:
    bench.save("s/50%2525", b"bytes")
    record = await bench.until("s/50%2525", "FAILED")
    assert record.error
    assert not record.is_sealed


# --- where the journal is ------------------------------------------------------------------------


def test_the_journal_is_not_on_the_storage(tmp_path: Path) -> None:
    state, tree = tmp_path / "state", tmp_path / "tree"
    tree.mkdir()
    prepare(state, tree)
    prepare(state, tree)
    assert (state / "tree").resolve() == tree
    with pytest.raises(UsageError, match=r"journal of scratch in .*tree, not in .*state"):
        prepare(state, state)
    with pytest.raises(UsageError, match="registered in place"):
        refuse_link(state)
    with pytest.raises(UsageError, match="no directory: make it on the storage"):
        prepare(state, tmp_path / "missing")


def test_what_was_to_be_uploaded_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "state/tree/s").mkdir(parents=True)
    with pytest.raises(UsageError, match="has to be in the lake before"):
        prepare(tmp_path / "state", tmp_path)


def test_one_mount_at_a_time(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    with pytest.raises(UsageError, match="used by another mount"):
        Lock(tmp_path)
    first.close()
    Lock(tmp_path).close()


@pytest.mark.parametrize(
    "more", [{}, {"rse": RSE}, {"dir": Path("/nd")}, {"dir": Path("/nd"), "enabled": True}]
)
async def test_in_place_needs_an_rse_and_its_directory(tmp_path: Path, more: Any) -> None:
    config = Config(scratch=ScratchConfig(in_place=True, **more))
    with pytest.raises(UsageError, match=r"scratch\.in_place needs scratch\.rse, .*scratch\.dir, "):
        await Saving.open(config, tmp_path)
