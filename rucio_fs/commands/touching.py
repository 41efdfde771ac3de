"""The child process that touches a mount for the commands, and all they do to it.

Whoever asks a mount whose server hangs waits in the kernel, beyond kill -9; so the process that the
user sees never asks.  It starts this program with ``python -I -S`` (hence nothing but the standard
library), which reads requests and writes answers, one line of JSON each, and is left behind if need
be.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

AT_ONCE = 50
"""Requests to one mount at a time: as many rules as it makes with one request to Rucio."""

_PREFIX = "user.rucio."
_CHUNK = 1 << 20  # bytes in one read
_WRONG_CALL = 2
_DESCRIBED = (
    "did", "type", "bytes", "state", "locality", "replicas", "source", "rule_id", "rule_url",
    "expires_at", "error", "upload",
)  # fmt: skip

_EXAMINED = ("local_path", "local_error", "cached_bytes")
_STORAGE = 10.0  # s that a site's storage has to show a file
_BLOCK = 4096  # bytes that are read of a file to see whether it can be read

# What is said where the mount has no words of its own.
_REFUSALS = {
    errno.EDQUOT: "the account's quota at the site is used up",
    errno.ENOSPC: "the site's storage takes nothing now",
    errno.ENODATA: "there is no replica anywhere",
    errno.EACCES: "Rucio does not let this account have it brought",
}
_LOG = "the mount's log says why"
_MAYBE = f"Rucio did not answer, and the declaration may have been made or not; {_LOG}"
_UNDECLARED = {
    errno.ENODATA: f"Rucio finds no such replica by a PFN of it; {_LOG}",
    errno.EACCES: "Rucio does not let this account declare replicas suspicious",
    errno.EREMOTEIO: _MAYBE,
    errno.ETIMEDOUT: _MAYBE,
    errno.EINVAL: f"Rucio refuses the declaration; {_LOG}",
    errno.EIO: f"the mount failed to declare it; {_LOG}",
    errno.ENOTSUP: "the rucio-fs that serves this mount is older than this one; mount again",
}


class Filesystem(Protocol):
    """The system calls that are made; tests have one in memory."""

    def stat(self, path: str) -> os.stat_result: ...
    def getxattr(self, path: str, name: str) -> bytes: ...
    def setxattr(self, path: str, name: str, value: bytes) -> None: ...
    def read(self, path: str, offset: int) -> tuple[bytes, int]:
        """Bytes from *offset* to the end, and the size as fstat tells it."""
        ...

    def write(self, path: str, data: bytes) -> None: ...
    def inspect(self, path: str, size: int) -> Inspection:
        """Whether the file *path* of the site's storage has *size* bytes and can be read."""
        ...


class Inspection(NamedTuple):
    """What was found of a local file: the *error* if any, and whether the file itself is at fault.

    It is not where the way to it may be: a storage that is not mounted, rights, a server away.
    """

    error: str | None = None
    is_damage: bool = False


class Kernel:
    """The real system calls."""

    def stat(self, path: str) -> os.stat_result:
        return os.stat(path)

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(path, name)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(path, name, value)

    def read(self, path: str, offset: int) -> tuple[bytes, int]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            data = b""
            while chunk := os.pread(descriptor, _CHUNK, offset + len(data)):
                data += chunk
            return data, size
        finally:
            os.close(descriptor)

    def write(self, path: str, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def inspect(self, path: str, size: int) -> Inspection:
        found: list[Inspection] = []
        thread = threading.Thread(target=lambda: found.append(_inspect(path, size)), daemon=True)
        thread.start()
        thread.join(_STORAGE)
        silence = Inspection(f"the storage did not answer in {_STORAGE:g} s")
        return found[0] if found else silence


def _inspect(path: str, size: int) -> Inspection:
    try:
        # O_NONBLOCK: for a FIFO in the file's place.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        if os.path.isdir(os.path.dirname(path)):
            return Inspection("does not exist", is_damage=True)
        return Inspection("not even its directory exists: is the storage mounted here?")
    except OSError as exc:
        return Inspection(exc.strerror, is_damage=exc.errno == errno.EIO)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return Inspection("is not a regular file", is_damage=True)
        if found.st_size != size:
            return Inspection(f"has {found.st_size} bytes, not {size}", is_damage=True)
        for offset in (0, max(0, size - _BLOCK)):
            os.pread(descriptor, _BLOCK, offset)
    except OSError as exc:
        return Inspection(exc.strerror, is_damage=exc.errno == errno.EIO)
    finally:
        os.close(descriptor)
    return Inspection()


class Failure(Exception):
    """What was asked for cannot be had: one line for the user, and the command's exit code."""

    def __init__(self, words: str, exit_code: int = 1) -> None:
        super().__init__(words)
        self.words = " ".join(words.split())
        self.exit_code = exit_code


class Place:
    """One path in the mount at *mountpoint*."""

    def __init__(self, fs: Filesystem, mountpoint: str, path: str) -> None:
        self.fs = fs
        self.mountpoint = mountpoint
        self.path = path

    def attribute(self, name: str) -> str | None:
        """The value of user.rucio.*name*; None if there is none.  Raises: OSError."""
        try:
            return os.fsdecode(self.fs.getxattr(self.path, _PREFIX + name))
        except OSError as exc:
            if exc.errno in (errno.ENODATA, errno.ENOTSUP):
                return None
            raise

    def set(self, name: str, value: str) -> None:
        self.fs.setxattr(self.path, _PREFIX + name, os.fsencode(value))

    def words(self, name: str) -> str | None:
        """An attribute that explains a failure; None if that fails too."""
        try:
            return self.attribute(name)
        except OSError:
            return None

    def status(self) -> dict[str, Any]:
        """`.rucio/status` of the mount, told without Rucio; empty if it cannot be read."""
        try:
            found = json.loads(self.fs.read(f"{self.mountpoint}/.rucio/status", 0)[0])
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def failure(self, exc: OSError) -> Failure:
        """*exc* in words that say what to do."""
        match exc.errno:
            case errno.ENOTCONN:
                run = f"rucio-fs umount {self.mountpoint}"
                return Failure(f"the server of this mount has died; run: {run}")
            case errno.EREMOTEIO | errno.ETIMEDOUT:
                rucio = self.status().get("rucio") or {}
                trouble = rucio.get("trouble") or "no reason known"
                return Failure(f"Rucio ({rucio.get('host', 'host unknown')}) is away: {trouble}")
            case errno.ENOTSUP:
                return Failure(self.why_not_offered())
            case errno.EDQUOT | errno.ENOSPC | errno.ENODATA | errno.EACCES | errno.EIO:
                return Failure(self.words("error") or _REFUSALS.get(exc.errno, "it failed"))
            case errno.ENOENT | errno.ENOTDIR:
                return Failure(exc.strerror or str(exc))
            case _:
                return Failure(self.words("error") or exc.strerror or str(exc))

    def why_not_offered(self, *, is_to_come: bool = True) -> str:
        """Why it cannot be asked for, or if it is not *is_to_come*, why nothing is told of it."""
        inside = os.path.relpath(self.path, self.mountpoint).split("/")
        if inside[0] in (".rucio", "README.txt"):
            return "not from Rucio"
        if len(inside) == 1:
            what = "the whole lake" if inside[0] == "." else "a whole scope"
            return f"{what} is not brought; name datasets or containers in it"
        if is_to_come and self.status().get("opening", {}).get("policy") == "stream":
            return "this mount brings nothing: site.rse is not set, or opening.policy is stream"
        return "this mount was made with xattrs=false, so it cannot be asked"


# --- what is asked -----------------------------------------------------------------------------


def request(place: Place, *, recursive: bool, lifetime: float | None) -> dict[str, Any]:
    """Have it brought; return when the rule is there, not when the data is."""
    found = _kind(place, recursive)
    place.set("request", "1" if lifetime is None else json.dumps({"lifetime": lifetime}))
    return found | {"did": place.attribute("did")}


def first_look(place: Place, *, recursive: bool) -> dict[str, Any]:
    """What it is and how far."""
    found = _kind(place, recursive)
    # Of a file that is here that is all, and a quarter of the requests to Rucio.
    if not found["is_dir"] and place.attribute("state") == "AVAILABLE":
        did, size = place.attribute("did"), found["bytes"]
        here = {"state": "AVAILABLE", "did": did, "type": "FILE", "files": 1, "files_here": 1}
        return found | {"did": did, "progress": here | {"bytes": size, "bytes_here": size}}
    return found | look(place)


def look(place: Place) -> dict[str, Any]:
    """How far it is."""
    text = place.attribute("progress")
    if text is not None:
        progress = json.loads(text)
    else:  # a mount that brings nothing still knows what is here
        progress = {"did": place.attribute("did"), "state": place.attribute("state")}
        if progress["state"] is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    return {"did": progress.get("did"), "progress": progress}


def release(place: Place) -> dict[str, Any]:
    """Give back the rules on it that rucio-fs made."""
    did = place.attribute("did")
    rule_id, expires_at = place.words("rule_id"), place.words("expires_at")
    told = Place(place.fs, place.mountpoint, f"{place.mountpoint}/.rucio/events")
    offset = events(told, offset=None)["offset"]
    try:
        place.set("release", "1")
    except OSError as exc:
        if exc.errno == errno.ENODATA:
            raise Failure("no rule on it was made by rucio-fs") from exc
        if exc.errno in (errno.EACCES, errno.EPERM):
            rule = f"rule {rule_id}" if rule_id else "the rule"
            stays = f"stays until {expires_at}" if expires_at else "stays"
            raise Failure(f"Rucio does not let this account delete rules; {rule} {stays}") from exc
        if exc.errno != errno.ECANCELED:  # the rule has just gone, which is what was asked for
            raise
    lines = map(json.loads, filter(None, events(told, offset=offset)["text"].split("\n")))
    rules = sum(one["event"] == "released" and one["did"] == did for one in lines)
    return {"did": did, "rule_id": rule_id, "state": place.words("state"), "rules": rules}


def describe(place: Place) -> dict[str, Any]:
    """All that is known of it; None for what is not."""
    found: dict[str, Any] = {name: place.attribute(name) for name in _DESCRIBED}
    if found["did"] is None:
        raise Failure(place.why_not_offered(is_to_come=False))
    progress = place.attribute("progress")
    known = {name: value for name, value in found.items() if value is not None}
    return found | (json.loads(progress) if progress else {}) | known


def examine(place: Place) -> dict[str, Any]:
    """All that is known of a file, a look at its local copy, and the problems there were."""
    if stat.S_ISDIR(place.fs.stat(place.path).st_mode):
        run = f"find {shlex.quote(place.path)} -type f -exec rucio-fs doctor {{}} +"
        raise Failure(f"is a directory, and files are looked at; run: {run}", _WRONG_CALL)
    found = describe(place) | {name: place.attribute(name) for name in _EXAMINED}
    local = None
    if found["local_path"] is not None:
        local = place.fs.inspect(found["local_path"], int(found["bytes"] or 0))._asdict()
    return found | {"local": local, "problems": _problems(place, found["did"])}


def _problems(place: Place, did: str) -> list[dict[str, Any]]:
    """The newest first; none if the mount does not tell."""
    try:
        found = json.loads(place.fs.read(f"{place.mountpoint}/.rucio/problems", 0)[0])
        return [problem for problem in found if problem["did"] == did]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def suspect(place: Place, *, rse: str, reason: str) -> dict[str, Any]:
    """Have the replica of a file at *rse* declared suspicious."""
    try:
        place.set("suspicious", json.dumps({"rse": rse, "reason": reason}))
    except OSError as exc:
        words = _UNDECLARED.get(exc.errno or 0)
        if words is None:
            raise
        raise Failure(words) from exc
    return {}


def order(place: Place, *, order: str) -> dict[str, Any]:
    """Write an order into a control file; return when it is carried out or has begun."""
    place.fs.write(place.path, os.fsencode(f"{order}\n"))
    return {}


def refresh(place: Place) -> dict[str, Any]:
    """Have Rucio asked again about it."""
    try:
        place.set("refresh", "1")
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            raise Failure(
                "cannot be refreshed by itself (not from Rucio, or mounted with xattrs=false);"
                f" to refresh the whole mount, run: echo 1 > {place.mountpoint}/.rucio/refresh"
            ) from exc
        raise
    return {}


def read(place: Place) -> dict[str, Any]:
    """The text of a small file."""
    return {"text": place.fs.read(place.path, 0)[0].decode(errors="replace")}


def events(place: Place, *, offset: int | None) -> dict[str, Any]:
    """Whole lines of `.rucio/events` from *offset* on, and where they end; None: only the end.

    A mount without that file has no lines, but still answers.
    """
    try:
        if offset is None:
            return {"text": "", "offset": place.fs.stat(place.path).st_size}
        data, size = place.fs.read(place.path, offset)
        if size < offset:  # it began anew
            offset = 0
            data, _ = place.fs.read(place.path, 0)
    except FileNotFoundError:
        return {"text": "", "offset": 0}
    lines = data[: data.rfind(b"\n") + 1]
    return {"text": lines.decode(errors="replace"), "offset": offset + len(lines)}


def _kind(place: Place, recursive: bool) -> dict[str, Any]:
    found = place.fs.stat(place.path)
    is_dir = stat.S_ISDIR(found.st_mode)
    if is_dir and not recursive:
        raise Failure("is a directory; name it with -r to mean all that is in it", _WRONG_CALL)
    return {"is_dir": is_dir, "bytes": None if is_dir else found.st_size}


OPERATIONS: Mapping[str, Callable[..., dict[str, Any]]] = {
    operation.__name__: operation
    for operation in (
        *(request, first_look, look, release, describe, examine, suspect, order, refresh),
        *(read, events),
    )
}
LOCAL = frozenset({"read", "events"})
"""What a mount answers without Rucio: it has a thread of its own, and tells who is alive."""


# --- the program -------------------------------------------------------------------------------


def answer(fs: Filesystem, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is *asked*; return the answer or the failure, for one line of JSON."""
    place = Place(fs, asked["mountpoint"], asked["path"])
    try:
        try:
            return {"found": OPERATIONS[asked["operation"]](place, **asked["arguments"])}
        except OSError as exc:
            return {"errno": exc.errno, **_failed(place.failure(exc))}
    except Failure as exc:
        return _failed(exc)
    except Exception as exc:
        return _failed(Failure(f"internal error: {exc!r}"))


def _failed(failure: Failure) -> dict[str, Any]:
    return {"failed": failure.words, "exit": failure.exit_code}


def main() -> None:
    """Serve requests from stdin until it is closed."""
    lock = threading.Lock()

    def serve(asked: Mapping[str, Any]) -> None:
        line = json.dumps({"id": asked["id"], **answer(Kernel(), asked)})
        with lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    asking, reading = ThreadPoolExecutor(AT_ONCE), ThreadPoolExecutor(1)
    for line in sys.stdin:
        asked = json.loads(line)
        pool = reading if asked["operation"] in LOCAL else asking
        pool.submit(serve, asked)
    os._exit(0)  # the threads may wait for a server that hangs


if __name__ == "__main__":
    main()
