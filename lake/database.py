"""A private PostgreSQL: its own data directory, loopback only, a password of its own."""

import secrets
from pathlib import Path

from lake.namespaces import null_device, overlay
from lake.ports import HOST
from lake.system import postgres_bin
from lake.users import service_user

# The data live as long as the lake: durability would only cost time.
_SETTINGS = {
    "listen_addresses": HOST,
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "jit": "off",  # compiling a plan costs more than any query here takes
}
_MAKE_AND_RUN = """
set -e
"$1"/initdb -D data -A scram-sha-256 --pwfile=password -U rucio --no-sync --no-instructions \
    -E UTF8 --locale=C
initdb_bin=$1
shift
exec "$initdb_bin"/postgres -D data "$@"
"""


class Database:
    """How to start the database and how to connect to it."""

    def __init__(self, directory: Path, port: int) -> None:
        """Make *directory*, owned by the user who runs PostgreSQL, with a fresh password."""
        self.directory = directory
        self.port = port
        self._user = service_user("postgres")
        directory.mkdir(mode=0o700)
        # Trusting the loopback address would let every local user in as PostgreSQL's superuser,
        # who may run programs.
        self._password = secrets.token_hex(16)
        password = directory / "password"
        password.write_text(self._password)
        password.chmod(0o600)
        self._user.own(password)
        self._user.own(directory)

    @property
    def url(self) -> str:
        """SQLAlchemy's URL."""
        return f"postgresql+psycopg://rucio:{self._password}@{HOST}:{self.port}/postgres"

    def command(self) -> list[str]:
        """Return the command that makes the data directory, then becomes the server."""
        settings = dict(_SETTINGS, port=str(self.port), unix_socket_directories=str(self.directory))
        options = [f"--{name}={value}" for name, value in settings.items()]
        script = ["sh", "-c", _MAKE_AND_RUN, "sh", str(postgres_bin()), *options]
        return overlay(null_device(self.directory), self._user.command(script))
