"""Puts the sample files' bytes into the storages' directories, owned as their servers would."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lake import samples
from lake.errors import LakeError
from lake.rses import BY_NAME, Rse, hash_path
from lake.users import User, service_user

Manifest = dict[str, dict[str, Any]]


def samples_directory(cache: Path) -> Path:
    """Return a directory with every sample's bytes, made on first use (3 s) and kept in *cache*.

    Raises: LakeError (the libraries that make them are not installed).
    """
    here = Path(__file__).parent
    source = (here / "samples.py").read_bytes() + (here / "sample_files.py").read_bytes()
    wanted = cache / f"samples-{hashlib.sha256(source).hexdigest()[:12]}"
    if (wanted / "manifest.json").exists():
        return wanted
    try:
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="samples-", dir=cache))
    except PermissionError:
        raise LakeError(
            f"the sample data cannot be kept in {cache}: let its owner run python -m lake install, "
            "or use --no-samples"
        ) from None
    fresh.chmod(0o755)  # other users' lakes read it too
    done = subprocess.run(
        [sys.executable, "-m", "lake.sample_files", str(fresh)],
        env=dict(os.environ, PYTHONPATH=str(here.parent)),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        shutil.rmtree(fresh)
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise LakeError(
            f"the sample data cannot be made with {sys.executable} ({reason[0]}): install "
            "rucio-fs[demo] there, or use --no-samples"
        )
    try:
        fresh.rename(wanted)
    except OSError:  # another lake was faster: same bytes
        shutil.rmtree(fresh)
    return wanted


def place(source: Path, store: Path) -> Manifest:
    """Write every replica below *store*; return what Rucio has to be told about the files."""
    manifest: Manifest = json.loads((source / "manifest.json").read_text())
    for file in samples.FILES:
        entry = manifest[file.did]
        for name in file.rses:
            if name == "COLO" and file.did in samples.MISSING_AT_COLO:
                continue
            rse = BY_NAME[name]
            root = store / rse.tree
            target = root / (file.path or hash_path(file.scope, file.filename))
            owner = service_user(rse.owner)
            make_parents(target, root, owner)
            if "content" in entry:
                shutil.copyfile(source / entry["content"], target)
            else:
                target.touch()
                os.truncate(target, entry["bytes"])
            if name == "COLO" and file.did in samples.SHORT_AT_COLO:
                os.truncate(target, entry["bytes"] // 2)
            target.chmod(0o644)
            owner.own(target)
    return manifest


def put(rse: Rse, store: Path, relative: str, content: bytes) -> Path:
    """Write one file at *relative* in the RSE's tree below *store*, as its server would have."""
    root = store / rse.tree
    target = root / relative
    owner = service_user(rse.owner)
    make_parents(target, root, owner)
    target.write_bytes(content)
    target.chmod(0o644)
    owner.own(target)
    return target


def make_tree(rse: Rse, store: Path) -> None:
    """Make the RSE's directory and its parents below *store*, owned by its server's user."""
    owner = service_user(rse.owner)
    make_parents(store / rse.tree / "x", store, owner)


def make_parents(target: Path, root: Path, owner: User) -> None:
    """Make the directories from *root* down to *target*, open to all readers, *owner*'s."""
    missing = [p for p in target.parents if p.is_relative_to(root) and not p.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o755)
        parent.chmod(0o755)
        owner.own(parent)
