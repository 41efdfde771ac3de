"""What Rucio's settings of an RSE mean to whoever writes there: URLs, and where each file belongs.

Pure, but for what takes a client and is called in a worker thread.  `rucio_registry.RucioRegistry`
keeps for a while what is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rucio_fs.catalogue.registry import Destination
from rucio_fs.did import DID

if TYPE_CHECKING:
    from rucio_fs.catalogue.client import RucioClient

Settings = Mapping[str, Any]
"""The document of GET /rses/RSE."""

_LONGEST_QUERY = 3000  # bytes of names in a URL; gunicorn takes 4094 of a request's first line


def destination(settings: Settings) -> Destination:
    """An RSE as a destination.  Raises: KeyError, TypeError"""
    from rucio.common.exception import RSEProtocolNotSupported  # noqa: TID251
    from rucio.rse import rsemanager  # noqa: TID251

    try:
        protocols = rsemanager.get_protocols_ordered(dict(settings), "write", domain="wan")
    except RSEProtocolNotSupported:
        protocols = []
    schemes: dict[str, str] = {}
    for protocol in protocols:
        port = f":{protocol['port']}" if protocol["port"] else ""
        prefix = "/" + protocol["prefix"].lstrip("/")
        url = f"{protocol['scheme']}://{protocol['hostname']}{port}{prefix}"
        schemes.setdefault(protocol["scheme"], url)
    return Destination(
        rse=settings["rse"],
        is_deterministic=bool(settings["deterministic"]),
        # Rucio registers nothing at a volatile RSE: it is a cache that tells what it holds.
        is_writable=bool(settings["availability_write"]) and not settings.get("volatile"),
        schemes=schemes,
    )


class Prefix(NamedTuple):
    """What all PFNs of an RSE begin with over a scheme; None: its paths are not known here."""

    begins: str | None


def find_prefix(settings: Settings, scheme: str, did: DID, client: RucioClient) -> Prefix:
    """Ask Rucio for the PFN of one file, which tells those of all others.

    `rsemanager.lfns2pfns` of rucio-clients would ask nobody, but to compute a path it wants the
    libraries that write over gfal and others.

    Raises: KeyError.  Source: GET /rses/RSE/lfns2pfns.
    """
    found = ask_for_pfns(settings["rse"], scheme, [did], client)[did]
    path = _paths(settings)
    if path is None or not found.endswith(path(*did)):
        return Prefix(None)
    return Prefix(found.removesuffix(path(*did)))


def pfns(settings: Settings, begins: str, dids: Sequence[DID]) -> dict[DID, str]:
    """The PFNs of *dids* where, as `find_prefix` has found, all begin with *begins*."""
    path = _paths(settings)
    assert path is not None
    return {did: f"{begins}{path(*did)}" for did in dids}


def ask_for_pfns(rse: str, scheme: str, dids: Sequence[DID], client: RucioClient) -> dict[DID, str]:
    """The PFNs as Rucio tells them, some twenty a request.

    Raises: KeyError.  Source: GET /rses/RSE/lfns2pfns.
    """
    found: dict[DID, str] = {}
    for batch in _by_length(dids):
        names = [str(did) for did in batch]
        answer = client.lfns2pfns(
            rse, names, protocol_domain="wan", operation="write", scheme=scheme
        )
        found |= {did: answer[name] for did, name in zip(batch, names, strict=True)}
    return found


def _paths(settings: Settings) -> Callable[[str, str], str] | None:
    """Where the RSE keeps a file, below its prefix, by scope and name.

    None if the server names a way of its own, that rucio-clients do not have.
    """
    from rucio.rse.translation import RSEDeterministicTranslation  # noqa: TID251

    if not RSEDeterministicTranslation.supports(settings.get("lfn2pfn_algorithm")):
        return None
    translation = RSEDeterministicTranslation(settings["rse"], dict(settings), {}, vo="")
    path: Callable[[str, str], str] = translation.path
    return path


def _by_length(dids: Iterable[DID]) -> Iterator[list[DID]]:
    """Batches whose names fit into a URL."""
    batch: list[DID] = []
    length = 0
    for did in dids:
        needed = 3 * len(str(did).encode()) + len("&lfn=")  # each byte as %XX
        if batch and length + needed > _LONGEST_QUERY:
            yield batch
            batch, length = [], 0
        batch.append(did)
        length += needed
    if batch:
        yield batch
