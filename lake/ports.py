"""Which loopback port each server listens on: fixed defaults, or free ones for tests.

Called by starting.py and the CLI; knows nothing about the servers themselves.
"""

import contextlib
import random
import socket
from collections.abc import Mapping

from lake.errors import LakeError, PortTaken

HOST = "127.0.0.1"

DEFAULTS: Mapping[str, int] = {
    "rucio": 8440,
    "fts": 8446,
    "oidc": 8450,
    "colo": 1094,
    "rem1": 1095,
    "tokens": 1096,
    "dav": 9080,
    "davs": 9443,
    "apache": 9081,
    "apaches": 9444,
    "postgres": 5433,
    "memcached": 11211,
}
OIDC_ONLY = frozenset({"oidc", "tokens"})

# Below the kernel's ephemeral range (32768...), so no outgoing connection grabs one meanwhile.
_FREE_RANGE = range(20000, 32000)


def is_free(port: int) -> bool:
    """Say whether nobody listens on *port* of the loopback address (or of all addresses)."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # Without it a port of a lake just taken down counts as taken for a minute (TIME_WAIT).
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def is_listening(port: int) -> bool:
    """Say whether a connection to *port* is accepted."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def choose(wanted: Mapping[str, int], *, free: bool, oidc: bool) -> dict[str, int]:
    """Return a port for each server.

    *wanted* overrides single defaults; with *free* all others are picked among unused ports.

    Raises: PortTaken (names the port and what to do), LakeError (an unknown server name).
    """
    unknown = sorted(set(wanted) - set(DEFAULTS))
    if unknown:
        raise LakeError(f"no server is called {unknown[0]}; there are: {', '.join(DEFAULTS)}")
    names = [name for name in DEFAULTS if oidc or name not in OIDC_ONLY]
    chosen = {name: wanted[name] for name in names if name in wanted}
    for name in names:
        if name not in chosen:
            chosen[name] = _pick(set(chosen.values())) if free else DEFAULTS[name]
    doubled = {port for port in chosen.values() if list(chosen.values()).count(port) > 1}
    if doubled:
        raise LakeError(f"two servers cannot share port {min(doubled)}")
    for name, port in chosen.items():
        if not is_free(port):
            raise PortTaken(
                f"port {port} ({name}) is taken: stop what listens there, or use --free-ports "
                f"or --port {name}=NUMBER"
            )
    return chosen


def _pick(taken: set[int]) -> int:
    for port in random.sample(_FREE_RANGE, 200):
        if port not in taken and is_free(port):
            return port
    raise PortTaken(f"no free port found between {_FREE_RANGE.start} and {_FREE_RANGE.stop}")
