"""`rucio-fs uploads`: which uploads are meant, what is shown, when a wait ends; and `umount`."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rucio_fs import cli, mounts
from rucio_fs.commands import places, status, uploading, uploads_asking, uploads_screen
from rucio_fs.commands.asking import Found
from rucio_fs.commands.deciding import Exit
from rucio_fs.commands.tallying import Course, Tally, summary, together
from rucio_fs.errors import UsageError
from tests.unit.commands_fakes import TOP, FakeAsker, FakeClock, FakeEntry, FakeMount, locate

STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FILE = f"{TOP}/.rucio/uploads"
Output = pytest.CaptureFixture[str]


def upload(path: str | None, state: str = "UPLOADING 40%", **facts: Any) -> dict[str, Any]:
    """One as the mount lists it: 1000 bytes, of which 400 are sent."""
    name = path or "u/gone"
    found = {"path": path, "did": name.replace("/", ":", 1), "state": state}
    found |= {"bytes": 1000, "sent": 400 if state.startswith("UPLOADING") else 0} | facts
    return {key: value for key, value in found.items() if value is not None}


def document(*uploads: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """`.rucio/uploads` with these, unless *facts* say otherwise."""
    failed = sum(one["state"] == "FAILED" for one in uploads)
    return {
        "pending": len(uploads) - failed,
        "failed": failed,
        "done": 0,
        "unsettled": 0,
        "bytes": sum(one["bytes"] for one in uploads),
        "sent": sum(one["sent"] for one in uploads),
        "waits_for": {},
        "uploads": list(uploads),
    } | facts


class Rig:
    """A mount with a scratch, and commands on it.  `orders` are what was written."""

    def __init__(self) -> None:
        self.mount = FakeMount()
        self.orders: list[str] = []
        self.on_order: Callable[[], None] = lambda: None
        self.mount.on_write = self._take
        self.show()

    def show(self, *uploads: dict[str, Any], **facts: Any) -> None:
        self.mount.files[FILE] = json.dumps(document(*uploads, **facts)).encode()

    def at(self, time: float, *uploads: dict[str, Any], **facts: Any) -> None:
        self.mount.at(time, lambda: self.show(*uploads, **facts))

    def file(self, path: str, **attributes: str) -> Path:
        self.mount.entries[f"{TOP}/scratch/{path}"] = FakeEntry("u:f", attributes=attributes)
        return Path(f"{TOP}/scratch/{path}")

    def directory(self, path: str) -> Path:
        self.mount.entries[f"{TOP}/scratch/{path}"] = FakeEntry(None, is_dir=True)
        return Path(f"{TOP}/scratch/{path}")

    def run(
        self,
        *paths: Path | str,
        orders: Sequence[str] = (),
        waits: bool = False,
        timeout: float | None = None,
        **more: Any,
    ) -> int:
        options: dict[str, Any] = {
            "as_json": False,
            "locate": locate,
            "make_asker": lambda _: FakeAsker(self.mount),
            "clock": FakeClock(self.mount),
            "alive": 5.0,
        }
        errand = uploading.Errand([Path(path) for path in paths or [TOP]], **(options | more))
        return errand.run(orders, waits=waits, timeout=timeout)

    def _take(self, path: str, data: bytes) -> None:
        assert path == FILE
        self.orders.append(data.decode())
        self.on_order()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def complaints(capsys: Output) -> list[str]:
    return [line.removeprefix("rucio-fs: error: ") for line in capsys.readouterr().err.splitlines()]


# --- which mounts --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [TOP, f"{TOP}/s/d", f"{TOP}/scratch", f"{TOP}/scratchy/f"])
def test_any_path_stands_for_its_mount(rig: Rig, capsys: Output, path: str) -> None:
    rig.show(upload("u/f"))
    assert rig.run(path) == 0
    assert capsys.readouterr().out.splitlines()[0] == TOP
    assert rig.run(path, orders=["now"]) == 0
    assert rig.orders == ["now\n"]


def test_a_path_elsewhere_is_a_wrong_call_and_nothing_is_done(rig: Rig) -> None:
    with pytest.raises(UsageError, match=r"^/etc: not inside a rucio-fs mount$"):
        rig.run(TOP, "/etc", orders=["retry"])
    assert rig.orders == []


def test_without_a_path_the_only_mount_with_a_scratch(rig: Rig, capsys: Output) -> None:
    private, bare = FakeMount(), FakeMount()
    private.is_private = True
    askers = {
        "/private": FakeAsker(private), "/bare": FakeAsker(bare), TOP: FakeAsker(rig.mount),
    }  # fmt: skip
    make: dict[str, Any] = {"make_asker": askers.__getitem__}

    def run(*mountpoints: str) -> int:
        errand = uploading.Errand(
            (), as_json=False, mountpoints=lambda: mountpoints, clock=FakeClock(rig.mount), **make
        )
        return errand.run()

    assert run("/private", "/bare", TOP) == 0
    assert capsys.readouterr().out.splitlines()[0] == TOP
    assert all(asker.is_closed for asker in askers.values())
    assert run("/bare") == 1
    assert complaints(capsys) == [
        "/bare: nothing is saved in this mount: it has no scratch (scratch.enabled)"
    ]
    with pytest.raises(UsageError, match=r"^no rucio-fs mount on this machine is yours$"):
        run()
    hanging = FakeMount()
    hanging.hangs = True  # it may be ours
    askers["/hangs"] = FakeAsker(hanging)
    with pytest.raises(UsageError, match=rf"^there are several mounts; name one: /hangs, {TOP}$"):
        run("/hangs", "/bare", TOP)


# --- what is shown -------------------------------------------------------------------------------


def shown(found: dict[str, Any], **options: Any) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, highlight=False, **({"width": 200} | options))
    uploads_screen.show([(TOP, Tally.of(found))], console)
    return [line.rstrip() for line in STEERING.sub("", out.getvalue()).splitlines()]


def test_what_is_not_done_with_errors_in_words_and_sums() -> None:
    found = document(
        upload("u/run/bad", "FAILED", bytes=1_200_000_000, error="Rucio knows\nanother; rename it"),
        upload("u/run/a", bytes=2_000_000, error="COLO is full"),
        upload(None, "REPLICATING"),
        done=120,
        unsettled=1,
        waits_for={"Rucio": "it does not answer"},
    )
    assert shown(found) == [
        TOP,
        "  FAILED            1.2 GB  u/run/bad",
        "    Rucio knows another; rename it",
        "  UPLOADING 40%     2.0 MB  u/run/a",
        "    COLO is full",
        "  REPLICATING       1.0 kB  u:gone",
        "  2 files (2.0 MB) on their way, 1 directory just changed, 1 failed, 120 done",
        "  waits for Rucio: it does not answer",
    ]


def test_paths_do_not_steer_the_terminal_nor_get_wider() -> None:
    lines = shown(
        document(upload("u/\x1b[31m" + "long" * 30 + "end")), force_terminal=True, width=60
    )
    assert lines[1].endswith("longend")
    assert len(lines[1]) == 60
    assert shown(document(upload("u/\x1b[31m\n")))[1].endswith(r"u/\x1b[31m\n")


def test_more_than_the_mount_lists() -> None:
    lines = shown(document(upload("u/f"), pending=1500, bytes=10**9))
    assert lines[2:] == ["  … and 1499 more", "  1500 files (1.0 GB) on their way"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (document(), "nothing on its way"),
        (document(done=3), "nothing on its way, 3 done"),
        (document(upload("f")), "1 file (1.0 kB) on its way"),
        (document(upload("f", "FAILED"), done=1), "nothing on its way, 1 failed, 1 done"),
        (document(unsettled=2), "2 directories just changed"),
    ],
)
def test_summaries(found: dict[str, Any], words: str) -> None:
    assert summary(Tally.of(found)) == words


def test_only_what_is_below_the_named_paths_counts(rig: Rig, capsys: Output) -> None:
    rig.show(
        upload("u/run1/bad", "FAILED"), upload("u/run1"), upload("u/run10"), upload("u/run2/x/f"),
        done=7,
    )  # fmt: skip
    assert rig.run(rig.directory("u/run1")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["u/run1/bad", "u/run1"]
    assert lines[3:] == ["  1 file (1.0 kB) on its way, 1 failed"]
    assert rig.run(rig.directory("u/run2"), rig.file("u/run10")) == 0
    assert "  2 files (2.0 kB) on their way" in capsys.readouterr().out


def test_a_path_that_is_not_there(rig: Rig, capsys: Output) -> None:
    nope = f"{TOP}/scratch/u/nope"
    assert rig.run(nope, rig.file("u/f"), orders=["now"]) == 1
    assert rig.orders == ["now u/f\n"]
    assert complaints(capsys) == [f"{nope}: No such file or directory"]
    assert rig.run(nope, waits=True) == 1
    assert capsys.readouterr().out == ""


def test_errors_alone(rig: Rig, capsys: Output) -> None:
    rig.show(upload("u/bad", "FAILED", error="rename it"), upload("u/f"))
    assert rig.run(quiet=True) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"rucio-fs: error: {TOP}/scratch/u/bad: rename it;"
        f" to try again: rucio-fs uploads --retry {TOP}/scratch/u/bad\n"
    )


def test_a_document(rig: Rig, capsys: Output) -> None:
    uploads = [upload("u/bad", "FAILED", error="E"), upload("u/f")]
    rig.show(*uploads, done=3)
    assert rig.run(as_json=True) == 1
    assert json.loads(capsys.readouterr().out) == [
        {"mountpoint": TOP, "exit": 1, "error": None, "paths": {}}
        | document(*uploads, done=3)
    ]  # fmt: skip
    rig.file("u/f")
    assert rig.run(f"{TOP}/scratch/u/f", f"{TOP}/scratch/u/no", as_json=True) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["paths"] == {"u/f": None, "u/no": "No such file or directory"}
    assert (found["done"], found["uploads"]) == (None, uploads[1:])


# --- orders --------------------------------------------------------------------------------------


def test_orders_are_for_what_is_named_and_given_first(rig: Rig, capsys: Output) -> None:
    rig.show(upload("u/f", "FAILED", error="E"))
    rig.on_order = lambda: rig.show(upload("u/f", "QUEUED"))
    paths = [rig.file("u/f"), rig.directory("u/d")]
    assert rig.run(*paths, orders=["retry", "now"]) == 0
    assert rig.orders == ["retry u/f\n", "retry u/d\n", "now u/f\n", "now u/d\n"]
    assert "QUEUED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EINVAL, "refuses the order; its log says why"),
        (errno.EACCES, "whoever made this mount gives the orders"),
    ],
)
def test_an_order_that_is_refused(rig: Rig, capsys: Output, number: int, words: str) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    rig.on_order = refuse
    rig.show(upload("u/f"))
    assert rig.run(orders=["now"], waits=True) == 1
    assert words in complaints(capsys)[0]
    assert rig.mount.time == 0  # nothing is waited for


# --- mounts that cannot answer -------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
def test_a_mount_that_hangs_died_or_has_no_scratch(rig: Rig, capsys: Output, waits: bool) -> None:
    def message() -> str:
        assert rig.run(f"{TOP}/scratch/u/f", orders=["now"], waits=waits) == 1
        (line,) = complaints(capsys)
        return line

    rig.mount.hangs = True
    assert message() == (
        f"{TOP}: the server of this mount does not answer; run: rucio-fs umount {TOP}"
    )
    assert rig.mount.time == 5.0
    rig.mount.hangs = False
    rig.mount.is_dead = True
    assert message() == f"{TOP}: the server of this mount has died; run: rucio-fs umount {TOP}"
    rig.mount.is_dead = False
    rig.mount.files[FILE] = b"{"
    assert message() == f"{TOP}: {FILE} is not what this rucio-fs understands"
    rig.mount.files[FILE] = b"[]"
    assert message() == f"{TOP}: {FILE} is not what this rucio-fs understands"
    del rig.mount.files[FILE]
    assert (
        message() == f"{TOP}: nothing is saved in this mount: it has no scratch (scratch.enabled)"
    )


@pytest.mark.parametrize("how", ["hangs", "is_dead", "ended"])
def test_a_mount_that_ends_while_others_are_waited_for(rig: Rig, capsys: Output, how: str) -> None:
    other = Rig()
    other.mount._plan = rig.mount._plan  # one time for both
    askers = {TOP: FakeAsker(rig.mount), "/other": _Renamed(other.mount)}
    rig.show(upload("u/a"))
    other.show(upload("u/b"))

    def end() -> None:
        if how == "ended":
            del other.mount.files[FILE]
        else:
            setattr(other.mount, how, True)

    rig.mount.at(3.0, end)
    rig.at(50.0, done=1)
    errand = uploading.Errand(
        [Path(f"{TOP}"), Path("/other")],
        as_json=False,
        locate=lambda path: places.Where(str(path), str(path)),
        make_asker=askers.__getitem__,
        clock=FakeClock(rig.mount),
    )
    assert errand.run(waits=True) == 1
    assert 50.0 <= rig.mount.time < 52.0
    out, err = capsys.readouterr()
    words = {"hangs": "does not answer", "is_dead": "has died", "ended": "this mount was ended"}
    assert words[how] in err
    assert err.count("error: /other: ") == len(err.splitlines()) == 1
    assert out.splitlines()[-1] == "in the lake: 1 file, 1.0 kB, in 0:00:50"


def test_of_several_mounts_a_failure_counts_more_than_what_is_not_over(
    rig: Rig, capsys: Output
) -> None:
    other = Rig()
    other.mount._plan = rig.mount._plan
    askers = {TOP: FakeAsker(rig.mount), "/other": _Renamed(other.mount)}
    rig.show(upload("u/a"))
    other.show(upload("u/b", "FAILED", error="E"))
    options: dict[str, Any] = {
        "locate": lambda path: places.Where(str(path), str(path)),
        "make_asker": askers.__getitem__,
    }
    assert rig.run(TOP, "/other", waits=True, timeout=1, **options) == 1
    assert [line.split(": ")[:2] for line in complaints(capsys)] == [
        [TOP, "the time is over"],
        ["/other/scratch/u/b", "E; to try again"],
    ]
    assert all(asker.is_closed for asker in askers.values())
    rig.show()
    assert rig.run(TOP, "/other", as_json=True, **options) == 1
    assert [one["exit"] for one in json.loads(capsys.readouterr().out)] == [0, 1]


class _Renamed(FakeAsker):
    """The mount at TOP under another name."""

    def ask(self, operation: str, path: str, **arguments: object) -> Future[Found]:
        return super().ask(operation, path.replace("/other", TOP), **arguments)


# --- waiting -------------------------------------------------------------------------------------


def test_a_wait_ends_when_nothing_is_pending_nor_unsettled(rig: Rig, capsys: Output) -> None:
    rig.show(unsettled=1)
    rig.at(5.0, upload("u/f"), upload("u/g"), unsettled=1)
    rig.at(20.0, upload("u/g", sent=900), done=1, unsettled=1)
    rig.at(25.0, done=2, unsettled=1)
    rig.at(30.0, done=2)
    assert rig.run(waits=True) == 0
    assert 30.0 <= rig.mount.time <= 31.0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "uploading: 1 directory just changed",
        "uploading: 0 of 2 files, 800 B of 2.0 kB, 80 B/s, 1 directory just changed",
        "uploading: 1 of 2 files, 1.9 kB of 2.0 kB, 95 B/s, 1 directory just changed",
        "in the lake: 2 files, 2.0 kB, in 0:00:30",
    ]


def test_nothing_to_wait_for(rig: Rig, capsys: Output) -> None:
    rig.show(done=4)
    assert rig.run(waits=True) == 0
    assert capsys.readouterr() == ("nothing on its way, 4 done\n", "")
    assert rig.mount.time == 0


def test_an_outage_is_told_at_once_and_waited_out(rig: Rig, capsys: Output) -> None:
    rig.show(upload("u/f"))
    rig.at(2.0, upload("u/f"), waits_for={"Rucio": "refused"})
    rig.at(3.0, upload("u/f"))
    rig.at(400.0, done=1)
    assert rig.run(waits=True) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "uploading: 0 of 1 file, 400 B of 1.0 kB",
        "uploading: 0 of 1 file, 400 B of 1.0 kB",
        "waits for Rucio: refused",
        "uploading: 0 of 1 file, 400 B of 1.0 kB",
        "in the lake: 1 file, 1.0 kB, in 0:06:40",
    ]


def test_what_fails_is_told_when_the_rest_is_done(rig: Rig, capsys: Output) -> None:
    rig.show(upload("u/f"), upload("u/a b"))
    bad = upload("u/a b", "FAILED", error="Rucio knows another")
    rig.at(3.0, bad, upload("u/f"))
    worse = upload("u/w", "FAILED", error="its rule is gone: rucio-fs uploads --retry makes one")
    rig.at(9.0, bad, worse, upload(None, "FAILED"), failed=5, done=1)
    assert rig.run(waits=True) == 1
    assert 9.0 <= rig.mount.time < 10.0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "nothing on its way, 5 failed, 1 done"
    assert [line.removeprefix("rucio-fs: error: ") for line in err.splitlines()] == [
        f"{TOP}/scratch/u/a b: Rucio knows another;"
        f" to try again: rucio-fs uploads --retry '{TOP}/scratch/u/a b'",
        f"{TOP}/scratch/u/w: its rule is gone: rucio-fs uploads --retry makes one",
        "u:gone: it failed; the mount's log says why;"
        f" to try again: rucio-fs uploads --retry {TOP}",
        f"{TOP}: 2 more failed",
    ]


def test_what_was_registered_where_it_lies_is_registered_again(rig: Rig, capsys: Output) -> None:
    more = {"did": "s:a b", "rse": "ND", "dataset": "s:d", "request": "1"}
    rig.show(upload("/nd/a b", "FAILED", error="no", **more), upload("/nd/c", "FAILED", error="E"))
    assert rig.run(waits=True) == 1
    assert complaints(capsys) == [
        "/nd/a b: no; to try again: rucio-fs register --scope s --dataset s:d --rse ND '/nd/a b'",
        "/nd/c: E; to try again: rucio-fs register /nd/c",
    ]


def test_the_time_is_over(rig: Rig, capsys: Output) -> None:
    rig.show(upload("u/f"), waits_for={"COLO": "full"})
    assert rig.run(waits=True, timeout=7.3) == 4
    assert rig.mount.time == pytest.approx(7.3)
    assert complaints(capsys) == [
        f"{TOP}: the time is over: 1 file (1.0 kB) on its way; waits for COLO: full"
    ]
    assert rig.run(waits=True, timeout=0) == 4  # looks once
    rig.show(upload("u/f"), upload("u/bad", "FAILED"))
    assert rig.run(waits=True, timeout=1) == 1  # waiting longer would not mend it


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupted(rig: Rig, capsys: Output, as_json: bool) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    rig.show(upload("u/f"), upload("u/bad", "FAILED"))
    rig.mount.at(3.0, interrupt)
    assert rig.run(waits=True, as_json=as_json) == Exit.INTERRUPTED
    out, err = capsys.readouterr()
    assert err == (
        "\nrucio-fs: interrupted; uploads go on in the mount; to see how far they are:"
        f" rucio-fs uploads {TOP}\n"
    )
    if as_json:
        assert (json.loads(out)[0]["exit"], json.loads(out)[0]["pending"]) == (130, 1)


def test_a_mount_that_takes_long_to_tell_is_asked_less_often(rig: Rig) -> None:
    slow = _Slow(rig.mount)
    rig.show(upload("u/f"))
    rig.at(200.0, done=1)
    assert rig.run(waits=True, make_asker=lambda _: slow) == 0
    assert slow.looks < 25  # 2 s for a look, and 20 until the next


class _Slow(FakeAsker):
    """Takes two seconds to tell."""

    looks = 0

    def ask(self, operation: str, path: str, **arguments: object) -> Future[Found]:
        self.looks += operation == "read"
        self._mount.advance(2.0)
        return super().ask(operation, path, **arguments)


# --- waiting for some ----------------------------------------------------------------------------


def test_a_wait_for_a_directory_leaves_others_alone(rig: Rig, capsys: Output) -> None:
    rig.show(upload("u/other"), upload("u/d/f"))
    rig.at(4.0, upload("u/other"))
    assert rig.run(rig.directory("u/d"), waits=True) == 0
    assert 4.0 <= rig.mount.time < 5.0
    assert capsys.readouterr().out.splitlines()[-1] == "in the lake: 1 file, 1.0 kB, in 0:00:04"


def test_what_is_not_listed_may_be_what_is_waited_for(rig: Rig, capsys: Output) -> None:
    rig.show(upload("u/other"), pending=2)
    rig.at(6.0, upload("u/other"))
    assert rig.run(rig.directory("u/d"), waits=True, timeout=1) == 4
    assert complaints(capsys) == [
        f"{TOP}: the time is over: perhaps some of 1 that the mount does not list"
    ]
    assert rig.run(rig.directory("u/d"), waits=True) == 0
    assert 6.0 <= rig.mount.time < 7.0
    # A thousand others that have failed keep nobody waiting.
    rig.show(upload("u/other", "FAILED"), failed=1001)
    assert rig.run(rig.directory("u/d"), waits=True) == 0


def test_a_file_is_in_the_lake_or_it_is_said_that_nobody_knows(rig: Rig, capsys: Output) -> None:
    known, never = rig.file("u/f", rule_id="r1"), rig.file("u/never")
    failed = rig.file("u/bad")
    rig.show(upload("u/bad", "FAILED", error="E"))
    assert rig.run(known, waits=True) == 0
    assert complaints(capsys) == []
    assert rig.run(known, never, failed, waits=True) == 1
    assert [line.split(": ")[:2] for line in complaints(capsys)] == [
        [
            str(never),
            "is neither on its way nor known to be in the lake; user.rucio.upload of it says more",
        ],
        [str(failed), "E; to try again"],
    ]
    rig.mount.at(rig.mount.time + 1, lambda: rig.mount.entries.clear())
    rig.show(upload("u/f"))
    rig.at(rig.mount.time + 1, done=1)
    assert rig.run(known, waits=True) == 1
    assert complaints(capsys) == [f"{known}: No such file or directory"]


# --- a bar ---------------------------------------------------------------------------------------


def course(*found: dict[str, Any]) -> tuple[Course, Tally]:
    """A look every ten seconds."""
    one, tally = Course(0.0), Tally()
    for number, document in enumerate(found):
        tally = Tally.of(document)
        one.take(tally, 10.0 * number)
    return one, tally


def drawn(*found: dict[str, Any], width: int = 100) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, highlight=False)
    now = 10.0 * (len(found) - 1)
    console.print(uploads_screen.picture(*course(*found), now, width))
    return [line.rstrip() for line in STEERING.sub("", out.getvalue()).splitlines()]


BIG = 10**9
FIRST = document(upload("a", bytes=BIG, sent=0), upload("b", bytes=BIG, sent=0))
SECOND = document(
    upload("c", "FAILED", bytes=BIG),
    upload("b", bytes=BIG, sent=BIG // 2),
    unsettled=3,
    waits_for={"Rucio": "it is down"},
)


def test_a_bar_with_files_bytes_rate_and_remaining_time() -> None:
    first, second = drawn(FIRST), drawn(document(upload("b", bytes=BIG, sent=BIG // 2)))
    assert first[0].endswith("0/2 files 0 B/2.0 GB for 0:00:00")
    assert second[0].endswith("0/1 file 500 MB/1.0 GB for 0:00:00")
    (line,) = drawn(FIRST, document(upload("b", bytes=BIG, sent=BIG // 2)))
    assert line.startswith("━" * 15)
    assert line.endswith(" 1/2 files 1.5 GB/2.0 GB 150 MB/s 0:00:03 left")
    lines = drawn(FIRST, SECOND)
    assert "0/2 files 1 failed 500 MB/2.0 GB" in lines[0]
    assert lines[1:] == ["3 directories just changed", "waits for Rucio: it is down"]


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = drawn(FIRST, SECOND, width=width)
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert "0/2 files" in lines[0]


def test_files_and_bytes_that_come_and_go() -> None:
    one, _ = course(
        FIRST,
        document(upload("b", bytes=BIG, sent=0), upload("c", bytes=5, sent=5)),
        document(upload("d", bytes=BIG, sent=BIG), upload("e", bytes=0, sent=0)),
        document(),
    )
    assert (one.files, one.all_files) == (2, 2)  # as many as there are at least
    assert one.bytes == one.bytes_sent == one.all_bytes == 2 * BIG
    assert one.remaining() is None


def test_empty_files_have_a_bar_too() -> None:
    one, two = upload("a", bytes=0, sent=0), upload("b", bytes=0, sent=0)
    (line,) = drawn(document(one, two), document(one))
    assert line.startswith("━" * 10)
    assert "1/2 files" in line


def test_the_sums_of_several_mounts() -> None:
    total = together([Tally.of(FIRST | {"done": 2}), Tally.of(SECOND | {"done": 3})])
    assert (total.pending, total.failed, total.done, total.unsettled) == (3, 1, 5, 3)
    assert (total.bytes, total.sent, total.failed_bytes) == (3 * BIG, BIG // 2, BIG)
    assert together([total, Tally.of(FIRST, ["a"])]).done is None


def test_on_a_terminal_there_is_a_bar(
    rig: Rig, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    rig.show(upload("u/f"))
    rig.at(1.0, done=1)
    assert rig.run(waits=True) == 0
    out = STEERING.sub("", capsys.readouterr().out)
    assert "━━━━━━━━━━━━━━━━━━━━ 1/1 file 1.0 kB/1.0 kB for 0:00:01" in out
    assert "uploading: " not in out
    assert out.endswith("in the lake: 1 file, 1.0 kB, in 0:00:01\n")


# --- status --------------------------------------------------------------------------------------


def test_status_has_a_line_where_there_is_a_scratch(rig: Rig, capsys: Output) -> None:
    def run(as_json: bool = False) -> str:
        status.of_mounts(
            as_json=as_json, mountpoints=lambda: [TOP], make_asker=lambda _: FakeAsker(rig.mount)
        )
        return capsys.readouterr().out

    found = document(upload("u/f"), done=2, waits_for={"Rucio": "it is down"})
    rig.mount.files[FILE] = json.dumps(found).encode()
    line = "  upload    1 file (1.0 kB) on its way, 2 done; waits for Rucio: it is down"
    assert line in run().splitlines()
    assert json.loads(run(as_json=True))[0]["uploads"] == found
    del rig.mount.files[FILE]
    assert "upload" not in run()
    assert json.loads(run(as_json=True))[0]["uploads"] is None


# --- umount --------------------------------------------------------------------------------------


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bool]]:
    """Makes TOP a mount in the table; what is unmounted, and whether lazily."""
    table = {
        TOP: mounts.Mount(TOP, mounts.FSTYPE, "rucio", "0:51"),
        "/sshfs": mounts.Mount("/sshfs", "fuse.sshfs", "me@host:", "0:52"),
    }
    unmounted: list[tuple[Path, bool]] = []

    def unmount(mountpoint: Path, *, lazy: bool) -> None:
        unmounted.append((mountpoint, lazy))

    monkeypatch.setattr(mounts, "find", lambda path: table.get(str(path)))
    monkeypatch.setattr(mounts, "unmount", unmount)
    return unmounted


def left(rig: Rig, mountpoint: str = TOP, **more: Any) -> uploads_asking.Left:
    asker = FakeAsker(rig.mount)
    found = uploads_asking.left_behind(Path(mountpoint), make_asker=lambda _: asker, **more)
    assert asker.is_closed == (mountpoint == TOP)
    return found


MANY = [upload("u/a"), upload("u/b")]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (document(done=5), None),
        (
            document(*MANY),
            "2 files (2.0 kB) are not in the lake yet; they are kept in staging and go on with the"
            " next mount there",
        ),
        (
            document(upload("u/a", "FAILED")),
            "1 file (1.0 kB) is not in the lake yet; 1 failed; it is kept in staging and goes on"
            " with the next mount there",
        ),
        (
            document(upload("u/a")) | {"directory": "/var/s"},
            "1 file (1.0 kB) is not in the lake yet; it is kept in /var/s and goes on with the"
            " next mount there",
        ),
        (
            document(unsettled=1),
            "files that were saved a moment ago may not be in the lake yet; they are kept in"
            " staging and go on with the next mount there",
        ),
    ],
)
def test_what_a_mount_leaves(
    rig: Rig, mounted: object, found: dict[str, Any], words: str | None
) -> None:
    rig.mount.files[FILE] = json.dumps(found).encode()
    assert left(rig) == (words, False)


def test_a_mount_that_does_not_tell_is_ended_all_the_same(rig: Rig, mounted: object) -> None:
    assert left(rig, "/elsewhere") == (None, False)
    rig.show(upload("u/f"))
    assert left(rig, "/sshfs") == (None, False)
    for text in (b"{", b"[]", b"{}"):
        rig.mount.files[FILE] = text
        assert left(rig) == (None, False)
    del rig.mount.files[FILE]
    assert left(rig) == (None, False)
    rig.mount.is_dead = True
    assert left(rig) == (None, False)

    def cannot(mountpoint: str) -> FakeAsker:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    assert uploads_asking.left_behind(Path(TOP), make_asker=cannot) == (None, False)


class _Silent(FakeAsker):
    """Never answers; *ends* when it is killed, unless it sits in the mount."""

    def __init__(self, mount: FakeMount, *, ends: bool) -> None:
        super().__init__(mount)
        self._ends = ends
        self._future: Future[Found] = Future()

    def ask(self, operation: str, path: str, **arguments: object) -> Future[Found]:
        return self._future

    def close(self) -> None:
        if self._ends:
            self._future.set_exception(UsageError("killed"))


@pytest.mark.parametrize("ends", [True, False])
def test_a_child_that_sits_in_the_mount_is_known(rig: Rig, mounted: object, ends: bool) -> None:
    found = uploads_asking.left_behind(
        Path(TOP),
        make_asker=lambda _: _Silent(rig.mount, ends=ends),
        patience=0.01,
        last_words=0.01,
    )
    assert found == (None, not ends)


@pytest.mark.parametrize("is_stuck", [True, False])
@pytest.mark.parametrize("flags", [[], ["--lazy"]])
def test_umount_says_what_is_left(
    mounted: list[tuple[Path, bool]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
    flags: list[str],
    is_stuck: bool,
) -> None:
    found = uploads_asking.Left("5 files are not in the lake yet", is_stuck)
    monkeypatch.setattr(uploads_asking, "left_behind", lambda mountpoint: found)
    assert cli.main(["umount", *flags, TOP]) == 0
    assert capsys.readouterr() == ("", "rucio-fs: 5 files are not in the lake yet\n")
    assert mounted == [(Path(TOP), bool(flags) or is_stuck)]


# --- the command line ----------------------------------------------------------------------------


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    calls: list[tuple[Any, ...]] = []

    class Errand:
        def __init__(self, paths: Sequence[Path], **options: Any) -> None:
            self._call = (paths, options)

        def run(self, orders: Sequence[str], **options: Any) -> int:
            calls.append((*self._call, orders, options))
            return 4

    with monkeypatch.context() as patched:
        patched.setattr(uploading, "Errand", Errand)
        assert (
            cli.main(["uploads", "-q", "--wait", "--timeout", "2m", "--now", "--retry", "x"]) == 4
        )
    assert calls == [
        (
            (Path("x"),),
            {"as_json": False, "quiet": True},
            ["retry", "now"],
            {"waits": True, "timeout": 120.0},
        )
    ]
    capsys.readouterr()
    assert cli.main(["uploads", os.fspath(tmp_path)]) == 2
    assert complaints(capsys) == [f"{tmp_path}: not inside a rucio-fs mount"]
    assert cli.main(["uploads", "--timeout", "3", os.fspath(tmp_path)]) == 2
    assert complaints(capsys) == ["--timeout is for --wait; see: rucio-fs uploads --help"]
    assert cli.main(["uploads", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "4 not yet: the time is over; 130 interrupted: uploads go on in the mount" in text
