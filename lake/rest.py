"""Rucio's REST interface as the lake itself uses it, for what it changes while it runs."""

import json
import time
import urllib.error
import urllib.request
from email.message import Message
from urllib.parse import quote

from lake.errors import LakeError
from lake.server import ACCOUNTS

_TIMEOUT = 60.0  # seconds; a single row is made in 20 ms, on a busy machine in a second
_TOKEN_LIFE = 1800.0  # seconds; Rucio's tokens last an hour
_ALREADY = frozenset({"Duplicate", "DataIdentifierAlreadyExists", "FileAlreadyExists"})


class Refused(LakeError):
    """Rucio's answer instead of doing it; *exception* is the class of its exception."""

    def __init__(self, message: str, exception: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.exception = exception


class Rest:
    """An account's session, by password.  May be used as long as the lake runs."""

    def __init__(self, url: str, account: str = "root") -> None:
        """Only takes notes: the first request logs in."""
        self._url = url
        self._account = account
        # The lake is on loopback: a proxy in the environment must not come between.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token = ""
        self._token_ends = 0.0

    def call(self, method: str, path: str, body: object = None) -> str:
        """Send a request and return the text of the answer.

        Raises: Refused (with the class and message of Rucio's exception), LakeError (no answer).
        """
        headers = {"X-Rucio-Auth-Token": self._login(), "Content-Type": "application/json"}
        _, text = self._send(method, path, headers, body)
        return text

    def ensure(self, path: str, body: object = None) -> None:
        """POST something that may be there already.  Raises: as call()."""
        try:
            self.call("POST", path, body)
        except Refused as refused:
            if refused.exception not in _ALREADY:
                raise

    def _login(self) -> str:
        if time.monotonic() > self._token_ends:
            username, password = ACCOUNTS[self._account]
            headers = {
                "X-Rucio-Account": self._account,
                "X-Rucio-Username": username,
                "X-Rucio-Password": password,
            }
            ends = time.monotonic() + _TOKEN_LIFE
            answer, _ = self._send("GET", "/auth/userpass", headers)
            self._token, self._token_ends = str(answer["X-Rucio-Auth-Token"]), ends
        return self._token

    def _send(
        self, method: str, path: str, headers: dict[str, str], body: object = None
    ) -> tuple[Message, str]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as answer:
                return answer.headers, str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                reason = error.headers.get("ExceptionMessage") or error.reason
                name = error.headers.get("ExceptionClass", "")
            raise Refused(f"{method} {path}: {error.code} {name}: {reason}", name) from None
        except OSError as error:
            raise LakeError(f"{method} {path}: no answer ({error})") from None


def did_path(scope: str, filename: str) -> str:
    """Return a DID as it stands in the path of a URL."""
    return f"{scope}/{quote(filename, safe='')}"
