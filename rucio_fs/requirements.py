"""What a configuration needs of this machine, looked at in the process that the user waits for.

A mount with a CA that is not there comes about all the same, and fails at the first read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rucio_fs.config import Config, may_stream
from rucio_fs.directories import default_cache, default_log_file, default_scratch
from rucio_fs.errors import UsageError

_NOTHING = "none"  # in storages.proxies and tokens: this storage is shown nothing


def check(config: Config) -> list[str]:
    """Refuse what names a file that does not exist; return warnings, also of what it lets in.

    `site.roots` is not looked at: a storage that hangs would hang the command, and one that is
    mounted later is no mistake.

    Raises: UsageError
    """
    for key, path in _certificates(config):
        if not path.exists():
            raise UsageError(f"{key} = {path} does not exist")
    # Somebody else writes tokens, and may begin after us.
    warnings = [
        f"{key} = {path} does not exist yet; without it storages are shown no token"
        for key, path in _tokens(config)
        if not path.exists()
    ]
    if config.mount.allow_other and config.scratch.is_wanted:
        warnings.append(
            "with mount.allow_other every user of this machine may read, change and remove what"
            " lies in scratch, and upload, with the rights of this mount"
        )
    return warnings


def _certificates(config: Config) -> Iterator[tuple[str, Path]]:
    storages = config.storages
    if storages.ca is not None:
        yield "storages.ca", storages.ca
    if storages.x509_proxy is not None:
        yield "storages.x509_proxy", storages.x509_proxy
    yield from _of_table("storages.proxies", storages.proxies)


def _tokens(config: Config) -> Iterator[tuple[str, Path]]:
    storages = config.storages
    if storages.token_file is not None:
        yield "storages.token_file", storages.token_file
    yield from _of_table("storages.tokens", storages.tokens)


def _of_table(key: str, files: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    for prefix, file in files.items():
        if file != _NOTHING:
            yield f'{key}, "{prefix}"', Path(file)


def own_places(config: Config, mountpoint: Path, *, in_background: bool) -> Mapping[str, Path]:
    """Where a mount at *mountpoint* keeps things of its own on this machine, by key.

    Raises: UsageError if the user has no home directory for one of them.
    """
    found = {}
    if config.log.file is not None or in_background:
        found["log.file"] = config.log.file or default_log_file(mountpoint)
    if config.diskcache.size and may_stream(config):
        found["diskcache.dir"] = config.diskcache.dir or default_cache(mountpoint)
    scratch = config.scratch
    if scratch.is_wanted:
        if scratch.in_place:
            found["scratch.journal_dir"] = scratch.journal_dir or default_scratch(mountpoint)
        if scratch.dir is not None or not scratch.in_place:
            found["scratch.dir"] = scratch.dir or default_scratch(mountpoint)
    return found
