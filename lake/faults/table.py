"""The faults in force and the requests seen; shared by the proxy's loop and callers' threads."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from lake.faults.actions import Fault

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True)
class RequestRecord:
    """One request that reached the proxy, or at TCP level one connection.

    *path* is the request target with its query; *status* what the client was told, None while
    (or if) it was told nothing; *time* is Unix time of arrival; *faults* the actions that hit it.
    A connection has method ``TCP`` and an empty path.
    """

    method: str
    path: str
    status: int | None
    user_agent: str
    time: float
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RequestRecord:
        """Raises: TypeError if a field is missing or unknown."""
        return cls(**{**document, "faults": tuple(document["faults"])})


class Handle:
    """A fault that was added: count its hits, take it away.

    As a context manager it is removed at the end of the block.
    """

    def __init__(self, table: Table, fault_id: int, fault: Fault) -> None:
        self._table = table
        self.id = fault_id
        self.fault = fault
        self.seen = 0  # requests that matched method and path
        self.hits = 0  # requests it did something to
        self.is_removed = False
        self.removed = asyncio.Event()  # for tasks of the proxy's loop, which alone sets it

    @property
    def is_active(self) -> bool:
        """True until removed, or until `times` or `nth` is used up."""
        return not self.is_removed and not self.is_spent

    @property
    def is_spent(self) -> bool:
        """True once it has hit all it was meant for."""
        limit = 1 if self.fault.nth is not None else self.fault.times
        return limit is not None and self.hits >= limit

    def remove(self) -> None:
        """Take the fault away; requests it holds go on.  Harmless when repeated."""
        self._table.remove(self)

    def wait(self, hits: int = 1, timeout: float = 10.0) -> None:
        """Wait until it has hit *hits* requests.  Raises: TimeoutError after *timeout* seconds."""
        self._table.wait_for(
            lambda: self.hits >= hits,
            timeout,
            lambda: f"{self.hits} of {hits} hits of {self.fault}",
        )

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


class Table:
    """Faults and records under one lock; safe from any thread.

    *on_change* is called, without the lock, after every addition and removal, with the handles
    that were removed.
    """

    def __init__(self, on_change: Callable[[Sequence[Handle]], None]) -> None:
        self._changed = threading.Condition()
        self._handles: list[Handle] = []
        self._records: dict[int, RequestRecord] = {}
        self._fault_ids, self._record_ids = count(1), count(1)
        self._on_change = on_change

    def add(self, fault: Fault) -> Handle:
        """Put *fault* in force for what arrives from now on."""
        with self._changed:
            handle = Handle(self, next(self._fault_ids), fault)
            self._handles.append(handle)
        self._on_change(())
        return handle

    def remove(self, handle: Handle) -> None:
        """Take *handle* out of force."""
        with self._changed:
            if handle not in self._handles:
                return
            self._handles.remove(handle)
            handle.is_removed = True
        self._on_change((handle,))

    def clear(self) -> None:
        """Take all faults out of force."""
        with self._changed:
            removed, self._handles = self._handles, []
            for handle in removed:
                handle.is_removed = True
        self._on_change(removed)

    def handles(self) -> list[Handle]:
        """Return what was added and not removed, spent ones too, oldest first."""
        with self._changed:
            return list(self._handles)

    def take(
        self, method: str | None, path: str, eligible: Callable[[Fault], bool]
    ) -> list[Handle]:
        """Return the *eligible* faults that hit this request, oldest first, and count them.

        *method* None stands for a connection, which every fault matches.
        """
        taken = []
        with self._changed:
            for handle in self._handles:
                fault = handle.fault
                if handle.is_spent or not eligible(fault) or not _matches(fault, method, path):
                    continue
                handle.seen += 1
                if fault.nth is None or fault.nth == handle.seen:
                    handle.hits += 1
                    taken.append(handle)
            self._changed.notify_all()
        return taken

    def record(self, method: str, path: str, user_agent: str, faults: Sequence[Handle]) -> int:
        """Note an arrival; returns a number for `set_status`."""
        kinds = tuple(handle.fault.kind for handle in faults)
        with self._changed:
            number = next(self._record_ids)
            self._records[number] = RequestRecord(
                method, path, None, user_agent, time.time(), kinds
            )
            self._changed.notify_all()
        return number

    def set_status(self, number: int, status: int) -> None:
        """Note what the client was told."""
        with self._changed:
            if number in self._records:
                self._records[number] = replace(self._records[number], status=status)
                self._changed.notify_all()

    def records(self) -> list[RequestRecord]:
        """Return all arrivals, oldest first."""
        with self._changed:
            return list(self._records.values())

    def clear_records(self) -> None:
        """Forget all arrivals."""
        with self._changed:
            self._records.clear()

    def wait_for(
        self, predicate: Callable[[], bool], timeout: float, describe: Callable[[], str]
    ) -> None:
        """Wait until *predicate* holds; it is called under the lock and must not use the table.

        Raises: TimeoutError with *describe*'s text after *timeout* seconds.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                raise TimeoutError(f"{describe()} in {timeout} s")

    def wait_records(self, number: int, timeout: float) -> None:
        """Wait until *number* arrivals are on record.  Raises: TimeoutError."""
        self.wait_for(
            lambda: len(self._records) >= number,
            timeout,
            lambda: f"{len(self._records)} of {number} requests",
        )


def _matches(fault: Fault, method: str | None, path: str) -> bool:
    if method is None:
        return True
    if fault.method is not None and fault.method.upper() != method.upper():
        return False
    return fault.path is None or re.search(fault.path, path) is not None
