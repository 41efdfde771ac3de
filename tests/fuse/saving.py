"""A mount whose scratch is uploaded to a lake, and what that lake knows of it afterwards."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lake import Lake
from lake.rses import RSES, hash_path
from tests.fuse.changing import Changer
from tests.fuse.clients import eventually
from tests.lake.rest import did_key, did_path
from tests.mounting import Mount

Saver = Callable[..., "Saving"]
PATIENCE = 60.0  # s; an upload takes one of them on an idle machine


class Saving:
    """*mount*, of which `rest` sees the other side with root's eyes."""

    def __init__(self, mount: Mount, lake: Lake, scope: str, rest: Changer) -> None:
        self.mount = mount
        self.lake = lake
        self.scope = scope
        self.rest = rest

    # --- the mount -------------------------------------------------------------------------------

    def path(self, name: str = "") -> Path:
        return self.mount.path / "scratch" / self.scope / name

    def sh(self, script: str, *arguments: str, timeout: float = 60.0) -> str:
        """Run a script of the shell in the scope's directory of scratch; its output."""
        done = self.mount.run(
            "sh", "-euc", f'cd "$0"; {script}', self.path(), *arguments, timeout=timeout
        )
        assert done.returncode == 0, f"{script}: {done.stderr}{done.stdout}"
        return done.stdout

    def files(self, directory: str) -> dict[str, bytes]:
        """The bytes of all files in a directory of the scope, by the names of their DIDs."""
        code = """
found = {}
for directory, _, names in os.walk(os.path.join(ROOT, *ARGS)):
    for name in names:
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            with open(path, 'rb') as file:
                key = os.path.relpath(path, os.path.join(ROOT, *ARGS[:2]))
                found[key] = file.read().hex()
show(found)
"""
        found = self.mount.python(code, "scratch", self.scope, directory)
        return {name: bytes.fromhex(data) for name, data in found.items()}

    def errno(self, code: str, name: str) -> str | None:
        """Name of the error of *code*, for which *path* is that of a file of the scope."""
        program = f"path = os.path.join(ROOT, *ARGS)\n{code}\nshow(None)"
        found = self.mount.python(program, "scratch", self.scope, *name.split("/"))
        return None if found is None else str(found["errno"])

    def uploads(self) -> dict[str, Any]:
        text = self.mount.run("cat", self.mount.path / ".rucio/uploads").stdout
        found: dict[str, Any] = json.loads(text)
        return found

    def order(self, text: str) -> None:
        done = self.mount.run(
            "sh", "-euc", 'printf %s "$1" > "$0"', self.mount.path / ".rucio/uploads", text
        )
        assert done.returncode == 0, done.stderr

    def xattr(self, name: str, path: str) -> str | None:
        done = self.mount.run(
            "getfattr", "--only-values", "-n", f"user.rucio.{name}", self.path(path)
        )
        return done.stdout if done.returncode == 0 else None

    def settled(self) -> dict[str, Any]:
        """Wait until nothing goes on by itself any more; what is left then."""
        try:
            return eventually(
                self.uploads,
                lambda found: not found["pending"] and not found["unsettled"],
                PATIENCE,
            )
        except AssertionError as exc:
            found = self.uploads()
            found["uploads"] = [one for one in found["uploads"] if one["state"] != "FAILED"]
            log = "\n".join(self.mount.log_text().splitlines()[-30:])
            raise AssertionError(f"still not done: {json.dumps(found, indent=1)}\n{log}") from exc

    def done(self) -> None:
        """Wait until all is in the lake."""
        found = self.settled()
        assert found["failed"] == 0, found["uploads"]

    # --- the lake --------------------------------------------------------------------------------

    def known(self, name: str) -> dict[str, Any] | None:
        """What Rucio knows of a file of the scope, with the states of its replicas."""
        body = {"dids": [did_key(f"{self.scope}:{name}")], "all_states": True, "sort": "random"}
        rows = self.rest.rows("/replicas/list", body)
        return rows[0] if rows else None

    def all_known(self) -> list[dict[str, Any]]:
        """All files that Rucio knows in the scope, as `known` tells of one."""
        rows = self.rest.rows(f"/dids/{self.scope}/dids/search?type=file&long=1")
        dids = [did_key(f"{self.scope}:{row['name']}") for row in rows]
        found = []
        for start in range(0, len(dids), 500):
            body = {"dids": dids[start : start + 500], "all_states": True, "sort": "random"}
            found += self.rest.rows("/replicas/list", body)
        return found

    @staticmethod
    def adler32(data: bytes) -> str:
        return f"{zlib.adler32(data):08x}"

    def members(self, name: str) -> list[str]:
        """Names of what is in a collection of the scope."""
        rows = self.rest.rows(f"/dids/{did_path(f'{self.scope}:{name}')}/dids")
        return sorted(row["name"] for row in rows)

    def rules(self, name: str) -> list[dict[str, Any]]:
        return self.rest.rows(f"/dids/{did_path(f'{self.scope}:{name}')}/rules")

    def check(self, name: str, data: bytes, *, rse: str, dataset: str | None = None) -> None:
        """Rucio knows the file: its checksum, an AVAILABLE replica with its bytes, its dataset."""
        found = self.known(name)
        assert found is not None, f"{name} is not in the lake"
        assert (found["bytes"], found["adler32"]) == (len(data), f"{zlib.adler32(data):08x}")
        assert found["states"].get(rse) == "AVAILABLE", found["states"]
        assert self.stored(name, rse).read_bytes() == data
        if dataset is not None:
            assert name in self.members(dataset)

    def stored(self, name: str, rse: str) -> Path:
        """Where a deterministic RSE keeps a file."""
        return self.lake.store(rse) / hash_path(self.scope, name)

    def litter(self) -> list[Path]:
        """What uploads have left on the storages under names of their own."""
        stores = {self.lake.store(rse.name) for rse in RSES}
        return [path for store in stores for path in store.rglob("*.rucio-fs-*")]
