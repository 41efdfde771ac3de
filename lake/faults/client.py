"""Steer a `FaultProxy` that runs in another process."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lake.faults.actions import Fault
from lake.faults.table import RequestRecord


class FaultControlError(Exception):
    """The proxy refused an order."""


@dataclass(frozen=True)
class RemoteFault:
    """A fault in force in the other process; *hits* as of when it was asked for."""

    id: int
    hits: int
    fault: Fault


class FaultControl:
    """The control interface at *url*, which ``python -m lake.faults`` prints.

    Every method raises OSError if it cannot be reached, FaultControlError if it refuses.
    """

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout

    @property
    def proxy_url(self) -> str:
        """Where the proxy itself listens."""
        return str(self._call("GET", "/proxy")["url"])

    @property
    def requests(self) -> list[RequestRecord]:
        """What has reached the proxy, oldest first."""
        return [RequestRecord.from_json(item) for item in self._call("GET", "/requests")]

    @property
    def faults(self) -> list[RemoteFault]:
        """What was added and not removed, spent ones too."""
        return [_remote(item) for item in self._call("GET", "/faults")]

    def add(self, fault: Fault) -> RemoteFault:
        """Put *fault* in force."""
        return _remote(self._call("POST", "/faults", fault.to_json()))

    def remove(self, fault: RemoteFault) -> None:
        """Take one fault away."""
        self._call("DELETE", f"/faults/{fault.id}")

    def clear(self) -> None:
        """Take all faults away."""
        self._call("DELETE", "/faults")

    def clear_requests(self) -> None:
        """Forget what has reached the proxy."""
        self._call("DELETE", "/requests")

    def drop_connections(self) -> None:
        """Reset every open client connection."""
        self._call("DELETE", "/connections")

    def _call(self, method: str, path: str, document: Any = None) -> Any:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=self._timeout
        )
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise FaultControlError(f"{method} {path}: {response.status} {answer}")
        return answer


def _remote(document: dict[str, Any]) -> RemoteFault:
    return RemoteFault(document["id"], document["hits"], Fault.from_json(document["fault"]))
