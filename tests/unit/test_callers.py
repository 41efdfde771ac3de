"""Which program makes a request."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rucio_fs import callers
from rucio_fs.callers import NOBODY, Caller, programs


def test_a_program_goes_by_its_names() -> None:
    found = programs(os.getpid())
    assert (Path("/proc/self/comm").read_text().strip()) in found
    assert Path(os.readlink("/proc/self/exe")).name in found


def test_a_script_goes_by_its_interpreter_too(tmp_path: Path) -> None:
    script = tmp_path / "clamscan"
    script.write_text(f"#!{sys.executable}\ninput()\n")
    script.chmod(0o755)
    with subprocess.Popen([script], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        found: frozenset[str] = frozenset()
        while "clamscan" not in found:  # until it has become the script
            found = programs(process.pid)
        assert Path(sys.executable).resolve().name in found
        process.stdin.close()


def test_a_thread_goes_by_its_program_s_names_too() -> None:
    """An indexer's worker threads have names of their own, and ask with their own ids."""
    ready, done = threading.Event(), threading.Event()
    tids: list[int] = []

    def work() -> None:
        tids.append(threading.get_native_id())
        Path(f"/proc/self/task/{tids[0]}/comm").write_text("worker-1")
        ready.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    found = programs(tids[0])
    done.set()
    thread.join()
    assert "worker-1" in found
    assert Path("/proc/self/comm").read_text().strip() in found


def test_who_cannot_be_seen_has_no_name() -> None:
    assert programs(0) == frozenset()
    assert NOBODY == (0, 0)
    with subprocess.Popen(["true"]) as process:
        pass
    assert programs(process.pid) == frozenset()


def test_what_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel thread, or another user's program: its file cannot be seen."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text("Name:\tx\nTgid:\t5\nPid:\t7\n")
    (tmp_path / "7" / "comm").write_text("baloo_file_extr\n")
    monkeypatch.setattr(callers, "_PROC", tmp_path)
    assert programs(7) == {"baloo_file_extr"}
    (tmp_path / "7" / "status").write_bytes(b"Name:\t\xff\n")
    assert programs(7) == {"baloo_file_extr"}


def test_a_caller_is_a_thread_and_a_user() -> None:
    assert Caller(7, 1000) == (7, 1000)
