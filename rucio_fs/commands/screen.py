"""How `rucio-fs status` looks: tables of rich, plain text where stdout is no terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rucio_fs.commands.tallying import Tally, awaited, summary
from rucio_fs.commands.words import ago, counted, printable, shortened, size

TRANSFERS = 15
PROBLEMS = 10

_WIDE = 1000  # columns where stdout is no terminal: nothing is to be cut there
_DID = 48  # characters of a DID in a table on a terminal
_TERMINAL = 100  # columns from which the table has room for everything


def console() -> Console:
    """Where to show: stdout."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=_WIDE)


# --- paths -------------------------------------------------------------------------------------


def show_paths(found: Sequence[tuple[str, Mapping[str, Any]]], out: Console | None = None) -> None:
    """A block for each path with what is known of it."""
    out = out or console()
    for number, (path, facts) in enumerate(found):
        if number:
            out.print()
        out.print(Text(printable(path), style="bold"), soft_wrap=True)
        for label, value in _of_path(facts):
            line = Text(f"  {label:<10}", style="dim").append(printable(value), style="not dim")
            out.print(line, soft_wrap=True)


def _of_path(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = [
        ("DID", _text(facts, "did")),
        ("type", _text(facts, "type")),
        ("size", _amount(facts)),
        ("state", _text(facts, "state")),
        ("here", _here(facts)),
        ("locality", _text(facts, "locality")),
        ("replicas", _text(facts, "replicas")),
        ("read from", _text(facts, "source")),
        ("rule", _text(facts, "rule_id")),
        ("rule at", _text(facts, "rule_url")),
        ("expires", _text(facts, "expires_at")),
        ("error", _text(facts, "error")),
    ]
    return [(label, value) for label, value in known if value]


def _amount(facts: Mapping[str, Any]) -> str:
    number = facts.get("bytes")
    return size(int(number)) if number is not None else ""


def _here(facts: Mapping[str, Any]) -> str:
    if facts.get("type") == "FILE" or facts.get("files") is None:
        return ""
    text = f"{facts.get('files_here', 0)} of {counted(facts['files'], 'file')}"
    return text + (f", {facts['files_stuck']} stuck" if facts.get("files_stuck") else "")


# --- mounts ------------------------------------------------------------------------------------


def show_mounts(mounts: Sequence[Mapping[str, Any]], out: Console | None = None) -> None:
    """One block for each mount: how it is, what is on its way, what went wrong of late."""
    out = out or console()
    for number, facts in enumerate(mounts):
        if number:
            out.print()
        _show_mount(out, facts)


def _show_mount(out: Console, facts: Mapping[str, Any]) -> None:
    status = facts["status"]
    out.print(Text(printable(facts["mountpoint"]), style="bold"), soft_wrap=True)
    for label, text in (
        ("Rucio", _rucio(status.get("rucio") or {})),
        ("site", _site(status)),
        ("catalogue", _catalogue(status.get("cache") or {})),
        *((("disk", _disk(status["diskcache"])),) if status.get("diskcache") else ()),
        ("use", _use(status)),
        *((("upload", _upload(facts["uploads"])),) if facts.get("uploads") else ()),
    ):
        line = Text(f"  {label:<9} ", style="dim").append_text(text)
        out.print(line, soft_wrap=True)
    if facts["transfers"]:
        _show_transfers(out, facts["transfers"])
    if facts["problems"]:
        _show_problems(out, facts["problems"])


def _rucio(rucio: Mapping[str, Any]) -> Text:
    text = Text(f"{_text(rucio, 'host')} as {_text(rucio, 'account')}: ", style="")
    if rucio.get("state") == "ok":
        return text.append("ok", style="green")
    since = ago(rucio.get("trouble_since"))
    text.append("unreachable", style="red")
    text.append(f" for {since}" if since else "")
    return text.append(f": {printable(_text(rucio, 'trouble'))}" if rucio.get("trouble") else "")


def _site(status: Mapping[str, Any]) -> Text:
    site = status.get("site") or {}
    policy = _text(status.get("opening") or {}, "policy")
    return Text(
        f"{_text(site, 'name') or 'none'}, RSE {_text(site, 'rse') or 'none'}"
        + (f", policy {policy}" if policy else "")
    )


def _catalogue(cache: Mapping[str, Any]) -> Text:
    """What is remembered of it."""
    entries, used, limit = (cache.get(key) or 0 for key in ("entries", "bytes", "limit"))
    noun = "entry" if entries == 1 else "entries"
    return Text(f"{entries} {noun}, {size(used)} of {size(limit)}")


def _disk(cache: Mapping[str, Any]) -> Text:
    """What was streamed and is kept, of which `rucio-fs cache status` tells more."""
    files, used, limit = (cache.get(key) or 0 for key in ("files", "bytes", "limit"))
    return Text(f"{counted(files, 'file')}, {size(used)} of {size(limit)}")


def _use(status: Mapping[str, Any]) -> Text:
    opening = status.get("opening") or {}
    words = [
        counted(status.get("open_files") or 0, "open file"),
        f"{opening.get('on_their_way', 0)} on their way",
        f"{opening.get('waiting', 0)} waiting",
    ]
    return Text(", ".join(words))


def _upload(uploads: Mapping[str, Any]) -> Text:
    tally = Tally.of(uploads)
    return Text("; ".join([summary(tally), *awaited(tally)]))


def _show_transfers(out: Console, transfers: Sequence[Mapping[str, Any]]) -> None:
    is_narrow = out.is_terminal and out.width < _TERMINAL
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("  on its way", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("files", "bytes", "for", "waiting"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in transfers[:TRANSFERS]:
        did = printable(_text(one, "did"))
        table.add_row(
            Text(
                "  " + (shortened(did, _DID if not is_narrow else 24) if out.is_terminal else did)
            ),
            _text(one, "state"),
            _of(one.get("files_here"), one.get("files"), str),
            _of(one.get("bytes_here"), one.get("bytes"), size),
            ago(one.get("since")),
            str(one.get("waiting") or ""),
        )
    out.print(table)
    if len(transfers) > TRANSFERS:
        out.print(f"  … and {len(transfers) - TRANSFERS} more")


def _show_problems(out: Console, problems: Sequence[Mapping[str, Any]]) -> None:
    newest = sorted(problems, key=lambda one: _text(one, "time"), reverse=True)
    out.print(Text("  problems, the newest first", style="dim"))
    for one in newest[:PROBLEMS]:
        words = printable(" ".join(_text(one, "error").split()))
        out.print(
            Text(
                f"  {_text(one, 'time')} {printable(_text(one, 'did'))} {_text(one, 'state')}: "
            ).append(words),
            soft_wrap=not out.is_terminal,
        )
    if len(newest) > PROBLEMS:
        out.print(f"  … and {len(newest) - PROBLEMS} older ones")


def _of(part: Any, whole: Any, write: Any) -> str:
    if whole is None:
        return write(part) if part else ""
    return f"{write(part or 0)}/{write(whole)}"


def _text(facts: Mapping[str, Any], key: str) -> str:
    value = facts.get(key)
    return "" if value is None else str(value)
