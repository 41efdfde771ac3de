"""What became of every upload, on disk before it counts.

SQLite in WAL mode with synchronous=FULL: after a crash of the process or of the machine the journal
is as of its last commit.  Commits that come together are one.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from rucio_fs.did import DID
from rucio_fs.errors import Unreachable, UsageError
from rucio_fs.uploads.records import Collection, Record
from rucio_fs.uploads.reserve import Reserve

log = logging.getLogger(__name__)
T = TypeVar("T")

VERSION = 1
_SCHEMA = f"""
    BEGIN;
    CREATE TABLE uploads (id INTEGER PRIMARY KEY, data TEXT NOT NULL) STRICT;
    CREATE TABLE collections (did TEXT PRIMARY KEY, data TEXT NOT NULL) STRICT;
    CREATE TABLE litter (url TEXT PRIMARY KEY) STRICT;
    PRAGMA user_version = {VERSION};
    COMMIT;
"""
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)  # how it says that there is no room
_WRITERS = trio.CapacityLimiter(1)  # one transaction at a time is all that SQLite has


class Journal:
    """The uploads of one staging area.  What it holds is in memory too: `records`.

    *litter* are objects on storage that have to be deleted: left by uploads that were given up.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.records: dict[int, Record] = {}
        self.collections: dict[DID, Collection] = {}
        self.litter: set[str] = set()
        self._connection = connection
        self._next_id = 1
        self._changed: dict[int, Record | None] = {}
        self._changed_collections: dict[DID, Collection] = {}
        self._litter_changed: dict[str, bool] = {}
        self._writing = trio.Lock()
        self._reserve = _reserve(path)
        self._reserve.hold()
        self.commits = 0

    def __repr__(self) -> str:
        return f"<Journal {self.path}: {len(self.records)} uploads>"

    @classmethod
    def open(cls, path: Path) -> Journal:
        """The journal in the file *path*, made if it is not there.  Blocking.

        Raises: UsageError (not a journal, of another version, cannot be read or written)
        """
        try:
            try:
                return cls._opened(path)
            except sqlite3.OperationalError as exc:
                if not _is_full(exc) or not _reserve(path).let_go():
                    raise
                return cls._opened(path)
        except sqlite3.OperationalError as exc:  # the disk's fault, or that of modes
            raise UsageError(f"journal of uploads {path}: {exc}") from exc
        except (sqlite3.Error, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise UsageError(
                f"{path} is no journal of uploads, or damaged ({exc!r}): bring it back from a"
                " backup, or move it away to have all of scratch compared with the lake again"
            ) from exc

    @classmethod
    def _opened(cls, path: Path) -> Journal:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            version = _version(path, connection)  # first: nobody else's file is changed
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if not version:
                connection.executescript(_SCHEMA)
            journal = cls(path, connection)
            journal._load()
        except BaseException:
            connection.close()
            raise
        return journal

    def _load(self) -> None:
        rows = self._connection.execute("SELECT data FROM uploads ORDER BY id")
        for record in map(Record.load, (data for (data,) in rows)):
            self.records[record.id] = record
            self._next_id = max(self._next_id, record.id + 1)
        rows = self._connection.execute("SELECT data FROM collections")
        for collection in map(Collection.load, (data for (data,) in rows)):
            self.collections[collection.did] = collection
        self.litter = {url for (url,) in self._connection.execute("SELECT url FROM litter")}

    # --- changes, in the event loop; they count once `commit` has returned ---------------------

    def next_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def put(self, record: Record) -> None:
        """Take *record* over as it is when the next commit begins."""
        self.records[record.id] = record
        self._changed[record.id] = record

    def is_unwritten(self, record: Record) -> bool:
        """Whether something of *record* is still to be committed."""
        return record.id in self._changed

    def remove(self, record: Record) -> None:
        if self.records.pop(record.id, None) is not None:
            self._changed[record.id] = None

    def put_collection(self, collection: Collection) -> None:
        self.collections[collection.did] = collection
        self._changed_collections[collection.did] = collection

    def add_litter(self, url: str) -> None:
        self.litter.add(url)
        self._litter_changed[url] = True

    def remove_litter(self, url: str) -> None:
        self.litter.discard(url)
        self._litter_changed[url] = False

    async def commit(self, *records: Record) -> None:
        """Put *records*, and return when they and all earlier changes are on disk.

        Raises: Unreachable if the disk refuses; the changes stay for the next commit.
        """
        for record in records:
            self.put(record)
        with trio.CancelScope(shield=True):  # who was cancelled has all the same changed it
            async with self._writing:
                if not (self._changed or self._changed_collections or self._litter_changed):
                    return  # another one's commit has taken them along
                changed, self._changed = self._changed, {}
                collections, self._changed_collections = self._changed_collections, {}
                litter, self._litter_changed = self._litter_changed, {}
                is_written = False
                try:
                    uploads = [
                        (key, None if one is None else one.dump()) for key, one in changed.items()
                    ]
                    others = [(str(one.did), one.dump()) for one in collections.values()]
                    await in_thread(lambda: self._write_all(uploads, others, litter.items()))
                    is_written = True
                except sqlite3.Error as exc:
                    raise Unreachable(
                        f"journal of uploads {self.path} cannot be written: {exc}"
                    ) from exc
                finally:
                    if not is_written:
                        self._changed = changed | self._changed
                        self._changed_collections = collections | self._changed_collections
                        self._litter_changed = litter | self._litter_changed
                self.commits += 1

    def _write_all(
        self,
        uploads: Sequence[tuple[int, str | None]],
        collections: Sequence[tuple[str, str]],
        litter: Iterable[tuple[str, bool]],
    ) -> None:
        """Write, also where the disk is full of what is to be uploaded."""
        try:
            self._write(uploads, collections, litter)
        except sqlite3.OperationalError as exc:
            if not _is_full(exc) or not self._reserve.let_go():
                raise
            self._write(uploads, collections, litter)
        self._reserve.hold()

    def _write(
        self,
        uploads: Iterable[tuple[int, str | None]],
        collections: Iterable[tuple[str, str]],
        litter: Iterable[tuple[str, bool]],
    ) -> None:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for key, data in uploads:
                if data is None:
                    self._connection.execute("DELETE FROM uploads WHERE id = ?", (key,))
                else:
                    self._connection.execute(
                        "INSERT OR REPLACE INTO uploads VALUES (?, ?)", (key, data)
                    )
            self._connection.executemany(
                "INSERT OR REPLACE INTO collections VALUES (?, ?)", collections
            )
            for url, is_there in litter:
                words = "INSERT OR IGNORE INTO litter VALUES (?)"
                self._connection.execute(
                    words if is_there else "DELETE FROM litter WHERE url = ?", (url,)
                )

    def close(self) -> None:
        self._connection.close()


def _reserve(path: Path) -> Reserve:
    return Reserve(path.with_name(f"{path.name}.reserve"))


def _is_full(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _FULL


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """0 for a journal that is still to be made.  Raises: UsageError, sqlite3.Error"""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, VERSION):
        raise UsageError(
            f"{path} was written by another version of rucio-fs (journal {version}, not"
            f" {VERSION}): finish the uploads with that version"
        )
    if not version and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise sqlite3.DatabaseError("it is a database of something else")
    return version


async def in_thread(call: Callable[[], T]) -> T:
    """What *call* returns; it runs to its end also if the caller is cancelled."""
    return await trio.to_thread.run_sync(call, limiter=_WRITERS)
