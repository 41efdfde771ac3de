"""A mount that reaches its Rucio through a proxy which breaks things on order."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lake import Lake
from lake.faults import FaultProxy
from tests.mounting import DEADLINE, Mount

# Short, so that giving up is seen soon; long enough for a busy machine's healthy answers.
TIMEOUT, QUESTION, LISTING = 1.5, 3.0, 4.0
PATIENCE = 8.0  # s; a question's deadline, and what a busy machine takes to start a client
SHORT: Mapping[str, object] = {
    "rucio.timeout": TIMEOUT,
    "rucio.deadline": QUESTION,
    "rucio.listing_deadline": LISTING,
}
PASSWORD = "secret"  # of every account of the lake

_BY_TEXT = {os.strerror(number): name for number, name in errno.errorcode.items()}


@dataclass(frozen=True)
class Look:
    """What a client program saw: its output, the errnos it complained of, how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def errnos(self) -> set[str]:
        """Names of the errnos in the program's complaints."""
        texts = [line.rpartition(": ")[2] for line in self.err.splitlines()]
        return {_BY_TEXT.get(text, text) for text in texts}

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def through(proxy: FaultProxy) -> dict[str, object]:
    """Options of a mount that takes *proxy* for its Rucio."""
    return {"rucio.host": proxy.url, "rucio.auth_host": proxy.url}


class FaultyMount:
    """*mount*, and the *proxy* between it and Rucio.  Its tokens are its own (`tokens`)."""

    def __init__(
        self,
        lake: Lake,
        options: Mapping[str, object] | None = None,
        *,
        config: Path | None = None,
    ) -> None:
        self._runtime = tempfile.TemporaryDirectory(prefix="rucio-fs-test-run-")
        self.proxy = FaultProxy(lake.rucio_url).start()
        try:
            self.mount = Mount(
                config or lake.client_config(),
                {"site": "HERE", "rse": "COLO", **through(self.proxy), **SHORT, **(options or {})},
                environment={"XDG_RUNTIME_DIR": self._runtime.name},
            )
        except BaseException:
            self.proxy.close()
            self._runtime.cleanup()
            raise

    def look(self, *command: str, at: str = "", timeout: float = DEADLINE) -> Look:
        """Run *command* on the path *at* below the mountpoint."""
        start = time.monotonic()
        done = self.mount.run(*command, self.mount.path / at, timeout=timeout)
        return Look(done.returncode, done.stdout, done.stderr, time.monotonic() - start)

    def refresh(self) -> None:
        """Make the mount forget what Rucio said; the kernel keeps what it was told."""
        done = self.mount.run("sh", "-c", 'echo >"$0"', self.mount.path / ".rucio" / "refresh")
        assert done.returncode == 0, done.stderr

    def logins(self) -> int:
        """Requests for a token since `proxy.clear_requests`."""
        return sum(record.path.startswith("/auth/") for record in self.proxy.requests)

    def asked(self, pattern: str) -> int:
        """Requests whose path and query match *pattern* since `proxy.clear_requests`."""
        return sum(re.search(pattern, record.path) is not None for record in self.proxy.requests)

    def tokens(self) -> list[str]:
        """Tokens that the mount has kept."""
        files = Path(self._runtime.name).rglob("*")
        texts = [file.read_text() for file in files if file.is_file()]
        return [text for text in texts if text.startswith("root-")]

    def problems(self, since: int = 0) -> list[str]:
        """Lines of the log from WARNING on, past its first *since* characters."""
        levels = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")
        lines = self.mount.log_text()[since:].splitlines()
        return [line for line in lines if any(level in line for level in levels)]

    def check_log(self) -> None:
        """No secret and no bug is in the log."""
        text = self.mount.log_text()
        assert PASSWORD not in text
        assert self.tokens(), "the test does not know where tokens lie"
        assert not [token for token in self.tokens() if token in text]
        assert not re.search(r"\b\w+-\w+-\w+-[0-9a-f]{32}\b", text)  # how Rucio writes tokens
        assert "Traceback" not in text, text

    def end(self) -> int | None:
        """End it; return the server's exit code.  Only the log remains."""
        self.proxy.clear()
        try:
            return self.mount.close()
        finally:
            self.proxy.close()
            self._runtime.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            code = self.end()
            assert kind is not None or code == 0, f"exit code {code}:\n{self.mount.log_text()}"
        finally:
            self.mount.remove()
