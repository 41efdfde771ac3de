"""Rucio itself as a `registry.Registry`: questions and changes of any number, for async code.

What one thread does with one client is in `registering` and `destinations`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cachetools import TTLCache

from rucio_fs.catalogue import destinations, registering, rows
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.base import BULK_LIMIT
from rucio_fs.catalogue.registering import EVERYBODYS
from rucio_fs.catalogue.registry import Destination, NewCollection, NewFile
from rucio_fs.did import DID, Identity
from rucio_fs.errors import Denied, Differs, LoginFailed, NoTarget, NotFound, Refused

if TYPE_CHECKING:
    from rucio_fs.catalogue.client import RucioClient

T = TypeVar("T")
New = TypeVar("New", NewFile, NewCollection)

FILES_AT_ONCE = 500  # all of a batch or none; as many as Rucio registers within a second or two

_REMEMBERED = 60.0  # s for what seldom changes: an RSE's settings, whose account it is
_MANY = 1000  # more than there are RSEs


class _Account(NamedTuple):
    name: str
    has_admin: bool  # the attribute

    @property
    def is_administrator(self) -> bool:
        return self.has_admin or self.name == "root"


class _Rse(NamedTuple):
    settings: destinations.Settings
    destination: Destination


class RucioRegistry:
    """A `registry.Registry` over rucio-clients."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._accounts: TTLCache[Identity, _Account] = TTLCache(_MANY, _REMEMBERED)
        self._rses: TTLCache[tuple[Identity, str], _Rse] = TTLCache(_MANY, _REMEMBERED)
        self._prefixes: TTLCache[tuple[Identity, str, str], destinations.Prefix]
        self._prefixes = TTLCache(_MANY, _REMEMBERED)

    # --- before anything is stored ---------------------------------------------------------------

    async def own_scopes(self, who: Identity) -> Sequence[str]:
        account = await self._account(who)
        everything = await self._asking.ask(
            who, "the list of scopes", lambda client: rows.scopes(client.list_scopes())
        )
        if account.is_administrator:
            return everything

        try:
            own = await self._asking.ask(
                who,
                f"scopes of account {account.name}",
                lambda client: rows.scopes(client.list_scopes_for_account(account.name)),
            )
        except NotFound:
            own = []  # how Rucio says that it has none
        return [scope for scope in everything if scope in own or scope == EVERYBODYS]

    async def destination(self, who: Identity, rse: str) -> Destination:
        return (await self._rse(who, rse)).destination

    async def pfns(
        self, who: Identity, rse: str, dids: Sequence[DID], schemes: Sequence[str]
    ) -> Mapping[DID, str]:
        settings, destination = await self._rse(who, rse)
        if not destination.is_deterministic:
            raise NoTarget(f"{rse} has no place of its own for each file: its files need a PFN")
        scheme = next((scheme for scheme in schemes if scheme in destination.schemes), None)
        if scheme is None:
            offered = ", ".join(destination.schemes) or "nothing"
            raise NoTarget(
                f"{rse} is written over {offered}, not over {', '.join(schemes)}:"
                " name another RSE for the uploads"
            )
        if not dids:
            return {}
        key = who, rse, scheme
        prefix = self._prefixes.get(key)
        if prefix is None:
            prefix = self._prefixes[key] = await self._asking.ask(
                who,
                f"PFN of {dids[0]} at {rse}",
                partial(destinations.find_prefix, settings, scheme, dids[0]),
            )
        if prefix.begins is not None:
            return destinations.pfns(settings, prefix.begins, dids)
        return await self._asking.ask(
            who,
            f"PFNs of {registering.and_more(dids)} at {rse}",
            partial(destinations.ask_for_pfns, rse, scheme, dids),
        )

    async def room(self, who: Identity, rse: str) -> int | None:
        account = await self._account(who)
        await self._rse(who, rse)
        if account.has_admin:
            return None

        def question(client: RucioClient) -> float:
            local = list(client.get_local_account_usage(account.name, rse))
            left = [float(row["bytes_remaining"]) for row in local] or [0.0]
            limits = client.get_global_account_limits(account.name)
            if any(rse in limit["resolved_rses"] for limit in limits.values()):
                left += [
                    float(row["bytes_remaining"])
                    for row in client.get_global_account_usage(account.name)
                    if rse in limits[row["rse_expression"]]["resolved_rses"]
                ]
            return max(0.0, min(left))

        left = await self._asking.ask(who, f"limits of account {account.name} at {rse}", question)
        return None if math.isinf(left) else int(left)

    # --- afterwards ------------------------------------------------------------------------------

    async def add_files(self, who: Identity, rse: str, files: Sequence[NewFile]) -> None:
        for batch in _batches(_by_did(files), FILES_AT_ONCE):
            dids = [file.did for file in batch]
            await self._change(
                who,
                f"registration of {registering.and_more(dids)} at {rse}",
                partial(registering.add_files, rse, batch),
                f"add files at {rse}",
                dids,
                "Rucio's policy may keep that to RSEs named *SCRATCHDISK, *USERDISK,"
                " *LOCALGROUPDISK or *MOCK; name such an RSE, or ask Rucio's administrators",
            )

    async def add_collections(self, who: Identity, collections: Sequence[NewCollection]) -> None:
        for batch in _batches(_by_did(collections), BULK_LIMIT):
            dids = [one.did for one in batch]
            await self._change(
                who,
                f"creation of {registering.and_more(dids)}",
                partial(registering.add_collections, batch),
                f"create {registering.and_more(dids)}",
                dids,
            )

    async def attach(self, who: Identity, attachments: Mapping[DID, Sequence[DID]]) -> None:
        pairs = [(parent, member) for parent, all in attachments.items() for member in all]
        for batch in _batches(pairs, BULK_LIMIT):
            parents = list(dict.fromkeys(parent for parent, _ in batch))
            await self._change(
                who,
                f"attachment of {len(batch)} DIDs to {registering.and_more(parents)}",
                partial(registering.attach, batch),
                f"add members to {registering.and_more(parents)}",
                parents,
            )

    async def detach(self, who: Identity, parent: DID, members: Sequence[DID]) -> None:
        for batch in _batches(members, BULK_LIMIT):
            await self._change(
                who,
                f"detachment of {registering.and_more(batch)} from {parent}",
                partial(registering.detach, parent, batch),
                f"take members out of {parent}",
                [parent],
            )

    async def set_metadata(self, who: Identity, did: DID, metadata: Mapping[str, Any]) -> None:
        if not metadata:
            return
        try:
            json.dumps(dict(metadata), allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise Refused(f"metadata of {did} are not what JSON has: {exc}") from exc

        await self._change(
            who,
            f"metadata of {did}",
            partial(registering.set_metadata, did, dict(metadata)),
            f"set metadata of {did}",
            [did],
            f"one of the keys {', '.join(metadata)} is Rucio's own to set",
        )

    # --- helpers ---------------------------------------------------------------------------------

    async def _account(self, who: Identity) -> _Account:
        def question(client: RucioClient) -> _Account:
            name = str(client.whoami()["account"])
            # One document of them all.  Rucio's policy looks whether there is such an attribute,
            # not what it says.
            (attributes,) = client.list_account_attributes(name)
            return _Account(name, any(row["key"] == "admin" for row in attributes))

        found = self._accounts.get(who)
        if found is None:
            found = self._accounts[who] = await self._asking.ask(who, "the account", question)
        return found

    async def _rse(self, who: Identity, rse: str) -> _Rse:
        def question(client: RucioClient) -> _Rse:
            with registering.meaning(RSENotFound=registering.no_such_rse(rse)):
                settings = client.get_rse(rse)
            return _Rse(settings, destinations.destination(settings))

        found = self._rses.get((who, rse))
        if found is None:
            found = self._rses[who, rse] = await self._asking.ask(
                who, f"settings of {rse}", question
            )
        return found

    async def _change(
        self,
        who: Identity,
        asked: str,
        change: Callable[[RucioClient], None],
        step: str,
        dids: Iterable[DID],
        otherwise: str = "Rucio's policy forbids it; ask its administrators",
    ) -> None:
        """Make *change*.

        Raises: Denied (*step* is what the account may not do, for want of a scope or *otherwise*),
        what *change* raises.
        """
        try:
            await self._asking.ask(who, asked, change)
        except LoginFailed:
            raise
        except Denied as exc:
            account = await self._account(who)
            foreign = sorted({did.scope for did in dids} - set(await self.own_scopes(who)))
            if foreign:
                otherwise = (
                    f"the scope {', '.join(foreign)} is not its own;"
                    " use one that is, or ask the scope's owner"
                )
            raise Denied(f"account {account.name} may not {step}: {otherwise}") from exc


def _by_did(new: Iterable[New]) -> list[New]:
    """Each once.  Raises: Differs (one DID for two things), Refused (no name for Rucio)"""
    found: dict[DID, New] = {}
    for one in new:
        if found.setdefault(one.did, one) != one:
            raise Differs(f"{one.did} is asked for twice, and not for the same", [one.did])
        if not one.did.name.isprintable() or not one.did.name.isascii():
            # Rucio could not even answer: it repeats a name in a header.
            raise Refused(f"{one.did!s} is no name that Rucio takes")
    return list(found.values())


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
