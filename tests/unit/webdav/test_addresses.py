"""PFNs and redirects as addresses."""

from __future__ import annotations

import pytest

from rucio_fs.webdav.addresses import address


@pytest.mark.parametrize(
    ("pfn", "expected"),
    [
        ("davs://Host.Example/a/b", "https://host.example:443/a/b"),
        ("https://host/a", "https://host:443/a"),
        ("dav://host/a", "http://host:80/a"),
        ("http://host:8080/a", "http://host:8080/a"),
        ("davs://host:2880", "https://host:2880/"),
        ("https://host/a b%20c/%7Eann", "https://host:443/a%20b%20c/~ann"),
        ("https://host/a?x=1&y=%2F", "https://host:443/a?x=1&y=%2F"),
        ("https://ann:password@host/a", "https://host:443/a"),
        ("https://host/a#b", "https://host:443/a"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a"),
    ],
)
def test_a_pfn_is_an_address(pfn: str, expected: str) -> None:
    found = address(pfn)
    assert found is not None
    assert found.url == expected
    assert address(found.url) == found


@pytest.mark.parametrize(
    "pfn",
    [
        *("root://host//a", "file:///a", "srm://host/a", "gsiftp://host/a", "/a", "", "https:///a"),
        *("https://host:port/a", "https://host:70000/a", "https://[::1/a", "https://[x]/a"),
    ],
)
def test_what_is_not_read_over_http_has_no_address(pfn: str) -> None:
    assert address(pfn) is None


def test_an_origin_shows_no_path() -> None:
    found = address("https://host/path?signature=secret")
    assert found is not None
    assert str(found.origin) == "https://host:443"


def test_a_query_is_not_shown() -> None:
    found = address("https://[::1]:8443/path?signature=secret")
    assert found is not None
    assert found.shown == "https://[::1]:8443/path"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b?x=1", "https://host:443/b?x=1"),
        ("b", "https://host:443/a/b"),
        ("//pool:8443/b", "https://pool:8443/b"),
        ("http://pool/b", "http://pool:80/b"),
        ("root://pool//b", None),
        ("https://[x]/b", None),
    ],
)
def test_where_a_redirect_leads(location: str, expected: str | None) -> None:
    where = address("https://host/a/c?signature=secret")
    assert where is not None
    found = where.followed(location)
    assert (found and found.url) == expected
