"""Logging of the serving process: where to, how it looks, and that no token is in it."""

from __future__ import annotations

import logging
import re
import sys
import time
from pathlib import Path

from rucio_fs.errors import UsageError

_FORMAT = "%(asctime)sZ %(levelname)-7s %(name)s: %(message)s"
# JWTs, Rucio's own tokens (account-identity-app-hex), passwords and signatures in URLs.
_SECRETS = re.compile(
    r"()eyJ[\w-]+\.[\w-]+\.[\w-]*"
    r"|(Bearer )[^\s'\"]+"
    r"|((?i:authz|signature|access_token)=)[^&\s]+"
    r"|((?i:x-rucio-(?:auth-token|password))['\"]?: ['\"]?)[^\s'\"]+"
)


class _HideSecrets(logging.Formatter):
    """The last line of defence: whatever a library logs, tokens do not reach the log."""

    def converter(self, seconds: float | None) -> time.struct_time:
        return time.gmtime(seconds)

    def format(self, record: logging.LogRecord) -> str:
        return _SECRETS.sub(_hide, super().format(record))


def _hide(secret: re.Match[str]) -> str:
    prefix = "".join(group or "" for group in secret.groups())
    return f"{prefix}[hidden]"


def set_up(level: str, file: Path | None) -> None:
    """Log to *file*, or to stderr.  Libraries log from warnings on, unless *level* is debug.

    Raises: UsageError
    """
    handler = logging.StreamHandler(sys.stderr) if file is None else _opened(file)
    handler.setFormatter(_HideSecrets(_FORMAT))
    number = getattr(logging, level.upper())
    others = number if number == logging.DEBUG else max(number, logging.WARNING)
    logging.basicConfig(level=others, handlers=[handler], force=True)
    logging.getLogger("rucio_fs").setLevel(number)


def _opened(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Names of files may be of any bytes, and a line that cannot be written is lost.
        return logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        raise UsageError(cannot_write(file, exc)) from exc


def cannot_write(file: Path, exc: OSError) -> str:
    return f"cannot write the log {file}: {exc.strerror}; say where with --log-file FILE"
