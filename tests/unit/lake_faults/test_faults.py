"""Each fault does what it says, to the requests it is meant for and to no other."""

from __future__ import annotations

import http.client
import re
import select
import socket
import threading
import time
from collections.abc import Callable

import pytest
import requests

from lake.faults import (
    Action,
    Corrupt,
    Cut,
    DropHeader,
    Fault,
    FaultProxy,
    Latency,
    Refuse,
    ReplaceHeader,
    Reset,
    Stall,
    Status,
    Timeout,
)
from tests.unit.lake_faults.conftest import Connect
from tests.unit.lake_faults.upstream import PLAIN, ROWS, Upstream

BODIES = {"/plain": PLAIN, "/rows": b"".join(ROWS), "/close": PLAIN}


def get(proxy: FaultProxy, path: str = "/plain") -> requests.Response:
    return requests.get(proxy.url + path, timeout=10)


def test_status_answers_in_place_of_the_upstream(
    proxy: FaultProxy, upstream: Upstream, connect: Connect
) -> None:
    page = b"<html><title>500 Internal Server Error</title></html>"
    proxy.add(Fault(Status(500, page, {"Content-Type": "text/html"}), method="post", times=1))
    connection = connect(proxy)
    connection.request("POST", "/echo", b"never to be seen")
    answer = connection.getresponse()
    assert (answer.status, answer.reason) == (500, "Internal Server Error")
    assert (answer.read(), answer.headers["Content-Type"]) == (page, "text/html")
    assert upstream.seen == []
    # The same connection goes on: the request's body was read although nobody wanted it.
    connection.request("POST", "/echo", b"hello")
    assert connection.getresponse().read() == b"hello"
    assert [record.status for record in proxy.requests] == [500, 200]
    assert [record.faults for record in proxy.requests] == [("Status",), ()]


def test_status_with_retry_after(proxy: FaultProxy) -> None:
    proxy.add(Fault(Status(429, headers={"Retry-After": "7"})))
    answer = get(proxy)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


def test_status_to_head_has_no_body(proxy: FaultProxy, connect: Connect) -> None:
    proxy.add(Fault(Status(503, b"down"), times=1))
    connection = connect(proxy)
    connection.request("HEAD", "/plain")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (503, b"")
    connection.request("GET", "/plain")
    assert connection.getresponse().read() == PLAIN


def test_method_path_nth_and_times_choose(proxy: FaultProxy) -> None:
    proxy.add(Fault(Status(503), path=r"^/rows\?", times=2))
    proxy.add(Fault(Status(404), method="GET", path="plain", nth=2))
    third = proxy.add(Fault(Status(418), method="DELETE"))
    rows = [get(proxy, "/rows?x").status_code for _ in range(3)]
    assert rows == [503, 503, 200]
    assert get(proxy, "/rows").status_code == 200
    assert [get(proxy).status_code for _ in range(3)] == [200, 404, 200]
    assert [handle.hits for handle in proxy.faults] == [2, 1, 0]
    assert [handle.is_active for handle in proxy.faults] == [False, False, True]
    third.remove()
    assert third not in proxy.faults
    assert not third.is_active


def test_a_handle_is_a_context_manager(proxy: FaultProxy) -> None:
    with proxy.add(Fault(Status(503))):
        assert get(proxy).status_code == 503
    assert get(proxy).status_code == 200


def test_timeout_never_answers_until_cleared(
    proxy: FaultProxy, upstream: Upstream, connect: Connect
) -> None:
    handle = proxy.add(Fault(Timeout()))
    connection = connect(proxy)
    connection.request("GET", "/plain")
    handle.wait()
    sock = connection.sock
    assert sock is not None
    sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    assert upstream.seen == []
    assert proxy.requests[0].status is None
    sock.settimeout(10)
    proxy.clear()
    assert connection.getresponse().read() == PLAIN


def test_a_client_that_gives_up_waiting_never_reaches_the_upstream(
    proxy: FaultProxy, upstream: Upstream, connect: Connect
) -> None:
    handle = proxy.add(Fault(Timeout(), path="/echo"))
    connection = connect(proxy)
    connection.request("POST", "/echo", b"body")
    handle.wait()
    connection.close()
    get(proxy)  # gives the proxy's loop the turn in which it notices
    proxy.clear()
    get(proxy)
    assert ("POST", "/echo") not in upstream.seen


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("after", [0, 1, 5000])
def test_stall_holds_the_rest_until_cleared(
    proxy: FaultProxy, connect: Connect, path: str, after: int
) -> None:
    handle = proxy.add(Fault(Stall(after_bytes=after)))
    connection = connect(proxy)
    connection.request("GET", path)
    sock = connection.sock
    answer = connection.getresponse()
    got = b""
    while len(got) < after:
        got += answer.read1(after - len(got))
    assert got == BODIES[path][:after]
    assert sock is not None
    assert select.select([sock], [], [], 0.1) == ([], [], [])
    handle.remove()
    assert answer.read() == BODIES[path][after:]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("after", [0, 5000])
def test_reset_comes_in_the_middle(
    proxy: FaultProxy, connect: Connect, path: str, after: int
) -> None:
    proxy.add(Fault(Reset(after_bytes=after)))
    connection = connect(proxy)
    connection.request("GET", path)
    assert connection.sock is not None
    got = b""
    with pytest.raises(ConnectionResetError):  # noqa: PT012
        while data := connection.sock.recv(65536):
            got += data
    # Nothing beyond; less if the reset was faster than this test.
    _head, _, body = got.partition(b"\r\n\r\n")
    if path == "/rows":
        body = re.sub(rb"(\A|\r\n)[0-9a-f]*(\r\n|\r?\Z)", b"", body).rstrip(b"\r")
    assert BODIES[path][:after].startswith(body)
    assert proxy.requests[0].status == 200


def test_reset_before_any_answer(proxy: FaultProxy, upstream: Upstream, connect: Connect) -> None:
    proxy.add(Fault(Reset()))
    connection = connect(proxy)
    connection.request("GET", "/plain")
    with pytest.raises(ConnectionResetError):
        connection.getresponse()
    assert upstream.seen == []


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("after", [0, 1, 5000])
def test_a_clean_cut_is_not_to_be_seen(proxy: FaultProxy, path: str, after: int) -> None:
    proxy.add(Fault(Cut(after_bytes=after)))
    answer = get(proxy, path)
    assert (answer.status_code, answer.content) == (200, BODIES[path][:after])


def test_a_clean_cut_keeps_the_connection(proxy: FaultProxy, connect: Connect) -> None:
    proxy.add(Fault(Cut(after_bytes=100), path="rows"))
    connection = connect(proxy)
    for path, body in (("/rows", BODIES["/rows"][:100]), ("/plain", PLAIN)):
        connection.request("GET", path)
        assert connection.getresponse().read() == body
        assert connection.sock is not None


def test_a_cut_beyond_the_end_cuts_nothing(proxy: FaultProxy) -> None:
    proxy.add(Fault(Cut(after_bytes=1 << 20)))
    assert get(proxy).content == PLAIN


@pytest.mark.parametrize("path", ["/plain", "/rows"])
def test_a_broken_cut_breaks_the_framing(proxy: FaultProxy, connect: Connect, path: str) -> None:
    proxy.add(Fault(Cut(after_bytes=5000, framing="broken")))
    connection = connect(proxy)
    connection.request("GET", path)
    with connection.getresponse() as answer, pytest.raises(http.client.IncompleteRead) as caught:
        answer.read()
    assert caught.value.partial == BODIES[path][:5000]


def test_latency_delays_and_passes(proxy: FaultProxy) -> None:
    proxy.add(Fault(Latency(0.2)))
    start = time.monotonic()
    assert get(proxy).content == PLAIN
    assert time.monotonic() - start >= 0.2


def test_latency_ends_when_cleared(proxy: FaultProxy) -> None:
    handle = proxy.add(Fault(Latency(60)))
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(get(proxy).content))
    thread.start()
    handle.wait()
    proxy.clear()
    thread.join(5)
    assert answers == [PLAIN]


def test_refuse_is_a_host_that_is_down_and_up_again(proxy: FaultProxy, connect: Connect) -> None:
    kept = connect(proxy)
    kept.request("GET", "/plain")
    kept.getresponse().read()
    for _ in range(3):
        with proxy.add(Fault(Refuse())):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", proxy.port), 5)
            with socket.socket() as thief, pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", proxy.port))
        assert get(proxy).content == PLAIN
    assert kept.sock is not None
    with pytest.raises(ConnectionResetError):
        kept.sock.recv(1)


def test_refuse_some_connections(proxy: FaultProxy) -> None:
    handle = proxy.add(Fault(Refuse(), times=2))
    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            get(proxy)
    assert get(proxy).content == PLAIN
    assert handle.hits == 2


@pytest.mark.parametrize("path", BODIES)
def test_corrupt_flips_what_it_is_told(proxy: FaultProxy, path: str) -> None:
    proxy.add(Fault(Corrupt(offset=4999, length=3, mask=0x01)))
    body = bytearray(BODIES[path])
    for index in range(4999, 5002):
        body[index] ^= 0x01
    assert get(proxy, path).content == bytes(body)


def test_headers_of_the_answer(proxy: FaultProxy) -> None:
    proxy.add(Fault(DropHeader("x-rucio-auth-token"), times=1))
    assert "X-Rucio-Auth-Token" not in get(proxy).headers
    proxy.add(Fault(ReplaceHeader("x-rucio-auth-token", "other"), times=1))
    assert get(proxy).headers["X-Rucio-Auth-Token"] == "other"
    assert get(proxy).headers["X-Rucio-Auth-Token"] == "secret"


def test_headers_of_the_request(proxy: FaultProxy, upstream: Upstream) -> None:
    proxy.add(Fault(DropHeader("user-agent", on="request")))
    proxy.add(Fault(ReplaceHeader("X-New", "1", on="request")))
    proxy.add(Fault(DropHeader("X-Rucio-Auth-Token", on="request")))
    answer = get(proxy)
    assert "User-Agent" not in upstream.headers[-1]
    assert upstream.headers[-1]["X-New"] == "1"
    # The answer's own headers are left alone.
    assert answer.headers["X-Rucio-Auth-Token"] == "secret"
    assert "X-New" not in answer.headers


def test_faults_add_up(proxy: FaultProxy) -> None:
    proxy.add(Fault(Corrupt(offset=0)))
    proxy.add(Fault(Cut(after_bytes=2)))
    assert get(proxy).content == bytes((PLAIN[0] ^ 0xFF, PLAIN[1]))
    assert proxy.requests[0].faults == ("Corrupt", "Cut")


def test_drop_connections(proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(proxy)
    connection.request("GET", "/plain")
    connection.getresponse().read()
    proxy.drop_connections()
    assert connection.sock is not None
    with pytest.raises(ConnectionResetError):
        connection.sock.recv(1)


@pytest.mark.parametrize("action", [Timeout(), Stall(100), Latency(60)])
def test_close_lets_go_of_everybody_within_a_second(upstream: Upstream, action: Action) -> None:
    proxy = FaultProxy(upstream.url).start()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            get(proxy, "/rows")
        except requests.RequestException as error:
            errors.append(error)

    handle = proxy.add(Fault(action))
    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    handle.wait(5)
    before = time.monotonic()
    proxy.close()
    assert time.monotonic() - before < 1.0
    for thread in threads:
        thread.join(5)
    assert len(errors) == 5
    assert not any(thread.name.startswith("fault-proxy") for thread in threading.enumerate())


def test_close_does_not_wait_for_an_upstream_that_is_slow(upstream: Upstream) -> None:
    proxy = FaultProxy(upstream.url).start()
    with requests.get(proxy.url + "/gated", stream=True, timeout=10) as answer:
        assert answer.raw.read(6) == b"first\n"
        start = time.monotonic()
        proxy.close()
        assert time.monotonic() - start < 1.0
        with pytest.raises(requests.RequestException):
            assert answer.content


def test_waiting_ends_with_a_timeout(proxy: FaultProxy) -> None:
    handle = proxy.add(Fault(Status(503)))
    with pytest.raises(TimeoutError, match="0 of 1 hits"):
        handle.wait(timeout=0.01)
    with pytest.raises(TimeoutError, match="0 of 1 requests"):
        proxy.wait_requests(1, timeout=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fault(Timeout(), times=0),
        lambda: Fault(Timeout(), nth=0),
        lambda: Fault(Timeout(), nth=1, times=1),
        lambda: FaultProxy("ftp://127.0.0.1:1"),
        lambda: FaultProxy("127.0.0.1:1"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()
