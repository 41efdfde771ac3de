"""Tokens that end, accounts that are not let in, and a Rucio that fails while the mount starts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lake import Lake
from lake.faults import Action, Cut, Fault, FaultProxy, Refuse, Reset, Stall, Status, Timeout
from tests import direct
from tests.faulty import PASSWORD, PATIENCE, SHORT, FaultyMount, through
from tests.mounting import DEADLINE, clean_environment

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

_PAGE = Status(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})


def says(status: int, name: str) -> Status:
    """An error in the form that Rucio gives it."""
    body = f'{{"ExceptionClass": "{name}", "ExceptionMessage": "injected"}}'
    headers = {"Content-Type": "application/json", "ExceptionClass": name}
    return Status(status, body.encode(), headers)


@pytest.fixture(scope="module")
def rig(lake: Lake) -> Iterator[FaultyMount]:
    with FaultyMount(lake) as rig:
        yield rig
        rig.check_log()


# --- tokens --------------------------------------------------------------------------------------


def test_a_token_that_has_ended_is_renewed_unnoticed_and_once(lake: Lake, rig: FaultyMount) -> None:
    old = rig.tokens()
    direct.revoke(lake, old)
    before = len(rig.mount.log_text())
    rig.proxy.clear_requests()
    loop = 'cd "$0" && for i in sky lab user.alice user.bob; do ls $i & done; wait'
    look = rig.look("sh", "-c", loop)
    assert (look.code, look.err) == (0, "")
    assert {"survey", "campaign", "thesis", "shared"} <= set(look.lines)
    assert 401 in [record.status for record in rig.proxy.requests], "the token was still good"
    assert rig.logins() == 1
    assert len(rig.tokens()) == 1
    assert rig.tokens() != old
    assert rig.problems(before) == []


def test_a_token_refused_in_the_middle_of_a_walk_is_not_noticed(rig: FaultyMount) -> None:
    rig.proxy.clear_requests()
    before = len(rig.mount.log_text())
    refusal = says(401, "CannotAuthenticate")
    with rig.proxy.add(Fault(refusal, path="^/dids/sky/.*/dids$", nth=2)) as fault:
        look = rig.look("ls", "-R", at="sky/survey")
        assert fault.hits == 1
    assert (look.code, look.err) == (0, "")
    assert look.lines.count("exp0001_g.fits") == 1
    assert rig.logins() == 1
    assert rig.problems(before) == []


def test_an_account_that_is_shut_out_is_told_so_and_comes_back(rig: FaultyMount) -> None:
    before = len(rig.mount.log_text())
    rig.proxy.clear_requests()
    with rig.proxy.add(Fault(says(401, "CannotAuthenticate"))):
        look = rig.look("ls", at="lab/run-0007")
        assert (look.lines, look.errnos) == ([], {"EACCES"})
        assert look.seconds < PATIENCE
        assert rig.logins() == 1
        # Others' files are as they were: nothing is said not to exist.
        assert rig.look("stat", at="sky/cubes").errnos == {"EACCES"}
    problems = rig.problems(before)
    assert len(problems) == 2
    assert all("account root" in line and rig.proxy.url in line for line in problems), problems
    files = ["run-0007.json", "run-0007.root"]
    assert rig.look("ls", "-1", at="lab/run-0007").lines == files


def test_a_login_that_is_down_is_an_outage(rig: FaultyMount) -> None:
    refused = Fault(says(401, "CannotAuthenticate"), path="/run-0008/dids$")
    with rig.proxy.add(refused), rig.proxy.add(Fault(Status(503), path="^/auth/")) as down:
        look = rig.look("ls", at="lab/run-0008")
        assert down.hits
        assert (look.lines, look.errnos) == ([], {"EREMOTEIO"})
        assert rig.mount.status()["rucio"]["state"] == "unreachable"
    assert rig.look("ls", "-1", at="lab/run-0008").lines == ["run-0008.root"]
    assert rig.mount.status()["rucio"]["state"] == "ok"


def test_an_account_without_rights_is_denied_without_a_storm(rig: FaultyMount) -> None:
    # No password, no token helps here: asking for one again and again locks accounts.
    assert rig.look("stat", at="user.alice").code == 0
    rig.proxy.clear_requests()
    with rig.proxy.add(Fault(says(401, "AccessDenied"), path="^/dids/user.alice/")) as fault:
        for _ in range(5):
            assert rig.look("ls", at="user.alice/thesis").errnos == {"EACCES"}
        assert fault.hits == 5
        assert rig.logins() == 0
        status = rig.mount.status()["rucio"]
        assert status["state"] == "ok"
    assert "fit.json" in "".join(rig.look("ls", at="user.alice/thesis").lines).replace("%2F", "/")


# --- the start -----------------------------------------------------------------------------------


def start(
    tmp_path: Path, config: Path, *options: str, foreground: bool = True
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Try to mount; the mountpoint comes back too."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    command: list[str | Path] = [sys.executable, "-bb", "-m", "rucio_fs", "mount", mountpoint]
    command += ["--foreground"] if foreground else []
    command += ["--rucio-config", config]
    for option in options:
        command += ["-o", option]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=clean_environment(XDG_RUNTIME_DIR=str(tmp_path), XDG_STATE_HOME=str(tmp_path)),
    )
    return done, mountpoint


def refusal(done: subprocess.CompletedProcess[str], mountpoint: Path) -> str:
    """The one line that says why nothing was mounted."""
    assert done.returncode == 1, done.stderr
    assert str(mountpoint) not in Path("/proc/self/mountinfo").read_text()
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("rucio-fs: error: ")
    assert PASSWORD not in line
    return line


_STARTS: Sequence[tuple[str, Action, str, str]] = (
    ("gone", Refuse(), "", "refuses the connection"),
    ("silence", Timeout(), "", "sends nothing"),
    ("login-500", Status(500, b"<html>"), "^/auth/", "answers 500, not Rucio's own answer"),
    ("login-429", Status(429, headers={"Retry-After": "60"}), "^/auth/", "answers 429"),
    ("login-page", _PAGE, "^/auth/", "answers a login without a token: not Rucio?"),
    ("no-rucio-at-all", Status(404, b"<html>"), "", "answers 404, not Rucio's own answer"),
    ("login-reset", Reset(), "^/auth/", "cannot be reached"),
    ("login-refused", says(401, "CannotAuthenticate"), "^/auth/", "does not let account root in"),
    ("whoami-denied", says(401, "AccessDenied"), "/accounts/", "injected"),
    ("scopes-503", Status(503), "^/scopes/", "answers 503, not Rucio's own answer"),
    ("scopes-stall", Stall(3), "^/scopes/", "sends nothing"),
    ("scopes-cut", Cut(9, "clean"), "^/scopes/", "JSON"),
    ("scopes-denied", says(500, "AccessDenied"), "^/scopes/", "the list of scopes: injected"),
)


@pytest.mark.parametrize(
    ("action", "path", "reason"),
    [(action, path, reason) for _, action, path, reason in _STARTS],
    ids=[name for name, *_ in _STARTS],
)
def test_a_fault_at_the_start_is_one_line_and_no_mount(
    lake: Lake, tmp_path: Path, action: Action, path: str, reason: str
) -> None:
    options = {**SHORT, "rucio.timeout": 0.5, "rucio.deadline": 2.0}
    with FaultProxy(lake.rucio_url) as proxy:
        proxy.add(Fault(action, path=path or None))
        options |= through(proxy)
        began = time.monotonic()
        done, mountpoint = start(
            tmp_path, lake.client_config(), *[f"{key}={value}" for key, value in options.items()]
        )
        assert time.monotonic() - began < PATIENCE
        assert reason in refusal(done, mountpoint)


@pytest.mark.parametrize("foreground", [True, False], ids=["foreground", "background"])
def test_a_wrong_password_is_one_line_without_it(
    lake: Lake, tmp_path: Path, foreground: bool
) -> None:
    config = tmp_path / "rucio.cfg"
    text = lake.client_config().read_text()
    config.write_text(text.replace(f"password = {PASSWORD}", "password = hunter2-and-more"))
    assert "hunter2" in config.read_text()
    done, mountpoint = start(tmp_path, config, foreground=foreground)
    line = refusal(done, mountpoint)
    assert "does not let account root in with userpass ddmlab" in line
    assert lake.rucio_url in line
    assert "hunter2" not in line
    logs = [file.read_text() for file in tmp_path.rglob("*.log")]
    assert not [log for log in logs if "hunter2" in log]
