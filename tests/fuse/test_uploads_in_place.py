"""Scratch that lies on a mounted RSE: nothing is sent, and Rucio removes what has arrived.

Real mounts, a real Rucio with its conveyor and its reaper.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lake import Lake
from lake.fts.client import FtsControl
from tests.conftest import Mounter
from tests.fuse.changing import Changer
from tests.fuse.clients import eventually
from tests.fuse.saving import PATIENCE, Saving
from tests.mounting import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

RSE = "COLO_NDSCRATCHDISK"
Options = Callable[..., dict[str, object]]


@pytest.fixture
def tree(lake: Lake, new_scope: str) -> Path:
    """A directory of the RSE, as operators make one: the storage's server may write there."""
    directory = lake.store(RSE) / f"saved-{new_scope}"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.fixture
def options(tree: Path, tmp_path: Path) -> Options:
    def make(**more: object) -> dict[str, object]:
        return {
            "scratch__in_place": True,
            "scratch__rse": RSE,
            "scratch__dir": tree,
            "scratch__journal_dir": tmp_path / "journal",
            "scratch__rule": "REM1",
            "scratch__delay": "0.2s",
            **more,
        }

    return make


@pytest.fixture
def site(lake: Lake, mounter: Mounter, rest: Changer, new_scope: str, options: Options) -> Saving:
    return Saving(mounter(**options()), lake, new_scope, rest)


def states(site: Saving, name: str) -> dict[str, str]:
    """Of the replicas of a file that Rucio knows."""
    found = site.known(name)
    assert found is not None
    return dict(found["states"])


def gone(site: Saving, name: str) -> None:
    """Wait until a file is not in scratch any more."""
    eventually(lambda: site.mount.run("stat", site.path(name)).returncode, lambda code: code == 1)


def test_what_is_saved_moves_to_its_destination(site: Saving, tree: Path) -> None:
    site.sh("mkdir -p run/a; printf one > run/hits; printf two > run/a/deep; printf top > top")
    site.done()
    for name, data, dataset in (
        ("run/hits", b"one", "run__root"),
        ("run/a/deep", b"two", "run/a"),
        ("top", b"top", None),
    ):
        site.check(name, data, rse="REM1", dataset=dataset)
        gone(site, name)
        assert not (tree / site.scope / name).exists()
        eventually(partial(states, site, name), {"REM1": "AVAILABLE"}.__eq__, PATIENCE)
        assert [rule["rse_expression"] for rule in site.rules(name)] in ([], ["REM1"])
    # What has gone is in the catalogue's tree, and makes room for others of its name.
    assert site.mount.run("cat", site.mount.path / site.scope / "top").stdout == "top"
    eventually(lambda: site.uploads()["done"], lambda done: not done, PATIENCE)
    site.sh("printf other > run/new")
    site.done()
    site.check("run/new", b"other", rse="REM1", dataset="run__root")
    assert not [path for path in tree.rglob("*") if path.suffix == ".sqlite"]


def test_nothing_is_removed_before_it_has_arrived(
    site: Saving, tree: Path, lake: Lake, fts: FtsControl
) -> None:
    fts.stall(site.scope)
    site.sh("mkdir run; printf bytes > run/hits")
    eventually(
        lambda: [one["state"] for one in site.uploads()["uploads"]],
        lambda states: states == ["REPLICATING"],
        PATIENCE,
    )
    fts.wait_stalled()
    lake.run_daemons()  # the reaper among them
    lake.run_daemons()
    assert (tree / site.scope / "run/hits").read_bytes() == b"bytes"
    found = site.known("run/hits")
    assert found is not None
    assert found["states"][RSE] == "AVAILABLE"
    # It is the only copy: nobody removes it, changes it or gives it another name.
    for command in ("rm -f run/hits", "echo x >> run/hits", "mv run/hits run/other"):
        done = site.mount.run("sh", "-c", f"cd {site.path()}; {command}")
        assert "not permitted" in done.stderr, command
    assert site.sh("cat run/hits") == "bytes"
    fts.clear()


def test_an_account_that_may_not_delete_rules_is_told(
    lake: Lake, mounter: Mounter, rest: Changer, new_scope: str, options: Options
) -> None:
    """As it is for ordinary accounts in Rucio's generic policy: the copy stays."""
    mount = mounter(config=lake.client_config("alice"), expect_warnings=True, **options())
    site, name = Saving(mount, lake, "user.alice", rest), f"in-place-{new_scope}"
    site.sh('printf bytes > "$1"', name)
    site.done()
    site.check(name, b"bytes", rse="REM1")
    rules = {rule["rse_expression"]: rule for rule in site.rules(name)}
    problems = site.mount.run("cat", site.mount.path / ".rucio/problems").stdout
    assert f"administrators delete rule {rules[RSE]['id']}" in problems
    assert states(site, name) == {"REM1": "AVAILABLE", RSE: "AVAILABLE"}
    assert site.sh('cat "$1"', name) == "bytes"


def test_a_mount_that_is_killed_goes_on_where_it_was(
    lake: Lake,
    rest: Changer,
    new_scope: str,
    tmp_path: Path,
    tree: Path,
    options: Options,
    fts: FtsControl,
) -> None:
    mountpoint = tmp_path / "mnt"
    spelled = {key.replace("__", "."): value for key, value in options().items()}
    spelled |= {"site": "HERE", "rse": "COLO", "policy": "stream", "storages.ca": lake.ca_file}

    sites: list[Saving] = []

    def begin() -> Saving:
        mount = Mount(lake.client_config(), spelled, directory=mountpoint)
        sites.append(Saving(mount, lake, new_scope, rest))
        return sites[-1]

    def kill() -> None:
        mount = sites.pop().mount
        mount.process.kill()
        mount.process.wait()
        subprocess.run(["umount", "-l", str(mount.path)], check=True, timeout=30)
        mount.remove()

    def state(site: Saving) -> list[str]:
        return [one["state"] for one in site.uploads()["uploads"]]

    fts.stall(new_scope)
    lake.pause_daemons("reaper")
    try:
        site = begin()
        site.sh("mkdir run; printf bytes > run/hits")
        eventually(lambda: state(site), bool, PATIENCE)
        kill()  # at whatever it was doing
        site = begin()
        eventually(lambda: state(site), ["REPLICATING"].__eq__, PATIENCE)
        kill()
        site = begin()
        assert state(site) == ["REPLICATING"]
        fts.clear()
        site.done()
        assert site.sh("cat run/hits") == "bytes"  # the reaper has not come yet
        kill()
        lake.resume_daemons("reaper")
        eventually((tree / new_scope / "run/hits").exists, lambda there: not there, PATIENCE)
        site = begin()
        site.done()
        site.check("run/hits", b"bytes", rse="REM1", dataset="run")
        gone(site, "run/hits")
        assert len(site.rules("run")) == 1
        assert site.uploads()["done"] == 0
        assert site.mount.run("cat", site.mount.path / new_scope / "run%2Fhits").stdout == "bytes"
        assert site.mount.close() == 0
    finally:
        lake.resume_daemons("reaper")
        for one in sites:
            one.mount.close()
            one.mount.remove()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scratch__dir": "/tmp"}, "does not lie at COLO_NDSCRATCHDISK, whose files are below "),
        ({"scratch__rse": "COLO_SCRATCHDISK"}, "does not lie at COLO_SCRATCHDISK"),
        ({"scratch__rse": "REM1"}, "REM1 is not mounted on this machine"),
    ],
)
def test_a_directory_that_is_not_the_storages_is_refused(
    lake: Lake, options: Options, wrong: dict[str, object], words: str
) -> None:
    spelled = {key.replace("__", "."): value for key, value in options(**wrong).items()}
    with pytest.raises(AssertionError) as caught:
        Mount(lake.client_config(), spelled)
    assert words in str(caught.value)
    assert "scratch.in_place" in str(caught.value)
    assert "Traceback" not in str(caught.value).partition("the server ended")[2]
