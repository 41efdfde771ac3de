"""What the steps of an upload have in common: whom they ask, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from rucio_fs.catalogue.base import Catalogue, Rules
from rucio_fs.catalogue.registry import Registry
from rucio_fs.depot.failures import Full, Unauthorized
from rucio_fs.did import Identity, RuleTerms
from rucio_fs.errors import (
    LoginFailed,
    NoTarget,
    NotYetHere,
    QuotaExceeded,
    RucioFsError,
    Unreachable,
)
from rucio_fs.rules.events import Events
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.options import Options
from rucio_fs.uploads.records import Record

if TYPE_CHECKING:
    from rucio_fs.uploads.in_place import InPlace

BATCH = 500
"""Files in one request to Rucio."""


class Storage(Protocol):
    """See `depot.Depot`."""

    async def put(
        self,
        url: str,
        file: Path | int,
        size: int,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> None: ...
    async def adler32(self, url: str, size: int) -> str | None: ...
    async def read_back(self, url: str, size: int) -> str: ...
    async def size(self, url: str) -> int | None: ...
    async def move(self, source: str, target: str) -> None: ...
    async def delete(self, url: str) -> bool: ...


class Staged(Protocol):
    """The staging area as uploads see it."""

    @property
    def tree(self) -> Path: ...

    def is_open_for_writing(self, ino: int) -> bool: ...

    @property
    def unfinished(self) -> Mapping[int, str]:
        """What was open for writing when the last mount died, and was not saved since."""
        ...

    def finished(self, ino: int) -> None:
        """Such a file was looked at, and is whole."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """*terms* are those of rules, but for the RSE expression and the lifetime.

    *base* is how files are uploaded that nobody has said anything of.  *verify*: how an upload is
    proved: by a checksum from the storage, or of its bytes read back where it has none; by that of
    the storage alone; or by its size.  *on_done* is told of each file that is in the lake.
    *in_place* says where staging lies on an RSE, if it does.
    """

    who: Identity
    staged: Staged
    ledger: Ledger
    catalogue: Catalogue
    registry: Registry
    rules: Rules
    depot: Storage
    terms: RuleTerms
    events: Events
    base: Options
    verify: Literal["read", "checksum", "size"] = "read"
    on_done: Callable[[Record], None] = lambda record: None
    in_place: InPlace | None = None


def is_passing(error: RucioFsError) -> bool:
    """Whether another attempt may succeed without anybody changing the file or its options."""
    return isinstance(
        error,
        (Unreachable, LoginFailed, Unauthorized, Full, NoTarget, QuotaExceeded, NotYetHere),
    )
