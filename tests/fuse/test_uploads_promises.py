"""What docs/SCRATCH.md promises scientists, each on a real mount of a real lake."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from lake import Lake
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.fuse.clients import Client, eventually
from tests.fuse.saving import Saving
from tests.lake.rest import did_path
from tests.lake.rules import RuleLab
from tests.mounting import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

RSE = "COLO_SCRATCHDISK"
SaverMaker = Callable[..., Saving]


@pytest.fixture
def saver(
    lake: Lake, mounter: Mounter, rest: Changer, new_scope: str, tmp_path: Path
) -> SaverMaker:
    """Makes mounts with a scratch that is uploaded at once."""

    def make(**options: object) -> Saving:
        scratch = {
            "scratch__dir": tmp_path / "scratch",
            "scratch__rse": RSE,
            "scratch__delay": "0.2s",
        }
        return Saving(mounter(**(scratch | options)), lake, new_scope, rest)

    return make


def test_a_file_that_is_removed_in_time_never_comes_to_the_lake(saver: SaverMaker) -> None:
    site = saver(scratch__delay="1h")
    site.sh("mkdir run; echo x > run/wrong; echo y > run/right; rm run/wrong")
    site.order("now")
    site.done()
    assert [row["name"] for row in site.all_known()] == ["run/right"]


def test_the_readme_says_how_to_save(saver: SaverMaker, tmp_path: Path) -> None:
    site = saver()
    readme = site.mount.run("cat", site.mount.path / "README.txt").stdout
    assert "All but scratch/ is read-only." in readme
    assert "Everything here is read-only" not in readme
    (line,) = (line for line in readme.splitlines() if "scratch/SCOPE" in line)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "f").write_text("x")
    command = line.split("   ")[1].replace("SCOPE", site.scope)
    site.sh(f"cd ../..; {command.replace('DIRECTORY', str(tmp_path / 'results'))}")
    site.done()
    site.check("results/f", b"x", rse=RSE, dataset="results")


# --- when ----------------------------------------------------------------------------------------


def test_a_file_waits_until_it_is_closed(saver: SaverMaker) -> None:
    site = saver()
    site.sh("mkdir run")
    code = f"""
f = open('{site.path("run/log")}', 'w'); f.write('half'); f.flush()
show('open'); wait(); f.write(' and half')
"""
    with Client(site.mount.path, code) as client:
        assert client.seen() == "open"
        site.sh("printf x > run/beside")
        eventually(lambda: site.known("run/beside"), lambda found: found is not None)
        site.done()
        assert site.known("run/log") is None
        assert site.xattr("upload", "run/log") == "STAGED"
        client.go_on()
        assert client.end() == 0
    site.done()
    site.check("run/log", b"half and half", rse=RSE, dataset="run")


# --- what users say ------------------------------------------------------------------------------


def test_options_of_a_directory_and_of_a_file_in_it(saver: SaverMaker) -> None:
    """The nearest word counts."""
    site = saver(scratch__enabled=True, scratch__rse="", scratch__delay="1h")
    site.sh(
        """
mkdir run; printf a > run/usual; printf b > run/other; printf c > run/private
printf 'rse = "%s"\\nlifetime = "30d"\\n' "$1" > run/.rucio-upload.toml
setfattr -n user.rucio.dataset -v chosen run/other
setfattr -n user.rucio.rule -v REM1 run/other
setfattr -n user.rucio.upload -v never run/private
""",
        RSE,
    )
    site.order("now")
    site.done()
    site.check("run/usual", b"a", rse=RSE, dataset="run")
    site.check("run/other", b"b", rse="REM1", dataset="chosen")
    assert site.members("run") == ["run/usual"]
    assert site.known("run/private") is None
    for dataset, expression in {"run": RSE, "chosen": "REM1"}.items():
        (rule,) = site.rules(dataset)
        assert rule["rse_expression"] == expression
        assert _lifetime(rule) == pytest.approx(30 * 86400, abs=60)


def _lifetime(rule: dict[str, str]) -> float:
    made, ends = (parsedate_to_datetime(rule[key]) for key in ("created_at", "expires_at"))
    return (ends - made) / timedelta(seconds=1)


def test_a_sidecar_becomes_metadata(saver: SaverMaker) -> None:
    site = saver()
    metadata = {"energy": 13.6, "beam": "on"}
    site.sh(
        'mkdir run; printf "%s" "$1" > run/hits.meta; printf x > run/hits', json.dumps(metadata)
    )
    site.done()
    found = site.rest.get(f"/dids/{did_path(f'{site.scope}:run/hits')}/meta?plugin=ALL")
    assert {key: found[key] for key in metadata} == metadata
    assert site.members("run") == ["run/hits"]


def test_an_option_that_means_nothing_is_refused_at_once(saver: SaverMaker) -> None:
    site = saver(expect_warnings=True)
    site.sh("mkdir run")
    for option in ("lifetim", "lifetime"):
        code = f"os.setxattr(ARGS[0], 'user.rucio.{option}', b'soon'); show('it worked')"
        assert site.mount.python(code, site.path("run")) == {"errno": "EINVAL"}
    assert "did you mean lifetime?" in site.mount.log_text()
    site.sh("setfattr -n user.rucio.rse -v NOPE run; echo x > run/f")
    assert site.settled()["failed"] == 1
    assert "Rucio knows no RSE NOPE" in (site.xattr("error", "run/f") or "")


def test_what_is_never_uploaded_is_written_again_and_again(
    saver: SaverMaker, tmp_path: Path
) -> None:
    """A git repository and a database, which change files that were closed long ago."""
    site = saver(scratch__delay="0s")
    site.sh("mkdir repo; setfattr -n user.rucio.upload -v never repo")
    git = f"""
cd repo
export HOME={tmp_path} GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a
export GIT_COMMITTER_EMAIL=a@b
git config --global --replace-all safe.directory '*'
git init -q .; echo $1 > f; git add f; git commit -qm $1; git fsck --strict
"""
    code = """
import sqlite3
with sqlite3.connect(ARGS[0] + '/db') as one:
    one.execute('create table if not exists t(x)'); one.execute('insert into t values (1)')
show(one.execute('select count(*) from t').fetchone()[0])
"""
    for number in (1, 2):
        site.sh(git, str(number))
        assert site.mount.python(code, site.path("repo")) == number
        site.done()  # else it would be uploaded, before anything is changed again
    assert site.sh("cd repo; git rev-list --count HEAD").strip() == "2"
    assert site.all_known() == []


# --- what is in the way --------------------------------------------------------------------------


def test_a_name_that_is_taken_is_told_and_renaming_helps(saver: SaverMaker) -> None:
    site = saver()
    site.rest.add_file(f"{site.scope}:result", b"theirs")
    site.sh("printf ours > result")
    assert site.settled()["failed"] == 1
    assert site.xattr("upload", "result") == "FAILED"
    assert "another file of that name is in the lake" in (site.xattr("error", "result") or "")
    assert site.sh("cat result") == "ours"
    site.sh("mv result result-2")
    site.done()
    site.check("result-2", b"ours", rse=RSE)


def test_what_the_lake_has_already_is_not_sent_again(saver: SaverMaker) -> None:
    site = saver(scratch__rule="COLO")
    site.rest.add_file(f"{site.scope}:result", b"bytes")
    site.sh("printf bytes > result")
    site.done()
    assert not site.stored("result", RSE).exists()
    assert site.known("result")["states"] == {"COLO": "AVAILABLE"}  # type: ignore[index]


# --- what others do meanwhile ---------------------------------------------------------------------


def test_what_is_saved_later_is_kept_by_a_rule_too(saver: SaverMaker, lab: RuleLab) -> None:
    """The first one's lifetime is over, or somebody has deleted it."""
    site = saver()
    site.sh("mkdir run; echo 1 > run/a")
    site.done()
    (rule,) = site.rules("run")
    lab.delete_rule(rule["id"])
    site.sh("echo 2 > run/b")
    site.done()
    (rule,) = site.rules("run")
    assert rule["state"] == "OK"


def test_an_rse_that_is_closed_for_reading_has_what_was_saved_there(
    saver: SaverMaker, lab: RuleLab
) -> None:
    site = saver()
    with lab.availability(RSE, read=False):
        site.sh("mkdir run; echo text > run/a")
        site.done()
    assert "uploaded again" not in site.mount.log_text()
    site.check("run/a", b"text\n", rse=RSE, dataset="run")


def test_metadata_that_rucio_refuses_can_be_mended(saver: SaverMaker) -> None:
    site = saver(expect_warnings=True)
    site.sh("""mkdir run; echo '{"events": "many"}' > run/a.meta; echo text > run/a""")
    assert site.settled()["failed"] == 1
    site.sh("""echo '{"events": 5}' > run/a.meta""")
    site.done()
    site.check("run/a", b"text\n", rse=RSE, dataset="run")


# --- crashes -------------------------------------------------------------------------------------


def test_a_file_that_was_open_in_a_crash_waits_for_its_user(
    lake: Lake, rest: Changer, new_scope: str, tmp_path: Path
) -> None:
    """What was closed goes on by itself; what was half written does so only when that is said."""

    def mounted() -> Saving:
        options = {
            "storages.ca": lake.ca_file,
            "scratch.dir": tmp_path / "scratch",
            "scratch.rse": RSE,
            "scratch.delay": "1h",
        }
        mount = Mount(lake.client_config(), options, directory=tmp_path / "mnt")
        return Saving(mount, lake, new_scope, rest)

    site = mounted()
    site.sh("mkdir run; printf whole > run/closed")
    code = f"f = open('{site.path('run/open')}', 'w'); f.write('half'); f.flush(); show(1); wait()"
    with Client(site.mount.path, code) as client:
        assert client.seen() == 1
        site.mount.process.kill()
        site.mount.process.wait()
        client.go_on()
        client.end()
    subprocess.run(["umount", "-l", str(site.mount.path)], check=True, timeout=30)
    site.mount.remove()

    site = mounted()
    try:
        site.order("now")
        assert site.settled()["failed"] == 1
        site.check("run/closed", b"whole", rse=RSE, dataset="run")
        assert site.xattr("upload", "run/open") == "FAILED"
        assert "was not written to its end (the mount ended" in (
            site.xattr("error", "run/open") or ""
        )
        assert site.known("run/open") is None
        site.sh("setfattr -n user.rucio.upload -v now run/open")
        site.done()
        site.check("run/open", b"half", rse=RSE, dataset="run")
    finally:
        assert site.mount.close() == 0
        site.mount.remove()
