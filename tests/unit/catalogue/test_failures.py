"""Every exception of Rucio means something here, and none but "not found" means ENOENT."""

from __future__ import annotations

import inspect
import socket

import pytest
import requests
import urllib3.exceptions
from rucio.common import exception

from rucio_fs import errors
from rucio_fs.catalogue.failures import (
    BadAnswer,
    Busy,
    RucioSays,
    map_exceptions,
    translate,
)
from rucio_fs.errors import RucioFsError

CLASSES = [
    cls
    for _, cls in inspect.getmembers(exception, inspect.isclass)
    if issubclass(cls, exception.RucioException) and cls is not exception.RucioException
]
HOST = "https://rucio.example"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_exception_is_in_the_table(cls: type[Exception]) -> None:
    assert cls in map_exceptions


def test_only_three_classes_mean_enoent() -> None:
    missing = {cls.__name__ for cls, ours in map_exceptions.items() if ours is errors.NotFound}
    assert missing == {
        "DataIdentifierNotFound",
        "OpenDataDataIdentifierNotFound",
        "ScopeNotFound",
    }


@pytest.mark.parametrize("status", [401, 404, 409, 500])
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_class_decides_whatever_the_status(cls: type[Exception], status: int) -> None:
    ours = translate(RucioSays(status, cls.__name__, "because"), "sky:x", HOST)
    assert type(ours) is (errors.Unreachable if _is_unreachable(cls) else map_exceptions[cls])
    assert "sky:x" in str(ours)


def _is_unreachable(cls: type[Exception]) -> bool:
    return issubclass(map_exceptions[cls], errors.Unreachable)


@pytest.mark.parametrize(
    ("status", "name", "ours"),
    [
        (404, "", errors.Unreachable),  # a proxy's page
        (500, "", errors.Unreachable),
        (403, "", errors.Unreachable),
        (200, "", errors.Unreachable),
        (400, "KeyError", errors.Refused),  # Rucio answers with Python's exceptions too
        (500, "TypeError", errors.Unreachable),
        (429, "TooManyRequests", errors.Unreachable),
        (404, "Optional", errors.Refused),  # in rucio.common.exception, but no exception
    ],
)
def test_without_a_class_of_rucio(status: int, name: str, ours: type[RucioFsError]) -> None:
    assert type(translate(RucioSays(status, name, "text"), "sky:x", HOST)) is ours


def test_a_pause_that_is_asked_for_is_kept() -> None:
    busy = translate(RucioSays(503, "", "", retry_after=7.0), "sky:x", HOST)
    assert isinstance(busy, Busy)
    assert busy.retry_after == 7.0


def _chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


POOL = urllib3.HTTPConnectionPool("rucio.example")


@pytest.mark.parametrize(
    ("exc", "ours", "words"),
    [
        (requests.ReadTimeout("read"), errors.TooSlow, "sends nothing"),
        (requests.ConnectTimeout("connect"), errors.TooSlow, "sends nothing"),
        (
            requests.ConnectionError(urllib3.exceptions.ReadTimeoutError(POOL, "/", "read")),
            errors.TooSlow,
            "sends nothing",
        ),
        (
            requests.ConnectionError(
                _chained(urllib3.exceptions.HTTPError("x"), ConnectionRefusedError(111, "refused"))
            ),
            errors.Unreachable,
            "refuses the connection",
        ),
        (
            requests.ConnectionError(
                _chained(urllib3.exceptions.HTTPError("x"), socket.gaierror(-2, "unknown"))
            ),
            errors.Unreachable,
            "does not resolve",
        ),
        (
            requests.exceptions.ChunkedEncodingError(
                urllib3.exceptions.ProtocolError("broken", urllib3.exceptions.IncompleteRead(3, 4))
            ),
            errors.Unreachable,
            "cut its answer",
        ),
        (urllib3.exceptions.ProtocolError("broken"), errors.Unreachable, "broken"),
        (ConnectionResetError(104, "reset"), errors.Unreachable, "reset"),
        (BadAnswer("cut its answer within a row"), errors.Unreachable, "within a row"),
        (requests.exceptions.InvalidURL("no host"), errors.UsageError, "no host"),
        (OSError(28, "No space left"), errors.Unreachable, "No space"),
        (FileNotFoundError(2, "No such file", "ca.pem"), errors.UsageError, "ca.pem"),
        (KeyError("did_type"), errors.Unreachable, "did_type"),
        (StopIteration(), errors.Unreachable, "sends an empty answer"),
        (exception.MissingClientParameter("no account"), errors.UsageError, "no account"),
        (exception.RucioException("?"), errors.Refused, "sky:x"),
        (errors.LoginFailed("token expired"), errors.LoginFailed, "token expired"),
    ],
)
def test_what_happens_on_the_way(exc: Exception, ours: type[RucioFsError], words: str) -> None:
    translated = translate(exc, "sky:x", HOST)
    assert type(translated) is ours
    assert words in str(translated)
    assert "\n" not in str(translated)


def test_a_bug_stays_one() -> None:
    with pytest.raises(ZeroDivisionError):
        translate(ZeroDivisionError(), "sky:x", HOST)


def test_the_schema_that_a_name_is_refused_by_is_not_repeated() -> None:
    text = (
        "Provided object does not match schema.\nDetails: Problem validating dids: 'a b' does not"
        " match '^[a-z]*$'\n\nFailed validating 'pattern' in schema['items']['properties']['name']:"
        "\n    {'description': 'Data Identifier name'}\n\nOn instance[0]['name']:\n    'a b'"
    )
    ours = translate(RucioSays(400, "InvalidObject", text), "sky:a b", HOST)
    assert type(ours) is errors.Refused
    assert str(ours) == "sky:a b: Problem validating dids: 'a b' does not match '^[a-z]*$'"


def test_a_megabyte_of_error_is_cut() -> None:
    ours = translate(RucioSays(400, "InvalidObject", "x\n" * 500_000), "sky:x", HOST)
    assert len(str(ours)) < 600
