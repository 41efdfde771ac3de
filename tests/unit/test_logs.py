"""The log: its levels, its lines, and no secret in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rucio_fs import logs
from rucio_fs.errors import UsageError

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl-_x"
RUCIO_TOKEN = "root-ddmlab-rucio-fs-0123456789abcdef"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """`set_up` changes the whole process."""
    root, ours = logging.getLogger(), logging.getLogger("rucio_fs")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers[:] = []  # set_up closes those it finds
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def written(tmp_path: Path, message: str, *args: object, level: str = "info") -> str:
    file = tmp_path / "made" / "on the way" / "log"
    logs.set_up(level, file)
    logging.getLogger("rucio_fs.x").error(message, *args)
    return file.read_text()


@pytest.mark.parametrize(
    ("message", "secret"),
    [
        (f"token {TOKEN} expired", TOKEN),
        (f"Authorization: Bearer {TOKEN}", TOKEN),
        ("Authorization: Bearer opaque-token", "opaque-token"),
        (f"X-Rucio-Auth-Token: {RUCIO_TOKEN}", RUCIO_TOKEN),
        (f"x-rucio-auth-token: {RUCIO_TOKEN}", RUCIO_TOKEN),
        (f"{{'X-Rucio-Auth-Token': '{RUCIO_TOKEN}'}}", RUCIO_TOKEN),
        ("{'X-Rucio-Username': 'a', 'X-Rucio-Password': 'hunter2'}", "hunter2"),
        ("https://dcache/f?authz=abc.def", "abc.def"),
        ("https://s3/f?X-Amz-Algorithm=A&X-Amz-Signature=0123abcd&x=1", "0123abcd"),
        ("https://s3/f?AWSAccessKeyId=k&Signature=s%2Bg=", "s%2Bg="),
        ("https://gcs/f?x-goog-signature=feed", "feed"),
        ("https://h/f?access_token=zzz", "zzz"),
    ],
)
def test_secrets_do_not_reach_the_log(tmp_path: Path, message: str, secret: str) -> None:
    text = written(tmp_path, "trouble: %s", message)
    assert "trouble: " in text
    assert "[hidden]" in text
    assert secret not in text


def test_secrets_in_a_traceback_are_hidden_too(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.set_up("info", file)
    try:
        raise ValueError(f"answered {TOKEN}")
    except ValueError:
        logging.getLogger("rucio_fs.x").exception("bug")
    text = file.read_text()
    assert "Traceback" in text
    assert TOKEN not in text


@pytest.mark.parametrize(
    "message",
    [
        "user.alice:raw/run1.root has no replica",
        "https://dcache/f?x=1 gave 404",
        "no token in rucio.cfg; access_token is not set",
        "signature of file://x differs",
    ],
)
def test_the_rest_of_a_message_stays(tmp_path: Path, message: str) -> None:
    text = written(tmp_path, message)
    assert message in text


def test_what_follows_a_secret_stays(tmp_path: Path) -> None:
    assert "&x=1 timed out" in written(tmp_path, "https://s3/f?Signature=abc&x=1 timed out")


def test_a_line_has_a_time_in_utc_a_level_and_a_source(tmp_path: Path) -> None:
    line = written(tmp_path, "hello")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}Z ERROR   rucio_fs\.x: hello\n", line)


@pytest.mark.parametrize(
    ("level", "ours", "libraries"),
    [
        ("debug", logging.DEBUG, logging.DEBUG),
        ("info", logging.INFO, logging.WARNING),
        ("warning", logging.WARNING, logging.WARNING),
        ("error", logging.ERROR, logging.ERROR),
    ],
)
def test_levels(level: str, ours: int, libraries: int) -> None:
    logs.set_up(level, None)
    assert logging.getLogger("rucio_fs.mount").getEffectiveLevel() == ours
    assert logging.getLogger("urllib3").getEffectiveLevel() == libraries


def test_without_a_file_the_log_is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", None)
    logging.getLogger("rucio_fs.x").info("hello")
    captured = capsys.readouterr()
    assert "rucio_fs.x: hello" in captured.err
    assert captured.out == ""


def test_the_log_is_appended_to(tmp_path: Path) -> None:
    written(tmp_path, "first")
    assert "first" in written(tmp_path, "second")


def test_a_name_that_is_no_utf_8_is_logged(tmp_path: Path) -> None:
    assert r"in /m\udcfcnze and /münze" in written(tmp_path, "in %s and /münze", "/m\udcfcnze")


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for file, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "log", "File exists"),
        (Path("/proc/nobody/log"), "No such file or directory"),
    ):
        with pytest.raises(UsageError) as caught:
            logs.set_up("info", file)
        assert str(caught.value) == (
            f"cannot write the log {file}: {why}; say where with --log-file FILE"
        )
