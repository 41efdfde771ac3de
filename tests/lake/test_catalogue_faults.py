"""The real Rucio behind a proxy that breaks what passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import Lake
from lake.faults import (
    Action,
    Cut,
    DropHeader,
    Fault,
    FaultProxy,
    Refuse,
    ReplaceHeader,
    Reset,
    Stall,
    Status,
)
from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.rucio import RucioCatalogue
from rucio_fs.config import RucioConfig
from rucio_fs.did import DID, Identity
from rucio_fs.errors import LoginFailed, NotFound, TooSlow, Unreachable

pytestmark = pytest.mark.lake

MY = Identity()
ODD = DID("lab", "odd-names")
PATH = "/dids/lab/odd-names/dids"


@pytest.fixture
def proxy(lake: Lake) -> Iterator[FaultProxy]:
    with FaultProxy(lake.rucio_url) as proxy:
        yield proxy


@pytest.fixture
def catalogue(lake: Lake, proxy: FaultProxy, tmp_path: Path) -> Iterator[RucioCatalogue]:
    file = tmp_path / "rucio.cfg"
    text = lake.client_config().read_text()
    file.write_text(re.sub(r"(_host *= *)\S+", rf"\g<1>{proxy.url}", text))
    made = RucioCatalogue(
        Asking(RucioConfig(config_file=file, timeout=1.0, deadline=2.0, listing_deadline=10.0)),
        site="HERE",
    )
    yield made
    made.asking.close()


ACTIONS: dict[str, Action] = {
    "500": Status(500, b"<html>oops</html>", {"Content-Type": "text/html"}),
    "404": Status(404, b"<html>no such page</html>", {"Content-Type": "text/html"}),
    "login page": Status(200, b"<html>log in</html>", {"Content-Type": "text/html"}),
    "429": Status(429, b"", {"Retry-After": "0"}),
    "reset at once": Reset(),
    "reset within": Reset(300),
    "cut within": Cut(300, "broken"),
    "cut at once": Cut(0, "broken"),
    "cut within a row": Cut(300, "clean"),
    "another type": ReplaceHeader("Content-Type", "text/html"),
    "no type": DropHeader("Content-Type"),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())
async def test_a_passing_fault_is_not_seen(
    catalogue: RucioCatalogue, proxy: FaultProxy, action: Action
) -> None:
    whole = await catalogue.content(MY, ODD)
    fault = proxy.add(Fault(action, path=PATH, times=1))
    again = await catalogue.content(MY, ODD)
    assert fault.hits == 1
    assert set(again.members) == set(whole.members)


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())
async def test_a_lasting_fault_is_unreachable(
    catalogue: RucioCatalogue, proxy: FaultProxy, action: Action
) -> None:
    fault = proxy.add(Fault(action, path=PATH))
    with pytest.raises(Unreachable, match=re.escape(proxy.url)):
        await catalogue.content(MY, ODD)
    assert fault.hits > 1


async def test_a_lasting_stall_is_too_slow(catalogue: RucioCatalogue, proxy: FaultProxy) -> None:
    proxy.add(Fault(Stall(300), path=PATH))
    with pytest.raises(TooSlow):
        await catalogue.content(MY, ODD)


async def test_a_host_that_is_down(catalogue: RucioCatalogue, proxy: FaultProxy) -> None:
    await catalogue.content(MY, ODD)
    with proxy.add(Fault(Refuse())), pytest.raises(Unreachable, match=re.escape(proxy.url)):
        await catalogue.content(MY, ODD)
    assert len(await catalogue.content(MY, ODD))


async def test_an_unknown_did_is_asked_for_once(
    catalogue: RucioCatalogue, proxy: FaultProxy
) -> None:
    await catalogue.connect(MY)
    proxy.clear_requests()
    with pytest.raises(NotFound):
        await catalogue.info(MY, DID("lab", "no-such-did"))
    assert len(proxy.requests) == 1


async def test_a_wrong_password_is_tried_once(
    lake: Lake, proxy: FaultProxy, catalogue: RucioCatalogue, tmp_path: Path
) -> None:
    file = tmp_path / "rucio.cfg"
    _replace(file, r"(password *= *)\S+", r"\g<1>wrong")
    wrong = RucioCatalogue(Asking(RucioConfig(config_file=file)))
    with pytest.raises(LoginFailed, match="account root in with userpass"):
        await wrong.connect(MY)
    wrong.asking.close()
    assert [request.path.partition("?")[0] for request in proxy.requests] == ["/auth/userpass"]


def _replace(file: Path, pattern: str, by: str) -> None:
    file.write_text(re.sub(pattern, by, file.read_text()))
