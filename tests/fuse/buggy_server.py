"""rucio-fs with bugs: the one named in the file $INJECTED_BUG strikes whenever its place is passed.

INJECTED_BUG=FILE python -m tests.fuse.buggy_server mount ...
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import pyfuse3

from rucio_fs import cli, handles, inodes
from rucio_fs.catalogue import rows
from rucio_fs.nodes import base, control, dids, scopes

PLACES: dict[str, tuple[Any, str]] = {
    "RootDir.attr": (scopes.RootDir, "attr"),
    "RootDir.child": (scopes.RootDir, "child"),
    "RootDir.children": (scopes.RootDir, "children"),
    "RootDir.set_xattr": (scopes.RootDir, "set_xattr"),
    "ScopeDir.attr": (scopes.ScopeDir, "attr"),
    "ScopeDir.child": (scopes.ScopeDir, "child"),
    "ScopeDir.children": (scopes.ScopeDir, "children"),
    "ScopeDir.xattr": (scopes.ScopeDir, "xattr"),
    "ScopeDir.xattr_names": (scopes.ScopeDir, "xattr_names"),
    "ScopeDir.set_xattr": (scopes.ScopeDir, "set_xattr"),
    "CollectionDir.attr": (dids.CollectionDir, "attr"),
    "CollectionDir.child": (dids.CollectionDir, "child"),
    "CollectionDir.children": (dids.CollectionDir, "children"),
    "CollectionDir.xattr": (dids.CollectionDir, "xattr"),
    "CollectionDir.xattr_names": (dids.CollectionDir, "xattr_names"),
    "CollectionDir.set_xattr": (dids.CollectionDir, "set_xattr"),
    "entries": (dids.Members, "__getitem__"),
    "DIDFile.attr": (dids.DIDFile, "attr"),
    "DIDFile.open": (dids.DIDFile, "open"),
    "DIDFile.xattr": (dids.DIDFile, "xattr"),
    "DIDFile.xattr_names": (dids.DIDFile, "xattr_names"),
    "DIDFile.set_xattr": (dids.DIDFile, "set_xattr"),
    "OpenDIDFile.read": (dids.OpenDIDFile, "read"),
    "OpenDIDFile.close": (dids.OpenDIDFile, "close"),
    "Node.truncate": (base.Node, "truncate"),
    "TextFile.open": (control.TextFile, "open"),
    "StatusFile.open": (control.StatusFile, "open"),
    "StatusFile.attr": (control.StatusFile, "attr"),
    "RefreshFile.open": (control.RefreshFile, "open"),
    "RefreshFile.truncate": (control.RefreshFile, "truncate"),
    "OpenRefresh.write": (control._OpenRefresh, "write"),
    "OpenText.read": (control._OpenText, "read"),
    "ControlDir.attr": (control.ControlDir, "attr"),
    "ControlDir.child": (control.ControlDir, "child"),
    "ControlDir.children": (control.ControlDir, "children"),
    # What a read-only tree says to every change.
    "refusal": (base.Dir, "refusal"),
    "statfs": (pyfuse3, "StatvfsData"),
    "inodes.ref": (inodes.InodeTable, "ref"),
    "handles.file": (handles.HandleTable, "file"),
    "handles.pop_dir": (handles.HandleTable, "pop_dir"),
    # In a worker thread, for a question that the cache asks.
    "rows.members": (rows, "members"),
}


def inject(place: str, switch: Path) -> None:
    """Let *place* raise while the file *switch* names it."""
    owner, name = PLACES[place]
    whole = getattr(owner, name)

    @functools.wraps(whole, updated=())
    def buggy(*args: Any, **kwargs: Any) -> Any:
        if switch.read_text() == place:
            raise RuntimeError(f"injected into {place}")
        return whole(*args, **kwargs)

    setattr(owner, name, buggy)


def main() -> int:
    """Serve as rucio-fs does."""
    for place in PLACES:
        inject(place, Path(os.environ["INJECTED_BUG"]))
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
