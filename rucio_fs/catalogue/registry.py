"""What saving files asks of Rucio: where they may go, and registering what has been stored.

Implemented by `rucio_registry.RucioRegistry` and by the tests' fake, which obey the same contract
suite.  Bytes are nobody's business here: they are on storage before a file is registered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rucio_fs.did import DID, DIDType, Identity


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is on storage.  *size* is in bytes, checksums are hexadecimal.

    *pfn* says where it is at an RSE that is not deterministic, and is None at all others.
    """

    did: DID
    size: int
    adler32: str
    md5: str | None = None
    pfn: str | None = None


@dataclass(frozen=True, slots=True)
class NewCollection:
    """A dataset or container to be.  Rucio forgets it after *lifetime* s; None: never."""

    did: DID
    type: DIDType
    lifetime: int | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """An RSE as somebody who wants to write there sees it.

    *schemes* are the URLs below which it is written from afar, by scheme, the preferred one first.
    """

    rse: str
    is_deterministic: bool
    is_writable: bool
    schemes: Mapping[str, str] = field(default_factory=dict)


class Registry(Protocol):
    """Questions before files are stored, and changes afterwards.

    All raise LoginFailed, Unreachable or TooSlow, and Refused for what is invalid; changes raise
    Denied, which names the step and whom to ask.  Every change may be made again: what is there
    already, as it should be, is no error.
    """

    async def own_scopes(self, who: Identity) -> Sequence[str]:
        """Scopes in which the account may add DIDs, sorted.

        Its own; for administrators (the account root, and those with the attribute ``admin``) all.
        The scope ``mock``, where there is one, is everybody's.  This is Rucio's generic policy: an
        experiment's own may allow less or more, which shows only when a DID is added.
        Source: GET /accounts/ACCOUNT/scopes/, .../attr/ and GET /scopes/.
        """
        ...

    async def destination(self, who: Identity, rse: str) -> Destination:
        """How *rse* is written; at most a minute old.

        Raises: NoTarget (there is no such RSE).  Source: GET /rses/RSE.
        """
        ...

    async def pfns(
        self, who: Identity, rse: str, dids: Sequence[DID], schemes: Sequence[str]
    ) -> Mapping[DID, str]:
        """Where files belong at a deterministic RSE, over the first of *schemes* that it has.

        Raises: NoTarget (no such RSE, none of *schemes*, or not deterministic).
        Source: GET /rses/RSE/lfns2pfns, once a minute for a name that tells all others.
        """
        ...

    async def room(self, who: Identity, rse: str) -> int | None:
        """Bytes that the account's rules may still bring to *rse*; None: no limit.

        Its limit at the RSE less what its rules keep there, and the same for each global limit that
        covers the RSE.  Without a limit at the RSE that is 0: Rucio then refuses every rule.  Rules
        of an account with the attribute ``admin`` are not limited; those of root are like any
        other's.  What was ruled in the last seconds or minutes is not counted yet, since Rucio sums
        up in the background.

        Raises: NoTarget (no such RSE).
        Source: GET /accounts/ACCOUNT/usage/local/RSE and .../usage/global.
        """
        ...

    async def add_files(self, who: Identity, rse: str, files: Sequence[NewFile]) -> None:
        """Register *files* as DIDs and AVAILABLE replicas at *rse*.

        In batches; of a batch all are registered or none.  A DID that Rucio knows with the same
        content gets a replica at *rse*, or keeps the one it has.

        Raises: Differs (a DID is known with other content, or is a collection: it is not touched),
        NotYetHere (*rse* has a replica that is not AVAILABLE: on its way, failed, being deleted),
        NotFound (no such scope), NoTarget (no such RSE, or closed for writing), Refused (a name
        or PFN that Rucio does not take).
        Source: POST /dids/bulkmeta, POST /replicas, POST /replicas/list.
        """
        ...

    async def add_collections(self, who: Identity, collections: Sequence[NewCollection]) -> None:
        """Make datasets and containers that are not there yet, in batches, each all or none.

        Raises: Differs (one is there as another type), NotFound (no such scope), Refused (a name
        that Rucio does not take).
        Source: POST /dids/bulkmeta, POST /dids.
        """
        ...

    async def attach(self, who: Identity, attachments: Mapping[DID, Sequence[DID]]) -> None:
        """Make DIDs, of whatever scope, members of a collection: *attachments* are by parent.

        In batches, each all or none; those that are members stay so.

        Raises: Closed (a parent takes no more members), NotFound (a parent or member is not there),
        Refused (a file in a container, a dataset beside containers, a cycle, a file that is lost).
        Source: POST /dids/attachments.
        """
        ...

    async def detach(self, who: Identity, parent: DID, members: Sequence[DID]) -> None:
        """Take *members* out of a collection, also of a closed one.

        Raises: NotFound (no such collection).  Source: DELETE /dids/SCOPE/NAME/dids.
        """
        ...

    async def set_metadata(self, who: Identity, did: DID, metadata: Mapping[str, Any]) -> None:
        """Set the DID's metadata; keys that are not named keep their values.

        Values are what JSON has.  Keys that Rucio itself defines have its meaning (``lifetime``).

        Raises: NotFound, Denied (also for what describes the content: bytes, adler32, md5).
        Source: POST /dids/SCOPE/NAME/meta.
        """
        ...
