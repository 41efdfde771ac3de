"""Who gets no rules made by opening files: scanners, and whoever opens too much."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from fnmatch import fnmatchcase

import trio

from rucio_fs import callers
from rucio_fs.callers import Caller
from rucio_fs.config import ScannersConfig
from rucio_fs.did import DID
from rucio_fs.errors import NotForScanners

_COMM = 15  # characters of a program's name that the kernel keeps


class Guard:
    """Looks at the program and the pace of those whose open would bring a file."""

    def __init__(
        self,
        config: ScannersConfig,
        programs: Callable[[int], frozenset[str]] = callers.programs,
    ) -> None:
        self._config = config
        self._programs = programs
        self._opened: dict[int, deque[float]] = {}

    def check_program(self, caller: Caller, did: DID) -> None:
        """Raises: NotForScanners"""
        for name in self._programs(caller.tid):
            for glob in self._config.programs:
                if fnmatchcase(name, glob) or (len(glob) > _COMM and name == glob[:_COMM]):
                    raise NotForScanners(
                        f"{did} is not here, and no rule is made for the program {name}"
                        " (scanners.programs); rucio-fs get brings it"
                    )

    def check_pace(self, caller: Caller, did: DID) -> None:
        """Count one file that the caller's open would bring.  Raises: NotForScanners"""
        rate, window = self._config.rate, self._config.window
        if not rate:
            return
        now = trio.current_time()
        opened = self._opened.setdefault(caller.uid, deque())
        while opened and opened[0] <= now - window:
            opened.popleft()
        if len(opened) >= rate:
            raise NotForScanners(
                f"{did} is not here, and no rule is made: user {caller.uid} has had {rate} files"
                f" brought in {window:g} s (scanners.rate); rucio-fs get brings whole directories"
            )
        opened.append(now)
