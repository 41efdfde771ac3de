"""What unit tests of several packages need."""

from __future__ import annotations

import pytest

from lake.tls import Tls


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Certificates of an authority of our own."""
    made = Tls(tmp_path_factory.mktemp("tls"))
    made.make()
    return made
