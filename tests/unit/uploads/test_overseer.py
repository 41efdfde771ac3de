"""What may be changed in staging while it is uploaded and afterwards, and what that does to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio

from rucio_fs.callers import NOBODY
from rucio_fs.did import DID, Identity
from rucio_fs.errors import Sealed
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.overseer import UploadOverseer
from rucio_fs.uploads.records import UNFINISHED, Record, State
from rucio_fs.uploads.settling import Settling
from tests.unit.uploads.conftest import NewRecord

WHO = Identity()
OPEN = [State.STAGED, State.QUEUED, State.UPLOADING]
PLACED = [State.PLACING, State.STORED]
IN_LAKE = [State.REGISTERED, State.ATTACHED, State.RULED, State.DONE]


class Desk:
    """Notes what the overseer says to others, and answers for them."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.drops = 0

    def reconsider(self, path: str) -> None:
        self.calls.append(("reconsider", path))

    async def names(self, path: str, ino: int) -> Sequence[str]:
        return [f"names of {path} {ino}"]

    async def get(self, path: str, ino: int, name: str) -> str:
        return f"{name} of {path} {ino}"

    async def set(self, path: str, ino: int, name: str, value: str) -> None:
        self.calls.append((path, ino, name, value))

    async def is_in_lake(self, who: Identity, path: str) -> bool:
        return path == "s/lake"

    def on_drop(self) -> None:
        self.drops += 1


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def settling() -> Settling:
    return Settling(5, 60)


@pytest.fixture
async def overseer(ledger: Ledger, settling: Settling, desk: Desk) -> UploadOverseer:
    return UploadOverseer(ledger, settling, desk, desk.is_in_lake, desk.on_drop)


def tops(settling: Settling) -> set[str]:
    return set(settling._last)


Change = Callable[[UploadOverseer, Record], None]

CHANGES: dict[str, Change] = {
    "write": lambda overseer, one: overseer.before_write(one.path, one.ino),
    "rename": lambda overseer, one: overseer.before_rename(one.path, one.ino, False, None),
    "rename over": lambda overseer, one: overseer.before_rename(
        "s/run/new", 77, False, (one.path, one.ino)
    ),
    "rename of its directory": lambda overseer, one: overseer.before_rename(
        "s/run", 66, True, None
    ),
}


# --- what is sealed -------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", PLACED + IN_LAKE)
async def test_what_is_in_the_lake_is_not_changed(
    overseer: UploadOverseer, record: NewRecord, desk: Desk, state: State, change: str
) -> None:
    one = record("s/run/x/f", state)
    with pytest.raises(Sealed) as caught:
        CHANGES[change](overseer, one)
    said = str(caught.value)
    assert said.startswith("s/run/x/f is ")
    assert "s:run/x/f" in said
    assert ("in the lake as" if state in IN_LAKE else "just being registered as") in said
    assert overseer._ledger.at("s/run/x/f") is one
    assert desk.drops == 0


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", OPEN)
async def test_before_that_everything_goes(
    overseer: UploadOverseer, record: NewRecord, state: State, change: str
) -> None:
    CHANGES[change](overseer, record("s/run/x/f", state))


async def test_neither_side_of_an_exchange_may_be_sealed(
    overseer: UploadOverseer, record: NewRecord
) -> None:
    """Both are told, each over nothing."""
    one, other = record("s/a", State.QUEUED), record("s/b", State.DONE)
    overseer.before_rename(one.path, one.ino, False, None)
    with pytest.raises(Sealed, match="s/b is in the lake"):
        overseer.before_rename(other.path, other.ino, False, None)
    assert overseer._ledger.at("s/a") is one


async def test_a_rename_that_is_refused_has_dropped_nothing(
    overseer: UploadOverseer, record: NewRecord, desk: Desk
) -> None:
    one, over = record("s/a", State.DONE), record("s/b", State.QUEUED)
    with pytest.raises(Sealed):
        overseer.before_rename(one.path, one.ino, False, (over.path, over.ino))
    assert overseer._ledger.at("s/b") is over
    assert desk.drops == 0


@pytest.mark.parametrize("path", ["s/run", "s/ru"])
async def test_directories_are_told_apart_by_whole_names(
    overseer: UploadOverseer, record: NewRecord, path: str
) -> None:
    record("s/run2/f", State.DONE)
    overseer.before_rename(path, 66, True, None)


@pytest.mark.parametrize("change", ["write", "rename", "rename over"])
async def test_what_rucio_has_refused_may_be_mended(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord, change: str
) -> None:
    one = record("s/run/f", State.STORED)
    ledger.stop(one, "s:run/f: no such name here")
    CHANGES[change](overseer, one)
    overseer.before_unlink(one.path, one.ino)
    assert not ledger.is_known(one)


async def test_what_rucio_has_may_not_be_mended_whatever_is_wrong(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord
) -> None:
    one = record("s/run/f", State.REGISTERED)
    ledger.stop(one, "s:run/f: the dataset is closed")
    with pytest.raises(Sealed):
        overseer.before_write(one.path, one.ino)


# --- what is dropped ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", OPEN)
async def test_a_file_that_is_written_again_is_dropped_and_looked_at(
    overseer: UploadOverseer,
    ledger: Ledger,
    settling: Settling,
    desk: Desk,
    record: NewRecord,
    state: State,
) -> None:
    """Also if it is not changed in the end: opening it may fail."""
    one = record("s/run/f", state, temp_url="https://x/temp")
    overseer.before_write(one.path, one.ino)
    assert not ledger.is_known(one)
    assert ledger.journal.litter == {"https://x/temp"}
    assert tops(settling) == {"s/run"}
    assert desk.drops == 1


async def test_what_is_no_upload_is_nobody_s_business(
    overseer: UploadOverseer, settling: Settling, desk: Desk
) -> None:
    overseer.before_write("s/run/f", 5)
    overseer.before_rename("s/run/f", 5, False, ("s/run/g", 6))
    overseer.renamed("s/run/f", "s/run/g")
    overseer.exchanged("s/run/f", "s/run/g")
    overseer.before_unlink("s/run/f", 5)
    overseer.removed("s/run/f", 5)
    overseer.before_rmdir("s/run")
    assert desk.drops == 0
    assert tops(settling) == set()


async def test_work_on_a_file_that_changes_is_stopped(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord
) -> None:
    one = record("s/run/f", State.UPLOADING)
    with ledger.begin(one) as scope, trio.fail_after(5):
        overseer.before_write(one.path, one.ino)
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_under_a_new_name_it_is_another_upload(
    overseer: UploadOverseer, ledger: Ledger, settling: Settling, desk: Desk, record: NewRecord
) -> None:
    one, over = record("s/run/f", State.QUEUED), record("s/other/f", State.QUEUED)
    overseer.before_rename(one.path, one.ino, False, (over.path, over.ino))
    assert not ledger.is_known(over)
    assert ledger.is_known(one)  # the move may still fail
    overseer.renamed("s/run/f", "s/other/f")
    assert list(ledger) == []
    assert tops(settling) == {"s/run", "s/other"}
    assert desk.drops == 2


async def test_all_of_a_directory_is_dropped_when_it_is_moved(
    overseer: UploadOverseer, ledger: Ledger, settling: Settling, record: NewRecord
) -> None:
    for path in ("s/run/f", "s/run/x/g", "s/run2/h"):
        record(path, State.QUEUED)
    overseer.before_rename("s/run", 66, True, None)
    overseer.renamed("s/run", "s/new")
    assert [one.path for one in ledger] == ["s/run2/h"]
    assert tops(settling) == {"s/run", "s/new"}


async def test_what_was_open_when_the_mount_ended_stays_so_by_any_name(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord
) -> None:
    one = record("s/run/x/f", State.STAGED)
    ledger.stop(one, f"{UNFINISHED}: look at it")
    overseer.before_rename("s/run/x", 66, True, None)
    overseer.renamed("s/run/x", "s/run/y")
    assert ledger.at("s/run/y/f") is one
    assert ledger.at("s/run/x/f") is None
    assert one.did == DID("s", "run/y/f")
    assert one.is_stopped
    overseer.before_rename("s/run/y/f", one.ino, False, None)
    overseer.renamed("s/run/y/f", "s/run/y/%2F")
    assert one.path == "s/run/y/%2F"
    assert one.did == DID("s", "run/y/f")  # that is no name; which is told when it is looked at


async def test_a_file_that_is_moved_leaves_the_directory_of_its_old_name_alone(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord
) -> None:
    """Files are moved by their path alone: "s/f" is no directory."""
    record("s/f", State.QUEUED)
    other = record("s/f2/g", State.QUEUED)
    overseer.before_rename("s/f", 1, False, None)
    overseer.renamed("s/f", "s/new")
    assert list(ledger) == [other]


async def test_an_exchange_is_two_new_files(
    overseer: UploadOverseer, ledger: Ledger, settling: Settling, record: NewRecord
) -> None:
    one = record("s/a/f", State.QUEUED)
    record("s/b/x/g", State.UPLOADING)
    overseer.before_rename(one.path, one.ino, False, None)
    overseer.before_rename("s/b", 66, True, None)
    overseer.exchanged("s/a/f", "s/b")
    assert list(ledger) == []
    assert tops(settling) == {"s/a", "s/b"}


# --- removing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", OPEN)
async def test_what_is_removed_before_it_is_in_the_lake_never_comes_there(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord, desk: Desk, state: State
) -> None:
    one = record("s/run/f", state)
    overseer.before_unlink(one.path, one.ino)
    assert list(ledger) == []
    assert desk.drops == 1


@pytest.mark.parametrize("state", PLACED)
async def test_what_is_just_being_registered_is_not_removed(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord, state: State
) -> None:
    one = record("s/run/f", state)
    with pytest.raises(Sealed, match="s/run/f is just being registered as s:run/f"):
        overseer.before_unlink(one.path, one.ino)
    assert ledger.of_file(one.ino) is one


@pytest.mark.parametrize("state", IN_LAKE)
async def test_what_is_in_the_lake_goes_on_there_without_its_file(
    overseer: UploadOverseer,
    ledger: Ledger,
    settling: Settling,
    record: NewRecord,
    desk: Desk,
    state: State,
) -> None:
    one = record("s/run/f", state)
    overseer.before_unlink(one.path, one.ino)
    assert ledger.of_file(one.ino) is one, "the disk may still refuse it"
    overseer.removed(one.path, one.ino)
    assert ledger.of_file(one.ino) is None
    assert ledger.at("s/run/f") is None
    assert list(ledger) == ([] if state is State.DONE else [one])
    assert one.state is state
    assert ledger.journal.litter == set()
    assert tops(settling) == {"s/run"}
    assert desk.drops == 1


# --- what is settling -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s", set()),
        ("s/f", {"s", "s/f"}),
        ("s/run/f", {"s/run"}),
        ("s/run/x/y", {"s/run"}),
    ],
)
async def test_what_has_changed_is_looked_at(
    overseer: UploadOverseer, settling: Settling, path: str, expected: set[str]
) -> None:
    overseer.changed(path)
    assert tops(settling) == expected


@pytest.mark.parametrize("directory", ["s", "s/run", "s/run/x"])
async def test_options_that_are_saved_are_about_all_below(
    overseer: UploadOverseer, desk: Desk, directory: str
) -> None:
    overseer.changed(f"{directory}/.rucio-upload.toml")
    overseer.changed(f"{directory}/rucio-upload.toml")
    assert desk.calls == [("reconsider", directory)]


@pytest.mark.parametrize("state", OPEN)
async def test_a_file_is_queued_again_when_its_sidecar_is_saved(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord, state: State
) -> None:
    one, other = record("s/run/f", state), record("s/run/g", state)
    overseer.changed("s/run/f.meta")
    assert list(ledger) == [other]
    assert not ledger.is_known(one)


@pytest.mark.parametrize("state", PLACED + IN_LAKE)
async def test_a_sidecar_changes_nothing_in_the_lake(
    overseer: UploadOverseer, ledger: Ledger, record: NewRecord, state: State
) -> None:
    one = record("s/run/f", state)
    overseer.changed("s/run/f.meta")
    assert list(ledger) == [one]


# --- what is asked --------------------------------------------------------------------------------


async def test_who_answers(overseer: UploadOverseer, desk: Desk) -> None:
    assert await overseer.lookup_dir(WHO, "s/lake")
    assert not await overseer.lookup_dir(WHO, "s/new")
    assert await overseer.xattr_names(WHO, "s/f", 5) == ["names of s/f 5"]
    assert await overseer.xattr(WHO, "s/f", 5, "user.rucio.did") == "user.rucio.did of s/f 5"
    await overseer.set_xattr(WHO, "s/f", 5, "user.rucio.rse", "A")
    assert desk.calls == [("s/f", 5, "user.rucio.rse", "A")]
    assert await overseer.open_given_up(WHO, "s/f", 5, NOBODY) is None
