"""Bytes between WebDAV storages: ask, delete, stream through this process, third-party copy.

No policy: what to verify and what to do about a failure is `transfers`' business.
Certificates are not verified; the lake's storages have self-made ones and hold nothing secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lake.fts.connections import Connections, Endpoint, blame
from lake.fts.states import TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lake.fts.cancelling import Cancellation

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Stat:
    """What a storage says of a file: HTTP *status*, *size* in bytes, *checksum* in lower hex."""

    status: int
    size: int | None
    checksum: str | None
    server: str

    @property
    def is_xrootd(self) -> bool:
        """True for the one kind of server here that does HTTP-TPC rightly."""
        return self.server.startswith("XrootD")


@dataclass(frozen=True)
class Sent:
    """What went through this process: *size* bytes; checksums in lower hex, keyed by algorithm.

    *read* is of what the source gave, *written* of what the destination was given.
    """

    size: int
    read: Mapping[str, str]
    written: Mapping[str, str]


class _Digests:
    """adler32 and md5 of a stream."""

    def __init__(self) -> None:
        self._adler32 = 1
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, block: bytes) -> None:
        self._adler32 = zlib.adler32(block, self._adler32)
        self._md5.update(block)

    def values(self) -> dict[str, str]:
        return {"adler32": f"{self._adler32:08x}", "md5": self._md5.hexdigest()}


class Storages:
    """Requests to storages over connections that are kept.  Safe from any thread."""

    def __init__(self) -> None:
        self._connections = Connections()

    def close(self) -> None:
        """Close the connections that wait for another request."""
        self._connections.close()

    def stat(self, end: Endpoint, algorithm: str | None, cancellation: Cancellation) -> Stat:
        """HEAD *end*, asking for its *algorithm* (``adler32``, ``md5``) checksum (RFC 3230) if any.

        XRootD 5.5 answers for a checksum it has to compute from another thread than its requests,
        and now and then loses the connection over it, or its accept loop: ask only if you must.
        """
        headers = {"Want-Digest": algorithm} if algorithm else {}
        response = self._call("HEAD", end, cancellation, headers)
        length = response.headers.get("Content-Length")
        return Stat(
            status=response.status,
            size=int(length) if length is not None else None,
            checksum=_digest(response.headers.get("Digest") or "", algorithm)
            if algorithm
            else None,
            server=response.headers.get("Server") or "",
        )

    def server_of(self, end: Endpoint, cancellation: Cancellation) -> str:
        """Return the ``Server`` header of the storage behind *end*, "" if it gives none.

        Asks for the parent directory: XRootD leaves the header out of some 404 answers.
        """
        parent = Endpoint(end.url.rsplit("/", 1)[0] + "/", end.token)
        return self._call("HEAD", parent, cancellation).headers.get("Server") or ""

    def delete(self, end: Endpoint, cancellation: Cancellation) -> int:
        """DELETE *end* and return the HTTP status, whatever it is."""
        return self._call("DELETE", end, cancellation).status

    def stream(
        self,
        source: Endpoint,
        destination: Endpoint,
        cancellation: Cancellation,
        alter: Callable[[bytes, int], bytes] | None = None,
        pace: Callable[[int], None] | None = None,
    ) -> Sent:
        """GET *source*, PUT it to *destination*, block by block.

        *alter* gets each block and its offset and returns what to send instead, of the same length;
        *pace* gets the number of bytes sent so far and may wait.

        Raises: TransferError with the scope of the side at fault; TransferCanceledError.
        """
        with self._connections.to(source, "SOURCE", cancellation) as (reader, path):
            with blame("SOURCE"):
                reader.request("GET", path, headers=_auth(source))
                response = reader.getresponse()
            _expect("SOURCE", response, (200,))
            if response.length is None:
                raise TransferError("SOURCE", 5, "the storage did not give a Content-Length")
            size = response.length
            with self._connections.to(destination, "DESTINATION", cancellation) as (writer, target):
                with blame("DESTINATION"):
                    writer.putrequest("PUT", target)
                    writer.putheader("Content-Length", str(size))
                    for header in _auth(destination).items():
                        writer.putheader(*header)
                    writer.endheaders()
                read, written, sent = _Digests(), _Digests(), 0
                while sent < size:
                    cancellation.check()
                    with blame("SOURCE"):
                        block = response.read(min(_CHUNK, size - sent))
                    if not block:
                        raise TransferError(
                            "SOURCE", 70, f"source closed early, after {sent} of {size} bytes"
                        )
                    read.update(block)
                    if alter is not None:
                        block = alter(block, sent)
                    written.update(block)
                    _send(writer, block)
                    sent += len(block)
                    if pace is not None:
                        pace(sent)
                with blame("DESTINATION"):
                    answer = writer.getresponse()
                    answer.read()
                _expect("DESTINATION", answer, (200, 201, 204))
            response.read()  # nothing is left, but only now http.client takes it for read
        return Sent(sent, read.values(), written.values())

    def third_party_copy(
        self, source: Endpoint, destination: Endpoint, cancellation: Cancellation
    ) -> None:
        """Have *source*'s server push the file to *destination* (HTTP-TPC); both must be XRootD.

        Never call this for another kind of server: nginx compares only the host name of
        Destination, so on one machine it copies the file onto itself and truncates the source to
        0 bytes.

        Waits for the end of the copy; cancelling closes the connection, which ends it at the
        server.  Raises: TransferError with the server's own words; TransferCanceledError.
        """
        headers = {"Destination": destination.http_url, "Overwrite": "T", "Credential": "none"}
        if destination.token:
            headers["TransferHeaderAuthorization"] = f"Bearer {destination.token}"
        with (
            self._connections.to(source, "TRANSFER", cancellation) as (connection, path),
            blame("TRANSFER"),
        ):
            connection.request("COPY", path, headers=headers | _auth(source))
            response = connection.getresponse()
            # Performance markers, then one last line: "success: Created" or "failure: why".
            text = response.read().decode(errors="replace")
        if response.status not in (200, 201, 202) or "failure:" in text or "success" not in text:
            last = text.strip().rpartition("\n")[2][-300:]
            raise TransferError("TRANSFER", 70, f"HTTP-TPC {response.status} : {last}")

    def _call(
        self,
        method: str,
        end: Endpoint,
        cancellation: Cancellation,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        with (
            self._connections.to(end, "TRANSFER", cancellation) as (connection, path),
            blame("TRANSFER"),
        ):
            connection.request(method, path, headers={**(headers or {}), **_auth(end)})
            response = connection.getresponse()
            response.read()
            return response


def _digest(header: str, algorithm: str) -> str | None:
    """Return the checksum in a ``Digest`` header as lower hex; RFC 3230 has md5 in base64."""
    match = re.search(rf"(?:^|,)\s*{re.escape(algorithm)}=([0-9A-Za-z+/=]+)", header, re.I)
    if match is None:
        return None
    value = match.group(1)
    if algorithm == "md5" and not re.fullmatch(r"[0-9a-fA-F]{32}", value):
        try:
            return base64.b64decode(value, validate=True).hex()
        except binascii.Error:
            return None
    return value.lower()


def _send(writer: http.client.HTTPConnection, block: bytes) -> None:
    """Send *block*; if the storage hung up, tell what it answered rather than the broken pipe."""
    try:
        writer.send(block)
    except OSError as error:
        answer = None
        with suppress(OSError, http.client.HTTPException):
            answer = writer.getresponse()
        if answer is not None:
            _expect("DESTINATION", answer, ())
        raise TransferError("DESTINATION", error.errno or 70, str(error)) from error


def _expect(scope: str, response: http.client.HTTPResponse, good: tuple[int, ...]) -> None:
    """Raise unless the status is one of *good*; 404 gets the code of a missing file (ENOENT)."""
    if response.status not in good:
        code = {401: 13, 403: 13, 404: 2, 507: 28}.get(response.status, 70)
        raise TransferError(scope, code, f"HTTP {response.status} : {response.reason}")


def _auth(end: Endpoint) -> dict[str, str]:
    return {"Authorization": f"Bearer {end.token}"} if end.token else {}
