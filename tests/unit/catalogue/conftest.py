"""A scripted Rucio and a catalogue that asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rucio.client.baseclient import BaseClient

from rucio_fs import tokens
from rucio_fs.catalogue import retrying
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.config import RucioConfig
from rucio_fs.errors import Unreachable
from tests.unit.catalogue.server import Server, token

Make = Callable[..., RucioCatalogue]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("RUCIO_CONFIG", "RUCIO_AUTH_TYPE", "RUCIO_ACCOUNT", "BEARER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("BEARER_TOKEN_FILE", raising=False)
    # Tokens of the person who runs the tests are none of theirs.
    monkeypatch.setattr(tokens, "TEMPORARY", tmp_path)
    monkeypatch.setattr(BaseClient, "TOKEN_PATH_PREFIX", f"{tmp_path}/.rucio_")
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with Server().running() as server:
        server.on("/auth/userpass", token())
        yield server


@pytest.fixture
def make(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes catalogues: ``make(timeout=0.2, cfg="auth_type = oidc")``."""

    def pause(tries: int, last: Unreachable) -> float:
        """One repetition, at once."""
        return float(getattr(last, "retry_after", 0)) if tries == 1 else 3600.0

    monkeypatch.setattr(retrying, "_pause", pause)
    made: list[RucioCatalogue] = []
    userpass = "auth_type = userpass\nusername = ann\npassword = secret"

    def catalogue(
        cfg: str = userpass,
        timeout: float = 5.0,
        deadline: float = 20.0,
        connections: int = 2,
        host: str | None = None,
    ) -> RucioCatalogue:
        file = tmp_path / f"rucio-{len(made)}.cfg"
        url = host or server.url
        file.write_text(f"[client]\nrucio_host = {url}\nauth_host = {url}\naccount = ann\n{cfg}\n")
        config = RucioConfig(
            config_file=file,
            timeout=timeout,
            deadline=deadline,
            listing_deadline=20.0,
            connections=connections,
        )
        made.append(RucioCatalogue(Asking(config), site="HERE"))
        return made[-1]

    yield catalogue
    for one in made:
        one.asking.close()
