"""Which value of a key counts: flag, -o option, environment, rucio-fs.toml or default.

Only Rucio's own variables are read elsewhere, beside its clients.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rucio_fs import settings
from rucio_fs.config import Config
from rucio_fs.directories import in_home
from rucio_fs.errors import UsageError

SYSTEM_FILE = Path("/etc/rucio-fs.toml")
FILE_VARIABLE = "RUCIO_FS_CONFIG"

# Every key has the -o name "section.key"; these are the ones worth a shorter one.
SHORT_NAMES: Mapping[str, str] = {
    **{
        name: f"mount.{name}"
        for name in (
            "uid", "gid", "umask", "allow_other", "fsname", "xattrs", "read_ahead", "max_tasks",
            "timeout_local",
        )
    },
    "rucio_config": "rucio.config_file",
    "account": "rucio.account",
    "rucio_host": "rucio.host",
    "auth_host": "rucio.auth_host",
    "scopes": "scopes.allow",
    "deny_scopes": "scopes.deny",
    "site": "site.name",
    "rse": "site.rse",
    "policy": "opening.policy",
    "open_wait": "opening.wait",
    "rule_lifetime": "rules.lifetime",
    "rule_grouping": "rules.grouping",
    "cache_size": "cache.size",
    "cache_dir": "diskcache.dir",
    "scratch_rse": "scratch.rse",
    "scratch_dir": "scratch.dir",
    "token_file": "storages.token_file",
    "ca": "storages.ca",
    "log_level": "log.level",
    "log_file": "log.file",
}  # fmt: skip

# Variables of Rucio's own: what a key means by default, so a rucio-fs.toml beats them.
RUCIO_VARIABLES: Mapping[str, Sequence[str]] = {
    "rucio.config_file": ("RUCIO_CONFIG",),
    "site.name": ("SITE_NAME", "ATLAS_SITE_NAME", "OSG_SITE_NAME"),
}


def load(
    *,
    flags: Mapping[str, tuple[str, object]] | None = None,
    options: Sequence[str] = (),
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read the configuration: flag > -o > environment > rucio-fs.toml > default.

    *flags* maps a key ("site.rse") to the flag's spelling and its value; *options* are the
    arguments of `-o`; *file* is that of `--config`; *environ* is the process's own if None.
    Rucio's own variables ($SITE_NAME) are the default of their key.

    Raises: UsageError for a mistake in any of them, also in a value that another one overrides.
    """
    environ = os.environ if environ is None else environ
    keys = settings.table(Config)
    path = file or _file(environ)
    written = [
        *_rucio_variables(environ, keys),
        *(settings.from_file(path, keys) if path else ()),
        *settings.from_environment(environ, keys, ignored=(FILE_VARIABLE,)),
        *settings.from_options(options, keys, SHORT_NAMES),
        *(
            settings.Written(keys[key], raw, flag, Path())
            for key, (flag, raw) in (flags or {}).items()
        ),
    ]
    config = _assemble(settings.build(written), path)
    _require_file(config.rucio.config_file, written)
    return config


def _file(environ: Mapping[str, str]) -> Path | None:
    """The rucio-fs.toml that counts; the one of $RUCIO_FS_CONFIG must exist, the others may."""
    if environ.get(FILE_VARIABLE):
        path = Path(environ[FILE_VARIABLE])
        if not path.is_file():
            raise UsageError(f"${FILE_VARIABLE}: {path} is not a file")
        return path
    directories = [environ.get("XDG_CONFIG_HOME"), in_home(environ, ".config")]
    candidates = [Path(directory, "rucio-fs.toml") for directory in directories if directory]
    return next((path for path in [*candidates, SYSTEM_FILE] if os.path.exists(path)), None)


def _rucio_variables(
    environ: Mapping[str, str], keys: Mapping[str, settings.Setting]
) -> list[settings.Written]:
    found = []
    for key, variables in RUCIO_VARIABLES.items():
        variable = next((name for name in variables if environ.get(name)), None)
        if variable is not None:
            raw = environ[variable]
            found.append(settings.Written(keys[key], raw, f"${variable}", Path()))
    return found


def _assemble(sections: Mapping[str, Mapping[str, object]], path: Path | None) -> Config:
    config = Config(file=path)
    for section, values in sections.items():
        # The values have been through the Kind of their field, which no type checker can follow.
        changed = replace(getattr(config, section), **values)
        config = replace(config, **{section: changed})
    return config


def _require_file(path: Path | None, written: Sequence[settings.Written]) -> None:
    """Refuse a rucio.cfg that is not there; rucio-clients would only say what it did not find."""
    if path is None or os.access(path, os.R_OK):
        return
    where = [item.where for item in written if item.setting.key == "rucio.config_file"][-1]
    reason = "cannot be read" if path.exists() else "does not exist"
    raise UsageError(f"{where}: {path} {reason}; name the rucio.cfg of your Rucio")
