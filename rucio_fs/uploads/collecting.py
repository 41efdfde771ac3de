"""What lies in a directory of staging: files, options, sidecars.  Blocking; looks, changes nothing.

Extended attributes of the staging disk hold what users said with ``setfattr -n user.rucio.KEY``.
Symbolic links are not followed: they may lead out of staging, to what nobody wants uploaded.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rucio_fs.errors import Refused
from rucio_fs.uploads import options
from rucio_fs.uploads.options import FILE, METADATA, Options

log = logging.getLogger(__name__)

KEPT = "user.rucio-fs."
"""Begins the names of attributes on the staging disk that hold options."""

# What programs leave behind for a moment, or that means nothing elsewhere.
_PASSING = (".nfs", ".fuse_hidden", ".~lock.")
_PASSING_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # say nothing of it
_LONGEST_OPTIONS = 1 << 16  # bytes of a .rucio-upload.toml
_LONGEST_METADATA = 1 << 20  # bytes of a sidecar
_DEEPEST_METADATA = 32  # objects and lists in one another; json itself gives up at some hundred


@dataclass(frozen=True, slots=True)
class Found:
    """A file at *path* below the tree, as it was seen.  *trouble*: why it cannot be uploaded.

    It *is_as_wanted* if its user has said of this very file that it is to be uploaded now.
    """

    path: str
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    options: Options = field(default_factory=Options)
    metadata: dict[str, Any] | None = None
    trouble: str = ""
    is_as_wanted: bool = False


@dataclass(slots=True)
class Collected:
    """The *files* below a directory; *has_directories* says of each whether others are in it that
    are uploaded, too.
    """

    files: list[Found] = field(default_factory=list)
    has_directories: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Said:
    """What counts for the files of a directory.  *trouble*: what cannot be understood of it."""

    options: Options
    trouble: str = ""


def collect(tree: Path, top: str, base: Options, *, deep: bool) -> Collected:
    """All that is to be uploaded in the directory *top* of *tree*; with *deep* also further down.

    *base* is what counts where users have said nothing.  What vanishes meanwhile is left out.
    """
    found = Collected()
    said = _Said(base)
    for directory in options.directories(f"{top}/"):
        said = _nearer(tree, directory, said)
    waiting = [(top, said)]  # no recursion: a path may have 2,000 directories
    while waiting:
        directory, said = waiting.pop()
        entries = _entries(tree / directory)
        if entries is None:
            continue
        names = [name for name, status in entries.items() if stat.S_ISDIR(status.st_mode)]
        paths = [f"{directory}/{name}" for name in names]
        inner = [(path, _nearer(tree, path, said)) for path in paths]
        # What is never uploaded is no directory of the lake.
        found.has_directories[directory] = any(one.options.upload != "never" for _, one in inner)
        found.files += _files(tree, directory, entries, said)
        if deep:
            waiting += reversed(inner)
    return found


def tops(tree: Path, scope: str | None = None) -> list[str]:
    """All that is uploaded as one: scopes, and the directories below them; those of *scope*."""
    found = []
    tree = tree.resolve()  # it may be a link to where the files lie
    for one in _directories(tree) if scope is None else [scope]:
        found.append(one)
        found += [f"{one}/{name}" for name in _directories(tree / one)]
    return found


def _directories(path: Path) -> list[str]:
    entries = _entries(path) or {}
    return [name for name, status in entries.items() if stat.S_ISDIR(status.st_mode)]


def _entries(path: Path) -> dict[str, os.stat_result] | None:
    """What is in a directory, by name and in order; None if there is no such directory."""
    found = {}
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in sorted(os.listdir(fd)):
                try:
                    found[name] = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        if exc.errno in _PASSING_ERRORS:
            raise
        log.warning("%s cannot be looked at, and nothing in it is uploaded: %s", path, exc.strerror)
        return None
    return found


def _files(
    tree: Path, directory: str, entries: Mapping[str, os.stat_result], said: _Said
) -> list[Found]:
    regular = {name for name, status in entries.items() if stat.S_ISREG(status.st_mode)}
    ours: set[str] = set()
    found = []
    for name in sorted(regular):  # a sidecar comes after its file
        is_sidecar = name.endswith(METADATA) and name.removesuffix(METADATA) in ours
        if is_sidecar or name == FILE or name.startswith(_PASSING):
            continue
        ours.add(name)
        has_sidecar = name + METADATA in regular
        found.append(_file(tree, f"{directory}/{name}", entries[name], said, has_sidecar))
    return found


def _file(tree: Path, path: str, status: os.stat_result, said: _Said, has_sidecar: bool) -> Found:
    metadata: dict[str, Any] | None = None
    own: dict[str, Any] = {}
    chosen, trouble = said.options, said.trouble
    try:
        own = _attributes(tree, path)
        chosen = options.merged(chosen, own)
        if has_sidecar:
            metadata = _metadata(tree, path + METADATA)
    except Refused as exc:
        trouble = str(exc)
    return Found(
        path,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        chosen,
        metadata,
        trouble,
        own.get("upload") == "now",
    )


def _nearer(tree: Path, directory: str, above: _Said) -> _Said:
    """What counts in *directory*, where *above* counts in the one that it lies in."""
    path = f"{directory}/{FILE}"
    try:
        try:
            data = _read(tree / path, _LONGEST_OPTIONS)
        except ValueError as exc:
            raise Refused(f"{path}: {exc}") from exc
        except OSError as exc:
            raise Refused(f"{path}: {exc.strerror}") from exc
        written = {} if data is None else options.from_toml(path, data)
        return _Said(
            options.merged(above.options, written, _attributes(tree, directory)), above.trouble
        )
    except Refused as exc:
        return _Said(above.options, str(exc))


def _attributes(tree: Path, path: str) -> dict[str, Any]:
    """The options in the extended attributes of what is at *path*.  Raises: Refused"""
    found = {}
    for key, text in attributes(tree / path).items():
        try:
            found[key] = options.parse(key, text)
        except Refused as exc:
            raise Refused(f"{path}: user.rucio.{exc}") from exc
    return found


def attributes(path: Path) -> dict[str, str]:
    """The options in the extended attributes of a file of the staging disk, as they were said."""
    found = {}
    try:
        for name in os.listxattr(path, follow_symlinks=False):
            key = name.removeprefix(KEPT)
            if key != name and key in options.KEYS:
                found[key] = os.fsdecode(os.getxattr(path, name, follow_symlinks=False))
    except OSError:  # the disk has none, or the file is gone
        return found
    return found


def _metadata(tree: Path, path: str) -> dict[str, Any] | None:
    """The JSON of a sidecar.  Raises: Refused"""
    try:
        data = _read(tree / path, _LONGEST_METADATA)
        if data is None:
            return None
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("a JSON object is expected")
        if _is_deeper(found, _DEEPEST_METADATA):
            raise ValueError("too many objects in one another")
        json.dumps(found, allow_nan=False)  # Python reads numbers that are no JSON
    except OSError as exc:
        raise Refused(f"{path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise Refused(f"{path} is no metadata: {exc}") from exc
    return found


def _is_deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(one, levels - 1) for one in inner)


def _read(path: Path, limit: int) -> bytes | None:
    """All bytes of a file; None if there is none.

    Raises: ValueError (too large, or no file), OSError
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if path.is_symlink() or path.is_socket():
            raise ValueError("it is no ordinary file") from exc
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is no ordinary file")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return data
