"""A bug anywhere in the mount costs the operation that met it: EIO, a traceback, and on it goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import pytest

from lake import Lake
from rucio_fs.operations import Operations
from rucio_fs.xattrs import OperationsWithXattrs
from tests.fuse.buggy_server import PLACES
from tests.mounting import Mount

_FILE = "sky/night-001/exp0001_g.fits"
_DIR = "sky/night-001"

# Place of the bug -> what a user does to meet it; P(...) is a path below the mountpoint.
OPERATIONS: dict[str, str] = {
    "RootDir.attr": "os.stat(ROOT)",
    "RootDir.child": "os.stat(P('lab'))",
    "RootDir.children": "os.listdir(ROOT)",
    "RootDir.set_xattr": "os.setxattr(ROOT, 'user.rucio.refresh', b'1')",
    "ScopeDir.attr": "os.fstat(os.open(P('sky'), os.O_RDONLY))",
    "ScopeDir.child": "os.stat(P('sky/night-002'))",
    "ScopeDir.children": "os.listdir(P('sky'))",
    "ScopeDir.xattr": "os.getxattr(P('sky'), 'user.rucio.scope')",
    "ScopeDir.xattr_names": "os.listxattr(P('sky'))",
    "ScopeDir.set_xattr": "os.setxattr(P('sky'), 'user.rucio.refresh', b'1')",
    "CollectionDir.attr": f"os.fstat(os.open(P('{_DIR}'), os.O_RDONLY))",
    "CollectionDir.child": f"os.stat(P('{_FILE}'))",
    "CollectionDir.children": f"os.listdir(P('{_DIR}'))",
    "CollectionDir.xattr": f"os.getxattr(P('{_DIR}'), 'user.rucio.did')",
    "CollectionDir.xattr_names": f"os.listxattr(P('{_DIR}'))",
    "CollectionDir.set_xattr": f"os.setxattr(P('{_DIR}'), 'user.rucio.refresh', b'1')",
    "entries": "os.listdir(P('sky/night-002'))",
    "DIDFile.attr": f"os.fstat(os.open(P('{_FILE}'), os.O_RDONLY))",
    "DIDFile.open": f"os.open(P('{_FILE}'), os.O_RDONLY)",
    "DIDFile.xattr": f"os.getxattr(P('{_FILE}'), 'user.rucio.did')",
    "DIDFile.xattr_names": f"os.listxattr(P('{_FILE}'))",
    "DIDFile.set_xattr": f"os.setxattr(P('{_FILE}'), 'user.rucio.refresh', b'1')",
    "OpenDIDFile.read": f"open(P('{_FILE}'), 'rb').read()",
    "Node.truncate": f"os.truncate(P('{_FILE}'), 0)",
    "TextFile.open": "open(P('README.txt')).read()",
    "StatusFile.open": "open(P('.rucio/status')).read()",
    "StatusFile.attr": "os.stat(P('.rucio/status'))",
    "RefreshFile.open": "open(P('.rucio/refresh'), 'ab')",
    "RefreshFile.truncate": "os.truncate(P('.rucio/refresh'), 0)",
    "OpenRefresh.write": "os.write(os.open(P('.rucio/refresh'), os.O_WRONLY), b'1')",
    "OpenText.read": "open(P('.rucio/status')).read()",
    "ControlDir.attr": "os.listdir(ROOT)",
    "ControlDir.child": "os.stat(P('.rucio/nothing'))",
    "ControlDir.children": "os.listdir(P('.rucio'))",
    "statfs": "os.statvfs(ROOT)",
    "inodes.ref": "os.stat(P('lab/damaged'))",
    "handles.file": f"os.fsync(os.open(P('{_FILE}'), os.O_RDONLY))",
    "rows.members": "os.listdir(P('user.bob/shared'))",
}
# What these give without a bug; the others succeed.
HEALTHY = {"Node.truncate": {"errno": "EROFS"}, "ControlDir.child": {"errno": "ENOENT"}}
# What a read-only tree refuses, each by a handler of its own.
REFUSALS: dict[str, str] = {
    "create": "os.open(P('sky/new'), os.O_CREAT | os.O_WRONLY)",
    "mknod": "os.mknod(P('sky/new'))",
    "mkdir": "os.mkdir(P('sky/new'))",
    "unlink": f"os.unlink(P('{_FILE}'))",
    "rmdir": "os.rmdir(P('sky/night-002'))",
    "rename": "os.rename(P('sky/night-002'), P('sky/new'))",
    "symlink": "os.symlink('x', P('sky/new'))",
    "link": f"os.link(P('{_FILE}'), P('sky/new'))",
}


@dataclass
class Patient:
    """A mount, and the switch for its bugs."""

    mount: Mount
    switch: Path

    def meet(self, place: str, code: str) -> object:
        """Do *code* while the bug at *place* is there: what became of it, e.g. {"errno": "EIO"}."""
        self.switch.write_text(place)
        try:
            return self.mount.python(
                f"P = lambda path: os.path.join(ROOT, path)\n{code}\nshow('done')"
            )
        finally:
            self.switch.write_text("")

    def check_health(self, log: str, place: str) -> None:
        """The log since *log* tells of the bug, and the mount is as it was."""
        new = self.mount.log_text()[len(log) :]
        assert f"RuntimeError: injected into {place}" in new
        assert "Traceback (most recent call last)" in new
        assert " ERROR " in new
        assert self.mount.ls("lab", "run-0007") == ["run-0007.json", "run-0007.root"]
        assert self.mount.process.poll() is None


@pytest.fixture(scope="module")
def patient(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    switch = tmp_path_factory.mktemp("bugs") / "switch"
    switch.write_text("")
    ttls = ("scopes", "open", "closed", "file", "missing", "replicas", "now")
    mount = Mount(
        lake.client_config(),
        # Nothing is remembered, so each operation comes to its handler each time.
        {"site": "HERE", "rse": "COLO"} | {f"cache.{name}_ttl": 0 for name in ttls},
        environment={
            "INJECTED_BUG": str(switch),
            "PYTHONPATH": str(Path(__file__).parent.parent.parent),
        },
        module="tests.fuse.buggy_server",
    )
    try:
        yield Patient(mount, switch)
    finally:
        code = mount.close()
        mount.remove()
    assert code == 0


@pytest.mark.fuse
@pytest.mark.lake
@pytest.mark.parametrize("place", OPERATIONS)
def test_a_bug_is_eio_and_a_traceback(patient: Patient, place: str) -> None:
    log = patient.mount.log_text()
    assert patient.meet(place, OPERATIONS[place]) == {"errno": "EIO"}
    patient.check_health(log, place)
    assert patient.meet("", OPERATIONS[place]) == HEALTHY.get(place, "done")


@pytest.mark.fuse
@pytest.mark.lake
@pytest.mark.parametrize("operation", REFUSALS)
@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel refuses others before it asks the mount")
def test_a_bug_in_a_refusal_is_eio_and_a_traceback(patient: Patient, operation: str) -> None:
    log = patient.mount.log_text()
    assert patient.meet("refusal", REFUSALS[operation]) == {"errno": "EIO"}
    assert f"bug in {operation}" in patient.mount.log_text()[len(log) :]
    patient.check_health(log, "refusal")
    assert patient.meet("", REFUSALS[operation]) == {"errno": "EROFS"}


@pytest.mark.fuse
@pytest.mark.lake
@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("OpenDIDFile.close", f"open(P('{_FILE}'), 'rb').read()"),
        ("handles.pop_dir", f"os.listdir(P('{_DIR}'))"),
    ],
)
def test_a_bug_in_a_release_is_not_the_users(patient: Patient, place: str, code: str) -> None:
    log = patient.mount.log_text()
    # The kernel does not wait for a release, so the switch stays until the bug has struck.
    patient.switch.write_text(place)
    assert patient.mount.python(
        f"P = lambda path: os.path.join(ROOT, path)\n{code}\nshow('done')"
    ) == ("done")
    patient.mount.wait_for_log(f"injected into {place}", since=len(log))
    patient.switch.write_text("")
    patient.check_health(log, place)


def test_every_place_is_tried() -> None:
    tried = {*OPERATIONS, "refusal", "OpenDIDFile.close", "handles.pop_dir"}
    assert tried == set(PLACES)


@pytest.mark.parametrize("operations", [Operations, OperationsWithXattrs])
def test_every_handler_is_guarded(operations: type[Operations]) -> None:
    ours = {
        name: getattr(operations, name)
        for name in vars(pyfuse3.Operations)
        if getattr(operations, name) is not getattr(pyfuse3.Operations, name)
        and callable(getattr(operations, name))
        and not name.startswith("__")
    }
    bare = {name for name, method in ours.items() if not hasattr(method, "__wrapped__")}
    # These call nothing that can fail.
    assert bare <= {"init", "forget", "getxattr"}
    assert {"lookup", "readdir", "read", "readlink", "releasedir", "write"} <= set(ours)
