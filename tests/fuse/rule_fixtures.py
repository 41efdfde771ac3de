"""Fixtures of the tests about rules, for their ``pytest_plugins``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.conftest import Mounter
from tests.fuse.rules import Bringer, BringerMaker
from tests.lake.rules import RuleLab
from tests.mounting import Mount


@pytest.fixture
def did(lab: RuleLab, scope: str, request: pytest.FixtureRequest) -> str:
    """A file at REM1 alone.  Its name has no word that a sentence about it has to have."""
    prefix = hashlib.md5(request.node.name.encode()).hexdigest()[:8]
    return lab.files(scope, prefix=prefix)[0]


@pytest.fixture
def bringer(mounter: Mounter, lab: RuleLab) -> Iterator[BringerMaker]:
    """Makes mounts that bring files; a refusal is a warning in their log, a traceback never."""
    mounts: list[Mount] = []

    def make(**options: object) -> Bringer:
        mounts.append(mounter(expect_warnings=True, policy="replicate", **options))
        return Bringer(mounts[-1], lab)

    yield make
    for mount in mounts:
        assert "Traceback" not in mount.log_text(), mount.log_text()
