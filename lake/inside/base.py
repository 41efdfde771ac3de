"""Shared by the programs that speak to Rucio's core: sessions, internal names.

RUCIO_CONFIG must name the server's configuration before this is imported.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Rucio chooses its database options by the name of the program.
sys.argv[:1] = ["rucio-lake"]

from rucio.common.types import InternalAccount, InternalScope  # noqa: E402
from rucio.db.sqla.session import get_session  # noqa: E402

HOST = "localhost"  # what the certificates are made for


@contextmanager
def writing() -> Iterator[Any]:
    """One transaction: commit at the end, nothing of it on an exception."""
    scoped = get_session()
    session = scoped()
    try:
        with session.begin():
            yield session
    finally:
        scoped.remove()


def account(name: str) -> Any:
    """Rucio's form of an account name."""
    return InternalAccount(name)


def scope(name: str) -> Any:
    """Rucio's form of a scope name."""
    return InternalScope(name)


def did_key(did: str) -> dict[str, Any]:
    """Turn scope:name into the dict Rucio's core takes."""
    scope_name, _, filename = did.partition(":")
    return {"scope": scope(scope_name), "name": filename}


def environment(name: str) -> str:
    """Return a setting handed down by the lake."""
    return os.environ[name]
