"""What storages are shown: bearer tokens and certificates, each only where it belongs.

Token files are read again whenever they have changed: others renew them, more often than not
without writing them in one go.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from rucio_fs import tokens
from rucio_fs.webdav.addresses import Address, address
from rucio_fs.webdav.connecting import NoSuchFile

if TYPE_CHECKING:
    from rucio_fs.config import StoragesConfig

_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_NOTHING = "none"  # a storage that is shown nothing
_DISCOVERED = ""  # the place of tokens that no configuration names


class Credentials:
    """What the configuration says is shown to whom.  For many threads."""

    def __init__(self, config: StoragesConfig) -> None:
        self._config = config
        self._tokens = _by_length(config.tokens)
        self._proxies = _by_length(config.proxies)
        self._known: dict[str, str] = {}  # token file -> the last token that looked whole
        self._contexts: dict[tuple[str, int], ssl.SSLContext] = {}

    def __repr__(self) -> str:
        return "<Credentials>"

    def headers(self, where: Address, first: Address) -> tuple[Mapping[str, str], str]:
        """What a request to *where* carries, and its certificate; *first* is where it began.

        A token never goes over plain http, and after a redirect to another host only where
        `storages.trusted` says so.  There it is the one that *first* is shown, unless that host is
        configured to be shown another.
        """
        host = where.origin.host
        if not where.origin.is_tls or (host != first.origin.host and not self._is_trusted(host)):
            return {}, ""
        token = self.token(where if _longest(self._tokens, where) is not None else first)
        certificate = self.certificate(
            where if _longest(self._proxies, where) is not None else first
        )
        return ({"Authorization": f"Bearer {token}"} if token else {}), certificate

    def token(self, where: Address) -> str:
        """The token of now for *where*; "" if it is shown none."""
        configured = _longest(self._tokens, where)
        if configured == _NOTHING or not where.origin.is_tls:
            return ""
        if configured is not None or self._config.token_file is not None:
            return self._read(configured or str(self._config.token_file))
        found = (_bare(text) for _, text in tokens.sources(None))
        return self._latest(_DISCOVERED, next((token for token in found if token), ""))

    def certificate(self, where: Address) -> str:
        """The x509 proxy or certificate with which we present ourselves to *where*."""
        configured = _longest(self._proxies, where)
        if configured == _NOTHING or not where.origin.is_tls:
            return ""
        if configured is not None or self._config.x509_proxy is not None:
            return configured or str(self._config.x509_proxy)
        usual = os.environ.get("X509_USER_PROXY", "")
        return usual if os.path.exists(usual) else ""

    def shown(self, where: Address) -> str:
        """What *where* is shown now, "" if nothing: another one once that was renewed."""
        certificate = self.certificate(where)
        changed = f"{certificate} {_changed_at(certificate)}" if certificate else ""
        return self.token(where) + changed

    def tls(self, certificate: str) -> ssl.SSLContext:
        """The context for connections made with *certificate*.

        Raises: NoSuchFile (the certificate or the CA), OSError (ssl.SSLError is one)
        """
        changed = _changed_at(certificate)
        context = self._contexts.get((certificate, changed))
        if context is None:
            try:
                context = self._context(certificate)
            except FileNotFoundError as exc:
                named = [file for file in (certificate, self._ca()) if file]
                missing = [str(file) for file in named if not os.path.exists(file)]
                what = " and ".join(missing) or "a file of certificates"
                raise NoSuchFile(errno.ENOENT, f"{what}: no such file on this machine") from exc
            except OSError as exc:
                files = " or ".join(str(file) for file in (certificate, self._ca()) if file)
                raise OSError(f"{files or 'certificates'}: {exc.strerror or exc}") from exc
            self._contexts = {
                key: known for key, known in self._contexts.items() if key[0] != certificate
            } | {(certificate, changed): context}
        return context

    def _context(self, certificate: str) -> ssl.SSLContext:
        ca = self._ca()
        if not ca:
            context = ssl.create_default_context()
        elif Path(ca).is_dir():
            context = ssl.create_default_context(capath=str(ca))
        else:
            context = ssl.create_default_context(cafile=str(ca))
        if certificate:
            context.load_cert_chain(certificate)
        return context

    def _ca(self) -> Path | str | None:
        return self._config.ca or os.environ.get("X509_CERT_DIR")

    def _read(self, file: str) -> str:
        """The token in *file*, or the last one where it is just being written."""
        return self._latest(file, _bare(tokens.read_token(Path(file))))

    def _latest(self, place: str, token: str) -> str:
        if token:
            self._known[place] = token
        return self._known.get(place, "")

    def _is_trusted(self, host: str) -> bool:
        return any(fnmatchcase(host, glob) for glob in self._config.trusted)


def _changed_at(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return 0


def _bare(text: str) -> str:
    """The token itself: EOS's clients keep it as ``oauth2:<token>:<host>/userinfo``."""
    if text.startswith("oauth2:"):
        text = text.split(":")[1]
    # A JWT that was cut while it was written may look whole; a 401 then has it read again.
    if text.startswith("eyJ") and not _JWT.fullmatch(text):
        return ""
    return text if text.isprintable() and " " not in text else ""


def _by_length(table: Mapping[str, str]) -> Sequence[tuple[Address, str]]:
    """Prefixes as addresses, the longest first, so that the most exact one wins."""
    found = [(address(prefix), value) for prefix, value in table.items()]
    known = [(prefix, value) for prefix, value in found if prefix is not None]
    return sorted(known, key=lambda item: -len(item[0].target))


def _longest(table: Sequence[tuple[Address, str]], where: Address) -> str | None:
    origin = where.origin._replace(certificate="")
    for prefix, value in table:
        rest = where.target.removeprefix(prefix.target.rstrip("/"))
        is_below = rest != where.target or prefix.target == "/"
        if prefix.origin == origin and is_below and (not rest or rest[0] in "/?"):
            return value
    return None
