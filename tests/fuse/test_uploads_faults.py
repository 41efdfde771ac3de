"""Uploads while storage, Rucio, tokens or the staging disk fail: nothing is lost, all is told.

A proxy stands before whoever fails; what it is told to do, a real server or network does as well.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lake import Lake
from lake import tls as lake_tls
from lake.faults import (
    Action,
    Fault,
    FaultProxy,
    Refuse,
    ReplaceHeader,
    Reset,
    Status,
    Timeout,
    Tls,
)
from tests.conftest import Mounter
from tests.faulty import SHORT, through
from tests.fuse.changing import Changer
from tests.fuse.clients import eventually
from tests.fuse.saving import Saving, Storage, storage
from tests.lake.rules import RuleLab
from tests.lake.tokens import token_of
from tests.mounting import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

SaverMaker = Callable[..., Saving]
NEAR = "COLO_SCRATCHDISK"
TEMPORARY = r"\.rucio-fs-"  # in the path of what has not yet got its final name

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")


@pytest.fixture(scope="module")
def far(lake: Lake, lab: RuleLab) -> Iterator[Storage]:
    """An XRootD that things happen to."""
    far = storage(lake, lab, "colo")
    yield far
    far.proxy.close()


@pytest.fixture
def rucio(lake: Lake) -> Iterator[FaultProxy]:
    """The Rucio of the mounts of a test."""
    with FaultProxy(lake.rucio_url) as proxy:
        yield proxy


@pytest.fixture
def saver(
    lake: Lake,
    mounter: Mounter,
    rest: Changer,
    lab: RuleLab,
    far: Storage,
    rucio: FaultProxy,
    tmp_path: Path,
) -> Iterator[SaverMaker]:
    """Makes mounts whose scratch is uploaded to *far* at once."""

    def make(**options: object) -> Saving:
        options = {
            "scratch__dir": tmp_path / "scratch",
            "scratch__rse": far.rse,
            "scratch__delay": "0.1s",
            "scratch__timeout": "5s",
            **{key.replace(".", "__"): value for key, value in {**SHORT, **through(rucio)}.items()},
            **options,
        }
        mount = mounter(expect_warnings=True, **options)
        return Saving(mount, lake, lab.scope(), rest, {far.rse: far.tree})

    yield make
    far.proxy.clear()
    far.proxy.clear_requests()
    rucio.clear()


def finished(site: Saving, name: str, data: bytes, *, rse: str, dataset: str | None = None) -> None:
    """Everything is as if nothing had happened."""
    site.done()
    site.check(name, data, rse=rse, dataset=dataset)
    assert site.xattr("upload", name) == "DONE"
    assert site.xattr("error", name) is None
    assert site.uploads()["waits_for"] == {}
    rules = site.rules(dataset or name)
    assert [rule["rse_expression"] for rule in rules] == [rse]
    # What was given up is deleted beside the uploads.
    assert eventually(site.litter, lambda found: not found, 10) == []
    assert "Traceback" not in site.mount.log_text()


# --- the storage ---------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A disk of *size* bytes at *path*, whose owner keeps it."""
    owner = path.stat()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path)]
    subprocess.run(command, check=True, timeout=30)
    os.chown(path, owner.st_uid, owner.st_gid)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)


@needs_root
def test_a_full_storage_is_waited_for(
    saver: SaverMaker, lake: Lake, lab: RuleLab, far: Storage
) -> None:
    """Apache says so; what goes elsewhere goes on."""
    full = storage(lake, lab, "apache")
    with closing(full.proxy), small_disk(full.tree, 1 << 20):
        ballast = full.tree / "ballast"
        ballast.write_bytes(bytes(900_000))
        site = saver(scratch__rse=full.rse)
        site = Saving(site.mount, lake, site.scope, site.rest, {full.rse: full.tree})
        site.sh("head -c 500000 /dev/zero > large")
        site.waits_for(full.rse, "507")
        assert "make room there" in str(site.xattr("error", "large"))
        assert "make room there" in site.problems("large")[0]
        assert site.xattr("upload", "large") == "UPLOADING 0%"
        site.sh(f"mkdir run; setfattr -n user.rucio.rse -v {NEAR} run; echo here > run/small")
        eventually(lambda: site.xattr("upload", "run/small"), lambda state: state == "DONE")
        ballast.unlink()
        site.order("retry")
        finished(site, "large", bytes(500_000), rse=full.rse)


def test_a_storage_that_forbids_it_is_waited_for(saver: SaverMaker, far: Storage) -> None:
    """Rights are given back without anybody touching the file."""
    far.proxy.add(Fault(Status(403), method="PUT"))
    site = saver()
    site.sh("echo text > hits")
    site.waits_for(far.rse, "these credentials may not do that there")
    assert "403" in str(site.listed("hits")["error"])
    assert "403" in site.problems("hits")[0]
    far.proxy.clear()
    finished(site, "hits", b"text\n", rse=far.rse)


def test_a_storage_that_cannot_do_it_is_told_and_tried_again_on_request(
    saver: SaverMaker, far: Storage
) -> None:
    far.proxy.add(Fault(Status(405), method="PUT"))
    site = saver()
    site.sh("echo text > hits")
    site.failed("hits", "405")
    site.sh("echo more >> hits")  # it is nobody's but the user's
    site.failed("hits", "405")
    far.proxy.clear()
    site.order("retry")
    finished(site, "hits", b"text\nmore\n", rse=far.rse)


class Cutter:
    """A network before *upstream* that breaks one connection, after *count* bytes in all."""

    def __init__(self, upstream: str, count: int) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._left = count
        self.has_cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._upstream) as server, suppress(OSError):
            answers = threading.Thread(target=_copy, args=[server, client], daemon=True)
            answers.start()
            while data := client.recv(1 << 16):
                server.sendall(data)
                self._left -= len(data)
                if self._left <= 0 and not self.has_cut.is_set():
                    self.has_cut.set()
                    server.shutdown(socket.SHUT_RDWR)
                    client.shutdown(socket.SHUT_RDWR)
                    break
            else:
                server.shutdown(socket.SHUT_WR)
            answers.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which ends the accept
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("server", ["colo", "nginx", "apache"])
def test_a_connection_that_breaks_in_the_middle_of_a_file(
    saver: SaverMaker, lake: Lake, lab: RuleLab, server: str
) -> None:
    """What has arrived is no part of anything; the file is sent again."""
    cutter = Cutter(lake.webdav(server, tls=False)[0], 2 << 20)
    far = storage(lake, lab, server, upstream=cutter.url)
    with closing(cutter), closing(far.proxy):
        site = saver(scratch__rse=far.rse)
        site = Saving(site.mount, lake, site.scope, site.rest, {far.rse: far.tree})
        site.sh("head -c 5000000 /dev/zero > large")
        site.done()
        assert cutter.has_cut.is_set()
        puts = [one for one in far.proxy.requests if one.method == "PUT"]
        assert len(puts) >= 2
        finished(site, "large", bytes(5_000_000), rse=far.rse)


@pytest.mark.parametrize("action", [Reset(), Reset(0)], ids=["not-done", "done"])
def test_a_rename_that_is_not_answered(saver: SaverMaker, far: Storage, action: Action) -> None:
    """Whether it was done or not: the file is there once, under its name."""
    lost = far.proxy.add(Fault(action, method="MOVE", times=1))
    site = saver()
    site.sh("echo text > hits")
    lost.wait()
    finished(site, "hits", b"text\n", rse=far.rse)
    assert sum(one.method == "PUT" for one in far.proxy.requests) == 1


def test_bytes_that_change_on_their_way_are_sent_again(saver: SaverMaker, far: Storage) -> None:
    """Between the last byte and the question for its checksum."""
    asked = far.proxy.add(Fault(Timeout(), method="HEAD", path=TEMPORARY))
    site = saver()
    site.sh("mkdir run; echo text > run/hits")
    asked.wait()
    (path,) = far.tree.rglob("*.rucio-fs-*")
    path.write_bytes(b"tExt\n")
    asked.remove()
    site.mount.wait_for_log("arrived damaged")
    finished(site, "run/hits", b"text\n", rse=far.rse, dataset="run")
    assert any("it is sent again" in words for words in site.problems("run/hits"))


def test_a_storage_that_damages_everything_is_told(saver: SaverMaker, far: Storage) -> None:
    wrong = ReplaceHeader("Digest", "adler32=0badbad0")
    far.proxy.add(Fault(wrong, method="HEAD", path=TEMPORARY))
    site = saver()
    site.sh("echo text > hits")
    site.failed("hits", "adler32 0badbad0 instead of")
    assert site.known("hits") is None
    far.proxy.clear()
    site.order("retry hits")
    site.order(f"retry {site.scope}/hits")
    finished(site, "hits", b"text\n", rse=far.rse)


def test_a_storage_that_is_killed_and_comes_back(saver: SaverMaker, far: Storage) -> None:
    """Its files wait; those for another storage do not."""
    site = saver()
    site.sh("echo text > before")
    site.done()
    gone = far.proxy.add(Fault(Refuse()))
    site.sh(f"echo text > hits; mkdir run; setfattr -n user.rucio.rse -v {NEAR} run")
    site.sh("echo here > run/small")
    site.waits_for(far.rse, "Connection refused")
    eventually(lambda: site.xattr("upload", "run/small"), lambda state: state == "DONE")
    gone.remove()
    site.order("retry")
    finished(site, "hits", b"text\n", rse=far.rse)


# --- Rucio ---------------------------------------------------------------------------------------


def says(status: int, name: str) -> Status:
    """An error in Rucio's form."""
    headers = {"Content-Type": "application/json", "ExceptionClass": name}
    body = f'{{"ExceptionClass": "{name}", "ExceptionMessage": "injected"}}'
    return Status(status, body.encode(), headers)


REGISTRATION, ATTACHMENT = r"^/replicas/?$", "^/dids/attachments"


def test_a_registration_that_fails_once_is_made_again(
    saver: SaverMaker, far: Storage, rucio: FaultProxy
) -> None:
    failing = rucio.add(Fault(Status(500), "POST", REGISTRATION, times=3))
    site = saver()
    site.sh("mkdir run; echo text > run/hits")
    failing.wait()
    finished(site, "run/hits", b"text\n", rse=far.rse, dataset="run")
    assert sum(one.method == "PUT" for one in far.proxy.requests) == 1


def test_registrations_that_fail_for_long_are_waited_for(
    saver: SaverMaker, far: Storage, rucio: FaultProxy
) -> None:
    failing = rucio.add(Fault(says(500, "DatabaseException"), "POST", REGISTRATION))
    site = saver()
    site.sh("mkdir run; echo text > run/hits")
    site.waits_for("Rucio", "registration of")
    assert site.xattr("upload", "run/hits") == "REGISTERING"
    failing.remove()
    site.order("retry")
    finished(site, "run/hits", b"text\n", rse=far.rse, dataset="run")


def test_an_attachment_that_is_refused_is_told(
    saver: SaverMaker, far: Storage, rucio: FaultProxy
) -> None:
    """The file is in the lake already, and keeps its name."""
    refusing = rucio.add(Fault(says(401, "AccessDenied"), "POST", ATTACHMENT))
    site = saver()
    site.sh("mkdir run; echo text > run/hits")
    site.failed("run/hits", f"may not add members to {site.scope}:run")
    assert site.known("run/hits") is not None
    refusing.remove()
    site.order("retry")
    finished(site, "run/hits", b"text\n", rse=far.rse, dataset="run")


def test_files_are_saved_while_rucio_is_away(
    saver: SaverMaker, far: Storage, rucio: FaultProxy
) -> None:
    site = saver()
    site.sh("true")  # the scope is known
    gone = rucio.add(Fault(Refuse()))
    site.sh("mkdir run; echo text > run/hits; mv run/hits run/best")
    site.waits_for("Rucio", "refuses the connection")
    assert site.xattr("upload", "run/best") == "STAGED"
    assert site.sh("cat run/best") == "text\n"
    gone.remove()
    site.order("retry")
    finished(site, "run/best", b"text\n", rse=far.rse, dataset="run")


def test_what_rucio_did_without_being_heard_is_not_done_twice(
    saver: SaverMaker, far: Storage, rucio: FaultProxy
) -> None:
    """The answer to the first request of each kind is lost."""
    kinds = {
        "replica": REGISTRATION,
        "dataset": "^/dids/?$",
        "attachment": ATTACHMENT,
        "rule": "^/rules/?$",
        "metadata": "/meta",
    }
    lost = {kind: rucio.add(Fault(Reset(0), "POST", path, times=1)) for kind, path in kinds.items()}
    site = saver()
    site.sh("mkdir run; echo text > run/hits; echo '{\"run\": 7}' > run/hits.meta")
    site.done()
    assert {kind: one.hits for kind, one in lost.items()} == dict.fromkeys(kinds, 1)
    finished(site, "run/hits", b"text\n", rse=far.rse, dataset="run")
    assert site.members("run") == ["run/hits"]
    assert [row["name"] for row in site.all_known()] == ["run/hits"]


def test_a_rule_made_without_being_heard_is_the_only_one(
    saver: SaverMaker, far: Storage, rucio: FaultProxy
) -> None:
    """Of a file in no dataset."""
    lost = rucio.add(Fault(Reset(0), "POST", "^/rules/?$", times=1))
    site = saver()
    site.sh("echo text > hits; echo more > more")
    lost.wait()
    finished(site, "hits", b"text\n", rse=far.rse)
    finished(site, "more", b"more\n", rse=far.rse)
    for name in ("hits", "more"):
        assert site.xattr("rule_id", name) == site.rules(name)[0]["id"]


# --- the token -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Lake, RuleLab, Storage]]:
    """A lake with a storage that takes files from bearers of its tokens only."""
    lake = Lake.up(free_ports=True, oidc=True, daemons=False, samples=False)
    try:
        certificates = lake_tls.Tls(lake.directory / "tls")
        tls = Tls(certificates.host_certificate, certificates.host_key)
        lab = RuleLab(lake)
        guarded = storage(lake, lab, "tokens", tls=tls)
        with closing(guarded.proxy), closing(lab):
            yield lake, lab, guarded
    finally:
        lake.down()


def writer_token(lake: Lake, **more: str) -> str:
    audience = f"https://localhost:{lake.ports['tokens']}"
    return token_of(lake, scope="storage.read:/ storage.modify:/", aud=audience, **more)


def _end_of(token: str) -> float:
    """When a token expires, in s since the epoch."""
    payload = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])


def test_a_token_that_expires_in_the_middle_is_waited_for(
    guarded: tuple[Lake, RuleLab, Storage], tmp_path: Path
) -> None:
    """The bytes are there, the name is not."""
    lake, lab, far = guarded
    token_file = tmp_path / "token"
    expired, good = writer_token(lake, ttl="1"), writer_token(lake)
    token_file.write_text(good)
    options = {
        "scratch.dir": tmp_path / "scratch",
        "scratch.rse": far.rse,
        "scratch.delay": "0.1s",
        "storages.ca": lake.ca_file,
        "token_file": token_file,
    }
    mount = Mount(lake.client_config(), options)
    try:
        site = Saving(mount, lake, lab.scope(), lab, {far.rse: far.tree})
        held = far.proxy.add(Fault(Timeout(), method="HEAD", path=TEMPORARY))
        site.sh("mkdir run; echo text > run/hits")
        held.wait()
        while time.time() < _end_of(expired) + 1:
            time.sleep(0.05)  # a clock sends no event
        token_file.write_text(expired)
        held.remove()
        words = site.waits_for(far.rse, "or are expired")
        assert site.xattr("error", "run/hits") == words
        assert site.problems("run/hits") == [words]
        assert site.known("run/hits") is None
        token_file.write_text(good)
        site.order("retry")
        finished(site, "run/hits", b"text\n", rse=far.rse, dataset="run")
    finally:
        code = mount.close()
        log = mount.log_text()
        mount.remove()
    assert code == 0, log
    assert "eyJ" not in log, "a token is in the log"


# --- the staging disk ----------------------------------------------------------------------------


@needs_root
def test_a_full_staging_disk_goes_to_the_lake(
    saver: SaverMaker, far: Storage, rucio: FaultProxy, tmp_path: Path
) -> None:
    """The writer is told, what was closed is uploaded, and what is cut is not."""
    (tmp_path / "scratch").mkdir()
    with small_disk(tmp_path / "scratch", 4 << 20):
        try:
            site = saver()
            site.sh("true")  # the scope is known
            gone = rucio.add(Fault(Refuse()))
            site.sh("mkdir run; head -c 1000000 /dev/zero > run/safe")
            seen = site.mount.run("dd", "if=/dev/zero", f"of={site.path('run/huge')}", "bs=64k")
            assert seen.returncode != 0
            assert "No space left on device" in seen.stderr
            gone.remove()
            site.order("retry")
            eventually(lambda: site.xattr("upload", "run/safe"), lambda seen: seen == "DONE")
            assert "not written to its end" in str(site.xattr("error", "run/huge"))
            site.sh("head -c 1000 /dev/zero > run/huge; echo small > run/small")
            site.done()
            finished(site, "run/safe", bytes(1_000_000), rse=far.rse, dataset="run")
            finished(site, "run/huge", bytes(1000), rse=far.rse, dataset="run")
            finished(site, "run/small", b"small\n", rse=far.rse, dataset="run")
            assert site.members("run") == ["run/huge", "run/safe", "run/small"]
        finally:
            site.mount.close()


# --- the clock -----------------------------------------------------------------------------------

_CLOCK = """
import os, time
_time, _time_ns = time.time, time.time_ns
def _ahead():
    try:
        with open(os.environ["TEST_CLOCK"]) as file:
            return int(file.read() or "0")
    except OSError:
        return 0
time.time = lambda: _time() + _ahead()
time.time_ns = lambda: _time_ns() + _ahead() * 10**9
"""


def test_a_clock_that_jumps_changes_nothing(
    lake: Lake, rest: Changer, lab: RuleLab, far: Storage, tmp_path: Path
) -> None:
    """A day ahead while a file is on its way, and back before the next."""
    (tmp_path / "sitecustomize.py").write_text(_CLOCK)
    clock = tmp_path / "clock"
    options = {
        "scratch.dir": tmp_path / "scratch",
        "scratch.rse": far.rse,
        "scratch.delay": "0.5s",
        "storages.ca": lake.ca_file,
    }
    environment = {"PYTHONPATH": str(tmp_path), "TEST_CLOCK": str(clock)}
    mount = Mount(lake.client_config(), options, environment=environment)
    try:
        site = Saving(mount, lake, lab.scope(), rest, {far.rse: far.tree})
        held = far.proxy.add(Fault(Timeout(), method="PUT"))
        site.sh("echo one > one")
        held.wait()
        clock.write_text("86400")
        shown = site.listed("one")
        assert shown["seconds"] >= 86_000, "the clock of the mount does not jump"
        held.remove()
        finished(site, "one", b"one\n", rse=far.rse)
        site.sh("mkdir run; echo two > run/two")
        clock.write_text("-86400")
        finished(site, "run/two", b"two\n", rse=far.rse, dataset="run")
    finally:
        far.proxy.clear()
        code = mount.close()
        log = mount.log_text()
        mount.remove()
    assert code == 0, log
