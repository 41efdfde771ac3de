"""A laboratory for replication rules: files that lie at one RSE only, and rules about them.

Bytes are written straight into an RSE's directory and registered in bulk, so that a thousand files
are there within seconds.  Everything else goes through Rucio's REST interface.
"""

from __future__ import annotations

import hashlib
import socket
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

import requests

from lake import Lake, placing
from lake.rses import BY_NAME, hash_path
from tests.fuse.changing import Changer
from tests.lake.rest import did_key, did_path, eventually

_BULK = 500  # files in one request; Rucio takes more, but answers others meanwhile
_TIMEOUT = 120.0  # seconds for one request; a rule on a thousand files takes 2


@dataclass(frozen=True)
class RefusalError(Exception):
    """What Rucio answered instead of doing it: HTTP status, class of its exception, message."""

    status: int
    exception: str
    message: str

    def __str__(self) -> str:
        return f"{self.status} {self.exception}: {self.message}"


class RuleLab(Changer):
    """An account's session for rules.  DIDs are ``scope:name``, sizes bytes, times seconds.

    What Rucio refuses raises RefusalError.  What is set for a test's time is set by the context
    managers `quota` and `availability`, for the lake is shared.
    """

    def __init__(self, lake: Lake, account: str = "root") -> None:
        super().__init__(lake, account)
        self.account = account
        self._sizes: dict[str, int] = {}

    # Files and collections.

    def scope(self) -> str:
        """Make a scope that no other test uses (tests.direct.hide takes it out of listings)."""
        scope = f"r-{uuid4().hex[:12]}"
        self.add_scope(scope)
        return scope

    def files(
        self,
        scope: str,
        *,
        count: int = 1,
        rse: str = "REM1",
        size: int = 1000,
        dataset: str | None = None,
        prefix: str = "file",
    ) -> list[str]:
        """Make *count* files of *size* bytes at *rse* alone; return their DIDs.

        With *dataset* they become members of this dataset of *scope*, made if it is not there.
        No rule keeps them, but no tombstone lets the reaper take them either.
        """
        dids = [f"{scope}:{prefix}-{number:05d}.dat" for number in range(count)]
        for did in dids:
            self._sizes[did] = size
        self.replicas(dids, rse)
        if dataset is not None:
            self._attach_in_bulk(f"{scope}:{dataset}", dids, is_container=False)
        return dids

    def replicas(self, dids: Sequence[str], rse: str) -> None:
        """Put the bytes of *dids* made by `files` also at *rse*, and register them there."""
        element = BY_NAME[rse]
        assert element.deterministic, f"{rse} has no rule for where its files lie"
        store = self._lake.directory / "store"
        rows = []
        for did in dids:
            content = self.content(did)
            placing.put(element, store, hash_path(*did.split(":", 1)), content)
            facts = {"bytes": len(content), "adler32": f"{zlib.adler32(content):08x}"}
            rows.append(did_key(did) | facts)
        for start in range(0, len(rows), _BULK):
            self.call("POST", "/replicas/", {"rse": rse, "files": rows[start : start + _BULK]})

    def nested(
        self,
        scope: str,
        *,
        containers: int = 2,
        datasets: int = 4,
        files: int = 1000,
        rse: str = "REM1",
        size: int = 1000,
        top: str = "all",
    ) -> str:
        """Make a container of *containers* containers of *datasets* datasets each; return its DID.

        *files* is the number of all files, dealt out evenly.
        """
        number = containers * datasets
        dids = self.files(scope, count=files, rse=rse, size=size, prefix=top)
        groups = []
        for which in range(containers):
            members = []
            for inner in range(datasets):
                index = which * datasets + inner
                members.append(f"{scope}:{top}.{which}.{inner}")
                self._attach_in_bulk(members[-1], dids[index::number], is_container=False)
            groups.append(f"{scope}:{top}.{which}")
            self._attach_in_bulk(groups[-1], members, is_container=True)
        self._attach_in_bulk(f"{scope}:{top}", groups, is_container=True)
        return f"{scope}:{top}"

    def content(self, did: str) -> bytes:
        """Return the bytes of a file made here, told by its DID and size."""
        size = self._sizes.get(did)
        if size is None:
            size = int(self.get(f"/dids/{did_path(did)}")["bytes"])
            self._sizes[did] = size
        return hashlib.shake_128(did.encode()).digest(size)

    def lose(self, did: str, rse: str) -> None:
        """Delete the bytes at *rse* behind Rucio's back."""
        (self._lake.store(rse) / hash_path(*did.split(":", 1))).unlink()

    # What Rucio knows.

    def rule(self, rule_id: str) -> dict[str, Any]:
        """Return a rule as Rucio tells it: state, locks_ok_cnt, error, expires_at, ..."""
        return dict(self.call("GET", f"/rules/{rule_id}").json())

    def rules(self, did: str) -> list[dict[str, Any]]:
        """Return the rules set on this very DID."""
        return self.rows(f"/dids/{did_path(did)}/rules")

    def rules_of_account(self, account: str) -> list[dict[str, Any]]:
        """Return all rules an account pays for."""
        return self.rows(f"/rules/?account={account}")

    def states(self, did: str, rse: str = "COLO") -> dict[str, str]:
        """Return the replica states at *rse*, whatever they are, of a file or all a collection has.

        A file without replica there is left out.
        """
        body = {"dids": [did_key(did)], "rse_expression": rse, "all_states": True, "sort": "random"}
        rows = self.rows("/replicas/list", body)
        return {f"{r['scope']}:{r['name']}": r["states"][rse] for r in rows if rse in r["states"]}

    def tally(self, did: str, rse: str = "COLO") -> Counter[str]:
        """Count `states`."""
        return Counter(self.states(did, rse).values())

    def await_rule(self, rule_id: str, state: str = "OK") -> dict[str, Any]:
        """Return the rule as soon as its state is *state*."""
        return eventually(lambda: self.rule(rule_id), lambda rule: rule["state"] == state)

    # Rules.

    def add_rule(
        self,
        did: str | Sequence[str],
        rse: str = "COLO",
        *,
        account: str | None = None,
        lifetime: float | None = None,
        ask_approval: bool = False,
        expression: str | None = None,
        **more: Any,
    ) -> str:
        """Ask for *did* at *rse* (or wherever the RSE *expression* says); return the rule's id.

        Of several DIDs the first rule's; `add_rules` returns all.  *account* pays, by default ours.
        *more* is whatever else POST /rules/ takes.
        """
        dids = [did] if isinstance(did, str) else did
        return self.add_rules(
            dids,
            expression or rse,
            account=account or self.account,
            lifetime=lifetime,
            ask_approval=ask_approval,
            **more,
        )[0]

    def add_rules(self, dids: Sequence[str], rse_expression: str, **more: Any) -> list[str]:
        """Make a rule for each of *dids* in one request; all or none."""
        body = {
            "dids": [did_key(did) for did in dids],
            "account": self.account,
            "copies": 1,
            "rse_expression": rse_expression,
            "grouping": "DATASET",
            "locked": False,
            **more,
        }
        return [str(rule_id) for rule_id in self.call("POST", "/rules/", body).json()]

    def delete_rule(self, rule_id: str) -> None:
        """End a rule now; return when Rucio knows it no more.

        DELETE /rules/ID only lets it expire after an hour.
        """
        self.set_lifetime(rule_id, -1)
        eventually(
            lambda: self.answer("GET", f"/rules/{rule_id}").status_code, lambda code: code == 404
        )

    def set_lifetime(self, rule_id: str, seconds: float | None) -> None:
        """Let a rule expire in *seconds* from now; None: never."""
        self._update(rule_id, {"lifetime": seconds})

    def set_state(self, rule_id: str, state: str, *, cancel_requests: bool = False) -> None:
        """Make a rule SUSPENDED or STUCK, with *cancel_requests* ending its transfers too."""
        options: dict[str, Any] = {"state": state}
        if cancel_requests:
            options["cancel_requests"] = True
        self._update(rule_id, options)

    def boost(self, rule_id: str) -> None:
        """Have the repairer try a STUCK rule's transfers again in its next round.

        By itself it does so two hours after they failed, or later.
        """
        self._update(rule_id, {"boost_rule": True})

    def approve(self, rule_id: str) -> None:
        """Approve a rule that waits for it; it is served then."""
        self._update(rule_id, {"approve": True})

    def deny(self, rule_id: str, reason: str | None = None) -> None:
        """Deny a rule that waits for approval; it is gone then."""
        self._update(rule_id, {"approve": False, "comment": reason})

    # What rules meet; as root.

    def set_quota(self, account: str, rse: str, size: int) -> None:
        """Let an account's rules keep at most *size* bytes at *rse*."""
        self.call("POST", f"/accounts/{account}/limits/local/{rse}", {"bytes": size})

    @contextmanager
    def quota(self, account: str, rse: str, size: int) -> Iterator[Self]:
        """Set a quota for the time of the block."""
        before = self.get(f"/accounts/{account}/limits/local/{rse}")[rse]
        self.set_quota(account, rse, size)
        try:
            yield self
        finally:
            self.set_quota(account, rse, before)

    def set_availability(
        self, rse: str, *, read: bool | None = None, write: bool | None = None
    ) -> None:
        """Say whether *rse* may be read or written; None leaves it as it is.

        Rucio remembers for ten minutes what an RSE expression stands for, availability included:
        so its cache is emptied.
        """
        wanted: Mapping[str, bool | None] = {"availability_read": read, "availability_write": write}
        body = {key: value for key, value in wanted.items() if value is not None}
        self.call("PUT", f"/rses/{rse}", body)
        with socket.create_connection(("127.0.0.1", self._lake.ports["memcached"])) as cache:
            cache.sendall(b"flush_all\r\n")
            assert cache.recv(64) == b"OK\r\n"

    @contextmanager
    def availability(
        self, rse: str, *, read: bool | None = None, write: bool | None = None
    ) -> Iterator[Self]:
        """Change an RSE's availability for the time of the block."""
        before = self.get(f"/rses/{rse}")
        self.set_availability(rse, read=read, write=write)
        try:
            yield self
        finally:
            self.set_availability(
                rse, read=before["availability_read"], write=before["availability_write"]
            )

    # Requests.

    def answer(self, method: str, path: str, body: Any = None) -> requests.Response:
        """Send a request and return what comes back, good or bad."""
        return self._session.request(method, f"{self._url}{path}", json=body, timeout=_TIMEOUT)

    def call(self, method: str, path: str, body: Any = None) -> requests.Response:
        """Send a request that has to succeed.  Raises: RefusalError."""
        answer = self.answer(method, path, body)
        if not answer.ok:
            name = answer.headers.get("ExceptionClass", "")
            message = answer.headers.get("ExceptionMessage", answer.text)
            raise RefusalError(answer.status_code, name, message)
        return answer

    def _update(self, rule_id: str, options: Mapping[str, Any]) -> None:
        self.call("PUT", f"/rules/{rule_id}", {"options": options})

    def _attach_in_bulk(self, did: str, members: Sequence[str], *, is_container: bool) -> None:
        kind = "CONTAINER" if is_container else "DATASET"
        made = self.answer("POST", f"/dids/{did_path(did)}", {"type": kind})
        assert made.status_code in (201, 409), made.text  # 409: it is there
        for start in range(0, len(members), _BULK):
            batch = [did_key(member) for member in members[start : start + _BULK]]
            self.call("POST", f"/dids/{did_path(did)}/dids", {"dids": batch})
