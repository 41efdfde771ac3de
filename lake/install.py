"""Installs what the lake needs beside the system's packages: Rucio's environment, node modules.

The environment lies in .lake/venv under the repository (LAKE_VENV overrides), apart from the
mount's: Rucio's server pins older libraries.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from lake.errors import LakeError, Missing
from lake.placing import samples_directory
from lake.system import program

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "requirements.txt"
_STAMP = "lake-installed"  # in the environment: what it was made from
_PROBE = "import sysconfig; print(sysconfig.get_config_var('SOABI'))"
_BINDINGS = "/usr/lib/python3/dist-packages/gfal2"


def venv() -> Path:
    """Return the directory of Rucio's environment."""
    given = os.environ.get("LAKE_VENV")
    return Path(given).absolute() if given else _HERE.parent / ".lake" / "venv"


def cache() -> Path:
    """Return the directory of what is made once and used by every lake."""
    return venv().parent


def server_python() -> Path:
    """Return the python of Rucio's environment.  Raises: Missing."""
    python = venv() / "bin" / "python"
    stamp = venv() / _STAMP
    if not python.exists() or not stamp.exists():
        raise Missing(f"Rucio is not installed in {venv()}: run python -m lake install")
    if stamp.read_text() != _fingerprint():
        raise Missing(f"{venv()} does not match lake/requirements.txt: run python -m lake install")
    return python


def node_modules() -> Path:
    """Return the modules the OpenID provider needs.  Raises: Missing."""
    modules = cache() / "oidc" / "node_modules"
    if not (modules / "oidc-provider").exists():
        raise Missing(f"no OpenID provider in {modules}: run python -m lake install --oidc")
    return modules


def install(*, oidc: bool) -> list[str]:
    """Install what is missing; return remarks for the user.  Takes a minute the first time."""
    remarks = []
    stamp = venv() / _STAMP
    if not stamp.exists() or stamp.read_text() != _fingerprint():
        remarks += _make_venv()
        stamp.write_text(_fingerprint())
    if oidc:
        _install_provider()
    try:
        samples_directory(cache())
    except LakeError as error:  # a lake without samples is still one
        remarks.append(str(error))
    return remarks


def _make_venv() -> list[str]:
    python = _interpreter()
    venv().parent.mkdir(parents=True, exist_ok=True)
    _run([python, "-m", "venv", "--clear", str(venv())])
    target = venv() / "bin" / "python"
    # Older pips build source packages only with these two in place (docopt, python-magic).
    _run([str(target), "-m", "pip", "install", "-q", "--upgrade", "pip", "setuptools", "wheel"])
    _run([str(target), "-m", "pip", "install", "-q", "-r", str(_REQUIREMENTS)])
    return _link_gfal(target)


def _interpreter() -> str:
    """Choose Debian's python where it can make environments: gfal2's bindings are made for it."""
    debian = "/usr/bin/python3"
    probe = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    if os.path.exists(debian):
        done = subprocess.run([debian, "-c", probe], capture_output=True)
        if done.returncode == 0:
            return debian
    return sys.executable


def _link_gfal(python: Path) -> list[str]:
    """Show the environment Debian's gfal2 bindings, if they fit its python."""
    abi = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True).stdout.strip()
    bindings = glob.glob(f"{_BINDINGS}.{abi}.so")
    if not bindings:
        return [
            f"no gfal2 bindings for {python} ({abi}): Rucio's reaper will not delete files at COLO "
            "and REM1; install python3-gfal2 and python3-venv, remove the environment and install "
            "again"
        ]
    site = next(venv().glob("lib/python3*/site-packages"))
    link = site / Path(bindings[0]).name
    link.unlink(missing_ok=True)
    link.symlink_to(bindings[0])
    return []


def _install_provider() -> None:
    directory = cache() / "oidc"
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "node_modules" / "oidc-provider").exists():
        return
    shutil.copy(_HERE / "oidc" / "package.json", directory)
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("--oidc needs npm: run scripts/system-packages --oidc")
    program("node")
    options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    _run([npm, "install", *options], directory)


def _fingerprint() -> str:
    return hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()


def _run(command: list[str], directory: Path | None = None) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise LakeError(f"{' '.join(command[:5])} ... failed with {done.returncode}:\n{tail}")
