"""DIDs that Rucio's own interface would not make, or not so many at once, for tests.

They are written straight into the lake's tables, and their bytes into COLO's directory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from lake import Lake
from lake.rses import hash_path

_REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class File:
    """A file DID.  *content* lies at COLO, or nothing does: then *bytes* is its size."""

    name: str
    content: bytes | None = None
    bytes: int = 0
    rses: Sequence[str] = ("COLO",)


@dataclass(frozen=True)
class Collection:
    """A dataset or container DID; members are of the same scope."""

    name: str
    members: Sequence[str] = ()
    is_container: bool = False
    is_open: bool = False


@dataclass(frozen=True)
class Plan:
    """What a scope is to hold.  *time* (ISO 8601, UTC) is that of creation; default: now."""

    files: Sequence[File] = ()
    collections: Sequence[Collection] = ()
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    time: str | None = None


def fresh_scope() -> str:
    """A name that no other test uses, also not in a lake that outlives the test."""
    return f"t-{uuid4().hex[:12]}"


def insert(lake: Lake, scope: str, plan: Plan) -> None:
    """Make *scope* with what *plan* says."""
    files = []
    for file in plan.files:
        content = file.content
        if content is not None:
            place(lake, scope, file.name, content)
        files.append(
            {
                "name": file.name,
                "bytes": file.bytes if content is None else len(content),
                "adler32": f"{zlib.adler32(content or b''):08x}",
                "md5": None,
                "rses": list(file.rses),
            }
        )
    _inside(
        lake,
        {
            "scope": scope,
            "files": files,
            "collections": [asdict(collection) for collection in plan.collections],
            "metadata": plan.metadata,
            "time": plan.time,
        },
    )


def hide(lake: Lake, scope: str) -> None:
    """Take *scope* out of Rucio's list of scopes; the lake is shared."""
    _inside(lake, {"hide": scope})


def revoke(lake: Lake, tokens: Sequence[str]) -> None:
    """End *tokens* as their expiry would; return when no process of Rucio takes them any more.

    Rucio's processes remember good tokens for a quarter of an hour, so they are exchanged.
    """
    _inside(lake, {"revoke": list(tokens)})
    (pid,) = [server.pid for server, _ in lake.servers() if server.name == "rucio"]
    os.kill(pid, signal.SIGHUP)
    refused = 0
    deadline = time.monotonic() + 60
    while refused < 20:
        assert time.monotonic() < deadline, "the token is still taken"
        answers = [
            requests.get(
                f"{lake.rucio_url}/scopes/", headers={"X-Rucio-Auth-Token": token}, timeout=10
            )
            for token in tokens
        ]
        refused = refused + 1 if {answer.status_code for answer in answers} == {401} else 0


def path_at_colo(lake: Lake, scope: str, name: str) -> Path:
    """Where COLO has, or should have, the bytes of a file DID."""
    return lake.store("COLO") / hash_path(scope, name)


def place(lake: Lake, scope: str, name: str, content: bytes) -> None:
    """Put bytes where COLO should have those of a file DID."""
    path = path_at_colo(lake, scope, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _inside(lake: Lake, plan: Mapping[str, Any]) -> None:
    done = subprocess.run(
        [str(lake.server_python), "-m", "tests.insert_rows"],
        env=dict(os.environ)
        | {
            "RUCIO_CONFIG": str(lake.directory / "etc" / "rucio.cfg"),
            "PYTHONPATH": str(_REPOSITORY),
        },
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
