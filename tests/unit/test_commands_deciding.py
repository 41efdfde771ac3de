"""When a wait is over and with which code, for every state, and for several paths together."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from rucio_fs.commands.deciding import End, Exit, Progress, decide, overall
from tests.unit.commands_fakes import progress

D, F, W, P, N, INT = (
    Exit.DONE, Exit.FAILED, Exit.WRONG_CALL, Exit.PARTLY, Exit.NOT_YET, Exit.INTERRUPTED,
)  # fmt: skip


def ended(**facts: Any) -> End | None:
    return decide(Progress.of(progress(**facts)))


@pytest.mark.parametrize(
    ("facts", "exit"),
    [
        ({"state": "AVAILABLE"}, D),
        ({"state": "REPLICATING"}, None),
        ({"state": "REPLICATING", "files_here": 4, "files_stuck": 6}, None),
        ({"state": "REPLICATING", "files": None}, None),
        ({"state": "REQUESTED"}, None),
        ({"state": "NOT_AVAILABLE", "rule_id": None}, F),
        ({"state": "NOT_AVAILABLE"}, F),
        ({"state": "NEARLINE", "rule_id": None}, F),
        ({"state": "SUSPENDED", "files_here": 5}, F),
        ({"state": "WAITING_APPROVAL"}, F),
        # Others of the dataset are still moving, or it is not known how many there are.
        ({"state": "STUCK", "files_here": 3, "files_stuck": 6}, None),
        ({"state": "STUCK", "files": None, "files_here": 3, "files_stuck": 6}, None),
        ({"state": "STUCK", "files_here": 4, "files_stuck": 6}, P),
        ({"state": "STUCK", "files_here": 0, "files_stuck": 10}, F),
        ({"state": "STUCK", "files_here": 10, "files_stuck": 0}, D),
        ({"state": "STUCK", "type": "CONTAINER", "files_here": 9, "files_stuck": 1}, P),
        ({"state": "STUCK", "type": "FILE", "files": 1, "files_stuck": 1}, F),
        ({"state": "STUCK", "type": "FILE", "files": None}, F),
    ],
)
def test_the_end_of_each_state(facts: dict[str, Any], exit: Exit | None) -> None:
    end = ended(**facts)
    assert (None if end is None else end.exit) == exit
    if end is not None:
        assert (end.words is None) == (exit is D)


@pytest.mark.parametrize(
    "state", ["NOT_AVAILABLE", "NEARLINE", "SUSPENDED", "WAITING_APPROVAL", "STUCK"]
)
def test_the_words_are_the_mount_s(state: str) -> None:
    end = ended(state=state, type="FILE", files=1, error="quota is gone")
    assert end == End(F, "quota is gone")


def test_words_where_the_mount_has_none() -> None:
    assert ended(state="NOT_AVAILABLE", rule_id=None) == End(
        F, "nothing brings it; run: rucio-fs get -r PATH"
    )
    assert ended(state="NOT_AVAILABLE", rule_id=None, type="FILE") == End(
        F, "nothing brings it; run: rucio-fs get PATH"
    )
    assert ended(state="NOT_AVAILABLE") == End(F, "rule r1 is done, but no copy is at the site")
    assert ended(state="WAITING_APPROVAL") == End(F, "its rule r1 is WAITING_APPROVAL")
    assert ended(state="STUCK", files_here=4, files_stuck=6, error="no source") == End(
        P, "4 of 10 files are here, 6 stuck: no source"
    )


def test_a_newer_mount_may_tell_more() -> None:
    assert Progress.of(progress(colour="blue")).files == 10


@pytest.mark.parametrize(
    ("exits", "together"),
    [
        ([], D),
        ([D, D], D),
        ([F, F], F),
        ([W, W], W),
        ([P], P),
        ([N, N], N),
        ([D, N], N),
        ([D, F], P),
        ([D, W], P),
        ([D, N, F], P),
        ([P, N], P),
        ([P, F], P),
        ([F, W], F),
        ([F, N], F),
        ([W, N], F),
        ([D, F, INT], INT),
    ],
)
def test_several_paths(exits: list[Exit], together: Exit) -> None:
    assert overall(exits) is together
    assert overall(reversed(exits)) is together


def test_0_is_only_for_all_here() -> None:
    for exits in product(Exit, repeat=3):
        assert (overall(exits) is D) == (set(exits) == {D})
