"""`user.rucio.suspicious`: what is declared by setting it, and what is refused."""

from __future__ import annotations

import errno
import json

import pytest

from rucio_fs.errors import Denied
from rucio_fs.nodes.requests import SUSPICIOUS
from tests.fs.conftest import World
from tests.fs.kernel import fails_with

GOOD = {"rse": "REM1", "reason": "wrong\n  bytes"}


@pytest.fixture
def world(world: World) -> World:
    """With a file that is at REM1, in a mount that brings nothing."""
    world.rucio.file("s:f", b"data", replicas={"REM1": "davs://rem1/f"})
    world.rucio.dataset("s:d", "s:f")
    assert world.services.rules is None
    return world


async def declare(world: World, value: object, path: str = "s/d/f") -> None:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    ino = await world.kernel.ino(path)
    await world.operations.setxattr(ino, SUSPICIOUS.encode(), text, world.kernel.ctx)


async def test_it_declares_a_replica(world: World) -> None:
    await declare(world, GOOD)
    (declared,) = world.rucio.suspicious
    assert (str(declared[0]), *declared[1:]) == ("s:f", "REM1", "wrong bytes")


@pytest.mark.parametrize(
    "value",
    [
        b"", b"1", b"REM1: wrong", b"{", b"\xff", [], {"rse": "REM1"}, {"reason": "r"},
        {"rse": "", "reason": "r"}, {"rse": "REM1", "reason": " "}, {"rse": 1, "reason": "r"},
        {"rse": "REM1", "reason": None}, GOOD | {"state": "BAD"},
    ],
    ids=repr,
)  # fmt: skip
async def test_other_values_are_refused(
    world: World, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    with fails_with(errno.EINVAL):
        await declare(world, value)
    assert world.rucio.suspicious == []
    assert 'user.rucio.suspicious takes {"rse": RSE, "reason": TEXT}, not ' in caplog.text
    caplog.clear()


async def test_collections_have_no_replicas(world: World) -> None:
    for path in ("s/d", "s", ""):
        with fails_with(errno.EOPNOTSUPP):
            await declare(world, GOOD, path)


async def test_what_rucio_says_becomes_an_errno(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with fails_with(errno.ENODATA):
        await declare(world, GOOD | {"rse": "REM2"})
    assert "Rucio lists no PFN of s:f at REM2" in caplog.text
    world.failing.fail("declare_suspicious", Denied("not you"))
    with fails_with(errno.EACCES):
        await declare(world, GOOD)
    caplog.clear()
