"""What a running lake is: the content of its lake.json.

Written after every server that starts, so that also a lake whose start was killed can be ended.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lake.errors import LakeError
from lake.processes import Server

_FILENAME = "lake.json"


@dataclass
class State:
    """Everything needed to use or end a lake from another process."""

    directory: Path
    made_directory: bool  # down() removes the whole directory only if we made it
    boot_id: str
    ports: dict[str, int]
    oidc: bool
    fts_mode: str
    daemons: bool
    samples: bool
    complete: bool = False  # up() got to its end
    servers: list[Server] = field(default_factory=list)

    def save(self) -> None:
        """Write lake.json in one step."""
        path = self.directory / _FILENAME
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self) | {"directory": str(self.directory)}, indent=1))
        fresh.rename(path)


def load(directory: Path) -> State | None:
    """Read the state of the lake in *directory*, or None where there is none."""
    try:
        text = (directory / _FILENAME).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise LakeError(f"the lake in {directory} belongs to another user") from None
    raw = json.loads(text)
    servers = [Server(**server) for server in raw.pop("servers")]
    return State(**raw | {"directory": directory, "servers": servers})


def boot_id() -> str:
    """Return the id of this boot: no pid of another one means anything."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
