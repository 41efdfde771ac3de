"""docs/SEMANTICS.md promises nothing that no test checks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "SEMANTICS.md").read_text()
STATEMENTS = re.findall(r"^\d+\. .*$", TEXT, re.MULTILINE)
_REFERENCE = re.compile(r"\[([\w/]+\.py)::(\w+)\]")


def _tests(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def _missing(statement: str) -> list[str]:
    missing = []
    for file, name in _REFERENCE.findall(statement):
        path = ROOT / (file if "/" in file else f"tests/fuse/{file}")
        if not path.exists() or name not in _tests(path):
            missing.append(f"{file}::{name}")
    return missing


def test_there_are_statements() -> None:
    assert len(STATEMENTS) > 150
    assert len(_REFERENCE.findall(TEXT)) >= len(STATEMENTS)


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda text: text[:50])
def test_every_statement_names_tests_that_exist(statement: str) -> None:
    assert _REFERENCE.search(statement), "no test checks this"
    assert _missing(statement) == []


def test_statements_are_numbered_in_order() -> None:
    for section in TEXT.split("\n## ")[1:]:
        numbers = [int(number) for number in re.findall(r"^(\d+)\. ", section, re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1)), section.splitlines()[0]


def test_what_is_not_there_is_noticed() -> None:
    assert _missing("1. x [test_tree.py::test_nothing] [no_such.py::test_any_did]") == [
        "test_tree.py::test_nothing",
        "no_such.py::test_any_did",
    ]
