"""`rucio-fs cache`: which mount is meant, what is shown, and what becomes of an order."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rucio_fs import cli
from rucio_fs.commands import cache_screen, caching
from rucio_fs.commands.asking import Found
from rucio_fs.commands.deciding import Exit
from rucio_fs.errors import MountError, UsageError
from tests.unit.commands_fakes import TOP, FakeAsker, FakeClock, FakeMount, locate

STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FILE = f"{TOP}/.rucio/cache"
FACTS: dict[str, Any] = {
    "directory": "/var/cache/x", "bytes": 5_000_000, "limit": 10**10, "files": 3, "open": 1,
    "evicted": 2, "refused": 0, "verification": None, "is_clearing": False,
}  # fmt: skip


class Rig:
    """A mount with a cache, and commands on it.  `orders` are what was written."""

    def __init__(self) -> None:
        self.mount = FakeMount()
        self.orders: list[bytes] = []
        self.on_order: Callable[[], None] = lambda: None
        self.mount.on_write = self._take
        self.show()

    def show(self, **facts: Any) -> None:
        known = json.loads(self.mount.files.get(FILE, json.dumps(FACTS).encode()))
        self.mount.files[FILE] = json.dumps(known | facts).encode()

    def verifies(self, done: int, *, files: int = 4, damaged: int = 0, runs: bool = True) -> None:
        self.show(
            verification={
                "files": files, "done": done, "bytes": done * 1_000_000,
                "damaged_bytes": damaged, "is_running": runs,
            }
        )  # fmt: skip

    def errand(self, path: Path | None = Path(f"{TOP}/s"), **more: Any) -> caching.Errand:
        options: dict[str, Any] = {
            "as_json": False,
            "locate": locate,
            "make_asker": lambda _: FakeAsker(self.mount),
            "clock": FakeClock(self.mount),
            "alive": 0.01,
        }
        return caching.Errand(path, **(options | more))

    def _take(self, path: str, data: bytes) -> None:
        assert path == FILE
        self.orders.append(data)
        self.on_order()


@pytest.fixture
def rig() -> Rig:
    return Rig()


Output = pytest.CaptureFixture[str]


# --- which mount ---------------------------------------------------------------------------------


def test_the_mount_of_a_path(rig: Rig, capsys: Output) -> None:
    assert rig.errand(Path(f"{TOP}/s/d")).status() == 0
    assert capsys.readouterr().out.startswith(f"{TOP}\n")
    with pytest.raises(UsageError, match=r"^/etc: not inside a rucio-fs mount$"):
        rig.errand(Path("/etc")).status()


def test_the_only_mount(rig: Rig, capsys: Output) -> None:
    asked: list[FakeAsker] = []

    def make_asker(mountpoint: str) -> FakeAsker:
        assert mountpoint == TOP
        asked.append(FakeAsker(rig.mount))
        return asked[-1]

    only: dict[str, Any] = {"mountpoints": lambda: [TOP], "make_asker": make_asker}
    assert rig.errand(None, **only).status() == 0
    assert len(asked) == 1
    assert asked[0].is_closed


def test_the_only_mount_that_is_not_another_user_s(rig: Rig, capsys: Output) -> None:
    private = FakeMount()
    private.is_private = True
    askers = {"/private": FakeAsker(private), TOP: FakeAsker(rig.mount)}
    make: dict[str, Any] = {"make_asker": askers.__getitem__, "mountpoints": lambda: list(askers)}
    assert rig.errand(None, **make).status() == 0
    assert capsys.readouterr().out.startswith(f"{TOP}\n")
    assert all(asker.is_closed for asker in askers.values())


@pytest.mark.parametrize(
    ("mountpoints", "words"),
    [
        ([], "no rucio-fs mount on this machine is yours"),
        (["/a", "/hangs"], "there are several mounts; name one: /a, /hangs"),
    ],
)
def test_none_or_several_mounts(rig: Rig, mountpoints: Sequence[str], words: str) -> None:
    hanging = FakeMount()
    hanging.hangs = True  # it may be ours
    askers = {"/a": FakeAsker(rig.mount), "/hangs": FakeAsker(hanging)}
    with pytest.raises(UsageError, match=f"^{words}$"):
        rig.errand(None, mountpoints=lambda: mountpoints, make_asker=askers.__getitem__).status()


# --- mounts that cannot answer -------------------------------------------------------------------

ORDERS = ["status", "clear", "verify"]


@pytest.mark.parametrize("command", ORDERS)
def test_a_mount_that_hangs_died_or_has_no_cache(rig: Rig, command: str) -> None:
    def message() -> str:
        with pytest.raises(MountError) as caught:
            getattr(rig.errand(), command)()
        return str(caught.value)

    rig.mount.hangs = True
    assert message() == (
        f"{TOP}: the server of this mount does not answer; run: rucio-fs umount {TOP}"
    )
    rig.mount.hangs = False
    rig.mount.is_dead = True
    assert message() == f"{TOP}: the server of this mount has died; run: rucio-fs umount {TOP}"
    rig.mount.is_dead = False
    del rig.mount.files[FILE]
    assert message().startswith(f"{TOP}: this mount has no cache on disk: ")
    rig.mount.files[FILE] = b"{"
    assert message() == f"{TOP}: {FILE} is not JSON"


@pytest.mark.parametrize("command", ORDERS[1:])
def test_an_order_that_the_mount_does_not_know(rig: Rig, command: str) -> None:
    def refuse() -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    rig.on_order = refuse
    with pytest.raises(MountError, match=r"knows no such order$"):
        getattr(rig.errand(), command)()


# --- status --------------------------------------------------------------------------------------


def shown(**facts: Any) -> list[str]:
    out = io.StringIO()
    cache_screen.show(TOP, FACTS | facts, Console(file=out, width=200, highlight=False))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_one_screen_about_a_cache() -> None:
    assert shown() == [
        TOP,
        "  directory /var/cache/x",
        "  used      5.0 MB of 10.0 GB",
        "  files     3, 1 of them open",
        "  evicted   2 files since the mount began",
        "  verified  not since the mount began",
    ]
    found = {"files": 9, "done": 9, "bytes": 10**9, "damaged_bytes": 0, "is_running": False}
    assert shown(verification=found)[-1] == "  verified  9 files, 1.0 GB, no damage"
    running = found | {"done": 1, "damaged_bytes": 5000, "is_running": True}
    lines = shown(verification=running, refused=1, is_clearing=True)
    assert lines[2] == "  used      5.0 MB of 10.0 GB, being cleared"
    assert lines[-2] == "  refused   1 write, for want of room"
    assert lines[-1] == "  verified  1 of 9 files, 1.0 GB, 5.0 kB damaged so far"


def test_status_as_json(rig: Rig, capsys: Output) -> None:
    assert rig.errand(as_json=True).status() == 0
    assert json.loads(capsys.readouterr().out) == {"mountpoint": TOP} | FACTS


# --- clear ---------------------------------------------------------------------------------------


def test_clear_waits_until_it_is_done_and_says_what_was_freed(rig: Rig, capsys: Output) -> None:
    rig.on_order = lambda: rig.show(is_clearing=True, bytes=4_000_000)
    rig.mount.at(3.0, lambda: rig.show(is_clearing=False, bytes=0, files=0, open=0))
    assert rig.errand().clear() == 0
    assert rig.orders == [b"clear\n"]
    assert rig.mount.time == 3.0
    assert capsys.readouterr() == ("5.0 MB freed\n", "")


def test_clear_tells_of_open_files(rig: Rig, capsys: Output) -> None:
    rig.on_order = lambda: rig.show(bytes=1000, files=1)
    assert rig.errand().clear() == 0
    assert capsys.readouterr().out == "5.0 MB freed; 1 file still open\n"
    rig.on_order = lambda: rig.show(bytes=900)
    assert rig.errand(as_json=True).clear() == 0
    assert json.loads(capsys.readouterr().out) == {
        "mountpoint": TOP, "exit": 0, "error": None, "freed": 100, "bytes": 900, "open": 1,
    }  # fmt: skip


def test_what_cannot_be_cleared(rig: Rig, capsys: Output) -> None:
    assert rig.errand().clear() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"rucio-fs: error: {TOP}: 2 files could not be removed; the mount's log says why\n"
    )


class _Slow(FakeAsker):
    """Answers an order after two looks."""

    def __init__(self, mount: FakeMount) -> None:
        super().__init__(mount)
        self.looks = 0
        self._late: list[Future[Found]] = []

    def ask(self, operation: str, path: str, **arguments: object) -> Future[Found]:
        if operation == "order":
            self._late.append(Future())
            return self._late[0]
        self.looks += 1
        if self.looks == 3:
            self._late[0].set_result({})
        return super().ask(operation, path, **arguments)


class _Waiting(FakeClock):
    def wait(self, futures: Iterable[Future[Found]], seconds: float) -> set[Future[Found]]:
        assert seconds < 1
        return set()


def test_an_order_may_take_long_while_the_mount_lives(rig: Rig, capsys: Output) -> None:
    slow = _Slow(rig.mount)
    errand = rig.errand(make_asker=lambda _: slow, clock=_Waiting(rig.mount))
    assert errand.clear() == 1  # nothing was cleared
    assert slow.looks == 4


# --- verify --------------------------------------------------------------------------------------


def test_verify_waits_and_tells_how_far_it_is(rig: Rig, capsys: Output) -> None:
    rig.verifies(9, files=9, runs=False, damaged=7)  # an earlier one
    rig.on_order = lambda: rig.verifies(0)
    rig.mount.at(5.0, lambda: rig.verifies(1))
    rig.mount.at(11.0, lambda: rig.verifies(2))
    rig.mount.at(12.0, lambda: rig.verifies(4, runs=False))
    assert rig.errand().verify() == Exit.DONE
    assert rig.orders == [b"verify\n"]
    assert rig.mount.time == 12.0
    assert capsys.readouterr() == (
        "verifying: 0 of 4 files, 0 B\n"
        "verifying: 1 of 4 files, 1.0 MB\n"
        "nothing is damaged: 4 files, 4.0 MB\n",
        "",
    )


DAMAGED = "5.0 kB were damaged and dropped; they are fetched again when read"


def test_damage_is_told(rig: Rig, capsys: Output) -> None:
    rig.on_order = lambda: rig.verifies(4, damaged=5000, runs=False)
    assert rig.errand().verify() == Exit.PARTLY
    assert capsys.readouterr() == ("", f"rucio-fs: error: {TOP}: {DAMAGED}\n")
    assert rig.errand(as_json=True).verify() == Exit.PARTLY
    assert json.loads(capsys.readouterr().out) == {
        "mountpoint": TOP, "exit": 3, "error": DAMAGED, "files": 4, "done": 4, "bytes": 4_000_000,
        "damaged_bytes": 5000, "is_running": False,
    }  # fmt: skip


def test_a_verification_that_broke_off(rig: Rig, capsys: Output) -> None:
    rig.on_order = lambda: rig.verifies(3, runs=False)
    assert rig.errand().verify() == Exit.FAILED
    assert "did not get to its end" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupted_verification_goes_on(rig: Rig, capsys: Output, as_json: bool) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    rig.on_order = lambda: rig.verifies(1)
    rig.mount.at(1.0, interrupt)
    assert rig.errand(as_json=as_json).verify() == Exit.INTERRUPTED
    out, err = capsys.readouterr()
    assert "interrupted; the verification goes on in the mount; to see how far" in err
    if as_json:
        assert (json.loads(out)["exit"], json.loads(out)["done"]) == (130, 1)


def test_the_mount_ends_meanwhile(rig: Rig) -> None:
    def die() -> None:
        rig.mount.is_dead = True

    rig.on_order = lambda: rig.verifies(1)
    rig.mount.at(1.0, die)
    with pytest.raises(MountError, match="has died"):
        rig.errand().verify()


def test_on_a_terminal_there_is_a_bar(
    rig: Rig, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    rig.on_order = lambda: rig.verifies(1)
    rig.mount.at(1.0, lambda: rig.verifies(4, runs=False))
    assert rig.errand().verify() == Exit.DONE
    out = STEERING.sub("", capsys.readouterr().out)
    assert "━━━━━━━━━━━━━━━━━━━━ 4 of 4 files, 4.0 MB 0:00:00" in out
    assert "verifying: " not in out


def test_a_document_has_no_bar(rig: Rig, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    rig.on_order = lambda: rig.verifies(4, runs=False)
    assert rig.errand(as_json=True).verify() == Exit.DONE
    assert json.loads(capsys.readouterr().out)["done"] == 4


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ORDERS)
def test_a_path_elsewhere_is_a_wrong_call(command: str, tmp_path: Path, capsys: Output) -> None:
    assert cli.main(["cache", command, os.fspath(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"rucio-fs: error: {tmp_path}: not inside a rucio-fs mount\n"
    )


def test_cache_alone_says_what_there_is(capsys: Output) -> None:
    assert cli.main(["cache"]) == 2
    assert "verify" in capsys.readouterr().err
    assert cli.main(["cache", "verify", "--help"]) == 0
    assert "3 some bytes were damaged" in " ".join(capsys.readouterr().out.split())
