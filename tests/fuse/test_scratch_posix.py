"""Programs that write, in scratch as in any other directory; and what scratch refuses."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake
from tests.conftest import Mounter
from tests.fuse.clients import Client
from tests.mounting import DEADLINE, Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


def needs_module(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no module {name}")


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "area"


@pytest.fixture(scope="module")
def mount(module_mounter: Mounter, area: Path) -> Mount:
    return module_mounter(scratch__enabled=True, scratch__dir=area, scratch__delay="1 d")


@pytest.fixture
def here(mount: Mount, area: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A new directory of the mount for one test; at the end no file is left open for writing."""
    name = re.sub(r"\W", "-", request.node.name).strip("-")
    run(mount, "mkdir", mount.path / "scratch" / "lab" / name)
    yield mount.path / "scratch" / "lab" / name
    log = (area / "open.log").read_text()
    opened = {line.split()[0][1:] for line in log.splitlines() if line[0] == "+"}
    closed = {line[1:] for line in log.splitlines() if line[0] == "-"}
    assert opened - {"0"} <= closed  # 0 stands for one that is about to be made


@pytest.fixture
def below(area: Path, here: Path) -> Path:
    """The same where it is kept."""
    return area / "tree" / "lab" / here.name


def run(mount: Mount, *command: str | Path, timeout: float = DEADLINE) -> str:
    done = mount.run(*command, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shell(mount: Mount, where: Path, script: str, timeout: float = DEADLINE) -> str:
    return run(mount, "bash", "-euc", f"cd {where}\n{script}", timeout=timeout)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with what trees have."""
    top = tmp_path_factory.mktemp("source") / "tree"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a.txt").write_text("alpha\n")
    (top / "deep" / "large.bin").write_bytes(os.urandom(3_000_000))
    (top / "deep" / "er" / "grün x").write_bytes(b"")
    (top / "run.sh").write_text("#!/bin/sh\necho it runs\n")
    (top / "run.sh").chmod(0o750)
    (top / "link").symlink_to("deep/large.bin")
    (top / "nowhere").symlink_to("/nonexistent")
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(10**18, 10**18 + number * 10**9 + 123), follow_symlinks=False)
    return top


def is_the_same(one: Path, other: Path) -> None:
    """Names, content, modes, times and links."""
    find = ["find", ".", "-printf", r"%P %m %T@ %l %y\n"]
    listings = [
        sorted(subprocess.check_output(find, cwd=top, text=True).splitlines()[1:])
        for top in (one, other)
    ]
    assert listings[0] == listings[1]
    subprocess.run(["diff", "-r", "--no-dereference", one, other], check=True)


# --- copying -----------------------------------------------------------------------------------


def test_cp(mount: Mount, here: Path, below: Path, source: Path) -> None:
    run(mount, "cp", "-a", source, here / "copy")
    is_the_same(source, below / "copy")
    run(mount, "cp", "-dR", "--preserve=mode,timestamps", here / "copy", here / "again")
    is_the_same(source, below / "again")


def test_mv(mount: Mount, here: Path, below: Path, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "moving", symlinks=True)
    run(mount, "mv", tmp_path / "moving", here / "in")
    is_the_same(source, below / "in")
    run(mount, "mv", here / "in", here / "renamed")
    run(mount, "mv", here / "renamed", mount.path / "scratch" / "sky" / "elsewhere")
    is_the_same(source, below.parent.parent / "sky" / "elsewhere")
    run(mount, "mv", mount.path / "scratch" / "sky" / "elsewhere", tmp_path / "out")
    is_the_same(source, tmp_path / "out")
    assert list(below.iterdir()) == []


@needs("tar")
def test_tar(mount: Mount, here: Path, below: Path, source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "all.tar"
    subprocess.run(["tar", "--format=posix", "-C", source, "-cf", archive, "."], check=True)
    run(mount, "tar", "-C", here, "-xpf", archive)
    is_the_same(source, below)
    run(mount, "tar", "-C", here, "-czf", here / "own.tgz", "deep")
    names = subprocess.check_output(["tar", "-tzf", below / "own.tgz"], text=True)
    assert "deep/large.bin\n" in names


@needs("rsync")
def test_rsync(mount: Mount, here: Path, below: Path, source: Path) -> None:
    copied = run(mount, "rsync", "-a", "--out-format=%n", f"{source}/", here)
    assert "deep/large.bin" in copied
    is_the_same(source, below)
    assert run(mount, "rsync", "-a", "--delete", "--out-format=%n", f"{source}/", here) == ""
    shell(mount, here, "printf x >> deep/large.bin; touch new")
    options = ["-a", "--inplace", "--delete", "--out-format=%n"]
    again = run(mount, "rsync", *options, f"{source}/", here)
    assert {"deep/large.bin", "deleting", "new"} <= set(again.split())
    is_the_same(source, below)


# --- developing --------------------------------------------------------------------------------


@needs("git")
def test_git(mount: Mount, here: Path, below: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    script = f"""
export HOME={tmp_path} GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a
export GIT_COMMITTER_EMAIL=a@b
git config --global --add safe.directory '*'
git init -q {origin}; cd {origin}
for i in $(seq 50); do echo $i > f$i; done
git add .; git commit -qm one
git clone -q --no-hardlinks {origin} {here}/clone
cd {here}/clone
echo more >> f1; git mv f2 g2; git rm -q f3; git add .; git commit -qm two
git gc -q --prune=now
git fsck --strict
test -z "$(git status --porcelain)"
git push -q origin HEAD:refs/heads/pushed
git stash list; git checkout -q HEAD~1; cat f1; git checkout -q -; cat f1
"""
    assert run(mount, "bash", "-euc", script).endswith("1\n1\nmore\n")
    assert (below / "clone" / "g2").read_text() == "2\n"
    count = subprocess.check_output(
        ["git", "-C", origin, "rev-list", "--count", "pushed"], text=True
    )
    assert count == "2\n"


@needs("gcc", "make")
def test_a_build(mount: Mount, here: Path) -> None:
    script = r"""
cat > main.c <<'C'
#include <stdio.h>
int answer(void);
int main(void) { printf("%d\n", answer()); return 0; }
C
echo 'int answer(void) { return 42; }' > answer.c
printf 'prog: main.o answer.o\n\tcc -o $@ $^\n' > Makefile
make -s && ./prog
sleep 0.01; echo 'int answer(void) { return 43; }' > answer.c
make -s && ./prog
make | grep -c 'up to date'
ar rc lib.a main.o answer.o && ar t lib.a
"""
    assert shell(mount, here, script) == "42\n43\n1\nmain.o\nanswer.o\n"


def test_an_editor_saves(mount: Mount, here: Path, below: Path) -> None:
    """A new file, synced and renamed over the old one, whose mode it takes; a backup is kept."""
    code = """
path = ARGS[0] + '/notes.txt'
with open(path, 'w') as f: f.write('old')
os.chmod(path, 0o640)
with open(path) as reading:
    os.rename(path, path + '~')
    with open(path + '.tmp', 'x') as f:
        f.write('new'); f.flush(); os.fsync(f.fileno())
    os.chmod(path + '.tmp', os.stat(path + '~').st_mode)
    os.rename(path + '.tmp', path)
    directory = os.open(ARGS[0], os.O_RDONLY); os.fsync(directory); os.close(directory)
    mode = oct(os.stat(path).st_mode)
    show([reading.read(), open(path).read(), mode, sorted(os.listdir(ARGS[0]))])
"""
    assert mount.python(code, here) == ["old", "new", "0o100640", ["notes.txt", "notes.txt~"]]
    assert (below / "notes.txt").read_text() == "new"


def test_sed_in_place_and_append(mount: Mount, here: Path, below: Path) -> None:
    script = """
printf 'one\\ntwo\\n' > f; sed -i s/one/1/ f; echo three >> f; cat f
for i in 1 2 3 4; do for j in $(seq 25); do echo "$i $j" >> log; done & done; wait
wc -l < log; sort -u log | wc -l
truncate -s 1M sparse; stat -c %s sparse; dd if=/dev/zero of=sparse bs=1 count=3 seek=9 \
  conv=notrunc 2> /dev/null; stat -c %s sparse
"""
    assert shell(mount, here, script) == "1\ntwo\nthree\n100\n100\n1048576\n1048576\n"
    assert (below / "f").read_text() == "1\ntwo\nthree\n"


# --- formats -----------------------------------------------------------------------------------


@needs_module("h5py")
def test_h5py_appends(mount: Mount, here: Path) -> None:
    code = """
import h5py, numpy
path = ARGS[0] + '/events.h5'
with h5py.File(path, 'w') as store:
    store.create_dataset('x', data=numpy.arange(1000.), maxshape=(None,), chunks=(100,))
for _ in range(5):
    with h5py.File(path, 'a') as store:
        data = store['x']; old = len(data)
        data.resize((old + 1000,)); data[old:] = numpy.arange(1000.)
        store.attrs['n'] = old + 1000
with h5py.File(path) as store:
    show([store['x'].shape, float(store['x'][:].sum()), int(store.attrs['n'])])
"""
    assert mount.python(code, here) == [[6000], 6 * 499500.0, 6000]


@needs_module("astropy")
def test_astropy_updates(mount: Mount, here: Path) -> None:
    code = """
import numpy
from astropy.io import fits
path = ARGS[0] + '/image.fits'
fits.writeto(path, numpy.zeros((64, 64), dtype='f4'))
with fits.open(path, mode='update', memmap=True) as image:  # through a shared mapping
    image[0].data[3, 4] = 7; image[0].header['OBJECT'] = 'M31'
with fits.open(path, mode='append') as image:
    image.append(fits.ImageHDU(numpy.ones(10)))
with fits.open(path) as image:
    show([float(image[0].data.sum()), image[0].header['OBJECT'], float(image[1].data.sum())])
"""
    assert mount.python(code, here) == [7.0, "M31", 10.0]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(mount: Mount, here: Path, below: Path, journal: str) -> None:
    code = """
import sqlite3
path = f'{ARGS[0]}/{ARGS[1]}.db'
one = sqlite3.connect(path, timeout=10)
show_mode = one.execute(f'pragma journal_mode={ARGS[1]}').fetchone()[0]
one.execute('create table t(x integer)')
one.executemany('insert into t values (?)', [(i,) for i in range(1000)]); one.commit()
other = sqlite3.connect(path, timeout=0)
one.execute('begin immediate'); one.execute('delete from t where x >= 500')
try:
    other.execute('begin immediate'); locked = False
except sqlite3.OperationalError as exc:
    locked = 'locked' in str(exc)
seen = other.execute('select count(*) from t').fetchone()[0]
one.rollback()
other.execute('update t set x = x + 1'); other.commit()
total = one.execute('select sum(x) from t').fetchone()[0]
check = one.execute('pragma integrity_check').fetchone()[0]
one.close(); other.close()
show([show_mode, locked, seen, total, check])
"""
    assert mount.python(code, here, journal) == [journal, True, 1000, 500500, "ok"]
    assert [path.name for path in below.iterdir() if path.name.startswith(journal)] == [
        f"{journal}.db"
    ]


@needs_module("numpy")
def test_numpy_maps_a_file_for_writing(mount: Mount, here: Path) -> None:
    code = """
import numpy
path = ARGS[0] + '/map'
array = numpy.memmap(path, dtype='i4', mode='w+', shape=(1000, 100))
array[500] = 3; array.flush(); array[501] = 4; del array
show([int(numpy.fromfile(path, dtype='i4').sum()), os.path.getsize(path)])
"""
    assert mount.python(code, here) == [700, 400_000]


# --- what is open --------------------------------------------------------------------------------


def test_a_removed_file_can_be_used_on(mount: Mount, here: Path) -> None:
    code = """
fd = os.open(ARGS[0] + '/f', os.O_RDWR | os.O_CREAT)
os.write(fd, b'hello'); os.unlink(ARGS[0] + '/f')
other = os.open(ARGS[0] + '/f', os.O_RDWR | os.O_CREAT); os.write(other, b'another')
os.ftruncate(fd, 4); os.fchmod(fd, 0o600); os.setxattr(fd, 'user.x', b'1')
again = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)
show([os.pread(fd, 9, 0).decode(), os.pread(again, 9, 0).decode(), os.fstat(fd).st_nlink,
      oct(os.fstat(fd).st_mode), os.getxattr(fd, 'user.x').decode(), os.fstat(other).st_size,
      os.fstat(fd).st_ino != os.fstat(other).st_ino])
"""
    assert mount.python(code, here) == ["hell", "hell", 0, "0o100600", "1", 7, True]


def test_a_removed_directory_that_somebody_is_in(mount: Mount, here: Path) -> None:
    code = """
os.mkdir(ARGS[0] + '/d'); os.chdir(ARGS[0] + '/d'); os.rmdir(ARGS[0] + '/d')
found = [os.listdir('.'), os.stat('.').st_nlink]
try: open('f', 'w')
except OSError as exc: found.append(exc.errno == errno.ENOENT)
show(found)
"""
    assert mount.python(code, here) == [[], 0, True]


def test_writing_through_a_directory_that_moves(mount: Mount, here: Path, below: Path) -> None:
    code = f"""
fd = os.open('{here}/a/b/f', os.O_WRONLY)
os.chdir('{here}/a/b')
show('open'); wait()
os.write(fd, b'later'); open('g', 'w').write('beside'); os.mkdir('h')
show(sorted(os.listdir('.')))
"""
    shell(mount, here, "mkdir -p a/b; touch a/b/f")
    with Client(mount.path, code) as client:
        assert client.seen() == "open"
        shell(mount, here, "mv a z; mkdir a")
        client.go_on()
        assert client.seen() == ["f", "g", "h"]
        assert client.end() == 0
    assert (below / "z" / "b" / "f").read_text() == "later"
    assert (below / "z" / "b" / "g").read_text() == "beside"
    assert list((below / "a").iterdir()) == []


def test_locks_count_between_programs(mount: Mount, here: Path) -> None:
    code = f"""
import fcntl
f = open('{here}/f', 'w')
fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)
show('locked'); wait()
"""
    with Client(mount.path, code) as client:
        assert client.seen() == "locked"
        done = mount.run("flock", "-n", here / "f", "true")
        assert done.returncode == 1
        client.go_on()
        assert client.end() == 0
    run(mount, "flock", "-n", here / "f", "true")


# --- what is different -------------------------------------------------------------------------


def test_what_no_scratch_has(mount: Mount, here: Path) -> None:
    shell(mount, here, "touch f")
    for change, expected in {
        "os.link(d + '/f', d + '/g')": "EPERM",
        "os.mkfifo(d + '/g')": "EPERM",
        "os.setxattr(d + '/f', 'user.rucio-fs.lake', b'1')": "EPERM",
        "os.getxattr(d + '/f', 'user.rucio.nothing')": "ENODATA",
        "os.getxattr(d + '/f', 'security.selinux')": "ENOTSUP",
        "os.rename(d + '/f', ROOT + '/lab/mixed/f')": "EROFS",
        "os.rename(ROOT + '/lab/mixed/notes.txt', d + '/g')": "EROFS",
        "os.rename(d + '/f', ROOT + '/scratch/f')": "EACCES",
    }.items():
        found = mount.python(f"d = ARGS[0]\n{change}\nshow('it worked')", here)
        assert found == {"errno": expected}, change


@pytest.mark.parametrize(
    "change", ["os.mkdir(s + '/new')", "open(s + '/new', 'w')", "os.symlink('x', s + '/new')"]
)
def test_only_scopes_are_at_the_top(mount: Mount, change: str) -> None:
    log = mount.log_text()
    code = f"s = ROOT + '/scratch'\n{change}\nshow('it worked')"
    assert mount.python(code) == {"errno": "EACCES"}
    assert "new is no scope of the account" in mount.log_text()[len(log) :]


def test_scopes_stay(mount: Mount) -> None:
    for change in ("os.rmdir(s + '/user.bob')", "os.rename(s + '/user.bob', s + '/user.b')"):
        code = f"s = ROOT + '/scratch'\n{change}\nshow('it worked')"
        assert mount.python(code) == {"errno": "EACCES"}


def test_the_top_shows_the_scopes(mount: Mount) -> None:
    names = mount.ls("scratch")
    assert {"lab", "sky", "user.alice"} <= set(names)
    assert mount.ls("scratch", "user.alice") == []
    assert mount.stat("scratch", "nobody")["errno"] == "ENOENT"
    assert "scratch" in mount.ls()


def test_df_tells_of_the_disk(mount: Mount, area: Path) -> None:
    code = "v = os.statvfs(ROOT + '/scratch/lab'); show([v.f_frsize * v.f_blocks, v.f_namemax])"
    found = os.statvfs(area)
    assert mount.python(code) == [found.f_frsize * found.f_blocks, 255]


def test_df_shows_the_disk_of_the_whole_mount(mount: Mount, area: Path) -> None:
    found = os.statvfs(area)
    code = "v = os.statvfs(os.path.join(ROOT, *ARGS)); show(v.f_frsize * v.f_blocks)"
    for path in ((), ("lab",)):
        assert mount.python(code, *path) == found.f_frsize * found.f_blocks


def test_the_rest_of_the_tree_is_read_only_still(mount: Mount) -> None:
    code = "open(ROOT + '/lab/mixed/new', 'w'); show('it worked')"
    assert mount.python(code) == {"errno": "EROFS"}


# --- the life of a mount -----------------------------------------------------------------------


def test_what_is_saved_is_there_for_the_next_mount(mounter: Mounter, tmp_path: Path) -> None:
    options = {"scratch__enabled": True, "scratch__dir": tmp_path / "area"}
    first = mounter(**options)
    shell(first, first.path / "scratch" / "lab", "mkdir d; echo kept > d/f")
    inode = first.stat("scratch", "lab", "d", "f")["ino"]
    assert first.close() == 0
    second = mounter(**options)
    assert second.run("cat", second.path / "scratch" / "lab" / "d" / "f").stdout == "kept\n"
    assert second.stat("scratch", "lab", "d", "f")["ino"] == inode


def test_a_file_that_is_open_at_the_end_is_unfinished(mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter(scratch__enabled=True, scratch__dir=tmp_path / "area")
    code = """
f = open(ROOT + '/scratch/lab/f', 'w'); f.write('half'); f.flush()
open(ROOT + '/scratch/lab/g', 'w').close()
show('open'); wait()
"""
    with Client(mount.path, code) as client:
        assert client.seen() == "open"
        assert mount.close() == 0
        lines = (tmp_path / "area" / "open.log").read_text().splitlines()
        client.go_on()
        client.end()
    inos = {name: (tmp_path / "area/tree/lab" / name).stat().st_ino for name in "fg"}
    assert f'+{inos["f"]} "lab/f"' in lines
    assert f"-{inos['f']}" not in lines
    assert f"-{inos['g']}" in lines
    assert lines[-1] == "end"


def test_the_area_must_not_lie_in_the_mount(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    with pytest.raises(AssertionError, match=r"would hide its own scratch\.dir"):
        Mount(
            lake.client_config(),
            {"scratch.enabled": True, "scratch.dir": tmp_path / "mnt" / "area"},
            directory=tmp_path / "mnt",
        )
