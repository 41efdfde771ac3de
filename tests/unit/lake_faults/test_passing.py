"""A proxy without faults must not be noticed."""

from __future__ import annotations

import http.client
import socket
import time

import pytest
import requests

from lake.faults import FaultProxy
from tests.unit.lake_faults.conftest import Connect
from tests.unit.lake_faults.upstream import BIG, PLAIN, ROWS, Upstream


@pytest.mark.parametrize(
    ("path", "body"),
    [("/plain", PLAIN), ("/rows", b"".join(ROWS)), ("/close", PLAIN), ("/once", PLAIN)],
)
def test_bodies_pass_in_every_framing(proxy: FaultProxy, path: str, body: bytes) -> None:
    answer = requests.get(proxy.url + path, timeout=10)
    assert (answer.status_code, answer.content) == (200, body)


def test_a_request_body_passes_with_length_and_chunked(proxy: FaultProxy) -> None:
    assert requests.post(proxy.url + "/echo", data=PLAIN, timeout=10).content == PLAIN
    pieces = (PLAIN[i : i + 1000] for i in range(0, len(PLAIN), 1000))
    assert requests.put(proxy.url + "/echo", data=pieces, timeout=10).content == PLAIN


def test_one_connection_serves_many_requests(
    proxy: FaultProxy, upstream: Upstream, connect: Connect
) -> None:
    connection = connect(proxy)
    for path in ("/plain", "/rows", "/plain"):
        connection.request("GET", path)
        sock = connection.sock
        assert connection.getresponse().read()
        assert connection.sock is sock
    connection.request("HEAD", "/plain")
    answer = connection.getresponse()
    assert (answer.headers["Content-Length"], answer.read()) == (str(len(PLAIN)), b"")
    assert upstream.connections == 1


def test_an_idle_upstream_connection_that_was_closed_is_replaced(
    proxy: FaultProxy, upstream: Upstream, connect: Connect
) -> None:
    connection = connect(proxy)
    for _ in range(3):
        connection.request("GET", "/once")
        assert connection.getresponse().read() == PLAIN
    assert upstream.connections == 3


def test_the_first_chunk_arrives_before_the_second_exists(
    proxy: FaultProxy, upstream: Upstream, connect: Connect
) -> None:
    connection = connect(proxy)
    connection.request("GET", "/gated")
    answer = connection.getresponse()
    assert answer.readline() == b"first\n"
    upstream.gate.set()
    assert answer.read() == b"second\n"


def test_twelve_megabytes_pass_in_well_under_a_second(proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(proxy)
    start = time.monotonic()
    connection.request("GET", "/big")
    assert connection.getresponse().read() == BIG
    assert time.monotonic() - start < 1.0


def test_an_early_refusal_reaches_a_client_that_is_still_sending(
    proxy: FaultProxy, connect: Connect
) -> None:
    connection = connect(proxy)
    connection.putrequest("PUT", "/early")
    connection.putheader("Content-Length", str(len(BIG)))
    connection.endheaders()
    connection.send(b"only the beginning")
    assert connection.getresponse().status == 403


def test_continue_passes(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as sock:
        sock.sendall(
            b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert sock.recv(4096).startswith(b"HTTP/1.1 100")
        sock.sendall(b"body")
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.read() == b"body"
        answer.close()


def test_an_upstream_that_hangs_up_looks_so(proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(proxy)
    connection.request("GET", "/drop")
    with pytest.raises(ConnectionError):
        connection.getresponse()


def test_an_upstream_that_is_down_looks_so(connect: Connect) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with FaultProxy(f"http://127.0.0.1:{unused.getsockname()[1]}") as proxy:
            connection = connect(proxy)
            connection.request("GET", "/")
            with pytest.raises(ConnectionError):
                connection.getresponse()


def test_requests_are_recorded(proxy: FaultProxy) -> None:
    before = time.time()
    requests.get(proxy.url + "/plain?a=b", headers={"User-Agent": "rucio-fs/1"}, timeout=10)
    requests.post(proxy.url + "/echo", data=b"x", timeout=10)
    first, second = proxy.wait_requests(2)
    assert (first.method, first.path, first.status) == ("GET", "/plain?a=b", 200)
    assert (first.user_agent, first.faults) == ("rucio-fs/1", ())
    assert before <= first.time <= second.time <= time.time()
    assert (second.method, second.path) == ("POST", "/echo")
    proxy.clear_requests()
    assert proxy.requests == []


def test_the_host_header_is_the_clients(proxy: FaultProxy, upstream: Upstream) -> None:
    requests.get(proxy.url + "/plain", timeout=10)
    assert upstream.headers[-1]["Host"] == f"127.0.0.1:{proxy.port}"


def test_close_and_start_again_on_the_same_port(upstream: Upstream) -> None:
    proxy = FaultProxy(upstream.url).start()
    port = proxy.port
    proxy.close()
    proxy.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), 5)
    with proxy:
        assert proxy.port == port
        assert requests.get(proxy.url + "/plain", timeout=10).content == PLAIN
