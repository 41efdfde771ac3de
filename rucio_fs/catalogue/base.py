"""What the filesystem asks of Rucio: `Catalogue`, `Rules`, and `Listing`, the largest answer.

Implemented by `rucio.RucioCatalogue` and `rucio_rules.RucioRules` (the real ones) and by the tests'
fakes, which obey the same contract suites; `cache.CachedCatalogue` stands in front.  Every
question says for whom it is asked.
"""

from __future__ import annotations

import weakref
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from rucio_fs import filenames
from rucio_fs.did import (
    DID,
    DIDInfo,
    FileReplicas,
    Identity,
    Member,
    Presence,
    Rule,
    RuleTerms,
)
from rucio_fs.errors import BadName

BULK_LIMIT = 1000
"""DIDs that Rucio takes in one bulk call (41.5: 1001 is an error, and echoes all of them)."""

ROOT = "__root"
"""Ends the name of a dataset of the files that lie beside directories in its container."""

REASON_LIMIT = 255
"""Characters that Rucio's database has for the reason of a declaration; more is an error there."""


class Catalogue(Protocol):
    """Questions to Rucio.

    All raise NotFound (only when Rucio says so), Denied, LoginFailed, Unreachable or TooSlow, and
    Refused for what Rucio calls invalid.
    """

    async def scopes(self, who: Identity) -> Sequence[str]:
        """Names of all scopes, sorted.  Source: GET /scopes/."""
        ...

    async def scope_content(self, who: Identity, scope: str) -> Listing:
        """DIDs of *scope*: those without parent, or all, as configured.

        An empty listing also for a scope that does not exist: Rucio does not tell them apart.
        Source: GET /dids/SCOPE/ or GET /dids/SCOPE/dids/search.
        """
        ...

    async def content(self, who: Identity, did: DID) -> Listing:
        """Direct members of the collection *did*.  Source: GET /dids/SCOPE/NAME/dids."""
        ...

    async def parents(self, who: Identity, did: DID) -> Collection[DID]:
        """The collections that *did* is in directly; none also for what Rucio does not know.

        Source: GET /dids/SCOPE/NAME/parents.
        """
        ...

    async def info(self, who: Identity, did: DID) -> DIDInfo:
        """What is known of one DID.  Source: GET /dids/SCOPE/NAME/meta."""
        ...

    async def infos(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, DIDInfo]:
        """The same for at most `BULK_LIMIT` DIDs; those that Rucio does not know are left out.

        Source: POST /dids/bulkmeta.
        """
        ...

    async def metadata(self, who: Identity, did: DID) -> Mapping[str, str]:
        """The DID's own (user-defined) metadata as text.  Source: GET .../meta?plugin=JSON."""
        ...

    async def replicas(self, who: Identity, did: DID) -> FileReplicas:
        """Where the file *did* is, with the PFNs that suit this site.

        Source: POST /replicas/list with client_location.
        """
        ...

    async def replicas_over(self, who: Identity, did: DID, schemes: Sequence[str]) -> FileReplicas:
        """The same with PFNs of these *schemes* only, where an RSE has one.

        Source: POST /replicas/list with schemes.
        """
        ...

    async def replicas_of(self, who: Identity, dids: Sequence[DID]) -> Mapping[DID, FileReplicas]:
        """The same for at most `BULK_LIMIT` files, their replicas in no order.

        What Rucio says nothing of is left out.  Source: POST /replicas/list.
        """
        ...

    async def declare_suspicious(self, who: Identity, did: DID, rse: str, reason: str) -> None:
        """Tell Rucio that the replica of the file *did* at *rse* may be damaged, and why.

        It stays AVAILABLE: operators, or Rucio's replica recoverer after several declarations,
        look after it.  Each declaration counts, so it is made once at most.  Rucio keeps the first
        `REASON_LIMIT` characters of *reason*.

        Raises: NoReplica (Rucio lists none there, or does not know it by its PFN).
        Source: POST /replicas/list, POST /replicas/suspicious.
        """
        ...


class Rules(Protocol):
    """Questions about replication rules, and changes to them.

    All raise Denied, LoginFailed, Unreachable or TooSlow, and Refused for what is invalid.
    """

    async def states_at(
        self, who: Identity, dids: Sequence[DID], rse_expression: str
    ) -> Mapping[DID, Mapping[str, str]]:
        """Replica states by RSE of at most `BULK_LIMIT` files, at the RSEs of the expression.

        Empty for a file without a replica there.  Source: POST /replicas/list.
        """
        ...

    async def presence(self, who: Identity, did: DID, rse_expression: str) -> Presence:
        """How much of the collection *did* is at the RSEs of the expression.

        Source: POST /replicas/list.
        """
        ...

    async def total(self, who: Identity, did: DID) -> tuple[int | None, int | None]:
        """Files and bytes of *did*, with all that is nested in it; None where Rucio cannot say.

        Raises: NotFound.  Source: GET /dids/SCOPE/NAME?dynamic_depth=FILE.
        """
        ...

    async def rules_of(self, who: Identity, did: DID) -> Sequence[Rule]:
        """The rules on *did*, and for a file those of its datasets, of every account.

        Raises: NotFound.  Source: GET /dids/SCOPE/NAME/rules and .../associated_rules.
        """
        ...

    async def rses(self, who: Identity, rse_expression: str) -> frozenset[str]:
        """The RSEs that an expression stands for.  Source: GET /rses/?expression=."""
        ...

    async def rule(self, who: Identity, rule_id: str) -> Rule:
        """Raises: RuleGone.  Source: GET /rules/ID."""
        ...

    async def trouble(self, who: Identity, rule_id: str) -> str:
        """What is known of the failed transfers of a rule, in words; may be empty.

        Raises: RuleGone.  Source: GET /rules/ID/analysis.
        """
        ...

    async def add_rules(
        self, who: Identity, dids: Sequence[DID], terms: RuleTerms
    ) -> Mapping[DID, str]:
        """Make one rule for each of *dids*, or none at all; return their ids.

        Raises: RuleExists, QuotaExceeded, NoTarget, NotFound, NotYetHere.  Source: POST /rules/.
        """
        ...

    async def set_lifetime(self, who: Identity, rule_id: str, lifetime: int | None) -> None:
        """Let a rule end in *lifetime* s; None: never.

        Raises: RuleGone.  Source: PUT /rules/ID.
        """
        ...

    async def boost(self, who: Identity, rule_id: str) -> None:
        """Have failed transfers tried again soon.  Raises: RuleGone.  Source: PUT /rules/ID."""
        ...

    async def delete_rule(self, who: Identity, rule_id: str) -> None:
        """Raises: RuleGone.  Source: DELETE /rules/ID."""
        ...

    async def trace(self, who: Identity, traces: Sequence[Mapping[str, Any]]) -> None:
        """Tell that files were read.  Source: POST /traces/."""
        ...


class Listing:
    """The members of one directory, in Rucio's order, by position and by filename.

    Immutable, but for the modification times: Rucio's listings carry none, so they are filled in
    per thousand once somebody asks (`learn`).  Filenames follow `filenames`; of two members with
    one name, that of the directory's own scope keeps it and the others are ``<scope>:<name>``.

    In the collection *within*, whose name is ``run/a`` or ``run/a__root``, a DID of its own scope
    called ``run/a/hits`` is shown as ``hits``, as where it was saved; the whole name leads to it
    as well.  Where two would then be shown alike, none is shortened.
    """

    __slots__ = (
        "__weakref__",
        "_index",
        "_mtimes",
        "_prefix",
        "_scope",
        "_unknown_from",
        "asked_alone",
        "filenames",
        "members",
        "ref",
    )

    BYTES_PER_MEMBER = 400  # 380 measured with 100,000 rows of list_content, index included

    def __init__(
        self, members: Iterable[Member], own_scope: str, within: str | None = None
    ) -> None:
        self.members: Sequence[Member] = list(members)
        self._scope = own_scope
        self._prefix = "" if within is None else f"{within.removesuffix(ROOT)}/"
        self.filenames: Sequence[str] = _filenames(self.members, own_scope, self._prefix)
        self._index = {filename: i for i, filename in enumerate(self.filenames)}
        self._mtimes = array("q", bytes(8 * len(self.members)))
        self._unknown_from = 0
        self.asked_alone = False
        self.ref = weakref.ref(self)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"<Listing of {len(self)}>"

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes (an estimate: strings are shared with other listings)."""
        return 1000 + self.BYTES_PER_MEMBER * len(self)

    def find(self, filename: str) -> int | None:
        """Position of the member shown as *filename*, or named by ``<scope>:<name>``."""
        position = self._index.get(filename)
        if position is None and ":" in filename:
            try:
                did = filenames.split_foreign(filename)
            except BadName:
                return None
            return None if did is None else self.position(did)
        if position is None and self._prefix:
            try:
                return self.position(DID(self._scope, filenames.decode(filename)))
            except BadName:
                return None
        return position

    def position(self, did: DID) -> int | None:
        """Where *did* stands in the listing."""
        plain = filenames.encode(did.name)
        shown = filenames.encode(_shown(did, self._scope, self._prefix))
        for filename in (plain, shown, filenames.encode_foreign(did)):
            position = self._index.get(filename)
            if position is not None and self.members[position].did == did:
                return position
        return None

    def mtime_ns(self, position: int) -> int | None:
        """Modification time of a member, None while it is not known."""
        return self._mtimes[position] or None

    def learn(self, infos: Mapping[DID, DIDInfo], positions: Iterable[int]) -> None:
        """Take over the times of the members at *positions*."""
        for position in positions:
            info = infos.get(self.members[position].did)
            if info is not None:
                self._mtimes[position] = info.mtime_ns or 1  # 0 stands for "not known"

    def without_mtime(self, position: int, limit: int = BULK_LIMIT) -> list[int]:
        """*position* and the next members, at most *limit*, whose times are not known yet.

        Whoever walks the directory forwards, backwards or at random thus needs about one bulk
        call per thousand members.
        """
        mtimes = self._mtimes
        start = self._unknown_from
        while start < len(mtimes) and mtimes[start]:
            start += 1
        self._unknown_from = start
        chosen = [position]
        for candidate in range(start, len(mtimes)):
            if len(chosen) == limit:
                break
            if not mtimes[candidate] and candidate != position:
                chosen.append(candidate)
        return chosen


def _shown(did: DID, own_scope: str, prefix: str) -> str:
    """The name that *did* is shown by where no other is shown so."""
    is_below = prefix and did.scope == own_scope and did.name.startswith(prefix)
    return did.name[len(prefix) :] if is_below and len(did.name) > len(prefix) else did.name


def _filenames(members: Sequence[Member], own_scope: str, prefix: str) -> list[str]:
    if prefix:
        shown = [_shown(member.did, own_scope, prefix) for member in members]
        names = [filenames.encode(name) for name in shown]
        pairs = zip(members, shown, strict=True)
        whole = {filenames.encode(one.did.name) for one, name in pairs if name != one.did.name}
        if len(set(names)) == len(names) and whole.isdisjoint(names):
            return names
    names = [filenames.encode(member.did.name) for member in members]
    if len(set(names)) == len(names):
        return names
    owners = Counter(names)
    return [
        name
        if owners[name] == 1 or member.did.scope == own_scope
        else filenames.encode_foreign(member.did)
        for member, name in zip(members, names, strict=True)
    ]
