"""What ``user.rucio.*`` of files in scratch say, and what setting them does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from trio.testing import MockClock

from rucio_fs.did import DID
from rucio_fs.errors import NoAttribute, NotFound, Refused, Sealed, StagingError
from rucio_fs.uploads import collecting
from rucio_fs.uploads.attributes import ScratchAttributes
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.records import State
from rucio_fs.uploads.settling import Settling
from tests.unit.uploads.conftest import NewRecord, save, say


class Mounted:
    """The attributes of a staging tree, asked by path alone."""

    def __init__(self, tree: Path, ledger: Ledger) -> None:
        self.tree = tree
        self.settling = Settling(5, 60)
        self.changes = 0
        self.attributes = ScratchAttributes(tree, ledger, self.settling, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def tops(self) -> set[str]:
        return set(self.settling._last)

    @property
    def hurried(self) -> set[str]:
        return set(self.settling._hurried)

    def ino(self, path: str) -> int:
        return os.lstat(self.tree / path).st_ino if "/" in path else 0

    async def all(self, path: str) -> dict[str, str]:
        names = await self.attributes.names(path, self.ino(path))
        assert len(set(names)) == len(names)
        return {name.removeprefix("user.rucio."): await self.get(path, name) for name in names}

    async def get(self, path: str, name: str) -> str:
        return await self.attributes.get(path, self.ino(path), name)

    async def set(self, path: str, key: str, value: str) -> None:
        await self.attributes.set(path, self.ino(path), f"user.rucio.{key}", value)


@pytest.fixture
async def mounted(tree: Path, ledger: Ledger) -> Mounted:
    return Mounted(tree, ledger)


# --- what they say --------------------------------------------------------------------------------


async def test_of_a_file_that_was_just_saved(mounted: Mounted, tree: Path) -> None:
    save(tree, "s/run/f")
    assert await mounted.all("s/run/f") == {"upload": "STAGED", "did": "s:run/f"}


async def test_of_a_file_that_can_be_no_did(mounted: Mounted, tree: Path) -> None:
    save(tree, "s/run/a:b")
    assert await mounted.all("s/run/a:b") == {"upload": "STAGED"}
    with pytest.raises(NoAttribute, match=r"scratch/s/run/a:b has no user\.rucio\.did"):
        await mounted.get("s/run/a:b", "user.rucio.did")


async def test_of_an_upload(mounted: Mounted, tree: Path, record: NewRecord) -> None:
    path = save(tree, "s/run/f")
    one = record(
        "s/run/f",
        State.UPLOADING,
        ino=path.stat().st_ino,
        sent=25,
        adler32="00620062",
        rse="COLO",
        rule="tier=1",
        dataset=DID("s", "run"),
    )
    expected = {"upload": "UPLOADING 25%", "did": "s:run/f", "adler32": "00620062"}
    assert await mounted.all("s/run/f") == expected
    for key, value in {"rse": "COLO", "rule": "tier=1", "dataset": "s:run"}.items():
        # Told, but not listed: who copies attributes would have said so of another file.
        assert await mounted.get("s/run/f", f"user.rucio.{key}") == value
    one.error, one.rule_id, one.state = "away", "abc", State.RULED
    said = {"error": "away", "rule_id": "abc", "upload": "REPLICATING"}
    assert await mounted.all("s/run/f") == expected | said


async def test_of_an_upload_that_has_no_did(
    mounted: Mounted, tree: Path, ledger: Ledger, record: NewRecord
) -> None:
    path = save(tree, "s/run/a:b")
    one = record("s/run/a:b", State.STAGED, ino=path.stat().st_ino, did=DID("", "s/run/a:b"))
    ledger.stop(one, "rename it")
    assert await mounted.all("s/run/a:b") == {"upload": "FAILED", "error": "rename it"}


async def test_of_what_was_said(mounted: Mounted, tree: Path) -> None:
    path = save(tree, "s/run/f", lifetime="30 d", upload="never", rse="A")
    os.setxattr(path, "user.rucio-fs.lake", b"1")
    assert await mounted.all("s/run/f") == {
        "upload": "STAGED",  # how far it is, not what was said
        "did": "s:run/f",
        "lifetime": "30 d",
        "rse": "A",
    }


async def test_what_was_said_is_shown_before_what_counts(
    mounted: Mounted, tree: Path, record: NewRecord
) -> None:
    path = save(tree, "s/run/f", dataset="mine")
    record("s/run/f", State.QUEUED, ino=path.stat().st_ino, dataset=DID("s", "mine"))
    assert await mounted.get("s/run/f", "user.rucio.dataset") == "mine"


async def test_of_directories(mounted: Mounted, tree: Path) -> None:
    save(tree, "s/run/f")
    assert await mounted.all("s/run") == {}
    assert await mounted.all("s") == {}
    assert await mounted.all("not-on-disk") == {}
    say(tree / "s/run", upload="never", keep="5")
    assert await mounted.all("s/run") == {"upload": "never", "keep": "5"}
    with pytest.raises(NoAttribute):
        await mounted.get("s/run", "user.rucio.did")


async def test_of_links_nothing(mounted: Mounted, tree: Path) -> None:
    save(tree, "s/run/f", rse="A")
    (tree / "s/link").symlink_to("run/f")
    assert await mounted.all("s/link") == {}


async def test_of_a_file_whose_name_another_one_has(mounted: Mounted, tree: Path) -> None:
    """It is removed, and somebody still has it open."""
    save(tree, "s/run/f", rse="A")
    ino = mounted.ino("s/run/f") + 1_000_000
    assert await mounted.attributes.names("s/run/f", ino) == []
    with pytest.raises(NoAttribute):
        await mounted.attributes.get("s/run/f", ino, "user.rucio.rse")
    with pytest.raises(NotFound, match="s/run/f is removed"):
        await mounted.attributes.set("s/run/f", ino, "user.rucio.rse", "B")
    assert collecting.attributes(tree / "s/run/f") == {"rse": "A"}


@pytest.mark.parametrize("name", ["user.rucio.error", "user.rucio.colour", "user.rucio."])
async def test_what_there_is_not(mounted: Mounted, tree: Path, name: str) -> None:
    save(tree, "s/run/f")
    with pytest.raises(NoAttribute, match=f"scratch/s/run/f has no {name}"):
        await mounted.get("s/run/f", name)


# --- setting them ---------------------------------------------------------------------------------


async def test_what_is_set_counts(mounted: Mounted, tree: Path) -> None:
    save(tree, "s/run/f")
    await mounted.set("s/run/f", "lifetime", "30d")
    assert await mounted.get("s/run/f", "user.rucio.lifetime") == "30d"
    assert collecting.attributes(tree / "s/run/f") == {"lifetime": "30d"}
    assert mounted.tops == {"s/run"}
    assert mounted.hurried == set()
    assert mounted.changes == 1


async def test_what_is_removed_counts_no_more(mounted: Mounted, tree: Path) -> None:
    save(tree, "s/run/f", lifetime="30d", rse="A")
    await mounted.set("s/run/f", "lifetime", "")
    assert collecting.attributes(tree / "s/run/f") == {"rse": "A"}
    assert mounted.tops == {"s/run"}
    with pytest.raises(NoAttribute, match=r"scratch/s/run/f has no user\.rucio\.lifetime"):
        await mounted.set("s/run/f", "lifetime", "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s/run/f", {"s/run"}),
        ("s/run/x", {"s/run"}),
        ("s/run", {"s/run"}),
        ("s/f", {"s"}),
        ("s", {"s", "s/run", "s/run2"}),
    ],
)
async def test_all_that_it_is_about_is_looked_at(
    mounted: Mounted, tree: Path, path: str, expected: set[str]
) -> None:
    for file in ("s/run/f", "s/run/x/f", "s/run2/f", "s/f", "t/run/f"):
        save(tree, file)
    await mounted.set(path, "rse", "A")
    assert mounted.tops == expected
    await mounted.set(path, "upload", "now")
    assert mounted.hurried == expected


async def test_uploads_begin_anew_as_their_user_wants_them(
    mounted: Mounted, tree: Path, ledger: Ledger, record: NewRecord
) -> None:
    save(tree, "s/run/f")
    kept = {"s/run2/f": State.QUEUED, "s/run/sealed": State.PLACING, "s/run/done": State.DONE}
    for path in ("s/run/f", "s/run/x/f"):
        record(path, State.QUEUED)
    for path, state in kept.items():
        record(path, state)
    await mounted.set("s/run", "rse", "A")
    assert {one.path: one.state for one in ledger} == kept


async def test_when_options_are_saved_all_below_begins_anew(
    mounted: Mounted, tree: Path, ledger: Ledger, record: NewRecord
) -> None:
    save(tree, "s/run/f")
    one, other = record("s/run/f", State.QUEUED), record("t/run/f", State.QUEUED)
    mounted.attributes.reconsider("s")
    assert list(ledger) == [other]
    assert not ledger.is_known(one)
    assert mounted.tops == {"s", "s/run"}
    assert mounted.hurried == set()
    assert mounted.changes == 1


async def test_a_scope_comes_to_be(mounted: Mounted, tree: Path) -> None:
    await mounted.set("s", "rse", "A")
    assert await mounted.all("s") == {"rse": "A"}
    assert (tree / "s").stat().st_mode & 0o777 == 0o755
    with pytest.raises(NoAttribute):
        await mounted.set("t", "rse", "")
    assert not (tree / "t").exists()


@pytest.mark.parametrize("state", [one for one in State if one >= State.PLACING])
async def test_what_is_in_the_lake_is_history(
    mounted: Mounted, tree: Path, record: NewRecord, state: State
) -> None:
    path = save(tree, "s/run/f", rse="A")
    record("s/run/f", state, ino=path.stat().st_ino)
    for value in ("B", ""):
        with pytest.raises(Sealed, match="s/run/f is in the lake as s:run/f"):
            await mounted.set("s/run/f", "rse", value)
    assert collecting.attributes(path) == {"rse": "A"}
    assert mounted.tops == set()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lifetime", "soon", "lifetime = 'soon'"),
        ("lifetme", "5", "did you mean lifetime"),
        ("error", "", "nobody's to remove"),
        ("dataset", "\udcff", "cannot be printed"),
    ],
)
async def test_what_means_nothing_is_refused(
    mounted: Mounted,
    tree: Path,
    ledger: Ledger,
    record: NewRecord,
    key: str,
    value: str,
    words: str,
) -> None:
    path = save(tree, "s/run/f")
    one = record("s/run/f", State.QUEUED, ino=path.stat().st_ino)
    with pytest.raises(Refused, match=f"^scratch/s/run/f: user.rucio.{key} cannot be set: ") as e:
        await mounted.set("s/run/f", key, value)
    assert words in str(e.value)
    assert collecting.attributes(path) == {}
    assert ledger.is_known(one)
    assert mounted.tops == set()


@pytest.mark.parametrize(
    ("key", "value"), [("did", "s:other"), ("upload", "UPLOADING 3%"), ("state", "AVAILABLE")]
)
async def test_what_was_copied_from_another_file_means_nothing(
    mounted: Mounted, tree: Path, ledger: Ledger, record: NewRecord, key: str, value: str
) -> None:
    path = save(tree, "s/run/f")
    one = record("s/run/f", State.QUEUED, ino=path.stat().st_ino)
    await mounted.set("s/run/f", key, value)
    assert collecting.attributes(path) == {}
    assert ledger.is_known(one)
    assert (await mounted.all("s/run/f"))["upload"] == "QUEUED"


async def test_a_disk_without_attributes(
    mounted: Mounted, tree: Path, no_xattrs: None, ledger: Ledger, record: NewRecord
) -> None:
    path = save(tree, "s/run/f")
    one = record("s/run/f", State.QUEUED, ino=path.stat().st_ino)
    assert (await mounted.all("s/run/f"))["upload"] == "QUEUED"
    with pytest.raises(StagingError) as caught:
        await mounted.set("s/run/f", "rse", "A")
    assert caught.value.errno == errno.ENOTSUP
    assert ledger.is_known(one)


async def test_a_user_who_wants_it_now_need_not_wait(
    mounted: Mounted, tree: Path, autojump_clock: MockClock
) -> None:
    save(tree, "s/run/f")
    await mounted.set("s/run/f", "upload", "now")
    begun = autojump_clock.current_time()
    assert await mounted.settling.next() == "s/run"
    assert autojump_clock.current_time() == begun
