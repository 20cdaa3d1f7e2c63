"""
The catalog: which contents are stored, and where. SQLite, in the cache directory.

Only what the store has confirmed is written here, so whoever finds a content
in it may name it in a manifest. Looked up and written in batches; threads
share one connection under a lock (SQLite serialises them anyway).
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sysbackup.errors import SpoolError
from sysbackup.formats.pack import Packed
from sysbackup.model import Location, StoredObject

_SCHEMA = """
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    version TEXT,
    size INTEGER NOT NULL,
    mode TEXT NOT NULL,
    until INTEGER NOT NULL,      -- seconds since 1970
    encoding TEXT
);
CREATE TABLE contents (
    sha BLOB PRIMARY KEY,        -- 32 bytes
    object INTEGER NOT NULL REFERENCES objects,
    start INTEGER,               -- of the member in its pack; NULL where the object is the content
    length INTEGER,
    size INTEGER NOT NULL
) WITHOUT ROWID;
"""

_AT_ONCE = 500  # values in one IN (...): SQLite's oldest limit is 999


class Catalog:
    """
    What is stored. All methods may be called by any thread; none blocks for long.

    `SpoolError` where the disk is full or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pending: set[bytes] = set()
        with self._trouble():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            # A power cut may cost the last transactions; what they held is stored once more, no more than that.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA cache_size = -16384")  # KiB
            self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def claim(self, shas: Iterable[bytes]) -> set[bytes]:
        """
        Those of the contents that the caller is to store: neither stored nor claimed by another.

        Whoever claims a content must `confirm` or `release` it.
        """
        with self._lock, self._trouble():
            wanted = set(shas) - self._pending
            for row in self._select("SELECT sha FROM contents WHERE sha IN ({})", list(wanted)):
                wanted.discard(row[0])
            self._pending |= wanted
            return wanted

    def release(self, sha: bytes) -> None:
        """Give a claim back unfulfilled."""
        with self._lock:
            self._pending.discard(sha)

    def confirm(self, stored: StoredObject, encoding: str | None, contents: Sequence[Packed]) -> None:
        """The store has confirmed an object with these contents; for a content of its own `length` is 0."""
        until = int(stored.lock.until.timestamp())
        with self._lock, self._trouble(), self._transaction():
            cursor = self._db.execute(
                "INSERT INTO objects (key, version, size, mode, until, encoding) VALUES (?, ?, ?, ?, ?, ?)",
                (stored.key, stored.version, stored.size, stored.lock.mode.value, until, encoding),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?)",
                ((c.sha, cursor.lastrowid, c.offset if c.length else None, c.length or None, c.size) for c in contents),
            )
            self._pending.difference_update(c.sha for c in contents)

    def locate(self, shas: Iterable[bytes]) -> dict[bytes, Location]:
        """Where the contents lie; those that are not stored are missing from the answer."""
        found = {}
        with self._lock, self._trouble():
            rows = self._select(
                "SELECT sha, key, version, start, length, encoding FROM contents"
                " JOIN objects ON objects.id = object WHERE sha IN ({})",
                list(set(shas)),
            )
            for sha, key, version, start, length, encoding in rows:
                found[sha] = Location(key, version, start, length, encoding)
        return found

    def locked_until(self) -> datetime | None:
        """The earliest end of a lock among the objects; None where there is no object."""
        with self._lock, self._trouble():
            row = self._db.execute("SELECT min(until) FROM objects").fetchone()
        return None if row[0] is None else datetime.fromtimestamp(row[0], UTC)

    def _select(self, query: str, values: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            yield from self._db.execute(query.format(",".join("?" * len(some))), some)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise SpoolError(
                f"cannot use the catalog {self._path}: {exc}. What was stored is safe; make room in its"
                " directory, or delete the file: it is only a cache"
            ) from exc
