"""What is found in staging, whatever somebody has put there and whatever vanishes meanwhile."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rucio_fs.uploads import collecting
from rucio_fs.uploads.collecting import Collected, Found
from rucio_fs.uploads.options import Options
from tests.unit.uploads.conftest import save, say

BASE = Options(rse="MOUNT")


def collect(tree: Path, top: str = "s/run", *, deep: bool = True) -> Collected:
    return collecting.collect(tree, top, BASE, deep=deep)


def paths(found: Collected) -> list[str]:
    return [one.path for one in found.files]


def only(found: Collected) -> Found:
    (one,) = found.files
    return one


@pytest.fixture(autouse=True)
def no_descriptor_lost() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


# --- files ----------------------------------------------------------------------------------------


def test_all_files_below_a_directory(tree: Path) -> None:
    for path in ("s/run/b", "s/run/a", "s/run/x/c", "s/run/x/y/d", "s/other/e", "s/f"):
        save(tree, path)
    (tree / "s/run/empty").mkdir()
    found = collect(tree)
    assert paths(found) == ["s/run/a", "s/run/b", "s/run/x/c", "s/run/x/y/d"]
    assert found.has_directories == {
        "s/run": True,
        "s/run/empty": False,
        "s/run/x": True,
        "s/run/x/y": False,
    }


def test_of_a_scope_only_the_files_beside_its_directories(tree: Path) -> None:
    save(tree, "s/run/a")
    save(tree, "s/f")
    found = collect(tree, "s", deep=False)
    assert paths(found) == ["s/f"]
    assert found.has_directories == {"s": True}


def test_a_directory_that_is_never_uploaded_makes_no_container_of_the_one_it_is_in(
    tree: Path,
) -> None:
    for path in ("s/run/hits", "s/run/tmp/x", "s/run/tmp/deep/y", "s/both/tmp/x", "s/both/b/z"):
        save(tree, path)
    for path in ("s/run/tmp", "s/both/tmp"):
        save(tree, f"{path}/.rucio-upload.toml", b'upload = "never"')
    assert collect(tree, "s/run").has_directories["s/run"] is False
    assert collect(tree, "s/both").has_directories["s/both"] is True


def test_a_file_as_it_is(tree: Path) -> None:
    path = save(tree, "s/run/a", b"12345")
    status = path.stat()
    seen = (status.st_ino, 5, status.st_mtime_ns, status.st_ctime_ns)
    assert only(collect(tree)) == Found("s/run/a", *seen, BASE)


@pytest.mark.parametrize("top", ["s/gone", "s/file", "gone"])
def test_what_is_no_directory_has_nothing(tree: Path, top: str) -> None:
    save(tree, "s/file")
    assert collect(tree, top) == Collected()


def test_only_files_are_uploaded(tree: Path) -> None:
    save(tree, "s/run/a")
    os.mkfifo(tree / "s/run/fifo")
    (tree / "s/run/link").symlink_to("a")
    (tree / "s/run/nowhere").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as one:
        fd = os.open(tree / "s/run", os.O_RDONLY)
        one.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    assert paths(collect(tree)) == ["s/run/a"]


@pytest.mark.parametrize("where", ["s/run", "s/run/x"])
def test_links_to_directories_are_not_followed(tree: Path, tmp_path: Path, where: str) -> None:
    """They may lead anywhere on the machine."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "passwords").touch()
    (tree / where).parent.mkdir(parents=True)
    (tree / where).symlink_to(tmp_path / "secret")
    found = collect(tree)
    assert found.files == []
    assert where not in found.has_directories


@pytest.mark.parametrize("name", [".nfs0000", ".fuse_hidden01", ".~lock.a#", ".rucio-upload.toml"])
def test_what_programs_leave_behind_is_not_uploaded(tree: Path, name: str) -> None:
    save(tree, f"s/run/{name}", b"")
    assert paths(collect(tree)) == []


def test_odd_names(tree: Path) -> None:
    names = ["caf\udce9", "new\nline", " ", "-rf", "é", "%2F", "a:b", "\\"]
    for name in names:
        save(tree, f"s/run/{name}", rse="HERE")
        save(tree, f"s/run/{name}.meta", '{"a": 1}')
    found = collect(tree)
    assert paths(found) == sorted(f"s/run/{name}" for name in names)
    assert all(one.options.rse == "HERE" and one.metadata == {"a": 1} for one in found.files)


@pytest.fixture
def deep(tree: Path) -> Iterator[int]:
    """As many directories in one another as a path may name, and a file in the last; how many."""
    top = tree / "s/run"
    top.mkdir(parents=True)
    depth = (4000 - len(str(top))) // 2
    for level in range(depth):
        os.mkdir(f"{top}{'/d' * (level + 1)}")
    Path(f"{top}{'/d' * depth}/file").touch()
    yield depth
    # Whatever cleans up after tests calls itself for each.
    os.unlink(f"{top}{'/d' * depth}/file")
    for level in reversed(range(depth)):
        os.rmdir(f"{top}{'/d' * (level + 1)}")


def test_deeper_than_python_calls_itself(tree: Path, deep: int) -> None:
    assert deep > 1500
    found = collect(tree)
    assert only(found).path == "s/run/" + "d/" * deep + "file"
    assert len(found.has_directories) == deep + 1


def test_a_directory_that_cannot_be_looked_at_is_told_and_the_rest_is_uploaded(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tree, "s/run/closed/a")
    save(tree, "s/run/open/b")
    monkeypatch.setattr(os, "open", failing(os.open, "closed", errno.EACCES))
    assert paths(collect(tree)) == ["s/run/open/b"]
    assert "s/run/closed cannot be looked at" in caplog.text


def failing(call: Callable[..., Any], name: str, number: int) -> Callable[..., Any]:
    """*call*, which fails for what is called *name*."""

    def wrapped(path: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(os.fspath(path)).name == name:
            raise OSError(number, os.strerror(number), path)
        return call(path, *args, **kwargs)

    return wrapped


# --- what vanishes --------------------------------------------------------------------------------


def test_files_that_vanish_are_left_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        save(tree, f"s/run/{name}")
    listdir = os.listdir

    def vanishing(fd: int) -> list[str]:
        names = listdir(fd)
        (tree / "s/run/a").unlink(missing_ok=True)
        return names

    monkeypatch.setattr(os, "listdir", vanishing)
    assert paths(collect(tree)) == ["s/run/b"]


def test_directories_that_vanish_are_left_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "s/run/x").mkdir(parents=True)
    save(tree, "s/run/a")
    listdir = os.listdir

    def vanishing(fd: int) -> list[str]:
        names = listdir(fd)
        if "x" in names:
            (tree / "s/run/x").rmdir()
        return [*names, "x"] if "x" in names else names

    monkeypatch.setattr(os, "listdir", vanishing)
    found = collect(tree)
    assert paths(found) == ["s/run/a"]
    assert "s/run/x" not in found.has_directories


def test_a_sidecar_that_vanishes_says_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tree, "s/run/a")
    save(tree, "s/run/a.meta", "{}")
    monkeypatch.setattr(os, "open", failing(os.open, "a.meta", errno.ENOENT))
    assert (only(collect(tree)).metadata, only(collect(tree)).trouble) == (None, "")


# --- sidecars -------------------------------------------------------------------------------------


def test_a_sidecar_is_metadata_and_no_file(tree: Path) -> None:
    save(tree, "s/run/a")
    save(tree, "s/run/a.meta", json.dumps({"run": 7, "tags": ["x", {"y": None}]}))
    one = only(collect(tree))
    assert one.path == "s/run/a"
    assert one.metadata == {"run": 7, "tags": ["x", {"y": None}]}
    assert one.trouble == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[1]", "a JSON object is expected"),
        ('{"a": 1', "Expecting"),
        ('{"a": NaN}', "JSON"),
        ('{"a": 1e999}', "JSON"),
        (b'{"a": "\xff"}', "utf-8"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "too many"),
        ("[" * 100_000, "recursion"),
        ('{"a": "' + "x" * (1 << 20) + '"}', "larger than 1048576 bytes"),
    ],
)
def test_a_sidecar_that_is_wrong_is_told_and_does_not_harm_others(
    tree: Path, text: str | bytes, words: str
) -> None:
    save(tree, "s/run/a", rse="HERE")
    save(tree, "s/run/a.meta", text)
    save(tree, "s/run/b")
    one, other = collect(tree).files
    assert one.trouble.startswith("s/run/a.meta is no metadata: ")
    assert words in one.trouble
    assert one.metadata is None
    assert one.options.rse == "HERE"
    assert (other.path, other.trouble) == ("s/run/b", "")


def test_only_a_file_that_is_uploaded_has_a_sidecar(tree: Path) -> None:
    """Nothing is left out that no file takes along."""
    save(tree, "s/run/dir/x")
    save(tree, "s/run/dir.meta", "{}")
    (tree / "s/run/link").symlink_to("nowhere")
    for name in ("link.meta", ".meta", "alone.meta", ".rucio-upload.toml.meta"):
        save(tree, f"s/run/{name}", "{}")
    save(tree, "s/run/.rucio-upload.toml", "")
    assert paths(collect(tree)) == [
        "s/run/.meta",
        "s/run/.rucio-upload.toml.meta",
        "s/run/alone.meta",
        "s/run/dir.meta",
        "s/run/link.meta",
        "s/run/dir/x",
    ]


def test_a_sidecar_has_no_sidecar(tree: Path) -> None:
    save(tree, "s/run/a")
    save(tree, "s/run/a.meta", "{}")
    save(tree, "s/run/a.meta.meta", "no JSON")
    assert paths(collect(tree)) == ["s/run/a", "s/run/a.meta.meta"]


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_file_is_no_sidecar(tree: Path, tmp_path: Path, kind: str) -> None:
    save(tree, "s/run/a")
    _put(tree / "s/run/a.meta", kind, save(tmp_path, "secret", '{"a": "secret"}'))
    one = only(collect(tree))
    assert (one.metadata, one.trouble) == (None, "")


def _put(place: Path, kind: str, target: Path) -> None:
    if kind == "link":
        place.symlink_to(target)
    elif kind == "directory":
        place.mkdir()
    else:
        os.mkfifo(place)


# --- options --------------------------------------------------------------------------------------


def test_the_nearest_word_counts(tree: Path) -> None:
    """File, directory, those above, the mount; an attribute before the toml beside it."""
    path = save(tree, "s/run/x/a")
    found = []

    def note() -> None:
        found.append(only(collect(tree)).options.rse)

    note()
    save(tree, "s/.rucio-upload.toml", 'rse = "TOML-1"')
    note()
    say(tree / "s", rse="XATTR-1")
    note()
    save(tree, "s/run/.rucio-upload.toml", 'rse = "TOML-2"')
    note()
    say(tree / "s/run", rse="XATTR-2")
    note()
    save(tree, "s/run/x/.rucio-upload.toml", 'rse = "TOML-3"')
    note()
    say(tree / "s/run/x", rse="XATTR-3")
    note()
    say(path, rse="FILE")
    note()
    names = ["TOML-1", "XATTR-1", "TOML-2", "XATTR-2", "TOML-3", "XATTR-3"]
    assert found == ["MOUNT", *names, "FILE"]


def test_words_about_different_things_all_count(tree: Path) -> None:
    path = save(tree, "s/run/x/a", keep="5")
    say(tree / "s", lifetime="1d")
    save(tree, "s/run/.rucio-upload.toml", 'rule = "tier=1"\ndataset = ""')
    say(tree / "s/run/x", upload="never")
    os.setxattr(path, "user.comment", b"of somebody else")
    os.setxattr(path, "user.rucio-fs.lake", b"1")
    one = only(collect(tree))
    assert one.options == Options("MOUNT", "tier=1", 86400, "", "never", 5.0)
    assert one.trouble == ""


def test_what_was_said_of_one_directory_is_not_said_of_its_neighbours(tree: Path) -> None:
    for path in ("s/run/a/f", "s/run/b/f", "s/run/f"):
        save(tree, path)
    say(tree / "s/run/a", rse="A")
    rses = {one.path: one.options.rse for one in collect(tree).files}
    assert rses == {"s/run/a/f": "A", "s/run/b/f": "MOUNT", "s/run/f": "MOUNT"}


@pytest.mark.parametrize("where", ["s", "s/run", "s/run/x"])
def test_a_toml_that_is_wrong_is_told_of_every_file_that_it_is_about(
    tree: Path, where: str
) -> None:
    save(tree, "s/run/x/f")
    save(tree, "s/run/y/f")
    save(tree, f"{where}/.rucio-upload.toml", "lifetime = 'soon'")
    troubles = {one.path: one.trouble for one in collect(tree).files}
    words = f"{where}/.rucio-upload.toml: lifetime = 'soon': neither a number nor a time"
    assert troubles["s/run/x/f"] == words
    assert troubles["s/run/y/f"] == ("" if where == "s/run/x" else words)


@pytest.mark.parametrize("where", ["s", "s/run", "s/run/x", "s/run/x/f"])
def test_an_attribute_that_is_wrong_says_where(tree: Path, where: str) -> None:
    save(tree, "s/run/x/f")
    say(tree / where, lifetime="soon")
    words = f"{where}: user.rucio.lifetime = 'soon': neither a number nor a time"
    assert only(collect(tree)).trouble == words


def test_an_attribute_that_is_no_text(tree: Path) -> None:
    path = save(tree, "s/run/f")
    os.setxattr(path, collecting.KEPT + "dataset", b"\xff")
    assert only(collect(tree)).trouble.startswith("s/run/f: user.rucio.dataset = ")


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_a_toml_that_is_no_file_is_told(tree: Path, tmp_path: Path, kind: str) -> None:
    save(tree, "s/run/f")
    _put(tree / "s/run/.rucio-upload.toml", kind, save(tmp_path, "secret", "secret = 5"))
    trouble = only(collect(tree)).trouble
    assert trouble == "s/run/.rucio-upload.toml: it is no ordinary file"


def test_a_toml_that_is_too_large(tree: Path) -> None:
    save(tree, "s/run/f")
    save(tree, "s/run/.rucio-upload.toml", "#" * 70_000)
    assert "larger than 65536 bytes" in only(collect(tree)).trouble


def test_a_toml_that_cannot_be_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tree, "s/run/f")
    monkeypatch.setattr(os, "open", failing(os.open, ".rucio-upload.toml", errno.EIO))
    assert only(collect(tree)).trouble == "s/run/.rucio-upload.toml: Input/output error"


def test_a_disk_without_attributes(tree: Path, no_xattrs: None) -> None:
    save(tree, "s/run/f")
    save(tree, "s/run/.rucio-upload.toml", 'rse = "TOML"')
    one = only(collect(tree))
    assert (one.options.rse, one.trouble) == ("TOML", "")
    assert collecting.attributes(tree / "s/run/f") == {}


def test_attributes_as_they_were_said(tree: Path) -> None:
    path = save(tree, "s/run/f", lifetime="1 d", rse="A")
    os.setxattr(path, "user.rucio-fs.lake", b"1")
    assert collecting.attributes(path) == {"lifetime": "1 d", "rse": "A"}


# --- what is uploaded as one ----------------------------------------------------------------------


def test_tops(tree: Path) -> None:
    for path in ("s/run/x/f", "s/f", "t/a/f", "t/b/f"):
        save(tree, path)
    (tree / "s/link").symlink_to("run")
    (tree / "link").symlink_to("s")
    assert collecting.tops(tree) == ["s", "s/run", "t", "t/a", "t/b"]
    assert collecting.tops(tree, "t") == ["t", "t/a", "t/b"]
    assert collecting.tops(tree, "gone") == ["gone"]
    assert collecting.tops(tree / "gone") == []
