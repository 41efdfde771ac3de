"""What the old C++ filesystem for Rucio got wrong, each defect as a test of its own.

And what would have been the next ones: directories of 100,000, names of 250, two mounts at once.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake, samples
from lake.faults import Fault, Status
from tests import direct
from tests.conftest import Mounter
from tests.direct import Collection, File, Plan
from tests.faulty import FaultyMount
from tests.fuse.changing import Changer
from tests.fuse.clients import eventually
from tests.mounting import Mount, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

GIB = 1 << 30
SIZES = [0, 2 * GIB - 1, 2 * GIB, 3_000_000_000, 4 * GIB, 4 * GIB + 1, 1 << 40, (1 << 53) + 1]
HUGE = 5 * GIB  # with bytes at COLO, which is a hole but for its end
BYTES = random.Random(8).randbytes(6 << 20)
TIME = "2024-01-02T03:04:05"
MTIME = 1_704_164_645
MARKER = "made-by-a-name"
ODD_NAMES = [
    f"$(touch {MARKER})",
    f"$(touch x);'\"{MARKER}",
    f"`touch {MARKER}`",
    f"'; touch {MARKER}; '",
    f'"; touch {MARKER}; "',
    f"$(touch /tmp/{MARKER})",
    '{"name": "x", "bytes": 1}, {',
    "[1, 2], }{ , ]",
    'quote"s, \\"backslashes\\", comma,',
    "größe-日本-☃-🙂",
    "a b\tc",
    "-rf",
    "*?[a-z]",
    "#hash?query=1&x=2+3",
    "100%25",
    "colon:name",
    "~x",
]
METADATA = {
    "quote": 'she said "no", twice',
    "braces": '}{ "bytes": 17, [',
    "comma": "a,b,,c",
    "unicode": "größe 日本 ☃ 🙂",
    "backslash": "C:\\new\\table",
    "lines": "one\ntwo",
    "nested": {"a": [1, {"b": "}"}]},
    "number": 12.5,
}


@pytest.fixture(scope="module")
def scope(lake: Lake) -> Iterator[str]:
    """What no user of Rucio could register, and sizes that nobody wants to store."""
    name = direct.fresh_scope()
    odd = [File(did_name, f"bytes of {did_name}".encode()) for did_name in ODD_NAMES]
    sizes = [File(f"size-{size}", bytes=size) for size in SIZES]
    plan = Plan(
        files=[
            *odd,
            *sizes,
            File("huge", bytes=HUGE),
            File("random", BYTES),
            File("late", bytes=5),
            File("first", b"first"),
            File("second", b"second"),
        ],
        collections=[
            Collection("odd", ODD_NAMES),
            Collection("sizes", [file.name for file in sizes]),
            Collection("growing", ["first"], is_open=True),
            Collection("facts", is_open=True),
        ],
        metadata={"facts": METADATA},
        time=TIME,
    )
    direct.insert(lake, name, plan)
    path = direct.path_at_colo(lake, name, "huge")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.seek(4 * GIB)
        file.write(b"beyond 4 GiB")
        file.seek(HUGE - 3)
        file.write(b"END")
    yield name
    direct.hide(lake, name)


@pytest.fixture(scope="module")
def mount(module_mounter: Mounter, scope: str) -> Mount:
    return module_mounter(expect_warnings=True)


def encoded(did_name: str) -> str:
    """The filename of a DID: what a path cannot carry, and % and :, as %XX."""
    unsafe = {character for character in did_name if character < " "} | set("%/:")
    return "".join(f"%{ord(c):02X}" if c in unsafe else c for c in did_name)


# --- the eight -----------------------------------------------------------------------------------


def test_sizes_above_2_and_4_gib_are_right(mount: Mount, scope: str) -> None:
    assert [mount.stat(scope, "sizes", f"size-{size}")["size"] for size in SIZES] == SIZES
    shown = mount.python(
        """
with os.scandir(os.path.join(ROOT, *ARGS)) as entries:
    show({entry.name: entry.stat().st_size for entry in entries})
""",
        scope,
        "sizes",
    )
    assert shown == {f"size-{size}": size for size in SIZES}
    assert mount.stat("lab", "big", "zeros-5GiB.dat")["size"] == samples.BIG_SIZE


def test_bytes_beyond_4_gib_are_read(mount: Mount, scope: str) -> None:
    seen = mount.python(
        """
with open(os.path.join(ROOT, *ARGS), 'rb', buffering=0) as file:
    seen = [os.pread(file.fileno(), 12, at).decode() for at in (4 << 30, (5 << 30) - 3, 5 << 30)]
    show([*seen, file.seek(0, 2)])
""",
        scope,
        "huge",
    )
    assert seen == ["beyond 4 GiB", "END", "", HUGE]


def test_concurrent_reads_of_one_file_give_the_right_bytes(
    lake: Lake, mount: Mount, scope: str
) -> None:
    wrong = mount.python(
        """
import random
from concurrent.futures import ThreadPoolExecutor
path, original = os.path.join(ROOT, ARGS[0], 'random'), open(ARGS[1], 'rb').read()
shared = os.open(path, os.O_RDONLY)
def read(seed):
    draw = random.Random(seed)
    own = os.open(path, os.O_RDONLY)
    wrong = 0
    for _ in range(40):
        at, size = draw.randrange(len(original)), draw.choice([1, 100, 4096, 70_000, 300_000])
        for fd in (own, shared):
            wrong += os.pread(fd, size, at) != original[at : at + size]
        os.posix_fadvise(own, 0, 0, os.POSIX_FADV_DONTNEED)  # so that the next comes to the mount
    os.close(own)
    return wrong
with ThreadPoolExecutor(16) as pool:
    show(sum(pool.map(read, range(16))))
""",
        scope,
        direct.path_at_colo(lake, scope, "random"),
    )
    assert wrong == 0


@pytest.mark.parametrize(
    "path", ["nowhere", "sky/nothing", "sky/night-001/nothing", "sky/survey/nothing", "sky/x/y"]
)
def test_a_name_that_does_not_exist_does_not_exist(mount: Mount, path: str) -> None:
    assert mount.stat(*path.split("/")) == {"errno": "ENOENT"}
    assert mount.python("show(open(os.path.join(ROOT, *ARGS)).read())", path) == {"errno": "ENOENT"}
    assert mount.python("show(os.access(os.path.join(ROOT, *ARGS), os.F_OK))", path) is False


def test_an_open_that_failed_succeeds_once_the_file_is_there(
    lake: Lake, mount: Mount, scope: str
) -> None:
    read = "show(open(os.path.join(ROOT, *ARGS)).read())"
    for _ in range(2):
        assert mount.python(read, scope, "late") == {"errno": "EIO"}
    assert mount.stat(scope, "late")["size"] == 5
    direct.place(lake, scope, "late", b"later")
    assert mount.python(read, scope, "late") == "later"


def test_the_first_read_of_a_file_succeeds(mount: Mount, scope: str) -> None:
    assert mount.python("show(open(os.path.join(ROOT, *ARGS)).read())", scope, "first") == "first"


def test_a_name_reaches_no_shell(mount: Mount, scope: str, tmp_path: Path) -> None:
    server = Path(f"/proc/{mount.process.pid}/cwd").resolve()
    were_there = {
        directory: set(os.listdir(directory)) for directory in (server, Path("/tmp"), Path.home())
    }
    # Names that do not exist ...
    for name in [*ODD_NAMES, f"a\ntouch {MARKER}\n"]:
        foreign = {"errno": "ENOENT"}
        assert mount.stat("sky", encoded(name)) == foreign
        assert mount.stat(encoded(name)) == foreign
        assert mount.stat("sky", "night-001", encoded(name)) == foreign
        for raw in ("getfattr", "cat"):
            option = ["-d"] if raw == "getfattr" else []
            done = mount.run(raw, *option, "--", mount.path / "sky" / encoded(name))
            assert "No such file" in done.stderr
    # ... and names that do.
    for name in ODD_NAMES:
        assert mount.stat(scope, encoded(name))["size"] == len(f"bytes of {name}".encode())
        read = mount.python("show(open(os.path.join(ROOT, *ARGS)).read())", scope, encoded(name))
        assert read == f"bytes of {name}"
    for directory, before in were_there.items():
        made = set(os.listdir(directory)) - before
        assert not [entry for entry in made if MARKER in entry or entry == "x"]


def test_the_modification_time_is_rucios_and_stays(mount: Mount, scope: str) -> None:
    for path in (["first"], ["growing"], ["growing", "first"], ["odd"], ["odd", "~x"]):
        seen = {mount.stat(scope, *path)["mtime_ns"] for _ in range(2)}
        assert seen == {MTIME * 10**9}, path


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 500, 502, 503])
def test_an_answer_with_a_bad_status_is_no_answer(faulty: FaultyMount, status: int) -> None:
    row = b'{"scope": "sky", "name": "false", "type": "FILE", "bytes": 7, "adler32": "0000000a"}\n'
    page = Status(status, row * 3, {"Content-Type": "application/x-json-stream"})
    with faulty.proxy.add(Fault(page, path="/night-001/dids$")) as fault:
        look = faulty.look("ls", at="sky/night-001")
        assert fault.hits
        assert (look.code, look.out) == (2, "")
        assert look.errnos == {"EREMOTEIO"}
        # Nor is a file made of it.
        assert faulty.look("stat", at="sky/night-001/false").errnos == {"EREMOTEIO"}
    assert len(faulty.look("ls", "-1", at="sky/night-001").lines) == 3
    faulty.refresh()


@pytest.fixture(scope="module")
def faulty(lake: Lake) -> Iterator[FaultyMount]:
    with FaultyMount(lake, {"rucio.deadline": 1, "rucio.listing_deadline": 2}) as faulty:
        yield faulty
        faulty.check_log()


def test_what_is_cached_expires(mounter: Mounter, rest: Changer, scope: str) -> None:
    mount = mounter(cache__open_ttl=0.2, cache__missing_ttl=0.2)
    assert mount.ls(scope, "growing") == ["first"]
    assert mount.stat(scope, "growing", "second") == {"errno": "ENOENT"}
    rest.attach(f"{scope}:growing", f"{scope}:second")
    eventually(lambda: mount.ls(scope, "growing"), lambda names: names == ["first", "second"])
    assert mount.stat(scope, "growing", "second")["size"] == len("second")


def test_names_of_every_kind_are_listed(mount: Mount, scope: str) -> None:
    listed = mount.python("show(sorted(os.listdir(os.path.join(ROOT, *ARGS))))", scope, "odd")
    assert listed == sorted(map(encoded, ODD_NAMES))
    done = mount.run("ls", "-l", mount.path / scope / "odd")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ODD_NAMES:
        assert mount.stat(scope, "odd", encoded(name))["size"] == len(f"bytes of {name}".encode())
        assert mount.xattr("name", scope, "odd", encoded(name)) == name


def test_metadata_of_every_kind_is_shown(mount: Mount, scope: str) -> None:
    for key, value in METADATA.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        assert mount.xattr(f"meta.{key}", scope, "facts") == text


# --- and the next ones ---------------------------------------------------------------------------


def test_names_of_250_characters(mount: Mount) -> None:
    names = mount.ls("lab", "long-names")
    assert samples.LONG_FILENAME in names
    assert len(names) == 2
    for name in names:
        assert len(os.fsencode(name)) <= 255
        size = mount.stat("lab", "long-names", name)["size"]
        done = mount.run("cat", mount.path / "lab" / "long-names" / name)
        assert (done.returncode, len(done.stdout.encode())) == (0, size)
        assert size > 0
    shown = {mount.xattr("name", "lab", "long-names", name) for name in names}
    assert shown == {samples.LONG_FILENAME, samples.LONG_PATH}


def test_a_directory_of_100000(lake: Lake, mounter: Mounter) -> None:
    big = direct.fresh_scope()
    lake.fill(big, datasets=100_000)
    try:
        mount = mounter()
        done = mount.run("ls", "-1U", mount.path / big / "all", timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        names = done.stdout.splitlines()
        assert len(names) == 100_000
        assert set(names) == {f"d{number:06d}" for number in range(100_000)}
        status = Path(f"/proc/{mount.process.pid}/status").read_text()
        (peak,) = [int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line]
        assert peak < 250 << 10  # kB
    finally:
        direct.hide(lake, big)


def test_two_mounts_of_one_lake(lake: Lake, mounter: Mounter) -> None:
    one, other = mounter(), mounter()
    clients = [
        subprocess.Popen(
            ["tar", "-C", str(mount.path), "-cf", "-", "sky/night-001", "sky/calibration"],
            stdout=subprocess.PIPE,
            env=clean_environment(),
        )
        for mount in (one, other) * 3
    ]
    outputs = {client.communicate(timeout=60)[0] for client in clients}
    assert [client.returncode for client in clients] == [0] * 6
    assert len(outputs) == 1  # to the byte, with modes and times
    assert len(outputs.pop()) > 100_000
    assert one.close() == 0
    assert other.ls("sky", "night-003") == ["exp0021_g.fits", "exp0022_r.fits"]
