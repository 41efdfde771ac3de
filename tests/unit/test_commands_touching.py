"""What the child does to a mount, and how it says what went wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from rucio_fs.commands import asking, touching
from rucio_fs.errors import MountError, UsageError
from tests.unit.commands_fakes import TOP, FakeMount, progress

DEADLINE = 30.0


@pytest.fixture
def mount() -> FakeMount:
    return FakeMount()


def ask(mount: FakeMount, operation: str, path: str, **arguments: object) -> dict[str, Any]:
    return touching.answer(mount, asking.question(TOP, operation, path, arguments))


def failure(mount: FakeMount, operation: str, path: str, **arguments: object) -> str:
    answer = ask(mount, operation, path, **arguments)
    assert answer["exit"] == 1
    return str(answer["failed"])


def request(mount: FakeMount, name: str, **more: Any) -> dict[str, Any]:
    arguments = {"recursive": True, "lifetime": None} | more
    return ask(mount, "request", f"{TOP}/s/{name}", **arguments)


def test_a_request(mount: FakeMount) -> None:
    mount.add("f", size=7)
    mount.add("d", is_dir=True)
    assert request(mount, "f", recursive=False)["found"] == {
        "is_dir": False, "bytes": 7, "did": "s:f",
    }  # fmt: skip
    assert request(mount, "d", lifetime=3600.0)["found"]["is_dir"]
    assert mount.sets == [("f", "request", "1"), ("d", "request", '{"lifetime": 3600.0}')]


def test_a_directory_needs_r(mount: FakeMount) -> None:
    mount.add("d", is_dir=True)
    for answer in (
        request(mount, "d", recursive=False),
        ask(mount, "first_look", f"{TOP}/s/d", recursive=False),
    ):
        assert answer["exit"] == 2
        assert "-r" in answer["failed"]
    assert mount.sets == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EDQUOT, "the account's quota at the site is used up"),
        (errno.ENOSPC, "the site's storage takes nothing now"),
        (errno.ENODATA, "there is no replica anywhere"),
        (errno.EACCES, "Rucio does not let this account have it brought"),
    ],
)
def test_a_refusal_has_the_mount_s_words_or_ours(mount: FakeMount, number: int, words: str) -> None:
    entry = mount.add("f", refuses={"request": number})
    assert request(mount, "f") == {"errno": number, "failed": words, "exit": 1}
    entry.attributes["error"] = "s:f:\n too much"
    assert request(mount, "f")["failed"] == "s:f: too much"


def test_where_nothing_can_be_asked_for(mount: FakeMount) -> None:
    arguments = {"recursive": True, "lifetime": None}
    assert "the whole lake" in failure(mount, "request", TOP, **arguments)
    assert "a whole scope" in failure(mount, "request", f"{TOP}/s", **arguments)
    assert failure(mount, "request", f"{TOP}/.rucio/status", **arguments) == "not from Rucio"
    mount.add("f", refuses={"request": errno.ENOTSUP})
    assert "xattrs=false" in request(mount, "f")["failed"]
    mount.files[f"{TOP}/.rucio/status"] = b'{"opening": {"policy": "stream"}}'
    assert "opening.policy is stream" in request(mount, "f")["failed"]


def test_rucio_away_is_told_from_the_status(mount: FakeMount) -> None:
    mount.add("f", refuses={"request": errno.EREMOTEIO})
    status = {"rucio": {"host": "http://r", "trouble": "connection refused"}}
    mount.files[f"{TOP}/.rucio/status"] = json.dumps(status).encode()
    assert request(mount, "f")["failed"] == "Rucio (http://r) is away: connection refused"


def test_a_dead_mount_and_a_missing_name(mount: FakeMount) -> None:
    assert request(mount, "nope")["failed"] == "No such file or directory"
    mount.is_dead = True
    assert request(mount, "f")["failed"] == (
        f"the server of this mount has died; run: rucio-fs umount {TOP}"
    )


def test_a_look(mount: FakeMount) -> None:
    entry = mount.add("f")
    assert ask(mount, "look", f"{TOP}/s/f")["found"] == {"did": "s:f", "progress": entry.progress}
    entry.progress = None  # a mount that brings nothing
    entry.attributes["state"] = "AVAILABLE"
    found = ask(mount, "look", f"{TOP}/s/f")["found"]
    assert found["progress"] == {"did": "s:f", "state": "AVAILABLE"}
    del entry.attributes["state"]
    assert "xattrs=false" in failure(mount, "look", f"{TOP}/s/f")


def test_a_file_that_is_here_needs_no_whole_look(mount: FakeMount) -> None:
    mount.add("f", size=7)
    path = f"{TOP}/s/f"
    assert ask(mount, "first_look", path, recursive=False)["found"]["progress"]["rule_id"] == "r1"
    mount.show("f", state="AVAILABLE")
    mount.looks.clear()
    assert ask(mount, "first_look", path, recursive=False)["found"]["progress"] == {
        "state": "AVAILABLE", "did": "s:f", "type": "FILE", "files": 1, "files_here": 1,
        "bytes": 7, "bytes_here": 7,
    }  # fmt: skip
    assert mount.looks == []


def test_release(mount: FakeMount) -> None:
    entry = mount.add("f", attributes={"expires_at": "2026-11-28T00:00:00Z"})
    found = ask(mount, "release", f"{TOP}/s/f")["found"]
    assert (found["did"], found["rule_id"]) == ("s:f", "r1")
    assert mount.sets == [("f", "release", "1")]
    entry.refuses["release"] = errno.ENODATA
    assert failure(mount, "release", f"{TOP}/s/f") == "no rule on it was made by rucio-fs"
    entry.refuses["release"] = errno.EACCES
    assert failure(mount, "release", f"{TOP}/s/f") == (
        "Rucio does not let this account delete rules; rule r1 stays until 2026-11-28T00:00:00Z"
    )


def test_a_rule_of_a_name_with_what_some_take_for_a_line_end_is_released(mount: FakeMount) -> None:
    mount.add("a\u2028b")
    event = json.dumps({"event": "released", "did": "s:a\u2028b"}, ensure_ascii=False)
    mount.release["a\u2028b"] = event.encode() + b"\n"
    assert ask(mount, "release", f"{TOP}/s/a\u2028b")["found"]["rules"] == 1


def test_a_rule_that_has_just_gone_is_released(mount: FakeMount) -> None:
    mount.add("f", refuses={"release": errno.ECANCELED})
    assert ask(mount, "release", f"{TOP}/s/f")["found"]["did"] == "s:f"
    mount.entries[f"{TOP}/s/f"].refuses["release"] = errno.EREMOTEIO
    assert "is away" in failure(mount, "release", f"{TOP}/s/f")


def test_describe_prefers_attributes_that_have_a_value(mount: FakeMount) -> None:
    mount.add("d", is_dir=True, attributes={"rule_url": "http://r/r1"})
    found = ask(mount, "describe", f"{TOP}/s/d")["found"]
    assert (found["bytes"], found["files"], found["rule_url"]) == (10_000, 10, "http://r/r1")
    assert found["replicas"] is None
    assert "a whole scope" in failure(mount, "describe", f"{TOP}/s")


def test_events_are_whole_lines_and_may_begin_anew(mount: FakeMount) -> None:
    path = f"{TOP}/.rucio/events"
    mount.files[path] = b"old\n"
    assert ask(mount, "events", path, offset=None)["found"] == {"text": "", "offset": 4}
    mount.files[path] += b"new\nhal"
    assert ask(mount, "events", path, offset=4)["found"] == {"text": "new\n", "offset": 8}
    mount.files[path] = b"anew\n"
    assert ask(mount, "events", path, offset=8)["found"] == {"text": "anew\n", "offset": 5}
    del mount.files[path]
    assert ask(mount, "events", path, offset=5)["found"] == {"text": "", "offset": 0}


def test_a_bug_is_a_failure_and_not_a_silence(mount: FakeMount) -> None:
    mount.add("f", progress=progress())
    mount.entries[f"{TOP}/s/f"].progress = {"did": object()}
    assert failure(mount, "look", f"{TOP}/s/f").startswith("internal error: TypeError")


# --- the child ---------------------------------------------------------------------------------


@pytest.fixture
def child(tmp_path: Path) -> Iterator[asking.Child]:
    one = asking.Child(str(tmp_path))
    yield one
    one.close()


def test_a_child_reads_files_also_of_odd_names(child: asking.Child, tmp_path: Path) -> None:
    names = ["plain", "new\nline", "\udcff", "ü"]
    for name in names:
        (tmp_path / name).write_text(ascii(name))
    futures = [child.ask("read", str(tmp_path / name)) for name in names]
    assert [future.result(DEADLINE)["text"] for future in futures] == [ascii(n) for n in names]


def test_a_child_answers_what_is_local_while_others_wait(
    child: asking.Child, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")  # whose open waits for a writer
    stuck = [child.ask("read", str(tmp_path / "fifo"))]
    missing = child.ask("look", str(tmp_path / "nope"))
    assert str(missing.exception(DEADLINE)) == "No such file or directory"
    assert isinstance(missing.exception(), MountError)
    assert not wait(stuck, 0).done


def test_a_wrong_call_is_a_usage_error(child: asking.Child, tmp_path: Path) -> None:
    future = child.ask("first_look", str(tmp_path), recursive=False)
    assert isinstance(future.exception(DEADLINE), UsageError)
    with pytest.raises(ValueError, match="rm"):
        child.ask("rm", str(tmp_path))


def test_a_child_that_is_killed(child: asking.Child, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    stuck = child.ask("read", str(tmp_path / "fifo"))
    child._process.send_signal(signal.SIGKILL)
    assert "has ended" in str(stuck.exception(DEADLINE))
    child._process.wait(DEADLINE)
    assert "has ended" in str(child.ask("read", "/").exception(DEADLINE))


def test_an_order_names_a_path_of_any_bytes(tmp_path: Path) -> None:
    board = tmp_path / "uploads"
    board.touch()
    order = os.fsdecode(b"retry m\xfcnze")
    asked = asking.question(str(tmp_path), "order", str(board), {"order": order})
    assert touching.answer(touching.Kernel(), json.loads(json.dumps(asked))) == {"found": {}}
    assert board.read_bytes() == b"retry m\xfcnze\n"
