"""rucio-fs that takes $SLOW seconds for each write to `.rucio/refresh`, whoever tells it to stop.

SLOW=SECONDS python -m tests.fuse.slow_server mount ...
"""

from __future__ import annotations

import os
import sys

import trio

from rucio_fs import cli
from rucio_fs.nodes import control


async def _write(self: control._OpenRefresh, offset: int, data: bytes) -> int:
    await trio.sleep(float(os.environ["SLOW"]))
    return len(data)


if __name__ == "__main__":
    control._OpenRefresh.write = _write  # type: ignore[method-assign]
    sys.exit(cli.main())
