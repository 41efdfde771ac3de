"""Bearer tokens from a lake's OpenID provider."""

from __future__ import annotations

import requests

from lake import Lake


def token_of(lake: Lake, username: str = "alice", **parameters: str) -> str:
    """A token of *username*; *parameters* such as scope, aud and ttl (s) at will."""
    body = {
        "grant_type": "urn:lake:direct",
        "username": username,
        "scope": "openid profile",
        **parameters,
    }
    answer = requests.post(
        f"{lake.oidc_url}/token",
        auth=("rucio-fs", "fs-secret"),
        data=body,
        verify=str(lake.ca_file),
        timeout=30,
    )
    answer.raise_for_status()
    return str(answer.json()["access_token"])
