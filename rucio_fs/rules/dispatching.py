"""Getting deliveries on their way: the rule is found or made, also through an outage of Rucio."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence

import trio

from rucio_fs.config import RulesConfig
from rucio_fs.did import DID, DIDType, Identity
from rucio_fs.errors import NotYetHere, RucioFsError, Unreachable
from rucio_fs.gathering import Gatherer
from rucio_fs.rules.board import Board
from rucio_fs.rules.delivery import Delivery, State
from rucio_fs.rules.making import BATCH, Begun, Maker
from rucio_fs.rules.verdicts import HERE, Verdict
from rucio_fs.rules.watcher import Watcher

log = logging.getLogger(__name__)

_Key = tuple[Identity, DID]

_RETRY_PAUSE = 5.0  # s at most between two attempts to make a rule while Rucio is away
_DATASETS = 1000  # of which it is remembered how many files were opened of late


class Dispatcher:
    """Begins deliveries.  What it does runs in *nursery*: no asker can take it away from others."""

    def __init__(
        self,
        maker: Maker,
        watcher: Watcher,
        board: Board,
        config: RulesConfig,
        nursery: trio.Nursery,
    ) -> None:
        self._maker = maker
        self._watcher = watcher
        self._board = board
        self._config = config
        self._nursery = nursery
        self._begin: Gatherer[_Key, Begun] = Gatherer(
            self._begin_files, nursery, limit=BATCH, at_once=2
        )
        self._opened: dict[_Key, deque[float]] = {}
        self._retry_at = float("-inf")

    def start(
        self,
        who: Identity,
        did: DID,
        type: DIDType,
        *,
        lifetime: int | None = None,
        through: DID | None = None,
        is_requested: bool = False,
    ) -> Delivery:
        """A new delivery; its `is_under_way` tells when its rule is there, or why it is not.

        *lifetime* (s) is another than the configured one, *through* the dataset that a file was
        opened in; *is_requested* as in `Delivery`.
        """
        delivery = Delivery(who, did, type, lifetime, is_requested=is_requested)
        if delivery.is_file:
            delivery.files = 1
        self._board.add(delivery)
        dataset = self._grouped(who, through)
        self._nursery.start_soon(self._set_out, delivery, dataset)
        return delivery

    async def _set_out(self, delivery: Delivery, dataset: DID | None) -> None:
        """Get *delivery* on its way; while somebody waits, also through an outage of Rucio."""
        attempts = 0
        while not delivery.is_over:
            try:
                begun = await self._begun(delivery, dataset)
                await self._take_up(delivery, begun)
                return
            except (Unreachable, NotYetHere) as exc:
                # Rucio is away, or still deletes what an earlier rule has left.
                attempts += 1
                if not delivery.waiting:
                    self._refuse(delivery, exc)
                    return
                log.info("%s cannot be asked for now: %s", delivery.did, exc)
                await self._retry_pause(attempts)
            except RucioFsError as exc:
                self._refuse(delivery, exc)
                return
            except Exception as exc:
                log.exception("bug while asking for %s", delivery.did)
                self._refuse(delivery, RucioFsError(f"internal error: {exc!r}"))
                return

    async def _retry_pause(self, attempts: int) -> None:
        """Wait before the next attempt, with all others: together they are a few requests."""
        now = trio.current_time()
        if self._retry_at <= now:
            pause = min(_RETRY_PAUSE, 0.2 * 2.0 ** min(attempts, 10))
            self._retry_at = now + pause * random.uniform(0.5, 1.0)
        await trio.sleep_until(self._retry_at)

    async def _begun(self, delivery: Delivery, dataset: DID | None) -> Begun:
        who, did, lifetime = delivery.who, delivery.did, delivery.lifetime
        if dataset is not None:
            group = self._board.get(who, dataset) or self.start(who, dataset, DIDType.DATASET)
            await group.is_under_way.wait()
            if group.error is None and group.rule_id is not None:
                return Begun(rule_id=group.rule_id, rule=group.rule)
        if not delivery.is_file:
            begun = await self._maker.begin_collection(who, did, lifetime)
        elif lifetime is not None:
            begun = (await self._maker.begin_files(who, [did], lifetime))[did]
        else:
            return await self._begin.ask((who, did))
        if isinstance(begun, RucioFsError):
            raise begun
        return begun

    async def _begin_files(self, keys: Sequence[_Key]) -> Mapping[_Key, Begun | RucioFsError]:
        begun: dict[_Key, Begun | RucioFsError] = {}
        for who in {who for who, _ in keys}:
            dids = [did for asker, did in keys if asker == who]
            found = await self._maker.begin_files(who, dids)
            begun |= {(who, did): result for did, result in found.items()}
        return begun

    async def _take_up(self, delivery: Delivery, begun: Begun) -> None:
        if delivery.is_over:
            return  # the mount ends
        delivery.rule_id = begun.rule_id
        if begun.is_here:
            self._watcher.settle(delivery, HERE)
            return
        self._board.events.note(
            "requested" if begun.is_made else "joined",
            delivery.did,
            rule_id=begun.rule_id,
            state=delivery.state.value,
        )
        if begun.is_made:
            log.info("%s: rule %s brings it", delivery.did, begun.rule_id)
        self._watcher.watch(delivery)
        if begun.rule is not None or (delivery.is_requested and begun.rule_id is None):
            # It was there before us, and may be stuck or wait for somebody.
            await self._watcher.look(delivery)
        delivery.tell()

    def _refuse(self, delivery: Delivery, error: RucioFsError) -> None:
        if str(delivery.did) not in str(error):  # one answer for many, or about none of them
            error = type(error)(f"{delivery.did}: {error}")
        delivery.is_over = True
        self._watcher.settle(delivery, Verdict(State.NOT_AVAILABLE, error))

    def _grouped(self, who: Identity, dataset: DID | None) -> DID | None:
        """*dataset* if so many of its files were opened of late that a rule is to bring it all."""
        if dataset is None or not self._config.grouping:
            return None
        now = trio.current_time()
        opened = self._opened.setdefault((who, dataset), deque(maxlen=self._config.grouping))
        opened.append(now)
        if len(self._opened) > _DATASETS:
            self._opened.pop(next(iter(self._opened)))
        is_full = len(opened) == self._config.grouping
        return dataset if is_full and opened[0] >= now - self._config.grouping_window else None
