"""The parts of this package that serve one mount, and how they are put together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import trio

from rucio_fs.catalogue.base import Catalogue, Rules
from rucio_fs.catalogue.registry import Registry
from rucio_fs.config import ScratchConfig
from rucio_fs.did import Identity, RuleTerms
from rucio_fs.errors import BadName, NotFound, Refused, RucioFsError, Unreachable
from rucio_fs.rules.events import Events
from rucio_fs.scratch.staging import Staging
from rucio_fs.uploads import collecting, naming
from rucio_fs.uploads.attributes import ScratchAttributes
from rucio_fs.uploads.board import UploadBoard
from rucio_fs.uploads.context import Context, Storage
from rucio_fs.uploads.engine import Engine
from rucio_fs.uploads.giving_up import GivingUp
from rucio_fs.uploads.in_place import InPlace
from rucio_fs.uploads.journal import Journal
from rucio_fs.uploads.ledger import Ledger
from rucio_fs.uploads.options import Options
from rucio_fs.uploads.overseer import UploadOverseer
from rucio_fs.uploads.records import Record
from rucio_fs.uploads.registrations import Mounted, Registrations
from rucio_fs.uploads.resuming import doubtful, resume
from rucio_fs.uploads.settling import Settling

log = logging.getLogger(__name__)

JOURNAL = "uploads.sqlite"


@dataclass(frozen=True, slots=True)
class UploadServices:
    """What uploads what is saved in *staging*."""

    staging: Staging
    journal: Journal
    ledger: Ledger
    settling: Settling
    engine: Engine
    board: UploadBoard
    overseer: UploadOverseer
    giving_up: GivingUp
    registrations: Registrations

    @classmethod
    def build(
        cls,
        config: ScratchConfig,
        staging: Staging,
        who: Identity,
        terms: RuleTerms,
        catalogue: Catalogue,
        registry: Registry,
        rules: Rules,
        depot: Storage,
        events: Events,
        on_done: Callable[[Record], None],
        mounted: Mounted,
        in_place: InPlace | None = None,
        rses: Sequence[str] = (),
    ) -> UploadServices:
        """The services over the journal in the staging area; nothing runs yet.  Blocking.

        *in_place* says where *staging* lies on an RSE, *mounted* where the others do, of which
        *rses* are looked for what is to be registered.  From here on *staging* tells them of what
        happens.  Raises: UsageError
        """
        journal = Journal.open(staging.directory / JOURNAL)
        ledger = Ledger(journal)
        settling = Settling(config.delay, config.longest_delay)
        context = Context(
            who,
            staging,
            ledger,
            catalogue,
            registry,
            rules,
            depot,
            terms,
            events,
            Options(
                rse=config.rse,
                rule=config.rule,
                lifetime=round(config.lifetime) or None,
            ),
            config.verify,
            on_done,
            in_place,
        )
        engine = Engine(context, settling, config.connections)

        async def is_in_lake(who: Identity, path: str) -> bool:
            """Saving goes on while Rucio is away: then a name is new until the upload knows."""
            try:
                info = await catalogue.info(who, naming.did_of(path))
            except (NotFound, BadName):
                return False
            except RucioFsError as exc:
                log.info("scratch/%s: Rucio does not tell whether that is a dataset: %s", path, exc)
                return False
            return info.type.is_collection

        attributes = ScratchAttributes(staging.tree, ledger, settling, engine.write_down)
        staging.overseer = overseer = UploadOverseer(
            ledger, settling, attributes, is_in_lake, engine.write_down
        )
        registrations = Registrations(context, mounted, rses)
        engine.is_registering = lambda: registrations.is_looking
        board = UploadBoard(ledger, settling, engine, registrations)
        giving_up = GivingUp(
            context, staging.items.is_open, keep=config.keep, min_free=config.min_free
        )
        return cls(
            staging, journal, ledger, settling, engine, board, overseer, giving_up, registrations
        )

    async def run(self) -> None:
        """Go on with what an earlier mount has left, and upload what is saved, for ever."""
        if self.staging.was_cut:
            self.staging.doubt(doubtful(self.staging.tree, self.ledger))
        resume(self.staging.tree, self.ledger, self.settling, frozenset(self.staging.unfinished))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.engine.run)
            nursery.start_soon(self.giving_up.run)
            nursery.start_soon(self.registrations.run)

    def order(self, text: str) -> None:
        """What people want: ``now``, ``retry`` (of a path or of all), ``free``, ``register``.

        ``free`` gives up the bytes of all that is in the lake; ``register`` takes a JSON object, as
        `lying.Request` has it.

        Raises: Refused
        """
        order, _, path = text.strip().partition(" ")
        path = path.strip().strip("/")
        match order:
            case "now":
                for top in {*collecting.tops(self.staging.tree), *self.settling}:
                    if not path or _is_about(top, path):
                        self.settling.hurry(top)
            case "free":
                self.giving_up.hurry()
            case "retry":
                self.engine.retry(path)
            case "register":
                self.registrations.order(text.strip().partition(" ")[2])
            case _:
                raise Refused(f"uploads take now, retry, free or register: {text[:40]!r}")

    async def finish(self, seconds: float) -> None:
        """The mount ends: what is under way has so long (s) to come to its end."""
        await self.engine.finish(seconds)
        with trio.CancelScope(shield=True):
            try:
                await self.journal.commit()
            except Unreachable as exc:  # the next mount finds out again what it does not say
                log.error("%s", exc)

    def close(self) -> None:
        self.journal.close()


def _is_about(top: str, path: str) -> bool:
    return f"{top}/".startswith(f"{path}/") or f"{path}/".startswith(f"{top}/")


def terms_of(terms: RuleTerms) -> RuleTerms:
    """Those of uploads: they are not brought from a certain place, nor approved."""
    return replace(terms, source_rse_expression=None, ask_approval=False)
