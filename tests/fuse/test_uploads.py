"""What is saved in scratch is in the lake: real mounts, a real Rucio, real transfers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lake import Lake
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.fuse.clients import eventually
from tests.fuse.saving import Saving
from tests.lake.rules import RuleLab

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

SaverMaker = Callable[..., Saving]


@pytest.fixture
def saver(
    lake: Lake, mounter: Mounter, rest: Changer, new_scope: str, tmp_path: Path
) -> SaverMaker:
    """Makes mounts with a scratch that is uploaded to COLO_SCRATCHDISK at once."""

    def make(**options: object) -> Saving:
        options = {
            "scratch__dir": tmp_path / "scratch",
            "scratch__rse": "COLO_SCRATCHDISK",
            "scratch__delay": "0.2s",
            **options,
        }
        return Saving(mounter(**options), lake, new_scope, rest)

    return make


def test_a_file_is_saved_and_is_in_the_lake(saver: SaverMaker) -> None:
    site = saver()
    site.sh("printf bytes > hits.root")
    site.done()
    site.check("hits.root", b"bytes", rse="COLO_SCRATCHDISK")
    assert site.xattr("upload", "hits.root") == "DONE"
    (rule,) = site.rules("hits.root")
    assert (rule["state"], rule["rse_expression"]) == ("OK", "COLO_SCRATCHDISK")
    # And it is read where everybody reads it.
    assert site.mount.run("cat", site.mount.path / site.scope / "hits.root").stdout == "bytes"
    assert site.litter() == []


def test_a_tree_is_saved_and_read_back_at_its_destination(saver: SaverMaker) -> None:
    """The conveyor moves it there."""
    site = saver(scratch__rule="REM1")
    site.sh("mkdir -p run/a/b; echo 1 > run/README; echo 2 > run/a/hits; echo 3 > run/a/b/deep")
    site.done()
    site.check("run/README", b"1\n", rse="REM1", dataset="run__root")
    site.check("run/a/hits", b"2\n", rse="REM1", dataset="run/a__root")
    site.check("run/a/b/deep", b"3\n", rse="REM1", dataset="run/a/b")
    assert site.members("run") == ["run/a", "run__root"]
    tree = (site.scope, "run")
    assert site.mount.ls(*tree) == ["a", "run__root"]
    assert site.mount.ls(*tree, "a") == ["b", "run%2Fa__root"]
    for path in (("a", "b", "deep"), ("a", "b", "run%2Fa%2Fb%2Fdeep")):
        assert site.mount.run("cat", site.mount.path.joinpath(*tree, *path)).stdout == "3\n"
    (rule,) = site.rules("run/a/b")
    assert (rule["state"], rule["rse_expression"]) == ("OK", "REM1")


# --- what programs do ----------------------------------------------------------------------------

PROGRAMS = {
    "cp": "head -c 3000000 /dev/urandom > /tmp/$1.src; mkdir run; cp /tmp/$1.src run/copy;"
    " rm /tmp/$1.src",
    "mv": "mkdir run; echo x > run/old; mv run/old run/new",
    "tar": "mkdir run; tar cf - -C /etc hostname hosts passwd | tar xf - -C run",
    "rsync": "mkdir /tmp/$1.d; for i in 1 2 3; do echo $i > /tmp/$1.d/f$i; done;"
    " rsync -a /tmp/$1.d/ run/; rm -r /tmp/$1.d",
    "git": "git init -q run; cd run; git config user.email a@b; git config user.name a;"
    " echo text > file; git add file; git commit -qm one",
    "editor": "mkdir run; echo old > run/f; echo new > run/.f.tmp; sync run/.f.tmp;"
    " mv run/.f.tmp run/f",
    "gcc": "mkdir run; echo 'int main(void) { return 0; }' > run/a.c; gcc -o run/a.out run/a.c;"
    " ./run/a.out",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_programs_save_is_in_the_lake(saver: SaverMaker, program: str) -> None:
    """Every file that is there when they have ended, with the bytes it has then."""
    if shutil.which(program) is None and program != "editor":
        pytest.skip(f"{program} is not installed")
    site = saver(scratch__delay="2s", scratch__rule="REM1")
    site.sh(PROGRAMS[program], f"rucio-fs-{site.scope}")
    _is_in_the_lake(site, "run")


# Each writes to *path* in several goes, the way its users do, and leaves one file.
FORMATS = {
    "h5py": """
import h5py
with h5py.File(path, 'w') as store:
    store.create_dataset('x', data=range(1000), maxshape=(None,), chunks=(100,))
for _ in range(5):
    with h5py.File(path, 'a') as store:
        data = store['x']; old = len(data)
        data.resize((old + 1000,)); data[old:] = range(1000)
""",
    "astropy": """
import numpy
from astropy.io import fits
fits.writeto(path, numpy.zeros((640, 64), dtype='f4'))
with fits.open(path, mode='update', memmap=True) as image:  # through a shared mapping
    image[0].data[3, 4] = 7; image[0].header['OBJECT'] = 'M31'
with fits.open(path, mode='append') as image:
    image.append(fits.ImageHDU(numpy.ones(10)))
""",
    "sqlite3": """
import sqlite3
base = sqlite3.connect(path)
base.execute(f'pragma journal_mode={journal}')
base.execute('create table t(x integer)')
base.executemany('insert into t values (?)', [(i,) for i in range(10_000)]); base.commit()
base.execute('delete from t where x >= 5000'); base.rollback()
base.execute('update t set x = x + 1'); base.commit()
base.close()
""",
}


@pytest.mark.parametrize(
    ("module", "journal"),
    [("h5py", None), ("astropy", None), ("sqlite3", "delete"), ("sqlite3", "wal")],
)
def test_what_libraries_save_is_in_the_lake(
    saver: SaverMaker, module: str, journal: str | None
) -> None:
    pytest.importorskip(module)
    site = saver(scratch__delay="2s", scratch__rule="REM1")
    site.sh("mkdir run")
    path = site.path("run/saved")
    code = f"path, journal = ARGS\n{FORMATS[module]}\nshow(None)"
    assert site.mount.python(code, path, journal) is None
    assert _is_in_the_lake(site, "run").keys() == {"run/saved"}


def _is_in_the_lake(site: Saving, directory: str) -> dict[str, bytes]:
    """What was saved there, once the conveyor has moved it, and it is read as everybody does."""
    files = site.files(directory)
    assert files
    site.done()
    for name, data in files.items():
        site.check(name, data, rse="REM1")
    rules = [site.rules(name) for name in site.datasets()]
    assert rules
    for (rule,) in rules:
        assert (rule["state"], rule["rse_expression"]) == ("OK", "REM1")
    assert site.files(directory) == files
    assert site.in_catalogue(directory) == files
    assert site.litter() == []
    return files


def test_no_room_is_told_when_a_file_is_made(saver: SaverMaker, lab: RuleLab) -> None:
    with lab.quota("root", "COLO_SCRATCHDISK", 0):
        site = saver(expect_warnings=True)
        made = site.mount.python(
            "open(os.path.join(ROOT, *ARGS), 'w').close(); show('made')",
            *("scratch", site.scope, "f"),
        )
    assert made == {"errno": "EDQUOT"}


def test_what_is_in_the_lake_cannot_be_changed(saver: SaverMaker) -> None:
    """But it can be removed here, which removes nothing there."""
    site = saver()
    site.sh("mkdir run; echo 1 > run/f")
    site.done()
    assert site.errno("open(path, 'a')", "run/f") == "EPERM"
    assert site.errno("os.truncate(path, 0)", "run/f") == "EPERM"
    assert site.errno("os.rename(path, path + 'x')", "run/f") == "EPERM"
    site.sh("echo 2 > other")
    assert site.errno("os.rename(path[:-5] + 'other', path)", "run/f") == "EPERM"
    assert site.errno("os.rename(path[:-2], path[:-2] + 'x')", "run/f") == "EPERM"
    assert "is in the lake as" in site.mount.log_text()
    site.sh("rm run/f")
    site.check("run/f", b"1\n", rse="COLO_SCRATCHDISK", dataset="run")


def test_a_dataset_of_the_lake_is_added_to(saver: SaverMaker, rest: Changer) -> None:
    """It appears when somebody names it."""
    site = saver()
    rest.add_collection(f"{site.scope}:old")
    rest.add_file(f"{site.scope}:first", b"first")
    rest.attach(f"{site.scope}:old", f"{site.scope}:first")
    site.sh("echo new > old/new")
    site.done()
    site.check("old/new", b"new\n", rse="COLO_SCRATCHDISK")
    assert site.members("old") == ["first", "old/new"]


def test_the_next_mount_goes_on(saver: SaverMaker) -> None:
    """What was saved just before the end."""
    first = saver(scratch__delay="1h")
    first.sh("mkdir run; echo 1 > run/a; echo 2 > run/b")
    assert first.mount.close() == 0
    second = saver()
    second.scope = first.scope
    second.done()
    second.check("run/a", b"1\n", rse="COLO_SCRATCHDISK", dataset="run")
    second.check("run/b", b"2\n", rse="COLO_SCRATCHDISK", dataset="run")


def test_what_was_given_up_here_is_read_from_the_lake(saver: SaverMaker) -> None:
    """Under the same name; its space is for what is still to come."""
    site = saver()
    site.sh("mkdir run; head -c 300000 /dev/urandom > run/f")
    data = site.files("run")["run/f"]
    site.done()
    before = site.mount.stat("scratch", site.scope, "run", "f")
    site.order("free")
    eventually(lambda: site.sh("du -k run/f").split()[0], lambda found: found == "0")
    assert site.files("run") == {"run/f": data}
    assert site.mount.stat("scratch", site.scope, "run", "f") == before
