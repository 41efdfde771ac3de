"""Rucio's replication rules as `base.Rules`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rucio_fs.catalogue import rows
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.base import BULK_LIMIT
from rucio_fs.did import DID, Identity, Presence, Rule, RuleTerms
from rucio_fs.errors import Refused, Unreachable

if TYPE_CHECKING:
    from rucio_fs.catalogue.client import RucioClient

_LONGEST_SUM = 100_000  # files of a container that are looked at one by one, 1.5 s
_SHOWN = 3  # files of a rule that are named in words


class RucioRules:
    """A `base.Rules` over rucio-clients."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def states_at(
        self, who: Identity, dids: Sequence[DID], rse_expression: str
    ) -> Mapping[DID, Mapping[str, str]]:
        if len(dids) > BULK_LIMIT:
            raise Refused(f"{len(dids)} DIDs at once; Rucio takes {BULK_LIMIT}")

        def question(client: RucioClient) -> dict[DID, Mapping[str, str]]:
            answer = _at(client, dids, rse_expression)
            found: dict[DID, Mapping[str, str]] = {did: {} for did in dids}
            for did, states in map(rows.states_at, answer):
                if did in found:
                    found[did] = states
            return found

        return await self._asking.ask(who, f"replicas at {rse_expression}", question)

    async def presence(self, who: Identity, did: DID, rse_expression: str) -> Presence:
        def question(client: RucioClient) -> Presence:
            size = 0
            counts: Counter[str] = Counter()
            for row in _at(client, [did], rse_expression):
                state = _best(row.get("states") or {})
                counts[state] += 1
                if state == "AVAILABLE":
                    size += row["bytes"] or 0
            return Presence(counts["AVAILABLE"], size, counts["COPYING"], counts["UNAVAILABLE"])

        return await self._asking.ask(who, f"{did} at {rse_expression}", question, is_listing=True)

    async def total(self, who: Identity, did: DID) -> tuple[int | None, int | None]:
        def question(client: RucioClient) -> tuple[int | None, int | None]:
            answer = client.get_did(*did, dynamic_depth="FILE")
            files, size = int(answer["length"] or 0), int(answer["bytes"] or 0)
            if answer["type"] != "CONTAINER":
                return files, size
            if files > _LONGEST_SUM:
                return None, None
            # Rucio counts a file once for each dataset of the container that it is in.
            sizes = {(row["scope"], row["name"]): row["bytes"] for row in client.list_files(*did)}
            return len(sizes), sum(size or 0 for size in sizes.values())

        return await self._asking.ask(who, str(did), question, is_listing=True)

    async def rules_of(self, who: Identity, did: DID) -> Sequence[Rule]:
        def question(client: RucioClient) -> list[Rule]:
            # Only the first knows of rules without locks, as those that wait for approval are.
            own = list(client.list_did_rules(*did))
            inherited = list(client.list_associated_rules_for_file(*did))
            by_id = {row["id"]: rows.rule(row) for row in (*own, *inherited)}
            return sorted(by_id.values(), key=lambda rule: rule.created_ns)

        return await self._asking.ask(who, f"rules of {did}", question)

    async def rses(self, who: Identity, rse_expression: str) -> frozenset[str]:
        return await self._asking.ask(
            who,
            f"RSEs of {rse_expression}",
            lambda client: frozenset(row["rse"] for row in client.list_rses(rse_expression)),
        )

    async def rule(self, who: Identity, rule_id: str) -> Rule:
        return await self._asking.ask(
            who,
            f"rule {rule_id}",
            lambda client: rows.rule(client.get_replication_rule(rule_id)),
        )

    async def trouble(self, who: Identity, rule_id: str) -> str:
        return await self._asking.ask(
            who,
            f"rule {rule_id}",
            lambda client: _words(client.examine_replication_rule(rule_id)),
        )

    async def add_rules(
        self, who: Identity, dids: Sequence[DID], terms: RuleTerms
    ) -> Mapping[DID, str]:
        def question(client: RucioClient) -> dict[DID, str]:
            ids = client.add_replication_rule(
                [did._asdict() for did in dids],
                copies=1,
                rse_expression=terms.rse_expression,
                account=terms.account,
                lifetime=terms.lifetime,
                comment=terms.comment,
                activity=terms.activity,
                priority=terms.priority,
                purge_replicas=terms.purge_replicas,
                ask_approval=terms.ask_approval,
                asynchronous=terms.asynchronous,
                source_replica_expression=terms.source_rse_expression,
                weight=terms.weight,
                notify=terms.notify,
            )
            if len(ids) != len(dids):
                raise Unreachable(f"Rucio made {len(ids)} rules for {len(dids)} DIDs")
            return dict(zip(dids, ids, strict=True))

        more = f" and {len(dids) - 1} more" if len(dids) > 1 else ""
        asked = f"rule of {terms.account} for {dids[0]}{more} at {terms.rse_expression}"
        return await self._asking.ask(who, asked, question)

    async def set_lifetime(self, who: Identity, rule_id: str, lifetime: int | None) -> None:
        await self._change(who, rule_id, lifetime=lifetime)

    async def boost(self, who: Identity, rule_id: str) -> None:
        await self._change(who, rule_id, boost_rule=True)

    async def delete_rule(self, who: Identity, rule_id: str) -> None:
        def question(client: RucioClient) -> None:
            client.delete_replication_rule(rule_id)

        await self._asking.ask(who, f"deletion of rule {rule_id}", question)

    async def trace(self, who: Identity, traces: Sequence[Mapping[str, Any]]) -> None:
        # Once only: a lost trace is no loss.
        await self._asking.attempt(
            who,
            lambda client: client.send_traces(traces),
            "trace",
            self._asking.settings.deadline,
        )

    async def _change(self, who: Identity, rule_id: str, **options: Any) -> None:
        def question(client: RucioClient) -> None:
            client.update_replication_rule(rule_id, options)

        await self._asking.ask(who, f"change of rule {rule_id}", question)


def _at(client: RucioClient, dids: Sequence[DID], rse_expression: str) -> Any:
    """Rows of list_replicas, collections resolved to their files."""
    return client.list_replicas(
        [did._asdict() for did in dids],
        all_states=True,
        ignore_availability=True,  # what is there is there, be the RSE readable now or not
        resolve_archives=False,
        rse_expression=rse_expression,
        sort="random",  # the order by distance costs 6 ms a file on some servers
    )


def _best(states: Mapping[str, str]) -> str:
    for state in ("AVAILABLE", "COPYING", "UNAVAILABLE"):
        if state in states.values():
            return state
    return ""


def _words(analysis: Mapping[str, Any]) -> str:
    """What examine_replication_rule says of the failed transfers."""
    transfers: Sequence[Mapping[str, Any]] = analysis.get("transfers") or ()
    told = [
        f"{transfer['scope']}:{transfer['name']} to {transfer['rse']}"
        f" from {transfer['last_source'] or 'nowhere'} failed {transfer['attempts']} times"
        for transfer in transfers[:_SHOWN]
    ]
    if len(transfers) > _SHOWN:
        told.append(f"{len(transfers) - _SHOWN} more")
    return ", ".join(told)
