"""Every fault on every kind of question that the mount asks, seen with the user's own programs.

Whatever happens, a user gets the truth or an error: no name that is said not to exist, no part of
a directory shown as the whole, and nothing of it remembered.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from lake import Lake
from lake.faults import Action, Cut, Fault, Refuse, Reset, Stall, Status, Timeout
from tests import direct
from tests.faulty import PATIENCE, FaultyMount, Look

pytestmark = [pytest.mark.fuse, pytest.mark.lake]

_HTML = {"Content-Type": "text/html; charset=utf-8"}
_PAGE = b"<!DOCTYPE html>\n<html><title>Sign in</title><body>Please log in.</body></html>\n"
_AWAY = {"EREMOTEIO"}
_SLOW = {"EREMOTEIO", "ETIMEDOUT"}
_DENIED = {"EACCES"}
_MTIME = 1_704_164_645
_CELLS_AT_ONCE = 6


def _rucio_says(status: int, name: str) -> Status:
    """An error in the form that Rucio gives it."""
    headers = {"Content-Type": "application/json", "ExceptionClass": name}
    body = f'{{"ExceptionClass": "{name}", "ExceptionMessage": "injected"}}'
    return Status(status, body.encode(), headers)


FAULTS: dict[str, tuple[Action, set[str]]] = {
    "gone": (Refuse(), _AWAY),
    "429": (Status(429), _AWAY),
    "429-retry-after": (Status(429, headers={"Retry-After": "1"}), _AWAY),
    "429-retry-much-later": (Status(429, headers={"Retry-After": "600"}), _AWAY),
    "500-html": (Status(500, _PAGE, _HTML), _AWAY),
    "502": (Status(502, _PAGE, _HTML), _AWAY),
    "503": (Status(503), _AWAY),
    "503-by-rucio": (_rucio_says(503, "ServiceUnavailable"), _AWAY),
    "500-database": (_rucio_says(500, "DatabaseException"), _AWAY),
    "silence": (Timeout(), _SLOW),
    "stall": (Stall(20), _SLOW),
    "reset": (Reset(), _AWAY),
    "reset-in-the-middle": (Reset(20), _AWAY),
    "broken-off": (Cut(20, "broken"), _AWAY),
    "cut-in-a-row": (Cut(20, "clean"), _AWAY),
    "login-page": (Status(200, _PAGE, _HTML), _AWAY),
    "redirect-to-a-login": (Status(302, headers={"Location": "/signin"}), _AWAY),
    "404-html": (Status(404, _PAGE, _HTML), _AWAY),
    "404-empty": (Status(404), _AWAY),
    "denied-401": (_rucio_says(401, "AccessDenied"), _DENIED),
    "denied-500": (_rucio_says(500, "AccessDenied"), _DENIED),
    "token-refused": (_rucio_says(401, "CannotAuthenticate"), _DENIED),
}


@dataclass(frozen=True)
class Question:
    """A kind of request, what a user does to cause it, and what they then have to see.

    *at* is a path below the scope, *named* how the log calls what was asked about; ``{n}`` is a
    dataset that no other cell looks at, with the files ``{n}.a``, ``{n}.b`` and ``{n}.c``.
    """

    request: str
    command: tuple[str, ...]
    at: str
    named: str
    is_whole: Callable[[list[str], str], bool]
    questions: int = 1  # that fail in one run of the command


def _is_listing(lines: list[str], n: str) -> bool:
    return sorted(lines) == [f"{n}.a", f"{n}.b", f"{n}.c"]


def _is_long_listing(lines: list[str], n: str) -> bool:
    rows = sorted(line.split()[-3:] for line in lines[1:])
    return rows == [["5", str(_MTIME), f"{n}.{letter}"] for letter in "abc"]


def _attributes(*wanted: str) -> Callable[[list[str], str], bool]:
    return lambda lines, n: all(want.format(n=n) in lines for want in wanted)


_LS = ("ls", "-1U")
_STAT = ("stat", "-c", "%F %s %Y")
_GETFATTR = ("getfattr", "-d", "--absolute-names")

QUESTIONS: dict[str, Question] = {
    "scopes-ls": Question(
        "^/scopes/", _LS, "..", "the list of scopes", lambda lines, n: {"sky", "lab"} <= set(lines)
    ),
    "scope-ls": Question(
        "^/dids/[^/]+/$", _LS, "", "scope {scope}", lambda lines, n: len(lines) == len(CELLS)
    ),
    "meta-stat": Question(
        "/meta", _STAT, "{n}", "{scope}:{n}", lambda lines, n: lines == [f"directory 0 {_MTIME}"]
    ),
    "meta-stat-file": Question(
        "/meta",
        _STAT,
        "{n}.a",
        "{scope}:{n}.a",
        lambda lines, n: lines == [f"regular file 5 {_MTIME}"],
    ),
    "content-ls": Question("/dids$", _LS, "{n}", "{scope}:{n}", _is_listing),
    "content-stat": Question(
        "/dids$",
        _STAT,
        "{n}/{n}.b",
        "{scope}:{n}",
        lambda lines, n: lines == [f"regular file 5 {_MTIME}"],
    ),
    "content-cat": Question(
        "/dids$", ("cat",), "{n}/{n}.a", "{scope}:{n}", lambda lines, n: lines == ["whole"]
    ),
    "bulkmeta-ls-l": Question(
        "/bulkmeta", ("ls", "-lU", "--time-style=+%s"), "{n}", "{scope}:{n}", _is_long_listing, 3
    ),
    "replicas-cat": Question(
        "/replicas/", ("cat",), "{n}.a", "{scope}:{n}.a", lambda lines, n: lines == ["whole"]
    ),
    "replicas-getfattr": Question(
        "/replicas/",
        _GETFATTR,
        "{n}.a",
        "{scope}:{n}.a",
        _attributes('user.rucio.state="AVAILABLE"', 'user.rucio.bytes="5"'),
    ),
    "metadata-getfattr": Question(
        "plugin=JSON",
        _GETFATTR,
        "{n}",
        "{scope}:{n}",
        _attributes('user.rucio.meta.number="{n}"', 'user.rucio.length="3"'),
    ),
}
CELLS: list[str] = [f"{question}, {fault}" for question in QUESTIONS for fault in FAULTS]


@dataclass(frozen=True)
class Outcome:
    """What was seen in one cell: during the fault, at once after it, and in the log."""

    broken: Look
    healed: Look
    problems: list[str]
    logins: int
    hits: int
    n: str
    scope: str
    host: str


@pytest.fixture(scope="module")
def scope(lake: Lake) -> Iterator[str]:
    """A scope with a dataset for every cell."""
    name = direct.fresh_scope()
    numbers = [f"{number:03d}" for number in range(len(CELLS))]
    files = [direct.File(f"{n}.{letter}", b"whole") for n in numbers for letter in "abc"]
    datasets = [direct.Collection(n, [f"{n}.{letter}" for letter in "abc"]) for n in numbers]
    metadata = {n: {"number": n, "note": "longer than where answers are cut"} for n in numbers}
    time = datetime.fromtimestamp(_MTIME, UTC).replace(tzinfo=None).isoformat()
    direct.insert(lake, name, direct.Plan(files, datasets, metadata, time))
    yield name
    direct.hide(lake, name)


@pytest.fixture(scope="module")
def outcomes(
    lake: Lake, scope: str, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Outcome]]]:
    """What happens in the cells that are to be tested, each on a mount that is free.

    A cell mostly waits for a deadline to pass, so a few are worked on at a time.
    """
    cells = [
        str(item.callspec.params["cell"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.originalname == test_fault.__name__
        and item.path == request.path
    ]
    free: queue.SimpleQueue[FaultyMount] = queue.SimpleQueue()

    def run(cell: str) -> Outcome:
        rig = free.get()
        try:
            return _run(rig, scope, cell)
        finally:
            free.put(rig)

    with ExitStack() as stack:
        # On a busy machine the usual five minutes of the scopes would end between the cells.
        lasting = {"cache.scopes_ttl": 3600}
        rigs = [stack.enter_context(FaultyMount(lake, lasting)) for _ in range(_CELLS_AT_ONCE)]
        for rig in rigs:
            assert rig.look("stat", at=scope).code == 0
            free.put(rig)
        pool = stack.enter_context(ThreadPoolExecutor(_CELLS_AT_ONCE))
        yield {cell: pool.submit(run, cell) for cell in cells}
        pool.shutdown(cancel_futures=True)
        for rig in rigs:
            rig.check_log()


def _run(rig: FaultyMount, scope: str, cell: str) -> Outcome:
    question_name, fault_name = cell.split(", ")
    question, action = QUESTIONS[question_name], FAULTS[fault_name][0]
    n = f"{CELLS.index(cell):03d}"
    at = f"{scope}/{question.at.format(n=n)}"
    rig.refresh()
    rig.proxy.clear_requests()
    before = len(rig.mount.log_text())
    with rig.proxy.add(Fault(action, path=question.request)) as fault:
        broken = rig.look(*question.command, at=at)
        hits = fault.hits
    logins, problems = rig.logins(), rig.problems(before)
    healed = rig.look(*question.command, at=at)
    return Outcome(broken, healed, problems, logins, hits, n, scope, rig.proxy.url)


@pytest.mark.parametrize("cell", CELLS)
def test_fault(outcomes: dict[str, Future[Outcome]], cell: str) -> None:
    question_name, fault_name = cell.split(", ")
    question, (action, errnos) = QUESTIONS[question_name], FAULTS[fault_name]
    seen = outcomes[cell].result()
    assert seen.hits or isinstance(action, Refuse), "the fault was not met"

    # An error of the right kind, in time, and no part of the truth as the whole.
    assert seen.broken.code != 0
    assert seen.broken.errnos <= errnos, (seen.broken, seen.problems)
    assert not question.is_whole(seen.broken.lines, seen.n)
    if question.command is _LS:
        assert seen.broken.lines == []
    assert seen.broken.seconds < PATIENCE * question.questions

    # The very next look has the whole truth.
    assert seen.healed.code == 0, seen.healed.err
    assert question.is_whole(seen.healed.lines, seen.n), seen.healed.out

    # The log says what was asked, and of whom; there is no storm of lines or of logins.
    named = question.named.format(n=seen.n, scope=seen.scope)
    if fault_name == "token-refused":
        named = f"{seen.host} does not let account root in"
    telling = [line for line in seen.problems if named in line]
    assert telling, seen.problems
    if errnos != _DENIED:
        assert [line for line in telling if seen.host in line], telling
    assert len(seen.problems) <= 2 * question.questions + 1, seen.problems
    assert seen.logins <= (2 * question.questions if fault_name == "token-refused" else 0)
