"""A staging area, and an overseer that writes down what it hears."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rucio_fs.scratch.overseeing import Indifferent
from rucio_fs.scratch.staging import Staging


class Listener(Indifferent):
    """Keeps *heard*; raises *forbids* before any change."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.forbids: Exception | None = None

    def _hear(self, *what: object) -> None:
        self.heard.append(what)
        if self.forbids is not None and str(what[0]).startswith("before"):
            raise self.forbids

    def changed(self, path: str) -> None:
        self._hear("changed", path)

    def before_write(self, path: str, ino: int) -> None:
        self._hear("before_write", path, ino)

    def before_rename(
        self, path: str, ino: int, is_dir: bool, over: tuple[str, int] | None
    ) -> None:
        self._hear("before_rename", path, ino, is_dir, over)

    def renamed(self, old_path: str, new_path: str) -> None:
        self._hear("renamed", old_path, new_path)

    def exchanged(self, one: str, other: str) -> None:
        self._hear("exchanged", one, other)

    def before_unlink(self, path: str, ino: int) -> None:
        self._hear("before_unlink", path, ino)

    def removed(self, path: str, ino: int) -> None:
        self._hear("removed", path, ino)

    def before_rmdir(self, path: str) -> None:
        self._hear("before_rmdir", path)

    def taken(self) -> list[tuple[object, ...]]:
        """What was heard since the last look."""
        heard, self.heard = self.heard, []
        return heard


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def area(tmp_path: Path) -> Path:
    return tmp_path / "area"


@pytest.fixture
def staging(area: Path, listener: Listener) -> Iterator[Staging]:
    staging = Staging.open(area)
    staging.overseer = listener
    yield staging
    staging.close()
