"""The adler32 in a ``Digest`` header, in the forms that storages write it.  Pure.

Source: RFC 3230 section 4.3.2 and its IANA registry (adler32 is hexadecimal), RFC 9530 section 2
(``Repr-Digest: adler=:BASE64:``).  XRootD and dCache write eight digits, some others drop the zeros
in front, and what was made with a general library is in base64 like the other digests.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

_NAMES = ("adler32", "adler")
_HEX = re.compile(r"[0-9a-f]{1,8}", re.IGNORECASE)
_BASE64_OF_4 = 8  # characters, "==" at the end among them


def adler32_of(headers: Iterable[str]) -> str | None:
    """The checksum in *headers*, eight digits in lower case; None if none of them has one."""
    for header in headers:
        for item in header.split(","):
            name, _, value = item.strip().partition("=")
            if name.strip().lower() in _NAMES:
                found = _value(value.partition(";")[0].strip())
                if found is not None:
                    return found
    return None


def _value(text: str) -> str | None:
    text = text.strip('"').removeprefix("0x")
    if text.startswith(":") and text.endswith(":"):  # never hexadecimal, whatever it looks like
        return _from_base64(text.strip(":"))
    return text.lower().zfill(8) if _HEX.fullmatch(text) else _from_base64(text)


def _from_base64(text: str) -> str | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) == 4 and len(text) == _BASE64_OF_4:
        return raw.hex()
    written = raw.decode("ascii", "replace")  # the digits in base64
    return written.lower() if len(raw) == 8 and _HEX.fullmatch(written) else None
