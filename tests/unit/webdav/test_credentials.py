"""Tokens and certificates: each is shown where it belongs, and nowhere else."""

from __future__ import annotations

import base64
import os
import ssl
from pathlib import Path

import pytest

from lake.tls import Tls
from rucio_fs import tokens
from rucio_fs.config import StoragesConfig
from rucio_fs.webdav.credentials import Credentials
from tests.unit.webdav.conftest import at, written


def jwt(name: str) -> str:
    parts = (f'{{"alg":"{name}"}}', f'{{"sub":"{name}"}}', f"signature of {name}")
    return ".".join(base64.urlsafe_b64encode(one.encode()).decode().rstrip("=") for one in parts)


def shown(credentials: Credentials, url: str, first: str = "") -> str:
    """The token that a request to *url* carries, after a redirect from *first*."""
    headers, _ = credentials.headers(at(url), at(first or url))
    return headers.get("Authorization", "").removeprefix("Bearer ")


# --- tokens --------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Credentials:
    """One token for most, others below three prefixes."""

    def file(name: str) -> Path:
        return written(tmp_path / name, f"{name}\n")

    return Credentials(
        StoragesConfig(
            token_file=file("usual"),
            tokens={
                "davs://door.example:2880/": str(file("door")),
                "davs://door.example:2880/atlas": str(file("atlas")),
                "davs://door.example:2880/atlas/mc/": str(file("mc")),
                "https://open.example": "none",
                "http://plain.example/": str(file("plain")),
            },
            trusted=("*.pools.example", "door.example"),
        )
    )


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("https://else.example/f", "usual"),
        ("https://door.example:2880/f", "door"),
        ("davs://DOOR.example:2880/f", "door"),
        ("davs://door.example:2880", "door"),
        ("davs://door.example:2880/atlas", "atlas"),
        ("davs://door.example:2880/atlas/f", "atlas"),
        ("davs://door.example:2880/atlas?x=1", "atlas"),
        ("davs://door.example:2880/atlas2/f", "door"),
        ("davs://door.example:2880/atlas/mc/f", "mc"),
        ("davs://door.example:2880/atlas/mcf", "atlas"),
        ("davs://door.example/atlas/f", "usual"),  # another port is another server
        ("davs://open.example/f", ""),
        ("davs://open.example:443/f", ""),
        ("http://plain.example/f", ""),  # whatever was configured
        ("dav://door.example:2880/f", ""),
        ("http://else.example/f", ""),
    ],
)
def test_the_longest_prefix_wins(table: Credentials, url: str, token: str) -> None:
    assert shown(table, url) == token
    assert table.token(at(url)) == token
    assert bool(table.shown(at(url))) == bool(token)


@pytest.mark.parametrize(
    ("first", "then", "token"),
    [
        ("https://else.example/f", "https://else.example/g", "usual"),
        ("https://else.example/f", "https://else.example:8443/g", "usual"),
        ("https://else.example/f", "https://other.example/g", ""),
        ("https://else.example/f", "http://else.example/g", ""),
        ("https://else.example/f", "https://one.pools.example/g", "usual"),
        ("https://else.example/f", "https://pools.example/g", ""),
        ("https://else.example/f", "https://pools.example.evil/g", ""),
        ("https://else.example/f", "https://else.example.evil/g", ""),
        ("https://else.example/f", "http://one.pools.example/g", ""),
        # It is the token of where it began that goes along ...
        ("davs://door.example:2880/f", "https://one.pools.example:24000/g", "door"),
        ("davs://door.example:2880/atlas/f", "https://one.pools.example:24000/g", "atlas"),
        ("davs://door.example:2880/atlas/f", "https://door.example:24000/g", "atlas"),
        ("davs://open.example/f", "https://one.pools.example/g", ""),
        ("davs://open.example/f", "https://open.example:8443/g", ""),
        ("http://else.example/f", "https://else.example/g", ""),
        # ... unless that host is known to take another.
        ("davs://else.example/f", "https://door.example:2880/atlas/g", "atlas"),
        ("davs://door.example:2880/f", "https://door.example:2880/atlas/g", "atlas"),
        ("davs://door.example:2880/f", "https://open.example/g", ""),
    ],
)
def test_a_redirect_takes_a_token_to_its_own_and_to_trusted_hosts_only(
    table: Credentials, first: str, then: str, token: str
) -> None:
    assert shown(table, then, first) == token


def test_nobody_is_trusted_unless_it_is_said(tmp_path: Path) -> None:
    credentials = Credentials(StoragesConfig(token_file=written(tmp_path / "t", "abc")))
    assert shown(credentials, "https://pool.example/f", "https://door.example/f") == ""


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("abc\n", "abc"),
        (jwt("ann"), jwt("ann")),
        (f"oauth2:{jwt('ann')}:host.example/userinfo\n", jwt("ann")),
        ("oauth2:abc:host.example", "abc"),
        ("", ""),
        ("\n", ""),
        ("oauth2:", ""),
        ("oauth2::host", ""),
        ("two words", ""),
        ("two\nlines", ""),
        (jwt("ann")[:30], ""),
        (f"oauth2:{jwt('ann')[:15]}", ""),
        ("abc\x00", ""),
    ],
)
def test_what_a_token_file_says(tmp_path: Path, text: str, token: str) -> None:
    file = written(tmp_path / "token", text)
    assert Credentials(StoragesConfig(token_file=file)).token(at("https://host/f")) == token


@pytest.mark.parametrize("torn", ["", jwt("new")[:30], "two words", None])
def test_the_last_good_token_stays_while_another_is_written(
    tmp_path: Path, torn: str | None
) -> None:
    file = written(tmp_path / "token", jwt("old"))
    credentials = Credentials(StoragesConfig(token_file=file))
    where = at("https://host/f")
    assert credentials.token(where) == jwt("old")
    file.unlink() if torn is None else file.write_text(torn)
    assert credentials.token(where) == jwt("old")
    file.write_text(jwt("new"))
    assert credentials.token(where) == jwt("new")


@pytest.mark.parametrize("torn", ["", jwt("new")[:30]])
def test_so_does_one_that_was_discovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    file = written(tmp_path / "bt", jwt("old"))
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(file))
    credentials = Credentials(StoragesConfig())
    where = at("https://host/f")
    assert credentials.token(where) == jwt("old")
    file.write_text(torn)
    assert credentials.token(where) == jwt("old")
    file.write_text(jwt("new"))
    assert credentials.token(where) == jwt("new")


def test_files_do_not_stand_in_for_each_other(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one", "one"), written(tmp_path / "other", "")
    credentials = Credentials(
        StoragesConfig(token_file=one, tokens={"https://other.example/": str(other)})
    )
    assert credentials.token(at("https://host/f")) == "one"
    assert credentials.token(at("https://other.example/f")) == ""


def test_tokens_are_discovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of WLCG's standard, and for TLS alone."""
    name = f"bt_u{os.geteuid()}"
    where = at("https://host/f")
    assert Credentials(StoragesConfig()).token(where) == ""
    monkeypatch.setattr(tokens, "TEMPORARY", tmp_path)
    written(tmp_path / name, "temporary")
    assert Credentials(StoragesConfig()).token(where) == "temporary"
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(written(tmp_path / "file", "file")))
    assert Credentials(StoragesConfig()).token(where) == "file"
    monkeypatch.setenv("BEARER_TOKEN", "variable")
    assert Credentials(StoragesConfig()).token(where) == "variable"
    assert Credentials(StoragesConfig()).token(at("http://host/f")) == ""
    configured = StoragesConfig(token_file=written(tmp_path / "configured", ""))
    assert Credentials(configured).token(where) == "", "what was configured is no first choice"


# --- certificates --------------------------------------------------------------------------------


def test_certificates_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, other = written(tmp_path / "usual.pem", ""), written(tmp_path / "other.pem", "")
    monkeypatch.setenv("X509_USER_PROXY", str(usual))
    proxies = {"https://door.example/a": str(other), "https://open.example/": "none"}
    credentials = Credentials(StoragesConfig(proxies=proxies))
    assert credentials.certificate(at("https://host/f")) == str(usual)
    assert credentials.certificate(at("https://door.example/a/f")) == str(other)
    assert credentials.certificate(at("https://door.example/b")) == str(usual)
    assert credentials.certificate(at("https://open.example/f")) == ""
    assert credentials.certificate(at("http://host/f")) == ""
    configured = Credentials(StoragesConfig(x509_proxy=other, proxies=proxies))
    assert configured.certificate(at("https://host/f")) == str(other)


def test_a_variable_that_names_no_file_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / "expired and removed"))
    credentials = Credentials(StoragesConfig())
    assert credentials.certificate(at("https://host/f")) == ""
    assert credentials.shown(at("https://host/f")) == ""


@pytest.mark.parametrize(
    ("then", "certificate"),
    [
        ("https://door.example:8443/f", "door.pem"),
        ("https://pool.example/f", "door.pem"),
        ("https://other.example/f", "other.pem"),
        ("https://elsewhere.example/f", ""),
        ("http://door.example/f", ""),
    ],
)
def test_a_redirect_takes_a_certificate_where_it_takes_a_token(then: str, certificate: str) -> None:
    proxies = {"https://door.example/": "door.pem", "https://other.example/": "other.pem"}
    credentials = Credentials(
        StoragesConfig(proxies=proxies, trusted=("pool.example", "other.example"))
    )
    assert credentials.headers(at(then), at("https://door.example/f"))[1] == certificate


def test_a_renewed_certificate_is_another_one(tmp_path: Path, tls: Tls) -> None:
    proxy = written(tmp_path / "proxy.pem", tls.user_proxy.read_text())
    os.utime(proxy, (1, 1))
    credentials = Credentials(StoragesConfig(x509_proxy=proxy, ca=tls.ca_file))
    where = at("https://host/f")
    before, context = credentials.shown(where), credentials.tls(str(proxy))
    assert credentials.shown(where) == before
    assert credentials.tls(str(proxy)) is context
    os.utime(proxy, (2, 2))
    assert credentials.shown(where) != before
    renewed = credentials.tls(str(proxy))
    assert renewed is not context
    assert credentials.tls(str(proxy)) is renewed
    assert list(credentials._contexts.values()) == [renewed], "the old one is kept for nothing"
    assert "BEGIN" not in credentials.shown(where)


@pytest.mark.parametrize("what", ["missing", "garbled"])
def test_a_certificate_that_cannot_be_used(tmp_path: Path, tls: Tls, what: str) -> None:
    proxy = tmp_path / "proxy.pem"
    if what == "garbled":
        proxy.write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    credentials = Credentials(StoragesConfig(x509_proxy=proxy, ca=tls.ca_file))
    with pytest.raises(OSError, match=r"proxy\.pem"):
        credentials.tls(str(proxy))


@pytest.mark.parametrize("what", ["missing", "garbled"])
def test_an_authority_that_cannot_be_used(tmp_path: Path, what: str) -> None:
    ca = tmp_path / "ca.pem"
    if what == "garbled":
        ca.write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    with pytest.raises(OSError, match=r"ca\.pem"):
        Credentials(StoragesConfig(ca=ca)).tls("")


def test_the_systems_authorities_are_the_last_choice() -> None:
    context = Credentials(StoragesConfig()).tls("")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
