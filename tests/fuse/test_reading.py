"""The bytes of files: right in every way of reading, or an error that says why."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake, samples
from lake.fts.client import FtsControl
from rucio_fs import filenames
from tests import direct
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.fuse.clients import Client, eventually
from tests.mounting import Mount, run_all

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

HUGE = (5 << 30) + 12345
MARK_AT = (4 << 30) + 4321
MIB = 1 << 20


@pytest.fixture(scope="module")
def scope(lake: Lake) -> Iterator[str]:
    scope = direct.fresh_scope()
    plan = direct.Plan(
        files=[
            direct.File("huge", bytes=HUGE),
            direct.File("random", os.urandom(9 * MIB + 7)),
            direct.File("empty", b""),
            direct.File("one", b"1"),
            direct.File("nowhere", bytes=5, rses=()),
            direct.File("longer", b"twelve bytes"),
            direct.File("folder", bytes=5),
            direct.File("x/../../../escape", bytes=5, rses=("COLO",)),
        ],
    )
    direct.insert(lake, scope, plan)
    huge = direct.path_at_colo(lake, scope, "huge")
    huge.parent.mkdir(parents=True, exist_ok=True)
    with huge.open("wb") as file:  # a hole with three marks
        for offset, mark in ((0, b"first"), (MARK_AT, b"beyond 4 GiB"), (HUGE - 4, b"last")):
            file.seek(offset)
            file.write(mark)
    direct.path_at_colo(lake, scope, "longer").write_bytes(b"more than twelve bytes")
    direct.path_at_colo(lake, scope, "folder").mkdir(parents=True)
    yield scope
    huge.unlink()
    direct.hide(lake, scope)


@pytest.fixture(scope="module")
def mount(module_mounter: Mounter, scope: str) -> Mount:
    """Files that cannot be read are reported at ERROR, so warnings are expected."""
    return module_mounter(expect_warnings=True)


def _open_errno(mount: Mount, *parts: str) -> object:
    code = "os.close(os.open(os.path.join(ROOT, *ARGS), os.O_RDONLY)); show({})"
    return mount.python(code, *parts).get("errno")


# --- what is here ------------------------------------------------------------------------------


def test_every_local_sample_has_the_checksum_of_the_catalogue(mount: Mount, rest: Changer) -> None:
    damaged = samples.MISSING_AT_COLO | samples.SHORT_AT_COLO
    files = [
        file
        for file in samples.FILES
        if {"COLO", "COLO_SCRATCHDISK"} & set(file.rses)
        and file.kind != "zeros"
        and file.did not in damaged
    ]
    code = """
import hashlib
show({did: hashlib.md5(open(os.path.join(ROOT, *way), 'rb').read()).hexdigest()
      for did, way in ARGS[0].items()})
"""
    ways = {file.did: _way(mount, file) for file in files}
    assert len(ways) == 17
    expected = {did: rest.metadata(did)["md5"] for did in ways}
    assert mount.python(code, ways) == expected


def _way(mount: Mount, file: samples.SampleFile) -> tuple[str, ...]:
    """A path of *file*; too long names are found only in their dataset."""
    filename = filenames.encode(file.filename)
    if filename.startswith("%~"):
        return (file.scope, "long-names", filename)
    return (file.scope, filename)


def _uncache(lake: Lake, mount: Mount, scope: str, name: str) -> None:
    """Let no page of the file stay in memory: neither the mount's nor the storage's."""
    code = """
for path in ARGS:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
show(None)
"""
    mount.python(code, mount.path / scope / name, direct.path_at_colo(lake, scope, name))


cached_or_not = pytest.mark.parametrize("is_cached", [True, False], ids=["warm", "cold"])


@cached_or_not
@pytest.mark.parametrize("how", ["read", "mmap", "one-by-one", "backwards"])
def test_every_way_of_reading_gives_the_same_bytes(
    lake: Lake, mount: Mount, scope: str, how: str, is_cached: bool
) -> None:
    if not is_cached:
        _uncache(lake, mount, scope, "random")
    code = """
import hashlib, mmap
how, path = ARGS[0], os.path.join(ROOT, *ARGS[1:])
size = os.stat(path).st_size
digest = hashlib.sha256()
fd = os.open(path, os.O_RDONLY)
if how == 'read':
    while block := os.read(fd, 1 << 24):
        digest.update(block)
elif how == 'mmap':
    digest.update(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
elif how == 'one-by-one':
    for at in range(0, size, 65_537):
        digest.update(os.pread(fd, 65_537, at))
else:
    blocks = [os.pread(fd, 100_003, at) for at in range(size // 100_003 * 100_003, -1, -100_003)]
    digest.update(b''.join(reversed(blocks)))
show(digest.hexdigest())
"""
    expected = hashlib.sha256(direct.path_at_colo(lake, scope, "random").read_bytes())
    assert mount.python(code, how, scope, "random") == expected.hexdigest()


def test_random_reads_give_the_bytes_of_their_place(lake: Lake, mount: Mount, scope: str) -> None:
    _uncache(lake, mount, scope, "random")
    code = """
import random
original = open(ARGS[2], 'rb').read()
fd = os.open(os.path.join(ROOT, *ARGS[:2]), os.O_RDONLY)
draw, wrong = random.Random(1), 0
for _ in range(500):
    at, size = draw.randrange(len(original) + 10), draw.choice([1, 511, 4096, 70_000, 2_000_000])
    wrong += os.pread(fd, size, at) != original[at:at + size]
show(wrong)
"""
    assert mount.python(code, scope, "random", direct.path_at_colo(lake, scope, "random")) == 0


def test_16_concurrent_readers_get_the_same_checksum(lake: Lake, mount: Mount, scope: str) -> None:
    printed = run_all([["sha256sum", mount.path / scope / "random"]] * 16)
    expected = hashlib.sha256(direct.path_at_colo(lake, scope, "random").read_bytes())
    assert {line.split()[0] for line in printed} == {expected.hexdigest()}


def test_a_file_ends_where_the_catalogue_says(mount: Mount, scope: str) -> None:
    code = """
fds = [os.open(os.path.join(ROOT, ARGS[0], name), os.O_RDONLY) for name in ('empty', 'one')]
show([os.pread(fd, 10, at).decode() for fd in fds for at in (0, 1, 5000)])
"""
    assert mount.python(code, scope) == ["", "", "", "1", "", ""]


@cached_or_not
def test_bytes_beyond_4_gib_are_those_of_their_place(
    lake: Lake, mount: Mount, scope: str, is_cached: bool
) -> None:
    if not is_cached:
        _uncache(lake, mount, scope, "huge")
    assert mount.stat(scope, "huge")["size"] == HUGE
    path = mount.path / scope / "huge"
    assert mount.run("tail", "-c", "4", path).stdout == "last"
    dd = ("dd", f"if={path}", "bs=12", "count=1", "iflag=skip_bytes", "status=none")
    assert mount.run(*dd, f"skip={MARK_AT}").stdout == "beyond 4 GiB"
    assert mount.run("head", "-c", "5", path).stdout == "first"


def test_a_file_is_found_at_any_rse_of_the_site(mount: Mount) -> None:
    assert mount.xattr("source", "user.alice", "thesis", "thesis%2Ffit.json") == "COLO_SCRATCHDISK"
    done = mount.run("cat", mount.path / "user.alice" / "thesis" / "thesis%2Ffit.json")
    assert '"of": "user.alice:thesis/fit.json"' in done.stdout


def test_a_prefix_map_stands_in_for_file_pfns(lake: Lake, mounter: Mounter) -> None:
    prefix = f"davs://localhost:{lake.ports['colo']}/rucio/"
    mount = mounter(site="", site__paths=f"{prefix}={lake.store('COLO')}/")
    read = mount.run("cat", mount.path / "lab" / "mixed" / "notes.txt")
    assert read.stdout == direct.path_at_colo(lake, "lab", "notes.txt").read_text()
    assert mount.xattr("pfn", "lab", "mixed", "notes.txt") == (
        prefix
        + direct.path_at_colo(lake, "lab", "notes.txt").relative_to(lake.store("COLO")).as_posix()
    )


def test_a_mount_without_a_site_streams(mounter: Mounter) -> None:
    mount = mounter(site="", rse="")
    assert _open_errno(mount, "lab", "mixed", "notes.txt") is None
    assert mount.xattr("locality", "lab", "mixed", "notes.txt") == "REMOTE"
    assert mount.xattr("source", "lab", "mixed", "notes.txt") in ("COLO", "REM1")
    assert mount.xattr("error", "lab", "mixed", "notes.txt") == {"errno": "ENODATA"}


# --- what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.dat", "missing.dat does not exist"),
        ("lost.dat", "lost.dat does not exist"),
        ("short.dat", "has 50000 bytes, the catalogue says 100000"),
    ],
)
def test_a_damaged_local_copy_is_eio_with_the_reason(
    mounter: Mounter, name: str, reason: str
) -> None:
    mount = mounter(policy="replicate", expect_warnings=True)
    assert _open_errno(mount, "lab", "damaged", name) == "EIO"
    error = str(mount.xattr("error", "lab", "damaged", name))
    assert reason in error
    assert f"lab:{name}" in error
    assert "COLO" in error
    assert mount.xattr("source", "lab", "damaged", name) == {"errno": "ENODATA"}


def test_the_neighbour_of_damaged_files_is_well(mount: Mount) -> None:
    assert _open_errno(mount, "lab", "damaged", "whole.dat") is None
    assert mount.xattr("error", "lab", "damaged", "whole.dat") == {"errno": "ENODATA"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("longer", "has 22 bytes, the catalogue says 12"),
        ("folder", "is not a regular file"),
        ("x%2F..%2F..%2F..%2Fescape", "the path contains '..'"),
    ],
)
def test_what_is_not_the_file_of_the_catalogue_is_eio(
    mount: Mount, scope: str, name: str, reason: str
) -> None:
    assert _open_errno(mount, scope, name) == "EIO"
    assert reason in str(mount.xattr("error", scope, name))


def test_the_reason_is_in_the_log_too(mount: Mount) -> None:
    assert _open_errno(mount, "lab", "damaged", "lost.dat") == "EIO"
    assert any("lab:lost.dat" in line and " ERROR " in line for line in mount.warnings())


def test_a_file_without_any_replica_is_enodata(mount: Mount, scope: str) -> None:
    assert _open_errno(mount, scope, "nowhere") == "ENODATA"
    assert "no available replica" in str(mount.xattr("error", scope, "nowhere"))


def test_a_copy_of_the_right_size_is_read_as_it_is(
    lake: Lake, rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    # What docs/SEMANTICS.md warns of: no checksum is computed of what lies on the RSE.
    rest.add_file(f"{new_scope}:data", b"right")
    direct.path_at_colo(lake, new_scope, "data").write_bytes(b"wrong")
    mount = mounter()
    assert mount.run("cat", mount.path / new_scope / "data").stdout == "wrong"
    adler32 = f"{zlib.adler32(b'right'):08x}"
    assert mount.xattr("adler32", new_scope, "data") == adler32


def test_a_copy_cut_while_open_is_eio_and_never_a_short_file(
    lake: Lake, rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    did = f"{new_scope}:cut"
    rest.add_file(did, os.urandom(8 * MIB))
    mount = mounter(expect_warnings=True)
    code = """
fd = os.open(ROOT, os.O_RDONLY)
show(len(os.pread(fd, 4096, 0)))
wait()
try:
    show(len(os.pread(fd, 4096, 7 << 20)))
except OSError as exc:
    show(errno.errorcode[exc.errno])
wait()
"""
    with Client(mount.path / new_scope / "cut", code) as client:
        assert client.seen() == 4096
        os.truncate(direct.path_at_colo(lake, new_scope, "cut"), MIB)
        client.go_on()
        assert client.seen() == "EIO"
        client.go_on()
        assert client.end() == 0


def test_an_open_file_stays_readable_when_its_copy_is_deleted(
    lake: Lake, rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    content = os.urandom(3 * MIB)
    rest.add_file(f"{new_scope}:gone", content)
    mount = mounter(expect_warnings=True)
    code = """
import hashlib
file = open(ROOT, 'rb')
show(len(file.read(10)))
wait()
file.seek(0)
show(hashlib.md5(file.read()).hexdigest())
wait()
"""
    path = mount.path / new_scope / "gone"
    with Client(path, code) as client:
        assert client.seen() == 10
        direct.path_at_colo(lake, new_scope, "gone").unlink()
        client.go_on()
        assert client.seen() == hashlib.md5(content).hexdigest()
        assert _open_errno(mount, new_scope, "gone") == "EIO"
        client.go_on()
        assert client.end() == 0


# --- what comes --------------------------------------------------------------------------------


def test_a_file_that_a_rule_brings_is_read_here_without_a_remount(
    lake: Lake, rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    did, content = f"{new_scope}:data", os.urandom(100_000)
    rest.add_file(did, content, "REM1")
    mount = mounter(cache__now_ttl=0.2, cache__replicas_ttl=3600)
    way = (new_scope, "data")
    assert _open_errno(mount, *way) is None
    assert mount.xattr("state", *way) == "NOT_AVAILABLE"
    assert mount.xattr("source", *way) == "REM1"
    fts = FtsControl(lake.fts_url)
    fts.stall("data")
    try:
        rest.add_rule(did, "COLO")
        fts.wait_stalled(timeout=30)
        eventually(lambda: mount.xattr("state", *way), lambda state: state == "REPLICATING")
        assert _open_errno(mount, *way) is None
    finally:
        fts.clear()
    eventually(lambda: mount.xattr("source", *way), lambda rse: rse == "COLO")
    printed = mount.run("sha256sum", mount.path.joinpath(*way)).stdout
    assert printed.split()[0] == hashlib.sha256(content).hexdigest()
    assert mount.xattr("state", *way) == "AVAILABLE"
    assert mount.xattr("source", *way) == "COLO"


def test_a_second_copy_serves_when_the_first_is_damaged(
    lake: Lake, rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    did = f"{new_scope}:twice"
    rest.add_file(did, b"good\n")
    rest.add_file(did, b"good\n", "COLO_SCRATCHDISK")
    direct.path_at_colo(lake, new_scope, "twice").unlink()
    mount = mounter()
    assert mount.run("cat", mount.path / new_scope / "twice").stdout == "good\n"
    assert mount.xattr("error", new_scope, "twice") == {"errno": "ENODATA"}


# --- read-only ---------------------------------------------------------------------------------

_WRITES = {
    "create": "os.open(d + '/new', os.O_CREAT | os.O_WRONLY)",
    "open for writing": "os.open(f, os.O_WRONLY)",
    "open for both": "os.open(f, os.O_RDWR)",
    "append": "open(f, 'a')",
    "truncate": "os.truncate(f, 0)",
    "truncate to more": "os.truncate(f, 100)",
    "mkdir": "os.mkdir(d + '/new')",
    "rmdir": "os.rmdir(d)",
    "unlink": "os.unlink(f)",
    "rename": "os.rename(f, d + '/new')",
    "symlink": "os.symlink('x', d + '/new')",
    "link": "os.link(f, d + '/new')",
    "mkfifo": "os.mkfifo(d + '/new')",
    "chmod": "os.chmod(f, 0o644)",
    "chown": "os.chown(f, 1, 1)",
    "utime": "os.utime(f)",
    "create at the top": "os.mkdir(ROOT + '/new')",
    "create in .rucio": "os.open(ROOT + '/.rucio/new', os.O_CREAT | os.O_WRONLY)",
    "overwrite the README": "os.open(ROOT + '/README.txt', os.O_WRONLY)",
    "overwrite the status": "os.open(ROOT + '/.rucio/status', os.O_WRONLY)",
    "removexattr": "os.removexattr(f, 'user.rucio.did')",
}


@pytest.mark.parametrize("write", _WRITES)
def test_every_change_is_erofs(mount: Mount, write: str) -> None:
    code = f"d = ROOT + '/lab/mixed'; f = d + '/notes.txt'\n{_WRITES[write]}\nshow('it worked')"
    assert mount.python(code) == {"errno": "EROFS"}


@pytest.mark.parametrize("name", ["user.note", "user.rucio.did", "user.rucio.meta.colour"])
def test_attributes_cannot_be_set(mount: Mount, name: str) -> None:
    code = "os.setxattr(ROOT + '/lab/mixed/notes.txt', ARGS[0], b'x'); show('it worked')"
    assert mount.python(code, name) in ({"errno": "EOPNOTSUPP"}, {"errno": "ENOTSUP"})


def test_nothing_of_all_that_changed_anything(lake: Lake, mount: Mount, rest: Changer) -> None:
    assert mount.ls("lab", "mixed") == ["exp0001_g.fits", "notes.txt", "sky:notes.txt"]
    assert [row["name"] for row in rest.rows("/dids/lab/mixed/dids")].count("notes.txt") == 2
    original = direct.path_at_colo(lake, "lab", "notes.txt")
    assert mount.run("cat", mount.path / "lab" / "mixed" / "notes.txt").stdout == (
        original.read_text()
    )


def test_reading_does_not_touch_the_storage(lake: Lake, mount: Mount) -> None:
    path: Path = direct.path_at_colo(lake, "lab", "whole.dat")
    before = path.stat()
    assert mount.run("cp", mount.path / "lab" / "damaged" / "whole.dat", "/dev/null").stderr == ""
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_mode) == (
        before.st_mtime_ns,
        before.st_size,
        before.st_mode,
    )
