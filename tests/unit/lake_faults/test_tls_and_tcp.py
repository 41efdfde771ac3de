"""TLS that the proxy ends itself, and TLS that passes unopened."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests

from lake.faults import (
    Corrupt,
    Cut,
    DropHeader,
    Fault,
    FaultProxy,
    Latency,
    Refuse,
    Reset,
    Stall,
    Status,
    Timeout,
    Tls,
)
from tests.unit.lake_faults.upstream import BIG, PLAIN, Upstream


@pytest.fixture
def secure(tls: Tls) -> Iterator[Upstream]:
    with Upstream(tls.cert, tls.key) as server:
        yield server


@pytest.fixture
def ended(secure: Upstream, tls: Tls) -> Iterator[FaultProxy]:
    """A proxy that opens the TLS on both sides."""
    with FaultProxy(secure.url, tls, host="localhost") as proxy:
        yield proxy


@pytest.fixture
def tunnel(secure: Upstream) -> Iterator[FaultProxy]:
    """A proxy that passes TLS unopened."""
    with FaultProxy(secure.url) as proxy:
        yield proxy


def get(proxy: FaultProxy, tls: Tls, path: str = "/plain") -> requests.Response:
    return requests.get(proxy.url + path, verify=str(tls.cert), timeout=10)


def test_ended_tls_shows_requests(ended: FaultProxy, tls: Tls) -> None:
    assert ended.url == f"https://localhost:{ended.port}"
    ended.add(Fault(Status(503), path="/rows"))
    assert get(ended, tls).content == PLAIN
    assert get(ended, tls, "/rows").status_code == 503
    assert [record.path for record in ended.requests] == ["/plain", "/rows"]


def test_ended_tls_before_a_plain_upstream(upstream: Upstream, tls: Tls) -> None:
    with FaultProxy(upstream.url, tls) as proxy:
        assert proxy.url.startswith("https://127.0.0.1:")
        assert get(proxy, tls, "/big").content == BIG


def test_ended_tls_can_be_reset_in_the_middle(ended: FaultProxy, tls: Tls) -> None:
    ended.add(Fault(Reset(after_bytes=5000)))
    context = ssl.create_default_context(cafile=str(tls.cert))
    got = b""
    with (
        socket.create_connection(("127.0.0.1", ended.port), 10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as secure,
    ):
        secure.sendall(b"GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # Python's TLS shows some resets as an end of file: then what is missing tells.
        with suppress(ConnectionResetError):
            while data := secure.recv(65536):
                got += data
    assert len(got) < 5000 + 1000
    assert PLAIN not in got
    assert [record.faults for record in ended.requests] == [("Reset",)]


def test_ended_tls_can_be_cut_and_closed(ended: FaultProxy, tls: Tls) -> None:
    ended.add(Fault(Cut(after_bytes=100, framing="broken"), times=1))
    with pytest.raises(requests.RequestException):
        get(ended, tls)
    ended.add(Fault(Cut(after_bytes=100), times=1))
    assert get(ended, tls).content == PLAIN[:100]


def test_a_client_that_does_not_speak_tls_harms_nobody(ended: FaultProxy, tls: Tls) -> None:
    with socket.create_connection(("127.0.0.1", ended.port), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(4096) == b""
    assert get(ended, tls).content == PLAIN


def test_the_tunnel_passes_tls_unopened(tunnel: FaultProxy, tls: Tls) -> None:
    assert tunnel.url.startswith("https://127.0.0.1:")
    assert get(tunnel, tls, "/big").content == BIG
    (record,) = tunnel.requests
    assert (record.method, record.path, record.status) == ("TCP", "", None)


@pytest.mark.parametrize(
    "action", [Reset(), Reset(after_bytes=9000), Cut(after_bytes=9000), Corrupt(offset=9000)]
)
def test_the_tunnel_breaks_connections(tunnel: FaultProxy, tls: Tls, action: Reset) -> None:
    handle = tunnel.add(Fault(action, times=1))
    with pytest.raises(requests.RequestException):
        get(tunnel, tls)
    assert handle.hits == 1
    assert get(tunnel, tls).content == PLAIN


@pytest.mark.parametrize("action", [Timeout(), Stall(after_bytes=0), Stall(after_bytes=9000)])
def test_the_tunnel_stalls_until_cleared(tunnel: FaultProxy, tls: Tls, action: Stall) -> None:
    tunnel.add(Fault(action))
    with pytest.raises(requests.RequestException):
        requests.get(tunnel.url + "/plain", verify=str(tls.cert), timeout=0.2)
    tunnel.clear()
    assert get(tunnel, tls).content == PLAIN


def test_latency_of_the_tunnel_is_not_a_limit_on_throughput(upstream: Upstream) -> None:
    with FaultProxy(upstream.url.replace("http:", "tcp:")) as tunnel:
        assert tunnel.url.startswith("tcp://")
        tunnel.add(Fault(Latency(0.2)))
        start = time.monotonic()
        url = tunnel.url.replace("tcp:", "http:") + "/echo"
        assert requests.put(url, data=BIG, timeout=10).content == BIG
        assert 0.2 <= time.monotonic() - start < 2.0


def test_the_tunnel_refuses(tunnel: FaultProxy, tls: Tls) -> None:
    some = tunnel.add(Fault(Refuse(), times=1))
    # A bare socket: CPython's TLS client leaks one if the RST beats the start of the handshake.
    with socket.socket() as sock, pytest.raises(ConnectionResetError):  # noqa: PT012
        sock.settimeout(5)
        sock.connect(("127.0.0.1", tunnel.port))  # the reset may come as early as here
        sock.recv(1)
    assert some.hits == 1
    with tunnel.add(Fault(Refuse())), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", tunnel.port), 5)
    assert get(tunnel, tls).content == PLAIN


def test_the_tunnel_refuses_the_nth(upstream: Upstream) -> None:
    with FaultProxy(upstream.url.replace("http:", "tcp:")) as tunnel:
        tunnel.add(Fault(Refuse(), nth=3))
        url = tunnel.url.replace("tcp:", "http:") + "/plain"
        assert [requests.get(url, timeout=10).status_code for _ in range(2)] == [200, 200]
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=10)
        assert requests.get(url, timeout=10).status_code == 200


def test_a_half_closed_client_still_gets_its_answer() -> None:
    def answer_at_the_end(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            question = b""
            while data := peer.recv(4096):
                question += data
            peer.sendall(question.upper())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_at_the_end, args=(listener,))
        thread.start()
        with (
            FaultProxy(f"tcp://127.0.0.1:{listener.getsockname()[1]}") as tunnel,
            socket.create_connection(("127.0.0.1", tunnel.port), 10) as sock,
        ):
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(4096) == b"QUESTION"
            assert sock.recv(4096) == b""
        thread.join()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Status(500)),
        Fault(DropHeader("x")),
        Fault(Timeout(), method="GET"),
        Fault(Timeout(), path="/"),
    ],
)
def test_the_tunnel_refuses_what_it_cannot_do(tunnel: FaultProxy, fault: Fault) -> None:
    with pytest.raises(ValueError, match="at TCP level"):
        tunnel.add(fault)


def test_close_breaks_open_tls(secure: Upstream, tls: Tls) -> None:
    proxy = FaultProxy(secure.url, tls, host="localhost").start()
    context = ssl.create_default_context(cafile=str(tls.cert))
    connection = http.client.HTTPSConnection("localhost", proxy.port, timeout=10, context=context)
    connection.request("GET", "/plain")
    connection.getresponse().read()
    start = time.monotonic()
    proxy.close()
    assert time.monotonic() - start < 1.0
    connection.close()
