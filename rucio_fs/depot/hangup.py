"""Running what blocks in a worker thread whose sockets end when nobody waits for it any more."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import trio

from rucio_fs.errors import RucioFsError

T = TypeVar("T")


class Hangup:
    """Ends the connections of one operation, also one that is only being made."""

    def __init__(self) -> None:
        self.is_hung_up = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Hangup{': done' if self.is_hung_up else ''}>"

    def watch(self, found: socket.socket) -> None:
        """*found* is what the operation waits for from now on.

        Raises: ConnectionAbortedError (it was ended already)
        """
        with self._lock:
            self._socket = found
            if self.is_hung_up:
                raise ConnectionAbortedError("it is not wanted any more")

    def let_go(self) -> None:
        """The operation is over: others may use its socket."""
        with self._lock:
            self._socket = None

    def hang_up(self) -> None:
        """End what another thread waits for, for good.  Never waits."""
        with self._lock:
            self.is_hung_up = True
            if self._socket is not None:
                with suppress(OSError):
                    # Not that of an SSLSocket: it would have what is encrypted read as it is.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


async def in_thread(call: Callable[[Hangup], T], limiter: trio.CapacityLimiter) -> T:
    """What *call* returns, or raises.

    Cancelled, it ends the sockets of *call* and returns when the thread has ended: nothing is
    written behind the caller's back.  If all was done by then, that is the result.  What cannot be
    ended is the look-up of a host's name: the system's resolver gives up by itself.
    """
    async with limiter:
        hangup = Hangup()
        task = trio.lowlevel.current_task()
        trio_token = trio.lowlevel.current_trio_token()

        def cancelled(_: object) -> trio.lowlevel.Abort:
            hangup.hang_up()
            return trio.lowlevel.Abort.FAILED  # it goes on until the thread has ended

        # Not trio.to_thread: that cannot be told of a cancellation without abandoning the thread.
        trio.lowlevel.start_thread_soon(
            lambda: call(hangup),
            lambda result: trio_token.run_sync_soon(trio.lowlevel.reschedule, task, result),
            "rucio-fs depot",
        )
        try:
            result: T = await trio.lowlevel.wait_task_rescheduled(cancelled)
        except RucioFsError:
            if hangup.is_hung_up:  # our own doing is no failure of the storage
                await trio.lowlevel.checkpoint()
            raise
        return result
