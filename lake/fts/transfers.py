"""One copy from one source to one destination: injected faults, checks, the move, checks again.

Called by `jobs` in a thread of its own.  Follows the order of FTS' own ``fts_url_copy``: source
size and checksum, existing destination, transfer, destination size and checksum.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lake.fts.cancelling import Cancellation
from lake.fts.http_io import Stat, Storages
from lake.fts.records import COPY_KINDS, STAGING_KINDS, Injection, Kind
from lake.fts.states import FILE_EXISTS, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lake.fts.connections import Endpoint
    from lake.fts.faults import Faults, Taken

Mode = Literal["stream", "tpc"]
# Copies at once.  More are no faster on one machine, and dozens of checksums at once (tpc) end in
# waits of 30 s at XRootD.
_AT_WORK = 8
_STAGING = 0.5  # seconds a file on tape takes to come online; at a site, minutes to hours


@dataclass(frozen=True)
class Order:
    """What to copy and how to check it.

    *size* in bytes, *algorithm* ``adler32`` or ``md5``, *checksum* in lower hex; None where the
    submitter did not say.
    """

    source: Endpoint
    destination: Endpoint
    size: int | None = None
    algorithm: str = "adler32"
    checksum: str | None = None
    verify_source: bool = True
    verify_target: bool = True
    overwrite: bool = False


@dataclass
class Outcome:
    """What is known of a copy so far; filled while it goes, so it tells of failed ones too.

    *found* describes a destination file that was in the way: size in bytes and checksum.
    """

    via: str = ""
    size: int | None = None
    faults: tuple[str, ...] = ()
    found: Mapping[str, object] | None = None
    # Checksums of the bytes that went through this process; empty after a third-party copy.
    read: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)


class Copier:
    """Does copies in one of two modes.

    ``stream``: every byte goes through this process, which works with any WebDAV server.
    ``tpc``: XRootD to XRootD by HTTP-TPC; everything else is streamed.
    """

    def __init__(self, mode: Mode, faults: Faults) -> None:
        self._mode = mode
        self._faults = faults
        self._storages = Storages()
        self._at_work = threading.Semaphore(_AT_WORK)

    def close(self) -> None:
        """Close the connections to the storages."""
        self._storages.close()

    def stage(self, order: Order, cancellation: Cancellation) -> None:
        """Bring a source on tape online: here only a wait.

        Raises: TransferError; TransferCanceledError.
        """
        taken = self._faults.take(order.source.url, order.destination.url, STAGING_KINDS)
        ordered = taken.get(Kind.STAGE)
        cancellation.wait(ordered.seconds if ordered else _STAGING)
        if taken.get(Kind.STALL_STAGING):
            self._faults.stall(order.destination.url, taken, cancellation)
        if fail := taken.get(Kind.FAIL_STAGING):
            raise _InjectedError(fail.reason)

    def copy(self, order: Order, outcome: Outcome, cancellation: Cancellation) -> None:
        """Copy and verify, noting what is learnt in *outcome*.

        A destination that turns out wrong or incomplete is deleted, as FTS does.
        Raises: TransferError; TransferCanceledError.
        """
        taken = self._faults.take(order.source.url, order.destination.url, COPY_KINDS)
        outcome.faults = tuple(taken.injections)
        self._hold_up(order, taken, cancellation)
        # A throttled one works little and long: it may not keep the others waiting.
        with nullcontext() if taken.get(Kind.THROTTLE) else self._at_work:
            self._copy(order, outcome, taken, cancellation)

    def _copy(
        self, order: Order, outcome: Outcome, taken: Taken, cancellation: Cancellation
    ) -> None:
        source = self._check_source(order, cancellation)
        self._refuse_existing(order, outcome, cancellation)
        try:
            self._move(order, outcome, taken, source, cancellation)
            silent = taken.get(Kind.CORRUPT)
            lenient = silent is not None and silent.silent
            outcome.size = self._check_destination(order, outcome, cancellation, lenient=lenient)
        except TransferError:
            # A fresh flag: a cancelled copy has to clean up too.
            self._delete_quietly(order.destination)
            raise

    def _hold_up(self, order: Order, taken: Taken, cancellation: Cancellation) -> None:
        if delay := taken.get(Kind.DELAY):
            cancellation.wait(delay.seconds)
        if taken.get(Kind.STALL):
            self._faults.stall(order.destination.url, taken, cancellation)
        if fail := taken.get(Kind.FAIL):
            raise _InjectedError(fail.reason)

    def _check_source(self, order: Order, cancellation: Cancellation) -> Stat:
        # What streams through here is summed up here, see Storages.stat.
        algorithm = order.algorithm if self._mode == "tpc" else None
        found = self._storages.stat(order.source, algorithm, cancellation)
        if found.status == 404:
            raise TransferError("SOURCE", 2, "HTTP 404 : File not found")
        if found.status != 200:
            raise TransferError("SOURCE", 13, f"HTTP {found.status} on HEAD")
        if order.size is not None and found.size is not None and found.size != order.size:
            raise TransferError(
                "SOURCE", 5, f"Source and user file size mismatch: {found.size} != {order.size}"
            )
        if order.verify_source:
            _compare("SOURCE", order.checksum, found.checksum)
        return found

    def _refuse_existing(self, order: Order, outcome: Outcome, cancellation: Cancellation) -> None:
        if order.overwrite:
            return  # PUT and COPY replace it
        found = self._storages.stat(order.destination, order.algorithm, cancellation)
        if found.status != 200:
            return  # missing, or forbidden: then the transfer itself says so
        # FTS tells this only with dst_file_report; Rucio can use it whenever it is there.
        outcome.found = {
            "file_size": found.size,
            "checksum_type": order.algorithm,
            "checksum_value": found.checksum,
            "file_on_tape": False,
        }
        raise TransferError("DESTINATION", 17, FILE_EXISTS)

    def _move(
        self,
        order: Order,
        outcome: Outcome,
        taken: Taken,
        source: Stat,
        cancellation: Cancellation,
    ) -> None:
        corrupt, throttle = taken.get(Kind.CORRUPT), taken.get(Kind.THROTTLE)
        # Only bytes that pass through here can be spoilt.
        third_party = self._mode == "tpc" and not (corrupt or throttle) and source.is_xrootd
        if third_party and self._storages.server_of(order.destination, cancellation).startswith(
            "XrootD"
        ):
            outcome.via = "tpc"
            self._storages.third_party_copy(order.source, order.destination, cancellation)
            return
        outcome.via = "stream"
        sent = self._storages.stream(
            order.source,
            order.destination,
            cancellation,
            alter=_flip_first_byte if corrupt else None,
            pace=_pacer(throttle, cancellation) if throttle else None,
        )
        outcome.read, outcome.written = sent.read, sent.written
        if order.verify_source:
            _compare("SOURCE", order.checksum, sent.read.get(order.algorithm))

    def _check_destination(
        self, order: Order, outcome: Outcome, cancellation: Cancellation, *, lenient: bool
    ) -> int | None:
        """Return the size of the file as the destination tells it."""
        algorithm = None if outcome.written else order.algorithm
        found = self._storages.stat(order.destination, algorithm, cancellation)
        if found.status != 200:
            raise TransferError("DESTINATION", 5, f"HTTP {found.status} after the transfer")
        if order.size is not None and found.size is not None and found.size != order.size:
            raise TransferError(
                "DESTINATION",
                5,
                f"Source and destination file size mismatch: {order.size} != {found.size}",
            )
        if order.verify_target and not lenient:
            have = found.checksum or outcome.written.get(order.algorithm)
            _compare("DESTINATION", order.checksum, have)
        return found.size

    def _delete_quietly(self, destination: Endpoint) -> None:
        # The copy's own error is what matters; it must not be hidden by a second one.
        try:
            self._storages.delete(destination, Cancellation())
        except TransferError:
            return


class _InjectedError(TransferError):
    """Carries an injected reason word for word."""

    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)


def _compare(scope: str, want: str | None, have: str | None) -> None:
    if want and have and want != have:
        raise TransferError(scope, 5, f"CHECKSUM MISMATCH: expected {want}, found {have}")


def _flip_first_byte(block: bytes, offset: int) -> bytes:
    return bytes((block[0] ^ 0xFF,)) + block[1:] if offset == 0 else block


def _pacer(throttle: Injection, cancellation: Cancellation) -> Callable[[int], None]:
    """Return a function that waits until *sent* bytes are due at the throttle's rate."""
    start = time.monotonic()

    def pace(sent: int) -> None:
        cancellation.wait(start + sent / throttle.bytes_per_second - time.monotonic())

    return pace
