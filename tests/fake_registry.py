"""Registering in Rucio in memory: what is registered is seen in the lake of `tests.fakes`.

`FakeRegistry` obeys the same contract as the real one (tests/lake/test_registry_contract.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from lake.rses import RSES, hash_path
from rucio_fs import checksums
from rucio_fs.catalogue import rows
from rucio_fs.catalogue.registry import Destination, NewCollection, NewFile
from rucio_fs.did import DID, DIDInfo, DIDType, Identity
from rucio_fs.errors import (
    Closed,
    Denied,
    Differs,
    NoTarget,
    NotFound,
    NotYetHere,
    Refused,
    Unreachable,
)
from tests.fake_rules import FakeRules
from tests.fakes import FakeCatalogue

_LIMIT = 10**15  # bytes; the lake's
_NAME = re.compile(r"[/A-Za-z0-9][/A-Za-z0-9.\-_]{0,249}")
_OPEN_TO_ALL = ("SCRATCHDISK", "USERDISK", "LOCALGROUPDISK", "MOCK")
_RESERVED = ("bytes", "adler32", "md5", "scope", "name", "length", "is_open")
_NUMBERS = ("run_number", "events")


def lake_rses() -> dict[str, Destination]:
    """The RSEs of the real lake, at servers of their names in small letters."""
    return {
        rse.name: Destination(
            rse.name,
            rse.deterministic,
            True,
            {
                protocol.scheme: f"{protocol.scheme}://{rse.name.lower()}{rse.prefix}"
                for protocol in rse.protocols
                if "wan" in protocol.domains
            },
        )
        for rse in RSES
    }


@dataclass
class FakeRegistry:
    """A registry in memory.

    *calls* counts questions and changes by method name, *dids* the DIDs in them.  With *blocked* (a
    trio.Event) each waits for it; *delay* (s) makes each as slow; *error* is raised by each, those
    of *errors* by the method of that name.  *lost_answers* changes are made and then told to have
    failed.  Scopes belong to *owners*, or to root.
    """

    lake: FakeCatalogue
    rules: FakeRules | None = None
    account: str = "root"  # who asks
    is_admin: bool = True
    has_limits: bool = True  # False: the account has the attribute "admin"
    owners: dict[str, str] = field(default_factory=dict)
    rses: dict[str, Destination] = field(default_factory=lake_rses)
    # Bytes by account and RSE; None: infinite, no entry: no limit is set.
    limits: dict[tuple[str, str], int | None] = field(
        default_factory=lambda: {
            (account, rse.name): _LIMIT for account in ("root", "alice", "bob") for rse in RSES
        }
    )
    global_limits: dict[tuple[str, frozenset[str]], int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    dids: Counter[str] = field(default_factory=Counter)
    blocked: trio.Event | None = None
    delay: float = 0.0
    error: Exception | None = None
    errors: dict[str, Exception] = field(default_factory=dict)
    lost_answers: int = 0
    lifetimes: dict[DID, int | None] = field(default_factory=dict)  # of collections that were made

    def view_of(self, account: str) -> FakeRegistry:
        """The same registry as an ordinary account meets it."""
        return replace(self, account=account, is_admin=False)

    # --- before anything is stored ---------------------------------------------------------------

    async def own_scopes(self, who: Identity) -> Sequence[str]:
        await self._arrive("own_scopes")
        return self._own_scopes()

    async def destination(self, who: Identity, rse: str) -> Destination:
        await self._arrive("destination")
        return self._rse(rse)

    async def pfns(
        self, who: Identity, rse: str, dids: Sequence[DID], schemes: Sequence[str]
    ) -> Mapping[DID, str]:
        await self._arrive("pfns", len(dids))
        destination = self._rse(rse)
        if not destination.is_deterministic:
            raise NoTarget(f"{rse} has no place of its own for each file: its files need a PFN")
        for scheme in schemes:
            if scheme in destination.schemes:
                return {did: f"{destination.schemes[scheme]}{hash_path(*did)}" for did in dids}
        raise NoTarget(
            f"{rse} is written over {', '.join(destination.schemes) or 'nothing'},"
            f" not over {', '.join(schemes)}"
        )

    async def room(self, who: Identity, rse: str) -> int | None:
        await self._arrive("room")
        self._rse(rse)
        if not self.has_limits:
            return None
        limit = self.limits.get((self.account, rse), 0)
        left = [] if limit is None else [limit - self._used({rse})]
        left += [
            total - self._used(rses)
            for (account, rses), total in self.global_limits.items()
            if account == self.account and rse in rses
        ]
        if self.rules is not None and self.rules.quota is not None:
            left.append(self.rules.quota)
        return max(0, min(left)) if left else None

    # --- afterwards ------------------------------------------------------------------------------

    async def add_files(self, who: Identity, rse: str, files: Sequence[NewFile]) -> None:
        await self._arrive("add_files", len(files))
        if not files:
            return
        for file in files:
            self._check_name(file.did)
        self._compare(files)
        destination = self._rse(rse)
        new = [file for file in files if self._info(file.did) is None]
        self._require_scopes(f"add files at {rse}", (file.did for file in new))
        if not self.is_admin and not rse.endswith(_OPEN_TO_ALL):
            raise Denied(f"account {self.account} may not add files at {rse}: name another")
        if not destination.is_writable and not self.is_admin:
            raise NoTarget(f"{rse} is closed for writing")
        if not destination.is_deterministic and any(file.pfn is None for file in files):
            raise Refused(f"{rse} needs a PFN of each")
        for file in files:
            if self._info(file.did) is None:
                self.lake.file(
                    file.did,
                    size=file.size,
                    adler32=file.adler32,
                    md5=file.md5,
                    account=self.account,
                )
            if rse not in self.lake.states(file.did):
                begins = next(iter(destination.schemes.values()), "")
                self.lake.replica(file.did, rse, file.pfn or f"{begins}{hash_path(*file.did)}")
        for file in files:
            state = self.lake.states(file.did)[rse]
            if state != "AVAILABLE":
                raise NotYetHere(f"Rucio has a replica of {file.did} at {rse} that is {state}")
        self._answer()

    async def add_collections(self, who: Identity, collections: Sequence[NewCollection]) -> None:
        await self._arrive("add_collections", len(collections))
        missing: list[NewCollection] = []
        for one in collections:
            self._check_name(one.did)
            info = self._info(one.did)
            if info is None:
                missing.append(one)
            elif info.type is not one.type:
                raise Differs(f"{one.did} is a {info.type.value.lower()} in Rucio", [one.did])
        self._require_scopes("create collections", (one.did for one in missing))
        for one in missing:
            make = self.lake.dataset if one.type is DIDType.DATASET else self.lake.container
            make(one.did, account=self.account)
            self.lifetimes[one.did] = one.lifetime
        self._answer()

    async def attach(self, who: Identity, attachments: Mapping[DID, Sequence[DID]]) -> None:
        await self._arrive("attach", sum(map(len, attachments.values())))
        self._require_scopes(f"add members to {', '.join(map(str, attachments))}", attachments)
        for parent, members in attachments.items():
            info = self._require(parent)
            if not info.is_open:
                raise Closed(
                    f"{info.type.value.lower()} {parent} is closed:"
                    " its files stay registered without it",
                    [parent],
                )
            for member in members:
                is_file = self._require(member).type is DIDType.FILE
                if is_file != (info.type is DIDType.DATASET):
                    raise Refused(f"{member} cannot be a member of {parent}")
        for parent, members in attachments.items():
            there = self._members(parent)
            self.lake.attach(parent, *(did for did in dict.fromkeys(members) if did not in there))
        self._answer()

    async def detach(self, who: Identity, parent: DID, members: Sequence[DID]) -> None:
        await self._arrive("detach", len(members))
        if not members:
            return
        self._require_scopes(f"take members out of {parent}", [parent])
        self._require(parent)
        for member in members:
            if member in self._members(parent):
                self.lake.detach(parent, member)
        self._answer()

    async def set_metadata(self, who: Identity, did: DID, metadata: Mapping[str, Any]) -> None:
        await self._arrive("set_metadata")
        if not metadata:
            return
        try:
            json.dumps(dict(metadata), allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise Refused(f"metadata of {did} are not what JSON has") from exc
        if any(key in _RESERVED for key in metadata):
            raise Denied(f"account {self.account} may not set metadata of {did}")
        if not self.is_admin and self.owners.get(did.scope) != self.account:
            raise Denied(f"account {self.account} may not set metadata of {did}")
        self._require(did)
        if any(not isinstance(metadata.get(key, 0), int) for key in _NUMBERS):
            raise Refused(f"Rucio's database does not take the metadata of {did}")
        self.lake._records[did].metadata.update(rows.metadata(dict(metadata)))
        self._answer()

    # --- helpers ---------------------------------------------------------------------------------

    async def _arrive(self, method: str, dids: int = 1) -> None:
        self.calls[method] += 1
        self.dids[method] += dids
        await trio.lowlevel.checkpoint()
        if self.delay:
            await trio.sleep(self.delay)
        if self.blocked is not None:
            await self.blocked.wait()
        if (error := self.error or self.errors.get(method)) is not None:
            raise error

    def _answer(self) -> None:
        if self.lost_answers:
            self.lost_answers -= 1
            raise Unreachable("the connection broke")

    def _own_scopes(self) -> list[str]:
        return sorted(
            scope
            for scope in self.lake._scopes
            if self.is_admin or self.owners.get(scope) == self.account or scope == "mock"
        )

    def _rse(self, rse: str) -> Destination:
        if rse not in self.rses:
            raise NoTarget(f"Rucio knows no RSE {rse}")
        return self.rses[rse]

    def _used(self, rses: Iterable[str]) -> int:
        if self.rules is None:
            return 0
        known = map(self.rules.known, self.rules.ids())
        return sum(
            sum(self.lake.files_of(rule.did).values())
            for rule in known
            if rule.account == self.account and rule.rse_expression in rses
        )

    def _info(self, did: DID) -> DIDInfo | None:
        record = self.lake._records.get(did)
        return record.info if record else None

    def _require(self, did: DID) -> DIDInfo:
        info = self._info(did)
        if info is None:
            raise NotFound(f"{did}: Data identifier '{did}' not found")
        return info

    def _members(self, parent: DID) -> list[DID]:
        return self.lake._records[parent].children

    def _require_scopes(self, step: str, dids: Iterable[DID]) -> None:
        """Ordinary accounts are not told of a scope that is not there."""
        scopes = {did.scope for did in dids}
        foreign = sorted(scopes - set(self._own_scopes()))
        if foreign and not self.is_admin:
            raise Denied(
                f"account {self.account} may not {step}: the scope {foreign[0]} is not its own"
            )
        if foreign:
            raise NotFound(f"Rucio knows no scope {foreign[0]}")

    def _check_name(self, did: DID) -> None:
        if not _NAME.fullmatch(did.name):
            raise Refused(f"{did!s} is no name that Rucio takes")

    def _compare(self, files: Sequence[NewFile]) -> None:
        differ = [file for file in files if not self._is_same(file)]
        if differ:
            info = self._require(differ[0].did)
            raise Differs(
                f"{info.did} is in Rucio with {info.size} bytes and adler32 {info.adler32},"
                f" but {differ[0].size} bytes and {differ[0].adler32} here",
                [file.did for file in differ],
            )

    def _is_same(self, file: NewFile) -> bool:
        info = self._info(file.did)
        if info is None:
            return True
        return (info.type, info.size, checksums.parse(info.adler32)) == (
            DIDType.FILE,
            file.size,
            checksums.parse(file.adler32),
        )
