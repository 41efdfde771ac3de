"""Steer the FTS stand-in from a test or a demonstration: spoil transfers, read what happened."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlencode, urlsplit

from lake.fts.records import Injection, Kind, TransferRecord

__all__ = ["FtsControl", "FtsControlError", "Injection", "Kind", "TransferRecord"]


class FtsControlError(Exception):
    """The stand-in refused an order."""


class FtsControl:
    """The control interface of a stand-in at *url*, e.g. ``http://127.0.0.1:8446``.

    A fault hits transfers that start after it is set and whose source or destination URL contains
    *match* ("": all), *times* of them (None: until cleared).  Faults of different kinds add up.
    Every method raises OSError if the service cannot be reached, FtsControlError if it refuses.
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout

    def fail(
        self,
        match: str = "",
        *,
        reason: str = "TRANSFER [70] injected failure",
        times: int | None = None,
    ) -> Injection:
        """End transfers FAILED with *reason*, moving no bytes."""
        return self._add(Injection(Kind.FAIL, match, times, reason=reason))

    def corrupt(
        self, match: str = "", *, times: int | None = None, silent: bool = False
    ) -> Injection:
        """Turn the first byte around on the way.

        FTS' verification finds out and the transfer fails; with *silent* it looks away and the
        damaged file is reported as good.
        """
        return self._add(Injection(Kind.CORRUPT, match, times, silent=silent))

    def delay(self, seconds: float, match: str = "", *, times: int | None = None) -> Injection:
        """Wait *seconds* before the bytes move."""
        return self._add(Injection(Kind.DELAY, match, times, seconds=seconds))

    def stall(self, match: str = "", *, times: int | None = None) -> Injection:
        """Hold transfers ACTIVE, before any byte moves, until `release`, `clear` or cancelled."""
        return self._add(Injection(Kind.STALL, match, times))

    def stage(self, seconds: float, match: str = "", *, times: int | None = None) -> Injection:
        """Have files on tape take *seconds* to come online; their jobs are STAGING meanwhile."""
        return self._add(Injection(Kind.STAGE, match, times, seconds=seconds))

    def stall_staging(self, match: str = "", *, times: int | None = None) -> Injection:
        """Hold files on tape STAGING, until `release`, `clear` or cancelled."""
        return self._add(Injection(Kind.STALL_STAGING, match, times))

    def fail_staging(
        self,
        match: str = "",
        *,
        reason: str = "STAGING [70] injected failure",
        times: int | None = None,
    ) -> Injection:
        """End transfers of files on tape FAILED with *reason*: they do not come online."""
        return self._add(Injection(Kind.FAIL_STAGING, match, times, reason=reason))

    def throttle(
        self, bytes_per_second: int, match: str = "", *, times: int | None = None
    ) -> Injection:
        """Move at most *bytes_per_second*, in steps of 1 MiB; forces streaming."""
        return self._add(Injection(Kind.THROTTLE, match, times, bytes_per_second=bytes_per_second))

    def faults(self) -> list[Injection]:
        """Return the faults that can still hit something."""
        return [Injection.from_json(item) for item in self._call("GET", "/control/faults")]

    def release(self) -> None:
        """Let stalled transfers and stagings go on and forget all stalls."""
        self._call("POST", "/control/release")

    def clear(self) -> None:
        """Forget all faults; stalled transfers go on."""
        self._call("DELETE", "/control/faults")

    def wait_stalled(self, count: int = 1, timeout: float = 10.0) -> list[str]:
        """Wait until *count* transfers or stagings are stalled; return their destination URLs.

        Raises: TimeoutError after *timeout* seconds.
        """
        query = urlencode({"count": count, "timeout": timeout})
        found = self._call("GET", f"/control/stalled?{query}", self._timeout + timeout)
        if len(found) < count:
            raise TimeoutError(f"{len(found)} of {count} transfers stalled in {timeout} s")
        return [str(url) for url in found]

    def log(self) -> list[TransferRecord]:
        """Return the transfers that have ended, oldest first."""
        return [TransferRecord.from_json(item) for item in self._call("GET", "/control/log")]

    def clear_log(self) -> None:
        """Forget the transfers that have ended."""
        self._call("DELETE", "/control/log")

    def _add(self, injection: Injection) -> Injection:
        self._call("POST", "/control/faults", document=injection.to_json())
        return injection

    def _call(
        self, method: str, path: str, timeout: float | None = None, document: Any = None
    ) -> Any:
        # http.client, not urllib: a proxy in the environment must not come between.
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=timeout or self._timeout
        )
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise FtsControlError(f"{method} {path}: {response.status} {answer}")
        return answer
