"""Fixtures of the tests that mount: ways to look at the lake's Rucio and to change it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lake import Lake
from tests import direct
from tests.fuse.calls import CallLog
from tests.fuse.changing import Changer


@pytest.fixture(scope="session")
def rest(lake: Lake) -> Iterator[Changer]:
    """Rucio's REST interface."""
    session = Changer(lake)
    yield session
    session.close()


@pytest.fixture(scope="session")
def calls(lake: Lake, rest: Changer) -> CallLog:
    """What mounts ask Rucio."""
    return CallLog(lake, rest)


@pytest.fixture
def new_scope(lake: Lake, rest: Changer) -> Iterator[str]:
    """An empty scope for one test; tests.direct makes larger ones for a module."""
    scope = direct.fresh_scope()
    rest.add_scope(scope)
    yield scope
    direct.hide(lake, scope)
