"""A storage that is far away: the proxy of delay.c between a client and a server on loopback."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.served import BenchError

_SOURCE = Path(__file__).with_suffix(".c")
_PATIENCE = 60.0  # s, for the compiler, and for the proxy to end


@contextlib.contextmanager
def delayed(directory: Path, port: int, *, round_trip: float, rate: float = 0.0) -> Iterator[int]:
    """Run a proxy to *port* of loopback that is *round_trip* seconds away; yield its own port.

    *rate*: bytes/s of each connection and direction, 0 for any.  The program is compiled in
    *directory* once.  Raises: BenchError.
    """
    where = ["127.0.0.1", str(port), f"{1000 * round_trip}", f"{rate:.0f}"]
    process = subprocess.Popen(
        [str(_program(directory)), *where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the benchmark, which ends its servers in order
    )
    with process:  # closes its standard input and waits for its end
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise BenchError(f"the delay proxy ended: {process.wait(_PATIENCE)}")
            yield int(line)
        finally:
            process.kill()


def _program(directory: Path) -> Path:
    made = directory / "delay"
    if made.exists():
        return made
    command = ["cc", "-O2", "-Wall", "-o", str(made), str(_SOURCE)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError:
        raise BenchError("no C compiler for the delay proxy: apt install gcc") from None
    except subprocess.CalledProcessError as error:
        raise BenchError(f"the delay proxy does not compile: {error.stderr[-500:]}") from None
    return made
