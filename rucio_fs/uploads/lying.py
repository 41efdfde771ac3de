"""Files that lie on a mounted RSE and are not in scratch: found, and prepared for their records.

Blocking, but for what asks Rucio.  Nothing is changed on storage.  Symbolic links are not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rucio_fs import filenames
from rucio_fs.did import DID
from rucio_fs.errors import BadName, Refused
from rucio_fs.uploads import naming, options
from rucio_fs.uploads.reading import adler32_of

_LONGEST_ID = 64  # characters


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants to have registered: *path* on this machine.

    *id* tells it from others.  What is "" follows from where it lies, and from the account.
    *lifetime* in s; None: for ever.
    """

    id: str
    path: Path
    is_recursive: bool = False
    scope: str = ""
    dataset: str = ""
    rse: str = ""
    rule: str = ""
    lifetime: int | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """Raises: Refused"""
        texts = {key: facts.get(key) or "" for key in ("id", "path", "scope", "dataset", "rse")}
        texts["rule"] = facts.get("rule") or ""
        lifetime = facts.get("lifetime")
        unknown = facts.keys() - texts.keys() - {"recursive", "lifetime"}
        if unknown or not all(isinstance(value, str) for value in texts.values()):
            raise Refused(f"register takes {', '.join(texts)}, recursive and lifetime")
        if not 0 < len(texts["id"]) <= _LONGEST_ID or not texts["path"].startswith("/"):
            raise Refused("register takes an id, and a path that begins with /")
        if lifetime is not None and (not isinstance(lifetime, int) or lifetime < 1):
            raise Refused(f"a rule lives for a whole number of seconds, not {lifetime!r}")
        path = Path(texts.pop("path"))
        return cls(
            path=path, is_recursive=facts.get("recursive") is True, lifetime=lifetime, **texts
        )


@dataclass(frozen=True, slots=True)
class Lying:
    """A file: where it is, what it is called below its scope, and what it was when it was seen."""

    path: Path
    name: str
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Tree:
    """The *files* of a request; *has_directories* is as `naming.arrange` takes it.

    *troubles* are what cannot be looked at, by path.
    """

    files: list[Lying] = field(default_factory=list)
    has_directories: dict[str, bool] = field(default_factory=dict)
    troubles: dict[Path, str] = field(default_factory=dict)


def find(request: Request, scope: str) -> Tree:
    """All files of *request*, which are called after *scope* and their way from its path.

    Raises: Refused (there is nothing that can be registered)
    """
    found = Tree()
    top = request.path
    try:
        status = top.lstat()
    except OSError as exc:
        raise Refused(f"{top}: {exc.strerror}") from exc
    start = filenames.encode(scope)
    if stat.S_ISREG(status.st_mode):
        found.files.append(_file(top, f"{start}/{top.name}", status))
        return found
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{top} is neither a file nor a directory")
    if not request.is_recursive:
        raise Refused(f"{top} is a directory: register it with -r")
    waiting = [(top, f"{start}/{top.name}")]  # no recursion: a path may have 2,000 directories
    while waiting:
        directory, name = waiting.pop()
        inner = []
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as exc:
            found.troubles[directory] = exc.strerror or str(exc)
            continue
        for entry in entries:
            path, below = directory / entry.name, f"{name}/{entry.name}"
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as exc:
                found.troubles[path] = exc.strerror or str(exc)
                continue
            if stat.S_ISDIR(status.st_mode):
                inner.append((path, below))
            elif stat.S_ISREG(status.st_mode):
                found.files.append(_file(path, below, status))
        found.has_directories[name] = bool(inner)
        waiting += reversed(inner)
    return found


def _file(path: Path, name: str, status: os.stat_result) -> Lying:
    return Lying(path, name, status.st_size, status.st_mtime_ns)


def read(file: Lying) -> str:
    """adler32 of a file.  Raises: Refused (it cannot be read, or changes)"""
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as opened:
            value = adler32_of(opened, file.size)
            status = os.fstat(fd)
    except OSError as exc:
        raise Refused(f"{file.path} cannot be read: {exc.strerror}") from exc
    if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        raise Refused(f"{file.path} changes while it is read: register it when it is whole")
    return value


def named(file: Lying) -> DID:
    """The DID that *file* becomes.  Raises: BadName"""
    return naming.did_of(file.name)


def dataset_of(request: Request, scope: str) -> DID | None:
    """The one that the request names, if it does.  Raises: Refused"""
    try:
        found = options.dataset_did(scope, request.dataset) if request.dataset else None
    except BadName as exc:
        raise Refused(f"--dataset {request.dataset}: {exc}") from exc
    return None if found is None else DID(*found)


def one_scope(scopes: Sequence[str], everybodys: str) -> str:
    """The scope of an account that has one.  Raises: Refused"""
    own = [one for one in scopes if one != everybodys]
    if len(own) == 1:
        return own[0]
    shown = ", ".join(own[:5]) + (", ..." if len(own) > 5 else "")
    raise Refused(f"say which scope it belongs in (--scope): {shown or 'the account has none'}")
