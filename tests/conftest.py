"""Fixtures shared by all tests: the lake, and mounts of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lake import Lake
from tests.mounting import Mount

Mounter = Callable[..., Mount]


@pytest.fixture(scope="session")
def lake() -> Iterator[Lake]:
    """The project's lake on free ports, with its samples; shared by all tests of a run.

    RUCIO_FS_TEST_LAKE names the directory of a running one to use instead.
    """
    running = os.environ.get("RUCIO_FS_TEST_LAKE")
    if running:
        yield Lake.load(Path(running))
        return
    lake = Lake.up(free_ports=True)
    try:
        yield lake
    finally:
        lake.down()


@pytest.fixture
def mounter(lake: Lake, request: pytest.FixtureRequest) -> Iterator[Mounter]:
    """Makes mounts of the lake: ``mounter(cache_size="1 MiB", expect_warnings=True)``.

    At the end each has to have unmounted in good order and logged no warning (unless expected).
    """
    made: list[tuple[Mount, bool]] = []

    def mount(
        *, config: Path | None = None, expect_warnings: bool = False, **options: object
    ) -> Mount:
        options = {"site": "HERE", "rse": "COLO", **options}
        spelled = {key.replace("__", "."): value for key, value in options.items()}
        one = Mount(config or lake.client_config(), spelled)
        made.append((one, expect_warnings))
        return one

    yield mount
    codes = [(one, one.close(), expected) for one, expected in made]
    for one, code, warned in codes:
        assert code == 0, f"the server ended with {code}:\n{one.log_text()}"
        if not warned:
            assert one.warnings() == []
        one.remove()
