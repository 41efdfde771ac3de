"""What a mount needs so that files can be read in it: who asks Rucio, brings, streams and opens."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import trio

from rucio_fs import kernel
from rucio_fs.availability import Policy, Site
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.cache import CachedCatalogue
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.catalogue.rucio_rules import RucioRules
from rucio_fs.config import Config, may_stream
from rucio_fs.did import Identity
from rucio_fs.directories import default_cache
from rucio_fs.diskcache.store import Store
from rucio_fs.errors import UsageError
from rucio_fs.opening import Bringing, Opener
from rucio_fs.rules import services
from rucio_fs.rules.delivery import Delivery
from rucio_fs.rules.events import Events
from rucio_fs.rules.services import RuleServices
from rucio_fs.streams.streams import Streams
from rucio_fs.tracing import Tracer


class Reading:
    """One mount's way to what is in the lake.

    *rules* is None where no rule is ever to be made, *streams* where files have to come here first.
    """

    def __init__(
        self,
        config: Config,
        mountpoint: Path,
        account: str,
        asking: Asking,
        rucio: RucioCatalogue,
        store: Store | None,
        events: Events,
        nursery: trio.Nursery,
    ) -> None:
        self.host = rucio.host
        self.account = account
        self.events = events
        self.store = store
        self.site = Site.of(
            config.site.name,
            config.site.rse,
            config.site.paths,
            tuple(PurePosixPath(root) for root in config.site.roots),
        )
        self.catalogue = CachedCatalogue(rucio, config.cache, nursery)
        self.tracer = Tracer(RucioRules(asking), account, config.site.name)
        self._config = config
        self.rules = self._rules(RucioRules(asking), mountpoint, nursery)
        self.streams = self._streams(nursery)
        self.opener = self._opener(nursery)

    def __repr__(self) -> str:
        return f"<Reading of {self.host} as {self.account}>"

    async def check(self, who: Identity) -> None:
        """Find out now what would fail later: a Rucio that only lets us log in, a misspelt RSE.

        The first `ls` finds the scopes at hand.  Raises: what the catalogue raises, UsageError
        """
        await self.catalogue.scopes(who)
        config, rules = self._config, self.rules
        expression = config.rules.rse_expression or config.site.rse
        if rules is None or expression is None:
            return
        if not await rules.keeper.finder.rses(who, expression):
            key = "rules.rse_expression" if config.rules.rse_expression else "site.rse"
            raise UsageError(f"{key} = {expression!r}: Rucio knows no such RSE")

    def start(self, nursery: trio.Nursery) -> None:
        """Have everything running that goes on as long as the mount."""
        nursery.start_soon(self.tracer.run)
        if self.streams is not None:
            nursery.start_soon(self.streams.run)
        if self.store is not None:
            nursery.start_soon(self.store.run)
        if self.rules is not None:
            nursery.start_soon(self.rules.keeper.run)
            nursery.start_soon(self.rules.using.run)

    def stop(self) -> None:
        """Those who wait for Rucio, or for a storage, are answered now."""
        self.catalogue.stop()
        if self.rules is not None:
            self.rules.keeper.stop()
            self.rules.outlooks.stop()
        if self.streams is not None:
            self.streams.stop()

    def _rules(
        self, rules: RucioRules, mountpoint: Path, nursery: trio.Nursery
    ) -> RuleServices | None:
        config = self._config
        terms = services.terms(config.rules, config.site.rse, self.account, str(mountpoint))
        if terms is None or config.opening.policy == "stream":
            return None

        def on_arrival(delivery: Delivery) -> None:
            self.catalogue.forget_replicas(delivery.did)
            self.opener.arrived(delivery.who, delivery.did)

        return RuleServices.build(config, terms, rules, self.host, nursery, on_arrival, self.events)

    def _streams(self, nursery: trio.Nursery) -> Streams | None:
        config = self._config
        if not may_stream(config):
            return None
        return Streams(
            config.streaming,
            config.storages,
            self.store,
            nursery,
            lambda did, message: self.events.problem(did, "WRONG_BYTES", message),
            lambda did, message: self.events.problem(did, "UNREADABLE", message),
        )

    def _opener(self, nursery: trio.Nursery) -> Opener:
        config, rules = self._config, self.rules
        bringing = None
        if rules is not None:
            bringing = Bringing(rules.keeper, rules.using, kernel.bearable(config.opening.wait))
        return Opener(
            self.catalogue,
            self.site,
            timeout=config.mount.timeout_local,
            now_ttl=config.cache.now_ttl,
            policy=Policy(
                brings=rules is not None,
                recalls=config.opening.recall,
                streams=self.streams is not None,
                min_size=config.opening.rule_min_size,
            ),
            bringing=bringing,
            streams=self.streams,
            tracer=self.tracer if config.rules.traces else None,
            nursery=nursery,
            on_problem=self.events.problem,
        )


async def open_store(config: Config, mountpoint: Path) -> Store | None:
    """The cache of what is streamed, which must be this mount's alone.

    Raises: UsageError
    """
    cache = config.diskcache
    if not cache.size or not may_stream(config):
        return None
    directory = cache.dir or default_cache(mountpoint)
    return await trio.to_thread.run_sync(Store.open, directory, cache.size, cache.min_free)
