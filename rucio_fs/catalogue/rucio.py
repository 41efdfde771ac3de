"""Rucio itself as a `Catalogue`: its questions as calls of rucio-clients, answers as our nouns."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import trio

from rucio_fs.catalogue import rows
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.base import BULK_LIMIT, REASON_LIMIT, Listing
from rucio_fs.catalogue.registering import and_more
from rucio_fs.did import DID, DIDInfo, DIDType, FileReplicas, Identity
from rucio_fs.errors import NoReplica, NotFound, NotOffered, Refused, TooSlow, Unreachable

if TYPE_CHECKING:
    from rucio_fs.catalogue.client import RucioClient

_DOTS = (".", "..")  # names that a URL cannot end in: it would be another one


class RucioCatalogue:
    """A `base.Catalogue` over rucio-clients.

    *site* is the name of the site this machine stands in: RSEs with the same attribute ``site``
    give their local PFNs.  *scope_listing* says what `scope_content` shows: DIDs without parent,
    or all.
    """

    def __init__(
        self,
        asking: Asking,
        *,
        site: str | None = None,
        scope_listing: Literal["top", "all"] = "top",
    ) -> None:
        self.asking = asking
        self._settings = asking.settings
        self.host = ""  # known after `connect`
        self._site = site
        self._scope_listing = scope_listing
        self._location: dict[str, str] | None = None

    async def connect(self, who: Identity) -> str:
        """Log in once, without repetition, and return the account that Rucio knows us as.

        Raises: UsageError, LoginFailed, Unreachable, each with one line for the person who
        starts the mount.  Source: GET /accounts/whoami.
        """
        with trio.move_on_after(self._settings.deadline):
            account, self.host = await self.asking.attempt(
                who, _account_and_host, "login", self._settings.deadline
            )
            return account
        raise TooSlow(f"Rucio did not answer within {self._settings.deadline:g} s (login)")

    async def scopes(self, who: Identity) -> Sequence[str]:
        def question(client: RucioClient) -> list[str]:
            return rows.scopes(client.list_scopes())

        return await self.asking.ask(who, "the list of scopes", question)

    async def scope_content(self, who: Identity, scope: str) -> Listing:
        def question(client: RucioClient) -> Listing:
            if self._scope_listing == "all":
                found = client.list_dids(scope, [{}], did_type="all", long=True)
            else:
                found = client.scope_list(scope)
            return Listing(rows.members(found), scope)

        return await self.asking.ask(who, f"scope {scope}", question, is_listing=True)

    async def content(self, who: Identity, did: DID) -> Listing:
        def question(client: RucioClient) -> Listing:
            return Listing(rows.members(client.list_content(*did)), did.scope, did.name)

        return await self.asking.ask(who, str(did), question, is_listing=True)

    async def parents(self, who: Identity, did: DID) -> Collection[DID]:
        def question(client: RucioClient) -> frozenset[DID]:
            return frozenset(one.did for one in rows.members(client.list_parent_dids(*did)))

        return await self.asking.ask(who, str(did), question)

    async def info(self, who: Identity, did: DID) -> DIDInfo:
        def question(client: RucioClient) -> DIDInfo:
            if did.name in _DOTS:
                return _infos([did], client)[did]
            return rows.did_info(client.get_metadata(*did))

        if not _fits_header(did.name) or did.name in _DOTS:
            await self._require(who, did)
        return await self.asking.ask(who, str(did), question)

    async def infos(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, DIDInfo]:
        if len(dids) > BULK_LIMIT:
            raise Refused(f"{len(dids)} DIDs at once; Rucio takes {BULK_LIMIT}")
        odd = [did for did in dids if not _fits_header(did.name)]
        plain = [did for did in dids if _fits_header(did.name)]
        found: dict[DID, DIDInfo] = {}
        if plain:
            found |= await self.asking.ask(who, and_more(plain), partial(_infos, plain))
        if odd:
            found |= await self._odd_infos(who, odd)
        return found

    async def _odd_infos(self, who: Identity, dids: Sequence[DID]) -> dict[DID, DIDInfo]:
        """`infos` of DIDs whose names Rucio's schema may refuse without being able to say so."""
        deadline = self._settings.deadline
        with suppress(Refused, Unreachable), trio.move_on_after(deadline):
            return await self.asking.attempt(who, partial(_infos, dids), and_more(dids), deadline)
        found = {}
        for did in dids:
            with suppress(NotFound):
                found[did] = await self.info(who, did)
        return found

    async def _require(self, who: Identity, did: DID) -> None:
        """Raise NotFound for a *did* that Rucio does not know, whatever its name."""

        def question(client: RucioClient) -> bool:
            # "*" in a name is a wildcard here, hence the comparison.
            found = client.list_dids(did.scope, [{"name": did.name}], did_type="all", long=True)
            return did.name in [row["name"] for row in found]

        if not await self.asking.ask(who, str(did), question):
            raise NotFound(f"{did}: Rucio finds no such DID")

    async def metadata(self, who: Identity, did: DID) -> Mapping[str, str]:
        def question(client: RucioClient) -> dict[str, str]:
            return rows.metadata(client.get_metadata(*did, plugin="JSON"))

        try:
            return await self.asking.ask(who, str(did), question)
        except NotOffered:
            return {}  # a server without the JSON plugin has no such metadata

    async def replicas(self, who: Identity, did: DID) -> FileReplicas:
        return await self.replicas_over(who, did, ())

    async def replicas_over(self, who: Identity, did: DID, schemes: Sequence[str]) -> FileReplicas:
        found = await self.asking.ask(
            who, str(did), lambda client: self._replicas(client, did, schemes)
        )
        if found is not None:
            return found
        # Rucio answers an unknown DID with nothing: NotFound comes from here.
        info = await self.info(who, did)
        if info.type is not DIDType.FILE:
            raise Refused(f"{did} is not a file but a {info.type.value.lower()}")
        return FileReplicas(did, info.size or 0, info.adler32, info.md5, (), {})

    async def replicas_of(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, FileReplicas]:
        if len(dids) > BULK_LIMIT:
            raise Refused(f"{len(dids)} DIDs at once; Rucio takes {BULK_LIMIT}")

        def question(client: RucioClient) -> dict[DID, FileReplicas]:
            wanted = set(dids)
            # Rucio's order by distance costs 6 ms a file where it has no cache for it.
            answer = self._listed(client, dids, sort="random")
            found = (rows.file_replicas(row) for row in answer)
            return {file.did: file for file in found if file.did in wanted}

        return await self.asking.ask(who, and_more(dids), question)

    async def declare_suspicious(self, who: Identity, did: DID, rse: str, reason: str) -> None:
        pfn = await self.asking.ask(who, f"{did} at {rse}", partial(_pfn_at, did, rse))
        if pfn is None:
            raise NoReplica(f"Rucio lists no PFN of {did} at {rse}")

        def question(client: RucioClient) -> Any:
            # One PFN a call: Rucio looks for all of them at the RSE of the first.
            return client.declare_suspicious_file_replicas([pfn], reason[:REASON_LIMIT])

        asked, deadline = f"declaration of {did} at {rse}", self._settings.deadline
        with trio.move_on_after(deadline):
            # Once: each declaration counts, and one whose answer is lost may have been made.
            left_out = await self.asking.attempt(who, question, asked, deadline)
            if left_out:
                raise NoReplica(f"{did} at {rse} is not declared suspicious: {_in_words(left_out)}")
            return
        raise TooSlow(f"no answer within {deadline:g} s ({asked}); it may have been made")

    def _replicas(
        self, client: RucioClient, did: DID, schemes: Sequence[str]
    ) -> FileReplicas | None:
        """In a thread; None if Rucio says nothing of the file *did*."""
        answer = self._listed(client, [did], schemes=schemes)
        try:
            for row in answer:
                # A collection is answered with its files.
                return rows.file_replicas(row) if DID(row["scope"], row["name"]) == did else None
        finally:
            answer.close()
        return None

    def _listed(
        self,
        client: RucioClient,
        dids: Sequence[DID],
        sort: str | None = None,
        schemes: Sequence[str] = (),
    ) -> Any:
        """In a thread: rows of list_replicas, read from the socket as they are taken."""
        if self._location is None:
            self._location = _location(self._site)
        return client.list_replicas(
            [did._asdict() for did in dids],
            all_states=True,  # COPYING among the states; `rows` leaves its PFN out
            ignore_availability=False,  # no PFN at an RSE that is closed for reading
            resolve_archives=False,  # a member of an archive has no PFN of its own to read
            client_location=self._location,
            sort=sort,
            schemes=list(schemes) or None,
        )


def _pfn_at(did: DID, rse: str, client: RucioClient) -> str | None:
    """In a thread: the PFN of *did* at *rse*, be it readable now or not."""
    # No location: Rucio declares what it finds by a PFN of the wan protocols, and no other.
    answer = client.list_replicas(
        [did._asdict()],
        rse_expression=rse,
        all_states=True,
        ignore_availability=True,
        resolve_archives=False,
    )
    for row in answer:
        pfns = row["pfns"] if DID(row["scope"], row["name"]) == did else {}
        for pfn, facts in sorted(pfns.items(), key=lambda item: item[1]["priority"]):
            if facts["rse"] == rse:
                return str(pfn)
    return None


def _in_words(left_out: Any) -> str:
    """What Rucio says of replicas that it has not declared: lists by RSE, or by "unknown"."""
    if not isinstance(left_out, dict):
        return str(left_out)
    return "; ".join(f"{where}: {', '.join(map(str, all))}" for where, all in left_out.items())


def _infos(dids: Sequence[DID], client: RucioClient) -> dict[DID, DIDInfo]:
    # The plugin is named because rucio-clients before 41 takes another by default.
    answer = client.get_metadata_bulk([did._asdict() for did in dids], plugin="DID_COLUMN")
    return {info.did: info for info in map(rows.did_info, answer)}


def _fits_header(name: str) -> bool:
    """Whether Rucio can say "not found" of *name*.

    It repeats the name in a header, which carries printable Latin-1; of another name it answers an
    HTML page with status 500 (404 if a line end is in it), be the name wrong or only unknown.
    """
    return all("\x20" <= character <= "\xff" and character != "\x7f" for character in name)


def _account_and_host(client: RucioClient) -> tuple[str, str]:
    answer: dict[str, Any] = client.whoami()
    return str(answer["account"]), str(client.host)


def _location(site: str | None) -> dict[str, str]:
    """What Rucio wants to know to order PFNs; it takes the address from the connection itself."""
    fqdn = socket.getfqdn()
    try:
        ip = socket.gethostbyname(fqdn)
    except OSError:
        ip = "0.0.0.0"
    return {"ip": ip, "fqdn": fqdn} | ({"site": site} if site else {})
