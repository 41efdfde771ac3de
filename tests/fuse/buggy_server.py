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

from rucio_fs import cli, handles, inodes, operations
from rucio_fs.catalogue import rows
from rucio_fs.nodes import base, catalogue, control

PLACES: dict[str, tuple[Any, str]] = {
    "RootDir.attr": (catalogue.RootDir, "attr"),
    "RootDir.child": (catalogue.RootDir, "child"),
    "RootDir.children": (catalogue.RootDir, "children"),
    "RootDir.set_xattr": (catalogue.RootDir, "set_xattr"),
    "ScopeDir.attr": (catalogue.ScopeDir, "attr"),
    "ScopeDir.child": (catalogue.ScopeDir, "child"),
    "ScopeDir.children": (catalogue.ScopeDir, "children"),
    "ScopeDir.set_xattr": (catalogue.ScopeDir, "set_xattr"),
    "CollectionDir.attr": (catalogue.CollectionDir, "attr"),
    "CollectionDir.child": (catalogue.CollectionDir, "child"),
    "CollectionDir.children": (catalogue.CollectionDir, "children"),
    "CollectionDir.xattr": (catalogue.CollectionDir, "xattr"),
    "CollectionDir.xattr_names": (catalogue.CollectionDir, "xattr_names"),
    "CollectionDir.set_xattr": (catalogue.CollectionDir, "set_xattr"),
    "entries": (catalogue._Children, "__getitem__"),
    "DidFile.attr": (catalogue.DidFile, "attr"),
    "DidFile.open": (catalogue.DidFile, "open"),
    "DidFile.xattr": (catalogue.DidFile, "xattr"),
    "DidFile.xattr_names": (catalogue.DidFile, "xattr_names"),
    "DidFile.set_xattr": (catalogue.DidFile, "set_xattr"),
    "OpenDidFile.read": (catalogue.OpenDidFile, "read"),
    "OpenDidFile.close": (catalogue.OpenDidFile, "close"),
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
    # What only refuses has no node to err in.
    "read_only": (operations.Operations, "_read_only"),
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
