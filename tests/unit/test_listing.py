"""A directory's listing: filenames, finding, times."""

from __future__ import annotations

import gc

import pytest

from rucio_fs import filenames
from rucio_fs.catalogue.base import BULK_LIMIT, Listing
from rucio_fs.did import DID, DIDInfo, DIDType, Member


def listing(*dids: str, own_scope: str = "here", within: str | None = None) -> Listing:
    members = (Member(DID(*text.split(":", 1)), DIDType.FILE, 1) for text in dids)
    return Listing(members, own_scope, within)


def info(did: DID, *, created_ns: int = 5, updated_ns: int = 9, is_open: bool = False) -> DIDInfo:
    return DIDInfo(did, DIDType.FILE, 1, created_ns, updated_ns, is_open, "root")


# --- filenames ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dids", "shown"),
    [
        (["here:a", "here:b"], ["a", "b"]),
        (["there:a", "here:b"], ["a", "b"]),
        (["there:a", "here:a"], ["there:a", "a"]),
        (["there:a", "else:a"], ["there:a", "else:a"]),
        (["there:a", "here:a", "there:b"], ["there:a", "a", "b"]),
        (["there:x/y", "here:x/y"], ["there:x%2Fy", "x%2Fy"]),
        (["here:a:b", "here:."], ["a%3Ab", "%2E"]),
        ([], []),
    ],
)
def test_filenames_are_plain_unless_another_member_has_the_name(
    dids: list[str], shown: list[str]
) -> None:
    assert list(listing(*dids).filenames) == shown


@pytest.mark.parametrize(
    ("within", "dids", "shown"),
    [
        ("run", ["here:run/a", "here:b", "here:runner/c"], ["a", "b", "runner%2Fc"]),
        ("run/x", ["here:run/x/a/b", "here:run/y"], ["a%2Fb", "run%2Fy"]),
        ("run__root", ["here:run/a"], ["a"]),
        ("run", ["there:run/a", "here:run/a"], ["there:run%2Fa", "run%2Fa"]),
        ("run", ["here:run/a", "here:a"], ["run%2Fa", "a"]),
        ("run", ["here:run/a", "there:a"], ["run%2Fa", "a"]),
        ("run", ["here:run/", "here:run/.."], ["run%2F", "%2E%2E"]),
    ],
)
def test_what_was_saved_in_a_directory_is_called_so_in_it(
    within: str, dids: list[str], shown: list[str]
) -> None:
    content = listing(*dids, within=within)
    assert list(content.filenames) == shown
    for position, did in enumerate(dids):
        member = content.members[position].did
        assert content.position(member) == position
        assert content.find(shown[position]) == position
        if member.scope == "here":
            assert content.find(filenames.encode(member.name)) == position
        assert content.find(filenames.encode_foreign(member)) == position, did


def test_every_filename_finds_its_member() -> None:
    long = "n" * 300
    content = listing("here:a", "there:a", "else:b", f"here:{long}", f"there:{long}", "here:x/y")
    assert len(set(content.filenames)) == len(content)
    for position, filename in enumerate(content.filenames):
        assert len(filename.encode()) <= filenames.MAX_BYTES
        assert content.find(filename) == position
        assert content.position(content.members[position].did) == position


@pytest.mark.parametrize("filename", ["here:a", "there:b"])
def test_a_member_is_found_by_its_full_name_too(filename: str) -> None:
    content = listing("here:a", "there:b")
    position = content.find(filename)
    assert position is not None
    assert str(content.members[position].did) == filename


@pytest.mark.parametrize(
    "filename",
    ["", "c", "there:a", "nowhere:a", "a%2F", "%", "%41", "%zz", "x:%zz", "a:b:c", ":", "%~"],
)
def test_other_names_find_nothing(filename: str) -> None:
    assert listing("here:a", "there:b").find(filename) is None


def test_a_did_whose_plain_name_is_another_ones_is_not_found() -> None:
    assert listing("there:a").position(DID("here", "a")) is None


# --- times -------------------------------------------------------------------------------------


def test_times_are_unknown_until_learned() -> None:
    content = listing("here:a", "here:b")
    assert content.mtime_ns(0) is None
    content.learn({DID("here", "a"): info(DID("here", "a"))}, [0, 1])
    assert content.mtime_ns(0) == 5
    assert content.mtime_ns(1) is None, "what the answer left out stays unknown"


def test_only_asked_positions_learn() -> None:
    content = listing("here:a", "here:b")
    infos = {member.did: info(member.did) for member in content.members}
    content.learn(infos, [1])
    assert (content.mtime_ns(0), content.mtime_ns(1)) == (None, 5)


def test_an_open_collection_shows_its_last_change() -> None:
    content = listing("here:a")
    content.learn({DID("here", "a"): info(DID("here", "a"), is_open=True)}, [0])
    assert content.mtime_ns(0) == 9


def test_the_epoch_itself_counts_as_known() -> None:
    content = listing("here:a")
    content.learn({DID("here", "a"): info(DID("here", "a"), created_ns=0)}, [0])
    assert content.mtime_ns(0) is not None


@pytest.mark.parametrize("order", ["forwards", "backwards", "every 7th first"])
def test_any_walk_needs_one_question_per_thousand(order: str) -> None:
    size = 3210
    content = listing(*(f"here:{i}" for i in range(size)))
    walk = list(range(size))
    if order == "backwards":
        walk.reverse()
    elif order == "every 7th first":
        walk.sort(key=lambda i: i % 7)
    questions = 0
    for position in walk:
        if content.mtime_ns(position) is None:
            asked = content.without_mtime(position)
            assert asked[0] == position
            assert len(asked) == len(set(asked)) <= BULK_LIMIT
            assert all(content.mtime_ns(one) is None for one in asked)
            questions += 1
            content.learn(
                {content.members[i].did: info(content.members[i].did) for i in asked}, asked
            )
    assert questions <= 1 + -(-size // BULK_LIMIT)


def test_a_listing_says_how_large_it_is() -> None:
    assert listing().nbytes < listing("here:a").nbytes < listing("here:a", "here:b").nbytes


def test_its_reference_ends_with_it() -> None:
    content = listing("here:a")
    ref = content.ref
    assert ref() is content
    del content
    gc.collect()
    assert ref() is None
