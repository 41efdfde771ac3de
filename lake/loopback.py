"""Runs a command with a listening socket on 127.0.0.1 as file descriptor 3 (socket activation).

    python loopback.py PORT COMMAND...

XRootD can only bind all addresses itself, but takes a bound socket the way systemd hands one over.
Run by path with any python: standard library only, no imports from the lake.
"""

import os
import socket
import sys

_FIRST_PASSED_FD = 3  # fixed by sd_listen_fds(3)


def main() -> None:
    """Bind, then become the command: LISTEN_PID must be the pid of the server itself."""
    port, command = int(sys.argv[1]), sys.argv[2:]
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(255)
    if listener.fileno() != _FIRST_PASSED_FD:
        os.dup2(listener.fileno(), _FIRST_PASSED_FD)
    os.set_inheritable(_FIRST_PASSED_FD, True)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
