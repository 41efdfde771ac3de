"""What stat and getfattr say, compared with what Rucio's REST interface says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from lake import Lake, samples
from rucio_fs import filenames
from tests import direct
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.fuse.clients import eventually
from tests.lake.rest import did_path
from tests.mounting import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

CREATED = "2024-01-02T01:30:45"
CREATED_NS = int(datetime.fromisoformat(CREATED + "+00:00").timestamp()) * 10**9
MANY = 30


@pytest.fixture(scope="module")
def scope(lake: Lake, rest: Changer) -> Iterator[str]:
    """Collections made in 2024 and changed today."""
    scope = direct.fresh_scope()
    plan = direct.Plan(
        files=[direct.File("file.txt", b"12345")],
        collections=[
            direct.Collection("closed", ["file.txt"]),
            direct.Collection("open", is_open=True),
            direct.Collection("closed-today", is_open=True),
            # d00 and d01 are for the tests that change something
            *(direct.Collection(f"d{number:02d}") for number in range(MANY)),
        ],
        time=CREATED,
    )
    direct.insert(lake, scope, plan)
    rest.set_open(f"{scope}:open", False)
    rest.set_open(f"{scope}:open", True)
    rest.attach(f"{scope}:closed-today", f"{scope}:file.txt")
    rest.set_open(f"{scope}:closed-today", False)
    yield scope
    direct.hide(lake, scope)


@pytest.fixture(scope="module")
def mount(module_mounter: Mounter, scope: str) -> Mount:
    return module_mounter()


def _ns(rest: Changer, did: str, key: str) -> int:
    return int(parsedate_to_datetime(rest.metadata(did)[key]).replace(tzinfo=UTC).timestamp()) * (
        10**9
    )


def _mtime(mount: Mount, *parts: str) -> int:
    return int(mount.stat(*parts)["mtime_ns"])


# --- times -------------------------------------------------------------------------------------


def test_the_mtime_of_a_file_is_when_it_was_registered(mount: Mount, scope: str) -> None:
    assert _mtime(mount, scope, "closed", "file.txt") == CREATED_NS
    assert _mtime(mount, scope, "file.txt") == CREATED_NS


def test_the_mtime_of_an_open_collection_is_when_rucio_updated_it(
    mount: Mount, rest: Changer, scope: str
) -> None:
    updated = _ns(rest, f"{scope}:open", "updated_at")
    assert updated > CREATED_NS
    assert _mtime(mount, scope, "open") == updated


def test_rucio_does_not_count_an_attachment_as_an_update(
    mount: Mount, rest: Changer, scope: str
) -> None:
    # What docs/SEMANTICS.md warns of; should Rucio change this, the warning can go.
    before = _ns(rest, f"{scope}:d01", "updated_at")
    rest.set_open(f"{scope}:d01", True)
    opened = _ns(rest, f"{scope}:d01", "updated_at")
    rest.attach(f"{scope}:d01", f"{scope}:file.txt")
    assert before < opened == _ns(rest, f"{scope}:d01", "updated_at")


def test_the_mtime_of_a_closed_collection_is_when_it_was_made(
    mount: Mount, rest: Changer, scope: str
) -> None:
    assert _ns(rest, f"{scope}:closed-today", "updated_at") > CREATED_NS
    assert _mtime(mount, scope, "closed-today") == CREATED_NS
    assert _mtime(mount, scope, "closed") == CREATED_NS


def test_ls_shows_the_same_times_and_sizes_as_stat(mount: Mount, scope: str) -> None:
    code = """
top = os.path.join(ROOT, *ARGS)
walked = {e.name: e.stat(follow_symlinks=False) for e in os.scandir(top)}
named = {name: os.lstat(os.path.join(top, name)) for name in walked}
show([[name, [(s.st_mtime_ns, s.st_size, s.st_ino, s.st_mode) for s in (walked[name], named[name])]]
      for name in walked])
"""
    for way in [(scope,), (scope, "closed"), ("sky",), ("lab", "mixed"), ()]:
        for name, (walked, named) in mount.python(code, *way):
            if name != ".rucio":
                assert walked == named, (way, name)


def test_a_directory_of_directories_shows_the_time_of_each(mount: Mount, scope: str) -> None:
    listing = mount.run("ls", "-l", "--time-style=+%Y-%m-%dT%H:%M:%S", mount.path / scope).stdout
    shown = {line.split()[6]: line.split()[5] for line in listing.splitlines()[1:]}
    assert {shown[f"d{number:02d}"] for number in range(2, MANY)} == {CREATED}


def test_times_are_not_the_time_of_the_look(mount: Mount, scope: str) -> None:
    for way in [(scope,), (), ("README.txt",), (".rucio",), (".rucio", "status"), ("sky", "cubes")]:
        before = _mtime(mount, *way)
        mount.run("ls", "-lR", mount.path / scope)
        assert _mtime(mount, *way) == before


def test_the_mtime_of_an_open_dataset_follows_within_open_ttl(
    rest: Changer, mounter: Mounter, scope: str
) -> None:
    mount = mounter(cache__open_ttl=0.3, cache__closed_ttl=0.3)
    assert _mtime(mount, scope, "d00") == CREATED_NS
    rest.set_open(f"{scope}:d00", True)
    eventually(lambda: _mtime(mount, scope, "d00"), lambda mtime: mtime > CREATED_NS, deadline=8)
    assert _mtime(mount, scope, "d00") == _ns(rest, f"{scope}:d00", "updated_at")


# --- sizes, modes, owners ----------------------------------------------------------------------


def test_sizes_are_those_of_the_catalogue(mount: Mount, rest: Changer) -> None:
    code = """
show({os.path.relpath(os.path.join(top, name), ROOT): os.lstat(os.path.join(top, name)).st_size
      for way in ARGS for top, _, names in os.walk(os.path.join(ROOT, way)) for name in names})
"""
    sizes = mount.python(code, *(f"{d.scope}/{d.filename}" for d in samples.DATASETS))
    expected = {
        f"{dataset.scope}/{dataset.filename}/{_shown(dataset, did)}": rest.metadata(did)["bytes"]
        for dataset in samples.DATASETS
        for did in dataset.members
    }
    assert len(expected) > 40
    assert sizes == expected


def _shown(dataset: samples.SampleCollection, did: str) -> str:
    if dataset.did == "lab:mixed" and did == "sky:notes.txt":
        return "sky:notes.txt"
    # What is called run/a in the dataset run is shown as a.
    return filenames.encode(did.removeprefix(f"{dataset.did}/").split(":", 1)[-1])


def test_sizes_over_4_gib_are_shown_whole(mount: Mount) -> None:
    assert mount.stat("lab", "big", "zeros-5GiB.dat")["size"] == 5 << 30


def test_du_counts_the_bytes_of_the_catalogue(mount: Mount, rest: Changer) -> None:
    total = sum(row["bytes"] for row in rest.rows("/dids/sky/night-001/dids"))
    done = mount.run("du", "-s", "--apparent-size", "-B1", mount.path / "sky" / "night-001")
    assert int(done.stdout.split()[0]) == total
    rounded = mount.run("du", "-s", "-B1", mount.path / "sky" / "night-001")
    assert total <= int(rounded.stdout.split()[0]) < total + 3 * 512


def test_directories_are_0555_and_files_0444_with_one_link(mount: Mount) -> None:
    for way in [(), ("sky",), ("sky", "survey"), ("lab", "empty")]:
        found = mount.stat(*way)
        assert (oct(found["mode"]), found["nlink"]) == (oct(stat.S_IFDIR | 0o555), 1)
    for way in [("sky", "README.txt"), ("lab", "mixed", "notes.txt"), ("README.txt",)]:
        found = mount.stat(*way)
        assert (oct(found["mode"]), found["nlink"]) == (oct(stat.S_IFREG | 0o444), 1)


def test_everything_belongs_to_who_mounts(mount: Mount) -> None:
    owners = mount.run("find", mount.path / "sky", "-printf", "%U:%G\n").stdout.split()
    assert set(owners) == {f"{os.getuid()}:{os.getgid()}"}


def test_uid_gid_and_umask_are_options(mounter: Mounter) -> None:
    mount = mounter(uid=1234, gid=2345, umask="0227")
    shown = mount.run("find", mount.path / "sky", "-maxdepth", "1", "-printf", "%y %m %U:%G\n")
    assert set(shown.stdout.splitlines()) == {"d 550 1234:2345", "f 440 1234:2345"}


def test_df_answers(mount: Mount) -> None:
    done = mount.run("df", "--output=source,size,target", mount.path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split() == ["rucio", "0", str(mount.path)]


# --- extended attributes -----------------------------------------------------------------------

_GETFATTR = """
path = os.path.join(ROOT, *ARGS)
show({name: os.getxattr(path, name).decode() for name in os.listxattr(path)})
"""


def _xattrs(mount: Mount, *parts: str) -> dict[str, str]:
    found: dict[str, str] = mount.python(_GETFATTR, *parts)
    return {name.removeprefix("user.rucio."): value for name, value in found.items()}


def _iso(rest: Changer, did: str, key: str) -> str:
    moment = parsedate_to_datetime(rest.metadata(did)[key])
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_attributes_of_a_local_file_are_rucio_s(lake: Lake, mount: Mount, rest: Changer) -> None:
    did = "lab:run-0007.root"
    meta = rest.metadata(did)
    path = direct.path_at_colo(lake, "lab", "run-0007.root")
    assert _xattrs(mount, "lab", "campaign", "run-0007", "run-0007.root") == {
        "did": did,
        "scope": "lab",
        "name": "run-0007.root",
        "type": "FILE",
        "bytes": str(meta["bytes"]),
        "adler32": meta["adler32"],
        "md5": meta["md5"],
        "account": "root",
        "created_at": _iso(rest, did, "created_at"),
        "state": "AVAILABLE",
        "locality": "LOCAL",
        "replicas": "COLO=AVAILABLE,REM1=AVAILABLE",
        "source": "COLO",
        "cached_bytes": "0",
        "local_path": str(path),
        "pfn": f"file://localhost{path}",
        "meta.run": "7",
    }


def test_attributes_of_a_remote_file_say_where_it_is(mount: Mount, rest: Changer) -> None:
    found = _xattrs(mount, "sky", "best-of", "night-002", "exp0011_g.fits")
    (row,) = rest.rows("/replicas/list", {"dids": [{"scope": "sky", "name": "exp0011_g.fits"}]})
    assert found["state"] == "NOT_AVAILABLE"
    assert found["replicas"] == "REM1=AVAILABLE"
    assert found["pfn"] in row["pfns"]
    assert found["source"] == "REM1"
    assert "local_path" not in found
    assert {key: found[f"meta.{key}"] for key in ("target", "band", "exptime")} == {
        "target": "NGC 1068",
        "band": "g",
        "exptime": "120.0",
    }


@pytest.mark.parametrize(
    ("way", "did"),
    [
        (("sky", "survey", "survey.2026", "night-001"), "sky:night-001"),
        (("sky", "survey", "survey.2026", "night-003"), "sky:night-003"),
        (("lab", "campaign"), "lab:campaign"),
        (("user.alice", "thesis"), "user.alice:thesis"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attributes_of_collections_are_rucio_s(
    mount: Mount, rest: Changer, way: tuple[str, ...], did: str
) -> None:
    meta = rest.metadata(did)
    expected = {
        "did": did,
        "scope": meta["scope"],
        "name": meta["name"],
        "type": meta["did_type"],
        "account": meta["account"],
        "open": str(meta["is_open"]).lower(),
        "created_at": _iso(rest, did, "created_at"),
        "updated_at": _iso(rest, did, "updated_at"),
    }
    if not meta["is_open"]:
        expected |= {"length": str(meta["length"]), "bytes": str(meta["bytes"])}
    custom = rest.get(f"/dids/{did_path(did)}/meta?plugin=JSON")
    expected |= {f"meta.{key}": str(value) for key, value in custom.items()}
    found = _xattrs(mount, *way)
    found.pop("bytes", None) if meta["is_open"] else None
    assert found == expected


def test_attributes_of_a_scope_and_none_of_the_top(mount: Mount) -> None:
    assert _xattrs(mount, "user.alice") == {"scope": "user.alice"}
    assert _xattrs(mount) == {}
    assert _xattrs(mount, "README.txt") == {}


def test_getfattr_shows_them(mount: Mount) -> None:
    done = mount.run("getfattr", "-d", "--absolute-names", mount.path / "lab" / "run-0007")
    assert done.returncode == 0
    assert 'user.rucio.did="lab:run-0007"' in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("user.rucio.nothing", "ENODATA"),
        ("user.rucio.meta.nothing", "ENODATA"),
        ("user.rucio.length", "ENODATA"),  # of collections only
        ("user.rucio.error", "ENODATA"),  # nothing is wrong with this file
        ("user.other", "ENODATA"),
        ("security.selinux", "ENOTSUP"),
        ("system.posix_acl_access", "ENOTSUP"),
    ],
)
def test_an_attribute_that_is_not_there(mount: Mount, name: str, number: str) -> None:
    code = "show(os.getxattr(ROOT + '/lab/mixed/notes.txt', ARGS[0]).decode())"
    assert (
        mount.python(code, name)
        in [{"errno": number}, {"errno": "EOPNOTSUPP"}][: 2 if number == "ENOTSUP" else 1]
    )


def test_attributes_tell_the_truth_of_now(rest: Changer, mounter: Mounter, new_scope: str) -> None:
    did = f"{new_scope}:set"
    rest.add_collection(did)
    mount = mounter(cache__now_ttl=0.2, cache__open_ttl=3600, cache__closed_ttl=3600)
    before = _xattrs(mount, new_scope, "set")
    assert before["open"] == "true"
    assert "meta.colour" not in before
    rest.set_metadata(did, colour="blue")
    rest.set_open(did, False)
    wanted = {"open": "false", "meta.colour": "blue", "length": "0"}
    eventually(
        lambda: _xattrs(mount, new_scope, "set"),
        lambda found: found | wanted == found,
        deadline=8,
    )


def test_metadata_of_every_type_is_text(rest: Changer, mount: Mount, scope: str) -> None:
    values: dict[str, Any] = {"n": 3, "x": 0.5, "yes": True, "list": [1, "ö"], "text": "größe"}
    rest.set_metadata(f"{scope}:file.txt", **values)
    found = _xattrs(mount, scope, "file.txt")
    assert {key: found[f"meta.{key}"] for key in values} == {
        "n": "3",
        "x": "0.5",
        "yes": "true",
        "list": '[1, "ö"]',
        "text": "größe",
    }


def test_without_xattrs_there_are_none_and_files_still_read(mounter: Mounter) -> None:
    mount = mounter(xattrs=False)
    path = mount.path / "lab" / "mixed" / "notes.txt"
    assert mount.run("cat", path).returncode == 0
    assert mount.xattr("did", "lab", "mixed", "notes.txt") in (
        {"errno": "ENOTSUP"},
        {"errno": "EOPNOTSUPP"},
    )
    listed = mount.run("getfattr", "-d", "--absolute-names", path)
    assert listed.stdout == ""
