"""How uploads stand: all of a mount, or those at and below some paths of its scratch.  Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rucio_fs.commands.words import counted, one_line, printable, size

FAILED = "FAILED"
"""The state of an upload that only its user can help."""

_SAMPLES = 60  # looks that the rate is told from
_RATE_OVER = 2.0  # s of samples before there is a rate to tell

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of files; *bytes* of what is *pending*, and how much of them is *sent*.

    *unsettled* directories were changed a moment ago, and may have more to upload.  *unlisted* of
    the mount's uploads are not among those it lists, and may be ones that are asked about.  *done*
    is None where it is not known.  *uploads* are those listed that are not done.
    """

    pending: int = 0
    failed: int = 0
    done: int | None = 0
    unsettled: int = 0
    unlisted: int = 0
    bytes: int = 0
    sent: int = 0
    failed_bytes: int = 0
    waits_for: Mapping[str, str] = field(default_factory=dict)
    uploads: Sequence[Facts] = ()

    @classmethod
    def of(cls, found: Facts, paths: Collection[str] = ()) -> Self:
        """What `.rucio/uploads` tells; with *paths* (below scratch) of those alone.

        Raises: KeyError, TypeError, AttributeError (it is no such document)
        """
        listed: Sequence[Facts] = found["uploads"]
        named = frozenset(paths)
        uploads = [one for one in listed if not named or is_at(one.get("path"), named)]
        failed = [one for one in uploads if one["state"] == FAILED]
        moving = [one for one in uploads if one["state"] != FAILED]
        unlisted = found["pending"] + found["failed"] - len(listed)
        lost, lost_sent = _sum("bytes", failed), _sum("sent", failed)
        return cls(
            pending=len(moving) if paths else found["pending"],
            failed=len(failed) if paths else found["failed"],
            done=None if paths else found["done"],
            unsettled=found["unsettled"],
            # What has failed is listed first: if all that is listed has, the rest may have, too.
            unlisted=max(0, unlisted) if paths and found["pending"] else 0,
            bytes=_sum("bytes", moving) if paths else found["bytes"] - lost,
            sent=_sum("sent", moving) if paths else found["sent"] - lost_sent,
            failed_bytes=lost,
            waits_for=dict(found["waits_for"]),
            uploads=uploads,
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on by itself."""
        return not (self.pending or self.unsettled or self.unlisted)

    @property
    def failures(self) -> Sequence[Facts]:
        """Those listed that have failed."""
        return [one for one in self.uploads if one["state"] == FAILED]

    def report(self) -> dict[str, Any]:
        """The tally as ``--json`` tells it, with bytes as `.rucio/uploads` has them."""
        return {
            "pending": self.pending,
            "failed": self.failed,
            "done": self.done,
            "unsettled": self.unsettled,
            "bytes": self.bytes + self.failed_bytes,
            "sent": self.sent + _sum("sent", self.failures),
            "waits_for": dict(self.waits_for),
            "uploads": list(self.uploads),
        }


def is_at(path: str | None, paths: Collection[str]) -> bool:
    """Whether *path* is one of *paths* or lies below one."""
    while path:
        if path in paths:
            return True
        path = path.rpartition("/")[0]
    return False


def together(tallies: Iterable[Tally]) -> Tally:
    """The sums over several mounts."""
    found = list(tallies)
    done = [one.done for one in found if one.done is not None]
    return Tally(
        pending=sum(one.pending for one in found),
        failed=sum(one.failed for one in found),
        done=sum(done) if len(done) == len(found) else None,
        unsettled=sum(one.unsettled for one in found),
        unlisted=sum(one.unlisted for one in found),
        bytes=sum(one.bytes for one in found),
        sent=sum(one.sent for one in found),
        failed_bytes=sum(one.failed_bytes for one in found),
        waits_for={name: reason for one in found for name, reason in one.waits_for.items()},
        uploads=[upload for one in found for upload in one.uploads],
    )


def summary(tally: Tally) -> str:
    """One line about a tally."""
    parts = []
    if tally.pending:
        whose = "its" if tally.pending == 1 else "their"
        parts.append(f"{counted(tally.pending, 'file')} ({size(tally.bytes)}) on {whose} way")
    if tally.unlisted:
        parts.append(f"perhaps some of {tally.unlisted} that the mount does not list")
    if tally.unsettled:
        parts.append(unsettled(tally))
    if tally.is_over:
        parts.append("nothing on its way")
    if tally.failed:
        parts.append(f"{tally.failed} failed")
    if tally.done:
        parts.append(f"{tally.done} done")
    return ", ".join(parts)


def unsettled(tally: Tally) -> str:
    """That more may come; empty if it does not."""
    if not tally.unsettled:
        return ""
    return f"{tally.unsettled} director{'y' if tally.unsettled == 1 else 'ies'} just changed"


def awaited(tally: Tally) -> Iterator[str]:
    """A line for each that does not answer, and why."""
    for name, reason in tally.waits_for.items():
        yield f"waits for {printable(name)}: {one_line(reason)}"


@dataclass(slots=True)
class Course:
    """How far a wait is that *began_at* (s of its clock): what was pending then and what has come.

    A file that is no longer listed counts as uploaded: it is in the lake, or its user took it away.
    """

    began_at: float
    files: int = 0
    bytes: int = 0
    _left: tuple[int, int] | None = None
    _now: Tally = field(default_factory=Tally)
    _samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def take(self, tally: Tally, now: float) -> None:
        """Take over how it stands."""
        left = tally.pending + tally.failed, tally.bytes + tally.failed_bytes
        if self._left is not None:
            self.files += max(0, self._left[0] - left[0])
            self.bytes += max(0, self._left[1] - left[1])
        self._left, self._now = left, tally
        self._samples.append((now, self.bytes_sent))

    @property
    def all_files(self) -> int:
        """Those that are uploaded, pending or failed."""
        return self.files + (self._left[0] if self._left else 0)

    @property
    def all_bytes(self) -> int:
        return self.bytes + (self._left[1] if self._left else 0)

    @property
    def bytes_sent(self) -> int:
        """Those of what is uploaded, and of what is on its way."""
        return self.bytes + self._now.sent

    def rate(self) -> float | None:
        """Bytes per second of late; None if nothing tells."""
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / (last - first)) if last - first >= _RATE_OVER else None

    def remaining(self) -> float | None:
        """Seconds until all bytes are sent, as far as anything tells."""
        rate, left = self.rate(), self._now.bytes - self._now.sent
        return left / rate if rate and left > 0 else None


def _sum(key: str, uploads: Iterable[Facts]) -> int:
    return sum(one[key] for one in uploads)
