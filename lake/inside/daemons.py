"""Rucio's own daemons in one process, each run once per round.

    python -m lake.inside.daemons READY_FILE

Rucio's commands for them would each import for 1.3 s and sleep for 10 s between two looks at the
queue.  Makes READY_FILE after the first round; obeys orders (lake.rounds) laid beside it.
"""

import functools
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ready = Path(sys.argv[1])
sys.argv[:] = ["rucio-lake"]

import rucio.daemons.common as common  # noqa: E402


def _without_pause(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{**kwargs, "partition_wait_time": 0})

    return wrapper


# Before the daemons bind the names: each would first wait for others to take part of the queue.
common.db_workqueue = _without_pause(common.db_workqueue)
common.run_daemon = _without_pause(common.run_daemon)

import rucio.daemons.reaper.reaper as reaping  # noqa: E402
from dogpile.cache import make_region  # noqa: E402
from rucio.core.topology import ExpiringObjectCache, Topology  # noqa: E402
from rucio.daemons.abacus.account import account_update  # noqa: E402
from rucio.daemons.abacus.collection_replica import collection_replica_update  # noqa: E402
from rucio.daemons.abacus.rse import rse_update  # noqa: E402
from rucio.daemons.conveyor.finisher import finisher  # noqa: E402
from rucio.daemons.conveyor.poller import poller  # noqa: E402
from rucio.daemons.conveyor.submitter import submitter  # noqa: E402
from rucio.daemons.judge.cleaner import rule_cleaner  # noqa: E402
from rucio.daemons.judge.evaluator import re_evaluator  # noqa: E402
from rucio.daemons.judge.injector import rule_injector  # noqa: E402
from rucio.daemons.judge.repairer import rule_repairer  # noqa: E402
from rucio.daemons.undertaker.undertaker import undertaker  # noqa: E402

from lake.rounds import DAEMONS, Orders, Report, Rounds  # noqa: E402

# It remembers there that an RSE had nothing to delete, and then leaves it alone for 120 s.
reaping.REGION = make_region().configure("dogpile.cache.null")

_PAUSE = 0.2  # seconds between two rounds
# Fresh for every step: Rucio keeps it for 300 s, and as long the conveyor would not hear that an
# RSE is closed.
_topology = ExpiringObjectCache(ttl=0, new_obj_fnc=Topology)


def _reap() -> None:
    reaping.reaper(rses=[], include_rses=None, exclude_rses=None, once=True, chunk_size=1000)


_Step = tuple[float, Callable[[], object]]  # seconds between two runs, what to run
STEPS: dict[str, _Step] = {
    "undertaker": (2, lambda: undertaker(once=True)),
    "injector": (0, lambda: rule_injector(once=True)),
    "evaluator": (0, lambda: re_evaluator(once=True, did_limit=1000)),
    "submitter": (
        0,
        lambda: submitter(once=True, group_bulk=200, bulk=1000, cached_topology=_topology),
    ),
    "poller": (
        0,
        lambda: poller(once=True, older_than=0, fts_bulk=200, cached_topology=_topology),
    ),
    "finisher": (0, lambda: finisher(once=True, bulk=1000, cached_topology=_topology)),
    "repairer": (2, lambda: rule_repairer(once=True)),
    "cleaner": (1, lambda: rule_cleaner(once=True)),
    "reaper": (2, _reap),
    "abacus-rse": (1, lambda: rse_update(once=True)),
    "abacus-account": (1, lambda: account_update(once=True)),
    "abacus-collection": (1, lambda: collection_replica_update(once=True, limit=1000)),
}
assert tuple(STEPS) == DAEMONS


class Loop:
    """Round after round; what is ordered is obeyed between two steps, so that none is at work."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._orders = Orders()
        self._reported = Report()
        self._last: dict[str, float] = {}

    def round(self) -> None:
        """Run each step that is due and not paused; begin again where a whole round is ordered."""
        pending = list(STEPS)
        while pending:
            if self._obey():
                pending = list(STEPS)
            self._step(pending.pop(0))
        self._obey(ended=True)

    def _obey(self, *, ended: bool = False) -> bool:
        """Take new orders and report; say whether every daemon is to run now.

        An order for a round that comes after the last step is obeyed in the next round.
        """
        run = self._orders.run  # what this round was for
        done = run if ended else self._reported.run
        self._orders = self._rounds.orders()
        if (report := Report(self._orders.number, done)) != self._reported:
            self._reported = report
            self._rounds.report(report)
        if self._orders.run == run:
            return False
        self._last.clear()
        return True

    def _step(self, name: str) -> None:
        interval, step = STEPS[name]
        now = time.monotonic()
        if name in self._orders.paused or now - self._last.get(name, -interval) < interval:
            return
        self._last[name] = now
        try:
            step()
        except Exception:  # as Rucio's daemons do: tell, and go on
            print(f"{name} failed", flush=True)
            traceback.print_exc()


def main() -> None:
    """Run round after round until killed."""
    loop = Loop(Rounds(_ready.parent))
    while True:
        loop.round()
        _ready.touch()
        time.sleep(_PAUSE)


if __name__ == "__main__":
    main()
