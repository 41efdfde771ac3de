"""A way to stop a copy that another thread is making, even while it waits in a socket.

`http_io` hangs its connections on a `Cancellation`; `jobs` cancels it.
"""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from lake.fts.states import TransferCanceledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Cancellation:
    """One flag, the sockets to shut when it is raised, and callbacks.  Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        """True once cancelled; never reset."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Raise the flag, shut every socket in use, call the callbacks.  Harmless when repeated."""
        with self._lock:
            self._event.set()
            sockets, callbacks = list(self._sockets), self._callbacks[:]
        for sock in sockets:
            # Shutting down, not closing: the thread in recv() still owns the descriptor.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise TransferCanceledError if cancelled."""
        if self._event.is_set():
            raise TransferCanceledError

    def wait(self, seconds: float) -> None:
        """Pause *seconds*; raises TransferCanceledError as soon as cancelled."""
        self._event.wait(max(0.0, seconds))
        self.check()

    def call_on_cancel(self, callback: Callable[[], None]) -> None:
        """Have *callback* called at `cancel`, or at once if that has happened."""
        with self._lock:
            self._callbacks.append(callback)
            late = self._event.is_set()
        if late:
            callback()

    @contextmanager
    def guard(self, sock: socket.socket | None) -> Iterator[None]:
        """Shut *sock* if cancelled inside the block; errors there become TransferCanceledError."""
        self.check()
        if sock is not None:
            with self._lock:
                self._sockets.add(sock)
        try:
            # Again: a cancel between the first look and add() saw no socket to shut.
            self.check()
            yield
        except Exception as error:
            if self._event.is_set():
                raise TransferCanceledError from error
            raise
        finally:
            if sock is not None:
                with self._lock:
                    self._sockets.discard(sock)
