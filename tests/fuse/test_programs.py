"""Programs that scientists use, on the mount as on any other directory."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake
from tests import direct
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.mounting import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

NIGHT = ("exp0001_g.fits", "exp0002_r.fits", "exp0003_i.fits")


@pytest.fixture(scope="module")
def scope(lake: Lake, rest: Changer) -> Iterator[str]:
    """A container of two datasets, all of it here; among it a cube that is else only at REM1."""
    scope = direct.fresh_scope()
    cube = lake.store("REM1") / "sky"
    (path,) = cube.rglob("ngc1068_cube.h5")
    files = {
        "cube.h5": path.read_bytes(),
        "a.txt": b"alpha\nneedle\n",
        "b.txt": b"beta\n",
        "sub/c.txt": b"gamma\n",
    }
    plan = direct.Plan(
        files=[direct.File(name, content) for name, content in files.items()],
        collections=[
            direct.Collection("one", ["cube.h5", "a.txt"]),
            direct.Collection("two", ["b.txt", "sub/c.txt"]),
            direct.Collection("none", is_open=True),
            direct.Collection("top", ["one", "two", "none"], is_container=True, is_open=True),
        ],
        time="2025-03-04T05:06:07",
    )
    direct.insert(lake, scope, plan)
    yield scope
    direct.hide(lake, scope)


@pytest.fixture(scope="module")
def mount(module_mounter: Mounter, scope: str) -> Mount:
    return module_mounter()


@pytest.fixture(scope="module")
def top(mount: Mount, scope: str) -> Path:
    return mount.path / scope / "top"


def _expected(lake: Lake, scope: str) -> dict[str, bytes]:
    """Relative path -> content of what lies below the container."""
    places = {"one/cube.h5": "cube.h5", "one/a.txt": "a.txt", "two/b.txt": "b.txt"}
    places["two/sub%2Fc.txt"] = "sub/c.txt"
    return {
        shown: direct.path_at_colo(lake, scope, name).read_bytes() for shown, name in places.items()
    }


def _tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def _run(mount: Mount, *command: str | Path) -> str:
    done = mount.run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- walking -----------------------------------------------------------------------------------


def test_find(mount: Mount, top: Path) -> None:
    found = _run(mount, "find", top, "-type", "f", "-name", "*.txt", "-printf", "%P\n")
    assert sorted(found.split()) == ["one/a.txt", "two/b.txt", "two/sub%2Fc.txt"]
    assert _run(mount, "find", top, "-type", "d", "-empty", "-printf", "%P\n") == "none\n"
    assert _run(mount, "find", top, "-newermt", "2025-03-05", "-printf", "%P\n") == ""
    assert _run(mount, "find", top, "-size", "+100k", "-printf", "%P\n") == "one/cube.h5\n"


def test_ls_r(mount: Mount, top: Path) -> None:
    listing = _run(mount, "ls", "-R1", top)
    assert listing.replace(f"{top}", "T") == (
        "T:\nnone\none\ntwo\n\nT/none:\n\nT/one:\na.txt\ncube.h5\n\nT/two:\nb.txt\nsub%2Fc.txt\n"
    )


def test_du(lake: Lake, mount: Mount, scope: str, top: Path) -> None:
    total = sum(len(content) for content in _expected(lake, scope).values())
    assert _run(mount, "du", "-sb", top).split()[0] == str(total)


def test_os_walk_and_glob(mount: Mount, scope: str) -> None:
    code = """
top = os.path.join(ROOT, ARGS[0], 'top')
show([[os.path.relpath(d, top), sorted(ds), sorted(fs)] for d, ds, fs in sorted(os.walk(top))])
"""
    assert mount.python(code, scope) == [
        [".", ["none", "one", "two"], []],
        ["none", [], []],
        ["one", [], ["a.txt", "cube.h5"]],
        ["two", [], ["b.txt", "sub%2Fc.txt"]],
    ]
    code = """
import glob
found = glob.glob(f'{ROOT}/{ARGS[0]}/**/*.txt', recursive=True)
show(sorted(os.path.relpath(path, ROOT) for path in found))
"""
    assert mount.python(code, scope) == [
        f"{scope}/top/{name}" for name in ("one/a.txt", "two/b.txt", "two/sub%2Fc.txt")
    ]


def test_tab_completion(mount: Mount) -> None:
    for typed, offered in [
        ("sky/sur", ["sky/survey"]),
        ("sky/survey/", ["sky/survey/survey.2025", "sky/survey/survey.2026"]),
        ("lab/mixed/n", ["lab/mixed/notes.txt"]),
        ("nothing/here", []),
    ]:
        done = mount.run("bash", "-c", f"cd {mount.path} && compgen -f -- {typed}")
        assert sorted(done.stdout.split()) == offered


# --- copying and comparing ---------------------------------------------------------------------


def test_cp_r(lake: Lake, mount: Mount, scope: str, top: Path, tmp_path: Path) -> None:
    _run(mount, "cp", "-r", top, tmp_path / "copy")
    assert _tree(tmp_path / "copy") == _expected(lake, scope)


def test_copied_directories_are_read_only_unless_modes_are_not_kept(
    mount: Mount, top: Path, tmp_path: Path
) -> None:
    def modes(copy: Path) -> list[str]:
        return _run(mount, "stat", "-c", "%a", copy, copy / "a.txt").split()

    _run(mount, "cp", "-r", top / "one", tmp_path / "as-it-is")
    assert modes(tmp_path / "as-it-is") == ["555", "444"]
    _run(mount, "cp", "-r", "--no-preserve=mode", top / "one", tmp_path / "copy")
    assert modes(tmp_path / "copy") == ["755", "644"]


def test_cp_a_keeps_times_and_modes(mount: Mount, top: Path, tmp_path: Path) -> None:
    _run(mount, "cp", "-a", top / "one", tmp_path / "copy")
    assert _run(mount, "stat", "-c", "%y %a", tmp_path / "copy" / "a.txt") == (
        _run(mount, "stat", "-c", "%y %a", top / "one" / "a.txt")
    )


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_copies_once(lake: Lake, mount: Mount, scope: str, top: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert "one/cube.h5" in _run(mount, "rsync", "-a", "--out-format=%n", f"{top}/", copy)
    assert _tree(copy) == _expected(lake, scope)
    again = _run(mount, "rsync", "-a", "--delete", "--out-format=%n", f"{top}/", copy)
    assert again == ""


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_delete_keeps_the_copy_of_what_cannot_be_listed(mount: Mount, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "loop-b" / "loop-a").mkdir(parents=True)
    kept = copy / "loop-b" / "loop-a" / "kept"
    kept.touch()
    source = mount.path / "lab" / "loop-a"
    done = mount.run("rsync", "-a", "--delete", f"{source}/", copy)
    assert done.returncode != 0
    assert kept.exists()


def test_tar(lake: Lake, mount: Mount, scope: str, top: Path, tmp_path: Path) -> None:
    _run(mount, "tar", "-C", top, "-cf", tmp_path / "all.tar", ".")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "out", "-xf", tmp_path / "all.tar"], check=True)
    assert _tree(tmp_path / "out") == _expected(lake, scope)


def test_diff_r(mount: Mount, top: Path, tmp_path: Path) -> None:
    _run(mount, "cp", "-r", top, tmp_path / "copy")
    (tmp_path / "copy" / "none").mkdir(exist_ok=True)
    assert _run(mount, "diff", "-r", top, tmp_path / "copy") == ""
    other = tmp_path / "copy" / "two" / "b.txt"
    other.chmod(0o644)
    other.write_text("other\n")
    done = mount.run("diff", "-rq", top, tmp_path / "copy")
    assert done.returncode == 1
    assert done.stdout.count("differ") == 1


def test_md5sum(mount: Mount, rest: Changer) -> None:
    night = mount.path / "sky" / "night-001"
    lines = _run(mount, "md5sum", *(night / name for name in NIGHT)).splitlines()
    found = [line.split()[0] for line in lines]
    assert found == [rest.metadata(f"sky:{name}")["md5"] for name in NIGHT]


def test_grep_r(mount: Mount, top: Path) -> None:
    assert _run(mount, "grep", "-r", "needle", top) == f"{top}/one/a.txt:needle\n"


def test_grep_and_md5sum_name_what_they_could_not_read(mounter: Mounter) -> None:
    mount = mounter(expect_warnings=True)
    damaged = mount.path / "lab" / "damaged"
    done = mount.run("grep", "-r", "nothing", damaged)
    assert done.returncode == 2
    assert done.stderr == f"grep: {damaged}/lost.dat: Input/output error\n"
    done = mount.run("md5sum", *(damaged / name for name in ("whole.dat", "lost.dat")))
    assert len(done.stdout.splitlines()) == 1
    assert "lost.dat: Input/output error" in done.stderr


def test_file_and_head(mount: Mount, top: Path) -> None:
    head = mount.python("show(open(ARGS[0], 'rb').read(4).hex())", str(top / "one" / "cube.h5"))
    assert bytes.fromhex(head) == b"\x89HDF"
    assert _run(mount, "head", "-n1", top / "one" / "a.txt") == "alpha\n"
    assert _run(mount, "wc", "-c", top / "two" / "b.txt").split()[0] == "5"


def test_a_program_stored_in_the_lake_is_read_but_not_run(mount: Mount, top: Path) -> None:
    done = mount.run("bash", "-c", f"{top}/one/a.txt")
    assert done.returncode == 126
    assert "Permission denied" in done.stderr


# --- formats -----------------------------------------------------------------------------------


def test_astropy_reads_an_image(lake: Lake, mount: Mount) -> None:
    code = """
from astropy.io import fits
with fits.open(ROOT + '/sky/survey/survey.2026/night-001/exp0001_g.fits') as image:  # by mmap
    show([image[0].header['OBJECT'], list(image[0].data.shape), int(image[0].data.sum())])
"""
    expected = _locally(code, mount, direct.path_at_colo(lake, "sky", "exp0001_g.fits"))
    assert mount.python(code) == expected
    assert expected[:2] == ["M31", [192, 192]]


def test_h5py_reads_a_cube_in_pieces(lake: Lake, mount: Mount, scope: str) -> None:
    code = """
import h5py
with h5py.File(f'{ROOT}/{ARGS[0]}/top/one/cube.h5') as store:
    cube = store['cube']
    show([list(cube.shape), cube.attrs['BUNIT'], float(cube[20, 10:40, 30].sum()),
          float(cube[:, 63, 63].sum())])
"""
    expected = _locally(code, mount, direct.path_at_colo(lake, scope, "cube.h5"))
    assert mount.python(code, scope) == expected
    assert expected[:2] == [[48, 64, 64], "Jy/beam"]


def test_uproot_reads_a_tree(lake: Lake, mount: Mount) -> None:
    code = """
import uproot
with uproot.open(ROOT + '/lab/campaign/run-0007/run-0007.root') as store:
    tree = store['events']
    mass = tree['mass'].array(library='np')
    show([tree.num_entries, float(mass.sum()), int(tree['event'].array(library='np')[-1])])
"""
    expected = _locally(code, mount, direct.path_at_colo(lake, "lab", "run-0007.root"))
    assert mount.python(code) == expected
    assert expected[0] == 20000


def _locally(code: str, mount: Mount, original: Path) -> list[object]:
    """What *code* shows if it opens *original* instead of the file in the mount."""
    start = code.index("ROOT") if "open(ROOT" in code else code.index("f'{ROOT}")
    end = code.index(")", start)
    found: list[object] = mount.python(code[:start] + repr(str(original)) + code[end:])
    return found


def test_numpy_maps_a_file(lake: Lake, mount: Mount) -> None:
    code = """
import hashlib, numpy
array = numpy.memmap(ROOT + '/lab/damaged/whole.dat', dtype='u1', mode='r')
show([array.size, hashlib.md5(array.tobytes()).hexdigest()])
"""
    original = direct.path_at_colo(lake, "lab", "whole.dat").read_bytes()
    assert mount.python(code) == [100_000, hashlib.md5(original).hexdigest()]


def test_json_and_csv_tools(mount: Mount) -> None:
    text = _run(mount, "cat", mount.path / "lab" / "run-0007" / "run-0007.json")
    assert json.loads(text)["of"] == "lab:run-0007.json"
