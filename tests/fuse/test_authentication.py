"""A mount logs in by every way that needs no browser; here those the lake can check.

userpass is what all other tests use.  x509 and gss need a front end that the lake does not have.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lake import Lake
from tests.lake.rest import Rest
from tests.mounting import DEADLINE, Mount

pytestmark = [pytest.mark.fuse, pytest.mark.lake]


@pytest.fixture(scope="module")
def oidc_lake() -> Iterator[Lake]:
    lake = Lake.up(free_ports=True, oidc=True, daemons=False)
    yield lake
    lake.down()


def write_token(lake: Lake, file: Path, *, lifetime: int) -> None:
    """Put a fresh token of alice's into *file*, at once as a good renewer does."""
    answer = requests.post(
        f"{lake.oidc_url}/token",
        auth=("rucio-fs", "fs-secret"),
        data={
            "grant_type": "urn:lake:direct",
            "username": "alice",
            "scope": "openid profile",
            "ttl": str(lifetime),
        },
        verify=str(lake.ca_file),
        timeout=DEADLINE,
    )
    answer.raise_for_status()
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(answer.json()["access_token"])
    fresh.rename(file)


def write_config(lake: Lake, file: Path, **client: str) -> Path:
    options = {
        "rucio_host": lake.rucio_url,
        "auth_host": lake.rucio_url,
        "account": "alice",
        **client,
    }
    lines = [f"{key} = {value}" for key, value in options.items()]
    file.write_text("[client]\n" + "\n".join(lines) + "\n")
    return file


def test_a_token_file_logs_in_and_its_renewal_is_noticed(oidc_lake: Lake, tmp_path: Path) -> None:
    token = tmp_path / "token"
    lifetime = 6
    write_token(oidc_lake, token, lifetime=lifetime)
    config = write_config(
        oidc_lake, tmp_path / "rucio.cfg", auth_type="oidc", auth_token_file_path=str(token)
    )
    forgetful = {"cache.open_ttl": 0, "cache.closed_ttl": 0}
    mount = Mount(config, {"site": "HERE", "rse": "COLO", **forgetful})
    try:
        assert mount.status()["rucio"]["account"] == "alice"
        assert "survey" in mount.ls("sky")
        end = time.monotonic() + lifetime + DEADLINE
        while mount.run("ls", mount.path / "sky").returncode == 0:
            assert time.monotonic() < end, "the token never expired"
            time.sleep(0.2)  # polls the server's clock
        refused = mount.run("ls", mount.path / "sky")
        assert "Permission denied" in refused.stderr
        assert f"renew it in {token}" in mount.log_text()
        write_token(oidc_lake, token, lifetime=3600)
        assert "survey" in mount.ls("sky")
        assert "eyJ" not in mount.log_text()
    finally:
        assert mount.close() == 0
        mount.remove()


def test_a_key_logs_in(oidc_lake: Lake, tmp_path: Path) -> None:
    keygen = shutil.which("ssh-keygen")
    assert keygen, "ssh-keygen is missing: apt-get install openssh-client"
    key = tmp_path / "id_rsa"
    options = ["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-C", "", "-f", str(key)]
    subprocess.run([keygen, *options], check=True)
    rest = Rest(oidc_lake)
    rest.create(
        "/accounts/alice/identities",
        {
            "identity": key.with_suffix(".pub").read_text().strip(),
            "authtype": "SSH",
            "email": "alice@localhost",
        },
    )
    rest.close()
    config = write_config(
        oidc_lake, tmp_path / "rucio.cfg", auth_type="ssh", ssh_private_key=str(key)
    )
    mount = Mount(config, environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    try:
        assert mount.status()["rucio"]["account"] == "alice"
        assert "survey" in mount.ls("sky")
    finally:
        assert mount.close() == 0
        mount.remove()


def test_another_key_does_not(oidc_lake: Lake, tmp_path: Path) -> None:
    key = tmp_path / "id_rsa"
    options = ["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", str(key)]
    subprocess.run(["ssh-keygen", *options], check=True)
    config = write_config(
        oidc_lake, tmp_path / "rucio.cfg", auth_type="ssh", ssh_private_key=str(key)
    )
    with pytest.raises(AssertionError, match="does not let account alice in with ssh") as caught:
        Mount(config, environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert "Traceback" not in str(caught.value)
