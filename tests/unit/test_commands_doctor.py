"""`rucio-fs doctor`: what it says of files, which replicas it suspects, and what it reports."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rucio_fs import cli
from rucio_fs.commands import doctoring, touching
from rucio_fs.commands.asking import question
from rucio_fs.commands.once import Outcome, ask_each
from rucio_fs.commands.suspecting import Suspect, suspects
from rucio_fs.commands.touching import Inspection, Kernel
from tests.unit.commands_fakes import TOP, FakeAsker, FakeEntry, FakeMount, locate

F = Path(f"{TOP}/s/f")
COPY = "/store/f"
UNUSABLE = (
    "s:f is AVAILABLE in Rucio, but its local copy cannot be used: COLO: /store/f {}."
    " Tell the operators of the RSE"
)
WRONG = "s:f from REM1, REM-2: the file has adler32 00000001, the catalogue says 00000002"
REASON = "wrong bytes from REM1, REM-2: the file has adler32 00000001, the catalogue says 00000002"
Output = pytest.CaptureFixture[str]


class Rig:
    """A mount with the file s:f, at COLO beside it and at REM1, REM-2 and REM elsewhere."""

    def __init__(self) -> None:
        self.mount = FakeMount()
        self.entry = self.add("f")
        self.problems: list[dict[str, Any]] = []
        self.tell()

    def add(self, name: str) -> FakeEntry:
        self.mount.local[f"/store/{name}"] = Inspection()
        entry = self.mount.add(
            name,
            attributes={
                "type": "FILE", "bytes": "1000", "state": "AVAILABLE", "locality": "LOCAL",
                "replicas": "COLO=AVAILABLE,REM=AVAILABLE,REM-2=AVAILABLE,REM1=UNAVAILABLE",
                "source": "COLO", "local_path": f"/store/{name}", "cached_bytes": "500",
            },
        )  # fmt: skip
        entry.progress = None
        return entry

    def tell(self, *problems: tuple[str, str, str]) -> None:
        """The mount knows *problems*: DID, state and words."""
        self.problems = [
            {"time": "2026-11-21T00:00:00Z", "did": did, "rule_id": None, "state": s, "error": e}
            for did, s, e in problems
        ]
        self.mount.files[f"{TOP}/.rucio/problems"] = json.dumps(self.problems).encode()

    def lose(self) -> None:
        """The local copy is not there, which the mount has found too."""
        self.mount.local[COPY] = Inspection("does not exist", is_damage=True)
        self.entry.attributes["error"] = UNUSABLE.format("does not exist")
        del self.entry.attributes["source"]

    def damage(self) -> None:
        """The local copy is not there, and the file is streamed from REM in its place."""
        self.lose()
        self.entry.attributes |= {
            "local_error": self.entry.attributes.pop("error"),
            "source": "REM",
        }

    def doctor(
        self, *paths: Path, reports: bool = False, as_json: bool = False, hangs: bool = False
    ) -> int:
        def ask(
            operation: str,
            paths: Sequence[Path],
            arguments: Sequence[Mapping[str, object]] | None,
        ) -> list[Outcome]:
            return ask_each(
                operation, paths, arguments, locate=locate,
                make_asker=lambda _: FakeAsker(self.mount), alive=0.01,
            )  # fmt: skip

        self.mount.hangs = hangs
        return doctoring.doctor(paths or [F], reports=reports, as_json=as_json, ask=ask)

    def found(self) -> dict[str, Any]:
        answer = touching.answer(self.mount, question(TOP, "examine", str(F), {}))
        return dict(answer["found"])

    @property
    def declared(self) -> list[tuple[str, dict[str, str]]]:
        """Files and what was told of them."""
        assert {name for _, name, _ in self.mount.sets} <= {"suspicious"}
        return [(path, json.loads(value)) for path, _, value in self.mount.sets]


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- what is shown -------------------------------------------------------------------------------


def test_a_file_that_is_well(rig: Rig, capsys: Output) -> None:
    rig.entry.attributes |= {"rule_id": "r1", "expires_at": "2026-12-01T00:00:00Z"}
    rig.tell(("s:other", "WRONG_BYTES", WRONG), ("s:f", "STUCK", "it was\nstuck"))
    assert rig.doctor() == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        str(F),
        "  DID        s:f",
        "  size       1.0 kB",
        "  state      AVAILABLE",
        "  locality   LOCAL",
        "  read from  COLO",
        "  replica    COLO AVAILABLE",
        "  replica    REM AVAILABLE",
        "  replica    REM-2 AVAILABLE",
        "  replica    REM1 UNAVAILABLE",
        "  local copy /store/f: can be read, and has the right size",
        "  cached     500 B",
        "  rule       r1",
        "  expires    2026-12-01T00:00:00Z",
        "  problem    2026-11-21T00:00:00Z STUCK: it was stuck",
    ]
    assert err == ""


def test_a_copy_that_is_lost(rig: Rig, capsys: Output) -> None:
    rig.lose()
    assert rig.doctor() == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  local copy /store/f: does not exist" in lines
    assert f"  error      {UNUSABLE.format('does not exist')}" in lines
    assert lines[-1] == "  suspect    COLO: /store/f: does not exist"
    assert rig.declared == []


def test_a_copy_that_is_lost_of_a_file_that_can_be_read(rig: Rig, capsys: Output) -> None:
    rig.damage()
    assert rig.doctor() == 3
    lines = capsys.readouterr().out.splitlines()
    assert "  read from  REM" in lines
    assert "  local copy /store/f: does not exist" in lines
    assert lines[-1] == "  suspect    COLO: /store/f: does not exist"
    assert not [line for line in lines if line.startswith("  error")]


def test_a_document_for_programs(rig: Rig, capsys: Output) -> None:
    rig.tell(("s:f", "WRONG_BYTES", WRONG))
    assert rig.doctor(F, Path("/etc"), as_json=True) == 3
    found, elsewhere = json.loads(capsys.readouterr().out)
    assert (found["path"], found["exit"], found["did"]) == (str(F), 3, "s:f")
    assert (found["bytes"], found["cached_bytes"], found["rule_id"]) == (1000, 500, None)
    assert found["replicas"]["REM1"] == "UNAVAILABLE"
    assert found["local"] == {"error": None, "is_damage": False}
    assert found["problems"] == rig.problems
    assert found["suspects"] == [
        {"rse": rse, "reason": REASON, "is_declared": False} for rse in ("REM-2", "REM1")
    ]
    assert elsewhere == {
        "path": "/etc", "exit": 2, "error": "not inside a rucio-fs mount",
    }  # fmt: skip


def test_what_cannot_be_examined(rig: Rig, capsys: Output) -> None:
    rig.mount.add("a b", is_dir=True)
    paths = [Path(f"{TOP}/s/a b"), Path(f"{TOP}/s/nope"), Path(f"{TOP}/.rucio/status")]
    assert rig.doctor(*paths) == 1
    out, err = capsys.readouterr()
    assert out == ""
    run = f"find '{TOP}/s/a b' -type f -exec rucio-fs doctor {{}} +"
    assert err.splitlines() == [
        f"rucio-fs: error: {paths[0]}: is a directory, and files are looked at; run: {run}",
        f"rucio-fs: error: {paths[1]}: No such file or directory",
        f"rucio-fs: error: {paths[2]}: not from Rucio",
    ]
    assert rig.doctor(hangs=True) == 1
    assert "does not answer; run: rucio-fs umount" in capsys.readouterr().err
    rig.mount.hangs = False
    rig.mount.is_dead = True
    assert rig.doctor() == 1
    assert "has died" in capsys.readouterr().err


def test_a_mount_without_attributes(rig: Rig, capsys: Output) -> None:
    rig.entry.did = None
    rig.mount.files[f"{TOP}/.rucio/status"] = b'{"opening": {"policy": "stream"}}'
    assert rig.doctor() == 1
    assert capsys.readouterr().err.endswith("was made with xattrs=false, so it cannot be asked\n")


def test_problems_that_cannot_be_read_are_none(rig: Rig) -> None:
    for text in (b"", b"{", b"[7]", b'{"did": 1}'):
        rig.mount.files[f"{TOP}/.rucio/problems"] = text
        assert rig.found()["problems"] == []
    del rig.mount.files[f"{TOP}/.rucio/problems"]
    assert rig.found()["problems"] == []


# --- which replicas are suspected ----------------------------------------------------------------


def test_those_that_gave_wrong_bytes(rig: Rig) -> None:
    rig.tell(
        ("s:f", "WRONG_BYTES", WRONG),
        ("s:f", "WRONG_BYTES", "s:f from REM-2: older words"),
        ("s:f", "WRONG_BYTES", "s:f from GONE, the cache: words"),
        ("s:f", "STUCK", "s:f does not come from REM"),
    )
    assert suspects(rig.found()) == [Suspect("REM-2", REASON), Suspect("REM1", REASON)]


def test_a_did_that_is_called_as_an_rse_is(rig: Rig) -> None:
    found = rig.found() | {"did": "REM:COLO"}
    problem = {"state": "WRONG_BYTES", "error": "REM:COLO from REM1: words"}
    assert suspects(found | {"problems": [problem]}) == [
        Suspect("REM1", "wrong bytes from REM1: words")
    ]


def test_a_local_copy_that_both_find_damaged(rig: Rig) -> None:
    rig.lose()
    assert suspects(rig.found()) == [Suspect("COLO", "/store/f: does not exist")]
    # The mount can use it, so it is this user's own view that lacks it.
    del rig.entry.attributes["error"]
    assert suspects(rig.found()) == []


def test_a_storage_that_is_away_makes_no_suspect(rig: Rig) -> None:
    rig.lose()
    rig.mount.local[COPY] = Inspection("not even its directory exists")
    assert suspects(rig.found()) == []


def test_an_rse_that_rucio_does_not_list_is_no_suspect(rig: Rig) -> None:
    rig.lose()
    rig.entry.attributes["replicas"] = "REM=AVAILABLE"
    assert suspects(rig.found()) == []
    del rig.entry.attributes["replicas"]
    assert suspects(rig.found()) == []


# --- what is reported ----------------------------------------------------------------------------


def test_nothing_is_reported_without_the_option(rig: Rig) -> None:
    rig.lose()
    rig.tell(("s:f", "WRONG_BYTES", WRONG))
    rig.doctor()
    rig.doctor(as_json=True)
    assert rig.declared == []


def test_every_suspect_is_reported_once(rig: Rig, capsys: Output) -> None:
    rig.lose()
    rig.tell(("s:f", "WRONG_BYTES", WRONG))
    rig.add("well")
    same = Path(f"{TOP}/s/same")
    rig.mount.entries[str(same)] = rig.entry  # the file by another path
    assert rig.doctor(F, same, Path(f"{TOP}/s/well"), reports=True) == 3
    assert rig.declared == [
        ("f", {"rse": "COLO", "reason": "/store/f: does not exist"}),
        ("f", {"rse": "REM-2", "reason": REASON}),
        ("f", {"rse": "REM1", "reason": REASON}),
    ]
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count(f"  declared   REM1: {REASON}\n") == 2
    assert "suspect" not in out


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENODATA, "no such replica by a PFN of it; the mount's log says why"),
        (errno.EACCES, "Rucio does not let this account declare replicas suspicious"),
        (errno.EREMOTEIO, "the declaration may have been made or not; the mount's log says why"),
        (errno.ETIMEDOUT, "the declaration may have been made or not; the mount's log says why"),
        (errno.EINVAL, "Rucio refuses the declaration; the mount's log says why"),
        (errno.ENOTSUP, "older than this one; mount again"),
        (errno.EIO, "the mount failed to declare it; the mount's log says why"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_a_report_that_fails(rig: Rig, capsys: Output, number: int, words: str) -> None:
    rig.tell(("s:f", "WRONG_BYTES", "s:f from REM-2: words"))
    rig.entry.refuses["suspicious"] = number
    assert rig.doctor(reports=True) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"rucio-fs: error: {F}: replica at REM-2: ")
    assert err.endswith(f"{words}\n")
    assert len(err.splitlines()) == 1
    assert "  suspect    REM-2: wrong bytes from REM-2: words" in out
    assert rig.doctor(reports=True, as_json=True) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["suspects"][0]["is_declared"] is False


# --- a look at the storage -----------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(b"x" * 10_000)
    return tmp_path


def test_a_local_file_that_is_right(store: Path) -> None:
    (store / "empty").touch()
    assert Kernel().inspect(str(store / "f"), 10_000) == Inspection()
    assert Kernel().inspect(str(store / "empty"), 0) == Inspection()


def test_a_local_file_that_is_damaged(store: Path) -> None:
    os.mkfifo(store / "fifo")
    (store / "d").mkdir()
    for name, error in [
        ("f", "has 10000 bytes, not 7"), ("fifo", "is not a regular file"),
        ("d", "is not a regular file"), ("nope", "does not exist"),
    ]:  # fmt: skip
        assert Kernel().inspect(str(store / name), 7) == Inspection(error, is_damage=True)


def test_a_storage_that_is_not_there_is_no_damage(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Kernel().inspect(str(store / "not-mounted" / "f"), 7)
    assert not found.is_damage
    assert "is the storage mounted here?" in (found.error or "")
    for number in (errno.EACCES, errno.ESTALE, errno.EIO):

        def fail(*_: object, error: int = number) -> int:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "open", fail)
        found = Kernel().inspect(str(store / "f"), 7)
        assert found == Inspection(os.strerror(number), is_damage=number == errno.EIO)


def test_a_storage_that_hangs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def inspect(path: str, size: int) -> Inspection:
        answers.wait()
        return Inspection()

    monkeypatch.setattr(touching, "_STORAGE", 0.01)
    monkeypatch.setattr(touching, "_inspect", inspect)
    found = Kernel().inspect(str(store / "f"), 7)
    answers.set()
    assert found == Inspection("the storage did not answer in 0.01 s")


# --- the command line ----------------------------------------------------------------------------


def test_wrong_calls(tmp_path: Path, capsys: Output) -> None:
    assert cli.main(["doctor"]) == 2
    assert "Missing argument 'PATH...'" in capsys.readouterr().err
    assert cli.main(["doctor", os.fspath(tmp_path)]) == 2
    assert capsys.readouterr().err == f"rucio-fs: error: {tmp_path}: not inside a rucio-fs mount\n"
