"""What can go wrong, as values: a `Fault` says when, its action says what.

Pure data, with JSON in both directions for the control interface.  Positions in an answer
(`after_bytes`, `offset`) count bytes of the body; at TCP level, bytes from the upstream.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Status:
    """Answer with this status instead of asking the upstream."""

    code: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeout:
    """Accept and never answer; goes on to the upstream if cleared while the client waits."""


@dataclass(frozen=True)
class Stall:
    """Send *after_bytes* of the answer, then nothing until cleared; then the rest."""

    after_bytes: int = 0


@dataclass(frozen=True)
class Reset:
    """Send *after_bytes* of the answer, then a TCP RST; None: RST instead of any answer.

    The bytes before it are sent but not sure to be read: a RST discards what waits in the client's
    kernel.  With None the upstream is not asked; at TCP level the client's first bytes are awaited.
    """

    after_bytes: int | None = None


@dataclass(frozen=True)
class Cut:
    """End the answer after *after_bytes*.

    ``clean``: in a way HTTP cannot tell from a whole answer (the final chunk is sent, or
    Content-Length says what is left).  ``broken``: the connection closes without the final chunk,
    or before Content-Length bytes.  At TCP level both are an orderly close.
    """

    after_bytes: int = 0
    framing: Literal["clean", "broken"] = "clean"


@dataclass(frozen=True)
class Latency:
    """Hold each request *seconds* before it goes to the upstream.

    At TCP level: everything the client sends arrives *seconds* later, without loss of throughput.
    """

    seconds: float


@dataclass(frozen=True)
class Refuse:
    """Be a host that is down.

    Without `Fault.times` the port stops listening and open connections are reset; with it, that
    many connections are accepted and reset.  `Fault.method` and `Fault.path` do not apply.
    """


@dataclass(frozen=True)
class Corrupt:
    """XOR *length* bytes of the body, from *offset*, with *mask* (1 to 255)."""

    offset: int = 0
    length: int = 1
    mask: int = 0xFF


@dataclass(frozen=True)
class DropHeader:
    """Take a header away, from the answer or from the request."""

    name: str
    on: Literal["response", "request"] = "response"


@dataclass(frozen=True)
class ReplaceHeader:
    """Set a header, in the answer or in the request; added if it is not there."""

    name: str
    value: str
    on: Literal["response", "request"] = "response"


Action = (
    Status | Timeout | Stall | Reset | Cut | Latency | Refuse | Corrupt | DropHeader | ReplaceHeader
)
_ACTIONS: dict[str, type[Action]] = {
    kind.__name__: kind
    for kind in (
        Status,
        Timeout,
        Stall,
        Reset,
        Cut,
        Latency,
        Refuse,
        Corrupt,
        DropHeader,
        ReplaceHeader,
    )
}
# What makes sense for a stream of bytes whose requests cannot be seen.
TCP_ACTIONS = (Timeout, Stall, Reset, Cut, Latency, Refuse, Corrupt)


@dataclass(frozen=True)
class Fault:
    """Do *action* to requests that match.

    *method* is compared without regard to case; *path* is a regular expression searched in the
    request target (path and query).  Of the matching requests, *nth* (from 1) picks one, *times*
    the first so many; with neither, all.  Several faults may hit one request: latencies add up,
    then the oldest Status, Timeout or Reset(None) wins.
    """

    action: Action
    method: str | None = None
    path: str | None = None
    nth: int | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            re.compile(self.path)
        for count in (self.nth, self.times):
            if count is not None and count < 1:
                raise ValueError(f"nth and times count from 1, not {count}")
        if self.nth is not None and self.times is not None:
            raise ValueError("give nth or times, not both")

    @property
    def kind(self) -> str:
        """The action's name, e.g. ``Status``."""
        return type(self.action).__name__

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; inverse of `from_json`.  Bytes become base64."""
        action: dict[str, Any] = {"kind": self.kind}
        for item in fields(self.action):
            value = getattr(self.action, item.name)
            if isinstance(value, bytes):
                value = base64.b64encode(value).decode()
            elif isinstance(value, Mapping):
                value = dict(value)
            action[item.name] = value
        return {
            "action": action,
            "method": self.method,
            "path": self.path,
            "nth": self.nth,
            "times": self.times,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Fault:
        """Raises: KeyError, TypeError or ValueError for a document that is no fault."""
        values = dict(document["action"])
        kind = _ACTIONS[values.pop("kind")]
        if kind is Status and "body" in values:
            values["body"] = base64.b64decode(values["body"], validate=True)
        return cls(**{**document, "action": kind(**values)})
