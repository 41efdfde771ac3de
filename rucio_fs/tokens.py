"""Where tokens lie: those we got ourselves, and bearer tokens that others put there.

Bearer tokens (WLCG's discovery, then rucio-clients' own file) are renewed by htgettoken, oidc-agent
or a browser; this only reads them, each time anew.
Source: WLCG Bearer Token Discovery 1.0; rucio.common.utils.wlcg_token_discovery, which does not
tell where it found one.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

TEMPORARY = Path("/tmp")  # by the standard, whatever TMPDIR says


def sources(token_file: Path | None) -> list[tuple[str, str]]:
    """Every place in order of preference, with the token in it ("" if there is none).

    *token_file* comes last.
    """
    found = [("the environment variable BEARER_TOKEN", os.environ.get("BEARER_TOKEN", "").strip())]
    name = f"bt_u{os.geteuid()}"
    files = [
        os.environ.get("BEARER_TOKEN_FILE"),
        os.environ.get("XDG_RUNTIME_DIR") and f"{os.environ['XDG_RUNTIME_DIR']}/{name}",
        str(TEMPORARY / name),
        token_file and str(token_file),
    ]
    return found + [(file, read_token(Path(file))) for file in files if file]


def read_token(path: Path) -> str:
    """The token in *path*, "" if there is none to read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def token_directory() -> Path:
    """A directory that only this user can enter: for one login among many clients and mounts."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        directory = Path(runtime, "rucio-fs")
    else:
        directory = Path(tempfile.gettempdir(), f"rucio-fs-{os.geteuid()}")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        if mine and not status.st_mode & 0o077:
            return directory
    except OSError:
        pass
    # Somebody else made it (/tmp is everybody's): tokens are then not shared with other mounts.
    return Path(tempfile.mkdtemp(prefix="rucio-fs-"))
