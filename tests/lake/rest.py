"""Rucio's REST interface as the lake's own tests use it: plain requests, no Rucio client."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import requests

from lake import Lake

_T = TypeVar("_T")
_PATIENCE = 60.0  # seconds a rule may take; 1 to 2 are usual


class Rest:
    """One account's session."""

    def __init__(self, lake: Lake, account: str = "root") -> None:
        """Log in by password."""
        username, password = ("ddmlab", "secret") if account == "root" else (account, "secret")
        self._url = lake.rucio_url
        self._session = requests.Session()
        self._session.trust_env = False
        headers = {
            "X-Rucio-Account": account,
            "X-Rucio-Username": username,
            "X-Rucio-Password": password,
        }
        answer = self._session.get(f"{self._url}/auth/userpass", headers=headers, timeout=30)
        answer.raise_for_status()
        self._session.headers["X-Rucio-Auth-Token"] = answer.headers["X-Rucio-Auth-Token"]

    def get(self, path: str) -> Any:
        """Return a JSON document."""
        answer = self._session.get(f"{self._url}{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()

    def rows(self, path: str, body: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return a stream of JSON lines."""
        method = "GET" if body is None else "POST"
        answer = self._session.request(method, f"{self._url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return [json.loads(line) for line in answer.text.splitlines() if line]

    def post(self, path: str, body: Any) -> Any:
        """Create something; return the JSON answer."""
        answer = self._session.post(f"{self._url}{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def create(self, path: str, body: Any) -> None:
        """Create something that Rucio answers with the word Created."""
        self._session.post(f"{self._url}{path}", json=body, timeout=30).raise_for_status()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def did_path(did: str) -> str:
    """Return scope/name as it stands in a URL."""
    scope, _, filename = did.partition(":")
    return f"{scope}/{quote(filename, safe='')}"


def did_key(did: str) -> dict[str, str]:
    """Return a DID as the dict the REST interface takes."""
    scope, _, filename = did.partition(":")
    return {"scope": scope, "name": filename}


def eventually(look: Callable[[], _T], want: Callable[[_T], bool]) -> _T:
    """Look until it is as wanted; fail with what was seen last."""
    deadline = time.monotonic() + _PATIENCE
    while not want(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)  # between two requests to the server
    return seen
