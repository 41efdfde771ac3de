"""Fixtures of the tests that mount: ways to look at the lake's Rucio and to change it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lake import Lake
from lake.fts.client import FtsControl
from tests import direct
from tests.fuse.calls import CallLog
from tests.fuse.changing import Changer
from tests.lake.rules import RuleLab


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


@pytest.fixture(scope="session")
def lab(lake: Lake) -> Iterator[RuleLab]:
    """Files at one RSE only, and rules about them."""
    lab = RuleLab(lake)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def scope(lab: RuleLab) -> str:
    """A scope for the files of a module."""
    return lab.scope()


@pytest.fixture
def fts(lake: Lake) -> Iterator[FtsControl]:
    """The transfers of the lake; at the end nothing is wrong with them."""
    fts = FtsControl(lake.fts_url)
    yield fts
    fts.clear()
