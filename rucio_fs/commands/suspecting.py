"""Which replicas of a file are to be reported to Rucio, and why.  Pure.

Only what two have seen: bytes that the mount found to be wrong, and a copy of the site that neither
the mount nor this user can use, though the storage is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

WRONG_BYTES = "WRONG_BYTES"
"""The state of a problem of `.rucio/problems`: a whole file was streamed, and was another one."""

_UNUSABLE = "its local copy cannot be used: "  # in the mount's words; the RSE follows, and a colon


class Suspect(NamedTuple):
    """A replica, by its RSE, that may be damaged, and the reason to give."""

    rse: str
    reason: str


def states(found: Mapping[str, Any]) -> dict[str, str]:
    """Replica states by RSE, of what `touching.examine` has *found*."""
    pairs = (pair.partition("=") for pair in str(found.get("replicas") or "").split(",") if pair)
    return {rse: state for rse, _, state in pairs}


def suspects(found: Mapping[str, Any]) -> list[Suspect]:
    """The replicas to report, of what `touching.examine` has *found*, each once."""
    known, did = states(found), str(found["did"])
    reasons: dict[str, str] = {}
    local = found.get("local") or {}
    if local.get("is_damage"):
        # A mount that is older than this program says it in user.rucio.error alone.
        words = str(found.get("local_error") or found.get("error") or "")
        rse = words.partition(_UNUSABLE)[2].partition(": ")[0]
        if rse in known:
            reasons[rse] = f"{found['local_path']}: {local['error']}"
    for problem in found.get("problems") or ():
        if problem["state"] == WRONG_BYTES:
            words = str(problem["error"]).replace(did, "").strip()
            for rse in known:
                if re.search(rf"(?<![\w-]){re.escape(rse)}(?![\w-])", words):
                    reasons.setdefault(rse, f"wrong bytes {words}")
    return [Suspect(rse, reason) for rse, reason in reasons.items()]
