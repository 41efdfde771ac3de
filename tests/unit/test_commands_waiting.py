"""`get` and `wait` against a mount in memory: what they ask, when they end, what they report."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rucio_fs.commands import getting, waiting
from rucio_fs.commands.reporting import ErrorsAlone
from rucio_fs.commands.targets import Target
from tests.unit.commands_fakes import TOP, FakeAsker, FakeClock, FakeMount, locate


@pytest.fixture
def mount() -> FakeMount:
    return FakeMount()


def run(
    mount: FakeMount,
    operation: str,
    *names: str,
    as_json: bool = False,
    timeout: float | None = None,
    recursive: bool = True,
    only_asks: bool = False,
) -> int:
    """Do the command on names in TOP/s, or whole paths; return its exit code."""
    asker = FakeAsker(mount)
    errand = getting.Errand(
        [Path(name if name.startswith("/") else f"{TOP}/s/{name}") for name in names],
        as_json=as_json,
        timeout=timeout,
        locate=locate,
        make_asker=lambda mountpoint: asker,
        clock=FakeClock(mount),
        show=ErrorsAlone(),
    )
    more = {"lifetime": None} if operation == "request" else {}
    code = errand.run(operation, only_asks=only_asks, recursive=recursive, **more)
    assert asker.is_closed == any(name.startswith(TOP) or name[0] != "/" for name in names)
    return code


def get(mount: FakeMount, *names: str, **more: Any) -> int:
    return run(mount, "request", *names, **more)


def wait(mount: FakeMount, *names: str, **more: Any) -> int:
    return run(mount, "first_look", *names, **more)


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [
        line.removeprefix("rucio-fs: error: ").replace(f"{TOP}/s/", "")
        for line in capsys.readouterr().err.splitlines()
    ]


# --- get ---------------------------------------------------------------------------------------


def test_a_file_that_comes(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("f")
    mount.at(5, lambda: mount.tell("f", "AVAILABLE"))
    assert get(mount, "f") == 0
    assert mount.sets == [("f", "request", "1")]
    assert 5 <= mount.time <= 6
    assert errors(capsys) == []


def test_a_file_that_is_here_is_known_without_a_look(mount: FakeMount) -> None:
    mount.add("f", on_request=lambda mount: mount.tell("f", "AVAILABLE"))
    assert get(mount, "f") == 0
    assert (mount.time, mount.looks) == (0, [])


def test_a_name_with_what_some_take_for_a_line_end_is_heard_of(mount: FakeMount) -> None:
    name = "a\u2028b\x85c"
    mount.add(name, on_request=lambda mount: mount.tell(name, "AVAILABLE"))
    assert get(mount, name) == 0
    assert (mount.time, mount.looks) == (0, [])


def test_without_events_looks_find_out(mount: FakeMount) -> None:
    del mount.files[f"{TOP}/.rucio/events"]
    mount.add("f")
    mount.at(5, lambda: mount.show("f", state="AVAILABLE"))
    assert get(mount, "f") == 0
    assert 5 <= mount.time <= 6.5


def test_old_events_say_nothing(mount: FakeMount) -> None:
    mount.add("f")
    mount.tell("f", "AVAILABLE")
    mount.show("f", state="REPLICATING")
    mount.at(5, lambda: mount.tell("f", "AVAILABLE"))
    assert get(mount, "f") == 0
    assert mount.time >= 5


def test_a_refusal(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("f", refuses={"request": errno.EDQUOT}, attributes={"error": "no quota at COLO"})
    assert get(mount, "f") == 1
    assert errors(capsys) == ["f: no quota at COLO"]


def test_a_rule_that_is_lost_on_the_way(
    mount: FakeMount, capsys: pytest.CaptureFixture[str]
) -> None:
    mount.add("f")
    mount.at(3, lambda: mount.tell("f", "NOT_AVAILABLE", error="rule r1 was deleted"))
    assert get(mount, "f") == 1
    assert errors(capsys) == ["f: rule r1 was deleted"]


def test_some_come_and_some_do_not(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("good", on_request=lambda mount: mount.tell("good", "AVAILABLE"))
    mount.add("bad", refuses={"request": errno.ENODATA})
    assert get(mount, "bad", "good", "nope", "/etc/passwd") == 3
    assert sorted(errors(capsys)) == [
        "/etc/passwd: not inside a rucio-fs mount",
        "bad: there is no replica anywhere",
        "nope: No such file or directory",
    ]


def test_a_directory_without_r_is_a_wrong_call(
    mount: FakeMount, capsys: pytest.CaptureFixture[str]
) -> None:
    mount.add("d", is_dir=True)
    assert get(mount, "d", recursive=False) == 2
    assert mount.sets == []
    assert errors(capsys)[0].startswith("d: is a directory; name it with -r")


def test_a_dataset_that_gets_stuck_is_waited_for_while_files_move(
    mount: FakeMount, capsys: pytest.CaptureFixture[str]
) -> None:
    mount.add("d", is_dir=True)
    mount.at(3, lambda: mount.show("d", state="STUCK", files_here=2, files_stuck=1, error="E1"))
    mount.at(20, lambda: mount.show("d", files_here=9, error="no source"))
    assert get(mount, "d") == 3
    assert 20 <= mount.time <= 22
    assert errors(capsys) == ["d: 9 of 10 files are here, 1 stuck: no source"]


def test_an_event_about_a_directory_is_only_a_reason_to_look(
    mount: FakeMount, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = mount.add("d", is_dir=True)
    mount.at(3, lambda: mount.tell("d", "STUCK", error="E1"))
    mount.at(3, lambda: mount.show("d", files_here=5, files_stuck=2))
    mount.at(9, lambda: mount.tell("d", "AVAILABLE"))
    mount.at(9, lambda: mount.show("d", files_here=10, bytes_here=10_000))
    mount.at(8, lambda: setattr(entry, "look_fails", errno.EREMOTEIO))
    mount.at(15, lambda: setattr(entry, "look_fails", None))
    assert get(mount, "d", as_json=True) == 0
    assert mount.time >= 15
    assert json.loads(capsys.readouterr().out)[0]["files_here"] == 10


@pytest.mark.parametrize("state", ["SUSPENDED", "WAITING_APPROVAL"])
def test_what_needs_somebody_is_not_waited_for(
    mount: FakeMount, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mount.add("d", is_dir=True)
    mount.at(3, lambda: mount.show("d", state=state, error="ask the operators"))
    assert get(mount, "d") == 1
    assert mount.time <= 5
    assert errors(capsys) == ["d: ask the operators"]


def test_without_waiting(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("f", on_request=lambda mount: mount.tell("f", "REPLICATING", rule_id="r7"))
    mount.add("d", is_dir=True)
    mount.add("bad", refuses={"request": errno.ENOSPC})
    assert get(mount, "f", "d", only_asks=True, as_json=True) == 0
    assert (mount.looks, mount.time) == ([], 0)
    found = json.loads(capsys.readouterr().out)
    assert [(one["state"], one["rule_id"], one["exit"]) for one in found] == [
        ("REPLICATING", "r7", 0), ("REQUESTED", None, 0),
    ]  # fmt: skip
    assert get(mount, "f", "bad", only_asks=True) == 3


# --- wait --------------------------------------------------------------------------------------


def test_wait_asks_for_nothing(mount: FakeMount) -> None:
    mount.add("f")
    mount.add("d", is_dir=True)
    mount.at(4, lambda: mount.show("f", state="AVAILABLE"))
    mount.at(8, lambda: mount.show("d", state="AVAILABLE", files_here=10))
    assert wait(mount, "f", "d") == 0
    assert mount.sets == []
    assert 8 <= mount.time <= 10


def test_what_nothing_brings_is_not_waited_for(
    mount: FakeMount, capsys: pytest.CaptureFixture[str]
) -> None:
    mount.add("f")
    mount.show("f", state="NOT_AVAILABLE", rule_id=None)
    assert wait(mount, "f") == 1
    assert mount.time == 0
    assert errors(capsys) == ["f: nothing brings it; run: rucio-fs get PATH"]


def test_the_time_is_over(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("d", is_dir=True)
    mount.show("d", files_here=3)
    assert wait(mount, "d", timeout=7) == 4
    assert mount.time == 7
    assert errors(capsys) == ["d: the time is over: it is REPLICATING, 3 of 10 files are here"]
    mount.add("f")
    mount.show("f", state="AVAILABLE")
    assert wait(mount, "f", "d", timeout=1) == 4


def test_no_time_is_one_look(mount: FakeMount) -> None:
    mount.add("f")
    mount.show("f", state="AVAILABLE")
    assert wait(mount, "f", timeout=0) == 0
    mount.show("f", state="REPLICATING")
    assert wait(mount, "f", timeout=0) == 4


def test_the_time_is_over_although_the_mount_is_silent(mount: FakeMount) -> None:
    mount.hangs = True
    mount.add("f")
    assert wait(mount, "f", timeout=1) == 4
    assert mount.time <= 10


def test_a_wait_outlives_an_outage_of_rucio(mount: FakeMount) -> None:
    entry = mount.add("d", is_dir=True)
    mount.at(3, lambda: setattr(entry, "look_fails", errno.EREMOTEIO))
    mount.at(60, lambda: setattr(entry, "look_fails", None))
    mount.at(60, lambda: mount.show("d", state="AVAILABLE"))
    assert wait(mount, "d") == 0
    assert mount.time >= 60


def test_a_mount_that_dies(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("f")
    mount.at(3, lambda: setattr(mount, "is_dead", True))
    assert wait(mount, "f") == 1
    assert errors(capsys) == [f"f: the server of this mount has died; run: rucio-fs umount {TOP}"]


def test_a_mount_that_hangs(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("f")
    mount.at(3, lambda: setattr(mount, "hangs", True))
    assert wait(mount, "f") == 1
    assert waiting.SILENCE <= mount.time <= waiting.SILENCE + 10
    assert "does not answer; run: rucio-fs umount" in errors(capsys)[0]


def test_a_mount_that_hangs_from_the_start(mount: FakeMount) -> None:
    mount.hangs = True
    mount.add("f")
    assert wait(mount, "f") == 1
    assert mount.time <= 2 * waiting.SILENCE


# --- how often ---------------------------------------------------------------------------------


def looks_by_second(mount: FakeMount) -> Counter[int]:
    return Counter(int(time) for time, _ in mount.looks)


def test_one_path_is_looked_at_once_a_second(mount: FakeMount) -> None:
    mount.add("f")
    mount.at(60, lambda: mount.show("f", state="AVAILABLE"))
    assert get(mount, "f") == 0
    assert set(looks_by_second(mount).values()) == {1}
    assert len(mount.looks) >= 58


def test_many_paths_share_five_looks_a_second(mount: FakeMount) -> None:
    names = [f"f{number}" for number in range(100)]
    for name in names:
        mount.add(name)
    for name in names:
        mount.at(60, partial(mount.tell, name, "AVAILABLE"))
    assert get(mount, *names) == 0
    assert max(looks_by_second(mount).values()) <= waiting.BUDGET
    times = Counter(path for _, path in mount.looks)
    assert len(times) == 100  # each in its turn
    assert max(times.values()) - min(times.values()) <= 1
    assert mount.time <= 62  # the events told of all, and not a look at each


def test_the_longest_unseen_come_first() -> None:
    targets = [Target(str(n), has_begun=True, looked_at=float(-n)) for n in range(10)]
    targets[9].is_asked = True
    targets[8].has_begun = False
    assert [target.path for target in waiting.due(targets, 100.0)] == ["7", "6", "5", "4", "3"]
    assert waiting.due(targets[:1], 0.5) == []


# --- reports -----------------------------------------------------------------------------------


def test_json(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.add("f", size=5, on_request=lambda mount: mount.tell("f", "AVAILABLE"))
    mount.add("d", is_dir=True)
    mount.at(2, lambda: mount.show("d", state="STUCK", files_stuck=4, files_here=6, error="E"))
    assert get(mount, "f", "d", "nope", as_json=True) == 3
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 2
    file, dataset, missing = json.loads(out)
    assert file | {"path": ""} == {
        "path": "", "did": "s:f", "state": "AVAILABLE", "exit": 0, "type": "FILE",
        "rule_id": None, "expires_at": None, "since": None, "files": 1, "files_here": 1,
        "files_stuck": 0, "bytes": 5, "bytes_here": 5, "eta": None, "error": None,
    }  # fmt: skip
    assert (dataset["path"], dataset["exit"]) == (f"{TOP}/s/d", 3)
    assert (dataset["files_here"], dataset["files_stuck"]) == (6, 4)
    assert dataset["error"] == "6 of 10 files are here, 4 stuck: E"
    assert missing.keys() == file.keys()
    assert (missing["state"], missing["exit"]) == ("FAILED", 1)
    assert missing["error"] == "No such file or directory"


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupted_get_says_that_the_rules_stay(
    mount: FakeMount, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    mount.add("f")
    mount.add("g", on_request=lambda mount: mount.tell("g", "AVAILABLE"))
    mount.at(3, interrupt)
    assert get(mount, "f", "g", as_json=as_json) == 130
    out, err = capsys.readouterr()
    assert "interrupted; 1 path on the way, whose rules stay" in err
    assert "Traceback" not in err
    if as_json:
        assert [one["exit"] for one in json.loads(out)] == [130, 0]


def test_an_interrupted_wait(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    mount.add("f")
    mount.at(3, interrupt)
    assert wait(mount, "f") == 130
    assert capsys.readouterr().err.strip() == "rucio-fs: interrupted; 1 path on the way"


def test_late_paths_are_not_all_named(mount: FakeMount, capsys: pytest.CaptureFixture[str]) -> None:
    names: Sequence[str] = [f"f{number}" for number in range(30)]
    for name in names:
        mount.add(name)
    assert wait(mount, *names, timeout=2) == 4
    said = errors(capsys)
    assert len(said) == 11
    assert said[-1] == "the time is over also for 20 more"
