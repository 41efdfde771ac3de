"""Tokens: Rucio and a storage take them from the lake's OpenID provider, and nothing else."""

from collections.abc import Iterator

import pytest
import requests

from lake import Lake
from lake.endpoints import Endpoints
from tests.lake.tokens import token_of

pytestmark = pytest.mark.lake


@pytest.fixture(scope="module")
def own_lake() -> Iterator[Lake]:
    lake = Lake.up(free_ports=True, oidc=True, daemons=False, samples=False)
    yield lake
    lake.down()


def _whoami(lake: Lake, token: str) -> requests.Response:
    return requests.get(
        f"{lake.rucio_url}/accounts/whoami",
        headers={"X-Rucio-Auth-Token": token},
        allow_redirects=False,
        timeout=30,
    )


def _storage(lake: Lake, method: str, token: str | None, content: bytes = b"") -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answer = requests.request(
        method,
        f"https://localhost:{lake.ports['tokens']}/rucio/of/alice.dat",
        headers=headers,
        data=content,
        verify=str(lake.ca_file),
        timeout=30,
    )
    return answer.status_code


def test_rucio_knows_alice_by_her_token(own_lake: Lake) -> None:
    answer = _whoami(own_lake, token_of(own_lake))
    assert (answer.status_code, answer.headers["Location"]) == (303, "alice")


@pytest.mark.parametrize("wrong", [{"aud": "other"}, {"scope": "openid"}, {"username": "mallory"}])
def test_rucio_refuses_another_token(own_lake: Lake, wrong: dict[str, str]) -> None:
    answer = _whoami(own_lake, token_of(own_lake, **wrong))
    assert answer.status_code == 401
    assert answer.headers["ExceptionClass"] == "CannotAuthenticate"


def test_the_storage_takes_bearers_only(own_lake: Lake) -> None:
    audience = f"https://localhost:{own_lake.ports['tokens']}"
    writer = token_of(own_lake, scope="storage.read:/ storage.modify:/", aud=audience)
    reader = token_of(own_lake, scope="storage.read:/", aud=audience)
    stranger = token_of(own_lake, scope="storage.read:/", aud="https://elsewhere")
    assert _storage(own_lake, "PUT", None, b"data") == 403
    assert _storage(own_lake, "PUT", reader, b"data") == 403
    assert _storage(own_lake, "PUT", writer, b"data") in (200, 201)
    assert (own_lake.store("TOKENS") / "of" / "alice.dat").read_bytes() == b"data"
    assert _storage(own_lake, "GET", None) == 403
    assert _storage(own_lake, "GET", stranger) == 403
    assert _storage(own_lake, "GET", reader) == 200


def test_status_shows_the_provider(own_lake: Lake) -> None:
    names = {server.name for server, is_up in own_lake.servers() if is_up}
    assert {"oidc", "tokens"} <= names
    assert own_lake.oidc_url == f"https://localhost:{own_lake.ports['oidc']}"


def test_an_endpoint_behind_tokens_serves_bearers_only(own_lake: Lake) -> None:
    endpoints = Endpoints(own_lake)
    endpoint = endpoints.add(*own_lake.webdav("tokens", tls=True))
    endpoints.place("guarded", "secret.dat", b"data", [endpoint])
    audience = f"https://localhost:{own_lake.ports['tokens']}"
    reader = token_of(own_lake, scope="storage.read:/", aud=audience)
    for headers, status in (({}, 403), ({"Authorization": f"Bearer {reader}"}, 200)):
        answer = requests.get(
            endpoints.url(endpoint, "guarded", "secret.dat"),
            headers=headers,
            verify=str(own_lake.ca_file),
            timeout=30,
        )
        assert answer.status_code == status
    assert answer.content == b"data"
