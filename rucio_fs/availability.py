"""Where a file can be read from, decided from what Rucio says and what the site is.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import assert_never

from rucio_fs.did import FileReplicas, Replica
from rucio_fs.errors import Corrupt, NoReplica, NotYetHere, OnTape, RucioFsError
from rucio_fs.webdav.addresses import SCHEMES

AVAILABLE = "AVAILABLE"

_COPYING = "COPYING"


@dataclass(frozen=True, slots=True)
class Site:
    """What is near: the site's name for Rucio, its colocated RSE, and where that RSE is mounted.

    *paths* maps PFN prefixes to local directories, for RSEs without a ``file://`` protocol.
    *roots*, if not empty, are the only directories local files may lie in.
    """

    name: str | None = None
    rse: str | None = None
    paths: tuple[tuple[str, str], ...] = ()
    roots: tuple[PurePosixPath, ...] = ()

    @classmethod
    def of(
        cls,
        name: str | None,
        rse: str | None,
        paths: Mapping[str, str],
        roots: tuple[PurePosixPath, ...],
    ) -> Site:
        """Longest prefixes first, so that the most exact one wins."""
        return cls(name, rse, tuple(sorted(paths.items(), key=lambda p: -len(p[0]))), roots)


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be done for a file that is not here.

    *brings*: make a rule, for files of *min_size* bytes at least where they can be streamed as
    well; *recalls*: also where that has a tape mounted.  *streams*: read it where it is.
    """

    brings: bool = False
    recalls: bool = False
    streams: bool = False
    min_size: int = 0


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """A replica that is a file of this machine."""

    rse: str
    pfn: str
    path: str


@dataclass(frozen=True, slots=True)
class Local:
    """The file can be read from these copies, best first."""

    copies: tuple[LocalCopy, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """The file can be read from these replicas, in Rucio's order.

    *brings*: and a rule be made.  *is_coming*: the colocated RSE is being filled with it.
    """

    replicas: tuple[Replica, ...]
    brings: bool = False
    is_coming: bool = False


@dataclass(frozen=True, slots=True)
class Bring:
    """There are replicas elsewhere, and a rule is to bring the file here."""

    rses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """There are replicas, but none that this machine reads as a file, and no rule is to be made."""

    rses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nearline:
    """All replicas are on tape, which is not mounted for this."""

    rses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unmapped:
    """The colocated RSE has it, but its PFN leads to no path of this machine."""

    rse: str
    pfn: str


@dataclass(frozen=True, slots=True)
class Arriving:
    """The colocated RSE is being filled with it."""

    rse: str


@dataclass(frozen=True, slots=True)
class Nowhere:
    """No RSE has an available replica."""

    states: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The only local copy has a path that must not be opened, for *reason*."""

    reason: str


Decision = Local | Stream | Unmapped | Bring | Elsewhere | Nearline | Arriving | Nowhere | Forbidden


def decide(file: FileReplicas, site: Site, policy: Policy = Policy()) -> Decision:
    """What opening *file* at *site* under *policy* means."""
    copies: list[LocalCopy] = []
    refused = unmapped = ""
    for replica in file.replicas:
        if file.states.get(replica.rse, AVAILABLE) != AVAILABLE:
            continue
        path = local_path(replica, site)
        if path is None:
            if replica.rse == site.rse:
                unmapped = replica.pfn
            continue
        reason = _objection(path, site)
        if reason:
            refused = f"{replica.rse} has it as {replica.pfn}: {reason}"
        else:
            copies.append(LocalCopy(replica.rse, replica.pfn, path))
    if copies:
        copies.sort(key=lambda copy: copy.rse != site.rse)  # stable: Rucio's order otherwise
        return Local(tuple(copies))
    remote = streamable(file) if policy.streams else ()
    if remote:
        is_coming = site.rse is not None and file.states.get(site.rse) == _COPYING
        is_worth_it = file.size >= policy.min_size or is_coming
        return Stream(remote, policy.brings and is_worth_it and not unmapped, is_coming)
    if refused:
        return Forbidden(refused)
    if unmapped and site.rse is not None:
        return Unmapped(site.rse, unmapped)
    if site.rse is not None and file.states.get(site.rse) == _COPYING:
        return Arriving(site.rse)
    tapes = {replica.rse for replica in file.replicas if replica.is_tape}
    available = tuple(rse for rse, state in file.states.items() if state == AVAILABLE)
    disks = tuple(rse for rse in available if rse not in tapes)
    if not available:
        return Nowhere(dict(file.states))
    if not disks and not policy.recalls:
        return Nearline(available)
    return Bring(disks or available) if policy.brings else Elsewhere(disks or available)


def streamable(file: FileReplicas) -> tuple[Replica, ...]:
    """The replicas of *file* that can be read over HTTP, without a tape being mounted for it."""
    return tuple(
        replica
        for replica in file.replicas
        if not replica.is_tape
        and replica.pfn.partition("://")[0] in SCHEMES
        and file.states.get(replica.rse, AVAILABLE) == AVAILABLE
    )


def local_path(replica: Replica, site: Site) -> str | None:
    """Path of *replica* on this machine; None if it is not a file here.

    The prefix map wins over a ``file://`` PFN, whose path may be another one in a container.  A
    ``file://`` PFN counts only from the lan protocol: over the wan it names another host's disk.
    """
    for prefix, directory in site.paths:
        rest = replica.pfn.removeprefix(prefix)
        # Whole components: ".../data" is no prefix of ".../data2/f", which is another tree's file.
        if rest != replica.pfn and (prefix.endswith("/") or rest.startswith("/")):
            return f"{directory.rstrip('/')}/{rest.lstrip('/')}"
    if replica.is_lan and replica.pfn.startswith("file://"):
        # Not urlsplit: a "?" or "#" in a file's name is part of it, and Rucio quotes nothing.
        _host, slash, path = replica.pfn.removeprefix("file://").partition("/")
        return "/" + path.lstrip("/") if slash else None
    return None


def _objection(path: str, site: Site) -> str:
    """Why *path* must not be opened; empty if it may.

    A DID may be named ``x/../../../etc/shadow``, and some RSEs make paths from names.
    """
    pure = PurePosixPath(path)
    if ".." in pure.parts:
        return "the path contains '..'"
    if site.roots and not any(pure.is_relative_to(root) for root in site.roots):
        return "the path is outside the configured site.roots"
    return ""


def refusal(file: FileReplicas, decision: Decision, site: Site) -> RucioFsError:
    """Why a file that is neither here nor to be brought or streamed is not opened."""
    match decision:
        case Forbidden(reason):
            return Corrupt(f"{file.did} is not opened: {reason}")
        case Unmapped(rse, pfn):
            return NotYetHere(
                f"{file.did} is at {rse} as {pfn}, which is no path of this machine: set"
                " site.name to the RSE's site attribute, or map the PFN in site.paths"
            )
        case Arriving(rse):
            return NotYetHere(f"{file.did} is being copied to {rse}; try again later")
        case Elsewhere(rses) | Bring(rses):
            return NotYetHere(
                f"{file.did} has no replica at this site"
                f" ({site.rse or site.name or 'no site is configured'});"
                f" it is at {', '.join(rses)}: bring it here with a replication rule"
            )
        case Nearline(rses):
            return OnTape(
                f"{file.did} is only on tape ({', '.join(rses)}), which no open has mounted;"
                " rucio-fs get asks for it, opening.recall = true lets every open do so"
            )
        case Nowhere(states):
            listed = ", ".join(f"{rse} {state}" for rse, state in states.items())
            if not listed:
                listed = "none at all, or at RSEs that are closed for reading"
            return NoReplica(f"{file.did} has no available replica ({listed})")
        case Local() | Stream():
            raise AssertionError("it can be opened")
        case _:
            assert_never(decision)
