"""One connection to Rucio: the official client, stricter and quieter.

`RucioClient` is rucio-clients' own classes with the transport replaced: it never sleeps, never asks
a human, logs in once for many clients, and takes no answer for whole that may not be.  Blocking;
lives in worker threads, one thread at a time.  Importing this module reads rucio.cfg; only
`clients.Clients` does it, when the first client is needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from rucio.client.accountclient import AccountClient  # noqa: TID251
from rucio.client.didclient import DIDClient  # noqa: TID251
from rucio.client.replicaclient import ReplicaClient  # noqa: TID251
from rucio.client.rseclient import RSEClient  # noqa: TID251
from rucio.client.ruleclient import RuleClient  # noqa: TID251
from rucio.client.scopeclient import ScopeClient  # noqa: TID251
from rucio.common import config as rucio_config  # noqa: TID251

from rucio_fs.catalogue import answers
from rucio_fs.catalogue.call import Call
from rucio_fs.catalogue.failures import RucioSays
from rucio_fs.errors import LoginFailed
from rucio_fs.tokens import read_token, sources, token_directory

USER_AGENT = f"rucio-fs/{version('rucio-fs')} rucio-clients/{version('rucio-clients')}"

# Everything rucio-clients logs is raised as well; at DEBUG it logs tokens.
_silent = logging.getLogger("rucio_fs.rucio-clients")
_silent.setLevel(logging.CRITICAL + 1)

_logins: dict[str, threading.Lock] = {}  # by token file: who finds a new token there needs no login

# Changes by POST: new replicas, new DIDs or members of one, members of several, metadata.
_ANSWERED_IN_A_WORD = ("/traces/", "/replicas", "/dids", "/dids/attachments", "/meta")


class _Session(requests.Session):
    """A session that shows the token to nobody but the host it was made for."""

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]
        old, new = response.request.url or "", prepared_request.url or ""
        if self.should_strip_auth(old, new):  # type: ignore[no-untyped-call]
            for header in [name for name in prepared_request.headers if "rucio" in name.lower()]:
                del prepared_request.headers[header]


class RucioClient(AccountClient, DIDClient, ReplicaClient, RSEClient, RuleClient, ScopeClient):  # type: ignore[misc]
    """rucio-clients' methods as they are, over a transport of our own.

    Every request raises RucioSays, BadAnswer, LoginFailed, TooSlow, or what requests raises.
    Making one touches no network; the first request logs in.  *timeout* is in seconds without a
    byte.  Set `call` before each question; `asking` is the host asked last.
    """

    def __init__(
        self, *, host: str | None, auth_host: str | None, account: str | None, timeout: float
    ) -> None:
        self.call = Call(float("inf"))
        argv0 = sys.argv[0]
        try:
            super().__init__(
                rucio_host=host,
                auth_host=auth_host,
                account=account,
                timeout=timeout,
                logger=_silent,
            )
        finally:
            sys.argv[0] = argv0  # BaseClient cuts the directory off
        self.session = _Session()
        self.user_agent, self.script_id = USER_AGENT, "rucio-fs"
        self.asking = self.host
        self._rejected: set[str] = set()

    # --- tokens: what BaseClient does in private methods -----------------------------------------

    def _get_auth_tokens(self) -> tuple[str | None, str, str, str]:
        """Where tokens are kept.

        BaseClient's default file is shared by all processes of a user and account, also by those
        of another Rucio.  Only OIDC keeps it (read only): a token got with a browser lies there.
        """
        configured, expiry, file, directory = super()._get_auth_tokens()
        if configured is None and self.auth_type != "oidc":
            key = [self.host, self.auth_host, self.account, self.vo, self.auth_type, self.creds]
            digest = hashlib.sha256(json.dumps(key, default=str, sort_keys=True).encode())
            directory = str(token_directory())
            file = f"{directory}/{digest.hexdigest()[:32]}"
            expiry = f"{file}.expires"
        return configured, expiry, file, directory

    def _BaseClient__authenticate(self) -> None:
        """Making a client asks nobody for a token yet."""

    def _BaseClient__get_token_oidc(self) -> bool:
        """BaseClient would ask a human to open a browser."""
        raise LoginFailed("a token cannot be got without a browser")

    def _log_in(self) -> None:
        """Take a token that another client or process has got, or get one.

        Raises: LoginFailed, and what the request for a token raises.
        """
        with _logins.setdefault(self.token_file, threading.Lock()):
            if self.auth_type == "oidc":
                found = sources(Path(self.token_file))
            else:
                found = [(self.token_file, read_token(Path(self.token_file)))]
            for _, token in found:
                if token and token not in self._rejected:
                    self.auth_token = token
                    return
            if self.auth_type == "oidc":
                raise LoginFailed(self._no_oidc_token([where for where, token in found if token]))
            try:
                self._BaseClient__get_token()
            except RucioSays as said:
                if said.name == "CannotAuthenticate":
                    raise LoginFailed(self._refused(said.text)) from said
                raise

    def _no_oidc_token(self, tried: list[str]) -> str:
        if tried:
            return f"{self.host} does not accept the token (expired?): renew it in {tried[0]}"
        return (
            f"no token for {self.host}: put one into {self.token_file}, "
            "or name a file in BEARER_TOKEN_FILE"
        )

    def _refused(self, text: str) -> str:
        names = ("username", "client_cert", "client_proxy", "ssh_private_key")
        with_what = next((f" {self.creds[name]}" for name in names if self.creds.get(name)), "")
        return (
            f"{self.auth_host} does not let account {self.account} in with {self.auth_type}"
            f"{with_what}: {text}"
        )

    # --- requests --------------------------------------------------------------------------------

    def _send_request(
        self,
        url: str,
        method: Any = None,
        headers: dict[str, str] | None = None,
        data: Any = None,
        params: Any = None,
        stream: bool = False,
        get_token: bool = False,
        cert: Any = None,
        auth: Any = None,
        verify: Any = None,
        type_: str = "GET",  # what rucio-clients 38 calls the method
    ) -> requests.Response:
        """Send one request, and after a login once more if the token is not accepted.

        Only CannotAuthenticate asks for a login: other refusals are 401 too.
        """
        verb = str(getattr(method, "value", method) or type_)
        options = {"data": data, "params": params, "cert": cert, "auth": auth, "verify": verify}
        if get_token:
            return self._request(verb, url, headers, options, is_login=True)
        if not self.auth_token:
            self._log_in()
        try:
            return self._request(verb, url, headers, options)
        except RucioSays as said:
            if said.name != "CannotAuthenticate":
                raise
        self._reject_token()
        self._log_in()
        try:
            return self._request(verb, url, headers, options)
        except RucioSays as said:
            if said.name == "CannotAuthenticate":
                self._reject_token()
                raise LoginFailed(self._refused(said.text)) from said
            raise

    def _reject_token(self) -> None:
        if len(self._rejected) > 100:
            self._rejected.clear()  # months of hourly tokens
        self._rejected.add(self.auth_token)
        self.auth_token = ""

    def _request(
        self,
        verb: str,
        url: str,
        headers: dict[str, str] | None,
        options: dict[str, Any],
        is_login: bool = False,
    ) -> requests.Response:
        self.call.check()
        # rucio-clients writes a space in a path as "+", which is a plus there: "not found".
        path, mark, query = url.partition("?")
        url = path.replace("+", "%20") + mark + query
        self.asking = "://".join(urlsplit(url)[:2])
        ours = {
            "X-Rucio-Auth-Token": self.auth_token,
            "X-Rucio-VO": self.vo,
            "User-Agent": self.user_agent,
            "X-Rucio-Script": self.script_id,
        }
        if self.account is not None:
            ours["X-Rucio-Account"] = self.account
        if options["verify"] is None:
            options = options | {"verify": self.ca_cert or False}
        response = self.session.request(
            verb, url, headers=ours | (headers or {}), timeout=self.timeout, stream=True, **options
        )
        try:
            answers.check(response, _kind(verb, path, is_login=is_login))
            if is_login:
                _ = response.content  # BaseClient reads only the headers; the connection is kept
        except BaseException:
            response.close()
            raise
        return response

    def send_traces(self, traces: Sequence[Mapping[str, Any]]) -> None:
        """Tell Rucio of accesses; rucio-clients do it without a login and without TLS's checks."""
        url = f"{self.host}/traces/"
        self._send_request(url, method="POST", data=json.dumps(traces)).close()

    def _load_json_data(self, response: requests.Response) -> Iterator[Any]:
        """Rows of a stream, or the one document, with times left as text."""
        return answers.rows(response, self.call.check)


def _kind(verb: str, path: str, *, is_login: bool) -> answers.Kind:
    if is_login:
        return answers.Kind.LOGIN
    if verb in ("PUT", "DELETE") or (verb == "POST" and path.endswith(_ANSWERED_IN_A_WORD)):
        return answers.Kind.RECEIPT
    if verb == "POST" and path.endswith("/rules/"):
        return answers.Kind.IDS
    return answers.Kind.DATA


def forget_config() -> None:
    """Make Rucio read its configuration again: RUCIO_CONFIG names another file."""
    rucio_config.get_config.cache_clear()
