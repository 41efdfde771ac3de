"""`rucio-fs register`, with a mount that answers as tests say."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from rucio_fs.commands import places
from rucio_fs.commands.registering import Registration
from rucio_fs.errors import MountError, UsageError

Facts = dict[str, Any]
FAILED_UPLOAD = {"path": "/nd/data/bad", "did": "s:bad", "state": "FAILED", "error": "no"}


class FakeClock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def wait(self, futures: Sequence[Future[Any]], seconds: float) -> None:
        self.time += seconds


class FakeMount:
    """Tells *answers*, one a look and the last for ever; a number is the errno of a refusal."""

    def __init__(self, *answers: Facts | int | None, refuses: int = 0) -> None:
        self.answers = list(answers)
        self.refuses = refuses
        self.orders: list[Facts] = []
        self.is_closed = False

    def ask(self, operation: str, path: str, **arguments: object) -> Future[Mapping[str, Any]]:
        assert path == "/mnt/.rucio/uploads"
        future: Future[Mapping[str, Any]] = Future()
        if operation == "order":
            word, _, text = str(arguments["order"]).partition(" ")
            assert word == "register"
            self.orders.append(json.loads(text))
            self._answer(future, self.refuses or {})
            return future
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, dict):
            registrations = [
                {"id": order["id"], "path": order["path"]} | answer for order in self.orders
            ]
            uploads = answer.get("uploads", [])
            text = json.dumps({"registrations": registrations, "uploads": uploads})
            answer = {"text": text}
        if answer is not None:
            self._answer(future, answer)
        return future

    def _answer(self, future: Future[Mapping[str, Any]], answer: Facts | int) -> None:
        if isinstance(answer, int):
            error = MountError(f"errno {answer}")
            error.errno = answer
            future.set_exception(error)
        else:
            future.set_result(answer)

    def close(self) -> None:
        self.is_closed = True


def told(left: int, failed: int = 0, *, is_looking: bool = False, **more: Any) -> Facts:
    numbers = {"files": 3, "left": left, "failed": failed, "bytes": 300, "bytes_left": 100 * left}
    return numbers | {"is_looking": is_looking} | more


def run(mount: FakeMount, *paths: str, **options: Any) -> int:
    given: dict[str, Any] = {
        "mountpoints": lambda: ["/mnt"],
        "make_asker": lambda mountpoint: mount,
        "clock": FakeClock(),
    }
    files = [Path(path) for path in paths or ("/nd/data",)]
    made = Registration(files, {"recursive": True}, **(given | options))
    code = made.run()
    assert mount.is_closed
    return code


def test_it_is_ordered_and_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    mount = FakeMount(told(0, is_looking=True), told(3), told(1), told(0))
    assert run(mount) == 0
    (order,) = mount.orders
    assert (order["path"], order["recursive"]) == ("/nd/data", True)
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("in the lake: 3 files, 300 B, in ")
    assert err == ""


def test_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FakeMount(told(3), told(0))) == 0
    assert capsys.readouterr().out.startswith("registering: 0 of 3 files")


def test_what_failed_before_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    earlier = {"path": "/nd/data/old", "state": "FAILED", "error": "old", "request": "other"}
    forgotten = {"path": "/nd/data/older", "state": "FAILED", "error": "older", "request": ""}
    nothing = {"files": 0, "left": 0, "failed": 0, "bytes": 0, "bytes_left": 0}
    answer = nothing | {"is_looking": False, "error": "Rucio knows no RSE 'NOPE'"}
    assert run(FakeMount(answer | {"uploads": [earlier, forgotten]})) == 1
    out, err = capsys.readouterr()
    assert out == "", "nothing is in the lake"
    assert err == "rucio-fs: error: /nd/data: Rucio knows no RSE 'NOPE'\n"


def test_what_failed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    mount = FakeMount(told(0, 2, uploads=[FAILED_UPLOAD]))
    assert run(mount) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "in the lake: 1 file"
    assert err.splitlines() == [
        "rucio-fs: error: /nd/data/bad: no",
        "rucio-fs: error: /nd/data: 1 more failed",
    ]


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (FakeMount(told(0, error="/nd/data is a directory: register it with -r")), "with -r"),
        (FakeMount(told(0), refuses=errno.ENOENT), "it has no scratch (scratch.enabled)"),
        (FakeMount(told(0), refuses=errno.EINVAL), "refuses the order; its log says why"),
        (FakeMount(told(0), refuses=errno.EACCES), "whoever made this mount gives the orders"),
        (FakeMount(told(3), errno.ENOENT), "this mount was ended before all was registered"),
        (FakeMount(told(3), {"id": "other"}), "this mount was ended before all was registered"),
        (FakeMount(told(3), {"is_looking": 0}), "is not what this rucio-fs understands"),
        (FakeMount(None), "/mnt"),
    ],
)
def test_a_mount_that_does_not_do_it(
    mount: FakeMount, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(mount, quiet=True) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert words in err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    mount = FakeMount(told(0, 1, uploads=[FAILED_UPLOAD]))
    assert run(mount, "/nd/data", "/nd/more", as_json=True) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["path"], first["registered"], first["failed"]) == ("/nd/data", 2, 1)
    assert first["failures"] == [FAILED_UPLOAD]
    assert (second["path"], second["failures"]) == ("/nd/more", [])


def test_which_mount() -> None:
    mount = FakeMount(told(0))
    with pytest.raises(UsageError, match="no rucio-fs mount on this machine"):
        Registration([Path("/x")], {}, mountpoints=list).run()
    with pytest.raises(UsageError, match="name one with --mount: /a, /b"):
        Registration([Path("/x")], {}, mountpoints=lambda: ["/a", "/b"]).run()
    where = places.Where("/mnt", "/mnt/scratch")
    two: dict[str, Any] = {"mountpoints": lambda: ["/a", "/mnt"], "locate": lambda path: where}
    assert run(mount, mountpoint=Path("/mnt/scratch"), quiet=True, **two) == 0


def test_ctrl_c_leaves_it_alone(capsys: pytest.CaptureFixture[str]) -> None:
    class Impatient(FakeClock):
        def wait(self, futures: Sequence[Future[Any]], seconds: float) -> None:
            raise KeyboardInterrupt

    assert run(FakeMount(told(3)), clock=Impatient(), quiet=True) == 130
    assert "it goes on in the mount" in capsys.readouterr().err
