"""`rucio-fs doctor`: what is known of files and replicas, and reporting those that seem damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rucio_fs.commands.deciding import Exit, overall
from rucio_fs.commands.once import Outcome, ask_each
from rucio_fs.commands.screen import console
from rucio_fs.commands.suspecting import Suspect, states, suspects
from rucio_fs.commands.words import complain, one_line, print_json, printable, size

AskEach = Callable[
    [str, Sequence[Path], Sequence[Mapping[str, object]] | None],
    list[Outcome],
]


@dataclass(slots=True)
class Diagnosis:
    """What is known of one path.  *reports* are outcomes of declarations, by RSE."""

    outcome: Outcome
    suspects: list[Suspect] = field(default_factory=list)
    reports: dict[str, Outcome] = field(default_factory=dict)

    @property
    def found(self) -> Mapping[str, Any]:
        return self.outcome.found or {}

    @property
    def exit(self) -> Exit:
        if self.outcome.exit is not Exit.DONE:
            return self.outcome.exit
        has_failed = any(report.exit is not Exit.DONE for report in self.reports.values())
        if has_failed or self.found.get("error"):
            return Exit.FAILED
        return Exit.PARTLY if self.suspects else Exit.DONE


def doctor(paths: Sequence[Path], *, reports: bool, as_json: bool, ask: AskEach = ask_each) -> int:
    """Show what is known of *paths*; with *reports* tell Rucio of replicas that seem damaged.

    Returns the exit code.
    """
    diagnoses = [Diagnosis(outcome) for outcome in ask("examine", paths, None)]
    for one in diagnoses:
        if one.outcome.found is not None:
            one.suspects = suspects(one.found)
    if reports:
        _report(diagnoses, ask)
    if as_json:
        print_json([_document(one) for one in diagnoses])
    else:
        _show([one for one in diagnoses if one.found], console())
    for one in diagnoses:
        if one.outcome.words is not None:
            complain(f"{one.outcome.path}: {one.outcome.words}")
        for rse, report in one.reports.items():
            if report.words is not None:
                complain(f"{one.outcome.path}: replica at {rse}: {report.words}")
    return overall(one.exit for one in diagnoses)


def _report(diagnoses: Sequence[Diagnosis], ask: AskEach) -> None:
    """Have the suspects declared, each replica once, by however many paths its file was named."""
    chosen: dict[tuple[str, str], tuple[Path, Suspect]] = {}
    for one in diagnoses:
        for suspect in one.suspects:
            key = (str(one.found["did"]), suspect.rse)
            chosen.setdefault(key, (Path(one.outcome.path), suspect))
    if not chosen:
        return
    outcomes = ask(
        "suspect",
        [path for path, _ in chosen.values()],
        [suspect._asdict() for _, suspect in chosen.values()],
    )
    made = dict(zip(chosen, outcomes, strict=True))
    for one in diagnoses:
        keys = {suspect.rse: (str(one.found["did"]), suspect.rse) for suspect in one.suspects}
        one.reports = {rse: made[key] for rse, key in keys.items()}


def _document(one: Diagnosis) -> dict[str, Any]:
    """One path, for ``--json``."""
    head = {"path": one.outcome.path, "exit": int(one.exit), "error": one.outcome.words}
    if not one.found:
        return head
    numbers = {
        name: None if one.found[name] is None else int(one.found[name])
        for name in ("bytes", "cached_bytes")
    }
    told = [
        {**suspect._asdict(), "is_declared": _is_declared(one, suspect)} for suspect in one.suspects
    ]
    return head | dict(one.found) | numbers | {"replicas": states(one.found), "suspects": told}


def _is_declared(one: Diagnosis, suspect: Suspect) -> bool:
    report = one.reports.get(suspect.rse)
    return report is not None and report.exit is Exit.DONE


def _show(diagnoses: Sequence[Diagnosis], out: Console) -> None:
    for number, one in enumerate(diagnoses):
        if number:
            out.print()
        out.print(Text(printable(one.outcome.path), style="bold"), soft_wrap=True)
        for label, text in _lines(one):
            line = Text(f"  {label:<11}", style="dim").append(one_line(text), style="not dim")
            out.print(line, soft_wrap=True)


def _lines(one: Diagnosis) -> list[tuple[str, str]]:
    found = one.found
    cached = int(found.get("cached_bytes") or 0)
    lines = [
        ("DID", str(found["did"])),
        ("size", size(int(found["bytes"] or 0))),
        ("state", str(found.get("state") or "")),
        ("locality", str(found.get("locality") or "")),
        ("read from", str(found.get("source") or "")),
        *(("replica", f"{rse} {state}") for rse, state in states(found).items()),
        ("local copy", _local(found)),
        ("cached", size(cached) if cached else ""),
        ("rule", str(found.get("rule_id") or "")),
        ("rule at", str(found.get("rule_url") or "")),
        ("expires", str(found.get("expires_at") or "")),
        ("error", str(found.get("error") or "")),
        *(
            ("problem", f"{problem['time']} {problem['state']}: {problem['error']}")
            for problem in found.get("problems") or ()
        ),
        *(
            ("declared" if _is_declared(one, suspect) else "suspect", ": ".join(suspect))
            for suspect in one.suspects
        ),
    ]
    return [(label, text) for label, text in lines if text]


def _local(found: Mapping[str, Any]) -> str:
    local = found.get("local")
    if not local:
        return ""
    return f"{found['local_path']}: {local['error'] or 'can be read, and has the right size'}"
