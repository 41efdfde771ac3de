"""Logging of the serving process: where to, how it looks, and that no token is in it."""

from __future__ import annotations

import logging
import re
import sys
import time
from pathlib import Path

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
    """Log to *file*, or to stderr.  Libraries log from warnings on, unless *level* is debug."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Names of files may be of any bytes, and a line that cannot be written is lost.
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_HideSecrets(_FORMAT))
    number = getattr(logging, level.upper())
    others = number if number == logging.DEBUG else max(number, logging.WARNING)
    logging.basicConfig(level=others, handlers=[handler], force=True)
    logging.getLogger("rucio_fs").setLevel(number)
