"""What goes wrong with one request to one storage.

Never seen by users: whoever fetches goes on elsewhere, or makes one of the package's errors of
what he has collected.  Messages name the server, never a path with its signature, nor a token.
"""

from __future__ import annotations


class Failure(Exception):
    """Root of these.  *is_final*: another try at the same file there is of no use."""

    is_final = False

    def __init__(self, words: str, retry_after: float | None = None) -> None:
        super().__init__(words)
        self.retry_after = retry_after  # s, as the server asks for


class Broken(Failure):
    """The connection did not come about, broke, stalled, or spoke nonsense."""


class Busy(Failure):
    """The server says that it cannot now."""


class Unauthorized(Failure):
    """The credentials are refused: expired, or not enough."""


class Missing(Failure):
    """The server has no such file."""

    is_final = True


class Spoiled(Failure):
    """What is there is not the file that the catalogue describes."""

    is_final = True


class NoRanges(Failure):
    """The server sends whole files only."""

    is_final = True


class Untrusted(Failure):
    """The server's certificate is not one that we trust."""

    is_final = True
