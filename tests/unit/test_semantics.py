"""docs/SEMANTICS.md promises nothing that no test checks, docs/COMMANDS.md names what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rucio_fs.nodes import attributes, requests
from rucio_fs.nodes.dids import REFRESH
from rucio_fs.uploads import attributes as of_scratch
from rucio_fs.uploads import options

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


# --- the table of attributes ---------------------------------------------------------------------


def _named(*kinds: str) -> set[str]:
    """The attributes that docs/COMMANDS.md has for one of *kinds*."""
    text = (ROOT / "docs" / "COMMANDS.md").read_text()
    table = text.partition("\n## Attributes\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    return {
        name
        for names, kind in rows
        if kind.strip() in kinds
        for name in re.findall("`(.*?)`", names)
    }


def test_every_attribute_is_documented() -> None:
    metadata = {"meta.KEY"}
    assert _named("all", "files") == attributes._OF_FILES.keys() | metadata
    assert _named("all", "collections") == attributes._OF_COLLECTIONS.keys() | metadata
    assert _named("scratch") == of_scratch._FACTS.keys() | set(options.KEYS)
    taken = {*requests.NAMES, requests.SUSPICIOUS, REFRESH}
    assert _named("set") == {name.removeprefix(attributes.PREFIX) for name in taken}


def test_attributes_of_the_catalogue_can_be_copied_to_scratch() -> None:
    """`cp -a` copies them, and they mean nothing of the copy."""
    assert attributes._OF_FILES.keys() | attributes._OF_COLLECTIONS.keys() <= of_scratch._COPIED
