"""gunicorn's settings for Rucio that are code.

The application is imported once in the master (half the start's processor time), and the import
reads Rucio's configuration table: without this hook both workers would share that connection.
"""

from typing import Any


def post_fork(server: Any, worker: Any) -> None:
    """Forget, without closing, the connections the master opened."""
    from rucio.db.sqla.session import get_engine  # only now: it reads its configuration

    get_engine().dispose(close=False)
