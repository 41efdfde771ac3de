"""Small rendered files: README.txt and what lies in `.rucio/`."""

from __future__ import annotations

import json
import logging
import os
import stat
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import trio

from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import NotFound, Refused
from rucio_fs.nodes.base import (
    Attr,
    Dir,
    Entry,
    File,
    Key,
    Node,
    OpenFile,
    dir_attr,
    file_attr,
)
from rucio_fs.sources.base import Data

log = logging.getLogger(__name__)

_FOREVER = 86400.0
_CLEARING = 10.0  # s a writer waits until the cache is cleared; then that goes on behind


class TextFile(File):
    """A text that does not change while the mount lives."""

    def __init__(self, name: str, text: str, born_ns: int) -> None:
        self._name = name
        self._data = text.encode()
        self._born_ns = born_ns

    @property
    def key(self) -> Key:
        return ("text", self._name)

    async def attr(self, who: Identity) -> Attr:
        return file_attr(len(self._data), self._born_ns, _FOREVER)

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        return _OpenText(self._data)


class StatusFile(File):
    """A text rendered anew at each open.

    Its size is not known before, so it shows 0 and is read past the kernel's cache (direct_io);
    `cat`, `jq` and `tail` read such files as they read those of /proc.
    """

    def __init__(self, name: str, render: Callable[[], str], born_ns: int) -> None:
        self._name = name
        self._render = render
        self._born_ns = born_ns

    @property
    def key(self) -> Key:
        return ("control", self._name)

    async def attr(self, who: Identity) -> Attr:
        return file_attr(0, self._born_ns, 0.0)

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        return _OpenText(_written(self._render()), direct_io=True)


class Growing(Protocol):
    """Text that only grows, but for now and then beginning anew."""

    changed_ns: int

    def __len__(self) -> int: ...
    def read(self, offset: int, size: int) -> bytes: ...


class GrowingFile(File):
    """A text that grows while it is open, for ``tail -f``: its size is what there is now."""

    def __init__(self, name: str, text: Growing) -> None:
        self._name = name
        self._text = text

    @property
    def key(self) -> Key:
        return ("control", self._name)

    async def attr(self, who: Identity) -> Attr:
        return file_attr(len(self._text), self._text.changed_ns, 0.0)

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        return _OpenGrowing(self._text)


class RefreshFile(File):
    """Writing anything into it makes the mount ask Rucio again for everything."""

    is_writable = True

    def __init__(self, name: str, refresh: Callable[[], None], born_ns: int) -> None:
        self._name = name
        self._refresh = refresh
        self._born_ns = born_ns

    @property
    def key(self) -> Key:
        return ("control", self._name)

    async def attr(self, who: Identity) -> Attr:
        return Attr(stat.S_IFREG | 0o200, 0, self._born_ns, 0.0)

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        return _OpenRefresh(self._refresh)

    async def truncate(self, who: Identity) -> None:
        """The shell's ``>`` truncates before it writes; there is nothing to cut."""


class OrdersFile(File):
    """A file that reads as one JSON document and takes orders that are written into it."""

    is_writable = True

    def __init__(self, name: str, born_ns: int) -> None:
        self._name = name
        self._born_ns = born_ns

    @property
    def key(self) -> Key:
        return ("control", self._name)

    async def attr(self, who: Identity) -> Attr:
        return Attr(stat.S_IFREG | 0o644, 0, self._born_ns, 0.0)

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        text = json.dumps(self._facts(), indent=2, ensure_ascii=False)
        return _OpenOrders(_written(f"{text}\n"), self._order)

    async def truncate(self, who: Identity) -> None:
        """The shell's ``>`` truncates before it writes; there is nothing to cut."""

    @abstractmethod
    def _facts(self) -> Mapping[str, object]:
        """What it reads as now."""

    @abstractmethod
    async def _order(self, order: str) -> None:
        """Carry out what was written.  Raises: Refused"""


class CacheFile(OrdersFile):
    """The cache on disk: it reads as `Store.status`, and takes the orders ``clear`` and ``verify``.

    What is ordered runs in *nursery*; the same order given meanwhile begins nothing new.
    """

    def __init__(self, name: str, store: Store, nursery: trio.Nursery, born_ns: int) -> None:
        super().__init__(name, born_ns)
        self._store = store
        self._nursery = nursery
        self._cleared: trio.Event | None = None
        self._is_verifying = False

    def _facts(self) -> Mapping[str, object]:
        return self._store.status() | {"is_clearing": self._cleared is not None}

    async def _order(self, order: str) -> None:
        """Return when it is cleared (or after 10 s), or when the verification has begun.

        Raises: Refused
        """
        match order.strip():
            case "clear":
                if self._cleared is None:
                    self._cleared = trio.Event()
                    self._nursery.start_soon(self._clear, self._cleared)
                with trio.move_on_after(_CLEARING):
                    await self._cleared.wait()
            case "verify":
                if not self._is_verifying:
                    await self._nursery.start(self._verify)
            case _:
                raise Refused(f".rucio/{self._name} takes clear or verify, not {order[:40]!r}")

    async def _clear(self, cleared: trio.Event) -> None:
        try:
            await self._store.clear()
        except OSError as exc:
            log.warning("the cache %s is not cleared: %s", self._store.directory, exc)
        except Exception:  # which would end the mount
            log.exception("bug while clearing %s", self._store.directory)
        finally:
            self._cleared = None
            cleared.set()

    async def _verify(self, task_status: trio.TaskStatus[None]) -> None:
        self._is_verifying = True
        task_status.started()  # who has ordered it goes on after our first await: it has begun then
        try:
            await self._store.verify()
        except Exception:  # which would end the mount
            log.exception("bug while verifying %s", self._store.directory)
        finally:
            self._is_verifying = False


class UploadsFile(OrdersFile):
    """How uploads stand, as *render* tells it; *order* takes what is written into it."""

    def __init__(
        self,
        name: str,
        render: Callable[[], Mapping[str, object]],
        order: Callable[[str], None],
        born_ns: int,
    ) -> None:
        super().__init__(name, born_ns)
        self._render = render
        self._carry_out = order

    def _facts(self) -> Mapping[str, object]:
        return self._render()

    async def _order(self, order: str) -> None:
        self._carry_out(order)


class ControlDir(Dir):
    """A directory of fixed nodes."""

    def __init__(self, name: str, nodes: Mapping[str, Node], born_ns: int) -> None:
        self._name = name
        self._nodes = dict(nodes)
        self._born_ns = born_ns

    @property
    def key(self) -> Key:
        return ("control", self._name, "")

    async def attr(self, who: Identity) -> Attr:
        return dir_attr(self._born_ns, _FOREVER)

    async def child(self, who: Identity, filename: str) -> Entry:
        try:
            node = self._nodes[filename]
        except KeyError:
            raise NotFound(f"{self._name} has no {filename}") from None
        return Entry(filename, node, await node.attr(who), _FOREVER)

    async def children(self, who: Identity) -> Sequence[Entry]:
        return [await self.child(who, filename) for filename in self._nodes]


def _written(text: str) -> bytes:
    """*text*, which is JSON, as UTF-8: of a name in other bytes, each is an escape as JSON has it.

    Whoever parses that gets the name as Python has it.
    """
    return text.encode(errors="backslashreplace")


class _OpenText(OpenFile):
    def __init__(self, data: bytes, *, direct_io: bool = False) -> None:
        self._data = data
        self.direct_io = direct_io
        self.keep_cache = not direct_io

    async def read(self, offset: int, size: int) -> Data:
        return self._data[offset : offset + size]


class _OpenGrowing(OpenFile):
    direct_io = True

    def __init__(self, text: Growing) -> None:
        self._text = text

    async def read(self, offset: int, size: int) -> Data:
        return self._text.read(offset, size)


class _OpenRefresh(OpenFile):
    direct_io = True

    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh = refresh

    async def read(self, offset: int, size: int) -> Data:
        return b""

    async def write(self, offset: int, data: bytes) -> int:
        self._refresh()
        return len(data)


class _OpenOrders(_OpenText):
    def __init__(self, data: bytes, order: Callable[[str], Awaitable[None]]) -> None:
        super().__init__(data, direct_io=True)
        self._order = order

    async def write(self, offset: int, data: bytes) -> int:
        await self._order(os.fsdecode(data))
        return len(data)
