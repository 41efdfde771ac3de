"""The pool of Rucio clients, seen from the worker threads.

A thread takes a client, asks its question and gives the client back itself, so that a question
nobody waits for any more never shares its client with the next one.  How many threads run is
the business of `rucio.RucioCatalogue`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from configparser import Error as ConfigError
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from rucio_fs.catalogue.call import Call
from rucio_fs.did import Identity
from rucio_fs.errors import UsageError

if TYPE_CHECKING:
    from rucio_fs.catalogue.client import RucioClient

T = TypeVar("T")
_reading_config = threading.Lock()  # rucio.cfg is the process's: one reader at a time
_config_read: str | None = None  # what RUCIO_CONFIG was when it was read last


class _Needed(NamedTuple):
    """What a way to log in needs beside rucio-clients, and the extra that installs it."""

    module: str
    package: str
    extra: str


_LOGINS: Mapping[str, _Needed | None] = {
    "userpass": None,
    "x509": None,
    "x509_proxy": None,
    "oidc": None,
    "ssh": _Needed("paramiko", "paramiko", "ssh"),
    "gss": _Needed("requests_kerberos", "requests-kerberos", "kerberos"),
}


class RucioSettings(Protocol):
    """How Rucio is reached.  None leaves a choice to rucio.cfg and Rucio's own environment."""

    @property
    def config_file(self) -> Path | None: ...
    @property
    def account(self) -> str | None: ...
    @property
    def host(self) -> str | None: ...
    @property
    def auth_host(self) -> str | None: ...
    @property
    def connections(self) -> int:
        """Clients, hence questions at once."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds without a byte after which an attempt has failed."""
        ...

    @property
    def deadline(self) -> float:
        """Seconds for a question with its repetitions."""
        ...

    @property
    def listing_deadline(self) -> float:
        """Seconds for a directory."""
        ...


class Clients:
    """Idle clients, at most `connections` of them, the longest idle first.  For many threads."""

    def __init__(self, settings: RucioSettings) -> None:
        self._settings = settings
        self._idle: list[tuple[Identity, RucioClient]] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def answer(
        self, who: Identity, question: Callable[[RucioClient], T], asked: str, call: Call
    ) -> T:
        """Return ``question(client)`` with a client of *who*; blocks.

        *asked* says in an error what was wanted.

        Raises: as `Catalogue`, and UsageError if no client can be made.
        """
        client = self._take(who)
        from rucio_fs.catalogue import failures

        client.call = call
        try:
            return question(client)
        except Exception as exc:
            raise failures.translate(exc, asked, client.asking) from exc
        finally:
            self._give(who, client)

    def close(self) -> None:
        """End the idle connections; those in use end when their thread does."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for _, client in idle:
            client.session.close()

    def _take(self, who: Identity) -> RucioClient:
        with self._lock:
            for position in reversed(range(len(self._idle))):
                if self._idle[position][0] == who:
                    return self._idle.pop(position)[1]
        return self._make(who)

    def _give(self, who: Identity, client: RucioClient) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append((who, client))
                if len(self._idle) <= self._settings.connections:
                    return
                client = self._idle.pop(0)[1]
        client.session.close()

    def _make(self, who: Identity) -> RucioClient:
        """Raises: UsageError (one line: what is missing, and where it was looked for)"""
        global _config_read
        settings = self._settings
        with _reading_config:
            if settings.config_file is not None:
                # Rucio reads its configuration when it is imported, and only from there.
                os.environ["RUCIO_CONFIG"] = str(settings.config_file)
            from rucio_fs.catalogue import failures

            try:
                with _without_paramiko():
                    from rucio_fs.catalogue.client import RucioClient, forget_config

                if os.environ.get("RUCIO_CONFIG") != _config_read:
                    forget_config()
                    _config_read = os.environ.get("RUCIO_CONFIG")
                client = RucioClient(
                    host=settings.host,
                    auth_host=settings.auth_host,
                    account=who.account or settings.account,
                    timeout=settings.timeout,
                )
                _check_login(client.auth_type)
                return client
            except KeyError as exc:  # x509_proxy without a proxy
                raise UsageError(f"Rucio's configuration lacks {exc}") from exc
            except ConfigError as exc:
                raise UsageError(f"{_config_name()}: {failures.one_line(str(exc))}") from exc
            except Exception as exc:
                raise failures.translate(exc, _config_name(), settings.host or "Rucio") from exc


def _check_login(auth_type: str) -> None:
    """Raise UsageError for a way to log in that there is not, on this machine or anywhere."""
    if auth_type not in _LOGINS:
        raise UsageError(
            f"{_config_name()}: auth_type = {auth_type} is none of {', '.join(_LOGINS)}"
        )
    needed = _LOGINS[auth_type]
    if needed is not None and find_spec(needed.module) is None:
        raise UsageError(
            f"auth_type = {auth_type} needs {needed.package}; run: pip install"
            f" 'rucio-fs[{needed.extra}]'"
        )


@contextmanager
def _without_paramiko() -> Iterator[None]:
    """Import rucio-clients as if paramiko were not installed, unless a key is to log in.

    They import it, with all of cryptography, wherever it is there: 19 MB that nobody uses.
    """
    from rucio.common.config import config_get  # noqa: TID251

    # Only a default where nothing is configured: what is wrong with a configuration is said later.
    auth_type = os.environ.get("RUCIO_AUTH_TYPE") or config_get(
        "client", "auth_type", raise_exception=False, default=None
    )
    if auth_type == "ssh" or "paramiko" in sys.modules:
        yield
        return
    sys.modules["paramiko"] = None  # type: ignore[assignment] # how Python spells "not there"
    try:
        yield
    finally:
        del sys.modules["paramiko"]


def _config_name() -> str:
    return os.environ.get("RUCIO_CONFIG", "rucio.cfg")
