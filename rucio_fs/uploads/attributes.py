"""``user.rucio.*`` of what lies in scratch: how far its upload is, and what users want of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rucio_fs.errors import BadName, NoAttribute, NotFound, Refused, Sealed, StagingError
from rucio_fs.scratch.area import NEW_DIR
from rucio_fs.uploads import collecting, naming, options
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.records import Record
from rucio_fs.uploads.settling import Settling

PREFIX = "user.rucio."

_OF_UPLOAD = "upload"  # read: how far it is; set: whether it is to be uploaded
_FACTS: dict[str, Callable[[Record], str]] = {
    _OF_UPLOAD: lambda record: record.shown,
    "did": lambda record: str(record.did) if record.did.scope else "",
    "adler32": lambda record: record.adler32,
    "error": lambda record: record.error,
    "rule_id": lambda record: record.rule_id,
    "rse": lambda record: record.rse,
    "rule": lambda record: record.rule,
    "dataset": lambda record: str(record.dataset or ""),
}

# Facts of another file, here or in the catalogue, that mean nothing of this one.
_COPIED = frozenset({
    "did", "scope", "name", "type", "bytes", "account", "created_at", "updated_at", "open",
    "length", "adler32", "md5", "state", "error", "rule_id", "rule_url", "expires_at", "eta",
    "progress", "locality", "replicas", "pfn", "local_path", "local_error", "source",
    "cached_bytes", "suspicious",
})  # fmt: skip
_SHOWN = (_OF_UPLOAD, "did", "adler32", "error", "rule_id")


class ScratchAttributes:
    """The attributes of files and directories in *tree*.

    What a user sets is kept with the file on the staging disk; *on_change* is told that something
    has to be written to the journal.
    """

    def __init__(
        self, tree: Path, ledger: Ledger, settling: Settling, on_change: Callable[[], None]
    ) -> None:
        self._tree = tree
        self._ledger = ledger
        self._settling = settling
        self._on_change = on_change

    def __repr__(self) -> str:
        return f"<ScratchAttributes of {self._tree}>"

    async def names(self, path: str, ino: int) -> Sequence[str]:
        """What was said of it, and what cannot be mistaken for that by who copies attributes."""
        said = self._said(path, ino)
        return [PREFIX + key for key in self._values(path, ino) if key in said or key in _SHOWN]

    async def get(self, path: str, ino: int, name: str) -> str:
        """Raises: NoAttribute"""
        value = self._values(path, ino).get(name.removeprefix(PREFIX))
        if value is None:
            raise NoAttribute(f"scratch/{path} has no {name}")
        return value

    async def set(self, path: str, ino: int, name: str, value: str) -> None:
        """Raises: Refused, Sealed, NoAttribute, NotFound, StagingError"""
        key = name.removeprefix(PREFIX)
        if value and (key in _COPIED or (key == _OF_UPLOAD and value.isupper())):
            return  # ``cp -a`` and ``rsync -X`` have copied it
        try:
            if value:
                options.parse(key, value)
            elif key not in options.KEYS:
                raise Refused("it is nobody's to remove")
        except Refused as exc:
            raise Refused(f"scratch/{path}: {name} cannot be set: {exc}") from exc
        record = self._ledger.of_file(ino)
        if record is not None and record.is_sealed and not record.is_to_be_mended:
            raise Sealed(f"{path} is in the lake as {record.did}: how it got there is history")
        if not self._is_there(path, ino):
            raise NotFound(f"scratch/{path} is removed")
        self._keep(path, key, value)
        self._reconsider(path, at_once=value == "now")

    def reconsider(self, path: str) -> None:
        """What users want of *path*, and of all below it, has changed."""
        self._reconsider(path, at_once=False)

    def _keep(self, path: str, key: str, value: str) -> None:
        target, kept = self._tree / path, collecting.KEPT + key
        try:
            if not value:
                os.removexattr(target, kept, follow_symlinks=False)
                return
            if "/" not in path:  # a scope comes to be when something is done with it
                with contextlib.suppress(FileExistsError):
                    target.mkdir(NEW_DIR)
            os.setxattr(target, kept, os.fsencode(value), follow_symlinks=False)
        except OSError as exc:
            if exc.errno in (errno.ENODATA, errno.ENOENT):
                raise NoAttribute(f"scratch/{path} has no {PREFIX}{key}") from exc
            raise StagingError.of(exc) from exc

    def _reconsider(self, path: str, *, at_once: bool) -> None:
        for one in self._ledger.below(path):
            if not one.is_sealed or one.is_to_be_mended:
                self._ledger.drop(one)  # it is queued again, as its user wants it now
        self._on_change()
        for top in self._tops(path):
            if at_once:
                self._settling.hurry(top)
            else:
                self._settling.changed(top)

    def _tops(self, path: str) -> list[str]:
        """What has to be looked at to find all that is at *path* and below."""
        depth = path.count("/")
        if depth == 0:
            return collecting.tops(self._tree, path)
        is_top = depth == 1 and self._mode(path) == stat.S_IFDIR
        return [path if is_top else naming.top_of(path)]

    def _values(self, path: str, ino: int) -> dict[str, str]:
        """Every attribute that has a value: what was said of it, and what has come of that."""
        said = dict(self._said(path, ino))
        mode = self._mode(path) if self._is_there(path, ino) else 0
        record = self._ledger.of_file(ino)
        if record is not None:
            facts = {key: value for key, fact in _FACTS.items() if (value := fact(record))}
        elif mode == stat.S_IFREG:
            facts = {_OF_UPLOAD: "STAGED"}
            with contextlib.suppress(BadName):
                facts["did"] = str(naming.did_of(path))
        else:
            facts = {}
        if _OF_UPLOAD in facts:
            said.pop(_OF_UPLOAD, None)
        return facts | said

    def _said(self, path: str, ino: int) -> Mapping[str, str]:
        return collecting.attributes(self._tree / path) if self._is_there(path, ino) else {}

    def _is_there(self, path: str, ino: int) -> bool:
        """Whether *path* is still the file *ino*; 0: a scope, which need not be on disk."""
        try:
            return not ino or os.lstat(self._tree / path).st_ino == ino
        except OSError:
            return False

    def _mode(self, path: str) -> int:
        try:
            return stat.S_IFMT(os.lstat(self._tree / path).st_mode)
        except OSError:
            return 0
