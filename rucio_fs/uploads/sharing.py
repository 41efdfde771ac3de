"""One request for many records; what it fails for is told of those whose fault it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from rucio_fs.errors import Differs, LoginFailed, RucioFsError, Unreachable
from rucio_fs.uploads.records import Record

K = TypeVar("K")

Told = Callable[[Record, RucioFsError], None]
"""Is told of a record that something is in its way."""

_OF_ALL = (Unreachable, LoginFailed)  # says nothing of one file, and is not asked for each of them


async def each(
    records: Sequence[Record],
    step: Callable[[Sequence[Record]], Awaitable[None]],
    told: Told,
) -> None:
    """Take *step* for all of them, or for those whose fault it is not that it fails.

    A step that fails is taken again for halves of them.  Raises: Unreachable, LoginFailed
    """
    if not records:
        return
    try:
        await step(records)
    except RucioFsError as exc:
        if isinstance(exc, _OF_ALL):
            raise
        if len(records) == 1:
            told(records[0], exc)
            return
        guilty = _guilty(exc, records)
        for part in guilty or (records[: len(records) // 2], records[len(records) // 2 :]):
            await each(part, step, told)


def _guilty(error: RucioFsError, records: Sequence[Record]) -> Sequence[Sequence[Record]]:
    """The innocent and each of the guilty, where the error tells them apart."""
    named = set(getattr(error, "dids", ())) if isinstance(error, Differs) else set()
    guilty = [[one] for one in records if one.did in named]
    innocent = [one for one in records if one.did not in named]
    return [innocent, *guilty] if guilty else ()


async def all_or_none(records: Sequence[Record], step: Awaitable[None], told: Told) -> None:
    """Take *step*, whose failure is that of all of them.  Raises: Unreachable, LoginFailed"""
    try:
        await step
    except RucioFsError as exc:
        if isinstance(exc, _OF_ALL):
            raise
        for record in records:
            told(record, exc)


def by(records: Iterable[Record], key: Callable[[Record], K]) -> dict[K, list[Record]]:
    """The records in groups."""
    found: defaultdict[K, list[Record]] = defaultdict(list)
    for record in records:
        found[key(record)].append(record)
    return found
