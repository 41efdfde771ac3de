"""Changes to the lake's catalogue through Rucio's own REST interface, while mounts look on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from lake import Lake
from lake.rses import hash_path
from tests.lake.rest import Rest, did_key, did_path


class Changer(Rest):
    """An account's session that also writes.  DIDs are ``scope:name``."""

    def __init__(self, lake: Lake, account: str = "root") -> None:
        super().__init__(lake, account)
        self._lake = lake

    def add_scope(self, scope: str) -> None:
        self._send("POST", f"/scopes/root/{scope}", None)

    def add_collection(
        self, did: str, members: Sequence[str] = (), *, is_container: bool = False
    ) -> None:
        """Make an open dataset or container."""
        kind = "CONTAINER" if is_container else "DATASET"
        self._send("POST", f"/dids/{did_path(did)}", {"type": kind})
        if members:
            self.attach(did, *members)

    def add_file(self, did: str, content: bytes, rse: str = "COLO") -> None:
        """Put *content* into the storage of *rse* and register it as its replica."""
        path = self._lake.store(rse) / hash_path(*did.split(":", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
            directory.chmod(0o777)  # the storage's server, another user, is to write there too
        file = did_key(did) | {"bytes": len(content), "adler32": f"{zlib.adler32(content):08x}"}
        self._send("POST", "/replicas/", {"rse": rse, "files": [file]})

    def add_rule(self, did: str, rse: str) -> str:
        """Ask for *did* at *rse*; return the rule's id."""
        body = {
            "dids": [did_key(did)],
            "account": "root",
            "copies": 1,
            "rse_expression": rse,
            "grouping": "DATASET",
            "locked": False,
        }
        (rule,) = self.post("/rules/", body)
        return str(rule)

    def attach(self, did: str, *members: str) -> None:
        self._send("POST", f"/dids/{did_path(did)}/dids", {"dids": [did_key(m) for m in members]})

    def detach(self, did: str, *members: str) -> None:
        self._send("DELETE", f"/dids/{did_path(did)}/dids", {"dids": [did_key(m) for m in members]})

    def set_open(self, did: str, is_open: bool) -> None:
        """Close a collection, so that it grows no more, or open it again."""
        self._send("PUT", f"/dids/{did_path(did)}/status", {"open": is_open})

    def set_metadata(self, did: str, **metadata: Any) -> None:
        self._send("POST", f"/dids/{did_path(did)}/meta", {"meta": metadata})

    def metadata(self, did: str) -> dict[str, Any]:
        """What Rucio itself knows of a DID, user-defined metadata left out."""
        return dict(self.get(f"/dids/{did_path(did)}/meta?plugin=DID_COLUMN"))

    def _send(self, method: str, path: str, body: Any) -> None:
        answer = self._session.request(method, f"{self._url}{path}", json=body, timeout=30)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
