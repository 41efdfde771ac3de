"""What every rule of a mount says, and what may be written to ask for one."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from rucio_fs.config import Config, RulesConfig
from rucio_fs.did import RuleTerms
from rucio_fs.errors import Refused
from rucio_fs.nodes import requests
from rucio_fs.rules import services
from rucio_fs.rules.finding import MARK, Finder
from rucio_fs.rules.services import RuleServices
from tests.fake_rules import TERMS, FakeRules


def terms(config: RulesConfig | None = None, rse: str | None = "COLO") -> RuleTerms | None:
    return services.terms(config or RulesConfig(), rse, "ann", "/mnt/lake")


def test_what_rules_say_by_default() -> None:
    assert terms() == RuleTerms(
        account="ann",
        rse_expression="COLO",
        lifetime=7 * 86400,
        comment=f"rucio-fs on {socket.gethostname()} at /mnt/lake",
        activity=None,
        priority=3,
        purge_replicas=False,
        ask_approval=False,
        asynchronous=False,
        source_rse_expression=None,
        weight=None,
        notify="N",
    )


def test_what_rules_say_as_configured() -> None:
    config = RulesConfig(
        rse_expression="site=HERE",
        account="group",
        lifetime=0.0,
        activity="Analysis",
        priority=5,
        purge_replicas=True,
        ask_approval=True,
        asynchronous=True,
        source_rse_expression="REM1",
        weight="speed",
        notify="progress",
        comment="for the night shift",
    )
    made = terms(config)
    assert made is not None
    assert made.comment.endswith("/mnt/lake: for the night shift")
    assert made == RuleTerms(
        "group", "site=HERE", None, made.comment, "Analysis", 5, True, True, True, "REM1",
        "speed", "P",
    )  # fmt: skip


def test_nowhere_to_bring_anything_to() -> None:
    assert terms(rse=None) is None
    made = terms(RulesConfig(rse_expression="COLO|SCRATCH"), rse=None)
    assert made is not None
    assert made.rse_expression == "COLO|SCRATCH"


@pytest.mark.parametrize(
    ("said", "letter"), [("no", "N"), ("done", "Y"), ("closed", "C"), ("progress", "P")]
)
def test_letters_of_notification(said: str, letter: str) -> None:
    made = terms(RulesConfig(notify=said))
    assert made is not None
    assert made.notify == letter


def test_a_long_comment_is_cut_and_still_ours() -> None:
    made = terms(RulesConfig(comment="x" * 1000))
    assert made is not None
    assert len(made.comment) == 250
    assert made.comment.startswith(MARK)


async def test_the_parts_belong_together(
    clock: MockClock, rules: FakeRules, nursery: trio.Nursery
) -> None:
    built = RuleServices.build(
        Config(), TERMS, rules, "https://rucio", nursery, lambda delivery: None
    )
    assert built.url == "https://rucio/rules/{rule_id}"
    assert isinstance(built.keeper.finder, Finder)
    config = Config(rules=RulesConfig(url="https://webui/rule?id={rule_id}"))
    built = RuleServices.build(
        config, TERMS, rules, "https://rucio", nursery, lambda delivery: None
    )
    assert built.url == "https://webui/rule?id={rule_id}"


# --- what is written into user.rucio.request ------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "lifetime"),
    [
        ("1", None),
        ("", None),
        ("{}", None),
        ('{"lifetime": null}', None),
        ('{"lifetime": 86400}', 86400),
        ('{"lifetime": 1.6}', 2),
        ('{"lifetime": 1}', 1),
    ],
)
def test_requests(value: str, lifetime: int | None) -> None:
    assert requests._lifetime(value) == lifetime


@pytest.mark.parametrize(
    "value",
    [
        "0", "2", "yes", "[]", '"1"', "null", '{"lifetime": 0}', '{"lifetime": -1}', "{",
        '{"lifetime": 0.5}', '{"lifetime": true}', '{"lifetime": "1 day"}', '{"lifetime": NaN}',
        '{"lifetime": Infinity}', '{"lifetime": 1e300}', '{"lifetime": [1]}',
        '{"lifetime": 1, "rse": "X"}', '{"life": 1}',
    ],
)  # fmt: skip
def test_no_requests(value: str) -> None:
    with pytest.raises(Refused, match=r"user\.rucio\.request"):
        requests._lifetime(value)
