"""``python -m lake.faults --upstream URL``: a fault proxy with HTTP control, until SIGTERM.

Prints the proxy's URL and the control URL, one line each, when both accept connections.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from lake.faults.control import ControlServer
from lake.faults.proxy import FaultProxy, Tls


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m lake.faults", description=__doc__)
    parser.add_argument("--upstream", required=True, help="http://h:p, https://h:p or tcp://h:p")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--control-port", type=int, default=0, help="0: any free port")
    parser.add_argument("--cert", type=Path, help="end the clients' TLS with this certificate")
    parser.add_argument("--key", type=Path, help="its key")
    arguments = parser.parse_args()
    if bool(arguments.cert) != bool(arguments.key):
        parser.error("--cert and --key go together")
    tls = Tls(arguments.cert, arguments.key) if arguments.cert else None
    # Blocked before any thread starts, so that sigwait() below is the one to get them.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    proxy = FaultProxy(arguments.upstream, tls, host=arguments.host, port=arguments.port)
    with proxy, ControlServer(proxy, arguments.host, arguments.control_port) as control:
        print(proxy.url, control.url, sep="\n", flush=True)
        signal.sigwait(stops)


if __name__ == "__main__":
    main()
