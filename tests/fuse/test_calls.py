"""How many requests a user's command costs Rucio's server, counted in its access log.

*Cold* means that the mount has not asked about the directory yet.  A path is walked first: the
scope's name is known from the start of the mount, each further directory on the way costs what a
listing of it costs, and the last one a question for itself (``meta``).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lake import Lake
from tests import direct
from tests.conftest import Mounter
from tests.fuse.calls import CallLog
from tests.fuse.changing import Changer
from tests.mounting import Mount, run_all

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

BIG = 10_000
DATASETS = 100


@pytest.fixture(scope="module")
def scope(lake: Lake) -> Iterator[str]:
    scope = direct.fresh_scope()
    lake.fill(scope, datasets=DATASETS, loose=5, big=BIG)
    yield scope
    direct.hide(lake, scope)


def _lines(mount: Mount, *command: str) -> int:
    done = mount.run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    return len(done.stdout.splitlines())


def test_mounting_costs_a_login_and_the_scopes(calls: CallLog, mounter: Mounter) -> None:
    with calls.counted() as asked:
        mounter()
    logins = {"GET /accounts/whoami", "GET /accounts/root", "GET /auth/userpass"}
    assert asked["scopes"] == 1
    assert set(asked) <= logins | {"scopes"}
    assert sum(asked.values()) <= 4


def test_the_top_costs_nothing(calls: CallLog, mounter: Mounter) -> None:
    mount = mounter()
    with calls.counted() as asked:
        assert _lines(mount, "ls", "-la", str(mount.path)) > 5
        mount.status()
        mount.run("cat", mount.path / "README.txt")
    assert asked == {}


def test_ls_of_10000_files_is_one_call_and_one_for_its_path(
    calls: CallLog, mounter: Mounter, scope: str
) -> None:
    mount = mounter()
    big = str(mount.path / scope / "big")
    with calls.counted() as asked:
        assert mount.stat(scope, "big")["size"] == 0
    assert asked == {"meta": 1}
    with calls.counted() as asked:
        assert _lines(mount, "ls", big) == BIG
    assert asked == {"listing": 1}
    with calls.counted() as asked:
        assert _lines(mount, "ls", big) == BIG
    assert asked == {}


def test_ls_l_of_10000_files_is_one_call_and_one_per_thousand(
    calls: CallLog, mounter: Mounter, scope: str
) -> None:
    mount = mounter()
    big = str(mount.path / scope / "big")
    with calls.counted() as asked:
        assert _lines(mount, "ls", "-l", big) == BIG + 1
    assert asked == {"meta": 1, "listing": 1, "bulkmeta": BIG // 1000}
    with calls.counted() as asked:
        assert _lines(mount, "ls", "-l", big) == BIG + 1
    assert asked == {}


def test_find_over_100_datasets_lists_each_once(
    calls: CallLog, mounter: Mounter, scope: str
) -> None:
    mount = mounter()
    top = str(mount.path / scope / "all")
    with calls.counted() as asked:
        assert _lines(mount, "find", top, "-type", "d") == DATASETS + 1
    assert asked == {"meta": 1, "listing": DATASETS + 1, "bulkmeta": 1}
    with calls.counted() as asked:
        assert _lines(mount, "find", top, "-type", "d") == DATASETS + 1
    assert asked == {}


def test_ls_l_of_100_datasets_asks_for_all_at_once(
    calls: CallLog, mounter: Mounter, scope: str
) -> None:
    mount = mounter()
    with calls.counted() as asked:
        assert _lines(mount, "ls", "-l", str(mount.path / scope / "all")) == DATASETS + 1
    assert asked == {"meta": 1, "listing": 1, "bulkmeta": 1}


def test_ls_l_of_a_scope_is_two_calls(calls: CallLog, mounter: Mounter, scope: str) -> None:
    mount = mounter()
    with calls.counted() as asked:
        assert _lines(mount, "ls", "-l", str(mount.path / scope)) == 8
    assert asked == {"scope listing": 1, "bulkmeta": 1}


def test_20_processes_that_list_at_once_cost_what_one_does(
    calls: CallLog, mounter: Mounter, scope: str
) -> None:
    mount = mounter()
    with calls.counted() as asked:
        printed = run_all([["ls", str(mount.path / scope / "big")]] * 20)
    assert asked == {"meta": 1, "listing": 1}
    assert {len(names.splitlines()) for names in printed} == {BIG}


def test_opening_a_file_by_its_path_is_a_handful_of_calls(calls: CallLog, mounter: Mounter) -> None:
    mount = mounter()
    path = mount.path / "sky" / "survey" / "survey.2026" / "night-001" / "exp0001_g.fits"
    with calls.counted() as asked:
        assert mount.run("md5sum", path).returncode == 0
    # survey, survey.2026, night-001 and the file for themselves; three listings on the way
    assert asked == {"meta": 4, "listing": 3, "replicas": 1}
    with calls.counted() as asked:
        assert mount.run("md5sum", path).returncode == 0
    assert asked == {}


def test_reading_a_file_again_and_again_asks_once(calls: CallLog, mounter: Mounter) -> None:
    mount = mounter()
    path = str(mount.path / "lab" / "mixed" / "notes.txt")
    with calls.counted() as asked:
        run_all([["cat", path]] * 10)
    assert asked["replicas"] == 1


def test_getfattr_of_a_file_is_three_calls(calls: CallLog, mounter: Mounter) -> None:
    mount = mounter(cache__now_ttl=60)
    path = mount.path / "lab" / "mixed" / "notes.txt"
    assert mount.stat("lab", "mixed", "notes.txt")["size"]
    with calls.counted() as asked:
        assert len(mount.run("getfattr", "-d", "--absolute-names", path).stdout.splitlines()) > 12
    assert asked["replicas"] == 1
    assert asked["meta"] <= 2  # Rucio's own columns, and the user-defined ones
    assert sum(asked.values()) <= 3


def test_a_name_that_does_not_exist_is_asked_once_within_missing_ttl(
    calls: CallLog, mounter: Mounter, scope: str
) -> None:
    mount = mounter(cache__missing_ttl=600)
    with calls.counted() as asked:
        for _ in range(3):
            assert mount.stat(scope, "nothing") == {"errno": "ENOENT"}
    assert asked == {"meta": 1}
    with calls.counted() as asked:
        assert mount.stat(scope, "big", "nothing") == {"errno": "ENOENT"}
        assert mount.stat(scope, "big", "nothing either") == {"errno": "ENOENT"}
    assert asked == {"meta": 1, "listing": 1}  # of the directory; its names are all known then


def test_what_tab_completion_and_git_look_for_costs_nothing(
    calls: CallLog, mounter: Mounter, scope: str
) -> None:
    mount = mounter()
    with calls.counted() as asked:
        for name in (".git", ".hidden", "HEAD"):
            assert mount.stat(name) == {"errno": "ENOENT"}
    # The first unknown name may be a scope just made: asked at most once per missing_ttl.
    assert asked in ({}, {"scopes": 1})


def test_a_name_that_rucio_refuses_costs_a_few_calls_and_hides_nobody(
    lake: Lake, rest: Changer, calls: CallLog, mounter: Mounter
) -> None:
    scope = direct.fresh_scope()
    names = [f"f{number:03d}" for number in range(200)]
    files = [direct.File(name, bytes=1) for name in [*names, "it's odd"]]
    plan = direct.Plan(files, [direct.Collection("set", [file.name for file in files])])
    direct.insert(lake, scope, plan)
    mount = mounter()
    with calls.counted() as asked:
        assert _lines(mount, "ls", "-l", str(mount.path / scope / "set")) == 202
    assert asked["listing"] == 1
    assert asked["bulkmeta"] <= 2 * 8 + 1  # halved until the odd one is alone
    assert asked["meta"] == 2
    direct.hide(lake, scope)


def test_refreshing_makes_the_next_look_ask_again_and_only_that(
    calls: CallLog, mounter: Mounter, scope: str
) -> None:
    mount = mounter()
    big, everything = str(mount.path / scope / "big"), str(mount.path / scope / "all")
    assert _lines(mount, "ls", big) == BIG
    assert _lines(mount, "ls", everything) == DATASETS
    mount.run("setfattr", "-n", "user.rucio.refresh", "-v", "1", big)
    with calls.counted() as asked:
        assert _lines(mount, "ls", everything) == DATASETS
    assert asked == {}
    with calls.counted() as asked:
        assert _lines(mount, "ls", big) == BIG
    assert asked["listing"] == 1
    assert set(asked) <= {"listing", "meta"}
