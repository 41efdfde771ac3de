"""Finds the servers' binaries and says in one line which Debian packages are missing."""

import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lake.errors import Missing

# Debian keeps servers in sbin, which an ordinary user's PATH lacks.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin:/usr/sbin:/sbin"])

_PROGRAMS = {
    "xrootd": "xrootd-server",
    "nginx": "nginx-light",
    "apache2": "apache2-bin",
    "memcached": "memcached",
    "openssl": "openssl",
    "setpriv": "util-linux",
}
_MODULE_PLACES = ("/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules")
_APACHE_MODULES = Path("/usr/lib/apache2/modules")
_LIBRARY_PLACES = ("/usr/lib/*-linux-gnu*", "/usr/lib64", "/usr/lib")


def program(name: str) -> str:
    """Return the path of *name*.  Raises: Missing."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise Missing(_advice([_PROGRAMS.get(name, name)]))
    return found


def postgres_bin() -> Path:
    """Return the directory of PostgreSQL's newest server binaries.  Raises: Missing."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb", path=_PATH)
    if found is None:
        raise Missing(_advice(["postgresql"]))
    return Path(found).resolve().parent


def nginx_dav_module() -> Path:
    """Return nginx' module for PROPFIND.  Raises: Missing."""
    for place in _MODULE_PLACES:
        module = Path(place) / "ngx_http_dav_ext_module.so"
        if module.exists():
            return module
    raise Missing(_advice(["libnginx-mod-http-dav-ext"]))


def apache_modules() -> Path:
    """Return the directory of Apache's modules.  Raises: Missing."""
    if not _APACHE_MODULES.is_dir():
        raise Missing(_advice(["apache2-bin"]))
    return _APACHE_MODULES


def check(*, oidc: bool) -> None:
    """Refuse, naming every missing package at once.  Raises: Missing."""
    missing = list(dict.fromkeys(_missing(oidc=oidc)))
    if missing:
        raise Missing(_advice(missing))


def _missing(*, oidc: bool) -> Iterator[str]:
    for name, package in _PROGRAMS.items():
        if shutil.which(name, path=_PATH) is None:
            yield package
    if not _has_library("libXrdHttp-*.so"):
        yield "xrootd-server-plugins"
    for probe in (postgres_bin, nginx_dav_module):
        try:
            probe()
        except Missing:
            yield "postgresql" if probe is postgres_bin else "libnginx-mod-http-dav-ext"
    if oidc:
        if shutil.which("node", path=_PATH) is None:
            yield "nodejs"
        if not _has_library("libXrdAccSciTokens*.so"):
            yield "xrootd-scitokens-plugins"


def _has_library(pattern: str) -> bool:
    return any(glob.glob(f"{place}/{pattern}") for place in _LIBRARY_PLACES)


def _version(path: Path) -> int:
    name = path.parents[1].name
    return int(name) if name.isdigit() else 0


def _advice(packages: list[str]) -> str:
    names = " ".join(packages)
    return f"not installed: {names}; run scripts/system-packages, or apt-get install {names}"
