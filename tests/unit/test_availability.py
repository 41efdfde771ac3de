"""Where a file can be read from: every combination of replica, protocol and site."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import PurePosixPath

import pytest

from rucio_fs.availability import (
    Arriving,
    Bring,
    Decision,
    Elsewhere,
    Forbidden,
    Local,
    LocalCopy,
    Nearline,
    Nowhere,
    Policy,
    Site,
    Stream,
    Unmapped,
    decide,
    local_path,
)
from rucio_fs.did import DID, FileReplicas, Replica

HERE = Site.of("site", "COLO", {"root://colo//": "/mnt/colo/"}, ())
FAR_PFN = "https://far/f"


def file(*replicas: Replica, **states: str) -> FileReplicas:
    known = {replica.rse: "AVAILABLE" for replica in replicas} | states
    return FileReplicas(DID("s", "f"), 10, None, None, replicas, known)


def lan(rse: str, path: str = "/data/f") -> Replica:
    return Replica(rse, f"file://{path}", is_lan=True)


def wan(rse: str, pfn: str = FAR_PFN) -> Replica:
    return Replica(rse, pfn)


def copy(rse: str, path: str = "/data/f") -> LocalCopy:
    return LocalCopy(rse, f"file://{path}", path)


# --- decide ------------------------------------------------------------------------------------

ROOTS = Site.of("site", "COLO", {}, (PurePosixPath("/data"), PurePosixPath("/more")))
NO_SITE = Site()


@pytest.mark.parametrize(
    ("replicas", "site", "decision"),
    [
        (file(lan("COLO")), HERE, Local((copy("COLO"),))),
        (file(lan("OTHER")), HERE, Local((copy("OTHER"),))),
        (file(lan("OTHER", "/o"), lan("COLO")), HERE, Local((copy("COLO"), copy("OTHER", "/o")))),
        (file(lan("A", "/a"), lan("B", "/b")), HERE, Local((copy("A", "/a"), copy("B", "/b")))),
        (file(lan("A")), NO_SITE, Local((copy("A"),))),
        (file(wan("FAR"), lan("COLO")), HERE, Local((copy("COLO"),))),
        (
            file(wan("COLO", "root://colo//x/f")),
            HERE,
            Local((LocalCopy("COLO", "root://colo//x/f", "/mnt/colo/x/f"),)),
        ),
        (file(wan("FAR")), HERE, Elsewhere(("FAR",))),
        (file(wan("FAR"), wan("AWAY")), HERE, Elsewhere(("FAR", "AWAY"))),
        (file(wan("COLO", "file:///data/f")), HERE, Unmapped("COLO", "file:///data/f")),
        (file(wan("FAR"), wan("COLO", "davs://c/f")), HERE, Unmapped("COLO", "davs://c/f")),
        (file(wan("COLO", "davs://c/f")), NO_SITE, Elsewhere(("COLO",))),
        (file(SILENT="AVAILABLE"), HERE, Elsewhere(("SILENT",))),
        (file(wan("FAR"), GONE="UNAVAILABLE"), HERE, Elsewhere(("FAR",))),
        (file(wan("FAR"), COLO="COPYING"), HERE, Arriving("COLO")),
        (file(COLO="COPYING"), HERE, Arriving("COLO")),
        (file(wan("FAR"), OTHER="COPYING"), HERE, Elsewhere(("FAR",))),
        (file(OTHER="COPYING"), HERE, Nowhere({"OTHER": "COPYING"})),
        (file(COLO="COPYING"), NO_SITE, Nowhere({"COLO": "COPYING"})),
        (file(), HERE, Nowhere({})),
        (file(COLO="UNAVAILABLE"), HERE, Nowhere({"COLO": "UNAVAILABLE"})),
        (file(COLO="BEING_DELETED"), HERE, Nowhere({"COLO": "BEING_DELETED"})),
        (file(COLO="BAD"), HERE, Nowhere({"COLO": "BAD"})),
        # A PFN whose replica is not AVAILABLE is about to vanish or not yet whole.
        (file(lan("COLO"), COLO="BEING_DELETED"), HERE, Nowhere({"COLO": "BEING_DELETED"})),
        (file(lan("COLO"), COLO="COPYING"), HERE, Arriving("COLO")),
        (file(lan("COLO"), wan("FAR"), COLO="TEMPORARY_UNAVAILABLE"), HERE, Elsewhere(("FAR",))),
        (file(lan("COLO", "/data/x")), ROOTS, Local((copy("COLO", "/data/x"),))),
        (file(lan("COLO", "/more/x")), ROOTS, Local((copy("COLO", "/more/x"),))),
        (
            file(lan("A", "/etc/shadow"), lan("B", "/data/f")),
            ROOTS,
            Local((copy("B", "/data/f"),)),
        ),
    ],
)  # fmt: skip
def test_decide(replicas: FileReplicas, site: Site, decision: Decision) -> None:
    assert decide(replicas, site) == decision


def _expected(
    *, near: bool, mapped: bool, colo: str, disk: bool, tape: bool, rse: str | None, policy: Policy
) -> tuple[type[Decision], tuple[str, ...]]:
    """What `decide` owes, and which RSEs it is to name, said once more: the first that holds."""
    colo_has_it = colo == "AVAILABLE"
    disks = ("REM1",) * disk + ("COLO",) * colo_has_it
    tapes = ("TAPE",) * tape
    remote = ("REM1",) * disk + ("COLO",) * (colo_has_it and not mapped)
    found: list[tuple[bool, type[Decision], tuple[str, ...]]] = [
        (colo_has_it and mapped, Local, ("COLO",) + ("NEAR",) * near),
        (near, Local, ("NEAR",)),
        (policy.streams and bool(remote), Stream, remote),
        (rse == "COLO" and colo_has_it, Unmapped, ("COLO",)),
        (rse == "COLO" and colo == "COPYING", Arriving, ("COLO",)),
        (not disks and not tapes, Nowhere, ()),
        (not disks and not policy.recalls, Nearline, tapes),
        (policy.brings, Bring, disks or tapes),
        (True, Elsewhere, disks or tapes),
    ]
    return next((kind, rses) for holds, kind, rses in found if holds)


def _named(decision: Decision) -> tuple[str, ...]:
    match decision:
        case Local(copies):
            return tuple(one.rse for one in copies)
        case Unmapped(rse, _) | Arriving(rse):
            return (rse,)
        case Bring(rses) | Elsewhere(rses) | Nearline(rses):
            return rses
        case Stream(replicas=replicas):
            return tuple(one.rse for one in replicas)
        case _:
            return ()


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("recalls", [False, True])
@pytest.mark.parametrize("brings", [False, True])
@pytest.mark.parametrize("rse", ["COLO", None])
@pytest.mark.parametrize("colo", ["AVAILABLE", "COPYING", "UNAVAILABLE", "BEING_DELETED", ""])
def test_every_combination(
    colo: str, rse: str | None, brings: bool, recalls: bool, streams: bool
) -> None:
    policy = Policy(brings, recalls, streams)
    for near, mapped, disk, tape in product((False, True), repeat=4):
        replicas = [wan("REM1")] * disk + [Replica("TAPE", "davs://tape/f", is_tape=True)] * tape
        if colo:
            replicas.append(lan("COLO") if mapped else wan("COLO", "davs://colo/f"))
        if near:
            replicas.append(lan("NEAR", "/near/f"))
        where = file(*replicas, **({"COLO": colo} if colo else {}))
        expected = _expected(
            near=near, mapped=mapped, colo=colo, disk=disk, tape=tape, rse=rse, policy=policy
        )
        decision = decide(where, Site.of("site", rse, {}, ()), policy)
        assert (type(decision), _named(decision)) == expected
        if isinstance(decision, Stream):
            # What is at the site already, though not as a file, needs no rule to come there.
            is_here = rse == "COLO" and colo == "AVAILABLE"
            assert decision.brings == (brings and not is_here)
            assert decision.is_coming == (rse == "COLO" and colo == "COPYING")


@pytest.mark.parametrize("pfn", ["davs://f/x", "dav://f/x", "https://f/x", "http://f/x"])
def test_what_is_read_over_http_is_streamed(pfn: str) -> None:
    decision = decide(file(wan("FAR", pfn)), HERE, Policy(streams=True))
    assert decision == Stream((wan("FAR", pfn),))


@pytest.mark.parametrize("pfn", ["root://f//x", "srm://f/x", "gsiftp://f/x", "file:///x", "httpx"])
def test_what_is_not_read_over_http_is_not_streamed(pfn: str) -> None:
    assert decide(file(wan("FAR", pfn)), HERE, Policy(streams=True)) == Elsewhere(("FAR",))


def test_a_replica_that_is_not_available_is_not_streamed() -> None:
    where = file(wan("A"), wan("B"), A="BAD")
    assert decide(where, HERE, Policy(streams=True)) == Stream((wan("B"),))


@pytest.mark.parametrize(("size", "brings"), [(99, False), (100, True), (101, True)])
def test_a_small_file_is_streamed_without_a_rule(size: int, brings: bool) -> None:
    policy = Policy(brings=True, streams=True, min_size=100)
    decision = decide(replace(file(wan("FAR")), size=size), HERE, policy)
    assert decision == Stream((wan("FAR"),), brings)


def test_a_small_file_that_is_coming_is_waited_for_behind() -> None:
    policy = Policy(brings=True, streams=True, min_size=100)
    where = replace(file(wan("FAR"), COLO="COPYING"), size=1)
    assert decide(where, HERE, policy) == Stream((wan("FAR"),), brings=True, is_coming=True)


def test_nothing_is_done_that_nobody_asked_for() -> None:
    assert Policy() == Policy(brings=False, recalls=False, streams=False, min_size=0)
    assert decide(file(wan("FAR")), HERE) == Elsewhere(("FAR",))


def test_disks_are_named_before_tapes() -> None:
    """A tape is no place to copy from while a disk has it."""
    where = file(Replica("TAPE", "davs://tape/f", is_tape=True), wan("FAR"))
    assert decide(where, HERE, Policy(brings=True)) == Bring(("FAR",))


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("/data/../etc/shadow", HERE),
        ("/data/..", HERE),
        ("/../etc/shadow", HERE),
        ("/data/x/../y", ROOTS),
        ("/etc/shadow", ROOTS),
        ("/database/f", ROOTS),  # "/data" is a directory, not a prefix of text
    ],
)
def test_some_paths_must_not_be_opened(path: str, site: Site) -> None:
    decision = decide(file(lan("COLO", path)), site)
    assert isinstance(decision, Forbidden)
    assert path in decision.reason
    assert "COLO" in decision.reason


@pytest.mark.parametrize("path", ["/data/..f", "/data/f..", "/data/.../f"])
def test_dots_in_a_name_are_no_climb(path: str) -> None:
    assert isinstance(decide(file(lan("COLO", path)), HERE), Local)


def test_a_mapped_path_must_not_climb_out_of_its_directory() -> None:
    decision = decide(file(wan("COLO", "root://colo//a/../../etc/shadow")), HERE)
    assert isinstance(decision, Forbidden)


def test_a_refused_copy_hides_no_arriving_one() -> None:
    """A path that must not be opened is said so, whatever else is under way."""
    decision = decide(file(lan("A", "/etc/x"), COLO="COPYING"), ROOTS)
    assert isinstance(decision, Forbidden)


# --- local_path --------------------------------------------------------------------------------

MAPPED = Site.of(
    None,
    "COLO",
    {
        "root://colo//": "/mnt/colo/",
        "root://colo//deep/": "/mnt/deep/",
        "file:///inside/": "/outside/",
        "davs://colo:443/base": "/mnt/base",
    },
    (),
)


@pytest.mark.parametrize(
    ("pfn", "is_lan", "path"),
    [
        ("file:///data/f", True, "/data/f"),
        ("file://localhost/data/f", True, "/data/f"),
        ("file:////data/f", True, "/data/f"),
        ("file:///data/f#1?x=%41", True, "/data/f#1?x=%41"),
        ("file:///data/f", False, None),
        ("file://host", True, None),
        ("https://colo/data/f", True, None),
        ("root://colo//x/f", False, "/mnt/colo/x/f"),
        ("root://colo//x/f", True, "/mnt/colo/x/f"),
        ("root://colo//deep/f", False, "/mnt/deep/f"),
        ("root://other//x/f", True, None),
        ("file:///inside/f", True, "/outside/f"),
        ("file:///inside/f", False, "/outside/f"),
        ("davs://colo:443/base/f", False, "/mnt/base/f"),
    ],
)
def test_local_path(pfn: str, is_lan: bool, path: str | None) -> None:
    assert local_path(Replica("COLO", pfn, is_lan), MAPPED) == path


def test_a_prefix_ends_at_a_slash() -> None:
    """``.../base`` is not the beginning of ``.../base2/f``: that would be another tree's file."""
    assert local_path(Replica("COLO", "davs://colo:443/base2/f"), MAPPED) is None


def test_the_longest_prefix_wins_however_they_are_written() -> None:
    prefixes = {"root://a//": "/short/", "root://a//b/c/": "/longest/", "root://a//b/": "/long/"}
    for order in (prefixes, dict(reversed(prefixes.items()))):
        site = Site.of(None, None, order, ())
        assert local_path(Replica("A", "root://a//b/c/f"), site) == "/longest/f"
        assert local_path(Replica("A", "root://a//b/f"), site) == "/long/f"
