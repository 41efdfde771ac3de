"""The parts of this package that serve one mount, and how they are put together."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

import trio

from rucio_fs.catalogue.base import Rules
from rucio_fs.config import Config, RulesConfig
from rucio_fs.did import RuleTerms
from rucio_fs.rules.delivery import Delivery
from rucio_fs.rules.events import Events
from rucio_fs.rules.finding import MARK
from rucio_fs.rules.guard import Guard
from rucio_fs.rules.keeper import RuleKeeper
from rucio_fs.rules.outlook import Outlooks
from rucio_fs.rules.using import Using

_NOTIFY = {"no": "N", "done": "Y", "closed": "C", "progress": "P"}
_LONGEST_COMMENT = 250  # of Rucio's schema


@dataclass(frozen=True, slots=True)
class RuleServices:
    """What brings DIDs to the site.  *url* leads to a rule, with ``{rule_id}`` in it."""

    keeper: RuleKeeper
    outlooks: Outlooks
    using: Using
    url: str

    @classmethod
    def build(
        cls,
        config: Config,
        terms: RuleTerms,
        rules: Rules,
        host: str,
        nursery: trio.Nursery,
        on_arrival: Callable[[Delivery], None],
        events: Events | None = None,
    ) -> RuleServices:
        """The services of a mount of the Rucio at *host*; nothing runs yet."""

        def arrived(delivery: Delivery) -> None:
            outlooks.forget(delivery.did)
            on_arrival(delivery)

        keeper = RuleKeeper(
            rules,
            terms,
            Guard(config.scanners),
            config.opening,
            config.rules,
            nursery,
            arrived,
            events,
        )
        outlooks = Outlooks(
            keeper, rules, keeper.finder, terms.rse_expression, config.cache, nursery
        )
        using = Using(rules, keeper.finder, terms, keeper.board.events)
        return cls(keeper, outlooks, using, config.rules.url or f"{host}/rules/{{rule_id}}")


def terms(config: RulesConfig, rse: str | None, account: str, mountpoint: str) -> RuleTerms | None:
    """What every rule of a mount says; None where no RSE is known to bring anything to."""
    rse_expression = config.rse_expression or rse
    if rse_expression is None:
        return None
    comment = f"{MARK} on {socket.gethostname()} at {mountpoint}"
    if config.comment:
        comment = f"{comment}: {config.comment}"
    return RuleTerms(
        account=config.account or account,
        rse_expression=rse_expression,
        lifetime=round(config.lifetime) or None,
        comment=comment[:_LONGEST_COMMENT],
        activity=config.activity,
        priority=config.priority,
        purge_replicas=config.purge_replicas,
        ask_approval=config.ask_approval,
        asynchronous=config.asynchronous,
        source_rse_expression=config.source_rse_expression,
        weight=config.weight,
        notify=_NOTIFY[config.notify],
    )
