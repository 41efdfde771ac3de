"""``python -m lake.fts --port P --mode stream|tpc``: run the FTS stand-in until SIGTERM or SIGINT.

Prints the URL it listens on, one line, as soon as it accepts connections.
"""

from __future__ import annotations

import argparse
import signal
from types import FrameType

from lake.fts.service import FtsService


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m lake.fts", description=__doc__)
    parser.add_argument("--port", type=int, default=8446, help="0: any free port (%(default)s)")
    parser.add_argument("--mode", choices=("stream", "tpc"), default="stream")
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with FtsService(arguments.host, arguments.port, arguments.mode) as service:
        print(service.url, flush=True)
        try:
            service.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
