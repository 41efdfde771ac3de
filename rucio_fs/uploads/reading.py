"""Checksums of files on this machine.  Blocking."""

from __future__ import annotations

from io import FileIO

from rucio_fs import checksums

_STEP = 4 << 20  # bytes read at once


def adler32_of(file: FileIO, size: int) -> str:
    """Eight hex digits of all that *file* has from here on; *size* is about how much (bytes).

    Raises: OSError
    """
    value = checksums.EMPTY
    buffer = bytearray(min(_STEP, max(1, size)))
    view = memoryview(buffer)
    while count := file.readinto(buffer):
        value = checksums.adler32(view[:count], value)
    return f"{value:08x}"
