"""What the commands show: bars, lines, tables, and words."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rucio_fs import cli
from rucio_fs.commands import bars, releasing, screen, status, words
from rucio_fs.commands.asking import Found
from rucio_fs.commands.deciding import End, Exit, Progress
from rucio_fs.commands.getting import reporter
from rucio_fs.commands.once import Outcome, ask_each
from rucio_fs.commands.reporting import Lines
from rucio_fs.commands.targets import Target
from rucio_fs.errors import UsageError
from tests.unit.commands_fakes import TOP, FakeAsker, FakeMount, locate, progress

STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def target(path: str, **facts: Any) -> Target:
    """One that has begun at 0; a FILE if *facts* say so."""
    one = Target(path, has_begun=True, is_dir=facts.get("type") != "FILE")
    one.take(Progress.of(progress(**facts)), 0.0)
    return one


def file(path: str, **facts: Any) -> Target:
    return target(path, type="FILE", files=1, bytes=3_200_000_000, **facts)


def drawn(targets: Sequence[Target], now: float, width: int = 120) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, highlight=False)
    console.print(bars.picture(targets, now, width))
    return [line.rstrip() for line in STEERING.sub("", out.getvalue()).splitlines()]


# --- bars --------------------------------------------------------------------------------------


def test_a_dataset_has_a_bar_files_bytes_rate_and_remaining_time() -> None:
    one = target("mnt/s/d", files=100, bytes=4_000_000)
    one.take(Progress.of(progress(files=100, files_here=50, bytes=4_000_000,
                                  bytes_here=2_000_000)), 10.0)  # fmt: skip
    (line,) = drawn([one], 10.0)
    assert line.startswith("mnt/s/d ━━━━━━━━━━")
    assert line.endswith("50/100 files 2.0 MB/4.0 MB 200 kB/s 0:00:10 left REPLICATING")


def test_what_was_here_before_counts_for_no_rate() -> None:
    """The mount tells how much is here once it has counted."""
    one = Target("d", is_dir=True)
    one.take(Progress("REPLICATING"), 0.0)
    one.take(Progress("REPLICATING", files=4, files_here=1, bytes=400, bytes_here=100), 2.0)
    one.take(Progress("REPLICATING", files=4, files_here=1, bytes=400, bytes_here=100), 4.0)
    assert (one.rate(), one.remaining()) == (0.0, None)
    one.take(Progress("REPLICATING", files=4, files_here=2, bytes=400, bytes_here=200), 12.0)
    assert (one.rate(), one.remaining()) == (10.0, 20.0)


def test_the_mount_s_own_estimate_comes_first() -> None:
    (line,) = drawn([target("d", eta=3700, files_stuck=2)], 5.0)
    assert "0/10 files 2 stuck" in line
    assert line.endswith("1:01:40 left REPLICATING")


def test_a_file_has_no_bar_but_a_state_and_a_time() -> None:
    (line,) = drawn([file("f", eta=100)], 83.0)
    assert line == "f 3.2 GB for 0:01:23 REPLICATING"


def test_what_has_ended_tells_how_long_it_took() -> None:
    one = target("d", state="AVAILABLE", files_here=10, bytes_here=10_000)
    one.ended_at = 61.0
    (line,) = drawn([one], 99.0)
    assert line.endswith("10/10 files 10.0 kB in 0:01:01 AVAILABLE")


def test_of_many_paths_ten_are_shown_and_the_rest_summed_up() -> None:
    moving = [target(f"d{n}", bytes_here=5000) for n in range(12)]
    here = [file(f"f{n}", state="AVAILABLE") for n in range(500)]
    failed = [file("bad", state="SUSPENDED", error="E")]
    lines = drawn([*here, *failed, *moving], 5.0)
    assert len(lines) == 11
    assert all("REPLICATING" in line for line in lines[:10])
    assert lines[10].startswith("… and 503 more; all 513 paths: 500 here, 12 on their way, 1 not")
    lines = drawn([*here, *failed, *moving[:2]], 5.0)
    assert [line.split()[0] for line in lines[:10]] == [f"f{n}" for n in range(7)] + [
        "bad", "d0", "d1",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_the_state_is_always_there(width: int) -> None:
    path = "mnt/" + "long-" * 30 + "end"
    lines = drawn([target(path, files_stuck=3), file("short")], 5.0, width)
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    if width >= 40:
        assert "end " in lines[0]
        assert all(line.endswith("REPLICATING") for line in lines)


def test_paths_do_not_steer_the_terminal() -> None:
    (line,) = drawn([file("a\x1b[31mb\n[bold]c\udcff")], 0.0)
    assert line.startswith(r"a\x1b[31mb\n[bold]c\udcff")


def test_errors_follow_below_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    shown = bars.Bars(Console(file=out, force_terminal=True, width=80, highlight=False))
    one = file("f", state="SUSPENDED", error="ask why")
    shown.update([one], 1.0)
    shown.ended(one)
    assert capsys.readouterr().err == ""
    shown.close()
    assert capsys.readouterr().err == "rucio-fs: error: f: ask why\n"
    assert "SUSPENDED" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


# --- lines -------------------------------------------------------------------------------------


def test_a_line_for_each_change_of_state(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    lines = Lines(out)
    one, odd = target("d", rule_id="r1"), Target("new\nline", has_begun=True)
    odd.begin({"is_dir": False, "did": "s:f", "bytes": 5}, 0.0)
    lines.update([one, odd], 0.0)
    one.take(Progress.of(progress(files_here=5)), 1.0)
    lines.update([one, odd], 1.0)
    one.trouble = "Rucio\tis away"
    lines.update([one, odd], 2.0)
    one.trouble = None
    odd.hear({"state": "AVAILABLE", "did": "s:f"}, 2.0)
    one.take(Progress.of(progress(state="STUCK", files_here=5, files_stuck=1)), 2.0)
    lines.update([one, odd], 2.0)
    lines.close()
    assert out.getvalue().splitlines() == [
        "d: REPLICATING, 0 of 10 files here, rule r1",
        "d: REPLICATING, Rucio is away",
        "d: STUCK, 5 of 10 files here, 1 stuck, rule r1",
        r"new\nline: AVAILABLE, 5 B, in 0:00:02",
    ]
    assert capsys.readouterr() == ("", "")


def test_what_was_only_asked_for_has_its_line_at_the_end() -> None:
    out = io.StringIO()
    lines, one = Lines(out), Target("f", has_begun=True)
    one.finish(End(Exit.DONE), 0.0)
    lines.update([one], 0.0)
    assert out.getvalue() == ""
    lines.close()
    assert out.getvalue() == "f: REQUESTED\n"


def test_no_terminal_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(reporter(quiet=False), Lines)
    reporter(quiet=True).update([file("f")], 0.0)
    assert capsys.readouterr() == ("", "")


# --- status ------------------------------------------------------------------------------------

STATUS = {
    "rucio": {"host": "https://rucio", "account": "alice", "state": "ok"},
    "site": {"name": "HERE", "rse": "COLO"},
    "opening": {"policy": "both", "on_their_way": 20, "waiting": 3},
    "cache": {"entries": 57, "bytes": 152_000, "limit": 67_108_864},
    "diskcache": {"files": 1, "bytes": 3_000_000, "limit": 10_000_000_000},
    "open_files": 1,
}


@pytest.fixture
def mount() -> FakeMount:
    one = FakeMount()
    one.files[f"{TOP}/.rucio/status"] = json.dumps(STATUS).encode()
    transfers = [progress(did=f"s:t{n}", bytes_here=1000) | {"waiting": n} for n in range(20)]
    one.files[f"{TOP}/.rucio/transfers"] = json.dumps(transfers).encode()
    problems = [
        {"time": f"2026-11-21T00:00:{n:02d}Z", "did": f"s:p{n}", "state": "STUCK", "error": "E\nF"}
        for n in range(12)
    ]
    one.files[f"{TOP}/.rucio/problems"] = json.dumps(problems).encode()
    return one


class _Hanging(FakeAsker):
    def ask(self, operation: str, path: str, **arguments: object) -> Future[Found]:
        return Future()


def test_one_screen_about_a_mount(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    code = status.of_mounts(
        as_json=False, mountpoints=lambda: [TOP], make_asker=lambda _: FakeAsker(mount)
    )
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:6] == [
        TOP,
        "  Rucio     https://rucio as alice: ok",
        "  site      HERE, RSE COLO, policy both",
        "  catalogue 57 entries, 152 kB of 67.1 MB",
        "  disk      1 file, 3.0 MB of 10.0 GB",
        "  use       1 open file, 20 on their way, 3 waiting",
    ]
    assert lines[8].split() == ["s:t1", "REPLICATING", "0/10", "1.0", "kB/10.0", "kB", "1"]
    assert sum(line.startswith("  s:t") for line in lines) == screen.TRANSFERS
    assert "  … and 5 more" in lines
    assert "  2026-11-21T00:00:11Z s:p11 STUCK: E F" in lines
    assert sum("STUCK" in line for line in lines) == screen.PROBLEMS
    assert lines[-1] == "  … and 2 older ones"


def test_nothing_is_cut_where_stdout_is_no_terminal(
    mount: FakeMount, capsys: pytest.CaptureFixture[str]
) -> None:
    did = "s:" + "long-" * 40
    mount.files[f"{TOP}/.rucio/transfers"] = json.dumps([progress(did=did)]).encode()
    status.of_mounts(
        as_json=False, mountpoints=lambda: [TOP], make_asker=lambda _: FakeAsker(mount)
    )
    assert f"  {did} " in capsys.readouterr().out


def test_rucio_away(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    rucio = {"state": "unreachable", "trouble": "refused", "trouble_since": "2020-01-01T00:00:00Z"}
    away = STATUS | {"rucio": {"host": "https://rucio", "account": "alice"} | rucio}
    mount.files[f"{TOP}/.rucio/status"] = json.dumps(away).encode()
    status.of_mounts(
        as_json=False, mountpoints=lambda: [TOP], make_asker=lambda _: FakeAsker(mount)
    )
    assert re.search(r"alice: unreachable for \d+d \d+h: refused\n", capsys.readouterr().out)


def test_mounts_that_hang_or_died_do_not_hide_the_others(
    mount: FakeMount, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = FakeMount()
    dead.is_dead = True
    private = FakeMount()  # another user's
    private.is_private = True
    askers = {
        TOP: FakeAsker(mount),
        "/dead": FakeAsker(dead),
        "/hangs": _Hanging(mount),
        "/private": FakeAsker(private),
    }
    code = status.of_mounts(
        as_json=True, mountpoints=lambda: list(askers), make_asker=askers.__getitem__, alive=0.01
    )
    out, err = capsys.readouterr()
    assert code == 3
    found = {one["mountpoint"]: one for one in json.loads(out)}
    assert [one["state"] for one in found.values()] == ["ok", "dead", "hanging"]
    assert found[TOP]["status"] == STATUS
    assert len(found[TOP]["transfers"]) == 20
    assert [line.split(": ")[2] for line in err.splitlines()] == ["/dead", "/hangs"]
    assert all(asker.is_closed for asker in askers.values())


def test_no_mounts(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.of_mounts(as_json=False, mountpoints=list) == 0
    assert capsys.readouterr().out == "no rucio-fs mount on this machine\n"
    assert status.of_mounts(as_json=True, mountpoints=list) == 0
    assert json.loads(capsys.readouterr().out) == []


def asking(mount: FakeMount, *, hangs: bool = False) -> Any:
    kind = _Hanging if hangs else FakeAsker
    return lambda operation, paths: ask_each(
        operation, paths, locate=locate, make_asker=lambda _: kind(mount), alive=0.01
    )


def test_what_is_known_of_paths(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("d", is_dir=True, attributes={"rule_url": "http://r/" + "x" * 200})
    paths = [Path(f"{TOP}/s/d"), Path(f"{TOP}/s/nope")]
    assert status.of_paths(paths, as_json=False, ask=asking(mount)) == 3
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{TOP}/s/d",
        "  DID       s:d",
        "  type      DATASET",
        "  size      10.0 kB",
        "  state     REPLICATING",
        "  here      0 of 10 files",
        "  rule      r1",
        "  rule at   http://r/" + "x" * 200,
    ]
    assert err == f"rucio-fs: error: {TOP}/s/nope: No such file or directory\n"
    assert status.of_paths(paths, as_json=True, ask=asking(mount)) == 3
    known, missing = json.loads(capsys.readouterr().out)
    assert (known["did"], known["files"], known["exit"]) == ("s:d", 10, 0)
    assert (missing["exit"], missing["error"]) == (1, "No such file or directory")


# --- release and refresh -----------------------------------------------------------------------


def test_release(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("f")
    mount.add("g", refuses={"release": 61})
    paths = [Path(f"{TOP}/s/f"), Path(f"{TOP}/s/g"), Path("/etc")]
    assert releasing.release(paths, as_json=True, ask=asking(mount)) == 3
    out, err = capsys.readouterr()
    assert [(one["did"], one["exit"]) for one in json.loads(out)] == [
        ("s:f", 0), (None, 1), (None, 2),
    ]  # fmt: skip
    assert err.splitlines() == [
        f"rucio-fs: error: {TOP}/s/g: no rule on it was made by rucio-fs",
        "rucio-fs: error: /etc: not inside a rucio-fs mount",
    ]
    assert mount.sets == [("f", "release", "1")]


def test_what_was_given_back_is_told(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "fgh":
        mount.add(name)
    for name, rules in (("f", 1), ("g", 2), ("h", 1)):
        events = [{"event": "released", "did": f"s:{name}"}] * rules
        mount.release[name] = "".join(json.dumps(event) + "\n" for event in events).encode()
    mount.entries[f"{TOP}/s/h"].refuses["release"] = errno.ECANCELED
    paths = [Path(f"{TOP}/s/{name}") for name in "fgh"]
    assert releasing.release(paths, as_json=False, ask=asking(mount)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{TOP}/s/f: 1 rule given back",
        f"{TOP}/s/g: 2 rules given back",
        f"{TOP}/s/h: its rule has just gone by itself",
    ]


def test_a_mount_that_hangs_is_not_waited_for(mount: FakeMount) -> None:
    mount.add("f")
    (outcome,) = asking(mount, hangs=True)("release", [Path(f"{TOP}/s/f")])
    assert outcome.exit is Exit.FAILED
    assert outcome.words is not None
    assert "does not answer" in outcome.words


def test_refresh_raises_what_the_command_line_reports() -> None:
    def refused(operation: str, paths: Sequence[Path]) -> list[Outcome]:
        assert operation == "refresh"
        return [Outcome(str(paths[0]), Exit.WRONG_CALL, None, "not inside a rucio-fs mount")]

    with pytest.raises(UsageError, match=r"^/x: not inside"):
        releasing.refresh(Path("/x"), ask=refused)


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_949, "99.9 kB"), (99_950, "100 kB"),
        (999_499, "999 kB"), (999_500, "1.0 MB"), (12_345_678, "12.3 MB"), (10**15, "1.0 PB"),
        (5 * 10**18, "5000.0 PB"),
    ],
)  # fmt: skip
def test_sizes(number: int, text: str) -> None:
    assert words.size(number) == text


def test_times() -> None:
    assert [words.duration(s) for s in (0.9, 61, 86399, 90000)] == [
        "0:00:00", "0:01:01", "23:59:59", "1d 1h",
    ]  # fmt: skip
    assert words.ago(None) == ""
    assert words.ago("not a time") == "not a time"


# --- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get"], "Missing argument 'PATH...'"),
        (["wait", "x", "--timeout", "soon"], "Invalid value for '--timeout': 'soon'"),
        (["get", "x", "--lifetime", "0"], "a rule lives for one second at least"),
        (["release"], "Missing argument 'PATH...'"),
    ],
)
def test_wrong_calls(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["get", "wait", "release", "status"])
def test_a_path_elsewhere_is_a_wrong_call(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, os.fspath(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"rucio-fs: error: {tmp_path}: not inside a rucio-fs mount\n"
    )


@pytest.mark.parametrize("command", ["get", "wait", "release", "status"])
def test_help_tells_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert "3 partly" in capsys.readouterr().out
