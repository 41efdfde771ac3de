"""Files of this machine: whole reads or an error, no thread waited for too long, no fd lost."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from rucio_fs.errors import Corrupt, NotFound, RucioFsError, TooSlow, Unreachable
from rucio_fs.sources import local, pagecache
from rucio_fs.sources.local import LocalSource

TIMEOUT = 60.0
SIZE = 300_000


@functools.cache
def pattern(size: int = SIZE, seed: int = 1) -> bytes:
    return bytes((i * 31 + i // 251 + seed) & 0xFF for i in range(size))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "f"
    file.write_bytes(pattern())
    return file


@pytest.fixture(autouse=True)
def no_fd_lost() -> Iterator[None]:
    """Also without the garbage collector, whose hour nobody knows."""
    before = open_fds()
    yield
    assert open_fds() == before


@pytest.fixture(autouse=True)
def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that outlives its test would keep one of everybody's."""
    monkeypatch.setattr(local, "_threads", trio.CapacityLimiter(32))


def open_fds() -> set[str]:
    """What the files of this process are, those of the test's machinery left out."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return {target for target in found if target.startswith("/tmp") and "pytest" in target}


async def opened(path: Path, size: int = SIZE, timeout: float = TIMEOUT) -> LocalSource:
    return await LocalSource.open(str(path), size, timeout)


@pytest.fixture(params=["page cache", "worker thread", "no RWF_NOWAIT here"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three ways a read can go."""
    preadv = os.preadv

    def refuse(fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            if request.param == "worker thread":
                raise BlockingIOError(errno.EAGAIN, "not in the page cache")
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return preadv(fd, buffers, offset, flags)

    if request.param != "page cache":
        monkeypatch.setattr(os, "preadv", refuse)
    return str(request.param)


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, SIZE),
        (0, 1),
        (17, 4096),
        (SIZE - 1, 1),
        (SIZE - 10, 4096),  # the end of the file is the only reason for fewer
        (0, 10 * SIZE),
        (SIZE, 4096),
        (SIZE + 1, 4096),
        (1 << 60, 4096),
        (0, 0),
    ],
)
async def test_reads_are_exact(path: Path, way: str, offset: int, size: int) -> None:
    source = await opened(path)
    try:
        assert bytes(await source.read(offset, size)) == pattern()[offset : offset + size]
    finally:
        source.close()


async def test_reads_larger_than_the_shared_buffer(tmp_path: Path, way: str) -> None:
    size = pagecache.LARGEST_READ + 1000
    file = tmp_path / "large"
    file.write_bytes(pattern(size))
    source = await opened(file, size)
    assert bytes(await source.read(0, size)) == pattern(size)
    assert bytes(await source.read(500, pagecache.LARGEST_READ)) == pattern(size)[500:][:1048576]
    source.close()


async def test_an_empty_file(tmp_path: Path, way: str) -> None:
    (tmp_path / "f").touch()
    source = await opened(tmp_path / "f", 0)
    assert bytes(await source.read(0, 4096)) == b""
    source.close()


async def test_nowait_is_not_tried_again_where_it_is_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(*args: object) -> int:
        tries.append(args)
        raise OSError(errno.EINVAL, "no such flag")

    monkeypatch.setattr(os, "preadv", refuse)
    source = await opened(path)
    for offset in range(3):
        assert bytes(await source.read(offset, 10)) == pattern()[offset : offset + 10]
    assert len(tries) == 1
    source.close()


async def test_a_half_cached_read_is_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RWF_NOWAIT gives what is in memory: fewer bytes than asked are no end of file."""
    preadv = os.preadv

    def half(fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        return preadv(fd, [buffers[0][: len(buffers[0]) // 2]], offset, flags)

    monkeypatch.setattr(os, "preadv", half)
    source = await opened(path)
    assert bytes(await source.read(0, 8192)) == pattern()[:8192]
    source.close()


async def test_a_thread_reads_on_after_a_short_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    monkeypatch.delattr(os, "RWF_NOWAIT")
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 1000), offset))
    source = await opened(path)
    assert bytes(await source.read(5, 4096)) == pattern()[5:4101]
    source.close()


async def test_concurrent_reads_do_not_mix_their_bytes(tmp_path: Path) -> None:
    """All use one buffer; each copies before anybody else runs, as pyfuse3 does."""
    files = {}
    for seed in range(8):
        files[seed] = tmp_path / str(seed)
        files[seed].write_bytes(pattern(100_000, seed))
    wrong = []

    async def read(seed: int) -> None:
        source = await opened(files[seed], 100_000)
        for offset in range(0, 100_000, 7001):
            if bytes(await source.read(offset, 7001)) != pattern(100_000, seed)[offset:][:7001]:
                wrong.append((seed, offset))
            await trio.lowlevel.checkpoint()
        source.close()

    async with trio.open_nursery() as nursery:
        for seed in files:
            nursery.start_soon(read, seed)
    assert wrong == []


async def test_what_a_thread_read_is_nobody_elses_buffer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that waited may be handed on after others have used the shared buffer."""
    preadv = os.preadv
    source = await opened(path)

    def not_cached(*args: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", not_cached)
    first = await source.read(0, 4096)
    monkeypatch.setattr(os, "preadv", preadv)
    await source.read(100_000, 4096)
    assert bytes(first) == pattern()[:4096]
    source.close()


# --- what is not what the catalogue says ---------------------------------------------------------


async def fails(path: Path, error: type[RucioFsError], size: int = SIZE) -> str:
    with pytest.raises(error) as caught:
        await opened(path, size)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    # While the exception is alive, and so its traceback: nothing may depend on that.
    assert str(path) not in open_fds()
    return str(caught.value)


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
async def test_another_size(path: Path, size: int) -> None:
    message = await fails(path, Corrupt, size)
    assert str(SIZE) in message
    assert str(size) in message


async def test_missing(tmp_path: Path) -> None:
    await fails(tmp_path / "gone", NotFound)


async def test_a_directory(tmp_path: Path) -> None:
    await fails(tmp_path, Corrupt)


async def test_a_fifo_does_not_hold_the_thread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with trio.fail_after(5):
        await fails(tmp_path / "fifo", Corrupt, 0)


async def test_a_symlink_is_followed(path: Path) -> None:
    """Storages lay their trees out with links; `site.roots` is about the replica's path."""
    link = path.with_name("link")
    link.symlink_to(path)
    source = await opened(link)
    assert bytes(await source.read(0, 100)) == pattern()[:100]
    source.close()


async def test_a_dangling_symlink(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    await fails(tmp_path / "link", NotFound)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
async def test_other_trouble(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def broken(*args: object, **kwargs: object) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", broken)
    assert os.strerror(number) in await fails(path, Unreachable)


@pytest.mark.parametrize("left", [0, 1000, 5000])
async def test_shorter_while_open(path: Path, way: str, left: int) -> None:
    source = await opened(path)
    os.truncate(path, left)
    with pytest.raises(Corrupt) as caught:
        await source.read(0, 8192)
    assert str(left) in str(caught.value)
    source.close()


async def test_longer_while_open(path: Path, way: str) -> None:
    """The kernel knows the size; what was appended is not the file's."""
    source = await opened(path)
    with path.open("ab") as file:
        file.write(b"more")
    assert bytes(await source.read(SIZE - 10, 4096)) == pattern()[-10:]
    source.close()


@pytest.mark.parametrize("function", ["preadv", "pread"])
async def test_a_read_that_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def broken(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    source = await opened(path)
    monkeypatch.setattr(os, function, broken)
    if function == "pread":
        monkeypatch.delattr(os, "preadv")
        source._pages._is_known = False
    with pytest.raises(Unreachable, match="Input/output error"):
        await source.read(0, 4096)
    source.close()


# --- what hangs --------------------------------------------------------------------------------


class Hanging:
    """A function of `os` that does not return before `release` is set; then it does its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
        self.release, self.entered = threading.Event(), trio.Event()
        self.left = threading.Semaphore(0)
        self.threads = 0
        self._call: Callable[..., Any] = getattr(os, function)
        self._token = trio.lowlevel.current_trio_token()
        monkeypatch.setattr(os, function, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.threads += 1
        self._token.run_sync_soon(self.entered.set)
        self.release.wait()
        try:
            return self._call(*args, **kwargs)
        finally:
            self.left.release()


async def settled(hanging: Hanging, threads: int = 1) -> None:
    """Let the hung threads go and wait until trio has taken them back."""
    hanging.release.set()
    for _ in range(threads):
        assert hanging.left.acquire(timeout=10)
    while local._threads.borrowed_tokens:
        await trio.lowlevel.checkpoint()


async def test_an_open_that_hangs(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    hanging = Hanging(monkeypatch, "open")
    started = trio.current_time()
    with pytest.raises(TooSlow, match="7 s"):
        await opened(path, timeout=7.0)
    assert trio.current_time() - started == pytest.approx(7.0)
    await settled(hanging)  # the file that was opened too late is closed: see no_fd_lost


async def test_an_open_whose_caller_is_cancelled(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch, "open")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened, path)
        await hanging.entered.wait()
        nursery.cancel_scope.cancel()
    await settled(hanging)


async def test_a_read_that_hangs(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = float("inf")
    source = await opened(path, timeout=7.0)
    source._pages._is_known = False
    hanging = Hanging(monkeypatch, "pread")
    autojump_clock.autojump_threshold = 0
    with pytest.raises(TooSlow):
        await source.read(0, 100)
    source.close()
    await settled(hanging)


async def test_hung_threads_hold_up_others_for_the_timeout_only(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(local, "_threads", trio.CapacityLimiter(2))
    hanging = Hanging(monkeypatch, "open")
    slow = []

    async def one() -> None:
        with pytest.raises(TooSlow):
            await opened(path, timeout=5.0)
        slow.append(trio.current_time())

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert len(slow) == 5
    assert max(slow) - started == pytest.approx(5.0)
    await settled(hanging, threads=2)
    assert hanging.threads == 2, "the others did not even begin"


# --- closing -----------------------------------------------------------------------------------


async def test_closing_twice_closes_once(path: Path) -> None:
    source = await opened(path)
    fd = source._fd
    source.close()
    other = os.open(path, os.O_RDONLY)  # takes the freed number
    assert other == fd
    source.close()
    del source
    os.fstat(other)
    os.close(other)


async def test_closing_never_raises(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = os.close

    def broken(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "Input/output error")

    source = await opened(path)
    monkeypatch.setattr(os, "close", broken)
    source.close()


async def test_a_closed_source_reads_nothing(path: Path, way: str) -> None:
    source = await opened(path)
    source.close()
    with pytest.raises(Unreachable):
        await source.read(0, 100)


async def test_its_name_is_its_path(path: Path) -> None:
    source = await opened(path)
    assert str(path) in repr(source)
    source.close()
