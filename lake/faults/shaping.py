"""Faults that act on a stream of bytes: stall, reset, cut, corrupt; and waiting for release.

Used alike for the body of an HTTP answer and for a bare TCP stream.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lake.faults.actions import Corrupt, Cut, Reset, Stall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

    from lake.faults.table import Handle


_READING_TIME = 0.02


class ClientGoneError(Exception):
    """The client closed while it was kept waiting."""


class EndedError(Exception):
    """The stream is to end here, in the way *action* says."""

    def __init__(self, action: Cut | Reset) -> None:
        super().__init__(repr(action))
        self.action = action


async def hold(
    handle: Handle, gone: Callable[[], Awaitable[None]], seconds: float | None = None
) -> None:
    """Wait until *handle* is removed or *seconds* are over; *gone* returns when the client is.

    Raises: ClientGoneError.
    """

    async def watch() -> None:
        await gone()

    removed = asyncio.create_task(handle.removed.wait())
    left = asyncio.create_task(watch())
    try:
        await asyncio.wait({removed, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        is_gone = left.done() and not removed.done()
    finally:
        removed.cancel()
        left.cancel()
        await asyncio.gather(removed, left, return_exceptions=True)
    if is_gone:
        raise ClientGoneError


async def shape(
    pieces: AsyncIterator[bytes],
    handles: Sequence[Handle],
    gone: Callable[[], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    """Yield *pieces* as the faults in *handles* leave them.

    Raises: EndedError where a Cut or Reset strikes; ClientGoneError.
    """
    stops = sorted(_stops(handles), key=lambda stop: stop[0])
    corruptions = [h.fault.action for h in handles if isinstance(h.fault.action, Corrupt)]
    position = 0

    async def strike() -> None:
        while stops and stops[0][0] <= position:
            _, handle = stops.pop(0)
            action = handle.fault.action
            if isinstance(action, Reset):
                # A RST makes the client's kernel throw away what the client has not read yet
                # (seen, Linux 6.18), and nothing tells when it has: give it a moment.
                await asyncio.sleep(_READING_TIME)
            if isinstance(action, Cut | Reset):
                raise EndedError(action)
            await hold(handle, gone)

    # Before the first piece: a stop at 0 must not wait for the upstream to say something.
    await strike()
    async for whole in pieces:
        piece = _corrupt(whole, position, corruptions)
        while stops and stops[0][0] < position + len(piece):
            first = piece[: stops[0][0] - position]
            piece = piece[len(first) :]
            position += len(first)
            if first:
                yield first
            await strike()
        position += len(piece)
        if piece:
            yield piece
        await strike()


def _stops(handles: Sequence[Handle]) -> list[tuple[int, Handle]]:
    stops = []
    for handle in handles:
        action = handle.fault.action
        if isinstance(action, Stall | Cut | Reset) and action.after_bytes is not None:
            stops.append((action.after_bytes, handle))
    return stops


def _corrupt(piece: bytes, position: int, corruptions: Sequence[Corrupt]) -> bytes:
    for corruption in corruptions:
        first = max(corruption.offset - position, 0)
        last = min(corruption.offset + corruption.length - position, len(piece))
        if first < last:
            flipped = bytes(byte ^ corruption.mask for byte in piece[first:last])
            piece = piece[:first] + flipped + piece[last:]
    return piece
