"""The sample data: which files and collections the lake is born with, and at which RSEs.

A plan only (standard library).  sample_files.py makes the bytes, placing.py puts them into the
storages, inside/register.py tells Rucio.  lake/README.md shows the tree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

BIG_SIZE = 5 << 30  # over 4 GiB; a hole on disk
ODD_NAMES = (  # all Rucio's generic schema lets through: ^[/A-Za-z0-9][/A-Za-z0-9\.\-_]*$
    "/lead/slash.txt",
    "trail/",
    "two//slashes.txt",
    "up/../down.txt",
    "here/./there.txt",
    "same",
    "same/below.txt",
    "Case.txt",
    "case.txt",
    "0",
    "dots...",
    "under_score-dash.tar.gz",
    "files",
    "meta",
    "file.rucio.upload",
)
LONG_FILENAME = "long-" + "x" * 240 + ".data"  # 250 characters, Rucio's longest
LONG_PATH = "/".join(["deep" * 12] * 5) + ".datum"  # 250 with slashes in it


@dataclass(frozen=True)
class SampleFile:
    """One file DID.  kind names the maker of its bytes in sample_files.py."""

    scope: str
    filename: str
    kind: str
    rses: tuple[str, ...]
    account: str = "root"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None  # below a non-deterministic RSE's prefix

    @property
    def did(self) -> str:
        """Scope and name in Rucio's notation."""
        return f"{self.scope}:{self.filename}"


@dataclass(frozen=True)
class SampleCollection:
    """One dataset or container DID.  members are DIDs as scope:name."""

    scope: str
    filename: str
    is_container: bool
    members: tuple[str, ...]
    is_open: bool = False
    account: str = "root"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def did(self) -> str:
        """Scope and name in Rucio's notation."""
        return f"{self.scope}:{self.filename}"


@dataclass(frozen=True)
class SampleRule:
    """A rule that keeps what is already there."""

    did: str
    rse: str
    account: str


SCOPES = {"sky": "root", "lab": "root", "user.alice": "alice", "user.bob": "bob"}


def _exposure(number: int, band: str, target: str, rses: tuple[str, ...]) -> SampleFile:
    return SampleFile(
        "sky",
        f"exp{number:04d}_{band}.fits",
        "fits",
        rses,
        metadata={"target": target, "band": band, "exptime": 120.0, "telescope": "LK-1"},
    )


_NIGHT_1 = [_exposure(i, band, "M31", ("COLO", "REM1")) for i, band in enumerate("gri", 1)]
_NIGHT_2 = [_exposure(i, band, "NGC 1068", ("REM1",)) for i, band in enumerate("gri", 11)]
_NIGHT_3 = [_exposure(i, band, "Coma", ("COLO",)) for i, band in enumerate("gr", 21)]
_NIGHT_4 = [_exposure(i, band, "M87", ("REM2",)) for i, band in enumerate("gr", 31)]
_CALIBRATION = [
    SampleFile("sky", f"calib/2026-01/{name}.fits", "fits", ("COLO", "REM2"))
    for name in ("bias/bias-0001", "flat/flat-r-0001")
]
_CUBES = [SampleFile("sky", "ngc1068_cube.h5", "hdf5", ("REM1",), metadata={"target": "NGC 1068"})]
_LOOSE = [SampleFile("sky", "README.txt", "text", ("COLO",))]
_NOTES = [
    SampleFile("lab", "notes.txt", "text", ("COLO", "REM1")),
    SampleFile("sky", "notes.txt", "text", ("COLO", "REM1")),
]
_RUN_7 = [
    SampleFile("lab", "run-0007.root", "root", ("COLO", "REM1"), metadata={"run": 7}),
    SampleFile("lab", "run-0007.json", "json", ("COLO", "REM1")),
]
_RUN_8 = [SampleFile("lab", "run-0008.root", "root", ("REM1",), metadata={"run": 8})]
_DAMAGED = [
    SampleFile("lab", "whole.dat", "bytes", ("COLO", "REM1")),
    SampleFile("lab", "missing.dat", "bytes", ("COLO", "REM1")),
    SampleFile("lab", "short.dat", "bytes", ("COLO", "REM1")),
    SampleFile("lab", "lost.dat", "bytes", ("COLO",)),
]
_BIG = [SampleFile("lab", "zeros-5GiB.dat", "zeros", ("COLO",))]
_ODD = [
    SampleFile("lab", filename, "text", ("REMND",), path=f"odd/{number:02d}.txt")
    for number, filename in enumerate(ODD_NAMES)
]
_LONG = [SampleFile("lab", name, "text", ("COLO", "REM1")) for name in (LONG_FILENAME, LONG_PATH)]
_ARCHIVE = [
    SampleFile(
        "sky",
        "archive/2019-raw.fits",
        "fits",
        ("REMTAPE",),
        metadata={"target": "M31", "band": "r", "exptime": 120.0, "telescope": "LK-0"},
    )
]
_ALICE = [
    SampleFile("user.alice", "thesis/fit.json", "json", ("COLO_SCRATCHDISK",), "alice"),
    SampleFile("user.alice", "thesis/figure.fits", "fits", ("COLO_SCRATCHDISK",), "alice"),
]
_BOB = [
    SampleFile("user.bob", "spectrum.csv", "csv", ("REMND",), "bob", path="bob/spectrum.csv"),
]

FILES: tuple[SampleFile, ...] = (
    *_NIGHT_1,
    *_NIGHT_2,
    *_NIGHT_3,
    *_NIGHT_4,
    *_CALIBRATION,
    *_CUBES,
    *_LOOSE,
    *_NOTES,
    *_RUN_7,
    *_RUN_8,
    *_DAMAGED,
    *_BIG,
    *_ODD,
    *_LONG,
    *_ALICE,
    *_BOB,
    *_ARCHIVE,
)
FILE_BY_DID = {file.did: file for file in FILES}


def _dataset(
    scope: str,
    filename: str,
    files: list[SampleFile],
    *,
    is_open: bool = False,
    account: str = "root",
    **metadata: Any,
) -> SampleCollection:
    members = tuple(file.did for file in files)
    return SampleCollection(scope, filename, False, members, is_open, account, metadata)


def _container(scope: str, filename: str, *members: str) -> SampleCollection:
    return SampleCollection(scope, filename, True, members, is_open=True)


DATASETS = (
    _dataset("sky", "night-001", _NIGHT_1, night="2026-01-10", seeing=0.8),
    _dataset("sky", "night-002", _NIGHT_2, night="2026-01-11", seeing=1.1),
    _dataset("sky", "night-003", _NIGHT_3, is_open=True, night="2026-01-12"),
    _dataset("sky", "night-004", _NIGHT_4, night="2025-11-02"),
    _dataset("sky", "calibration", _CALIBRATION),
    _dataset("sky", "cubes", _CUBES),
    _dataset("sky", "archive", _ARCHIVE, night="2019-12-24"),
    _dataset("lab", "run-0007", _RUN_7),
    _dataset("lab", "run-0008", _RUN_8),
    _dataset("lab", "mixed", [*_NOTES, _NIGHT_1[0]]),  # notes.txt twice, from two scopes
    _dataset("lab", "damaged", _DAMAGED),
    _dataset("lab", "big", _BIG),
    _dataset("lab", "odd-names", _ODD),
    _dataset("lab", "long-names", _LONG),
    _dataset("lab", "empty", [], is_open=True),
    _dataset("user.alice", "thesis", _ALICE, is_open=True, account="alice"),
    _dataset("user.bob", "shared", _BOB, account="bob"),
)
CONTAINERS = (  # children before parents
    _container("sky", "survey.2025", "sky:night-004", "sky:calibration"),
    _container("sky", "survey.2026", "sky:night-001", "sky:night-002", "sky:night-003"),
    _container("sky", "survey", "sky:survey.2025", "sky:survey.2026"),
    _container("sky", "best-of", "sky:night-002", "sky:cubes"),  # night-002 has two parents
    _container("lab", "campaign", "lab:run-0007", "lab:run-0008"),
    _container("lab", "loop-b"),
    _container("lab", "loop-a", "lab:loop-b"),
)
# Rucio refuses to attach a container below itself, but catalogues have such rows.
CYCLE = ("lab:loop-b", "lab:loop-a")  # parent, child: written into the table

# What COLO really holds of files Rucio believes AVAILABLE there.
MISSING_AT_COLO = frozenset({"lab:missing.dat", "lab:lost.dat"})
SHORT_AT_COLO = frozenset({"lab:short.dat"})


def rules() -> Iterator[SampleRule]:
    """Give the fewest rules that keep every replica (the reaper is greedy here)."""
    kept: set[tuple[str, str]] = set()
    for dataset in DATASETS:
        files = [FILE_BY_DID[did] for did in dataset.members]
        common = set.intersection(*(set(file.rses) for file in files)) if files else set()
        for rse in sorted(common):
            kept |= {(file.did, rse) for file in files}
            yield SampleRule(dataset.did, rse, dataset.account)
    for file in FILES:
        for rse in file.rses:
            if (file.did, rse) not in kept:
                yield SampleRule(file.did, rse, file.account)
