"""Registering in Rucio, as one worker thread does it with one client.

Each function asks, changes and looks again, so that it can be repeated as a whole: a change whose
answer was lost is found made.  Called by `rucio_registry.RucioRegistry` alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rucio_fs import checksums
from rucio_fs.catalogue import rows
from rucio_fs.catalogue.registry import NewCollection, NewFile
from rucio_fs.did import DID, DIDInfo, DIDType
from rucio_fs.errors import (
    Closed,
    Differs,
    NoTarget,
    NotFound,
    NotYetHere,
    Refused,
    RucioFsError,
    Unreachable,
)

if TYPE_CHECKING:
    from rucio_fs.catalogue.client import RucioClient

EVERYBODYS = "mock"
"""The scope that Rucio's generic policy lets everybody write to."""


def add_files(rse: str, files: Sequence[NewFile], client: RucioClient) -> None:
    """Register a batch, or raise and register none.

    Rucio 41.5 answers 201 to a DID that it knows with other content, and keeps the DID as it is;
    but at an RSE where it had none it adds an AVAILABLE replica with the size and checksum it was
    told, which listings of the file's datasets show from then on.  Hence the question before.  Of
    two clients that register one DID at once, the later may still leave such a replica: the
    question afterwards lets him know.
    """
    _compare(files, _known(client, [file.did for file in files]))
    scopes = sorted({file.did.scope for file in files})
    with meaning(
        RSENotFound=no_such_rse(rse),
        ScopeNotFound=NotFound(f"Rucio knows no scope {' or '.join(scopes)}"),
        ResourceTemporaryUnavailable=NoTarget(
            f"{rse} is closed for writing: files are registered there when it is open again"
        ),
        UnsupportedOperation=Refused(
            f"{rse} takes no files that are registered so: it needs a PFN of each, or is volatile"
        ),
        DataIdentifierAlreadyExists=_meanwhile(),
        Duplicate=_meanwhile(),
    ):
        client.add_replicas(rse, [_file_row(file) for file in files])
    known = _known(client, [file.did for file in files])
    _compare(files, known)
    states = _states(client, rse, [file.did for file in files])
    for file in files:
        if file.did not in known or file.did not in states:
            raise Unreachable(f"Rucio does not know {file.did} at {rse}, which it has registered")
        if states[file.did] != "AVAILABLE":
            raise NotYetHere(
                f"Rucio has a replica of {file.did} at {rse} that is {states[file.did]}:"
                " it is registered once that replica is whole or gone"
            )


def add_collections(collections: Sequence[NewCollection], client: RucioClient) -> None:
    """Make those of a batch that are not there."""
    # Rucio looks at the names in this question, and not at those it adds in bulk.
    known = _known(client, [one.did for one in collections])
    others = [one for one in collections if one.did in known and known[one.did].type != one.type]
    if others:
        first, found = others[0], known[others[0].did].type.value.lower()
        raise Differs(
            f"{first.did} is a {found} in Rucio and cannot be a {first.type.value.lower()}:"
            " use another name",
            [one.did for one in others],
        )
    missing = [one for one in collections if one.did not in known]
    if not missing:
        return
    scopes = sorted({one.did.scope for one in missing})
    with meaning(
        ScopeNotFound=NotFound(f"Rucio knows no scope {' or '.join(scopes)}"),
        DataIdentifierAlreadyExists=_meanwhile(),
    ):
        client.add_dids(
            [
                one.did._asdict()
                | {"type": one.type.value}
                | ({} if one.lifetime is None else {"lifetime": one.lifetime})
                for one in missing
            ]
        )


def attach(pairs: Sequence[tuple[DID, DID]], client: RucioClient) -> None:
    """Attach each second to its first, or none of them."""
    members: defaultdict[DID, list[DID]] = defaultdict(list)
    for parent, member in pairs:
        members[parent].append(member)
    try:
        _attach_to_all(members, client)
    except Exception as exc:
        if _name(exc) == "UnsupportedOperation":
            raise _why_not(client, list(members), exc) from exc
        raise


def _attach_to_all(members: Mapping[DID, Sequence[DID]], client: RucioClient) -> None:
    attachments = [parent._asdict() | {"dids": _keys(members[parent])} for parent in members]
    try:
        with meaning(FileAlreadyExists=_meanwhile(), DuplicateContent=_meanwhile()):
            client.attach_dids_to_dids(attachments, ignore_duplicate=True)
        return
    except Exception as exc:
        if _name(exc) != "AccessDenied" or any(parent.scope != EVERYBODYS for parent in members):
            raise
    # The policy lets everybody attach in this scope too, but only to one parent in a request.
    for parent in members:
        _attach_to_one(parent, members[parent], client)


def _attach_to_one(parent: DID, members: Sequence[DID], client: RucioClient) -> None:
    there = {DID(row["scope"], row["name"]) for row in client.list_content(*parent)}
    missing = [did for did in dict.fromkeys(members) if did not in there]
    if missing:
        with meaning(FileAlreadyExists=_meanwhile(), DuplicateContent=_meanwhile()):
            client.attach_dids(*parent, _keys(missing))


def _why_not(client: RucioClient, parents: Sequence[DID], exc: Exception) -> RucioFsError:
    """What Rucio's UnsupportedOperation means: it is the answer to several mistakes."""
    known = _known(client, parents)
    closed = [
        did
        for did in parents
        if did in known and known[did].type.is_collection and not known[did].is_open
    ]
    if not closed:
        return Refused(f"members cannot be added to {and_more(parents)}: {_text(exc)}")
    if len(closed) > 1:
        what = f"{and_more(closed)} are closed"
    else:
        what = f"{known[closed[0]].type.value.lower()} {closed[0]} is closed"
    return Closed(f"{what}: its files stay registered without it", closed)


def detach(parent: DID, members: Sequence[DID], client: RucioClient) -> None:
    """Take out those of *members* that are members."""
    try:
        client.detach_dids(*parent, _keys(members))
        return
    except Exception as exc:
        if _name(exc) != "DataIdentifierNotFound":
            raise
    # None was taken out, for one that is no member (any more); or there is no such parent.
    there = {DID(row["scope"], row["name"]) for row in client.list_content(*parent)}
    left = [did for did in dict.fromkeys(members) if did in there]
    if left:
        with meaning(DataIdentifierNotFound=_meanwhile()):
            client.detach_dids(*parent, _keys(left))


def set_metadata(did: DID, metadata: Mapping[str, Any], client: RucioClient) -> None:
    """Set the values of some keys."""
    try:
        client.set_metadata_bulk(*did, metadata)
        return
    except Exception as exc:
        if _name(exc) != "DatabaseException":
            raise
    # So ends a value that the database's column for one of Rucio's own keys does not take, and a
    # database in trouble, which would not answer now either.
    _known(client, [did])
    with meaning(
        DatabaseException=Refused(
            f"Rucio's database does not take the metadata of {did}: one of"
            f" {', '.join(metadata)} is a key of Rucio's own and wants another kind of value"
        )
    ):
        client.set_metadata_bulk(*did, metadata)


# --- questions ----------------------------------------------------------------------------------


def _known(client: RucioClient, dids: Sequence[DID]) -> dict[DID, DIDInfo]:
    answer = client.get_metadata_bulk(_keys(dids), plugin="DID_COLUMN")
    return {info.did: info for info in map(rows.did_info, answer)}


def _states(client: RucioClient, rse: str, dids: Sequence[DID]) -> dict[DID, str]:
    """States of the replicas at *rse*, of those that have one there."""
    answer = client.list_replicas(
        _keys(dids),
        all_states=True,
        ignore_availability=True,
        resolve_archives=False,
        rse_expression=rse,
        sort="random",  # the order by distance costs 6 ms a file on some servers
    )
    found = dict(map(rows.states_at, answer))
    return {did: states[rse] for did, states in found.items() if rse in states}


# --- words and pieces ---------------------------------------------------------------------------


def _compare(files: Sequence[NewFile], known: Mapping[DID, DIDInfo]) -> None:
    """Raises: Differs, with all DIDs that differ"""
    others = [(file, known[file.did]) for file in files if not _is_same(file, known.get(file.did))]
    if not others:
        return
    file, info = others[0]
    if info.type.is_collection:
        what = f"is a {info.type.value.lower()} in Rucio"
    else:
        what = (
            f"is in Rucio with {info.size} bytes and adler32 {info.adler32 or 'unknown'},"
            f" but {file.size} bytes and {file.adler32} here"
        )
    raise Differs(f"{file.did} {what}: save it under another name", [one.did for one, _ in others])


def _is_same(file: NewFile, info: DIDInfo | None) -> bool:
    """Whether what Rucio knows is this file, as far as sizes and checksums can tell."""
    if info is None:
        return True
    if info.type is not DIDType.FILE or info.size != file.size:
        return False
    known = checksums.parse(info.adler32)
    if known is not None:
        return known == checksums.parse(file.adler32)
    return info.md5 is not None and info.md5 == file.md5


def _file_row(file: NewFile) -> dict[str, Any]:
    row = file.did._asdict() | {"bytes": file.size, "adler32": file.adler32}
    if file.md5 is not None:
        row["md5"] = file.md5
    if file.pfn is not None:
        row["pfn"] = file.pfn
    return row


def _keys(dids: Iterable[DID]) -> list[dict[str, Any]]:
    return [did._asdict() for did in dids]


def _name(exc: Exception) -> str:
    """The class of the exception that Rucio has answered with, if it is that."""
    return str(getattr(exc, "name", ""))


def _text(exc: Exception) -> str:
    from rucio_fs.catalogue.failures import one_line

    return one_line(str(getattr(exc, "text", exc)))


def _meanwhile() -> Unreachable:
    """Another client was quicker with the same change: what is there now is found by asking."""
    return Unreachable("another client is changing the same DIDs")


@contextmanager
def meaning(**meanings: RucioFsError) -> Iterator[None]:
    """Raise what an exception that Rucio names means here."""
    from rucio_fs.catalogue.failures import RucioSays

    try:
        yield
    except RucioSays as said:
        if said.name in meanings:
            raise meanings[said.name] from said
        raise


def and_more(dids: Sequence[DID]) -> str:
    """Many DIDs in few words."""
    return str(dids[0]) + (f" and {len(dids) - 1} more" if len(dids) > 1 else "")


def no_such_rse(rse: str) -> NoTarget:
    """What RSENotFound means."""
    return NoTarget(f"Rucio knows no RSE {rse}: name another for the uploads")
