"""What a path in scratch is called in Rucio, and which collections its directories become.  Pure.

The DID of ``run1/a/hits.root`` is ``run1/a/hits.root``: two directories often hold files of one
name, and a scope has one DID of a name.  A directory of files is a dataset; one with directories
in it is a container, and the files beside them are in the dataset ``<directory>__root``.  Nothing
else is called so: two paths never become one DID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rucio_fs import filenames
from rucio_fs.catalogue.base import ROOT
from rucio_fs.did import DID, DIDType
from rucio_fs.errors import BadName


def did_of(path: str) -> DID:
    """The DID of the file or directory at *path*, which is below a scope.

    Raises: BadName (also for what would become the DID of another path)
    """
    scope, *parts = path.split("/")
    if not parts:
        raise BadName(f"{path} is a scope")
    return DID(filenames.decode(scope), "/".join(_part(part) for part in parts))


def _part(filename: str) -> str:
    name = filenames.decode(filename)
    if name in ("", ".", "..") or "/" in name:
        raise BadName(f"{filename!r} cannot be a part of the name of a DID")
    if name.endswith(ROOT):
        raise BadName(f"{filename!r}: what ends in {ROOT} are datasets of files beside directories")
    return name


def top_of(path: str) -> str:
    """What is uploaded together with *path*: its directory below the scope, or else its scope."""
    scope, *parts = path.split("/")
    return f"{scope}/{parts[0]}" if len(parts) > 1 else scope


@dataclass(slots=True)
class Arrangement:
    """Where files go.  *dataset_of* has each file's dataset by its path; None: it is in none.

    *collections* are all that have to exist, parents before children; *parent_of* says in which
    container a collection is.
    """

    dataset_of: dict[str, DID | None] = field(default_factory=dict)
    collections: dict[DID, DIDType] = field(default_factory=dict)
    parent_of: dict[DID, DID] = field(default_factory=dict)


def arrange(
    files: Iterable[str],
    has_directories: Mapping[str, bool],
    existing: Mapping[DID, DIDType],
    chosen: Mapping[str, DID | None] | None = None,
) -> Arrangement:
    """The collections for *files*, given by their paths.

    *has_directories* says of each directory on their way whether there are directories in it;
    *existing* are the collections that are in Rucio and cannot become of another type; *chosen* has
    the dataset of those files whose user has said it.

    What is in the lake as a dataset takes files alone: a directory in it becomes a collection of
    its own, in no container.  A container that was chosen takes no files either: they go to the
    dataset for files beside its directories.  Raises: BadName
    """
    chosen = chosen or {}
    files = list(files)
    directories = {path: path.rpartition("/")[0] for path in files if path not in chosen}
    planner = _Planner(has_directories, existing, set(directories.values()))
    # Those first: what a directory is does not depend on who has named it.
    for path, directory in directories.items():
        planner.plan.dataset_of[path] = planner.dataset_for(directory)
    for path in files:
        if path in chosen:
            dataset = chosen[path]
            into = None if dataset is None else planner.dataset_named(dataset)
            planner.plan.dataset_of[path] = into
    plan = planner.plan
    # A child's name begins with its parent's.
    plan.collections = dict(sorted(plan.collections.items()))
    return plan


class _Planner:
    """Puts a *plan* together for files that lie in *directories*."""

    def __init__(
        self,
        has_directories: Mapping[str, bool],
        existing: Mapping[DID, DIDType],
        directories: set[str],
    ) -> None:
        self.plan = Arrangement()
        self._existing = existing
        self._datasets: dict[str, DID | None] = {}
        self._outer = {path for path, is_outer in has_directories.items() if is_outer}
        for directory in directories:
            above = directory.rpartition("/")[0]
            while above and above not in self._outer:
                self._outer.add(above)
                above = above.rpartition("/")[0]

    def dataset_for(self, directory: str) -> DID | None:
        """That of the files in *directory*; the collections above it become part of the plan."""
        if directory not in self._datasets:
            self._datasets[directory] = self._find(directory)
        return self._datasets[directory]

    def dataset_named(self, did: DID) -> DID:
        """That of files whose user wants them in *did*."""
        self._collect(did, self._type(did) or DIDType.DATASET, None)
        return self._taking_files(did)

    def _find(self, directory: str) -> DID | None:
        here, *parts = directory.split("/")
        did: DID | None = None
        parent: DID | None = None
        for part in parts:
            here = f"{here}/{part}"
            did = did_of(here)
            guess = DIDType.CONTAINER if here in self._outer else DIDType.DATASET
            type = self._type(did) or guess
            self._collect(did, type, parent)
            parent = did if type is DIDType.CONTAINER else None
        return None if did is None else self._taking_files(did)  # None: beside a scope's own

    def _taking_files(self, did: DID) -> DID:
        if self.plan.collections[did] is DIDType.DATASET:
            return did
        inner = DID(did.scope, did.name + ROOT)
        while self._type(inner) is DIDType.CONTAINER:  # somebody else has made it
            inner = DID(inner.scope, inner.name + ROOT)
        self._collect(inner, DIDType.DATASET, did)
        return inner

    def _type(self, did: DID) -> DIDType | None:
        return self.plan.collections.get(did) or self._existing.get(did)

    def _collect(self, did: DID, type: DIDType, parent: DID | None) -> None:
        self.plan.collections.setdefault(did, type)
        if parent is not None:
            self.plan.parent_of.setdefault(did, parent)
