"""Uploads of ordinary accounts, and of several at once: what each may do, and who wins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from lake import Lake
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.fuse.clients import Client, eventually
from tests.fuse.saving import Saving
from tests.lake.rules import RuleLab

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

SaverMaker = Callable[..., Saving]
RSE = "COLO_SCRATCHDISK"
POLICY = "Rucio's policy may keep that to RSEs named *SCRATCHDISK"


@pytest.fixture
def her_scope(lab: RuleLab) -> str:
    """An empty scope of alice's."""
    scope = f"r-{uuid4().hex[:12]}"
    lab.call("POST", f"/scopes/alice/{scope}")
    return scope


@pytest.fixture
def saver(
    lake: Lake, mounter: Mounter, rest: Changer, her_scope: str, tmp_path: Path
) -> SaverMaker:
    """Makes mounts of alice's, if not somebody else's, whose scratch is uploaded at once."""

    def make(account: str = "alice", **options: object) -> Saving:
        options = {
            "scratch__dir": tmp_path / f"scratch-{uuid4().hex[:6]}",
            "scratch__rse": RSE,
            "scratch__delay": "0.1s",
            **options,
        }
        mount = mounter(config=lake.client_config(account), expect_warnings=True, **options)
        return Saving(mount, lake, her_scope, rest)

    return make


def test_an_ordinary_account_uploads_to_a_scratch_disk(saver: SaverMaker) -> None:
    """Files, datasets, containers, metadata, rules: the generic policy lets her have all of it."""
    site = saver()
    site.sh("echo 1 > loose; mkdir -p run/deep; echo 2 > run/hits; echo 3 > run/deep/hits")
    site.sh("echo '{\"energy\": 7}' > run/hits.meta")
    site.done()
    site.check("loose", b"1\n", rse=RSE)
    site.check("run/hits", b"2\n", rse=RSE, dataset="run__root")
    site.check("run/deep/hits", b"3\n", rse=RSE, dataset="run/deep")
    assert site.members("run") == ["run/deep", "run__root"]
    for name in ("loose", "run__root", "run/deep"):
        (rule,) = site.rules(name)
        assert (rule["account"], rule["state"], rule["rse_expression"]) == ("alice", "OK", RSE)
    assert site.xattr("upload", "run/deep/hits") == "DONE"
    found = site.mount.xattr("meta.energy", site.scope, "run%2Fhits")
    assert found == "7"
    assert site.litter() == []
    assert site.mount.warnings() == []


def test_where_she_may_not_register_the_error_names_step_and_policy(saver: SaverMaker) -> None:
    site = saver(scratch__rse="COLO")
    site.sh("mkdir run; echo text > run/hits")
    site.failed("run/hits", "account alice may not add files at COLO")
    site.failed("run/hits", POLICY)
    assert site.known("run/hits") is None
    # Nothing but another place is wanted.
    site.sh(f"setfattr -n user.rucio.rse -v {RSE} run")
    site.done()
    site.check("run/hits", b"text\n", rse=RSE, dataset="run")
    assert site.litter() == []


@pytest.mark.parametrize("how", ["os.mkdir(path)", "open(path, 'x')"], ids=["mkdir", "create"])
def test_a_scope_that_is_not_hers_is_refused_at_once(saver: SaverMaker, how: str) -> None:
    site = saver()
    code = "path = os.path.join(ROOT, *ARGS)\n" + how
    assert site.mount.python(code, "scratch", "sky") == {"errno": "EACCES"}
    site.mount.wait_for_log("sky is no scope of the account")
    assert "sky" not in site.mount.ls("scratch")
    assert site.scope in site.mount.ls("scratch")
    assert site.mount.python(code, "scratch", "sky", "mine") == {"errno": "ENOENT"}


def test_without_quota_it_waits_and_says_so(saver: SaverMaker, lab: RuleLab) -> None:
    """The file is in the lake by then; its rule is made as soon as there is room for it."""
    site = saver()
    with lab.quota("alice", RSE, 0):
        site.sh("mkdir run; echo text > run/hits")
        eventually(lambda: site.listed("run/hits").get("error", ""), lambda error: "uota" in error)
        assert site.xattr("upload", "run/hits") == "REGISTERING"
        assert f"{site.scope}:run/hits" in str(site.xattr("error", "run/hits"))
        assert "uota" in site.problems("run/hits")[0]
        assert site.rules("run") == []
    site.order("retry")
    site.done()
    site.check("run/hits", b"text\n", rse=RSE, dataset="run")
    (rule,) = site.rules("run")
    assert (rule["account"], rule["state"]) == ("alice", "OK")
    assert site.litter() == []


# --- two users -----------------------------------------------------------------------------------

_SAVES = """
os.makedirs(f"{ROOT}/run", exist_ok=True)
show("ready")
wait()
for i in range(40):
    with open(f"{ROOT}/run/NAME-{i}", "w") as file:
        file.write(f"NAME {i}")
"""


def test_two_users_add_to_one_dataset_at_the_same_time(saver: SaverMaker) -> None:
    sites = {name: saver(name) for name in ("alice", "root")}
    writers = {
        name: Client(site.path(), _SAVES.replace("NAME", name)) for name, site in sites.items()
    }
    for writer in writers.values():
        assert writer.seen() == "ready"
    for writer in writers.values():
        writer.go_on()
    assert [writer.end() for writer in writers.values()] == [0, 0]
    for site in sites.values():
        site.done()
    wanted = {f"run/{name}-{i}": f"{name} {i}".encode() for name in sites for i in range(40)}
    assert site.members("run") == sorted(wanted)
    for name, data in wanted.items():
        assert site.stored(name, RSE).read_bytes() == data
    assert sorted(rule["account"] for rule in site.rules("run")) == ["alice", "root"]
    assert site.litter() == []


def test_of_two_files_of_one_name_one_wins_and_the_other_is_renamed(saver: SaverMaker) -> None:
    one = saver("alice")
    other = saver("root", scratch__delay="0.4s")  # both are on their way at once
    contents = {one: b"hers\n", other: b"his\n"}
    for site, data in contents.items():
        site.sh(f"mkdir -p run; printf %s '{data.decode()}' > run/same")
    for site in contents:
        eventually(
            lambda site=site: site.xattr("upload", "run/same"),  # type: ignore[misc]
            lambda state: state in ("DONE", "FAILED"),
        )
    states = {site.xattr("upload", "run/same"): site for site in contents}
    assert sorted(map(str, states)) == ["DONE", "FAILED"]
    winner, loser = states["DONE"], states["FAILED"]
    winner.check("run/same", contents[winner], rse=RSE, dataset="run")
    loser.failed("run/same", f"{loser.scope}:run/same: another file")
    assert loser.sh("cat run/same").encode() == contents[loser]
    loser.sh("mv run/same run/mine")
    loser.done()
    loser.check("run/mine", contents[loser], rse=RSE, dataset="run")
    winner.check("run/same", contents[winner], rse=RSE, dataset="run")
    assert loser.members("run") == ["run/mine", "run/same"]
    assert eventually(loser.litter, lambda found: not found, 10) == []


def test_the_same_file_from_two_users_is_in_the_lake_once(saver: SaverMaker) -> None:
    sites = [saver("alice"), saver("root")]
    for site in sites:
        site.sh("mkdir -p run; echo common > run/same")
    for site in sites:
        site.done()
        assert site.xattr("upload", "run/same") == "DONE"
        site.check("run/same", b"common\n", rse=RSE, dataset="run")
        assert site.problems("run/same") == []
    assert site.members("run") == ["run/same"]
    assert sorted(rule["account"] for rule in site.rules("run")) == ["alice", "root"]
    assert eventually(site.litter, lambda found: not found, 10) == []
