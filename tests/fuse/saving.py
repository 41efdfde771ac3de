"""A mount whose scratch is uploaded to a lake, and what that lake knows of it afterwards."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from lake import Lake
from lake.faults import FaultProxy, Tls
from lake.rses import RSES, hash_path
from tests.fuse.changing import Changer
from tests.fuse.clients import eventually
from tests.lake.rest import did_key, did_path
from tests.lake.rules import RuleLab
from tests.mounting import Mount

Saver = Callable[..., "Saving"]
PATIENCE = 60.0  # s; an upload takes one of them on an idle machine

# Not third-party copies: nothing is brought from such an RSE, or to it.
_OPERATIONS = {"read": 1, "write": 1, "delete": 1}


@dataclass(frozen=True)
class Storage:
    """An RSE whose server is reached through *proxy*; its files lie in *tree*."""

    rse: str
    tree: Path
    proxy: FaultProxy


def storage(
    lake: Lake, lab: RuleLab, server: str, *, tls: Tls | None = None, upstream: str = ""
) -> Storage:
    """Make a deterministic RSE behind a proxy, over TLS with *tls*.  It lasts as long as the lake.

    *upstream* is asked instead of the *server* itself.
    """
    url, base = lake.webdav(server, tls=tls is not None)
    parts = urlsplit(url)
    proxy = FaultProxy(upstream or f"{parts.scheme}://{parts.netloc}", tls).start()
    rse = f"UP-{uuid4().hex[:12].upper()}"
    tree = base / rse
    tree.mkdir()
    if os.geteuid() == 0:
        os.chown(tree, base.stat().st_uid, base.stat().st_gid)
    lab.call("POST", f"/rses/{rse}", {"deterministic": True})
    protocol = {
        "hostname": "localhost",
        "port": proxy.port,
        "prefix": f"{parts.path}{rse}/",
        "impl": "rucio.rse.protocols.gfal.Default",
        "domains": {"lan": _OPERATIONS, "wan": _OPERATIONS},
    }
    lab.call("POST", f"/rses/{rse}/protocols/{parts.scheme}", protocol)
    for key, value in {"lfn2pfn_algorithm": "hash", "site": "FAR9"}.items():
        lab.call("POST", f"/rses/{rse}/attr/{key}", {"value": value})
    lab.set_quota("root", rse, 1 << 40)
    return Storage(rse, tree, proxy)


class Saving:
    """*mount*, of which `rest` sees the other side with root's eyes.

    *stores* says where files lie of RSEs that the lake was not born with.
    """

    def __init__(
        self,
        mount: Mount,
        lake: Lake,
        scope: str,
        rest: Changer,
        stores: Mapping[str, Path] | None = None,
    ) -> None:
        self.mount = mount
        self.lake = lake
        self.scope = scope
        self.rest = rest
        self._stores = dict(stores or {})

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
        key = "os.path.relpath(path, os.path.join(ROOT, *ARGS[:2]))"
        return self._read(key, "scratch", self.scope, directory)

    def in_catalogue(self, directory: str) -> dict[str, bytes]:
        """The same, as everybody reads them: below the DID of that directory."""
        key = "os.getxattr(path, 'user.rucio.did').decode().partition(':')[2]"
        return self._read(key, self.scope, directory)

    def _read(self, key: str, *directory: str) -> dict[str, bytes]:
        """The bytes of all files below *directory*, by what the expression *key* says of *path*."""
        code = f"""
found = {{}}
for directory, _, names in os.walk(os.path.join(ROOT, *ARGS)):
    for name in names:
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            with open(path, 'rb') as file:
                found[{key}] = file.read().hex()
show(found)
"""
        found = self.mount.python(code, *directory)
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

    def problems(self, name: str) -> list[str]:
        """What `.rucio/problems` tells of a file of the scope, the newest first."""
        rows = json.loads(self.mount.run("cat", self.mount.path / ".rucio/problems").stdout)
        return [row["error"] for row in rows if row["did"] == f"{self.scope}:{name}"]

    def listed(self, name: str) -> dict[str, Any]:
        """What `.rucio/uploads` tells of a file of the scope; empty where it is in the lake."""
        did = f"{self.scope}:{name}"
        return next((one for one in self.uploads()["uploads"] if one.get("did") == did), {})

    def waits_for(self, service: str, words: str) -> str:
        """Wait until uploads wait for *service*, "Rucio" or an RSE, with *words* for a reason."""
        return eventually(
            lambda: str(self.uploads()["waits_for"].get(service, "")), lambda seen: words in seen
        )

    def failed(self, name: str, words: str) -> None:
        """Wait until an upload has stopped; everywhere one looks, *words* are in the reason."""
        eventually(lambda: self.xattr("upload", name), lambda state: state == "FAILED")
        shown = self.listed(name)
        assert shown["state"] == "FAILED"
        assert words in shown["error"]
        assert self.xattr("error", name) == shown["error"]
        assert shown["error"] in self.problems(name)

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

    def settled(self, patience: float = PATIENCE) -> dict[str, Any]:
        """Wait until nothing goes on by itself any more; what is left then."""
        try:
            return eventually(
                self.uploads,
                lambda found: not found["pending"] and not found["unsettled"],
                patience,
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

    def datasets(self) -> list[str]:
        """Names of all datasets of the scope."""
        rows = self.rest.rows(f"/dids/{self.scope}/dids/search?type=dataset&long=1")
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
        store = self._stores.get(rse) or self.lake.store(rse)
        return store / hash_path(self.scope, name)

    def litter(self) -> list[Path]:
        """What uploads have left on the storages under names of their own."""
        stores = {self.lake.store(rse.name) for rse in RSES} | {*self._stores.values()}
        return [path for store in stores for path in store.rglob("*.rucio-fs-*")]
