"""What the journal keeps of an upload comes back as it was."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rucio_fs.did import DID, DIDType
from rucio_fs.uploads.records import Collection, Record, State
from tests.unit.uploads.conftest import new_record


def facts(one: Record | Collection) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in fields(one)}


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)
_DIDS = st.builds(DID, st.text(), st.text())
_RECORDS = st.builds(
    Record,
    id=st.integers(0, 2**62),
    path=st.one_of(st.text(), st.just("s/caf\udce9")),
    ino=st.integers(0, 2**64 - 1),
    did=_DIDS,
    size=st.integers(0, 2**62),
    mtime_ns=st.integers(-(2**63), 2**63),
    ctime_ns=st.integers(0, 2**63),
    state=st.sampled_from(State),
    lifetime=st.one_of(st.none(), st.integers()),
    keep=st.floats(0, 1e9),
    dataset=st.one_of(st.none(), _DIDS),
    error=st.text(),
    is_stopped=st.booleans(),
    metadata=st.one_of(st.none(), st.dictionaries(st.text(), _JSON)),
)


@given(_RECORDS)
def test_a_record_comes_back(record: Record) -> None:
    found = Record.load(record.dump())
    assert facts(found) == facts(record)
    assert {type(value) for value in (found.did, found.state)} == {DID, State}
    record.dump().encode()  # as SQLite takes it


@given(st.builds(Collection, _DIDS, st.sampled_from(DIDType), st.one_of(st.none(), _DIDS)))
def test_a_collection_comes_back(collection: Collection) -> None:
    collection.rules["tier=1"] = "abc"
    collection.is_there = True
    assert facts(Collection.load(collection.dump())) == facts(collection)


def test_facts_of_another_version_are_left_out() -> None:
    text = json.dumps(json.loads(new_record(1).dump()) | {"colour": "blue"})
    assert facts(Record.load(text)) == facts(new_record(1))


def test_facts_that_an_earlier_version_did_not_keep_are_as_usual() -> None:
    text = json.dumps({k: v for k, v in json.loads(new_record(1).dump()).items() if k != "keep"})
    assert Record.load(text).keep is None


@pytest.mark.parametrize(
    ("state", "shown", "is_sealed", "is_sealed_if_stopped"),
    [
        (State.STAGED, "STAGED", False, False),
        (State.QUEUED, "QUEUED", False, False),
        (State.UPLOADING, "UPLOADING 30%", False, False),
        (State.PLACING, "UPLOADING", True, False),
        (State.STORED, "REGISTERING", True, False),
        (State.REGISTERED, "REGISTERING", True, True),
        (State.ATTACHED, "REGISTERING", True, True),
        (State.RULED, "REPLICATING", True, True),
        (State.DONE, "DONE", True, True),
    ],
)
def test_states(state: State, shown: str, is_sealed: bool, is_sealed_if_stopped: bool) -> None:
    record = new_record(1, state=state, sent=30)
    assert record.shown == shown
    assert record.is_sealed is is_sealed
    record.is_stopped = True
    assert record.shown == "FAILED"
    assert record.is_sealed is is_sealed_if_stopped


def test_an_empty_file_on_its_way_has_no_percentage() -> None:
    assert new_record(1, state=State.UPLOADING, size=0).shown == "UPLOADING"


def test_it_is_called_by_its_path_and_without_one_by_its_did() -> None:
    assert repr(new_record(1)) == "<Record s/run/1.dat: STAGED>"
    assert repr(new_record(1, path="")) == "<Record s:run/1.dat: STAGED>"
