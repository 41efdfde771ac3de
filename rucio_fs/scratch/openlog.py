"""Which files are open for writing, kept so that it outlives the process.  Blocking, but quick.

A file that was being written when the mount was killed is not whole, and must not be taken for
finished by the next one.  A line is written at the first open for writing and at the last close;
one write() of it outlives a kill, though not a power failure, which is recognised by itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from rucio_fs.diskcache.maps import this_boot

log = logging.getLogger(__name__)

_COMPACT_AT = 1 << 20  # bytes; some 10,000 files
_OPENED = re.compile(r"\+(\d+) (\".*\")")
_CLOSED = re.compile(r"-(\d+)")
_NOT_KNOWN = 0  # the number of a file that is about to be made; no file of a disk has it


class OpenLog:
    """The log at *path* of files below *tree*, from construction until `close`.

    *unfinished*: number -> path of what was not written to its end: it was open for writing when
    the last mount ended, or a write has failed.  *was_cut*: the machine itself went down under a
    mount, so that what was written may not be there.

    Raises: OSError
    """

    def __init__(self, path: Path, tree: Path) -> None:
        self._path = path
        self._open: dict[int, str] = {}
        found, self.was_cut = _read(path)
        self.unfinished = _locate(found, tree)
        self._fd = -1
        self._size = 0
        self._is_torn = False
        self._rewrite(is_durable=True)

    def making(self, path: str) -> None:
        """A file is about to be made at *path*, and to be `opened`; its number is not known yet.

        Raises: OSError, and then it must not be made
        """
        self._write(f"+{_NOT_KNOWN} {json.dumps(path)}\n")

    def not_made(self) -> None:
        """It was not made, or is not open for writing."""
        with contextlib.suppress(OSError):  # then what lies there is looked at once more
            self._write(f"-{_NOT_KNOWN}\n")

    def not_opened(self, ino: int) -> None:
        """It could not be opened after all."""
        if ino in self.unfinished:
            self._open.pop(ino, None)
        else:
            self.closed(ino)

    def opened(self, ino: int, path: str) -> None:
        """Its first open for writing.  Raises: OSError, and then it must not be written"""
        self._write(f"+{ino} {json.dumps(path)}\n")
        self._open[ino] = path

    def closed(self, ino: int) -> None:
        """Its last close, or it is gone: also of what an earlier mount left unfinished."""
        was_open = self._open.pop(ino, None) is not None
        if self.unfinished.pop(ino, None) is None and not was_open:
            return
        try:
            self._write(f"-{ino}\n")
            if self._size > _COMPACT_AT:
                self._rewrite()
        except OSError as exc:
            # The next mount takes the file for unfinished: it looks once more, and loses nothing.
            log.warning("%s: %s", self._path, exc.strerror)

    def left(self, ino: int, path: str) -> None:
        """Its last close, but not all of it could be written: as unfinished as after a kill."""
        self._open.pop(ino, None)
        self.unfinished[ino] = path

    def doubt(self, files: Mapping[int, str]) -> None:
        """*files*, by number, are as unfinished as those that were open; the others are trusted."""
        self.unfinished.update(files)
        self.trust()

    def trust(self) -> None:
        """All that was there when the machine went down has been looked at."""
        self.was_cut = False
        with contextlib.suppress(OSError):  # then it is looked at again
            self._rewrite()

    def close(self) -> None:
        """The mount ends well, and everything that was written is on disk.

        What is still open is unfinished all the same.
        """
        try:
            if not self.was_cut:  # else what is doubtful is still to be looked at
                self._write("end\n")
            os.fsync(self._fd)
        except OSError as exc:
            log.warning("%s: %s", self._path, exc.strerror)
        finally:
            os.close(self._fd)

    def _write(self, line: str) -> None:
        data = (b"\n" if self._is_torn else b"") + line.encode()
        self._is_torn = True
        written = os.write(self._fd, data)
        self._size += written
        if written != len(data):
            raise _no_space(self._path)
        self._is_torn = False

    def _rewrite(self, *, is_durable: bool = False) -> None:
        """Begin a new log with what still counts."""
        lines = [f"boot {this_boot()}\n"]
        if self.was_cut:
            lines.append("cut\n")
        for ino, path in {**self.unfinished, **self._open}.items():
            lines.append(f"+{ino} {json.dumps(path)}\n")
        data = "".join(lines).encode()
        new = self._path.with_name(f"{self._path.name}.new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, data) != len(data):
                raise _no_space(new)
            if is_durable:  # the last mount's "end" must not be what a power failure leaves
                os.fsync(fd)
            os.replace(new, self._path)
            if is_durable:
                sync_directory(self._path.parent)
        except OSError:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self._is_torn = fd, len(data), False


def sync_directory(path: str | Path) -> None:
    """Return when the names in the directory are on disk.  Raises: OSError"""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _no_space(path: Path) -> OSError:
    """What a write that was cut short means."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _read(path: Path) -> tuple[dict[int, str], bool]:
    """What was open at the end of the log, and whether the machine went down under it.

    Lines that are not whole say nothing.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}, False
    unfinished: dict[int, str] = {}
    boot, has_ended, was_cut = "", False, False
    for line in lines:
        if line[:1] in ("+", "-"):  # what was about to be made then is, or is not
            unfinished.pop(_NOT_KNOWN, None)
        if opened := _OPENED.fullmatch(line):
            with contextlib.suppress(ValueError):
                unfinished[int(opened[1])] = json.loads(opened[2])
        elif closed := _CLOSED.fullmatch(line):
            unfinished.pop(int(closed[1]), None)
        elif line.startswith("boot "):
            boot = line.removeprefix("boot ")
        elif line == "cut":
            was_cut = True
        elif line == "end":
            has_ended = True
    # Where boots cannot be told apart, every one that did not end well counts as cut.
    is_other_boot = boot != this_boot() or not boot
    return unfinished, not has_ended and (was_cut or is_other_boot)


def _locate(unfinished: Mapping[int, str], tree: Path) -> dict[int, str]:
    """The same with the paths of now: directories may have been moved, files removed."""
    found, moved = {}, set()
    for ino, path in unfinished.items():
        with contextlib.suppress(OSError, ValueError):
            there = os.lstat(tree / path).st_ino
            if ino in (there, _NOT_KNOWN):
                found[there] = path
                continue
        if ino != _NOT_KNOWN:
            moved.add(ino)
    if moved:
        for directory, _, names in os.walk(tree):
            for name in names:
                with contextlib.suppress(OSError):
                    path = os.path.join(directory, name)
                    ino = os.lstat(path).st_ino
                    if ino in moved:
                        found[ino] = os.path.relpath(path, tree)
    return found
