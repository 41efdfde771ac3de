"""What happens at an awkward moment: in the middle of a step, behind our back, again and again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.did import DID, RuleTerms
from rucio_fs.errors import Denied, Refused, RuleExists, StagingError, Unreachable
from rucio_fs.scratch.staging import Staging
from rucio_fs.uploads import queueing
from rucio_fs.uploads.collecting import Found
from rucio_fs.uploads.giving_up import GivingUp
from rucio_fs.uploads.options import Options
from rucio_fs.uploads.records import State
from rucio_fs.uploads.resuming import resume
from tests.fakes import MY
from tests.unit.uploads.bench import Bench, as_nobody
from tests.unit.uploads.conftest import MakeBench

RUN = DID("s", "run")

# --- rules that go --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["the rule", "the dataset, too"])
async def test_a_rule_that_is_gone_is_made_again_for_the_next_file(
    clock: MockClock, bench: Bench, what: str
) -> None:
    """Its lifetime is over, or somebody has deleted it."""
    bench.save("s/run/a", b"1")
    await bench.done("s/run/a")
    bench.rules.end(bench.rules.ids(RUN)[0])
    if what == "the dataset, too":
        bench.lake.delete(RUN)
    did = bench.save("s/run/b", b"2")
    await bench.done("s/run/b")
    assert await bench.rules.rules_of(MY, did)


async def test_a_rule_that_has_expired_keeps_nothing(clock: MockClock, bench: Bench) -> None:
    """Rucio removes it in some minutes, and calls another one a duplicate until then."""
    bench.save("s/run/a", b"1")
    await bench.done("s/run/a")
    (old,) = bench.rules.ids(RUN)
    bench.rules.is_cleaning = False
    bench.rules.expire_in(old, 0)
    did = bench.save("s/run/b", b"2")
    await trio.sleep(600)
    assert bench.record("s/run/b").state is State.ATTACHED
    bench.rules.is_cleaning = True
    await bench.done("s/run/b")
    assert [rule.id for rule in await bench.rules.rules_of(MY, did)] != [old]


async def test_a_duplicate_that_ends_just_then_is_no_rule(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rules = bench.rules.add_rules

    async def duplicate(who: object, dids: object, terms: RuleTerms) -> object:
        monkeypatch.setattr(bench.rules, "add_rules", add_rules)
        raise RuleExists("there is one already")

    monkeypatch.setattr(bench.rules, "add_rules", duplicate)
    did = bench.save("s/run/a", b"1")
    await bench.done("s/run/a")
    assert await bench.rules.rules_of(MY, did)


async def test_a_rule_for_no_rse_is_told_before_anything_is_sent(
    clock: MockClock, make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(base=Options(rse="COLO", rule="tier=1"))

    async def rses(who: object, rse_expression: str) -> frozenset[str]:
        raise Refused("RSE Expression resulted in an empty set.")

    monkeypatch.setattr(bench.rules, "rses", rses)
    bench.save("s/run/a", b"1")
    record = await bench.until("s/run/a", "FAILED")
    assert "rule = 'tier=1' stands for no RSE" in record.error
    assert not bench.depot.puts
    (bench.staged.tree / "s/run/.rucio-upload.toml").write_text('rule = "COLO"')
    bench.overseer.changed("s/run/.rucio-upload.toml")
    await bench.done("s/run/a")


# --- changes in the middle of a step --------------------------------------------------------------


async def test_a_file_that_is_renamed_while_it_is_read_goes_by_its_new_name(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the checksum of a large file that takes minutes."""
    bench.save("s/run/x", b"same")
    await bench.done("s/run/x")
    bench.remove("s/run/x")
    settled = queueing._settled

    def renamed(path: Path, found: Found) -> str | None:
        value = settled(path, found)
        if path.name == "x":
            bench.rename("s/run/x", "s/run/y")
        return value

    monkeypatch.setattr(queueing, "_settled", renamed)
    bench.save("s/run/x", b"same")
    await bench.done("s/run/y")
    assert bench.states() == {"s/run/y": "DONE"}


async def test_a_file_that_changes_when_it_has_just_been_proved_is_not_put_in_place(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    adler32, delete = bench.depot.adler32, bench.depot.delete

    async def proved(url: str, size: int) -> str | None:
        value = await adler32(url, size)
        if not bench.staged.writing:
            bench.overseer.before_write("s/run/a", bench.ino("s/run/a"))
            bench.staged.writing.add(0)
            bench.save("s/run/a", b"new bytes")
        return value

    async def slow(url: str) -> bool:
        await trio.sleep(0.5)
        return await delete(url)

    monkeypatch.setattr(bench.depot, "adler32", proved)
    monkeypatch.setattr(bench.depot, "delete", slow)
    did = bench.save("s/run/a", b"old")
    record = await bench.until("s/run/a", "DONE", "FAILED")
    assert record.shown == "DONE", record.error
    assert bench.is_in_lake(did, b"new bytes")


async def test_a_removal_that_the_disk_refuses_changes_nothing(
    clock: MockClock, bench: Bench
) -> None:
    """Of a file whose bytes are in the lake alone."""
    bench.save("s/run/a", os.urandom(100_000))
    await bench.done("s/run/a")
    await GivingUp(bench.context, lambda ino: False, keep=0, min_free=0).look()
    staging = Staging.open(bench.directory)
    staging.overseer = bench.overseer
    run, _ = staging.directories.find(staging.items.scope("s"), "run")
    (bench.staged.tree / "s/run").chmod(0o555)
    with as_nobody(bench), pytest.raises(StagingError):
        await staging.directories.unlink(run, "a")
    staging.close()
    await trio.sleep(100)
    assert bench.record("s/run/a").shown == "DONE"
    assert bench.record("s/run/a").is_given_up


async def test_a_new_file_with_the_number_of_an_old_one_is_saved(
    clock: MockClock, bench: Bench
) -> None:
    """Made just before a kill, so that nobody has written down that the old one was removed."""
    bench.save("s/run/a", b"old")
    await bench.done("s/run/a")
    await bench.stop()
    path = bench.staged.tree / "s/run/a"
    path.write_bytes(b"newer")  # the same file to the disk, as a new one with its number would be
    os.utime(path, ns=(1, 1))
    bench._start()
    bench.run()
    resume(bench.staged.tree, bench.ledger, bench.settling, frozenset())
    record = await bench.until("s/run/a", "FAILED")
    assert record.size == 5
    assert "another file of that name is in the lake" in record.error


async def test_a_directory_that_cannot_be_looked_at_now_is_looked_at_later(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, is_first = os.open, [True]

    def too_many(path: str | Path, *args: int, **more: int) -> int:
        if str(path).endswith("s/run") and is_first:
            is_first.clear()
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return opened(path, *args, **more)

    monkeypatch.setattr(os, "open", too_many)
    bench.save("s/run/a", b"1")
    await bench.done("s/run/a")
    assert not is_first


# --- what fails again and again -------------------------------------------------------------------


async def test_a_replica_at_an_rse_that_is_closed_for_reading_is_there(
    clock: MockClock, make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rucio lists what can be read; it is not sent again for that."""
    bench = make(base=Options(rse="COLO", rule="REM1"))

    async def nothing(who: object, dids: object) -> dict[DID, object]:
        return {}

    monkeypatch.setattr(bench.lake, "replicas_of", nothing)
    bench.save("s/run/a", b"mine")
    await bench.until("s/run/a", "REPLICATING")
    await trio.sleep(600)
    assert bench.depot.puts.total() == 1


async def test_what_is_lost_each_time_is_not_sent_without_a_pause(
    clock: MockClock, make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(base=Options(rse="COLO", rule="REM1"))

    async def nothing(*args: object) -> dict[DID, object]:
        return {}

    monkeypatch.setattr(bench.lake, "replicas_of", nothing)
    monkeypatch.setattr(bench.rules, "states_at", nothing)
    bench.save("s/run/a", b"mine")
    await trio.sleep(3600)
    assert 2 < bench.depot.puts.total() < 60


async def test_files_that_fail_alone_are_in_nobodys_way(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are connections."""
    move = bench.depot.move

    async def refuses(source: str, target: str) -> None:
        if "/bad" in target:
            raise Unreachable("the server answers 500")
        await move(source, target)

    monkeypatch.setattr(bench.depot, "move", refuses)
    for number in range(4):
        bench.save(f"s/run/bad{number}", b"bad")
        await bench.until(f"s/run/bad{number}", State.PLACING)
    bench.save("s/other/good", b"good")
    await bench.done("s/other/good")


async def test_leftovers_that_cannot_be_removed_are_in_no_others_way(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = bench.depot.delete

    async def refuses(url: str) -> bool:
        if "dead" in url:
            raise Unreachable("no route to host")
        return await delete(url)

    monkeypatch.setattr(bench.depot, "delete", refuses)
    bench.depot.objects["davs://colo/left"] = b"1"
    bench.journal.add_litter("https://dead.example/left")
    bench.journal.add_litter("davs://colo/left")
    bench.ledger.tell()
    await trio.sleep(600)
    assert "davs://colo/left" not in bench.depot.objects


# --- what Rucio has, and refuses the rest of ------------------------------------------------------


async def test_metadata_that_rucio_refuses_can_be_mended(clock: MockClock, bench: Bench) -> None:
    bench.registry.errors["set_metadata"] = Refused("'many' is no integer")
    bench.save("s/run/a.meta", b'{"events": "many"}')
    bench.save("s/run/a", b"1")
    await bench.until("s/run/a", "FAILED")
    bench.registry.errors.clear()
    (bench.staged.tree / "s/run/a.meta").write_bytes(b'{"events": 5}')
    bench.overseer.changed("s/run/a.meta")
    await bench.done("s/run/a")
    assert await bench.lake.metadata(MY, DID("s", "run/a")) == {"events": "5"}


async def test_a_dataset_that_is_closed_can_be_exchanged_for_another(
    clock: MockClock, bench: Bench
) -> None:
    bench.lake.close_did(bench.lake.dataset("s:run"))
    did = bench.save("s/run/a", b"mine")
    await bench.until("s/run/a", "FAILED")
    ino = bench.ino("s/run/a")
    await bench.overseer.set_xattr(MY, "s/run/a", ino, "user.rucio.dataset", "other")
    await bench.done("s/run/a")
    assert bench.lake._records[DID("s", "other")].children == [did]
    assert bench.depot.puts.total() == 1, "it was there already"


async def test_what_has_failed_and_is_removed_is_over(clock: MockClock, bench: Bench) -> None:
    bench.lake.close_did(bench.lake.dataset("s:run"))
    bench.save("s/run/a", b"mine")
    await bench.until("s/run/a", "FAILED")
    bench.remove("s/run/a")
    assert not list(bench.ledger)


async def test_what_rucio_may_know_is_never_removed_from_storage(
    clock: MockClock, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount is killed while it tells Rucio, and the next one is not allowed to."""
    add_files, is_known = bench.registry.add_files, trio.Event()

    async def unheard(*order: Any) -> None:
        await add_files(*order)
        is_known.set()
        await trio.sleep_forever()

    monkeypatch.setattr(bench.registry, "add_files", unheard)
    did = bench.save("s/run/a", b"mine")
    with trio.fail_after(1000):
        await is_known.wait()
    await bench.restart()
    monkeypatch.setattr(bench.registry, "add_files", add_files)
    bench.registry.errors["add_files"] = Denied("account root may not add files")
    resume(bench.staged.tree, bench.ledger, bench.settling, frozenset())
    bench.run()
    await bench.until("s/run/a", "FAILED")
    bench.remove("s/run/a")
    await trio.sleep(1000)
    assert bench.is_in_lake(did, b"mine")
