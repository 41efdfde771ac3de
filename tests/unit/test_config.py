"""Reading the configuration: units, places, precedence, mistakes, and its documentation."""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rucio_fs import loading, requirements, settings, units
from rucio_fs.config import Config
from rucio_fs.directories import default_log_file
from rucio_fs.errors import UsageError
from rucio_fs.loading import load
from rucio_fs.settings import Setting

KEYS = settings.table(Config)
DOCUMENT = Path(__file__).parents[2] / "docs" / "CONFIGURATION.md"


@pytest.fixture(autouse=True)
def no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What this machine has in /etc is no matter of the tests."""
    monkeypatch.setattr(loading, "SYSTEM_FILE", tmp_path / "etc" / "rucio-fs.toml")


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "rucio-fs.toml"
    path.write_text(text)
    return load(file=path, environ={})


# --- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("128 MiB", 128 * 2**20),
        ("128MiB", 128 * 2**20),
        ("64M", 64 * 2**20),
        ("64m", 64 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("1 GB", 10**9),
        ("1 kB", 1000),
        ("1 K", 1024),
        ("2 TiB", 2**41),
        ("7 bytes", 7),
        (1024.0, 1024),
    ],
)
def test_bytes(raw: object, size: int) -> None:
    assert units.parse_bytes(raw) == size


@pytest.mark.parametrize(
    "raw",
    ["", "MiB", "12 parsecs", "-1", -1, True, "1.5", "0.3 KiB", [1], None, float("inf"), "1 1"],
)
def test_not_bytes(raw: object) -> None:
    with pytest.raises(ValueError):
        units.parse_bytes(raw)


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (0, 0.0),
        (2.5, 2.5),
        ("30", 30.0),
        ("30 s", 30.0),
        ("500 ms", 0.5),
        ("10 min", 600.0),
        ("10m", 600.0),
        ("1h 30min", 5400.0),
        ("1d", 86400.0),
        ("2 weeks", 1209600.0),
        ("1.5 hours", 5400.0),
    ],
)
def test_seconds(raw: object, seconds: float) -> None:
    assert units.parse_seconds(raw) == seconds


@pytest.mark.parametrize(
    "raw",
    ["", "soon", "5 fortnights", "-3 s", -3, True, float("nan"), float("inf"), "1 2 s", "1e3"],
)
def test_not_seconds(raw: object) -> None:
    with pytest.raises(ValueError):
        units.parse_seconds(raw)


@given(st.integers(0, 2**50), st.sampled_from(["", " "]))
def test_bytes_with_unit_and_without_are_the_same(number: int, blank: str) -> None:
    assert units.parse_bytes(f"{number}{blank}KiB") == units.parse_bytes(number) * 1024


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59))
def test_times_add_up(hours: int, minutes: int, seconds: int) -> None:
    text = f"{hours}h {minutes} min {seconds}s"
    assert units.parse_seconds(text) == hours * 3600 + minutes * 60 + seconds


@given(st.one_of(st.text(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_any_raw_value_is_read_or_a_value_error(raw: object) -> None:
    for setting in KEYS.values():
        with contextlib.suppress(ValueError):
            setting.kind.parse(raw)


@pytest.mark.parametrize(("raw", "umask"), [("022", 0o22), ("0o27", 0o27), (0o27, 0o27), ("0", 0)])
def test_umask_text_is_octal(raw: object, umask: int) -> None:
    assert units.parse_umask(raw) == umask


@pytest.mark.parametrize("raw", ["8", "1000", 0o1000, -1, "-1", True])
def test_not_a_umask(raw: object) -> None:
    with pytest.raises(ValueError):
        units.parse_umask(raw)


@pytest.mark.parametrize("setting", KEYS.values(), ids=list(KEYS))
def test_every_example_is_right(setting: Setting, tmp_path: Path) -> None:
    read(
        tmp_path,
        f"[{setting.section}]\n{setting.name} = {setting.kind.example}\n"
        if setting.key != "rucio.config_file"
        else f"[rucio]\nconfig_file = '{__file__}'\n",
    )


# --- places and precedence ---------------------------------------------------------------------


def test_defaults_need_nothing() -> None:
    assert load(environ={}) == Config()


def test_the_mounting_user_is_the_owner() -> None:
    assert (load(environ={}).mount.uid, load(environ={}).mount.gid) == (os.getuid(), os.getgid())


def test_each_place_beats_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[site]\nname = 'FILE'\n")
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    rucio = {"SITE_NAME": "RUCIO"}
    env = rucio | {"RUCIO_FS_SITE_NAME": "ENV"}
    assert load(file=empty, environ={}).site.name is None
    assert load(file=empty, environ=rucio).site.name == "RUCIO"
    assert load(file=file, environ=rucio).site.name == "FILE"
    assert load(file=file, environ=env).site.name == "ENV"
    options = ["site=OPTION"]
    assert load(file=file, environ=env, options=options).site.name == "OPTION"
    flags = {"site.name": ("--site", "FLAG")}
    assert load(file=file, environ=env, options=options, flags=flags).site.name == "FLAG"


def test_places_are_merged_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[cache]\nsize = '1 MiB'\nopen_ttl = 1\n")
    cache = load(
        file=file, environ={"RUCIO_FS_CACHE_SIZE": "2M"}, options=["cache.now_ttl=3"]
    ).cache
    assert (cache.size, cache.open_ttl, cache.now_ttl) == (2 * 2**20, 1.0, 3.0)


def test_first_existing_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xdg, home, system = tmp_path / "xdg", tmp_path / "home", tmp_path / "etc"
    named = tmp_path / "named.toml"
    files = [named, xdg / "rucio-fs.toml", home / ".config/rucio-fs.toml", system / "rucio-fs.toml"]
    environ = {"XDG_CONFIG_HOME": str(xdg), "HOME": str(home), "RUCIO_FS_CONFIG": str(named)}
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"[rucio]\nconnections = {number + 1}\n")
    for number, file in enumerate(files):
        config = load(environ=environ)
        assert (config.rucio.connections, config.file) == (number + 1, file)
        file.unlink()
        environ.pop("RUCIO_FS_CONFIG", None)
    assert load(environ=environ).file is None


def test_the_working_directory_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rucio-fs.toml").write_text("[cache]\nsize = 1\n")
    monkeypatch.chdir(tmp_path)
    assert load(environ={"HOME": "/nonexistent"}).cache == Config().cache


def test_an_empty_variable_is_not_set() -> None:
    assert load(environ={"RUCIO_FS_CACHE_SIZE": "", "RUCIO_FS_SITE_RSE": ""}) == Config()


def test_an_empty_option_unsets(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[site]\nrse = 'X'\n")
    assert load(file=file, environ={}, options=["rse="]).site.rse is None


def test_kubernetes_variables_are_no_settings() -> None:
    environ = {
        "RUCIO_FS_SERVICE_HOST": "10.0.0.1",
        "RUCIO_FS_SERVICE_PORT_METRICS": "9100",
        "RUCIO_FS_PORT": "tcp://10.0.0.1:9100",
        "RUCIO_FS_PORT_9100_TCP_ADDR": "10.0.0.1",
    }
    assert load(environ=environ) == Config()


def test_relative_paths_count_from_where_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for directory in (beside, here):
        directory.mkdir()
        (directory / "rucio.cfg").touch()
    (beside / "f.toml").write_text(
        "[rucio]\nconfig_file = 'rucio.cfg'\n[site]\nroots = ['rse', '/abs']\n"
    )
    monkeypatch.chdir(here)
    config = load(file=Path("../beside/f.toml"), environ={})
    assert config.rucio.config_file is not None
    assert config.rucio.config_file.samefile(beside / "rucio.cfg")
    assert config.rucio.config_file.is_absolute()
    assert config.site.roots[1] == Path("/abs")
    flags = {"rucio.config_file": ("--rucio-config", "rucio.cfg")}
    assert load(flags=flags, environ={}).rucio.config_file == here / "rucio.cfg"


@pytest.mark.parametrize(
    ("text", "allow"),
    [("user.*", ("user.*",)), ("a:b", ("a", "b")), ("a, b", ("a", "b")), ("", ())],
)
def test_lists_in_text(text: str, allow: tuple[str, ...]) -> None:
    flags = {"scopes.allow": ("--scopes", text)}
    assert load(flags=flags, environ={}).scopes.allow == allow


def test_the_prefix_map_in_toml_and_in_text(tmp_path: Path) -> None:
    expected = {"davs://se/a=b": "/mnt/a", "file:///x": "/y"}
    toml = '[site.paths]\n"davs://se/a=b" = "/mnt/a"\n"file:///x" = "/y"\n'
    assert read(tmp_path, toml).site.paths == expected
    environ = {"RUCIO_FS_SITE_PATHS": "davs://se/a=b=/mnt/a file:///x=/y"}
    assert load(environ=environ).site.paths == expected


# --- -o ----------------------------------------------------------------------------------------


def test_options() -> None:
    config = load(
        environ={},
        options=["rw,_netdev,uid=7,allow_other,xattrs=false,x-systemd.automount", "site.rse=A\\,B"],
    )
    assert config.mount.uid == 7
    assert (config.mount.allow_other, config.mount.xattrs) == (True, False)
    assert config.site.rse == "A,B"


def test_short_names_are_settings_and_not_generic_options() -> None:
    assert set(loading.SHORT_NAMES.values()) <= set(KEYS)
    assert set(loading.RUCIO_VARIABLES) <= set(KEYS)
    for name in loading.SHORT_NAMES:
        raw = {"uid": "0", "umask": "022"}.get(name, "1")
        with pytest.raises(UsageError, match=re.escape(f"-o {name}: ")):
            load(environ={}, options=[f"{name}=\x00{raw}"])


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[cache]\nsise = 1", "unknown key 'cache.sise'; did you mean 'cache.size'?"),
        ("[cahce]\nsize = 1", "unknown section [cahce]; did you mean 'cache'?"),
        ("[mount]\naccount = 'x'", "'mount.account'; did you mean 'rucio.account'?"),
        ("[mount]\nrse = 'X'", "'mount.rse'; did you mean"),
        ("size = 1", "unknown key 'size'; did you mean 'cache.size'?"),
        ("cache = 1", "cache is a section; write [cache]"),
        ("[cache]\nsize = '12 parsecs'", "cache.size = '12 parsecs' is not a size"),
        ("[cache]\nsize = '12 parsecs'", 'write for example "64 MiB"'),
        ("[cache]\nsize = true", "cache.size = True is not a size"),
        ("[cache]\nopen_ttl = -1", "is not a time"),
        ("[rucio]\ndeadline = 0", "is not a time above zero"),
        ("[rucio]\nconnections = 0", "is not a number from 1 to 65535"),
        ("[rucio]\nconnections = 1.5", "is not a number from 1 to 65535"),
        ("[rucio]\nhost = 'rucio.example.org'", "is not a URL"),
        ("[scopes]\nlisting = 'some'", "is not one of top, all"),
        ("[scopes]\nallow = [1]", "is not a list of names"),
        ("[mount]\nallow_other = 'perhaps'", "is not true or false"),
        ("[mount]\nuid = 'root'", "is not a numeric user or group id"),
        ("[mount]\nfsname = 'a,allow_other'", "is not a word"),
        ("[site]\npaths = { 'davs://x' = 'mnt' }", "does not start with /"),
        ("[log]\nlevel = 'loud'", "is not one of debug, info, warning, error"),
        ("[log\n", "not valid TOML"),
        ("[rucio]\nconfig_file = 'nope.cfg'", "nope.cfg does not exist"),
    ],
)
def test_a_mistake_in_the_file_names_file_key_and_cure(
    tmp_path: Path, toml: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, toml)
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{tmp_path}/rucio-fs.toml: ")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("nodv", "unknown mount option 'nodv'; did you mean 'nodev'?"),
        ("siet=HERE", "unknown mount option 'siet'; did you mean 'site'?"),
        ("cache_sise=1", "did you mean 'cache_size'?"),
        ("foo=1", "unknown mount option 'foo'; docs/CONFIGURATION.md lists what there is"),
        ("cache.sise=1", "did you mean 'cache.size'?"),
        ("uid", "mount option 'uid' needs a value, for example -o uid=1000"),
        ("uid=me", "-o uid: mount.uid = 'me' is not a numeric user or group id"),
        ("zzzzzzzz", "docs/CONFIGURATION.md"),
        ("uid=", "is not a numeric"),
    ],
)
def test_a_mistake_in_an_option(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load(environ={}, options=[option])


def test_a_mistake_in_the_environment() -> None:
    with pytest.raises(UsageError, match="did you mean 'RUCIO_FS_CACHE_SIZE'"):
        load(environ={"RUCIO_FS_CAHCE_SIZE": "1"})
    with pytest.raises(UsageError, match=r"^\$RUCIO_FS_CACHE_SIZE: "):
        load(environ={"RUCIO_FS_CACHE_SIZE": "big"})
    with pytest.raises(UsageError, match=r"\$RUCIO_FS_CONFIG: /nope.toml is not a file"):
        load(environ={"RUCIO_FS_CONFIG": "/nope.toml"})
    with pytest.raises(UsageError, match=r"\$RUCIO_CONFIG: /nope.cfg does not exist"):
        load(environ={"RUCIO_CONFIG": "/nope.cfg"})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(file=tmp_path / "missing.toml", environ={})
    with pytest.raises(UsageError, match="Is a directory"):
        load(file=tmp_path, environ={})
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# \xe9\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        load(file=latin, environ={})


def test_a_mistake_counts_also_where_another_value_wins(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        load(environ={"RUCIO_FS_CACHE_SIZE": "big"}, options=["cache_size=1M"])


# --- the log's place ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mountpoint", "name"),
    [("/rucio", "rucio"), ("/mnt/my-data", "mnt-my%2Ddata"), ("/a%b/c", "a%25b-c")],
)
def test_log_name(mountpoint: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    where = default_log_file(Path(mountpoint), {"XDG_STATE_HOME": "/state"})
    assert where == Path("/state/rucio-fs", f"{name}.log")
    where = default_log_file(Path(mountpoint), {"HOME": "/home/me"})
    assert where == Path("/home/me/.local/state/rucio-fs", f"{name}.log")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_log_file(Path(mountpoint), {}) == Path("/var/log/rucio-fs", f"{name}.log")


_components = st.text("ab-%.é", min_size=1, max_size=90).filter(
    lambda name: name not in (".", "..")
)
_mountpoints = st.lists(_components, min_size=1, max_size=4).map(lambda names: Path("/", *names))


@given(_mountpoints, _mountpoints)
def test_two_mountpoints_never_share_a_log(one: Path, other: Path) -> None:
    first, second = (default_log_file(path, {"HOME": "/h"}) for path in (one, other))
    assert (first == second) == (one == other)
    assert len(os.fsencode(first.name)) <= 255


def test_the_log_of_a_very_long_mountpoint_has_a_name_the_kernel_takes() -> None:
    one, other = (default_log_file(Path("/", "-" * 200, end), {"HOME": "/h"}) for end in "ab")
    assert one != other
    assert len(one.name) <= 255


# --- the document ------------------------------------------------------------------------------


def rows() -> dict[str, list[str]]:
    """Cells of the document's tables by key."""
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"`(\w+\.\w+)`", cells[0]):
            found[match[1]] = cells
    return found


def test_the_document_has_every_key_and_no_other() -> None:
    assert set(rows()) == set(KEYS)


@pytest.mark.parametrize("setting", KEYS.values(), ids=list(KEYS))
def test_the_document_tells_default_variable_and_short_name(setting: Setting) -> None:
    _, meaning, default, names, reason = rows()[setting.key]
    assert meaning
    assert reason
    assert f"`{setting.variable}`" in names
    shorts = {short for short, key in loading.SHORT_NAMES.items() if key == setting.key}
    assert set(re.findall(r"`-o (\w+)`", names)) == shorts
    if setting.key in ("mount.uid", "mount.gid"):
        assert default == "the mounting user's"
    elif setting.default() is None:
        assert default == "none"
    else:
        written = tomllib.loads(f"value = {default.strip('`')}")["value"]
        assert setting.kind.parse(written) == setting.default()


def test_the_document_s_example_file_is_right(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert example is not None
    text = re.sub(r"config_file = .*", f"config_file = '{__file__}'", example[1])
    assert read(tmp_path, text) != Config()


# --- what it needs of this machine ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ca = '/nosuch'", "storages.ca = /nosuch does not exist"),
        ("x509_proxy = '/nosuch'", "storages.x509_proxy = /nosuch does not exist"),
        (
            "[storages.proxies]\n'davs://host/' = '/nosuch'",
            'storages.proxies, "davs://host/" = /nosuch does not exist',
        ),
    ],
)
def test_a_file_of_certificates_that_does_not_exist(tmp_path: Path, text: str, words: str) -> None:
    config = read(tmp_path, f"[storages]\n{text}\n")
    with pytest.raises(UsageError, match=re.escape(words)):
        requirements.check(config)


def test_a_token_may_come_later(tmp_path: Path) -> None:
    table = f"[storages.tokens]\n'davs://a/' = 'none'\n'davs://b/' = '{tmp_path}/token'\n"
    (tmp_path / "token").touch()
    config = read(tmp_path, f"[storages]\ntoken_file = '/nosuch'\nca = '{tmp_path}'\n{table}")
    (warning,) = requirements.check(config)
    assert warning.startswith("storages.token_file = /nosuch does not exist yet; ")


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ("[mount]\nallow_other = true\n[scratch]\nrse = 'A'\n", True),
        ("[mount]\nallow_other = true\n[scratch]\nenabled = true\n", True),
        ("[mount]\nallow_other = true\n", False),
        ("[scratch]\nrse = 'A'\n", False),
    ],
)
def test_who_lets_all_others_into_scratch_is_told(tmp_path: Path, text: str, is_told: bool) -> None:
    assert [one.partition(" every")[0] for one in requirements.check(read(tmp_path, text))] == [
        "with mount.allow_other"
    ] * is_told


def test_what_a_mount_uses_itself(tmp_path: Path) -> None:
    def own(text: str, *, in_background: bool = False) -> dict[str, str]:
        config = read(tmp_path, f"[log]\nfile = 'logs/x'\n{text}")
        found = requirements.own_places(config, Path("/mnt"), in_background=in_background)
        return {key: str(path) for key, path in found.items()}

    assert own("[diskcache]\ndir = '/c'\n") == {
        "log.file": str(tmp_path / "logs" / "x"),
        "diskcache.dir": "/c",
    }
    assert "diskcache.dir" not in own("[diskcache]\nsize = 0\n")
    assert "diskcache.dir" not in own("[site]\nrse = 'A'\n[opening]\npolicy = 'replicate'\n")
    assert own("[scratch]\nrse = 'A'\ndir = '/s'\n")["scratch.dir"] == "/s"
    found = own("[scratch]\nrse = 'A'\ndir = '/s'\njournal_dir = '/j'\nin_place = true\n")
    assert (found["scratch.dir"], found["scratch.journal_dir"]) == ("/s", "/j")
