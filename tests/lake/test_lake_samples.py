"""The sample data are what lake/README.md says, for Rucio and on disk; rules move bytes."""

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from lake import Lake, LakeError, samples
from lake.fts.client import FtsControl
from lake.rses import BY_NAME, hash_path
from tests.lake.rest import Rest, did_key, did_path, eventually

pytestmark = pytest.mark.lake

_HERE = {"ip": "127.0.0.1", "fqdn": "localhost", "site": "HERE"}


@pytest.fixture(scope="module")
def own_lake() -> Iterator[Lake]:
    lake = Lake.up(free_ports=True)
    yield lake
    lake.down()


@pytest.fixture(scope="module")
def rest(own_lake: Lake) -> Iterator[Rest]:
    session = Rest(own_lake)
    yield session
    session.close()


def _local(lake: Lake, did: str, rse: str) -> Path:
    file = samples.FILE_BY_DID[did]
    return lake.store(rse) / (file.path or hash_path(file.scope, file.filename))


def _rule(did: str, rse: str) -> dict[str, Any]:
    return {
        "dids": [did_key(did)],
        "account": "root",
        "copies": 1,
        "rse_expression": rse,
        "grouping": "DATASET",
        "locked": False,
    }


def test_every_scope_holds_what_is_declared(rest: Rest) -> None:
    assert sorted(rest.get("/scopes/")) == sorted(samples.SCOPES)
    found: Counter[tuple[str, str]] = Counter()
    for scope in samples.SCOPES:
        for row in rest.rows(f"/dids/{scope}/dids/search?type=all&long=True"):
            found[scope, row["did_type"]] += 1
    assert found == {
        ("sky", "FILE"): 16,
        ("sky", "DATASET"): 7,
        ("sky", "CONTAINER"): 4,
        ("lab", "FILE"): 26,
        ("lab", "DATASET"): 8,
        ("lab", "CONTAINER"): 3,
        ("user.alice", "FILE"): 2,
        ("user.alice", "DATASET"): 1,
        ("user.bob", "FILE"): 1,
        ("user.bob", "DATASET"): 1,
    }


@pytest.mark.parametrize(
    "collection", [*samples.DATASETS, *samples.CONTAINERS], ids=lambda c: str(c.did)
)
def test_collections_have_their_members_and_state(
    rest: Rest, collection: samples.SampleCollection
) -> None:
    rows = rest.rows(f"/dids/{did_path(collection.did)}/dids")
    wanted = set(collection.members)
    if collection.did == samples.CYCLE[0]:
        wanted |= {samples.CYCLE[1]}
    assert {f"{row['scope']}:{row['name']}" for row in rows} == wanted
    assert rest.get(f"/dids/{did_path(collection.did)}")["open"] is collection.is_open


def test_two_namesakes_share_a_dataset(rest: Rest) -> None:
    rows = rest.rows("/dids/lab/mixed/dids")
    assert sorted((r["name"], r["scope"]) for r in rows if r["name"] == "notes.txt") == [
        ("notes.txt", "lab"),
        ("notes.txt", "sky"),
    ]
    assert len({row["adler32"] for row in rows if row["name"] == "notes.txt"}) == 2


def test_a_dataset_has_two_parents(rest: Rest) -> None:
    parents = {row["name"] for row in rest.rows("/dids/sky/night-002/parents")}
    assert parents == {"survey.2026", "best-of"}


def test_replicas_are_where_declared_with_their_bytes(own_lake: Lake, rest: Rest) -> None:
    keys = [did_key(file.did) for file in samples.FILES]
    rows = {
        f"{row['scope']}:{row['name']}": row
        for row in rest.rows("/replicas/list", {"dids": keys, "client_location": _HERE})
    }
    for file in samples.FILES:
        row = rows[file.did]
        assert row["states"] == dict.fromkeys(file.rses, "AVAILABLE"), file.did
        for rse in file.rses:
            path = _local(own_lake, file.did, rse)
            if BY_NAME[rse].site == "HERE":
                assert f"file://localhost{path}" in row["pfns"]
            if rse == "COLO" and file.did in samples.MISSING_AT_COLO:
                assert not path.exists()
            elif rse == "COLO" and file.did in samples.SHORT_AT_COLO:
                assert path.stat().st_size == row["bytes"] // 2
            else:
                assert path.stat().st_size == row["bytes"]
                if file.kind != "zeros":
                    content = path.read_bytes()
                    assert f"{zlib.adler32(content):08x}" == row["adler32"]
                    assert hashlib.md5(content).hexdigest() == row["md5"]


def test_storages_serve_the_samples(own_lake: Lake, rest: Rest) -> None:
    for did in ("sky:exp0011_g.fits", "sky:exp0031_g.fits", "user.bob:spectrum.csv", "lab:trail/"):
        (row,) = rest.rows("/replicas/list", {"dids": [did_key(did)], "schemes": ["https"]})
        (pfn,) = row["pfns"]
        content = requests.get(pfn, verify=str(own_lake.ca_file), timeout=30).content
        assert f"{zlib.adler32(content):08x}" == row["adler32"], did


def test_the_big_file_is_sparse_and_its_checksum_exact(own_lake: Lake, rest: Rest) -> None:
    path = _local(own_lake, "lab:zeros-5GiB.dat", "COLO")
    row = rest.get("/dids/lab/zeros-5GiB.dat")
    assert row["bytes"] == path.stat().st_size == 5 * 2**30
    assert path.stat().st_blocks * 512 < 1 << 20
    block, adler = bytes(1 << 24), 1
    for _ in range(row["bytes"] >> 24):
        adler = zlib.adler32(block, adler)
    assert row["adler32"] == f"{adler:08x}"


def test_long_names_are_the_longest(rest: Rest) -> None:
    names = [row["name"] for row in rest.rows("/dids/lab/long-names/dids")]
    assert sorted(map(len, names)) == [250, 250]


def test_files_and_datasets_carry_metadata(rest: Rest) -> None:
    assert rest.get("/dids/sky/exp0001_g.fits/meta?plugin=ALL")["target"] == "M31"
    assert rest.get("/dids/sky/night-001/meta?plugin=ALL")["seeing"] == 0.8
    assert rest.get("/dids/lab/run-0007.root/meta?plugin=ALL")["run"] == 7


def test_owners_own_their_samples(rest: Rest) -> None:
    assert rest.get("/dids/user.alice/thesis")["account"] == "alice"
    assert rest.get("/dids/user.bob/spectrum.csv")["account"] == "bob"


def test_rules_keep_every_replica(rest: Rest) -> None:
    states = Counter(row["state"] for row in rest.rows("/rules/"))
    assert states == {"OK": len(list(samples.rules()))}
    for file in samples.FILES:
        rows = rest.rows(f"/dids/{did_path(file.did)}/associated_rules")
        assert {row["rse_expression"] for row in rows} >= set(file.rses), file.did


def test_scientific_formats_open(own_lake: Lake) -> None:
    from astropy.io import fits
    from astropy.wcs import WCS

    header = fits.getheader(_local(own_lake, "sky:exp0011_g.fits", "REM1"))
    assert header["OBJECT"] == "NGC 1068"
    assert WCS(header).pixel_to_world(95, 95).ra.deg == pytest.approx(40.6696, abs=0.01)

    import h5py
    import uproot

    with h5py.File(_local(own_lake, "sky:ngc1068_cube.h5", "REM1")) as cube:
        assert cube["cube"].shape == (48, 64, 64)
    with uproot.open(_local(own_lake, "lab:run-0007.root", "COLO")) as store:
        assert store["events"].num_entries == 20000


def test_a_rule_moves_real_bytes_here(own_lake: Lake, rest: Rest) -> None:
    source = _local(own_lake, "sky:ngc1068_cube.h5", "REM1")
    target = _local(own_lake, "sky:ngc1068_cube.h5", "COLO")
    assert not target.exists()
    (rule,) = rest.post("/rules/", _rule("sky:cubes", "COLO"))
    eventually(lambda: rest.get(f"/rules/{rule}")["state"], lambda state: state == "OK")
    assert target.read_bytes() == source.read_bytes()


def test_a_file_on_tape_is_brought_online_first(own_lake: Lake, rest: Rest) -> None:
    (row,) = rest.rows("/replicas/list", {"dids": [did_key("sky:archive")]})
    assert [pfn["type"] for pfn in row["pfns"].values()] == ["TAPE"]
    fts = FtsControl(own_lake.fts_url)
    fts.stall_staging("2019-raw")
    (rule,) = rest.post("/rules/", _rule("sky:archive", "COLO"))
    assert len(fts.wait_stalled(timeout=60)) == 1
    jobs = requests.get(f"{own_lake.fts_url}/jobs", timeout=10).json()
    assert [job["job_state"] for job in jobs] == ["STAGING"]
    assert rest.get(f"/rules/{rule}")["state"] == "REPLICATING"
    fts.release()
    eventually(lambda: rest.get(f"/rules/{rule}")["state"], lambda state: state == "OK")
    source, target = (_local(own_lake, "sky:archive/2019-raw.fits", r) for r in ("REMTAPE", "COLO"))
    assert target.read_bytes() == source.read_bytes()


def test_a_rule_that_ends_takes_its_bytes_along(own_lake: Lake, rest: Rest) -> None:
    target = _local(own_lake, "sky:exp0031_g.fits", "REM1")
    rest.post("/rules/", _rule("sky:exp0031_g.fits", "REM1") | {"lifetime": 3})
    eventually(target.exists, bool)
    eventually(target.exists, lambda there: not there)


def test_fill_makes_many_dids_quickly(own_lake: Lake, rest: Rest) -> None:
    own_lake.fill("bench", datasets=30, loose=20, big=50)
    rows = rest.rows("/dids/bench/dids/search?type=all&long=True")
    assert Counter(row["did_type"] for row in rows) == {"FILE": 70, "DATASET": 31, "CONTAINER": 1}
    assert len(rest.rows("/dids/bench/all/dids")) == 30
    assert len(rest.rows("/dids/bench/big/dids")) == 50
    assert rest.get("/dids/bench/big")["length"] == 50
    replicas = rest.rows("/replicas/list", {"dids": [did_key("bench:big")], "sort": "random"})
    assert {tuple(row["states"]) for row in replicas} == {("REM1",)}


def test_fill_refuses_what_is_no_scope_or_there_already(own_lake: Lake) -> None:
    with pytest.raises(LakeError, match="'bad scope' is no scope"):
        own_lake.fill("bad scope", big=1)
    with pytest.raises(LakeError, match=r"Scope 'sky' already exists"):
        own_lake.fill("sky", big=1)
