"""Range requests: whole and right, or a failure of the kind that tells what to do next."""

from __future__ import annotations

import gc
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from lake.tls import Tls
from rucio_fs.streams.answers import Range
from rucio_fs.streams.failures import (
    Broken,
    Busy,
    Failure,
    Missing,
    NoRanges,
    Spoiled,
    Unauthorized,
    Untrusted,
)
from rucio_fs.streams.pool import Pool
from rucio_fs.webdav.addresses import Address, Origin, address
from tests.unit.streams.conftest import MakeStorage, noise
from tests.unit.streams.storage_server import BEFORE, FINE, Fault, Storage

SIZE = 300_000
DATA = noise(SIZE)
START, END = 100_000, 200_000
TIMEOUT = 5.0

Abort = Callable[[], None]


def nothing(where: Address, first: Address) -> tuple[Mapping[str, str], str]:
    """Credentials that are shown."""
    return {}, ""


@dataclass
class Client:
    """Fetches from a pool, as a worker thread does."""

    pool: Pool
    got: list[int] = field(default_factory=list)  # as it was told
    aborts: list[Abort | None] = field(default_factory=list)
    shown: list[Address] = field(default_factory=list)  # addresses that credentials were for

    def fetch(
        self,
        url: str,
        start: int = START,
        end: int = END,
        *,
        size: int = SIZE,
        skips: bool = False,
        progress: Callable[[int], bool] | None = None,
        aborts_by: Callable[[Abort | None], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        where = address(url)
        assert where is not None
        buffer = bytearray(end - start)

        def headers_for(where: Address, first: Address) -> tuple[Mapping[str, str], str]:
            self.shown.append(where)
            return headers or {}, ""

        def note(got: int) -> bool:
            self.got.append(got)
            return progress is None or progress(got)

        self.pool.fetch(
            where,
            Range(start, end, size, skips),
            memoryview(buffer),
            headers_for,
            note,
            aborts_by or self.aborts.append,
        )
        return bytes(buffer)

    def fails(self, url: str, kind: type[Failure], *, skips: bool = False) -> Failure:
        with pytest.raises(Failure) as caught:
            self.fetch(url, skips=skips)
        assert type(caught.value) is kind, caught.value
        assert "secret" not in str(caught.value)
        assert self.pool.open == len(self.pool._idle), "a connection was lost"
        return caught.value


MakeClient = Callable[..., Client]


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    made: list[Client] = []

    def make(ca: str | None = None, timeout: float = TIMEOUT) -> Client:
        def context(certificate: str) -> ssl.SSLContext:
            found = ssl.create_default_context(cafile=ca)
            if certificate:
                found.load_cert_chain(certificate)
            return found

        made.append(Client(Pool(context, timeout)))
        return made[-1]

    yield make
    for one in made:
        one.pool.close()
        assert one.pool.open == 0


@pytest.fixture
def client(make_client: MakeClient, tls: Tls) -> Client:
    return make_client(str(tls.ca_file))


@pytest.fixture(params=["http", "https"])
def storage(request: pytest.FixtureRequest, make_storage: MakeStorage, tls: Tls) -> Storage:
    made = make_storage(tls if request.param == "https" else None)
    made.files["/f"] = DATA
    return made


def url(storage: Storage) -> str:
    return f"{storage.url}/f?signature=secret"


# --- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end"), [(0, SIZE), (0, 1), (START, END), (SIZE - 1, SIZE), (1, SIZE)]
)
def test_ranges_are_exact(client: Client, storage: Storage, start: int, end: int) -> None:
    assert client.fetch(url(storage), start, end) == DATA[start:end]
    assert storage.ranges == [f"{start}-{end - 1}"]
    assert client.got[-1] == end - start
    assert client.got == sorted(client.got)


def test_what_a_request_says(client: Client, storage: Storage) -> None:
    client.fetch(url(storage), headers={"Authorization": "Bearer abc"})
    (request,) = storage.requests
    assert request.path == "/f?signature=secret"
    assert request.token == "abc"
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["User-Agent"].startswith("rucio-fs/")
    assert request.headers["Host"] == f"127.0.0.1:{storage.port}"


def test_progress_is_told_before_all_is_in(client: Client, storage: Storage) -> None:
    storage.plan(Fault(stalls=50_000))

    def release(got: int) -> bool:
        if got == 50_000:
            storage.release.set()
        return True

    assert client.fetch(url(storage), progress=release) == DATA[START:END]
    assert 50_000 in client.got


def test_it_ends_when_nobody_wants_more(client: Client, storage: Storage) -> None:
    storage.plan(Fault(stalls=50_000))
    client.fetch(url(storage), progress=lambda got: False)
    assert len(client.got) == 1
    assert client.got[0] <= 50_000
    assert client.pool.open == 0, "the rest of the body is on it"


@pytest.mark.parametrize(
    ("tells_443", "scheme"), [(False, "davs"), (True, "dav")], ids=["https", "http"]
)
def test_the_usual_port_is_not_named_in_host(
    make_storage: MakeStorage,
    client: Client,
    tls: Tls,
    monkeypatch: pytest.MonkeyPatch,
    tells_443: bool,
    scheme: str,
) -> None:
    """An address that S3 has signed is for the host without it."""
    storage = make_storage(tls if scheme == "davs" else None)
    storage.files["/f"] = DATA
    found = socket.getaddrinfo("127.0.0.1", storage.port, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    client.fetch(f"{scheme}://localhost/f")
    client.fetch(f"{scheme}://localhost:{80 if tells_443 else 443}/f")
    assert [one.headers["Host"] for one in storage.requests] == ["localhost", "localhost"]


# --- connections ---------------------------------------------------------------------------------


def test_a_connection_serves_one_request_after_the_other(client: Client, storage: Storage) -> None:
    for start in range(0, 100_000, 10_000):
        assert client.fetch(url(storage), start, start + 10_000) == DATA[start : start + 10_000]
    assert (storage.connections, client.pool.open, client.pool.requests) == (1, 1, 10)


def test_requests_at_once_have_connections_of_their_own(client: Client, storage: Storage) -> None:
    storage.usual = Fault(stalls=10)
    threads = [threading.Thread(target=client.fetch, args=(url(storage),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    storage.wait(lambda found: len(found.requests) == 4)
    assert client.pool.open == 4
    storage.release.set()
    for thread in threads:
        thread.join()
    for _ in range(4):
        client.fetch(url(storage))
    assert (storage.connections, client.pool.open) == (4, 4)


def test_idle_connections_are_ended(client: Client, storage: Storage) -> None:
    client.fetch(url(storage))
    client.pool.close_idle(1000)
    assert client.pool.open == storage.open == 1
    client.pool.close_idle(0)
    assert client.pool.open == 0
    storage.wait(lambda found: found.open == 0)
    assert len(client.pool._idle) == 0


def test_closing_ends_those_in_use_with_their_request(client: Client, storage: Storage) -> None:
    storage.plan(FINE, Fault(stalls=10))
    client.fetch(url(storage), 0, 10)  # so that one was idle
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(client.fetch(url(storage))))
    thread.start()
    storage.wait(lambda found: len(found.requests) == 2)
    client.pool.close()
    storage.release.set()
    thread.join()
    assert found == [DATA[START:END]]
    assert client.pool.open == 0
    storage.wait(lambda found: found.open == 0)


@pytest.mark.parametrize("times", [1, 3])
def test_a_connection_closed_meanwhile_is_not_noticed(
    client: Client, storage: Storage, times: int
) -> None:
    storage.usual = Fault(stalls=10)
    threads = [threading.Thread(target=client.fetch, args=(url(storage),)) for _ in range(times)]
    for thread in threads:
        thread.start()
    storage.wait(lambda found: len(found.requests) == times)
    storage.usual = FINE
    storage.release.set()
    for thread in threads:
        thread.join()
    assert client.pool.open == times
    storage._server.hang_up()
    storage.wait(lambda found: found.open == 0)
    assert client.fetch(url(storage)) == DATA[START:END]
    assert (len(storage.requests), storage.connections) == (times + 1, times + 1)
    assert client.pool.open == 1


def test_a_reset_of_a_kept_connection_is_not_noticed(client: Client, storage: Storage) -> None:
    client.fetch(url(storage))
    storage.plan(Fault(resets=BEFORE))
    assert client.fetch(url(storage)) == DATA[START:END]
    assert (len(storage.requests), storage.connections) == (3, 2)


def test_a_reset_of_a_new_connection_is_a_failure(client: Client, storage: Storage) -> None:
    storage.plan(Fault(resets=BEFORE))
    client.fails(url(storage), Broken)
    assert len(storage.requests) == 1


def test_a_reset_within_an_answer_is_a_failure_also_on_a_kept_connection(
    client: Client, storage: Storage
) -> None:
    client.fetch(url(storage))
    storage.plan(Fault(resets=1000))
    client.fails(url(storage), Broken)
    assert len(storage.requests) == 2


def test_a_connection_that_is_to_be_closed_is_closed(client: Client, storage: Storage) -> None:
    storage.plan(Fault(headers={"Connection": "close"}))
    gc.disable()
    try:
        assert client.fetch(url(storage)) == DATA[START:END]
        assert client.pool.open == 0
        storage.wait(lambda found: found.open == 0)
    finally:
        gc.enable()


def test_a_failed_answer_holds_no_socket(client: Client, storage: Storage) -> None:
    """Also while its exception is alive, and with it the frames that knew the answer."""
    storage.plan(Fault(stalls=1000, headers={"Connection": "close", "Content-Encoding": "gzip"}))
    failure = client.fails(url(storage), Spoiled)
    storage.release.set()
    storage.wait(lambda found: found.open == 0)
    assert failure.__traceback__ is not None


def test_a_host_without_an_address(client: Client) -> None:
    failure = client.fails("https://host.invalid/f", Broken)
    assert str(failure).startswith("https://host.invalid:443: ")


def test_a_host_whose_name_is_none(client: Client) -> None:
    client.fails(f"https://{'x' * 100}.invalid/f", Broken)


def test_nobody_listens(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failure = client.fails(f"http://127.0.0.1:{port}/f?secret", Broken)
    assert "refused" in str(failure)


def test_the_next_address_of_a_host_is_tried(
    client: Client, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()
    alive = ("127.0.0.1", storage.port)
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*kind, dead), (*kind, alive)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    assert client.fetch(url(storage)) == DATA[START:END]


# --- answers that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((401, Unauthorized), (403, Unauthorized), (404, Missing), (410, Missing)),
        *((408, Busy), (429, Busy), (500, Busy), (502, Busy), (503, Busy), (504, Busy)),
        *((416, Spoiled), (400, Broken), (204, Broken), (304, Broken), (418, Broken)),
    ],
)
def test_a_status_that_is_no_data(
    client: Client, storage: Storage, status: int, kind: type[Failure]
) -> None:
    storage.plan(Fault(status=status))
    failure = client.fails(url(storage), kind)
    assert f"answers {status}" in str(failure)
    assert str(storage.port) in str(failure)
    assert client.got == []
    assert client.fetch(url(storage)) == DATA[START:END]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-3", None)],
)
def test_how_long_a_busy_server_wants_to_be_left_alone(
    client: Client, storage: Storage, text: str, seconds: float | None
) -> None:
    storage.plan(Fault(status=503, headers={"Retry-After": text}))
    assert client.fails(url(storage), Busy).retry_after == seconds


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(stalls=BEFORE), Broken),
        (Fault(stalls=1000), Broken),
        (Fault(resets=BEFORE), Broken),
        (Fault(resets=1000), Broken),
        (Fault(cuts=BEFORE), Broken),
        (Fault(cuts=0), Broken),
        (Fault(cuts=1000), Broken),
        (Fault(cuts=1000, chunked=True), Broken),
        (Fault(cuts=1000, unsized=True), Broken),
        (Fault(unending=True), Broken),
        (Fault(chunked=True, surplus=b"x"), Spoiled),
        (Fault(chunked=True, headers={"Content-Range": ""}), Spoiled),
        (Fault(headers={"Content-Length": "99999"}), Spoiled),
        (Fault(headers={"Content-Length": "100001"}), Spoiled),
        (Fault(headers={"Content-Range": f"bytes 100001-200000/{SIZE}"}), Spoiled),
        (Fault(headers={"Content-Range": f"bytes 100000-199998/{SIZE}"}), Spoiled),
        (Fault(headers={"Content-Range": f"bytes 0-99999/{SIZE}"}), Spoiled),
        (Fault(headers={"Content-Range": "bytes 100000-199999/299999"}), Spoiled),
        (Fault(headers={"Content-Range": "bytes 100000-199999/300001"}), Spoiled),
        (Fault(headers={"Content-Range": ""}), Spoiled),
        (Fault(headers={"Content-Range": "lines 1-2/3"}), Spoiled),
        (Fault(headers={"Content-Encoding": "gzip"}), Spoiled),
        (Fault(whole=True), NoRanges),
        (Fault(whole=True, chunked=True), NoRanges),
        (Fault(whole=True, lacks=1), Spoiled),
        (Fault(whole=True, headers={"Content-Encoding": "gzip"}), Spoiled),
        (Fault(status=206, headers={"Content-Type": "multipart/byteranges"}), Spoiled),
    ],
)
def test_an_answer_that_is_not_the_range(
    make_client: MakeClient, tls: Tls, storage: Storage, fault: Fault, kind: type[Failure]
) -> None:
    timeout = 0.2 if fault.stalls is not None else TIMEOUT
    client = make_client(str(tls.ca_file), timeout)
    storage.plan(fault)
    client.fails(url(storage), kind)
    assert client.pool.open == 0
    assert len(storage.requests) == 1
    # What counts already is right, and something of it is still to come.
    assert max(client.got, default=0) < END - START
    storage.release.set()
    assert client.fetch(url(storage)) == DATA[START:END]


def test_a_shorter_file_is_told_in_words(client: Client, storage: Storage) -> None:
    storage.files["/f"] = DATA[:-1]
    assert "299999 bytes" in str(client.fails(url(storage), Spoiled))
    storage.plan(Fault(status=416))
    assert "shorter" in str(client.fails(url(storage), Spoiled))


def test_an_answer_that_is_no_http(client: Client) -> None:
    def answer(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"220 welcome to my FTP server\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        client.fails(f"http://127.0.0.1:{listener.getsockname()[1]}/f?secret", Broken)
        thread.join()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(chunked=True),
        Fault(unsized=True),
        Fault(headers={"Content-Range": f"bytes {START}-{END - 1}/*"}),
        Fault(headers={"Content-Encoding": "identity"}),
        Fault(headers={"Content-Length": "many"}, unsized=True),
    ],
)
def test_an_answer_that_is_unusual_and_right(
    client: Client, storage: Storage, fault: Fault
) -> None:
    storage.plan(fault)
    assert client.fetch(url(storage)) == DATA[START:END]
    assert client.fetch(url(storage)) == DATA[START:END]
    assert storage.connections == (2 if fault.unsized else 1)


def test_chunks_that_arrive_in_small_pieces(client: Client, storage: Storage) -> None:
    storage.usual = Fault(chunked=True, stalls=3)
    storage.release.set()
    for start in (0, 1, 65_535, 65_536):
        assert client.fetch(url(storage), start, start + 70_000) == DATA[start : start + 70_000]
    assert storage.connections == 1


# --- servers that send whole files only ----------------------------------------------------------


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_whole_file_serves_a_range_at_its_start(
    client: Client, storage: Storage, is_chunked: bool
) -> None:
    storage.usual = Fault(whole=True, chunked=is_chunked)
    assert client.fetch(url(storage), 0, 1000) == DATA[:1000]
    assert client.pool.open == 0, "the rest of the file is on it"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_what_comes_before_a_range_is_skipped_where_that_was_asked_for(
    client: Client, storage: Storage, is_chunked: bool
) -> None:
    storage.usual = Fault(whole=True, chunked=is_chunked)
    assert client.fetch(url(storage), skips=True) == DATA[START:END]
    assert client.fetch(url(storage), 250_000, SIZE, skips=True) == DATA[250_000:]


def test_a_range_is_taken_where_skipping_was_allowed(client: Client, storage: Storage) -> None:
    assert client.fetch(url(storage), skips=True) == DATA[START:END]
    storage.wait(lambda found: found.finished == 1)
    assert storage.sent == END - START


@pytest.mark.parametrize("cut", [0, 50_000, 100_000, 150_000])
def test_a_whole_file_that_ends_early(client: Client, storage: Storage, cut: int) -> None:
    storage.plan(Fault(whole=True, cuts=cut))
    client.fails(url(storage), Broken, skips=True)
    assert max(client.got, default=0) <= max(0, cut - START)


# --- redirects -----------------------------------------------------------------------------------


def to(location: str, status: int = 307, **more: bytes) -> Fault:
    return Fault(status=status, headers={"Location": location}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere/g", "elsewhere/g", "//127.0.0.1:{port}/g?x=1"])
def test_a_redirect_is_followed(
    client: Client, storage: Storage, status: int, location: str
) -> None:
    target = location.format(port=storage.port)
    storage.files |= {"/elsewhere/g": DATA, "/g": DATA}
    storage.plan(to(target, status, body=b"it is over there"))
    assert client.fetch(url(storage)) == DATA[START:END]
    assert len(storage.requests) == 2
    assert storage.ranges == [f"{START}-{END - 1}"] * 2
    assert storage.connections == 1


def test_a_redirect_leads_to_another_server(
    client: Client, storage: Storage, make_storage: MakeStorage, tls: Tls
) -> None:
    pool = make_storage(tls, "localhost")
    pool.files["/g"] = DATA
    storage.usual = to(f"{pool.url}/g?signature=secret")
    for _ in range(3):
        assert client.fetch(url(storage)) == DATA[START:END]
    assert (storage.connections, pool.connections) == (1, 1)
    assert pool.requests[0].path == "/g?signature=secret"
    assert [one.origin.host for one in client.shown] == ["127.0.0.1", "localhost"] * 3


def test_credentials_are_told_where_it_began(
    storage: Storage, make_client: MakeClient, tls: Tls
) -> None:
    storage.files["/h"] = DATA
    storage.plan(to("/g"), to("/h"))
    client = make_client(str(tls.ca_file))
    asked = []

    def headers(where: Address, first: Address) -> tuple[Mapping[str, str], str]:
        asked.append((where.target, first.target))
        return {}, ""

    where = address(f"{storage.url}/f")
    assert where is not None
    into = memoryview(bytearray(10))
    client.pool.fetch(where, Range(0, 10, SIZE), into, headers, lambda _: True, lambda _: None)
    assert asked == [("/f", "/f"), ("/g", "/f"), ("/h", "/f")]


def test_redirects_that_never_end(client: Client, storage: Storage) -> None:
    storage.usual = to("/f")
    failure = client.fails(url(storage), Broken)
    assert "redirects" in str(failure)
    assert len(storage.requests) == 6


def test_five_redirects_are_followed(client: Client, storage: Storage) -> None:
    storage.plan(*[to("/f")] * 5)
    assert client.fetch(url(storage)) == DATA[START:END]


@pytest.mark.parametrize(
    "location", ["root://host//f", "file:///etc/passwd", "http://[::1/f", "https://host:port/f", ""]
)
def test_a_redirect_that_is_not_followed(client: Client, storage: Storage, location: str) -> None:
    storage.usual = to(location)
    if location:
        assert "is not followed" in str(client.fails(url(storage), Broken))
    else:
        assert "redirects more than" in str(client.fails(url(storage), Broken))


@pytest.mark.parametrize("storage", ["https"], indirect=True)
def test_no_redirect_leads_from_tls_to_plain_http(
    client: Client, storage: Storage, make_storage: MakeStorage
) -> None:
    plain = make_storage()
    plain.files["/f"] = DATA
    storage.plan(to("/f"), to(f"{plain.url}/f"))
    client.fails(url(storage), Broken)
    assert plain.connections == 0


@pytest.mark.parametrize("storage", ["http"], indirect=True)
def test_a_redirect_leads_from_plain_http_to_tls(
    client: Client, storage: Storage, make_storage: MakeStorage, tls: Tls
) -> None:
    secure = make_storage(tls)
    secure.files["/f"] = DATA
    storage.plan(to(f"{secure.url}/f"))
    assert client.fetch(url(storage)) == DATA[START:END]


def test_a_redirect_at_an_ipv6_address_may_be_relative() -> None:
    where = Address(Origin(True, "::1", 8443), "/a/f")
    assert where.url == "https://[::1]:8443/a/f"
    assert address(where.url) == where


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=307, headers={"Location": "/f", "Content-Length": ""}, stalls=0, unsized=True),
        Fault(status=307, headers={"Location": "/f", "Content-Length": str(1 << 30)}, stalls=0),
    ],
    ids=["no length", "a gigabyte"],
)
def test_the_page_of_a_redirect_is_not_waited_for(
    client: Client, storage: Storage, fault: Fault
) -> None:
    storage.plan(fault)
    assert client.fetch(url(storage)) == DATA[START:END]
    assert storage.connections == 2


# --- TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["https"], indirect=True)
def test_a_certificate_that_nobody_vouches_for(make_client: MakeClient, storage: Storage) -> None:
    client = make_client()
    failure = client.fails(url(storage), Untrusted)
    assert "storages.ca" in str(failure)
    assert storage.requests == []


def test_a_certificate_for_another_name(
    make_storage: MakeStorage, client: Client, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make_storage(tls)
    found = socket.getaddrinfo("127.0.0.1", storage.port, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    failure = client.fails(f"https://storage.example:{storage.port}/f", Untrusted)
    assert re.search("storage.example", str(failure))
    assert storage.requests == []


def test_a_server_that_does_not_speak_tls(make_storage: MakeStorage, client: Client) -> None:
    client.fails(f"https://127.0.0.1:{make_storage().port}/f?secret", Broken)


def test_a_certificate_file_that_is_not_there(
    make_client: MakeClient, make_storage: MakeStorage, tls: Tls
) -> None:
    storage = make_storage(tls)
    client = make_client(str(tls.ca_file))
    where = address(f"{storage.url}/f")
    assert where is not None
    with pytest.raises(Broken):
        client.pool.fetch(
            where,
            Range(0, 10, SIZE),
            memoryview(bytearray(10)),
            lambda where, first: ({}, "/nowhere/proxy.pem"),
            lambda got: True,
            lambda abort: None,
        )
    assert client.pool.open == 0


def test_connections_are_not_shared_between_certificates(
    client: Client, make_storage: MakeStorage, tls: Tls
) -> None:
    storage = make_storage(tls)
    storage.files["/f"] = DATA
    where = address(f"{storage.url}/f")
    assert where is not None
    certificates = iter(["", str(tls.user_proxy), "", str(tls.user_proxy)])
    for _ in range(4):
        client.pool.fetch(
            where,
            Range(0, 10, SIZE),
            memoryview(bytearray(10)),
            lambda where, first: ({}, next(certificates)),
            lambda got: True,
            lambda abort: None,
        )
    assert [one.subject for one in storage.requests] == ["", "lake user"] * 2
    assert storage.connections == 2


# --- ending what is waited for -------------------------------------------------------------------


class Fetching:
    """A request in a thread, and the means to end it."""

    def __init__(self, client: Client, url: str) -> None:
        self.abort: Abort | None = None
        self.failure: Failure | None = None
        self._thread = threading.Thread(target=self._run, args=(client, url))
        self._thread.start()

    def _run(self, client: Client, url: str) -> None:
        def aborts_by(abort: Abort | None) -> None:
            self.abort = abort or self.abort

        try:
            client.fetch(url, aborts_by=aborts_by)
        except Failure as failure:
            self.failure = failure

    def end(self) -> None:
        assert self.abort is not None
        self.abort()
        self._thread.join(20)
        assert not self._thread.is_alive(), "it waits on"


@pytest.fixture
def patient(make_client: MakeClient, tls: Tls) -> Client:
    """Who waits for a silent server for longer than a test may take."""
    return make_client(str(tls.ca_file), 1000.0)


@pytest.mark.parametrize("at", [BEFORE, 0, 1000])
@pytest.mark.parametrize("is_kept", [False, True])
def test_an_answer_that_does_not_come_is_given_up(
    patient: Client, storage: Storage, at: int, is_kept: bool
) -> None:
    if is_kept:
        patient.fetch(url(storage))
    storage.plan(Fault(stalls=at))
    requests = 1 + is_kept
    fetching = Fetching(patient, url(storage))
    storage.wait(lambda found: len(found.requests) == requests)
    if at > 0:
        storage.wait(lambda found: found.sent >= at)
    fetching.end()
    assert isinstance(fetching.failure, Broken)
    assert patient.pool.open == 0
    assert len(storage.requests) == requests, "it was asked for again"


def test_a_connection_that_does_not_come_about_is_given_up(patient: Client) -> None:
    """The queue of this listener is full, so that it answers no SYN."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        before = _connecting(port)
        fetching = Fetching(patient, f"http://127.0.0.1:{port}/f")
        for _ in range(2000):
            if _connecting(port) > before:
                break
            threading.Event().wait(0.005)
        fetching.end()
        for one in waiting:
            one.close()
    assert isinstance(fetching.failure, Broken)
    assert patient.pool.open == 0


def _connecting(port: int) -> int:
    """Sockets in SYN_SENT to *port* of this machine, as the kernel shows them."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return sum(row[3] == "02" and row[2] == f"0100007F:{port:04X}" for row in rows)


def test_other_addresses_are_not_tried_after_that(
    patient: Client, monkeypatch: pytest.MonkeyPatch, make_storage: MakeStorage
) -> None:
    storage = make_storage()
    storage.files["/f"] = DATA
    aborts: list[Abort | None] = []
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")

    class Dead(socket.socket):
        def connect(self, address: object) -> None:
            abort = aborts[-1]
            assert abort is not None
            abort()  # as from another thread, while this one waits here
            raise TimeoutError

    monkeypatch.setattr(socket, "socket", Dead)
    found = [(*kind, ("127.0.0.1", storage.port))] * 2
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with pytest.raises(Broken, match="not wanted"):
        patient.fetch(f"{storage.url}/f", aborts_by=aborts.append)
    assert patient.pool.open == 0


def test_a_handshake_that_does_not_end_is_given_up(patient: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fetching = Fetching(patient, f"https://127.0.0.1:{listener.getsockname()[1]}/f")
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1) == b"\x16", "the client's hello"
            fetching.end()
    assert isinstance(fetching.failure, Broken)
    assert patient.pool.open == 0


def test_what_was_given_up_before_it_began_asks_nobody(client: Client, storage: Storage) -> None:
    """The task may be told so while its thread has not come to connecting."""

    def at_once(abort: Abort | None) -> None:
        if abort is not None:
            abort()

    with pytest.raises(Broken):
        client.fetch(url(storage), aborts_by=at_once)
    assert storage.requests == []
    assert client.pool.open == 0


def test_what_was_given_up_shows_no_encrypted_bytes(client: Client, storage: Storage) -> None:
    """What is told to be in is the file's, also if more is read while it is being given up."""
    aborts: list[Abort | None] = []
    parts: list[bytes] = []
    buffer = bytearray(SIZE)

    def progress(got: int) -> bool:
        parts.append(bytes(buffer[:got]))
        abort = aborts[-1]
        assert abort is not None
        abort()
        return True  # not noticed yet

    where = address(url(storage))
    assert where is not None
    storage.plan(Fault(stalls=20_000))
    with pytest.raises(Broken):
        client.pool.fetch(
            where, Range(0, SIZE, SIZE), memoryview(buffer), nothing, progress, aborts.append
        )
    assert [DATA.startswith(part) for part in parts] == [True] * len(parts)
    assert parts


def test_what_was_given_up_is_not_used_again(client: Client, storage: Storage) -> None:
    aborts: list[Abort | None] = []

    def progress(got: int) -> bool:
        abort = aborts[-1]
        if got == END - START and abort is not None:
            abort()
        return True

    client.fetch(url(storage), progress=progress, aborts_by=aborts.append)
    assert client.pool.open == 0
    assert aborts[-1] is None, "there is nothing to end any more"
