"""TCP through the proxy, for TLS that is not to be opened: faults hit connections, not requests."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from lake.faults.actions import Latency, Refuse, Reset, Timeout
from lake.faults.shaping import ClientGoneError, EndedError, hold, shape

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from lake.faults.exchange import Connect
    from lake.faults.table import Handle, Table
    from lake.faults.wire import Wire

# Pieces on their way in a delay line; more than a window's worth of them is never needed.
_IN_FLIGHT = 256


class TcpSession:
    """Serves one client connection at TCP level.  Its faults are taken when it is accepted."""

    def __init__(self, client: Wire, connect: Connect, table: Table) -> None:
        self._client = client
        self._connect = connect
        self._table = table

    async def run(self) -> None:
        """Relay in both directions until both have ended.  Closes both sides."""
        taken = self._table.take(None, "", lambda fault: not isinstance(fault.action, Refuse))
        self._table.record("TCP", "", "", taken)
        upstream: Wire | None = None
        try:
            for handle in taken:
                action = handle.fault.action
                if isinstance(action, Timeout):
                    await hold(handle, self._client.wait_gone)
                elif isinstance(action, Reset) and action.after_bytes is None:
                    # Once it has asked, as with HTTP.  Before, it would be Refuse; and CPython 3.11
                    # leaks a TLS client's socket if the RST beats the start of the handshake.
                    await self._client.read_some()
                    self._client.reset()
                    return
            upstream = await self._connect()
            await self._relay(upstream, taken)
            self._client.close()
        except (ClientGoneError, OSError):
            self._client.reset()
        except EndedError as end:
            if isinstance(end.action, Reset):
                self._client.reset()
            else:
                self._client.close()
        finally:
            if upstream is not None:
                upstream.abort()

    async def _relay(self, upstream: Wire, taken: Sequence[Handle]) -> None:
        delay = sum(h.fault.action.seconds for h in taken if isinstance(h.fault.action, Latency))
        gone = asyncio.Event()
        sender = asyncio.create_task(_send(self._client, upstream, delay, gone))

        async def wait_gone() -> None:
            await gone.wait()

        try:
            async with (
                aclosing(_pieces(upstream)) as answer,
                aclosing(shape(answer, taken, wait_gone)) as pieces,
            ):
                async for piece in pieces:
                    await self._client.write(piece)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


async def _pieces(wire: Wire) -> AsyncGenerator[bytes, None]:
    while piece := await wire.read_some():
        yield piece


async def _send(client: Wire, upstream: Wire, delay: float, gone: asyncio.Event) -> None:
    """Pass on what the client sends, *delay* seconds later; set *gone* when it has closed."""
    loop = asyncio.get_running_loop()
    line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)

    async def deliver() -> None:
        while True:
            due, piece = await line.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not piece:
                upstream.end()
                return
            await upstream.write(piece)

    delivery = asyncio.create_task(deliver())
    try:
        with suppress(OSError):
            async with aclosing(_pieces(client)) as pieces:
                async for piece in pieces:
                    await line.put((loop.time() + delay, piece))
        gone.set()
        await line.put((loop.time() + delay, b""))
        await asyncio.gather(delivery, return_exceptions=True)
    finally:
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
