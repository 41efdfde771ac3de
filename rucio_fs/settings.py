"""Where configuration is written and how it is read: files, environment, `-o` options, flags.

Knows nothing of what the keys mean.  Each reader turns one place into `Written` values; `build`
puts them into the dataclasses, the last one winning.  `config.load` decides the order.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path

from rucio_fs.errors import UsageError
from rucio_fs.units import Kind

ENV_PREFIX = "RUCIO_FS_"

# What mount(8), fstab and systemd put into an option list and what means nothing to this mount.
_GENERIC_OPTIONS = frozenset({
    "rw", "ro", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users",
    "owner", "group", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "async", "sync",
    "dirsync", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime",
    "strictatime", "nostrictatime", "lazytime", "nolazytime", "silent", "loud",
})  # fmt: skip
_GENERIC_PREFIXES = ("x-", "X-", "comment=")

_HERE = Path()  # the working directory, asked only where a path is relative: it may be gone

# Variables that are no settings: the project's tests', and what Kubernetes puts into every pod
# when a service of the namespace is called rucio-fs.
_NO_SETTINGS = re.compile(
    r"TEST_\w+|SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the configuration, found in the dataclasses."""

    section: str
    name: str
    kind: Kind
    is_optional: bool
    field: Field[object]

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        return f"{ENV_PREFIX}{self.section}_{self.name}".upper()

    def default(self) -> object:
        if self.field.default_factory is not MISSING:
            return self.field.default_factory()
        return self.field.default


@dataclass(frozen=True, slots=True)
class Written:
    """A value as somebody wrote it.

    *where* names the place for a message ("--rse", "/etc/rucio-fs.toml"); a relative path in the
    value counts from *base*.
    """

    setting: Setting
    raw: object
    where: str
    base: Path

    def parse(self) -> object:
        """Value in the program's units.

        Raises: UsageError with what is wrong, where, and an example of what is right.
        """
        if self.raw == "" and self.setting.is_optional:
            return None
        kind = self.setting.kind
        try:
            value = kind.parse(self.raw)
        except ValueError as exc:
            raise UsageError(
                f"{self.where}: {self.setting.key} = {self.raw!r} is not {kind.name}"
                f" ({exc}); write for example {kind.example}"
            ) from exc
        return _anchor(value, self.base)


def table(root: type) -> dict[str, Setting]:
    """Every setting of the sections of the dataclass *root*, by key ("cache.size")."""
    found = {}
    for section, section_type in typing.get_type_hints(root).items():
        if not is_dataclass(section_type):
            continue  # a field of the root that is no section
        hints = typing.get_type_hints(section_type, include_extras=True)
        for field in fields(section_type):
            annotation = hints[field.name]
            value_type, kind = typing.get_args(annotation)
            is_optional = type(None) in typing.get_args(value_type)
            setting = Setting(section, field.name, kind, is_optional, field)
            found[setting.key] = setting
    return found


def build(written: Iterable[Written]) -> dict[str, dict[str, object]]:
    """Arguments of the section dataclasses; of two values for a key the later one counts.

    Raises: UsageError also for a value that a later one replaces: it is a mistake all the same.
    """
    sections: dict[str, dict[str, object]] = {}
    for item in written:
        sections.setdefault(item.setting.section, {})[item.setting.name] = item.parse()
    return sections


def from_file(path: Path, settings: Mapping[str, Setting]) -> Iterator[Written]:
    """Values of a TOML file, relative paths counted from its directory.

    Raises: UsageError if it cannot be read, is not TOML, or has a key that does not exist.
    """
    where = str(path)
    try:
        content = tomllib.loads(path.read_text())
    except OSError as exc:
        raise UsageError(f"{where}: {exc.strerror}") from exc
    except ValueError as exc:  # TOMLDecodeError, UnicodeDecodeError
        raise UsageError(f"{where}: not valid TOML: {exc}") from exc
    sections = {setting.section for setting in settings.values()}
    for section, values in content.items():
        if section not in sections:
            unknown = f"section [{section}]" if isinstance(values, dict) else f"key {section!r}"
            names = sections if isinstance(values, dict) else settings
            raise UsageError(f"{where}: unknown {unknown}{_nearest(section, names)}")
        if not isinstance(values, dict):
            raise UsageError(
                f"{where}: {section} is a section; write [{section}] and its keys below that"
            )
        for name, raw in values.items():
            key = f"{section}.{name}"
            if key not in settings:
                raise UsageError(f"{where}: unknown key {key!r}{_nearest(key, settings)}")
            yield Written(settings[key], raw, where, path.parent)


def from_environment(
    environ: Mapping[str, str], settings: Mapping[str, Setting], ignored: Iterable[str]
) -> Iterator[Written]:
    """Values of RUCIO_FS_SECTION_KEY; an empty variable counts as not set.

    *ignored* are variables with that prefix which are no settings.

    Raises: UsageError for a variable that does not exist.
    """
    variables = {setting.variable: setting for setting in settings.values()}
    for variable, raw in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable in ignored:
            continue
        if variable in variables:
            if raw:
                yield Written(variables[variable], raw, f"${variable}", _HERE)
        elif not _NO_SETTINGS.fullmatch(variable.removeprefix(ENV_PREFIX)):
            raise UsageError(
                f"unknown environment variable {variable}{_nearest(variable, variables)}"
            )


def from_options(
    options: Sequence[str], settings: Mapping[str, Setting], short_names: Mapping[str, str]
) -> Iterator[Written]:
    """Values of `-o key=value,key=value`; a backslash keeps the comma behind it in the value.

    A flag needs no value.  The generic options of mount(8) are accepted and mean nothing here.

    Raises: UsageError for an option that does not exist or lacks its value.
    """
    names = {key: settings[key] for key in settings}
    names |= {short: settings[key] for short, key in short_names.items()}
    for text in options:
        for option in re.split(r"(?<!\\),", text):
            name, equals, raw = option.replace("\\,", ",").partition("=")
            if not option or name in _GENERIC_OPTIONS or option.startswith(_GENERIC_PREFIXES):
                continue
            if name not in names:
                # What has a value is no misspelt flag of mount(8).
                near = _nearest(name, names.keys() if equals else names.keys() | _GENERIC_OPTIONS)
                raise UsageError(f"unknown mount option {name!r}{near}")
            setting = names[name]
            if not equals and not isinstance(setting.default(), bool):
                example = setting.kind.example.strip('"')
                raise UsageError(
                    f"mount option {name!r} needs a value, for example -o {name}={example}"
                )
            yield Written(setting, raw if equals else True, f"-o {name}", _HERE)


def _nearest(name: str, known: Iterable[str]) -> str:
    """End of a message about the unknown *name*: the key that was probably meant."""
    candidates = sorted(known)
    # The section is left out: a key is more often in the wrong one than misspelt.  Of two as near,
    # the one that is written so wins.
    lasts = {key.rpartition(".")[2]: key for key in reversed(candidates)} | {
        key: key for key in candidates
    }
    if "." not in name and (near := difflib.get_close_matches(name, candidates, n=1)):
        return f"; did you mean {near[0]!r}?"
    near = difflib.get_close_matches(name.rpartition(".")[2], lasts, n=1)
    if near:
        return f"; did you mean {lasts[near[0]]!r}?"
    if len(candidates) > 10:  # a message is one line
        return "; docs/CONFIGURATION.md lists what there is"
    return f"; there are {', '.join(candidates)}"


def _anchor(value: object, base: Path) -> object:
    if isinstance(value, Path):
        return (base / value).absolute()
    if isinstance(value, tuple):
        return tuple(_anchor(item, base) for item in value)
    return value
