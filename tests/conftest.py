"""Fixtures shared by all tests: the lake, and mounts of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lake import Lake
from tests.mounting import Mount

Mounter = Callable[..., Mount]


@pytest.fixture(scope="session")
def lake() -> Iterator[Lake]:
    """The project's lake on free ports, with its samples; shared by all tests of a process.

    RUCIO_FS_TEST_LAKE names the directory of a running one to use instead, by one process
    (``--dist no``): some tests stop its servers.
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
def mounter(lake: Lake) -> Iterator[Mounter]:
    """Makes mounts of the lake: ``mounter(cache_size="1 MiB", expect_warnings=True)``.

    At the end each has to have unmounted in good order and logged no warning (unless expected).
    """
    with _mounting(lake) as mount:
        yield mount


@pytest.fixture(scope="module")
def module_mounter(lake: Lake) -> Iterator[Mounter]:
    """The same for mounts that the tests of a module share, since none changes their state."""
    with _mounting(lake) as mount:
        yield mount


@contextmanager
def _mounting(lake: Lake) -> Iterator[Mounter]:
    made: list[tuple[Mount, bool]] = []

    def mount(
        *, config: Path | None = None, expect_warnings: bool = False, **options: object
    ) -> Mount:
        # Tests share the lake: one that is not about rules must bring nothing to the site.
        options = {
            **{"site": "HERE", "rse": "COLO", "policy": "stream", "storages.ca": lake.ca_file},
            **options,
        }
        spelled = {key.replace("__", "."): value for key, value in options.items()}
        one = Mount(config or lake.client_config(), spelled)
        made.append((one, expect_warnings))
        return one

    try:
        yield mount
    finally:
        codes = [one.close() for one, _ in made]
        logs = [one.log_text() for one, _ in made]
        warnings = [[] if expected else one.warnings() for one, expected in made]
        for one, _ in made:
            one.remove()
    for code, log, warned in zip(codes, logs, warnings, strict=True):
        assert code == 0, f"the server ended with {code}:\n{log}"
        assert warned == []
