"""Does the same in several directories and tells what came of it: a program for another process.

    python posix_client.py DIRECTORY ...

Each line on stdin is a JSON array, an operation with its arguments; the answer is a JSON array of
one outcome for each directory.  Paths are relative to the directory; descriptors are numbered by
the asker.  An OSError is ``{"errno": "ENOENT"}``.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import mmap
import os
import stat
import sys
from collections.abc import Callable
from typing import Any

PAST_NS = 10**18  # times before 2001-09-09 are ones that somebody has set
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


class Place:
    """One directory and the descriptors that are open below it."""

    def __init__(self, top: str) -> None:
        self._top = self._root = top
        self._fds: dict[int, int] = {}

    def do(self, operation: str, *arguments: Any) -> object:
        method: Callable[..., object] = getattr(self, operation)
        try:
            return method(*arguments)
        except OSError as exc:
            return {"errno": errno.errorcode.get(exc.errno or 0, str(exc))}
        except ValueError as exc:  # mmap's own checks
            return {"error": str(exc)}
        except KeyError:
            return "not open"

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def begin(self, name: str) -> None:
        """Everything is below a new directory from now on."""
        self.close_all()
        self._root = f"{self._top}/{name}"
        os.mkdir(self._root)

    # --- descriptors ---------------------------------------------------------------------------

    def open(self, number: int, path: str, flags: int, mode: int) -> None:
        fd = os.open(self._path(path), flags, mode)
        if number in self._fds:
            os.close(self._fds[number])
        self._fds[number] = fd

    def close(self, number: int) -> None:
        os.close(self._fds.pop(number))

    def close_all(self) -> None:
        for number in list(self._fds):
            self.close(number)

    def pwrite(self, number: int, offset: int, size: int, seed: int) -> int:
        return os.pwrite(self._fds[number], _bytes(size, seed), offset)

    def write(self, number: int, size: int, seed: int) -> list[int]:
        """At its position, or at the end with O_APPEND."""
        fd = self._fds[number]
        return [os.write(fd, _bytes(size, seed)), os.lseek(fd, 0, os.SEEK_CUR)]

    def pread(self, number: int, offset: int, size: int) -> str:
        return _digest(os.pread(self._fds[number], size, offset))

    def seek_end(self, number: int) -> int | None:
        fd = self._fds[number]
        if stat.S_ISDIR(os.fstat(fd).st_mode):  # there it means something else on each disk
            return None
        return os.lseek(fd, 0, os.SEEK_END)

    def map(self, number: int, offset: int, size: int, seed: int, flush: bool) -> str:
        """Write through a shared mapping of the whole file, and read it back so."""
        with mmap.mmap(self._fds[number], 0, mmap.MAP_SHARED) as mapped:
            end = min(offset + size, len(mapped))
            if offset < end:
                mapped[offset:end] = _bytes(end - offset, seed)
            if flush:
                mapped.flush()
            return _digest(mapped[:])

    def ftruncate(self, number: int, size: int) -> None:
        os.ftruncate(self._fds[number], size)

    def fsync(self, number: int) -> None:
        os.fsync(self._fds[number])

    def fdatasync(self, number: int) -> None:
        os.fdatasync(self._fds[number])

    def fstat(self, number: int) -> dict[str, object]:
        return _shown(os.fstat(self._fds[number]))

    def fchmod(self, number: int, mode: int) -> None:
        os.fchmod(self._fds[number], mode)

    def futime(self, number: int, time_ns: int) -> None:
        os.utime(self._fds[number], ns=(time_ns, time_ns))

    def fgetxattr(self, number: int, name: str) -> str:
        return os.getxattr(self._fds[number], name).hex()

    def fsetxattr(self, number: int, name: str, size: int, flags: int) -> None:
        os.setxattr(self._fds[number], name, _bytes(size, size), flags)

    # --- paths ---------------------------------------------------------------------------------

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._path(path), size)

    def rename(self, old: str, new: str, flags: int) -> None:
        paths = os.fsencode(self._path(old)), os.fsencode(self._path(new))
        if _libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    def unlink(self, path: str) -> None:
        os.unlink(self._path(path))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._path(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._path(path))

    def mknod(self, path: str, mode: int) -> None:
        os.mknod(self._path(path), stat.S_IFREG | mode)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._path(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self._path(path))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._path(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._path(path), uid, gid)

    def utime(self, path: str, time_ns: int, follow: bool) -> None:
        os.utime(self._path(path), ns=(time_ns, time_ns), follow_symlinks=follow)

    def touch(self, path: str) -> None:
        os.utime(self._path(path))

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._path(path)))

    def stat(self, path: str) -> dict[str, object]:
        return _shown(os.stat(self._path(path)))

    def lstat(self, path: str) -> dict[str, object]:
        return _shown(os.lstat(self._path(path)))

    def access(self, path: str, mask: int) -> bool:
        return os.access(self._path(path), mask)

    def getxattr(self, path: str, name: str) -> str:
        return os.getxattr(self._path(path), name, follow_symlinks=False).hex()

    def setxattr(self, path: str, name: str, size: int, flags: int) -> None:
        os.setxattr(self._path(path), name, _bytes(size, size), flags, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._path(path), name, follow_symlinks=False)

    def listxattr(self, path: str) -> list[str]:
        names = os.listxattr(self._path(path), follow_symlinks=False)
        return sorted(name for name in names if name[:5] == "user." and name[:11] != "user.rucio.")

    # --- everything ----------------------------------------------------------------------------

    def tree(self) -> dict[str, object]:
        """All names with what they are and hold."""
        found: dict[str, object] = {}
        for directory, directories, files in os.walk(self._root):
            for name in [*directories, *files]:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                shown = _shown(status)
                if stat.S_ISLNK(status.st_mode):
                    shown["target"] = os.readlink(path)
                elif stat.S_ISREG(status.st_mode):
                    with open(path, "rb") as opened:
                        shown["content"] = _digest(opened.read())
                found[os.path.relpath(path, self._root)] = shown
        return found

    def all_open(self) -> dict[int, object]:
        """What every descriptor shows of its file."""
        return {number: self.fstat(number) for number in sorted(self._fds)}

    def times(self) -> dict[str, int]:
        """Modification times (ns) of everything."""
        return {
            os.path.relpath(path, self._root): os.lstat(path).st_mtime_ns
            for directory, directories, files in os.walk(self._root)
            for path in (os.path.join(directory, name) for name in [*directories, *files])
        }


def _bytes(size: int, seed: int) -> bytes:
    pattern = bytes((seed + i) % 251 for i in range(251))
    return (pattern * (size // 251 + 1))[:size]


def _digest(data: bytes) -> str:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()[:16]}"


def _shown(status: os.stat_result) -> dict[str, object]:
    """What two directories must agree on.  Times only if they were set: else they are now."""
    mtime_ns = status.st_mtime_ns
    return {
        "mode": oct(status.st_mode),
        "size": None if stat.S_ISDIR(status.st_mode) else status.st_size,
        "nlink": status.st_nlink,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": mtime_ns if mtime_ns < PAST_NS else "now",
    }


def main() -> None:
    os.umask(0o022)
    places = [Place(root) for root in sys.argv[1:]]
    for line in sys.stdin:
        operation, *arguments = json.loads(line)
        print(json.dumps([place.do(operation, *arguments) for place in places]), flush=True)


if __name__ == "__main__":
    main()
