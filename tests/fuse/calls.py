"""What the lake's Rucio server was asked by mounts, read from its access log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

from lake import Lake
from tests.fuse.clients import eventually
from tests.lake.rest import Rest

_LINE = re.compile(r'^\[[^]]*\] "(?P<request>[A-Z]+ [^ "?]*)[^"]*" .* "(?P<agent>[^"]*)"$')
_KINDS = {
    "scopes": re.compile(r"GET /scopes/$"),
    "listing": re.compile(r"GET /dids/[^/]+/[^/]+/dids$"),
    "scope listing": re.compile(r"GET /dids/[^/]+/(dids/search)?$"),
    "meta": re.compile(r"GET /dids/[^/]+/[^/]+/meta$"),
    "bulkmeta": re.compile(r"POST /dids/bulkmeta$"),
    "replicas": re.compile(r"POST /replicas/list$"),
}


class CallLog:
    """Counts requests of the agent rucio-fs by kind."""

    def __init__(self, lake: Lake, rest: Rest) -> None:
        self._log = lake.access_log
        self._rest = rest

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """What is asked within the block; the counter is filled at its end."""
        found: Counter[str] = Counter()
        self._settle()
        start = self._log.stat().st_size
        yield found
        self._settle()
        with self._log.open() as log:
            log.seek(start)
            found.update(self._kinds(log.read()))

    def _settle(self) -> None:
        """Wait until what was asked before is in the log, where it comes after the answer."""
        for _ in range(3):
            mark = uuid4().hex
            self._rest.get(f"/ping?{mark}")
            eventually(partial(self._holds, mark), bool)

    def _holds(self, mark: str) -> bool:
        return mark in self._log.read_text()

    def _kinds(self, text: str) -> Iterator[str]:
        for line in text.splitlines():
            parsed = _LINE.match(line)
            if parsed is None or "POST /traces/" in parsed["request"]:
                continue  # traces are sent some time later
            if parsed["agent"].startswith("rucio-fs/"):
                kinds = (kind for kind, path in _KINDS.items() if path.match(parsed["request"]))
                yield next(kinds, parsed["request"])
