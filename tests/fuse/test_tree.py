"""The tree: which names there are, what they lead to, and when a change is seen."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from lake import Lake, samples
from rucio_fs import filenames
from tests import direct
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.fuse.clients import Client, eventually
from tests.mounting import Mount, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

FIXED = [".rucio", "README.txt"]
LONG_TOP = "/".join(["deep" * 12] * 5) + ".top"  # 249 characters, 259 bytes once "/" is written %2F
ODD_NAMES = (  # beyond what Rucio's generic schema lets through; other schemas do
    "a b.txt",
    "tab\there",
    "100%.txt",
    "%41.txt",
    "a:b:c",
    "back\\slash",
    "it's",
    'quo"te',
    "-rf",
    "*x",
    "~x",
    ".hidden",
    "$(id)",
    "a;b",
    "q?a=1&b=2#c",
    "x" * 250,
)
TOO_LONG = "%" * 200  # 600 bytes once written %25; COLO's disk could not keep it
# Rucio's REST interface has no URL or no valid error for these: only the listing is tried.
UNASKABLE = ("größe.txt", "🌌.fits", "ü" * 200, "new\nline", ".", "..")
HOUR = 3600


@pytest.fixture(scope="module")
def scope(lake: Lake) -> Iterator[str]:
    scope = direct.fresh_scope()
    odd = [direct.File(name, f"{name!r}\n".encode()) for name in ODD_NAMES]
    odd.append(direct.File(TOO_LONG, bytes=5))
    long_top = direct.File(LONG_TOP, bytes=7)
    plan = direct.Plan(
        files=[*odd, long_top, *(direct.File(name, bytes=1) for name in UNASKABLE)],
        collections=[
            direct.Collection("odd", [file.name for file in odd]),
            direct.Collection("unaskable", UNASKABLE),
        ],
    )
    direct.insert(lake, scope, plan)
    yield scope
    direct.hide(lake, scope)


@pytest.fixture(scope="module")
def mount(module_mounter: Mounter, scope: str) -> Mount:
    return module_mounter()


def _errno(mount: Mount, *parts: str) -> object:
    """Errno of lstat, None if it succeeds."""
    return mount.stat(*parts).get("errno")


# --- the top -----------------------------------------------------------------------------------


def test_the_top_holds_the_scopes_and_two_fixed_entries(rest: Changer, mounter: Mounter) -> None:
    assert mounter().ls() == sorted([*rest.get("/scopes/"), *FIXED])


def test_readme_says_what_this_is(lake: Lake, mount: Mount) -> None:
    done = mount.run("cat", mount.path / "README.txt")
    assert f"Rucio data lake {lake.rucio_url}," in done.stdout
    assert len(done.stdout.encode()) == mount.stat("README.txt")["size"]


def test_every_command_of_the_readme_works(mount: Mount) -> None:
    readme = mount.run("cat", mount.path / "README.txt").stdout
    commands = [line[4:].split("   ")[0] for line in readme.splitlines() if line[:4] == "    "]
    assert len(commands) >= 5
    for command in commands:
        command = (
            command.replace("SCOPE/CONTAINER", "lab/campaign/run-0007")
            .replace("SCOPE/DATASET/FILE", "lab/mixed/notes.txt")
            .replace("SCOPE/.../F", "lab/damaged/lost.dat")
            .replace("SCOPE", "lab")
            .replace("~/", '"$(mktemp -d)"')
        )
        done = mount.run("bash", "-c", f"cd {mount.path} && {command}")
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout or command.startswith("cp "), command


def test_status_is_json_and_says_how_rucio_is(lake: Lake, mount: Mount) -> None:
    status = mount.status()
    assert status["rucio"]["state"] == "ok"
    assert status["rucio"]["host"] == lake.rucio_url
    assert status["rucio"]["account"] == "root"
    assert status["mountpoint"] == str(mount.path)
    assert status["site"] == {"name": "HERE", "rse": "COLO"}


def test_a_scope_that_does_not_exist_is_enoent(mount: Mount) -> None:
    assert _errno(mount, "nobody.is.called.this") == "ENOENT"


def test_allow_and_deny_choose_the_scopes(mounter: Mounter) -> None:
    mount = mounter(scopes="sky:user.*", deny_scopes="user.b*")
    assert mount.ls() == sorted([*FIXED, "sky", "user.alice"])
    assert _errno(mount, "lab", "mixed") == "ENOENT"
    assert _errno(mount, "user.bob") == "ENOENT"
    assert _errno(mount, "user.alice", "thesis") is None


# --- scopes ------------------------------------------------------------------------------------


def test_a_scope_lists_what_has_no_parent_in_it(mount: Mount) -> None:
    # sky:notes.txt is a member of a dataset, but of another scope's.
    assert mount.ls("sky") == ["README.txt", "archive", "best-of", "notes.txt", "survey"]
    assert mount.ls("user.bob") == ["shared"]


def test_listing_all_shows_every_did_of_a_scope(rest: Changer, mounter: Mounter) -> None:
    rows = rest.rows("/dids/sky/dids/search?type=all")
    names = sorted(filenames.encode(str(row)) for row in rows)
    assert len(names) >= 25
    assert mounter(scopes__listing="all").ls("sky") == names


def test_any_did_answers_by_name(mount: Mount) -> None:
    listed = mount.ls("sky")
    for unlisted in ("night-001", "survey.2026", "exp0011_g.fits", "cubes"):
        assert unlisted not in listed
        assert _errno(mount, "sky", unlisted) is None
    assert mount.ls("sky", "night-001") == mount.ls("sky", "survey", "survey.2026", "night-001")


def test_a_did_answers_also_while_its_scope_was_never_listed(mounter: Mounter) -> None:
    mount = mounter()
    assert mount.xattr("did", "lab", "run-0007") == "lab:run-0007"


def test_a_did_of_another_scope_is_not_found_in_a_scope(mount: Mount) -> None:
    assert _errno(mount, "lab", "lab:notes.txt") is None
    assert _errno(mount, "lab", "sky:notes.txt") == "ENOENT"


# --- collections -------------------------------------------------------------------------------


def test_containers_nest_as_in_rucio(mount: Mount) -> None:
    assert mount.ls("sky", "survey") == ["survey.2025", "survey.2026"]
    assert mount.ls("sky", "survey", "survey.2026") == ["night-001", "night-002", "night-003"]
    night = mount.ls("sky", "survey", "survey.2026", "night-001")
    assert night == ["exp0001_g.fits", "exp0002_r.fits", "exp0003_i.fits"]


def test_an_empty_dataset_is_an_empty_directory(mount: Mount) -> None:
    assert mount.ls("lab", "empty") == []


def test_a_dataset_in_two_containers_appears_in_both(mount: Mount) -> None:
    ways = [("sky", "survey", "survey.2026", "night-002"), ("sky", "best-of", "night-002")]
    assert mount.ls(*ways[0]) == mount.ls(*ways[1]) != []


def test_a_file_has_one_inode_and_a_directory_one_per_path(mount: Mount) -> None:
    ways = [
        ("sky", "survey", "survey.2026", "night-002"),
        ("sky", "best-of", "night-002"),
        ("sky", "night-002"),
    ]
    assert len({mount.stat(*way)["ino"] for way in ways}) == 3
    files = [(*way, "exp0011_g.fits") for way in ways] + [("sky", "exp0011_g.fits")]
    assert len({mount.stat(*file)["ino"] for file in files}) == 1


def test_members_of_other_scopes_appear_under_their_names(mount: Mount) -> None:
    assert mount.xattr("did", "lab", "mixed", "exp0001_g.fits") == "sky:exp0001_g.fits"
    in_its_own_scope = mount.stat("sky", "exp0001_g.fits")
    assert mount.stat("lab", "mixed", "exp0001_g.fits")["ino"] == in_its_own_scope["ino"]


def test_of_two_namesakes_the_directory_s_own_keeps_the_name(mount: Mount) -> None:
    assert mount.ls("lab", "mixed") == ["exp0001_g.fits", "notes.txt", "sky:notes.txt"]
    assert mount.xattr("did", "lab", "mixed", "notes.txt") == "lab:notes.txt"
    assert mount.xattr("did", "lab", "mixed", "sky:notes.txt") == "sky:notes.txt"


def test_scope_colon_name_always_resolves(mount: Mount) -> None:
    for plain, qualified in (
        ("notes.txt", "lab:notes.txt"),
        ("exp0001_g.fits", "sky:exp0001_g.fits"),
    ):
        assert mount.stat("lab", "mixed", qualified) == mount.stat("lab", "mixed", plain)
    assert _errno(mount, "lab", "mixed", "lab:exp0001_g.fits") == "ENOENT"


def test_a_container_in_itself_is_shown_but_not_entered(mount: Mount) -> None:
    assert mount.ls("lab", "loop-a") == ["loop-b"]
    assert mount.ls("lab", "loop-a", "loop-b") == ["loop-a"]
    assert _errno(mount, "lab", "loop-a", "loop-b", "loop-a") is None
    again = mount.python(
        "show(os.listdir(ROOT + '/lab/loop-a/loop-b/loop-a'))",
    )
    assert again == {"errno": "ELOOP"}
    assert _errno(mount, "lab", "loop-a", "loop-b", "loop-a", "loop-b") == "ELOOP"


@pytest.mark.parametrize("command", ["find", "du", "ls -R"])
def test_programs_that_walk_get_to_the_end_of_a_cycle(mount: Mount, command: str) -> None:
    done = mount.run(*command.split(), mount.path / "lab" / "loop-a")
    assert done.returncode != 0
    assert done.stderr.count("Too many levels of symbolic links") == 1
    assert "/loop-a/loop-b/loop-a" in done.stderr


# --- names -------------------------------------------------------------------------------------


def test_slashes_are_written_2f_and_lead_back(lake: Lake, mount: Mount) -> None:
    name = "calib/2026-01/bias/bias-0001.fits"
    assert mount.ls("sky", "calibration")[0] == "calib%2F2026-01%2Fbias%2Fbias-0001.fits"
    expected = hashlib.md5(direct.path_at_colo(lake, "sky", name).read_bytes()).hexdigest()
    for way in [("sky", "calibration"), ("sky",)]:
        read = mount.run("md5sum", "--", mount.path.joinpath(*way, name.replace("/", "%2F")))
        assert read.stdout.split()[0] == expected
    assert _errno(mount, "sky", name) == "ENOENT"


def test_a_name_of_250_characters_is_a_filename(lake: Lake, mount: Mount) -> None:
    assert samples.LONG_FILENAME in mount.ls("lab", "long-names")
    path = mount.path / "lab" / "long-names" / samples.LONG_FILENAME
    expected = direct.path_at_colo(lake, "lab", samples.LONG_FILENAME).read_text()
    assert mount.run("cat", path).stdout == expected


def test_a_name_too_long_for_linux_is_a_digest_that_opens(lake: Lake, mount: Mount) -> None:
    (digest,) = [name for name in mount.ls("lab", "long-names") if name.startswith("%~")]
    assert len(digest) == 255
    assert digest.endswith("deep.datum")
    expected = direct.path_at_colo(lake, "lab", samples.LONG_PATH).read_text()
    assert mount.run("cat", mount.path / "lab" / "long-names" / digest).stdout == expected


def test_a_digest_resolves_in_a_mount_that_has_listed_nothing(
    mounter: Mounter, scope: str, mount: Mount
) -> None:
    (digest,) = [name for name in mount.ls(scope) if name.startswith("%~")]
    fresh = mounter()
    assert fresh.xattr("name", scope, digest) == LONG_TOP
    assert fresh.xattr("name", "lab", "long-names", _digest(mount)) == samples.LONG_PATH


def _digest(mount: Mount) -> str:
    return next(name for name in mount.ls("lab", "long-names") if name.startswith("%~"))


def test_a_filename_longer_than_linux_takes_is_enametoolong(mount: Mount) -> None:
    assert _errno(mount, "sky", "n" * 256) == "ENAMETOOLONG"


@pytest.mark.parametrize("name", samples.ODD_NAMES)
def test_every_name_that_rucio_s_schema_lets_through_is_reachable(mount: Mount, name: str) -> None:
    filename = name.replace("/", "%2F")
    assert mount.xattr("name", "lab", "odd-names", filename) == name
    assert mount.xattr("name", "lab", filename) == name


def test_every_odd_name_is_listed_once(mount: Mount, scope: str) -> None:
    names = mount.python("show(os.listdir(os.path.join(ROOT, *ARGS)))", scope, "odd")
    assert sorted(names) == sorted(filenames.encode(name) for name in (*ODD_NAMES, TOO_LONG))
    assert {"100%25.txt", "%2541.txt", "a%3Ab%3Ac", "a b.txt", "back\\slash"} <= set(names)


def test_unicode_dots_and_control_characters_are_listed(mount: Mount, scope: str) -> None:
    names = mount.python("show(os.listdir(os.path.join(ROOT, *ARGS)))", scope, "unaskable")
    assert sorted(names) == sorted(filenames.encode(name) for name in UNASKABLE)
    assert {"größe.txt", "🌌.fits", "new%0Aline", "%2E", "%2E%2E"} <= set(names)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_open_in_their_dataset_and_in_their_scope(
    mount: Mount, scope: str, name: str
) -> None:
    found = mount.python(
        "show([open(os.path.join(ROOT, *way)).read() for way in ARGS])",
        [scope, "odd", filenames.encode(name)],
        [scope, filenames.encode(name)],
    )
    assert found == [f"{name!r}\n"] * 2


def test_a_digest_tells_the_name_it_stands_for(mount: Mount, scope: str) -> None:
    way = (scope, "odd", filenames.encode(TOO_LONG))
    assert mount.stat(*way)["size"] == 5
    assert mount.xattr("name", *way) == TOO_LONG


@pytest.mark.parametrize(
    "filename", ["%41", "%2f", "%", "a%", "%zz", "x%2", "%00", "a:b:c", "%2E", "%2E%2E"]
)
def test_a_name_that_stands_for_no_did_is_enoent(mount: Mount, filename: str) -> None:
    assert _errno(mount, "lab", filename) == "ENOENT"
    assert _errno(mount, "lab", "mixed", filename) == "ENOENT"


def test_no_did_has_a_second_way_of_writing_its_name(mount: Mount) -> None:
    for plain, other in [
        (("lab", "notes.txt"), ("lab", "%6Eotes.txt")),
        (("lab", "same%2Fbelow.txt"), ("lab", "same%2fbelow.txt")),
        (("lab", "mixed", "lab:notes.txt"), ("lab", "mixed", "lab%3Anotes.txt")),
        (("lab", "lab:notes.txt"), ("lab", "lab:%6Eotes.txt")),
    ]:
        assert _errno(mount, *plain) is None
        assert _errno(mount, *other) == "ENOENT"


# --- inode numbers -----------------------------------------------------------------------------


def _inodes(mount: Mount) -> list[str]:
    sky = mount.path / "sky"
    return sorted(mount.run("find", sky, "-printf", "%i %P\n").stdout.splitlines())


def test_inode_numbers_are_the_same_in_every_mount_and_after_a_remount(
    mount: Mount, mounter: Mounter
) -> None:
    first = mounter()
    numbers = _inodes(first)
    assert len(numbers) > 20
    first.close()
    assert not first.is_mounted()
    assert _inodes(mounter()) == numbers
    assert _inodes(mount) == numbers


# --- changes -----------------------------------------------------------------------------------


def _new_file(rest: Changer, scope: str, name: str) -> str:
    did = f"{scope}:{name}"
    rest.add_file(did, b"new\n")
    return did


@pytest.mark.parametrize("level", ["scope", "dataset"])
def test_a_new_name_is_seen_when_missing_ttl_is_over(
    rest: Changer, mounter: Mounter, new_scope: str, level: str
) -> None:
    if level == "dataset":
        rest.add_collection(f"{new_scope}:set")
    mount = mounter(cache__missing_ttl=0.2, cache__open_ttl=0.2)
    way = (new_scope, "set", "new.txt") if level == "dataset" else (new_scope, "new.txt")
    assert _errno(mount, *way) == "ENOENT"
    did = _new_file(rest, new_scope, "new.txt")
    if level == "dataset":
        rest.attach(f"{new_scope}:set", did)
    eventually(lambda: _errno(mount, *way), lambda number: number is None, deadline=8)


def test_a_new_scope_is_seen_within_missing_ttl_by_name(
    lake: Lake, rest: Changer, mounter: Mounter
) -> None:
    mount = mounter(cache__missing_ttl=0.2)
    scope = direct.fresh_scope()
    assert _errno(mount, scope) == "ENOENT"
    rest.add_scope(scope)
    eventually(lambda: _errno(mount, scope), lambda number: number is None, deadline=8)
    assert scope in mount.ls()
    direct.hide(lake, scope)


def test_an_open_dataset_is_asked_again_after_open_ttl(
    rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    rest.add_collection(f"{new_scope}:set")
    mount = mounter(cache__open_ttl=0.3)
    assert mount.ls(new_scope, "set") == []
    rest.attach(f"{new_scope}:set", _new_file(rest, new_scope, "new.txt"))
    eventually(lambda: mount.ls(new_scope, "set"), lambda names: names == ["new.txt"], deadline=8)


def test_a_removed_name_is_gone_when_open_ttl_is_over(
    rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    dataset, file = f"{new_scope}:set", _new_file(rest, new_scope, "old.txt")
    rest.add_collection(dataset, [file])
    mount = mounter(cache__open_ttl=1)
    way = (new_scope, "set", "old.txt")
    assert _errno(mount, *way) is None
    rest.detach(dataset, file)
    eventually(lambda: _errno(mount, *way), lambda number: number == "ENOENT", deadline=8)
    assert mount.ls(new_scope, "set") == []


def test_a_closed_dataset_is_remembered_for_closed_ttl(
    rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    dataset = f"{new_scope}:set"
    rest.add_collection(dataset, [_new_file(rest, new_scope, "first.txt")])
    rest.set_open(dataset, False)
    mount = mounter(cache__open_ttl=0.1, cache__missing_ttl=0.1, cache__closed_ttl=HOUR)
    assert mount.ls(new_scope, "set") == ["first.txt"]
    rest.set_open(dataset, True)
    rest.attach(dataset, _new_file(rest, new_scope, "second.txt"))
    assert mount.ls(new_scope, "set") == ["first.txt"]
    # Who names the new file has it looked for, and the directory with it.
    eventually(
        lambda: _errno(mount, new_scope, "set", "second.txt"),
        lambda number: number is None,
        deadline=8,
    )
    assert mount.ls(new_scope, "set") == ["first.txt", "second.txt"]


def _refresh_file(mount: Mount, dataset: str) -> None:
    done = mount.run("bash", "-c", f"echo 1 > {mount.path}/.rucio/refresh")
    assert (done.returncode, done.stderr) == (0, "")


def _touch_refresh_file(mount: Mount, dataset: str) -> None:
    done = mount.run("tee", mount.path / ".rucio" / "refresh")  # truncates and writes nothing
    assert (done.returncode, done.stderr) == (0, "")


def _refresh_command(mount: Mount, dataset: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rucio_fs", "refresh", str(mount.path / dataset)],
        capture_output=True,
        text=True,
        timeout=30,
        env=clean_environment(),
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def _refresh_scope(mount: Mount, dataset: str) -> None:
    _refresh_command(mount, os.path.dirname(dataset))


def _refresh_top(mount: Mount, dataset: str) -> None:
    _refresh_command(mount, "")


def _hang_up(mount: Mount, dataset: str) -> None:
    mount.signal(signal.SIGHUP)


@pytest.mark.parametrize(
    "refresh", [_refresh_file, _refresh_command, _refresh_top, _hang_up], ids=lambda f: f.__name__
)
def test_a_refresh_shows_what_was_attached_and_detached(
    rest: Changer,
    mounter: Mounter,
    new_scope: str,
    refresh: Callable[[Mount, str], None],
) -> None:
    dataset = f"{new_scope}:set"
    rest.add_collection(dataset, [_new_file(rest, new_scope, "old.txt")])
    mount = mounter(cache__open_ttl=HOUR)
    assert mount.ls(new_scope, "set") == ["old.txt"]
    rest.attach(dataset, _new_file(rest, new_scope, "new.txt"))
    rest.detach(dataset, f"{new_scope}:old.txt")
    assert mount.ls(new_scope, "set") == ["old.txt"]  # still remembered
    refresh(mount, f"{new_scope}/set")
    # SIGHUP gives no sign of its own when it is heeded.
    deadline = 8.0 if refresh is _hang_up else 0.0
    eventually(lambda: mount.ls(new_scope, "set"), lambda names: names == ["new.txt"], deadline)
    assert mount.run("cat", mount.path / new_scope / "set" / "new.txt").stdout == "new\n"


def test_refresh_of_a_scope_asks_for_its_listing_again(
    rest: Changer, mounter: Mounter, new_scope: str
) -> None:
    mount = mounter(cache__open_ttl=HOUR)
    assert mount.ls(new_scope) == []
    _new_file(rest, new_scope, "new.txt")
    assert mount.ls(new_scope) == []
    _refresh_scope(mount, f"{new_scope}/set")
    assert mount.ls(new_scope) == ["new.txt"]


def test_an_empty_write_to_the_refresh_file_is_no_error(mount: Mount) -> None:
    _touch_refresh_file(mount, "")


def test_a_directory_is_read_as_it_was_opened_and_rewinddir_sees_the_new(
    lake: Lake, rest: Changer, mounter: Mounter
) -> None:
    scope = direct.fresh_scope()
    # Several times what the kernel takes at once, which is up to 1 MiB.
    names = [f"b{number:06d}.dat" for number in range(15_000)]
    lake.fill(scope, big=len(names))
    dataset = f"{scope}:big"
    rest.set_open(dataset, True)
    mount = mounter(cache__open_ttl=HOUR)
    with Client(mount.path / scope / "big", _READS_A_DIRECTORY) as client:
        assert client.seen() == 100
        rest.attach(dataset, _new_file(rest, scope, "a-new-one"))
        rest.detach(dataset, f"{scope}:{names[-1]}")
        _refresh_file(mount, "")
        assert "a-new-one" in mount.ls(scope, "big")
        client.go_on()
        assert sorted(client.seen()) == names
        client.go_on()
        assert sorted(client.seen()) == ["a-new-one", *names[:-1]]
        client.go_on()
        assert client.end() == 0
    direct.hide(lake, scope)


_READS_A_DIRECTORY = """
import ctypes
class Dirent(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('reclen', ctypes.c_uint16),
                ('type', ctypes.c_uint8), ('name', ctypes.c_char * 256)]
libc = ctypes.CDLL(None)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
for function in (libc.readdir, libc.rewinddir):
    function.argtypes = [ctypes.c_void_p]
def read(limit=10**9):
    while limit and (entry := libc.readdir(stream)):
        limit -= 1
        if entry.contents.name not in (b'.', b'..'):
            yield entry.contents.name.decode()
stream = libc.opendir(ROOT.encode())
names = list(read(102))  # with the dots
show(len(names))
wait()
show(names + list(read()))
wait()
libc.rewinddir(stream)
show(list(read()))
wait()
"""


def test_json_of_the_status_file_is_whole_for_programs_that_read_bit_by_bit(mount: Mount) -> None:
    text = mount.run("dd", f"if={mount.path}/.rucio/status", "bs=7", "status=none").stdout
    assert json.loads(text)["mountpoint"] == str(mount.path)
