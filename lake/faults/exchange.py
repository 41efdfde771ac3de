"""HTTP through the proxy: one client connection, request after request, with its faults.

Host, Connection and all other headers pass unchanged: redirects the upstream makes from Host lead
back through the proxy, and WebDAV's Destination agrees with Host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from lake.faults.actions import (
    Cut,
    DropHeader,
    Latency,
    Refuse,
    ReplaceHeader,
    Reset,
    Status,
    Timeout,
)
from lake.faults.shaping import ClientGoneError, EndedError, hold, shape
from lake.faults.wire import (
    LAST_CHUNK,
    Framing,
    Head,
    Wire,
    WireError,
    encode_chunk,
    request_framing,
    response_framing,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lake.faults.table import Handle, Table

Connect = Callable[[], Awaitable[Wire]]


class HttpSession:
    """Serves one client connection until either side closes it or a fault does."""

    def __init__(self, client: Wire, connect: Connect, table: Table) -> None:
        self._client = client
        self._connect = connect
        self._table = table
        self._upstream: Wire | None = None

    async def run(self) -> None:
        """Relay requests until the connection ends.  Closes both sides."""
        try:
            while (head := await self._client.read_head()) is not None:
                if not await self._serve(head):
                    break
            self._client.close()
        except (ClientGoneError, OSError, WireError):
            # What a broken upstream looks like from outside, or nobody is there to see it.
            self._client.reset()
        finally:
            self._drop_upstream()

    async def _serve(self, head: Head) -> bool:
        """Relay one request; whether the client's connection can be used again."""
        taken = self._table.take(
            head.method, head.target, lambda fault: not isinstance(fault.action, Refuse)
        )
        number = self._table.record(head.method, head.target, head.text("user-agent"), taken)
        for handle in taken:
            if isinstance(handle.fault.action, Latency):
                await hold(handle, self._client.wait_gone, handle.fault.action.seconds)
        for handle in taken:
            action = handle.fault.action
            if isinstance(action, Timeout):
                await hold(handle, self._client.wait_gone)
            elif isinstance(action, Reset) and action.after_bytes is None:
                self._client.reset()
                return False
            elif isinstance(action, Status):
                return await self._answer(head, action, number)
        return await self._relay(_edit(head, taken, "request"), taken, number)

    async def _answer(self, head: Head, status: Status, number: int) -> bool:
        """Answer for the upstream."""
        # A client that waits for "100 Continue" never sends its body: leave it, and close.
        keep = head.keeps_alive and not head.get("expect")
        if keep:
            async for _ in self._client.read_body(*request_framing(head)):
                pass
        try:
            phrase = HTTPStatus(status.code).phrase
        except ValueError:
            phrase = "Injected"
        answer = Head(f"HTTP/1.1 {status.code} {phrase}", tuple(status.headers.items()))
        answer = answer.having("Content-Length", str(len(status.body)))
        if not keep:
            answer = answer.having("Connection", "close")
        self._table.set_status(number, status.code)
        body = b"" if head.method == "HEAD" else status.body
        await self._client.write(answer.encode() + body)
        return keep

    async def _relay(self, head: Head, taken: Sequence[Handle], number: int) -> bool:
        reused = self._upstream is not None and not self._upstream.is_stale
        framing, _ = request_framing(head)
        try:
            return await self._exchange(head, taken, number)
        except _NoAnswerError:
            # An idle connection that the upstream closed just then; a body is gone by now.
            if not reused or framing is not Framing.NONE:
                raise
            return await self._exchange(head, taken, number)

    async def _exchange(self, head: Head, taken: Sequence[Handle], number: int) -> bool:
        if self._upstream is None or self._upstream.is_stale:
            self._drop_upstream()
            self._upstream = await self._connect()
        upstream = self._upstream
        # Beside the answer, not before it: the upstream may refuse early or say "100 Continue".
        sender = asyncio.create_task(self._send_request(head, upstream))
        try:
            answer = await self._read_answer(upstream)
            keep = await self._send_answer(head, answer, upstream, taken, number, sender)
            return keep and sender.done() and head.keeps_alive
        finally:
            is_whole = sender.done()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            if not is_whole:
                self._drop_upstream()

    async def _send_request(self, head: Head, upstream: Wire) -> None:
        framing, length = request_framing(head)
        try:
            await upstream.write(head.encode())
            async for piece in self._client.read_body(framing, length):
                with suppress(OSError):  # it stopped listening; its answer says why
                    await upstream.write(_frame(framing, piece))
            if framing is Framing.CHUNKED:
                await upstream.write(LAST_CHUNK)
        except (OSError, WireError):
            # The client left in the middle: the upstream must not wait for the rest.
            upstream.abort()

    async def _read_answer(self, upstream: Wire) -> Head:
        """Return the final answer's head, passing on the interim ones (1xx)."""
        try:
            while (answer := await upstream.read_head()) is not None:
                if answer.status >= 200:
                    return answer
                await self._client.write(answer.encode())
        except OSError as error:
            self._drop_upstream()
            raise _NoAnswerError("the upstream broke the connection") from error
        self._drop_upstream()
        raise _NoAnswerError("the upstream closed without an answer")

    async def _send_answer(
        self,
        request: Head,
        answer: Head,
        upstream: Wire,
        taken: Sequence[Handle],
        number: int,
        sender: asyncio.Task[None],
    ) -> bool:
        """Send the answer as the faults leave it; whether the client can go on."""
        framing, length = response_framing(answer, request.method)
        shown = answer
        if framing is Framing.LENGTH and (limit := _clean_cut(taken)) is not None:
            shown = answer.having("Content-Length", str(min(limit, length)))
        self._table.set_status(number, answer.status)
        await self._client.write(_edit(shown, taken, "response").encode())

        async def gone() -> None:
            await asyncio.wait({sender})  # until then it is the one who reads from the client
            await self._client.wait_gone()

        try:
            async with (
                aclosing(upstream.read_body(framing, length)) as body,
                aclosing(shape(body, taken, gone)) as pieces,
            ):
                async for piece in pieces:
                    await self._client.write(_frame(framing, piece))
        except EndedError as end:
            self._drop_upstream()
            if isinstance(end.action, Reset):
                self._client.reset()
                return False
            if end.action.framing == "broken" or framing is Framing.CLOSE:
                return False
            if framing is Framing.CHUNKED:
                await self._client.write(LAST_CHUNK)
            return answer.keeps_alive
        except BaseException:
            self._drop_upstream()
            raise
        if framing is Framing.CHUNKED:
            await self._client.write(LAST_CHUNK)
        keep = answer.keeps_alive and framing is not Framing.CLOSE
        if not keep:
            self._drop_upstream()
        return keep

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None


class _NoAnswerError(WireError):
    """The upstream closed before the first byte of an answer."""


def _frame(framing: Framing, piece: bytes) -> bytes:
    return encode_chunk(piece) if framing is Framing.CHUNKED else piece


def _clean_cut(taken: Sequence[Handle]) -> int | None:
    """Return the first place where an answer of known length is to end unnoticed."""
    cuts = [
        handle.fault.action.after_bytes
        for handle in taken
        if isinstance(handle.fault.action, Cut) and handle.fault.action.framing == "clean"
    ]
    return min(cuts, default=None)


def _edit(head: Head, taken: Sequence[Handle], on: str) -> Head:
    for handle in taken:
        action = handle.fault.action
        if isinstance(action, DropHeader) and action.on == on:
            head = head.without(action.name)
        elif isinstance(action, ReplaceHeader) and action.on == on:
            head = head.having(action.name, action.value)
    return head
