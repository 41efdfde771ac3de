"""Every tree of files, with anything in Rucio already, is arranged as Rucio allows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rucio_fs import filenames
from rucio_fs.did import DID, DIDType
from rucio_fs.errors import BadName
from rucio_fs.uploads import naming
from rucio_fs.uploads.naming import Arrangement

DATASET, CONTAINER = DIDType.DATASET, DIDType.CONTAINER


def did(name: str) -> DID:
    return DID("s", name)


def arrange(
    *files: str,
    existing: dict[str, DIDType] | None = None,
    chosen: dict[str, str | None] | None = None,
    outer: tuple[str, ...] = (),
) -> Arrangement:
    """Of *files* in the scope s; *outer* directories have others in them without new files."""
    directories = {path.rpartition("/")[0] for path in files}
    has = dict.fromkeys(directories, False) | dict.fromkeys(outer, True)
    for directory in list(has):
        above = directory.rpartition("/")[0]
        while above:
            has[above] = True
            above = above.rpartition("/")[0]
    return naming.arrange(
        files,
        has,
        {did(name): type for name, type in (existing or {}).items()},
        {path: None if name is None else did(name) for path, name in (chosen or {}).items()},
    )


# --- names ----------------------------------------------------------------------------------------

FILENAMES = st.one_of(
    st.text(st.sampled_from("ab%2F.:_\udcff\n"), min_size=1, max_size=5),
    st.sampled_from(["a", "b", "a__root", "__root", "%2F", "a%2Fb", "%", "%2E", "%2E%2E", "..a"]),
    st.text(min_size=1, max_size=4),
).filter(lambda name: "/" not in name and "\0" not in name and name not in (".", ".."))
PATHS = st.lists(FILENAMES, min_size=2, max_size=4).map("/".join)


def test_a_name_is_the_path_below_the_scope() -> None:
    assert naming.did_of("user.alice/run1/a/hits.root") == DID("user.alice", "run1/a/hits.root")
    assert naming.did_of("s/50%25") == DID("s", "50%")


def test_a_scope_is_no_did() -> None:
    with pytest.raises(BadName, match=r"user\.alice is a scope"):
        naming.did_of("user.alice")


@given(st.lists(PATHS, min_size=2, max_size=2, unique=True))
def test_two_paths_are_never_one_did(paths: list[str]) -> None:
    found = []
    for path in paths:
        try:
            found.append(naming.did_of(path))
        except BadName:
            continue
    assert len(set(found)) == len(found)


@given(PATHS)
def test_a_did_leads_back_to_its_path(path: str) -> None:
    try:
        scope, name = naming.did_of(path)
    except BadName:
        return
    parts = [scope, *name.split("/")]
    assert "/".join(map(filenames.encode, parts)) == path


@pytest.mark.parametrize("part", ["%", "%2E", "%2E%2E", "a%2Fb", "%41", "a:b", "\udcff", "%~ab~c"])
@pytest.mark.parametrize("path", ["s/{}", "s/{}/x", "s/x/{}"])
def test_what_stands_for_no_name_of_its_own_is_refused(path: str, part: str) -> None:
    with pytest.raises(BadName) as caught:
        naming.did_of(path.format(part))
    str(caught.value).encode()  # a message can be shown whatever the name was


@pytest.mark.parametrize("path", ["s/run1__root", "s/run1__root/x", "s/a/b__root/x", "s/__root"])
def test_names_of_datasets_for_files_beside_directories_are_kept_for_them(path: str) -> None:
    with pytest.raises(BadName, match="__root"):
        naming.did_of(path)


@pytest.mark.parametrize(
    ("path", "top"),
    [("s", "s"), ("s/f", "s"), ("s/run/f", "s/run"), ("s/run/a/b/f", "s/run")],
)
def test_top(path: str, top: str) -> None:
    assert naming.top_of(path) == top


# --- collections ----------------------------------------------------------------------------------


def test_a_directory_of_files_is_a_dataset() -> None:
    plan = arrange("s/run/a", "s/run/b")
    assert plan.dataset_of == {"s/run/a": did("run"), "s/run/b": did("run")}
    assert plan.collections == {did("run"): DATASET}
    assert plan.parent_of == {}


def test_a_file_beside_the_directories_of_a_scope_is_in_none() -> None:
    plan = arrange("s/a")
    assert plan.dataset_of == {"s/a": None}
    assert plan.collections == {}


@pytest.mark.parametrize("files", [("s/run/f", "s/run/a/g"), ("s/run/a/g", "s/run/f")])
def test_files_beside_directories_are_in_a_dataset_of_their_own(files: tuple[str, ...]) -> None:
    plan = arrange(*files)
    assert plan.dataset_of == {"s/run/f": did("run__root"), "s/run/a/g": did("run/a")}
    assert plan.collections == {
        did("run"): CONTAINER,
        did("run/a"): DATASET,
        did("run__root"): DATASET,
    }
    assert plan.parent_of == {did("run/a"): did("run"), did("run__root"): did("run")}


def test_a_directory_with_others_in_it_is_a_container_also_without_new_files_there() -> None:
    plan = arrange("s/run/f", outer=("s/run",))
    assert plan.collections[did("run")] is CONTAINER
    assert plan.dataset_of["s/run/f"] == did("run__root")


def test_files_that_were_seen_below_a_directory_make_it_a_container() -> None:
    """Whatever was said of it: a directory may have come meanwhile."""
    plan = naming.arrange(["s/run/f", "s/run/a/g"], {}, {})
    assert plan.collections[did("run")] is CONTAINER
    assert plan.dataset_of["s/run/f"] == did("run__root")


def test_what_is_a_dataset_already_takes_files_and_no_collections() -> None:
    plan = arrange("s/run/f", "s/run/a/g", existing={"run": DATASET})
    assert plan.dataset_of == {"s/run/f": did("run"), "s/run/a/g": did("run/a")}
    assert plan.collections == {did("run"): DATASET, did("run/a"): DATASET}
    assert plan.parent_of == {}


def test_what_is_a_container_already_takes_no_files() -> None:
    plan = arrange("s/run/f", existing={"run": CONTAINER})
    assert plan.dataset_of == {"s/run/f": did("run__root")}
    assert plan.parent_of == {did("run__root"): did("run")}


def test_a_container_that_somebody_else_calls_root_takes_no_files() -> None:
    plan = arrange("s/run/f", existing={"run": CONTAINER, "run__root": CONTAINER})
    assert plan.dataset_of == {"s/run/f": did("run__root__root")}


def test_a_chosen_dataset() -> None:
    plan = arrange("s/run/f", "s/run/g", chosen={"s/run/f": "mine"})
    assert plan.dataset_of == {"s/run/f": did("mine"), "s/run/g": did("run")}
    assert plan.collections == {did("run"): DATASET, did("mine"): DATASET}


def test_no_dataset_was_chosen() -> None:
    plan = arrange("s/run/f", chosen={"s/run/f": None})
    assert plan.dataset_of == {"s/run/f": None}
    assert plan.collections == {}


@pytest.mark.parametrize("files", [("s/x/f", "s/run/a/g"), ("s/run/a/g", "s/x/f")])
def test_a_directory_that_was_chosen_and_has_others_in_it(files: tuple[str, ...]) -> None:
    plan = arrange(*files, chosen={"s/x/f": "run"})
    assert plan.dataset_of == {"s/x/f": did("run__root"), "s/run/a/g": did("run/a")}
    assert plan.collections[did("run")] is CONTAINER


def test_a_container_of_the_lake_that_was_chosen() -> None:
    plan = arrange("s/x/f", chosen={"s/x/f": "campaign"}, existing={"campaign": CONTAINER})
    assert plan.dataset_of == {"s/x/f": did("campaign__root")}
    assert plan.parent_of == {did("campaign__root"): did("campaign")}


def test_a_chosen_directory_comes_after_what_it_is_in() -> None:
    plan = arrange("s/x/f", "s/run/a/g", chosen={"s/x/f": "run/a"})
    assert list(plan.collections) == [did("run"), did("run/a")]
    assert plan.parent_of == {did("run/a"): did("run")}


def test_a_container_comes_before_what_is_in_it_whoever_named_it_first() -> None:
    plan = arrange(
        "s/x/f", "s/x/g", chosen={"s/x/f": "a__root", "s/x/g": "a"}, existing={"a": CONTAINER}
    )
    assert plan.dataset_of == {"s/x/f": did("a__root"), "s/x/g": did("a__root")}
    assert list(plan.collections) == [did("a"), did("a__root")]
    assert plan.parent_of == {did("a__root"): did("a")}


# --- any tree -------------------------------------------------------------------------------------

_PARTS = st.sampled_from(["a", "b", "c"])
_DIRECTORIES = st.lists(_PARTS, max_size=3).map(lambda parts: "/".join(["s", *parts]))
_NAMES = ["/".join(p) for p in (("a",), ("b",), ("a", "b"), ("a", "b", "c"), ("c", "a"))]
_EXISTING = st.dictionaries(
    st.sampled_from([name + root for name in _NAMES for root in ("", "__root")]),
    st.sampled_from([DATASET, CONTAINER]),
)
_TREES = st.lists(
    st.tuples(_DIRECTORIES, st.sampled_from(["f", "g"])).map("/".join), max_size=8, unique=True
)
_CHOSEN = st.dictionaries(
    st.integers(0, 7), st.one_of(st.none(), st.sampled_from([*_NAMES, "a__root", "elsewhere"]))
)


@given(_TREES, _EXISTING, _CHOSEN, st.lists(_DIRECTORIES, max_size=2))
def test_rucio_takes_every_arrangement(
    files: list[str],
    existing: dict[str, DIDType],
    chosen: dict[int, str | None],
    outer: list[str],
) -> None:
    said = {files[number]: name for number, name in chosen.items() if number < len(files)}
    plan = arrange(*files, existing=existing, chosen=said, outer=tuple(outer))

    assert plan.dataset_of.keys() == set(files)
    for path, dataset in plan.dataset_of.items():
        if dataset is not None:
            assert plan.collections[dataset] is DATASET
        else:
            assert said.get(path, "") is None or path.count("/") == 1
        if path in said and dataset is not None:
            assert dataset.name.partition("__root")[0] == str(said[path]).partition("__root")[0]
    for name, type in existing.items():
        assert plan.collections.get(did(name), type) is type
    order = list(plan.collections)
    for child, parent in plan.parent_of.items():
        assert plan.collections[parent] is CONTAINER
        assert order.index(parent) < order.index(child)


@given(_TREES, _EXISTING)
def test_no_order_of_files_changes_where_they_go(
    files: list[str], existing: dict[str, DIDType]
) -> None:
    one, other = arrange(*files, existing=existing), arrange(*files[::-1], existing=existing)
    assert one.dataset_of == other.dataset_of
    assert one.collections == other.collections
    assert one.parent_of == other.parent_of


@given(_TREES)
def test_each_directory_has_a_dataset_of_its_own(files: list[str]) -> None:
    plan = arrange(*files)
    directory_of: dict[DID, str] = {}
    for path, dataset in plan.dataset_of.items():
        if dataset is not None:
            directory = path.rpartition("/")[0]
            assert directory_of.setdefault(dataset, directory) == directory
