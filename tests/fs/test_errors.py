"""Every failure of every handler becomes an errno, and a bug a traceback: the mount lives on."""

from __future__ import annotations

import errno
import inspect
import logging
import os
from collections.abc import Sequence
from typing import Any

import pyfuse3
import pytest
import trio

from rucio_fs import errors
from rucio_fs.callers import Caller
from rucio_fs.did import Identity
from rucio_fs.errors import RucioFsError
from rucio_fs.handles import OpenDir
from rucio_fs.nodes.base import (
    Attr,
    Change,
    Dir,
    Entry,
    File,
    Key,
    Node,
    OpenFile,
    Space,
    Vanished,
    dir_attr,
    file_attr,
)
from rucio_fs.presentation import Presentation
from rucio_fs.sources.base import Data
from rucio_fs.xattrs import OperationsWithXattrs
from tests.fakes import MY
from tests.fs.kernel import Context, Token, fails_with

CTX = Context()
FIELDS = pyfuse3.SetattrFields()
FILE_NAME = pyfuse3.FileNameT(b"f")
OURS = pyfuse3.XAttrNameT(b"user.rucio.x")


class Breaking:
    """Raises *error*, if there is one, wherever it is asked anything but its key."""

    error: Exception | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error


class BreakingOpenFile(OpenFile):
    def __init__(self, breaking: Breaking) -> None:
        self._breaking = breaking

    async def read(self, offset: int, size: int) -> Data:
        self._breaking.check()
        return b"x" * size

    async def write(self, offset: int, data: bytes) -> int:
        self._breaking.check()
        return len(data)

    async def flush(self) -> None:
        self._breaking.check()

    async def fsync(self, *, data_only: bool) -> None:
        self._breaking.check()

    def close(self) -> None:
        self._breaking.check()


class BreakingFile(File):
    is_writable = True

    def __init__(self, breaking: Breaking) -> None:
        self._breaking = breaking

    @property
    def key(self) -> Key:
        return ("f",)

    async def attr(self, who: Identity) -> Attr:
        self._breaking.check()
        return file_attr(1, 0, 0.0)

    async def open(self, who: Identity, flags: int, caller: Caller) -> OpenFile:
        self._breaking.check()
        return BreakingOpenFile(self._breaking)

    async def set_attr(
        self, who: Identity, change: Change, opened: OpenFile | None, caller: Caller
    ) -> None:
        self._breaking.check()

    async def allows(self, mask: int) -> bool:
        self._breaking.check()
        return True

    async def readlink(self, who: Identity) -> str:
        self._breaking.check()
        return "target"

    async def xattr_names(self, who: Identity) -> Sequence[str]:
        self._breaking.check()
        return ["user.rucio.x"]

    async def xattr(self, who: Identity, name: str) -> str:
        self._breaking.check()
        return "value"

    async def set_xattr(self, who: Identity, name: str, value: str) -> None:
        self._breaking.check()

    async def remove_xattr(self, who: Identity, name: str) -> None:
        self._breaking.check()


class Entries(list[Entry]):
    """A listing whose entries break when they are looked at."""

    def __init__(self, breaking: Breaking, entries: Sequence[Entry]) -> None:
        super().__init__(entries)
        self._breaking = breaking

    def __getitem__(self, index: Any) -> Any:
        self._breaking.check()
        return super().__getitem__(index)


class BreakingDir(Dir):
    def __init__(self, breaking: Breaking) -> None:
        self._breaking = breaking

    @property
    def key(self) -> Key:
        return ("root",)

    async def attr(self, who: Identity) -> Attr:
        self._breaking.check()
        return dir_attr(0, 0.0)

    async def child(self, who: Identity, filename: str) -> Entry:
        self._breaking.check()
        return Entry(filename, BreakingFile(self._breaking), file_attr(1, 0, 0.0), 0.0)

    async def children(self, who: Identity) -> Sequence[Entry]:
        self._breaking.check()
        return Entries(self._breaking, [await self.child(who, "f")])

    async def create(
        self, who: Identity, filename: str, mode: int, flags: int, caller: Caller
    ) -> tuple[Entry, OpenFile]:
        return await self.child(who, filename), BreakingOpenFile(self._breaking)

    async def mknod(self, who: Identity, filename: str, mode: int, caller: Caller) -> Entry:
        return await self.child(who, filename)

    async def mkdir(self, who: Identity, filename: str, mode: int, caller: Caller) -> Entry:
        return await self.child(who, filename)

    async def symlink(self, who: Identity, filename: str, target: str, caller: Caller) -> Entry:
        return await self.child(who, filename)

    async def link(self, who: Identity, node: Node, filename: str) -> Entry:
        return await self.child(who, filename)

    async def unlink(self, who: Identity, filename: str) -> None:
        self._breaking.check()

    async def rmdir(self, who: Identity, filename: str) -> None:
        self._breaking.check()

    async def rename(
        self, who: Identity, filename: str, new_parent: Dir, new_filename: str, flags: int
    ) -> None:
        self._breaking.check()

    async def fsync(self, *, data_only: bool) -> None:
        self._breaking.check()

    async def space(self) -> Space:
        self._breaking.check()
        return Space(512, 6, 5, 4, 3, 2)


class Mount:
    """The handlers over nodes that break on order, with one file and one directory open."""

    def __init__(self) -> None:
        self.breaking = Breaking()
        root = BreakingDir(self.breaking)
        self.operations = OperationsWithXattrs(root, Presentation(0, 0), MY, disk=root)
        file = BreakingFile(self.breaking)
        self.ino = self.operations.inodes.ref(file)
        self.fh = self.operations.handles.add_file(BreakingOpenFile(self.breaking))
        entries = Entries(self.breaking, [Entry("f", file, file_attr(1, 0, 0.0), 0.0)])
        self.dir_fh = self.operations.handles.add_dir(OpenDir(root, MY, entries))

    def arguments(self) -> dict[str, tuple[Any, ...]]:
        """A request for every handler."""
        root, truncate = pyfuse3.ROOT_INODE, Truncate()
        return {
            "lookup": (root, FILE_NAME, CTX),
            "getattr": (self.ino, CTX),
            "access": (self.ino, os.W_OK, CTX),
            "setattr": (self.ino, pyfuse3.EntryAttributes(), truncate, None, CTX),
            "opendir": (root, CTX),
            "readdir": (self.dir_fh, 2, Token(9)),
            "releasedir": (self.dir_fh,),
            "fsyncdir": (self.dir_fh, False),
            "open": (self.ino, os.O_RDONLY, CTX),
            "read": (self.fh, 0, 10),
            "write": (self.fh, 0, b"x"),
            "flush": (self.fh,),
            "fsync": (self.fh, False),
            "release": (self.fh,),
            "create": (root, FILE_NAME, 0o644, os.O_WRONLY, CTX),
            "mknod": (root, FILE_NAME, 0o644, 0, CTX),
            "mkdir": (root, FILE_NAME, 0o755, CTX),
            "symlink": (root, FILE_NAME, b"target", CTX),
            "link": (self.ino, root, FILE_NAME, CTX),
            "unlink": (root, FILE_NAME, CTX),
            "rmdir": (root, FILE_NAME, CTX),
            "rename": (root, FILE_NAME, root, pyfuse3.FileNameT(b"g"), 0, CTX),
            "readlink": (self.ino, CTX),
            "statfs": (CTX,),
            "getxattr": (self.ino, OURS, CTX),
            "listxattr": (self.ino, CTX),
            "setxattr": (self.ino, OURS, b"value", CTX),
            "removexattr": (self.ino, OURS, CTX),
        }

    async def call(self, name: str) -> Any:
        return await getattr(self.operations, name)(*self.arguments()[name])


class Truncate(pyfuse3.SetattrFields):
    """O_TRUNC."""

    @property
    def update_size(self) -> bool:
        return True


@pytest.fixture
def mount() -> Mount:
    return Mount()


HANDLERS = sorted(
    name
    for name, method in inspect.getmembers(OperationsWithXattrs, inspect.iscoroutinefunction)
    if not name.startswith("_") and method is not getattr(pyfuse3.Operations, name, None)
)
ASK_NODES = [
    "lookup", "getattr", "setattr", "opendir", "readdir", "open", "read", "write", "release",
    "getxattr", "listxattr", "setxattr", "access", "flush", "fsync", "fsyncdir", "create", "mknod",
    "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "removexattr", "readlink", "statfs",
]  # fmt: skip


def test_no_handler_is_left_out(mount: Mount) -> None:
    assert sorted([*mount.arguments(), "forget"]) == HANDLERS
    assert set(ASK_NODES) < set(HANDLERS)


@pytest.mark.parametrize("name", sorted(set(HANDLERS) - {"forget"}))
async def test_requests_are_served_when_nothing_breaks(mount: Mount, name: str) -> None:
    """So that the tests below see the injected failure and no other."""
    await mount.call(name)


# --- bugs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASK_NODES)
async def test_a_bug_in_a_node_is_an_io_error_with_a_traceback(
    mount: Mount, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    mount.breaking.error = ValueError("a bug in a node")
    with fails_with(errno.EIO):
        await mount.call(name)
    assert_traceback(caplog, name, "ValueError: a bug in a node")


class Broken:
    def __getattr__(self, name: str) -> Any:
        raise ValueError("a bug in a table")


@pytest.mark.parametrize("name", sorted(set(HANDLERS) - {"forget", "statfs"}))
async def test_a_bug_anywhere_is_an_io_error_with_a_traceback(
    mount: Mount, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    mount.operations.inodes = Broken()  # type: ignore[assignment]
    mount.operations.handles = Broken()  # type: ignore[assignment]
    with fails_with(errno.EIO):
        await mount.call(name)
    assert_traceback(caplog, name, "ValueError: a bug in a table")


async def test_a_bug_in_statfs(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pyfuse3, "StatvfsData", Broken().__getattr__)
    with fails_with(errno.EIO):
        await mount.call("statfs")
    assert_traceback(caplog, "statfs", "bug")


def assert_traceback(caplog: pytest.LogCaptureFixture, name: str, text: str) -> None:
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"bug in {name}" in record.getMessage().replace("_getxattr", "getxattr")
    assert "Traceback (most recent call last)" in caplog.text
    assert text in caplog.text
    caplog.clear()


async def test_a_forget_too_many_does_not_end_the_mount(
    mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could answer it: the kernel does not wait for forget."""
    other = mount.operations.inodes.ref(BreakingDirectory())
    await mount.operations.forget([(mount.ino, 2), (12345, 1), (other, 1)])
    assert len(mount.operations.inodes) == 1, "the others are forgotten all the same"
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "Traceback" in caplog.text
    caplog.clear()


class BreakingDirectory(BreakingDir):
    def __init__(self) -> None:
        super().__init__(Breaking())

    @property
    def key(self) -> Key:
        return ("d",)


async def test_cancellation_is_no_bug(mount: Mount) -> None:
    with trio.CancelScope() as cancel_scope:
        cancel_scope.cancel()
        mount.breaking.check = trio.lowlevel.checkpoint  # type: ignore[assignment]

        class Slow(BreakingFile):
            async def attr(self, who: Identity) -> Attr:
                await trio.lowlevel.checkpoint()
                return file_attr(1, 0, 0.0)

        ino = mount.operations.inodes.ref(Slow(mount.breaking))
        await mount.operations.getattr(ino, CTX)
    assert cancel_scope.cancelled_caught


async def test_an_errno_that_a_handler_chose_stays(mount: Mount) -> None:
    mount.breaking.error = pyfuse3.FUSEError(errno.EBUSY)
    with fails_with(errno.EBUSY):
        await mount.call("getattr")


# --- our errors --------------------------------------------------------------------------------

EXPECTED = {
    "RucioFsError": ("EIO", "ERROR"),
    "NotFound": ("ENOENT", "DEBUG"),
    "NotADir": ("ENOTDIR", "DEBUG"),
    "IsADir": ("EISDIR", "DEBUG"),
    "Loop": ("ELOOP", "INFO"),
    "BadName": ("EINVAL", "INFO"),
    "NameTooLong": ("ENAMETOOLONG", "INFO"),
    "Stale": ("ESTALE", "INFO"),
    "Interrupted": ("EINTR", "DEBUG"),
    "ReadOnly": ("EROFS", "DEBUG"),
    "NotPermitted": ("EPERM", "INFO"),
    "Sealed": ("EPERM", "INFO"),
    "NoScope": ("EACCES", "INFO"),
    "StagingError": ("EIO", "WARNING"),
    "NoAttribute": ("ENODATA", "DEBUG"),
    "NotOffered": ("EOPNOTSUPP", "DEBUG"),
    "Denied": ("EACCES", "WARNING"),
    "LoginFailed": ("EACCES", "ERROR"),
    "Unreachable": ("EREMOTEIO", "WARNING"),
    "TooSlow": ("ETIMEDOUT", "WARNING"),
    "Refused": ("EINVAL", "WARNING"),
    "NotYetHere": ("EAGAIN", "INFO"),
    "NeedsApproval": ("EAGAIN", "INFO"),
    "NotForScanners": ("EAGAIN", "INFO"),
    "TooManyWaiting": ("EAGAIN", "INFO"),
    "QuotaExceeded": ("EDQUOT", "WARNING"),
    "NoTarget": ("ENOSPC", "WARNING"),
    "RuleExists": ("EINVAL", "DEBUG"),
    "Stuck": ("EIO", "WARNING"),
    "Suspended": ("EIO", "WARNING"),
    "RuleGone": ("ECANCELED", "WARNING"),
    "RuleExpired": ("ETIME", "WARNING"),
    "NoRule": ("ENODATA", "DEBUG"),
    "OnTape": ("ENOMEDIUM", "INFO"),
    "NoReplica": ("ENODATA", "WARNING"),
    "NoSource": ("EIO", "WARNING"),
    "Corrupt": ("EIO", "ERROR"),
    "Differs": ("EEXIST", "WARNING"),
    "Closed": ("EPERM", "WARNING"),
    "UsageError": ("EIO", "ERROR"),
    "MountError": ("EIO", "ERROR"),
}


def test_every_error_has_its_errno_written_down() -> None:
    defined = inspect.getmembers(
        errors, lambda one: inspect.isclass(one) and issubclass(one, RucioFsError)
    )
    assert {name for name, _ in defined} == set(EXPECTED)


@pytest.mark.parametrize("error_name", sorted(EXPECTED))
@pytest.mark.parametrize("name", ASK_NODES)
async def test_an_error_is_its_errno(
    mount: Mount, name: str, error_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rucio_fs")
    number, level = EXPECTED[error_name]
    mount.breaking.error = getattr(errors, error_name)("s:f is not what you think")
    with fails_with(getattr(errno, number)):
        await mount.call(name)
    (record,) = caplog.records
    assert record.levelname == level
    assert "s:f is not what you think" in record.getMessage()
    assert record.exc_info is None, "what is expected needs no traceback"
    caplog.clear()


# --- references --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("bug"), errors.Unreachable("away")])
async def test_a_failed_request_takes_no_reference(
    mount: Mount, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    mount.breaking.error = error
    before = mount.operations.inodes.lookups()
    for name in ASK_NODES:
        with pytest.raises(pyfuse3.FUSEError):
            await mount.call(name)
    assert mount.operations.inodes.lookups() == before
    caplog.clear()


class Odd(Dir):
    """A directory with an entry that cannot be told to the kernel, after three that can."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    @property
    def key(self) -> Key:
        return ("root",)

    async def attr(self, who: Identity) -> Attr:
        return dir_attr(0, 0.0)

    async def child(self, who: Identity, filename: str) -> Entry:
        return self._entry

    async def children(self, who: Identity) -> Sequence[Entry]:
        return [*(entry(f"f{i}") for i in range(3)), self._entry]


def entry(filename: str, size: int = 1) -> Entry:
    return Entry(filename, BreakingFile(Breaking()), file_attr(size, 0, 0.0), 0.0)


ODD = [entry("lone \ud800 surrogate"), entry("f", size=1 << 70)]


async def test_a_lookup_whose_answer_cannot_be_told_takes_no_reference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    operations = OperationsWithXattrs(Odd(ODD[1]), Presentation(0, 0), MY)
    with fails_with(errno.EIO):
        await operations.lookup(pyfuse3.ROOT_INODE, FILE_NAME, CTX)
    assert operations.inodes.lookups() == 0
    caplog.clear()


@pytest.mark.parametrize("odd", ODD, ids=["name", "size"])
async def test_a_readdir_that_fails_half_way_takes_no_reference(
    odd: Entry, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel gets the error instead of all that was shown before."""
    operations = OperationsWithXattrs(Odd(odd), Presentation(0, 0), MY)
    fh = await operations.opendir(pyfuse3.ROOT_INODE, CTX)
    with fails_with(errno.EIO):
        await operations.readdir(fh, 0, Token(100))
    assert operations.inodes.lookups() == 0
    caplog.clear()


async def test_a_reply_that_fails_takes_no_reference(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(*args: object) -> bool:
        raise MemoryError

    before = mount.operations.inodes.lookups()
    monkeypatch.setattr(pyfuse3, "readdir_reply", no_memory)
    with fails_with(errno.EIO):
        await mount.call("readdir")
    assert mount.operations.inodes.lookups() == before
    caplog.clear()


class Vanishing(Sequence[Entry]):
    """Three entries, the second of which is gone when it is looked at."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        if index == 1:
            raise Vanished("f1")
        return entry(f"f{index}")


async def test_a_name_that_is_gone_is_left_out() -> None:
    operations = OperationsWithXattrs(Odd(ODD[1]), Presentation(0, 0), MY)
    fh = operations.handles.add_dir(OpenDir(Odd(ODD[1]), MY, Vanishing(), is_read=True))
    token = Token(100)
    await operations.readdir(fh, 2, token)
    assert [shown.name for shown in token.shown] == [b"f0", b"f2"]
    assert [shown.next_id for shown in token.shown] == [3, 5], "others keep their place"
    assert operations.inodes.lookups() == 2


async def test_the_errno_of_the_staging_disk_is_the_callers(
    mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    for number, level in [(errno.ENOTEMPTY, logging.DEBUG), (errno.ENOSPC, logging.WARNING)]:
        caplog.set_level(logging.DEBUG, "rucio_fs")
        found = errors.StagingError.of(OSError(number, os.strerror(number), "/area/x"))
        mount.breaking.error = found.copy()
        with fails_with(number):
            await mount.call("rmdir")
        (record,) = caplog.records
        assert record.levelno == level
        assert f"/area/x: {os.strerror(number)}" in record.getMessage()
        caplog.clear()


async def test_statfs_tells_of_the_disk(mount: Mount) -> None:
    found = await mount.call("statfs")
    assert (found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail) == (512, 6, 5, 4)
    assert (found.f_files, found.f_ffree, found.f_favail, found.f_namemax) == (3, 2, 2, 255)
