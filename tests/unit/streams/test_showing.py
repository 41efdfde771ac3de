"""What storages are shown while they are read, by a pool with its credentials."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lake.tls import Tls
from rucio_fs.config import StoragesConfig
from rucio_fs.streams.answers import Range
from rucio_fs.streams.failures import Failure, Unauthorized, Untrusted
from rucio_fs.streams.pool import Pool
from rucio_fs.webdav.credentials import Credentials
from tests.unit.streams.conftest import MakeStorage, noise
from tests.unit.streams.storage_server import Fault, Storage
from tests.unit.webdav.conftest import at, written

DATA = noise(10_000)


def fetch(credentials: Credentials, url: str) -> bytes:
    pool = Pool(credentials.tls, 5.0)
    buffer = memoryview(bytearray(len(DATA)))
    try:
        pool.fetch(
            at(url),
            Range(0, len(DATA), len(DATA)),
            buffer,
            credentials.headers,
            lambda got: True,
            lambda abort: None,
        )
        return bytes(buffer)
    finally:
        pool.close()
        assert pool.open == 0


@pytest.fixture
def secure(make_storage: MakeStorage, tls: Tls) -> Storage:
    storage = make_storage(tls, "localhost")
    storage.files["/f"] = DATA
    return storage


@pytest.mark.parametrize("way", ["file", "directory", "X509_CERT_DIR", "X509_CERT_DIR file"])
def test_the_authority_of_a_storage_is_named(
    secure: Storage, tls: Tls, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    config = StoragesConfig()
    match way:
        case "file":
            config = StoragesConfig(ca=tls.ca_file)
        case "directory":
            config = StoragesConfig(ca=tls.ca_directory)
        case "X509_CERT_DIR":
            monkeypatch.setenv("X509_CERT_DIR", str(tls.ca_directory))
        case _:
            monkeypatch.setenv("X509_CERT_DIR", str(tls.ca_file))
    assert fetch(Credentials(config), f"{secure.url}/f") == DATA


def test_without_it_a_storage_is_shown_nothing(
    secure: Storage, tmp_path: Path, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = written(tmp_path / "token", "abc")
    (tmp_path / "certificates").mkdir()
    for config in (
        StoragesConfig(token_file=token),
        StoragesConfig(token_file=token, ca=tmp_path / "certificates"),
    ):
        with pytest.raises(Untrusted):
            fetch(Credentials(config), f"{secure.url}/f")
    assert secure.requests == []
    # What was configured goes before the variable.
    monkeypatch.setenv("X509_CERT_DIR", str(tmp_path / "certificates"))
    assert fetch(Credentials(StoragesConfig(ca=tls.ca_file)), f"{secure.url}/f") == DATA


def test_a_storage_sees_token_and_certificate(secure: Storage, tmp_path: Path, tls: Tls) -> None:
    secure.tokens = {"abc"}
    token = written(tmp_path / "token", "abc")
    config = StoragesConfig(token_file=token, x509_proxy=tls.user_proxy, ca=tls.ca_file)
    assert fetch(Credentials(config), f"{secure.url}/f") == DATA
    assert [(one.token, one.subject) for one in secure.requests] == [("abc", "lake user")]


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_door_sends_on_to_a_pool(
    secure: Storage, make_storage: MakeStorage, tmp_path: Path, tls: Tls, is_trusted: bool
) -> None:
    pool = make_storage(tls, "127.0.0.1")
    pool.files["/g"] = DATA
    secure.tokens = {"abc"}
    secure.plan(Fault(status=307, headers={"Location": f"{pool.url}/g?signature=secret"}))
    config = StoragesConfig(
        token_file=written(tmp_path / "token", "abc"),
        x509_proxy=tls.user_proxy,
        ca=tls.ca_file,
        trusted=("127.*",) if is_trusted else (),
    )
    assert fetch(Credentials(config), f"{secure.url}/f") == DATA
    expected = ("abc", "lake user") if is_trusted else ("", "")
    assert [(one.token, one.subject) for one in pool.requests] == [expected]


def test_plain_http_is_shown_no_token(
    make_storage: MakeStorage, tmp_path: Path, tls: Tls, secure: Storage
) -> None:
    plain = make_storage()
    plain.files["/f"] = DATA
    config = StoragesConfig(token_file=written(tmp_path / "token", "abc"), ca=tls.ca_file)
    assert fetch(Credentials(config), f"{plain.url}/f") == DATA
    assert "Authorization" not in plain.requests[0].headers
    # Nor does a redirect from there to TLS elsewhere bring it out.
    plain.plan(Fault(status=307, headers={"Location": f"{secure.url}/f"}))
    assert fetch(Credentials(config), f"{plain.url}/f") == DATA
    assert "Authorization" not in secure.requests[0].headers


def test_neither_tokens_nor_signatures_are_written_down(
    secure: Storage, tmp_path: Path, tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = written(tmp_path / "token", "hunter2")
    credentials = Credentials(StoragesConfig(token_file=token, ca=tls.ca_file))
    said: list[str] = [repr(credentials)]
    for fault in (
        Fault(status=401),
        Fault(status=500),
        Fault(resets=10),
        Fault(headers={"Content-Range": "bytes 1-2/3"}),
        Fault(status=307, headers={"Location": "ftp://host/hunter2"}),
        Fault(status=307, headers={"Location": "https://[hunter2"}),
        Fault(status=307, headers={"Location": "https://host.invalid/f?hunter2"}),
    ):
        secure.plan(fault)
        with pytest.raises(Failure) as caught:
            fetch(credentials, f"{secure.url}/f?hunter2")
        error: BaseException | None = caught.value
        while error is not None:
            said.append(repr(error))
            error = error.__cause__
    assert "hunter2" not in "".join(said) + caplog.text
    assert secure.requests[0].token == "hunter2"


def test_a_token_that_no_header_can_carry_is_not_told(
    secure: Storage, tmp_path: Path, tls: Tls
) -> None:
    token = written(tmp_path / "token", "hunter\u20ac")
    credentials = Credentials(StoragesConfig(token_file=token, ca=tls.ca_file))
    with pytest.raises(Failure) as caught:
        fetch(credentials, f"{secure.url}/f")
    assert "hunter" not in str(caught.value)
    assert secure.requests == []


def test_a_refused_token_is_a_matter_of_credentials(
    secure: Storage, tmp_path: Path, tls: Tls
) -> None:
    secure.tokens = {"new"}
    token = written(tmp_path / "token", "old")
    credentials = Credentials(StoragesConfig(token_file=token, ca=tls.ca_file))
    with pytest.raises(Unauthorized):
        fetch(credentials, f"{secure.url}/f")
    token.write_text("new")
    assert fetch(credentials, f"{secure.url}/f") == DATA
