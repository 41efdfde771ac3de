"""What every `Catalogue` owes, asked of the lake's sample data (`lake.samples`).

Subclass it and give the fixtures `catalogue` and `suspicions`.  The real lake and the fake run the
same tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from lake import samples
from rucio_fs.catalogue.base import BULK_LIMIT, REASON_LIMIT, Catalogue, Listing
from rucio_fs.did import DID, DIDType, Identity
from rucio_fs.errors import NoReplica, NotFound, Refused

MY = Identity()
NOTHING = DID("sky", "no-such-did")
NIGHT = DID("sky", "night-001")  # closed, three files
OPEN_NIGHT = DID("sky", "night-003")
EMPTY = DID("lab", "empty")
MIXED = DID("lab", "mixed")  # notes.txt from two scopes
SURVEY = DID("sky", "survey")  # a container
FILE = DID("sky", "exp0001_g.fits")  # at COLO and REM1

Suspicions = Callable[[DID], Mapping[str, int]]
"""How often the replicas of a file were declared suspicious, by RSE."""


def _names(listing: Listing) -> set[DID]:
    return {member.did for member in listing.members}


def _dids(names: Sequence[str]) -> set[DID]:
    return {DID(*name.split(":", 1)) for name in names}


class CatalogueContract:
    """The tests.  They write nothing but declarations, which nobody else sees."""

    async def test_scopes_are_sorted(self, catalogue: Catalogue) -> None:
        scopes = await catalogue.scopes(MY)
        assert set(samples.SCOPES) <= set(scopes)
        assert list(scopes) == sorted(scopes)

    async def test_scope_shows_what_has_no_parent(self, catalogue: Catalogue) -> None:
        listing = await catalogue.scope_content(MY, "sky")
        # sky:notes.txt is in a dataset of another scope, which does not count for Rucio.
        top = {"sky:README.txt", "sky:archive", "sky:notes.txt", "sky:survey", "sky:best-of"}
        assert _names(listing) == _dids(sorted(top))
        by_name = {member.did: member for member in listing.members}
        assert by_name[SURVEY].type is DIDType.CONTAINER
        readme = by_name[DID("sky", "README.txt")]
        assert readme.type is DIDType.FILE
        assert readme.size == (await catalogue.info(MY, readme.did)).size

    async def test_scope_that_does_not_exist_is_empty(self, catalogue: Catalogue) -> None:
        assert len(await catalogue.scope_content(MY, "no.such.scope")) == 0

    @pytest.mark.parametrize("one", [*samples.DATASETS, *samples.CONTAINERS], ids=lambda o: o.did)
    async def test_content_is_what_was_attached(
        self, catalogue: Catalogue, one: samples.SampleCollection
    ) -> None:
        expected = _dids(one.members)
        if one.did == samples.CYCLE[0]:
            expected |= _dids([samples.CYCLE[1]])
        listing = await catalogue.content(MY, DID(one.scope, one.filename))
        assert _names(listing) == expected

    async def test_content_tells_sizes_and_checksums(self, catalogue: Catalogue) -> None:
        for member in (await catalogue.content(MY, NIGHT)).members:
            info = await catalogue.info(MY, member.did)
            assert (member.type, member.size) == (DIDType.FILE, info.size)
            assert info.size is not None
            assert member.adler32 == info.adler32 is not None

    async def test_content_tells_types(self, catalogue: Catalogue) -> None:
        survey = await catalogue.content(MY, SURVEY)
        assert {member.type for member in survey.members} == {DIDType.CONTAINER}
        year = await catalogue.content(MY, DID("sky", "survey.2026"))
        assert {member.type for member in year.members} == {DIDType.DATASET}
        assert {member.size for member in year.members} == {None}

    async def test_members_of_two_scopes_can_be_told_apart(self, catalogue: Catalogue) -> None:
        listing = await catalogue.content(MY, MIXED)
        assert set(listing.filenames) == {"notes.txt", "sky:notes.txt", "exp0001_g.fits"}

    async def test_content_of_a_file_is_empty(self, catalogue: Catalogue) -> None:
        assert len(await catalogue.content(MY, FILE)) == 0

    @pytest.mark.parametrize("one", [*samples.DATASETS, *samples.CONTAINERS], ids=lambda o: o.did)
    async def test_parents_are_what_it_was_attached_to(
        self, catalogue: Catalogue, one: samples.SampleCollection
    ) -> None:
        for member in _dids(one.members):
            assert DID(one.scope, one.filename) in await catalogue.parents(MY, member)

    async def test_what_is_in_nothing_has_no_parents(self, catalogue: Catalogue) -> None:
        assert not await catalogue.parents(MY, SURVEY)
        assert not await catalogue.parents(MY, DID("sky", "no-such-file"))

    async def test_info_of_a_file(self, catalogue: Catalogue) -> None:
        info = await catalogue.info(MY, FILE)
        assert (info.did, info.type, info.account) == (FILE, DIDType.FILE, "root")
        assert info.size
        assert info.adler32
        assert (info.is_open, info.length) == (False, None)
        assert info.created_ns > 1_600_000_000 * 10**9
        assert info.mtime_ns == info.created_ns

    async def test_info_of_a_closed_dataset(self, catalogue: Catalogue) -> None:
        info = await catalogue.info(MY, NIGHT)
        listing = await catalogue.content(MY, NIGHT)
        assert (info.type, info.is_open, info.length) == (DIDType.DATASET, False, len(listing))
        assert info.size == sum(member.size or 0 for member in listing.members)

    @pytest.mark.parametrize("did", [OPEN_NIGHT, EMPTY, SURVEY])
    async def test_open_collection_has_no_length(self, catalogue: Catalogue, did: DID) -> None:
        info = await catalogue.info(MY, did)
        assert (info.is_open, info.length, info.size) == (True, None, None)
        assert info.mtime_ns == info.updated_ns

    async def test_info_of_somebody_elses(self, catalogue: Catalogue) -> None:
        assert (await catalogue.info(MY, DID("user.alice", "thesis"))).account == "alice"

    @pytest.mark.parametrize("filename", samples.ODD_NAMES)
    async def test_odd_names_are_found(self, catalogue: Catalogue, filename: str) -> None:
        did = DID("lab", filename)
        assert (await catalogue.info(MY, did)).did == did
        assert [r.rse for r in (await catalogue.replicas(MY, did)).replicas] == ["REMND"]

    async def test_infos_leave_out_the_unknown(self, catalogue: Catalogue) -> None:
        infos = await catalogue.infos(MY, [FILE, NOTHING, NIGHT])
        assert infos == {
            FILE: await catalogue.info(MY, FILE),
            NIGHT: await catalogue.info(MY, NIGHT),
        }

    async def test_infos_of_nothing(self, catalogue: Catalogue) -> None:
        assert await catalogue.infos(MY, []) == {}

    async def test_infos_take_a_thousand(self, catalogue: Catalogue) -> None:
        many = [DID("sky", f"no-such-{number}") for number in range(BULK_LIMIT - 1)]
        assert set(await catalogue.infos(MY, [*many, FILE])) == {FILE}
        with pytest.raises(Refused):
            await catalogue.infos(MY, [*many, FILE, NIGHT])

    async def test_metadata_is_text(self, catalogue: Catalogue) -> None:
        metadata = await catalogue.metadata(MY, FILE)
        assert metadata["target"] == "M31"
        assert metadata["exptime"] == "120.0"
        assert await catalogue.metadata(MY, EMPTY) == {}

    async def test_replicas(self, catalogue: Catalogue) -> None:
        found = await catalogue.replicas(MY, FILE)
        info = await catalogue.info(MY, FILE)
        assert (found.did, found.size, found.adler32) == (FILE, info.size, info.adler32)
        assert {replica.rse for replica in found.replicas} == {"COLO", "REM1"}
        assert found.states == {"COLO": "AVAILABLE", "REM1": "AVAILABLE"}
        assert all("://" in replica.pfn for replica in found.replicas)

    @pytest.mark.parametrize("did", [NIGHT, EMPTY, SURVEY])
    async def test_a_collection_has_no_replicas(self, catalogue: Catalogue, did: DID) -> None:
        with pytest.raises(Refused, match=str(did)):
            await catalogue.replicas(MY, did)

    @pytest.mark.parametrize("method", ["content", "info", "replicas"])
    @pytest.mark.parametrize("did", [NOTHING, DID("no.such.scope", "x")])
    async def test_the_unknown_is_not_found(
        self, catalogue: Catalogue, method: str, did: DID
    ) -> None:
        with pytest.raises(NotFound, match=str(did)):
            await getattr(catalogue, method)(MY, did)

    async def test_a_replica_is_declared_suspicious(
        self, catalogue: Catalogue, suspicions: Suspicions
    ) -> None:
        before, seen = suspicions(FILE), await catalogue.replicas(MY, FILE)
        await catalogue.declare_suspicious(MY, FILE, "REM1", "the file has adler32 1, not 2")
        await catalogue.declare_suspicious(MY, FILE, "COLO", "é" * (REASON_LIMIT + 1))
        assert suspicions(FILE) == {rse: before.get(rse, 0) + 1 for rse in ("COLO", "REM1")}
        assert await catalogue.replicas(MY, FILE) == seen, "it stays AVAILABLE"

    @pytest.mark.parametrize("filename", samples.ODD_NAMES)
    async def test_odd_names_are_declared_suspicious(
        self, catalogue: Catalogue, suspicions: Suspicions, filename: str
    ) -> None:
        did = DID("lab", filename)
        before = suspicions(did).get("REMND", 0)
        await catalogue.declare_suspicious(MY, did, "REMND", "r")
        assert suspicions(did) == {"REMND": before + 1}

    @pytest.mark.parametrize("did", [FILE, NOTHING, NIGHT])
    async def test_what_is_not_there_is_not_declared_suspicious(
        self, catalogue: Catalogue, suspicions: Suspicions, did: DID
    ) -> None:
        before = suspicions(did)
        with pytest.raises(NoReplica, match=f"{did} at REM2"):
            await catalogue.declare_suspicious(MY, did, "REM2", "r")
        assert suspicions(did) == before
