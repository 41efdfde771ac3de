"""What every `Registry` owes: Rucio itself, through `RucioRegistry`, and the tests' fake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol
from uuid import uuid4

import pytest

from lake import Lake
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.base import Catalogue
from rucio_fs.catalogue.registry import NewCollection, NewFile, Registry
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.catalogue.rucio_registry import RucioRegistry
from rucio_fs.config import RucioConfig
from rucio_fs.did import DID, DIDType, Identity
from rucio_fs.errors import (
    Closed,
    Denied,
    Differs,
    NoTarget,
    NotFound,
    NotYetHere,
    Refused,
)
from tests.direct import hide
from tests.fake_registry import FakeRegistry
from tests.fake_rules import FakeRules
from tests.fakes import FakeCatalogue
from tests.lake.rules import RuleLab

MY = Identity()
RSE = "COLO_SCRATCHDISK"
SCHEMES = ("davs", "https")
HERS = "user.alice"


@dataclass
class Account:
    """Somebody who registers, and a scope of his own."""

    name: str
    registry: Registry
    scope: str


class Bench(Protocol):
    """A lake to register in.  *scope* is root's, made for the tests, as is the scope mock."""

    scope: str
    root: Account
    alice: Account

    @property
    def catalogue(self) -> Catalogue: ...

    def did(self, scope: str) -> DID:
        """A DID that is not there."""
        ...

    def close(self, did: DID) -> None:
        """Let a collection take no more members."""
        ...

    def copying(self, file: NewFile, rse: str) -> None:
        """Register *file* with a replica that is on its way."""
        ...

    def unwritable(self) -> AbstractContextManager[object]:
        """Close `RSE` for writing."""
        ...

    def limit(self, size: int | None) -> AbstractContextManager[object]:
        """Let alice keep *size* bytes more at `RSE`, -1: without end, None: set no limit."""
        ...

    def global_limit(self, size: int) -> AbstractContextManager[object]:
        """Let alice keep *size* bytes at REM1 and `RSE` together."""
        ...


# --- the two -------------------------------------------------------------------------------------


class FakeBench:
    """The bench over the fake."""

    def __init__(self) -> None:
        self.scope = "work"
        self.catalogue = self.lake = FakeCatalogue()
        for scope in (self.scope, HERS, "mock"):
            self.lake.scope(scope)
        registry = FakeRegistry(self.lake, FakeRules(self.lake), owners={HERS: "alice"})
        self._registry = registry
        self.root = Account("root", registry, self.scope)
        self.alice = Account("alice", registry.view_of("alice"), HERS)
        self._numbers = count()

    def did(self, scope: str) -> DID:
        return DID(scope, f"x{next(self._numbers)}")

    def close(self, did: DID) -> None:
        self.lake.close_did(did)

    def copying(self, file: NewFile, rse: str) -> None:
        self.lake.file(file.did, size=file.size, adler32=file.adler32)
        self.lake.replica(file.did, rse, state="COPYING")

    @contextmanager
    def unwritable(self) -> Iterator[None]:
        before = self._registry.rses[RSE]
        self._registry.rses[RSE] = replace(before, is_writable=False)
        try:
            yield
        finally:
            self._registry.rses[RSE] = before

    @contextmanager
    def limit(self, size: int | None) -> Iterator[None]:
        limits, key = self._registry.limits, ("alice", RSE)
        before = limits.pop(key)
        if size is not None:
            limits[key] = None if size < 0 else size
        try:
            yield
        finally:
            limits[key] = before

    @contextmanager
    def global_limit(self, size: int) -> Iterator[None]:
        self._registry.global_limits["alice", frozenset({"REM1", RSE})] = size
        try:
            yield
        finally:
            self._registry.global_limits.clear()


class LakeBench:
    """The bench over the real lake."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.lab = RuleLab(lake)
        self.scope = self.lab.scope()
        made = self.lab.answer("POST", "/scopes/root/mock")
        assert made.status_code in (201, 409), made.text
        self._asking = [
            Asking(RucioConfig(config_file=lake.client_config(account), deadline=30.0))
            for account in ("root", "alice")
        ]
        self.catalogue = RucioCatalogue(self._asking[0])
        root, alice = map(RucioRegistry, self._asking)
        self.root = Account("root", root, self.scope)
        self.alice = Account("alice", alice, HERS)
        self._prefix = uuid4().hex[:8]
        self._numbers = count()

    def end(self) -> None:
        for asking in self._asking:
            asking.close()
        self.lab.close()

    def did(self, scope: str) -> DID:
        return DID(scope, f"t-{self._prefix}/{next(self._numbers)}")

    def close(self, did: DID) -> None:
        self.lab.set_open(str(did), False)

    def copying(self, file: NewFile, rse: str) -> None:
        row = file.did._asdict() | {"bytes": file.size, "adler32": file.adler32, "state": "C"}
        self.lab.call("POST", "/replicas", {"rse": rse, "files": [row]})

    def unwritable(self) -> AbstractContextManager[object]:
        return self.lab.availability(RSE, write=False)

    @contextmanager
    def limit(self, size: int | None) -> Iterator[None]:
        path = f"/accounts/alice/limits/local/{RSE}"
        before = self.lab.get(path)[RSE]
        if size is None:
            self.lab.call("DELETE", path)
        else:
            self.lab.set_quota("alice", RSE, -1 if size < 0 else size + self._used())
        try:
            yield
        finally:
            self.lab.set_quota("alice", RSE, before)

    @contextmanager
    def global_limit(self, size: int) -> Iterator[None]:
        path = f"/accounts/alice/limits/global/{RSE}%7CREM1"
        self.lab.call("POST", path, {"bytes": size + self._used()})
        try:
            yield
        finally:
            self.lab.call("DELETE", path)

    def _used(self) -> int:
        return sum(row["bytes"] for row in self.lab.rows(f"/accounts/alice/usage/local/{RSE}"))


# --- the contract --------------------------------------------------------------------------------


def _file(did: DID, size: int = 1000, adler32: str = "03a50b2c", pfn: str | None = None) -> NewFile:
    return NewFile(did, size, adler32, pfn=pfn)


async def _states(bench: Bench, did: DID) -> Mapping[str, str]:
    return (await bench.catalogue.replicas(MY, did)).states


async def _is_known(bench: Bench, *dids: DID) -> list[bool]:
    found = await bench.catalogue.infos(MY, dids)
    return [did in found for did in dids]


async def _members(bench: Bench, did: DID) -> list[DID]:
    return sorted(member.did for member in (await bench.catalogue.content(MY, did)).members)


async def _collection(bench: Bench, somebody: Account, kind: DIDType = DIDType.DATASET) -> DID:
    did = bench.did(somebody.scope)
    await somebody.registry.add_collections(MY, [NewCollection(did, kind)])
    return did


async def _files(bench: Bench, somebody: Account, number: int) -> list[DID]:
    dids = [bench.did(somebody.scope) for _ in range(number)]
    await somebody.registry.add_files(MY, RSE, [_file(did) for did in dids])
    return dids


class RegistryContract:
    """The tests.  *somebody* is an administrator, then an ordinary account."""

    @pytest.fixture(params=["root", "alice"])
    def somebody(self, bench: Bench, request: pytest.FixtureRequest) -> Account:
        return bench.root if request.param == "root" else bench.alice

    # --- before anything is stored ---------------------------------------------------------------

    async def test_scopes_to_write_to(self, bench: Bench) -> None:
        everything = await bench.root.registry.own_scopes(MY)
        assert {bench.scope, HERS} <= set(everything)
        assert list(everything) == sorted(everything)
        # A lake that has seen these tests before hides the scope mock.
        hers = [scope for scope in everything if scope in ("mock", HERS)]
        own = await bench.alice.registry.own_scopes(MY)
        assert set(hers) <= set(own), "and what other tests have given her"
        assert bench.scope not in own
        assert list(own) == sorted(own)

    async def test_an_rse_as_a_destination(self, bench: Bench, somebody: Account) -> None:
        found = await somebody.registry.destination(MY, RSE)
        assert (found.rse, found.is_deterministic, found.is_writable) == (RSE, True, True)
        assert list(found.schemes) == ["davs", "https"]  # not file, which only reads
        assert found.schemes["davs"].startswith("davs://")
        assert found.schemes["davs"].endswith("/scratch/")
        assert not (await somebody.registry.destination(MY, "REMND")).is_deterministic

    async def test_an_rse_that_is_not_there(self, bench: Bench, somebody: Account) -> None:
        registry = somebody.registry
        with pytest.raises(NoTarget, match="NOWHERE"):
            await registry.destination(MY, "NOWHERE")
        with pytest.raises(NoTarget, match="NOWHERE"):
            await registry.pfns(MY, "NOWHERE", [bench.did(somebody.scope)], SCHEMES)
        with pytest.raises(NoTarget, match="NOWHERE"):
            await registry.room(MY, "NOWHERE")

    async def test_files_are_looked_for_where_they_were_to_be_put(
        self, bench: Bench, somebody: Account
    ) -> None:
        dids = await _files(bench, somebody, 3)
        for schemes, used in (SCHEMES, "davs"), (("dav", "https", "davs"), "https"):
            pfns = await somebody.registry.pfns(MY, RSE, dids, schemes)
            assert list(pfns) == dids
            assert all(pfn.startswith(f"{used}://") for pfn in pfns.values())
        pfns = await somebody.registry.pfns(MY, RSE, dids, ("davs",))
        for did in dids:
            found = await bench.catalogue.replicas_over(MY, did, ["davs"])
            assert [replica.pfn for replica in found.replicas] == [pfns[did]]
        assert await somebody.registry.pfns(MY, RSE, [], SCHEMES) == {}

    async def test_there_is_no_place_over_schemes_that_an_rse_lacks(
        self, bench: Bench, somebody: Account
    ) -> None:
        did = bench.did(somebody.scope)
        with pytest.raises(NoTarget, match=r"COLO_SCRATCHDISK.*davs, https.*root, file"):
            await somebody.registry.pfns(MY, RSE, [did], ("root", "file"))
        with pytest.raises(NoTarget, match="REMND"):
            await somebody.registry.pfns(MY, "REMND", [did], SCHEMES)

    async def test_room_is_what_the_limit_leaves(self, bench: Bench) -> None:
        registry = bench.alice.registry
        with bench.limit(5000):
            assert 4000 < (await registry.room(MY, RSE) or 0) <= 5000, "others keep some bytes"
            with bench.global_limit(3000):
                assert 2000 < (await registry.room(MY, RSE) or 0) <= 3000
            with bench.global_limit(8000):
                assert 4000 < (await registry.room(MY, RSE) or 0) <= 5000
        with bench.limit(-1):
            assert await registry.room(MY, RSE) is None
            with bench.global_limit(3000):
                assert 2000 < (await registry.room(MY, RSE) or 0) <= 3000
        with bench.limit(None):
            assert await registry.room(MY, RSE) == 0

    async def test_room_where_nothing_was_kept_yet(self, bench: Bench) -> None:
        for rse in (RSE, "COLO", "REM1"):
            room = await bench.alice.registry.room(MY, rse)
            assert room is not None
            assert 0.9e15 < room <= 1e15

    # --- files -----------------------------------------------------------------------------------

    async def test_files_are_registered(self, bench: Bench, somebody: Account) -> None:
        one, two = bench.did(somebody.scope), bench.did(somebody.scope)
        files = [NewFile(one, 7, "0000000a", md5="0" * 31 + "a"), NewFile(two, 0, "00000001")]
        for _ in range(2):  # again is no error
            await somebody.registry.add_files(MY, RSE, files)
        for file in files:
            info = await bench.catalogue.info(MY, file.did)
            assert (info.type, info.size, info.adler32) == (DIDType.FILE, file.size, file.adler32)
            assert (info.md5, info.account) == (file.md5, somebody.name)
            assert await _states(bench, file.did) == {RSE: "AVAILABLE"}

    async def test_nothing_to_do_is_done(self, bench: Bench, somebody: Account) -> None:
        await somebody.registry.add_files(MY, RSE, [])
        await somebody.registry.add_collections(MY, [])
        await somebody.registry.attach(MY, {})
        await somebody.registry.detach(MY, bench.did("sky"), [])
        await somebody.registry.set_metadata(MY, bench.did("sky"), {})

    async def test_other_content_is_refused_and_changes_nothing(
        self, bench: Bench, somebody: Account
    ) -> None:
        known, new = bench.did(somebody.scope), bench.did(somebody.scope)
        await somebody.registry.add_files(MY, RSE, [_file(known, 1000, "03a50b2c")])
        for other in (_file(known, 1001, "03a50b2c"), _file(known, 1000, "0000000a")):
            for registry, rse in (somebody.registry, RSE), (bench.root.registry, "REM1"):
                with pytest.raises(Differs) as caught:
                    await registry.add_files(MY, rse, [_file(new), other])
                assert caught.value.dids == (known,)
                for part in (str(known), "03a50b2c", other.adler32, str(other.size)):
                    assert part in str(caught.value)
        info = await bench.catalogue.info(MY, known)
        assert (info.size, info.adler32) == (1000, "03a50b2c")
        assert await _states(bench, known) == {RSE: "AVAILABLE"}
        assert await _is_known(bench, new) == [False]

    async def test_a_collection_is_no_file(self, bench: Bench, somebody: Account) -> None:
        did = await _collection(bench, somebody)
        with pytest.raises(Differs, match=str(did)):
            await somebody.registry.add_files(MY, RSE, [_file(did)])

    async def test_one_did_for_two_contents(self, bench: Bench, somebody: Account) -> None:
        did = bench.did(somebody.scope)
        await somebody.registry.add_files(MY, RSE, [_file(did), _file(did)])
        with pytest.raises(Differs):
            await somebody.registry.add_files(MY, RSE, [_file(did), _file(did, 7)])

    async def test_the_same_content_elsewhere_is_a_second_replica(
        self, bench: Bench, somebody: Account
    ) -> None:
        (did,) = await _files(bench, somebody, 1)
        await bench.root.registry.add_files(MY, "COLO", [_file(did, adler32="03A50B2C")])
        assert await _states(bench, did) == {RSE: "AVAILABLE", "COLO": "AVAILABLE"}

    async def test_a_replica_that_is_on_its_way(self, bench: Bench, somebody: Account) -> None:
        file = _file(bench.did(somebody.scope))
        bench.copying(file, RSE)
        with pytest.raises(NotYetHere, match=f"{file.did} at {RSE} .*COPYING"):
            await somebody.registry.add_files(MY, RSE, [file])
        assert await _states(bench, file.did) == {RSE: "COPYING"}

    async def test_an_ordinary_account_registers_at_some_rses_only(self, bench: Bench) -> None:
        did = bench.did(HERS)
        for rse in ("COLO", "REM1"):
            with pytest.raises(Denied, match=f"alice may not add files at {rse}"):
                await bench.alice.registry.add_files(MY, rse, [_file(did)])
        assert await _is_known(bench, did) == [False]

    async def test_an_ordinary_account_makes_no_dids_elsewhere(self, bench: Bench) -> None:
        own, foreign = bench.did(HERS), bench.did(bench.scope)
        with pytest.raises(Denied, match=f"alice may not add files .*{bench.scope} is not its own"):
            await bench.alice.registry.add_files(MY, RSE, [_file(own), _file(foreign)])
        with pytest.raises(Denied, match=f"{bench.scope} is not its own"):
            await bench.alice.registry.add_collections(
                MY, [NewCollection(did, DIDType.DATASET) for did in (own, foreign)]
            )
        assert await _is_known(bench, own, foreign) == [False, False]

    async def test_a_scope_or_rse_that_is_not_there(self, bench: Bench) -> None:
        registry, did = bench.root.registry, DID("no-such-scope", "f")
        with pytest.raises(NotFound, match="no-such-scope"):
            await registry.add_files(MY, RSE, [_file(did)])
        with pytest.raises(NotFound, match="no-such-scope"):
            await registry.add_collections(MY, [NewCollection(did, DIDType.DATASET)])
        with pytest.raises(NoTarget, match="NOWHERE"):
            await registry.add_files(MY, "NOWHERE", [_file(bench.did(bench.scope))])

    @pytest.mark.parametrize("name", ["a b", ".hidden", "x" * 251, "naïve.txt", "日本.txt", "a\nb"])
    async def test_names_that_rucio_does_not_take(
        self, bench: Bench, somebody: Account, name: str
    ) -> None:
        did = DID(somebody.scope, name)
        with pytest.raises(Refused):
            await somebody.registry.add_files(MY, RSE, [_file(did)])
        with pytest.raises(Refused):
            await somebody.registry.add_collections(MY, [NewCollection(did, DIDType.DATASET)])

    async def test_an_rse_that_is_closed_for_writing(self, bench: Bench) -> None:
        hers, roots = bench.did(HERS), bench.did(bench.scope)
        with bench.unwritable():
            with pytest.raises(NoTarget, match=f"{RSE} is closed for writing"):
                await bench.alice.registry.add_files(MY, RSE, [_file(hers)])
            await bench.root.registry.add_files(MY, RSE, [_file(roots)])
        assert await _is_known(bench, hers, roots) == [False, True]

    async def test_files_of_an_rse_that_has_no_place_for_each(self, bench: Bench) -> None:
        registry, did = bench.root.registry, bench.did(bench.scope)
        with pytest.raises(Refused, match=r"REMND .*PFN"):
            await registry.add_files(MY, "REMND", [_file(did)])
        assert await _is_known(bench, did) == [False]
        prefix = (await registry.destination(MY, "REMND")).schemes["https"]
        pfn = f"{prefix}some/where/{did.name.rpartition('/')[2]}.dat"
        for _ in range(2):
            await registry.add_files(MY, "REMND", [_file(did, pfn=pfn)])
        found = await bench.catalogue.replicas(MY, did)
        assert [(replica.rse, replica.pfn) for replica in found.replicas] == [("REMND", pfn)]

    async def test_more_than_rucio_takes_at_once(self, bench: Bench) -> None:
        dids = await _files(bench, bench.alice, 1001)
        parent = await _collection(bench, bench.alice)
        await bench.alice.registry.attach(MY, {parent: dids})
        assert await _members(bench, parent) == sorted(dids)
        await bench.alice.registry.detach(MY, parent, dids)
        assert await _members(bench, parent) == []

    # --- collections -----------------------------------------------------------------------------

    async def test_collections_are_made_where_they_lack(
        self, bench: Bench, somebody: Account
    ) -> None:
        known = await _collection(bench, somebody)
        new = [
            NewCollection(bench.did(somebody.scope), DIDType.DATASET, lifetime=1000),
            NewCollection(bench.did(somebody.scope), DIDType.CONTAINER),
        ]
        for _ in range(2):
            await somebody.registry.add_collections(
                MY, [NewCollection(known, DIDType.DATASET), *new]
            )
        infos = await bench.catalogue.infos(MY, [one.did for one in new])
        for one in new:
            info = infos[one.did]
            assert (info.type, info.is_open, info.account) == (one.type, True, somebody.name)

    async def test_a_did_of_another_type(self, bench: Bench, somebody: Account) -> None:
        (file,) = await _files(bench, somebody, 1)
        dataset, new = await _collection(bench, somebody), bench.did(somebody.scope)
        for did, kind in (file, DIDType.DATASET), (dataset, DIDType.CONTAINER):
            wanted = [NewCollection(new, kind), NewCollection(did, kind)]
            with pytest.raises(Differs, match=str(did)) as caught:
                await somebody.registry.add_collections(MY, wanted)
            assert caught.value.dids == (did,)
        assert await _is_known(bench, new) == [False]

    # --- members ---------------------------------------------------------------------------------

    async def test_members_are_attached_once(self, bench: Bench, somebody: Account) -> None:
        files, (foreign,) = (
            await _files(bench, somebody, 3),
            await _files(bench, bench.root, 1),
        )
        one, two = await _collection(bench, somebody), await _collection(bench, somebody)
        await somebody.registry.attach(MY, {one: files[:2]})
        for _ in range(2):
            await somebody.registry.attach(MY, {one: [*files, files[0]], two: [files[0], foreign]})
        assert await _members(bench, one) == sorted(files)
        assert await _members(bench, two) == sorted([files[0], foreign])
        top = await _collection(bench, somebody, DIDType.CONTAINER)
        for _ in range(2):
            await somebody.registry.attach(MY, {top: [one, two]})
        assert await _members(bench, top) == sorted([one, two])

    async def test_a_closed_collection_takes_no_members(
        self, bench: Bench, somebody: Account
    ) -> None:
        (file,) = await _files(bench, somebody, 1)
        closed, other = await _collection(bench, somebody), await _collection(bench, somebody)
        bench.close(closed)
        with pytest.raises(Closed, match=f"dataset {closed} is closed") as caught:
            await somebody.registry.attach(MY, {other: [file], closed: [file]})
        assert caught.value.dids == (closed,)
        assert await _members(bench, other) == await _members(bench, closed) == []

    async def test_parents_and_members_that_are_not_there(
        self, bench: Bench, somebody: Account
    ) -> None:
        (file,) = await _files(bench, somebody, 1)
        parent, missing = await _collection(bench, somebody), bench.did(somebody.scope)
        for attachments in ({parent: [file, missing]}, {missing: [file]}):
            with pytest.raises(NotFound, match=str(missing)):
                await somebody.registry.attach(MY, attachments)
        assert await _members(bench, parent) == []
        with pytest.raises(NotFound, match=str(missing)):
            await somebody.registry.detach(MY, missing, [file])

    async def test_members_of_the_wrong_kind(self, bench: Bench, somebody: Account) -> None:
        (file,) = await _files(bench, somebody, 1)
        dataset = await _collection(bench, somebody)
        container = await _collection(bench, somebody, DIDType.CONTAINER)
        for parent, member in (container, file), (dataset, container):
            with pytest.raises(Refused, match=str(parent)):
                await somebody.registry.attach(MY, {parent: [member]})

    async def test_members_are_detached(self, bench: Bench, somebody: Account) -> None:
        files = await _files(bench, somebody, 3)
        parent = await _collection(bench, somebody)
        await somebody.registry.attach(MY, {parent: files})
        bench.close(parent)
        for _ in range(2):
            await somebody.registry.detach(MY, parent, files[:1])
        await somebody.registry.detach(MY, parent, files[:2])
        assert await _members(bench, parent) == files[2:]

    async def test_an_ordinary_account_leaves_others_collections_alone(self, bench: Bench) -> None:
        (hers,), (file,) = await _files(bench, bench.alice, 1), await _files(bench, bench.root, 1)
        parent = await _collection(bench, bench.root)
        await bench.root.registry.attach(MY, {parent: [file]})
        with pytest.raises(Denied, match=f"alice may not add members .*{bench.scope}"):
            await bench.alice.registry.attach(MY, {parent: [hers]})
        with pytest.raises(Denied, match=f"alice may not take members out .*{bench.scope}"):
            await bench.alice.registry.detach(MY, parent, [file])
        assert await _members(bench, parent) == [file]

    async def test_everybodys_scope(self, bench: Bench) -> None:
        alice = Account("alice", bench.alice.registry, "mock")
        one, two = await _files(bench, alice, 2)
        parent = await _collection(bench, alice)
        await alice.registry.attach(MY, {parent: [one]})
        for _ in range(2):
            await alice.registry.attach(MY, {parent: [one, two]})
        assert await _members(bench, parent) == sorted([one, two])
        bench.close(parent)
        with pytest.raises(Closed, match=str(parent)):
            await alice.registry.attach(MY, {parent: await _files(bench, alice, 1)})

    # --- metadata --------------------------------------------------------------------------------

    async def test_metadata_are_added(self, bench: Bench, somebody: Account) -> None:
        (file,) = await _files(bench, somebody, 1)
        for did in (file, await _collection(bench, somebody)):
            await somebody.registry.set_metadata(MY, did, {"target": "M31", "exptime": 1.5})
            for _ in range(2):
                await somebody.registry.set_metadata(MY, did, {"exptime": 2, "who": ["a", None]})
            found = await bench.catalogue.metadata(MY, did)
            assert found == {"target": "M31", "exptime": "2", "who": '["a", null]'}

    async def test_metadata_of_nothing(self, bench: Bench, somebody: Account) -> None:
        missing = bench.did(somebody.scope)
        with pytest.raises(NotFound, match=str(missing)):
            await somebody.registry.set_metadata(MY, missing, {"a": 1})

    async def test_metadata_that_are_none(self, bench: Bench, somebody: Account) -> None:
        (file,) = await _files(bench, somebody, 1)
        for metadata in ({"a": object()}, {"a": float("nan")}, {"run_number": "seven"}):
            with pytest.raises(Refused, match=str(file)):
                await somebody.registry.set_metadata(MY, file, metadata)

    async def test_what_describes_the_content_is_not_changed(
        self, bench: Bench, somebody: Account
    ) -> None:
        (file,) = await _files(bench, somebody, 1)
        with pytest.raises(Denied, match=f"may not set metadata of {file}"):
            await somebody.registry.set_metadata(MY, file, {"a": 1, "adler32": "00000001"})
        assert (await bench.catalogue.info(MY, file)).adler32 == "03a50b2c"
        assert await bench.catalogue.metadata(MY, file) == {}

    async def test_an_ordinary_account_leaves_others_metadata_alone(self, bench: Bench) -> None:
        (file,) = await _files(bench, bench.root, 1)
        with pytest.raises(Denied, match=f"alice may not set metadata of {file}"):
            await bench.alice.registry.set_metadata(MY, file, {"a": 1})


class TestFakeRegistry(RegistryContract):
    @pytest.fixture
    def bench(self) -> FakeBench:
        return FakeBench()


@pytest.fixture(scope="module")
def lake_bench(lake: Lake) -> Iterator[LakeBench]:
    made = LakeBench(lake)
    yield made
    made.end()
    for scope in (made.scope, "mock"):
        hide(lake, scope)


@pytest.mark.lake
class TestRucioRegistry(RegistryContract):
    @pytest.fixture
    def bench(self, lake_bench: LakeBench) -> LakeBench:
        return lake_bench


@pytest.mark.lake
async def test_a_collection_ends_when_it_is_told(lake_bench: LakeBench) -> None:
    short, long = lake_bench.did(HERS), lake_bench.did(HERS)
    await lake_bench.alice.registry.add_collections(
        MY,
        [
            NewCollection(short, DIDType.DATASET, lifetime=86400),
            NewCollection(long, DIDType.DATASET),
        ],
    )
    assert lake_bench.lab.metadata(str(short))["expired_at"] is not None
    assert lake_bench.lab.metadata(str(long))["expired_at"] is None


@pytest.mark.lake
async def test_rucio_itself_would_let_a_replica_of_other_content_pass(
    lake_bench: LakeBench,
) -> None:
    """Why it is asked first: 201, the DID as it was, and a wrong replica among the dataset's."""
    (did,) = await _files(lake_bench, lake_bench.root, 1)
    parent = await _collection(lake_bench, lake_bench.root)
    await lake_bench.root.registry.attach(MY, {parent: [did]})
    lab = lake_bench.lab
    row = did._asdict() | {"bytes": 7, "adler32": "0000000a"}
    assert lab.answer("POST", "/replicas", {"rse": RSE, "files": [row]}).status_code == 201
    assert await _states(lake_bench, did) == {RSE: "AVAILABLE"}
    assert lab.answer("POST", "/replicas", {"rse": "REM1", "files": [row]}).status_code == 201
    assert await _states(lake_bench, did) == {RSE: "AVAILABLE", "REM1": "AVAILABLE"}
    assert lab.metadata(str(did))["adler32"] == "03a50b2c"
    body = {"dids": [parent._asdict()], "rse_expression": "REM1", "sort": "random"}
    (listed,) = lab.rows("/replicas/list", body)
    assert (listed["bytes"], listed["adler32"]) == (7, "0000000a")
