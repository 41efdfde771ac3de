"""A mount that outlives the command which made it: a new process, and a wait until it serves.

The server is a new interpreter and not a fork, because threads and trio do not survive one.  It
receives the finished configuration on stdin, so it decides nothing anew, and reports on a pipe
with one line of JSON: `{}` when the mount answers, else its error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

from rucio_fs.config import Config, with_log_file
from rucio_fs.directories import default_log_file
from rucio_fs.errors import MountError, RucioFsError, UsageError
from rucio_fs.logs import cannot_write

_MODULE = "rucio_fs.background"  # __name__ is something else in the new process

log = logging.getLogger(_MODULE)

_EXIT_TIMEOUT = 5.0  # s between the end of the report and the end of a server that failed


def start(config: Config, mountpoint: Path) -> Path:
    """Serve *mountpoint* in a process of its own session; return its log once the mount answers.

    How long that takes is bounded by the deadlines of *config*: the server gives up by itself.

    Raises: UsageError or MountError with the server's own message.
    """
    log_file = config.log.file or default_log_file(mountpoint)
    output = _open_log(log_file)
    reading, writing = os.pipe()
    try:
        server = subprocess.Popen(
            # -P: with "/" in sys.path a late import would look into a mountpoint like /rucio,
            # and a server that asks its own mount waits for ever.
            [sys.executable, "-P", "-m", _MODULE, str(writing), str(mountpoint)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            cwd="/",  # so that no other filesystem is kept busy
            start_new_session=True,
        )
    finally:
        os.close(writing)
        os.close(output)
    with open(reading, "rb") as report:
        try:
            _hand_over(server, with_log_file(config, log_file))
            line = report.read()
        except KeyboardInterrupt:
            server.terminate()  # it has a session of its own and did not get the Ctrl-C
            raise
    _raise_failure(line, server, log_file)
    return log_file


def _open_log(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Append, so that logrotate's copytruncate works; names of files are not for everybody.
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        raise UsageError(cannot_write(path, exc)) from exc


def _hand_over(server: subprocess.Popen[bytes], config: Config) -> None:
    assert server.stdin is not None
    # If it died already, its exit status says why.
    with contextlib.suppress(BrokenPipeError), server.stdin as stdin:
        pickle.dump(config, stdin)


def _raise_failure(line: bytes, server: subprocess.Popen[bytes], log_file: Path) -> None:
    if not line:
        try:
            status = server.wait(_EXIT_TIMEOUT)
            ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        except subprocess.TimeoutExpired:
            ended = "without a word"
        raise MountError(f"the server ended {ended} before the mount answered; log: {log_file}")
    failure = json.loads(line)
    if failure.get("is_usage"):
        raise UsageError(failure["message"])
    if failure:
        raise MountError(f"{failure['message']} (log: {log_file})")


# --- in the new process ------------------------------------------------------------------------


class _Report:
    """The one line to the command that waits; afterwards there is nobody to tell."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # a program that we start would keep the command waiting
        self._fd: int | None = fd

    def ready(self) -> None:
        self._send({})

    def failed(self, message: str, *, is_usage: bool = False) -> None:
        self._send({"message": message, "is_usage": is_usage})

    def _send(self, report: dict[str, object]) -> None:
        if self._fd is None:
            return
        # The command may have been interrupted; that is no reason to end a mount that works.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._fd, json.dumps(report).encode())
        os.close(self._fd)
        self._fd = None


def _serve(report: _Report, mountpoint: Path) -> int:
    config = pickle.load(sys.stdin.buffer)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.stdin.fileno())
    os.close(null)
    try:
        from rucio_fs.mount import serve  # a fifth of a second, for this process only

        serve(config, mountpoint, report.ready)
    except RucioFsError as exc:
        log.error("%s", exc)
        report.failed(str(exc), is_usage=isinstance(exc, UsageError))
        return 1
    except Exception as exc:
        log.critical("internal error, please report it", exc_info=True)
        report.failed(f"internal error: {exc!r}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_serve(_Report(int(sys.argv[1])), Path(sys.argv[2])))
