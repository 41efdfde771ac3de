"""The top of the tree: what is beside the scopes, and what `.rucio/` says of the mount."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from rucio_fs import __version__, readme
from rucio_fs.config import Config
from rucio_fs.nodes.base import Node
from rucio_fs.nodes.control import (
    CacheFile,
    ControlDir,
    GrowingFile,
    RefreshFile,
    StatusFile,
    TextFile,
)
from rucio_fs.nodes.dids import Services
from rucio_fs.nodes.scopes import RootDir
from rucio_fs.nodes.scratch_root import ScratchRoot
from rucio_fs.reading import Reading
from rucio_fs.saving import Saving


class Tree:
    """The nodes that every mount has.

    *root* has everything else below it, *scratch* is None where nothing can be saved.  *counts*
    tells what the kernel knows of the tree, for `.rucio/status`.
    """

    def __init__(
        self,
        config: Config,
        mountpoint: Path,
        reading: Reading,
        saving: Saving | None,
        counts: Callable[[], Mapping[str, int]],
        nursery: trio.Nursery,
    ) -> None:
        self._config = config
        self._mountpoint = mountpoint
        self._reading = reading
        self._counts = counts
        self._born_ns = born_ns = time.time_ns()
        self.scratch: ScratchRoot | None = None
        fixed: dict[str, Node] = {
            "README.txt": TextFile("README.txt", self._readme(saves=saving is not None), born_ns),
            ".rucio": ControlDir(".rucio", self._control(saving, nursery), born_ns),
        }
        if saving is not None:
            saving.read_with(reading.opener)
            fixed["scratch"] = self.scratch = saving.root(born_ns)
        self.root = RootDir(
            Services(
                reading.catalogue,
                reading.opener,
                born_ns,
                reading.rules,
                config.scopes.allow,
                config.scopes.deny,
                config.cache.missing_ttl,
                config.cache.now_ttl,
            ),
            fixed,
        )

    def __repr__(self) -> str:
        return f"<Tree at {self._mountpoint}>"

    def _readme(self, *, saves: bool) -> str:
        reading = self._reading
        return readme.text(
            reading.host,
            reading.site,
            brings=reading.rules is not None,
            streams=reading.streams is not None,
            saves=saves,
        )

    def _control(self, saving: Saving | None, nursery: trio.Nursery) -> Mapping[str, Node]:
        reading, born_ns = self._reading, self._born_ns
        control: dict[str, Node] = {
            "status": self._shown("status", self._status),
            "refresh": RefreshFile("refresh", reading.catalogue.forget_all, born_ns),
            "problems": self._shown("problems", reading.events.problems),
            "events": GrowingFile("events", reading.events),
        }
        if reading.rules is not None:
            control["transfers"] = self._shown("transfers", reading.rules.keeper.board.transfers)
        if reading.streams is not None and reading.store is not None:
            control["cache"] = CacheFile("cache", reading.store, nursery, born_ns)
        if saving is not None:
            control["uploads"] = saving.control(born_ns)
        return control

    def _shown(self, name: str, facts: Callable[[], Any]) -> StatusFile:
        """A file of `.rucio/` that shows *facts* as JSON."""
        return StatusFile(
            name, lambda: json.dumps(facts(), indent=2, ensure_ascii=False) + "\n", self._born_ns
        )

    def _status(self) -> Mapping[str, Any]:
        config, reading = self._config, self._reading
        health, rules, streams = reading.catalogue.health, reading.rules, reading.streams
        status: dict[str, Any] = {
            "version": __version__,
            "mountpoint": str(self._mountpoint),
            "mounted_at": _iso(self._born_ns / 1e9),
            "config_file": str(config.file) if config.file else None,
            "rucio": {
                "host": reading.host,
                "account": reading.account,
                "state": "ok" if health.trouble is None else "unreachable",
                "trouble": health.trouble,
                "trouble_since": _iso(health.trouble_since),
                "answered_at": _iso(health.answered_at),
            },
            "site": {"name": config.site.name, "rse": config.site.rse},
            "opening": {
                "policy": config.opening.policy if rules is not None else "stream",
                **(rules.keeper.status() if rules is not None else {}),
                "problems": len(reading.events.problems()),
                **asdict(reading.opener.counters),
                "switched": reading.opener.switched,
            },
            "cache": reading.catalogue.status(),
        }
        if streams is not None:
            status["streaming"] = streams.status()
            status["diskcache"] = None if streams.store is None else streams.store.status()
        return {**status, **self._counts()}


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
