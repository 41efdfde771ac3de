"""Who we are to Rucio: one login for many clients, no human asked, one clear line when it fails."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from pathlib import Path

import pytest
import requests
import trio
from rucio.client.baseclient import BaseClient

from rucio_fs.catalogue import clients
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.failures import translate
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.config import RucioConfig
from rucio_fs.did import DID, Identity
from rucio_fs.errors import Denied, LoginFailed, RucioFsError, Unreachable, UsageError
from tests.unit.catalogue.conftest import Make
from tests.unit.catalogue.server import Server, answer, error, stream, token

MY = Identity()
LOGIN = "/auth/userpass"
EXPIRED = error("401 UNAUTHORIZED", "CannotAuthenticate", "Cannot authenticate")
OIDC = "auth_type = oidc"


@pytest.fixture(autouse=True)
def whoami(server: Server) -> None:
    server.on("/accounts/whoami", answer('{"account": "ann"}'))
    server.on("/scopes/", answer('["s"]'))


def put(file: Path, text: str) -> None:
    file.write_text(text)


def kept_tokens() -> list[Path]:
    """The token files there are, each of which is only ours to read."""
    directory = Path(os.environ["XDG_RUNTIME_DIR"], "rucio-fs")
    assert directory.stat().st_mode & 0o777 == 0o700
    files = list(directory.iterdir())
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    return files


def identity_of(file: Path) -> tuple[int, int, str]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, file.read_text()


def tokens_sent(server: Server, path: str = "/scopes/") -> list[str]:
    return [headers["x-rucio-auth-token"] for _, seen, headers in server.requests if seen == path]


def test_rucio_clients_still_have_what_is_overridden() -> None:
    for name in (
        "_get_auth_tokens",
        "_send_request",
        "_load_json_data",
        "_BaseClient__authenticate",
        "_BaseClient__get_token",
        "_BaseClient__get_token_oidc",
    ):
        assert hasattr(BaseClient, name), name


async def test_connect(server: Server, make: Make) -> None:
    assert await make().connect(MY) == "ann"
    login = next(headers for _, path, headers in server.requests if path == LOGIN)
    assert (login["x-rucio-username"], login["x-rucio-account"]) == ("ann", "ann")


async def test_one_login_for_all_clients(server: Server, make: Make) -> None:
    catalogue = make(connections=4)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(catalogue.scopes, MY)
    assert server.count(LOGIN) == 1
    assert await make().scopes(MY) == ["s"]  # nor does the next mount of this user


async def test_the_token_is_private_and_no_other_lakes(server: Server, make: Make) -> None:
    await make().scopes(MY)
    assert len(kept_tokens()) == 1
    with Server().running() as other:
        other.on(LOGIN, token(7))
        other.on("/scopes/", answer("[]"))
        await make(host=other.url).scopes(MY)
        assert tokens_sent(other) == ["token-7"]
    assert len(kept_tokens()) == 2


async def test_a_changed_password_is_tried(server: Server, make: Make) -> None:
    await make().scopes(MY)
    await make("auth_type = userpass\nusername = ann\npassword = new").scopes(MY)
    assert server.count(LOGIN) == 2


async def test_an_expired_token_is_renewed_once(server: Server, make: Make) -> None:
    catalogue = make()
    await catalogue.scopes(MY)
    server.on(LOGIN, token(2))
    server.on("/scopes/", EXPIRED, answer('["s"]'))
    assert await catalogue.scopes(MY) == ["s"]
    assert tokens_sent(server) == ["token-1", "token-1", "token-2"]
    assert server.count(LOGIN) == 2


async def test_a_token_that_is_never_accepted(server: Server, make: Make) -> None:
    server.on(LOGIN, token(1), token(2))
    server.on("/scopes/", EXPIRED)
    with pytest.raises(LoginFailed):
        await make().scopes(MY)
    assert server.count("/scopes/") == 2


async def test_a_refusal_is_no_login_failure(server: Server, make: Make) -> None:
    server.on("/scopes/", error("401 UNAUTHORIZED", "AccessDenied"))
    with pytest.raises(Denied) as caught:
        await make().scopes(MY)
    assert not isinstance(caught.value, LoginFailed)
    assert (server.count("/scopes/"), server.count(LOGIN)) == (1, 1)


async def test_accounts_have_clients_of_their_own(server: Server, make: Make) -> None:
    catalogue = make()
    await catalogue.scopes(MY)
    await catalogue.scopes(Identity("bob"))
    await catalogue.scopes(MY)
    asked_as = [h["x-rucio-account"] for _, path, h in server.requests if path == "/scopes/"]
    assert asked_as == ["ann", "bob", "ann"]
    assert server.count(LOGIN) == 2


# --- bearer tokens -------------------------------------------------------------------------------


@pytest.fixture
def bearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "bearer"
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(file))
    return file


async def test_a_bearer_token_renewed_outside_is_picked_up(
    server: Server, make: Make, bearer: Path
) -> None:
    put(bearer, "old\n")
    catalogue = make(OIDC)
    await catalogue.scopes(MY)
    put(bearer, "new\n")
    before = identity_of(bearer)
    server.on("/scopes/", EXPIRED, answer('["s"]'))
    assert await catalogue.scopes(MY) == ["s"]
    assert tokens_sent(server) == ["old", "old", "new"]
    assert identity_of(bearer) == before


async def test_an_expired_bearer_token_asks_nobody(
    server: Server, make: Make, bearer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*args: object) -> str:
        raise AssertionError("a human was asked")

    monkeypatch.setattr("builtins.input", ask)
    put(bearer, "old")
    server.on("/scopes/", EXPIRED)
    catalogue = make(OIDC)
    with pytest.raises(LoginFailed, match=f"renew it in {bearer}"):
        await catalogue.scopes(MY)
    with pytest.raises(LoginFailed, match=f"renew it in {bearer}"):
        await catalogue.scopes(MY)
    assert {path for _, path, _ in server.requests} == {"/scopes/"}
    put(bearer, "new")
    server.on("/scopes/", answer('["s"]'))
    assert await catalogue.scopes(MY) == ["s"]


async def test_the_configured_token_file(server: Server, make: Make, tmp_path: Path) -> None:
    file = tmp_path / "configured"
    catalogue = make(f"{OIDC}\nauth_token_file_path = {file}")
    with pytest.raises(LoginFailed, match=f"no token .* into {file}"):
        await catalogue.scopes(MY)
    put(file, "mine\n")
    before = identity_of(file)
    assert await catalogue.scopes(MY) == ["s"]
    assert tokens_sent(server) == ["mine"]
    assert identity_of(file) == before


# --- what a person reads when the mount does not start -------------------------------------------


async def fails(catalogue: RucioCatalogue, kind: type[RucioFsError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        await catalogue.connect(MY)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


async def test_wrong_password(server: Server, make: Make) -> None:
    server.on(LOGIN, error("401 UNAUTHORIZED", "CannotAuthenticate", "no such credentials"))
    await fails(make(), LoginFailed, server.url, "account ann", "userpass ann", "no such cred")
    assert server.count(LOGIN) == 1


@pytest.mark.parametrize(
    "said",
    [
        error("500 INTERNAL SERVER ERROR", "DatabaseException"),
        answer("<html>", "503 Service Unavailable", "text/html"),
        answer("<html>", "401 Unauthorized", "text/html"),
        answer("<html>", kind="text/html"),
    ],
)
async def test_a_login_that_is_not_answered_is_no_wrong_password(
    server: Server, make: Make, said: bytes
) -> None:
    server.on(LOGIN, said)
    await fails(make(), Unreachable, server.url)


async def test_each_asks_the_rucio_of_its_own_configuration(
    server: Server, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = make()
    await fails(make(host="http://rucio.invalid"), Unreachable, "rucio.invalid")
    monkeypatch.setenv("RUCIO_CONFIG", str(tmp_path / "rucio-0.cfg"))
    assert await mine.connect(MY) == "ann"
    assert server.count(LOGIN) == 1


async def test_refused(make: Make) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        await fails(make(host=url), Unreachable, url, "refuses the connection")


async def test_a_host_that_does_not_exist(make: Make) -> None:
    url = "http://rucio.invalid"
    await fails(make(host=url), Unreachable, url, "does not resolve")


async def test_a_host_that_is_no_rucio(server: Server, make: Make) -> None:
    server.on(LOGIN, answer("<html>", "404 Not Found", "text/html"))
    await fails(make(), Unreachable, server.url, "not Rucio's own answer")


async def test_no_tls_at_all(server: Server, make: Make) -> None:
    await fails(make(host=server.url.replace("http", "https")), Unreachable, "https://")


async def test_a_ca_file_that_is_not_there(server: Server, make: Make) -> None:
    cfg = "auth_type = userpass\nusername = a\npassword = b\nca_cert = /no/such/ca.pem"
    catalogue = make(cfg, host=server.url.replace("http", "https"))
    await fails(catalogue, UsageError, "/no/such/ca.pem")


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ("auth_type = userpass\nusername = ann", "password"),
        ("", "auth_type"),
        ("auth_type = x509_proxy", "client_proxy"),
        ("auth_type = x509\nclient_cert = /no/such/cert.pem", "/no/such/cert.pem"),
        ("auth_type = magic", "auth_type = magic is none of userpass, x509, x509_proxy, oidc, "),
    ],
)
async def test_an_incomplete_configuration(
    make: Make, monkeypatch: pytest.MonkeyPatch, cfg: str, words: str
) -> None:
    monkeypatch.delenv("X509_USER_PROXY", raising=False)
    await fails(make(cfg), UsageError, words)


async def test_a_login_that_needs_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "find_spec", lambda name: None)
    await fails(make("auth_type = gss"), UsageError, "pip install 'rucio-fs[kerberos]'")


async def test_a_configuration_file_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "rucio.cfg"
    await fails(RucioCatalogue(Asking(RucioConfig(config_file=file))), UsageError, str(file))


async def test_no_configuration_at_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUCIO_HOME", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    await fails(RucioCatalogue(Asking(RucioConfig())), UsageError, "/opt/rucio/etc/rucio.cfg")


# --- what must not be told -----------------------------------------------------------------------


async def test_no_token_is_logged(
    server: Server, make: Make, caplog: pytest.LogCaptureFixture, bearer: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    await make().scopes(MY)
    put(bearer, "hush")
    server.on("/scopes/", EXPIRED)
    with pytest.raises(LoginFailed) as caught:
        await make(OIDC).scopes(MY)
    for secret in ("token-1", "secret", "hush"):
        assert secret not in caplog.text + str(caught.value)


def test_rucio_clients_log_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """At DEBUG they log OIDC tokens and SSH challenges; all else they log is raised as well."""
    from rucio_fs.catalogue.client import RucioClient

    monkeypatch.setenv("RUCIO_AUTH_TYPE", "gss")
    client = RucioClient(host=server.url, auth_host=server.url, account="ann", timeout=1.0)
    assert not client.logger.isEnabledFor(logging.CRITICAL)
    client.session.close()


async def test_no_token_follows_a_redirect_to_another_host(server: Server, make: Make) -> None:
    with Server().running() as other:
        other.on("/scopes/", answer("[]"))
        moved = answer("", "302 Found", "text/html", Location=f"{other.url}/scopes/")
        server.on("/scopes/", moved)
        await make().scopes(MY)
        (headers,) = [headers for _, _, headers in other.requests]
        assert not [name for name in headers if "token" in name]


# --- threads -------------------------------------------------------------------------------------


async def test_a_cancelled_question_keeps_its_client(server: Server, make: Make) -> None:
    catalogue = make(connections=2, timeout=0.5)
    await catalogue.scopes(MY)
    server.on("/dids/s/slow/dids", None)
    server.on("/dids/s/set/dids", stream())
    with trio.move_on_after(0.05):
        await catalogue.content(MY, DID("s", "slow"))
    for _ in range(3):  # the first client hangs in its thread; the other one answers
        assert len(await catalogue.content(MY, DID("s", "set"))) == 0


async def test_no_more_questions_at_once_than_connections(server: Server, make: Make) -> None:
    catalogue = make(connections=2, timeout=0.3)
    await catalogue.scopes(MY)
    server.on("/dids/s/slow/dids", None)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(catalogue.content, MY, DID("s", "slow"))
        await trio.sleep(0.15)
        assert server.count("/dids/s/slow/dids") == 2
        nursery.cancel_scope.cancel()


def test_tls_of_an_unknown_authority_is_named() -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_message = "unable to get local issuer certificate"
    wrapped = requests.exceptions.SSLError(cause)
    ours = translate(wrapped, "login", "https://rucio.example")
    assert "not trusted: unable to get local issuer certificate" in str(ours)
