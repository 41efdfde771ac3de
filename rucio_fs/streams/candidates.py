"""The replicas of one file that can be streamed, and which of them to ask next."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from rucio_fs.did import Replica
from rucio_fs.streams.failures import Failure, NoRanges
from rucio_fs.streams.storages import Storage, Storages
from rucio_fs.webdav.addresses import Address, address


class Candidate:
    """One replica.  *reason* says why it is not asked any more, "" if it is.

    It is *whole_only* if its server sends no ranges: the last choice.
    """

    def __init__(self, replica: Replica, where: Address, storage: Storage) -> None:
        self.rse = replica.rse
        self.pfn = replica.pfn
        self.where = where
        self.storage = storage
        self.reason = ""
        self.last_words = ""
        self.whole_only = False

    def __repr__(self) -> str:
        return f"<Candidate {self.rse}{': ' + self.reason if self.reason else ''}>"


class Candidates:
    """Replicas in Rucio's order, which knows what is near.

    Those that have failed for good are left out, those set back or slow come last.  After wrong
    bytes *only* one at a time is asked, so that it is known whose they were.
    """

    def __init__(self, replicas: Iterable[Replica], storages: Storages) -> None:
        self._storages = storages
        self._all: list[Candidate] = []
        self._is_alone = False  # wrong bytes were found
        self._only: Candidate | None = None  # whom to ask then; None if all have failed for good
        self._distrusted: set[str] = set()  # RSEs
        self.update(replicas)

    def __len__(self) -> int:
        return len(self._all)

    def update(self, replicas: Iterable[Replica]) -> bool:
        """Take over what Rucio says now; return whether that gave new hope."""
        known = {(one.rse, one.pfn): one for one in self._all}
        found: list[Candidate] = []
        for replica in replicas:
            where = address(replica.pfn)
            if where is not None and not replica.is_tape:
                candidate = known.get((replica.rse, replica.pfn))
                found.append(
                    candidate or Candidate(replica, where, self._storages.of(where.origin))
                )
        is_news = any(one not in self._all and not one.reason for one in found)
        self._all = found
        self.distrust(())
        if self._only not in found:
            self._ask_alone()
        return is_news

    def distrust(self, rses: Iterable[str]) -> None:
        """Ask these last: they have given wrong bytes before."""
        self._distrusted |= set(rses)
        self._all.sort(key=lambda one: one.rse in self._distrusted)

    def forgive(self) -> None:
        """Somebody opens the file anew: who failed for good is asked again."""
        for candidate in self._all:
            candidate.reason = ""
        if self._only is None:
            self._ask_alone()

    def usable(self) -> list[Candidate]:
        """Who can be asked, the best first; empty if all have failed for good."""
        usable = [one for one in self._all if not one.reason]
        if self._is_alone:
            return [one for one in usable if one is self._only]
        now = trio.current_time()
        best = max((one.storage.rate for one in usable), default=0.0)
        return sorted(
            usable,
            key=lambda one: (
                one.rse in self._distrusted,  # however fast it is with its wrong bytes
                max(one.storage.set_back_until, now),
                one.whole_only,
                one.storage.is_slow(best),
            ),
        )

    def failed(self, candidate: Candidate, failure: Failure) -> None:
        """Note a failure of one of them."""
        candidate.last_words = str(failure)
        if isinstance(failure, NoRanges):
            candidate.whole_only = True
        elif failure.is_final:
            self.give_up(candidate)

    def give_up(self, candidate: Candidate) -> None:
        """Do not ask it any more, for the reason it gave last."""
        candidate.reason = candidate.last_words or "it gives nothing"
        if candidate is self._only:
            self._ask_alone()

    def spoiled(self, rses: Iterable[str], words: str) -> None:
        """What came from *rses* together is not the file: go on with one at a time."""
        guilty = set(rses)
        if len(guilty) == 1:
            for candidate in self._all:
                if candidate.rse in guilty:
                    candidate.reason = candidate.last_words = words
        self.distrust(guilty)
        self._is_alone = True
        self._ask_alone()

    def _ask_alone(self) -> None:
        self._only = next((one for one in self._all if not one.reason and self._is_alone), None)

    def reasons(self) -> str:
        """Why none of them gives the file, for a message."""
        return "; ".join(
            f"{one.rse}: {one.reason or one.last_words or 'no answer yet'}" for one in self._all
        )
