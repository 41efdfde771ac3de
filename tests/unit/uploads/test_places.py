"""Which PFN a path of this machine has at an RSE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rucio_fs.errors import Refused
from rucio_fs.uploads.places import Place, seen


def protocol(scheme: str, prefix: str, port: int = 1094, **domains: Any) -> dict[str, Any]:
    return {
        "scheme": scheme,
        "hostname": "colo",
        "port": port,
        "prefix": prefix,
        "domains": {"wan": {"write": 1}, "lan": {}} | domains,
    }


DAVS = protocol("davs", "//rucio/nd/")
FILE = protocol("file", "/mnt/storage/nd/", 0, wan={}, lan={"read": 1})


@pytest.mark.parametrize(
    ("protocols", "paths", "expected"),
    [
        ([DAVS], {}, []),
        ([DAVS, FILE], {}, [("/mnt/storage/nd", "")]),
        ([DAVS, protocol("file", "/far", 0, lan={})], {}, []),
        ([DAVS], {"davs://colo:1094/rucio": "/mnt/r"}, [("/mnt/r/nd", "")]),
        ([DAVS], {"davs://colo:1094/rucio/nd/": "/mnt/nd/"}, [("/mnt/nd", "")]),
        ([DAVS], {"davs://colo:1094/rucio/nd/users": "/users"}, [("/users", "/users")]),
        ([DAVS], {"davs://colo:1094/rucio/n": "/wrong", "davs://other/": "/wrong"}, []),
        # The site's own map counts before what Rucio says of other machines.
        (
            [FILE, DAVS],
            {"davs://colo:1094/rucio": "/mnt/r"},
            [("/mnt/r/nd", ""), ("/mnt/storage/nd", "")],
        ),
    ],
)
def test_where_an_rse_is_seen(
    protocols: list[dict[str, Any]], paths: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    assert list(seen(protocols, paths)) == expected


def test_the_pfn_of_a_path() -> None:
    place = Place("ND", Path("/mnt/nd"), "davs://colo:1094/rucio/nd/", False)
    assert place.pfn(Path("/mnt/nd/run/hits.root")) == "davs://colo:1094/rucio/nd/run/hits.root"
    assert not place.holds(Path("/mnt/nd2/run"))


@pytest.mark.parametrize("name", ["a b", "a%2Fb", "a?b", "a#b", "caf\xe9", "../x"])
def test_what_would_mean_something_else_in_a_url(name: str) -> None:
    place = Place("ND", Path("/mnt/nd"), "davs://colo:1094/rucio/nd/", False)
    with pytest.raises(Refused, match="rename it"):
        place.pfn(Path(f"/mnt/nd/{name}"))
