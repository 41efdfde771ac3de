"""Rucio's REST server and its configuration, and the configuration of its clients."""

import configparser
import io
import json
from collections.abc import Mapping
from pathlib import Path

from lake.ports import HOST

# Passwords of a lake that listens on loopback and holds generated data: fixed, documented.
ACCOUNTS: Mapping[str, tuple[str, str]] = {
    "root": ("ddmlab", "secret"),
    "alice": ("alice", "secret"),
    "bob": ("bob", "secret"),
}
_WORKERS = 2
_THREADS = 4
# method, raw path with query, status, bytes, microseconds, User-Agent
_ACCESS_LOG = '%(t)s "%(r)s" %(s)s %(b)s %(D)s "%(a)s"'

_ALEMBIC = """\
[alembic]
sqlalchemy.url = {url}
script_location = rucio.db.sqla:migrate_repo
[loggers]
keys = root
[handlers]
keys =
[formatters]
keys =
[logger_root]
level = WARN
handlers =
"""


class RucioServer:
    """The files Rucio is configured by, and the command that runs it."""

    def __init__(self, directory: Path, port: int) -> None:
        """Only names the files; see configure()."""
        self.directory = directory
        self.url = f"http://{HOST}:{port}"
        self.config = directory / "etc" / "rucio.cfg"
        self.access_log = directory / "log" / "access.log"
        self.trace_log = directory / "log" / "trace"
        self._port = port

    def configure(
        self, database_url: str, memcached: int, oidc: str | None, *, templates: Path
    ) -> None:
        """Write the server's configuration; it holds the database's password.

        *templates* are Rucio's texts of mails: approving or denying a rule reads them.
        """
        etc = self.config.parent
        etc.mkdir(mode=0o700)
        alembic = etc / "alembic.ini"
        alembic.write_text(_ALEMBIC.format(url=database_url))
        sections: dict[str, dict[str, str]] = {
            "common": {
                "logdir": str(self.directory / "log"),
                "loglevel": "INFO",
                "logformat": "%%(asctime)s\t%%(process)d\t%%(levelname)s\t%%(message)s",
                "mailtemplatedir": str(templates),
            },
            "client": _client_section(self.url, "root"),
            "database": {
                "default": database_url,
                "pool_recycle": "3600",
                "echo": "0",
                "pool_reset_on_return": "rollback",
                "pool_size": "10",
            },
            "cache": {"url": f"{HOST}:{memcached}"},
            "bootstrap": {
                "userpass_identity": ACCOUNTS["root"][0],
                "userpass_pwd": ACCOUNTS["root"][1],
                "userpass_email": "lake@localhost",
                "x509_identity": "CN=lake root",
                "gss_identity": "",
                "gss_email": "",
                "ssh_identity": "",
                "ssh_email": "",
            },
            "alembic": {"cfg": str(alembic)},
            "policy": {
                "permission": "generic",
                "schema": "generic",
                "lfn2pfn_algorithm_default": "hash",
            },
            "conveyor": {"scheme": "davs,https,http", "transfertool": "fts3"},
            # Clients tell here what they read.  No broker: traces are kept in a file only.
            "api": {"endpoints_add": "traces"},
            "trace": {
                "tracedir": str(self.trace_log.parent),
                "brokers": "",
                "port": "0",
                "topic": "-",
                "username": "-",
                "password": "-",
            },
            "monitor": {"carbon_server": HOST, "carbon_port": "8125", "user_scope": "lake"},
        }
        if oidc is not None:
            sections["oidc"] = {
                "idpsecrets": str(self._write_idpsecrets(oidc)),
                "admin_issuer": "lake",
                "expected_audience": "rucio",
                "expected_scope": "openid profile",
            }
        _write_config(self.config, sections)
        for account in ACCOUNTS:
            path = self.client_config(account)
            path.parent.mkdir(parents=True)
            # No [database]: that section is how Rucio's code takes itself for a server.
            _write_config(path, {"common": {}, "client": _client_section(self.url, account)})

    def client_config(self, account: str) -> Path:
        """Return the rucio.cfg of *account*."""
        return self.directory / "client" / account / "rucio.cfg"

    def command(self, python: Path) -> list[str]:
        """Return gunicorn's command.  The application is imported once, then forked."""
        log = self.directory / "log"
        hooks = Path(__file__).parent / "inside" / "gunicorn_conf.py"
        return [
            *[
                str(python),
                "-m",
                "gunicorn",
                "--preload",
                "-c",
                str(hooks),
                "-b",
                f"{HOST}:{self._port}",
            ],
            *["-w", str(_WORKERS), "--threads", str(_THREADS), "--timeout", "600"],
            "--no-control-socket",  # it would lie in the caller's home
            *["--log-level", "warning", "--error-logfile", str(log / "error.log")],
            *["--access-logfile", str(self.access_log), "--access-logformat", _ACCESS_LOG],
            "rucio.web.rest.flaskapi.v1.main:application",
        ]

    def _write_idpsecrets(self, issuer: str) -> Path:
        path = self.config.parent / "idpsecrets.json"
        client = {"client_id": "rucio", "client_secret": "rucio-secret"}
        provider = {
            "issuer": issuer,
            **client,
            "redirect_uris": [f"{self.url}/auth/oidc_code", f"{self.url}/auth/oidc_token"],
            "SCIM": {**client, "grant_type": "client_credentials"},
        }
        path.write_text(json.dumps({"lake": provider}))
        return path


def _client_section(url: str, account: str) -> dict[str, str]:
    username, password = ACCOUNTS[account]
    return {
        "rucio_host": url,
        "auth_host": url,
        "auth_type": "userpass",
        "username": username,
        "password": password,
        "account": account,
        "request_retries": "3",
    }


def _write_config(path: Path, sections: Mapping[str, Mapping[str, str]]) -> None:
    parser = configparser.RawConfigParser()
    parser.read_dict(sections)
    text = io.StringIO()
    parser.write(text)
    path.write_text(text.getvalue())
