"""
The catalog: what is stored, until when, and what each file looked like.

A cache in SQLite, in the cache directory. Only what the store has confirmed is
written here, so whoever finds a content in it may name it in a manifest, once
the lock of its object has been seen to.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from sysbackup.catalog import catalog_file, objects
from sysbackup.catalog.blocks import ENTRY
from sysbackup.catalog.connection import Connection
from sysbackup.catalog.indexes import ReadIndexes
from sysbackup.catalog.interface import Info
from sysbackup.catalog.known_contents import KnownContents
from sysbackup.catalog.known_files import KnownFiles
from sysbackup.catalog.places import Places
from sysbackup.catalog.presence import BucketPresence
from sysbackup.catalog.questions import DAY, Questions
from sysbackup.catalog.reliance import Reliance
from sysbackup.catalog.renewals import DueRenewals
from sysbackup.catalog.rows import OBJECT, damaged, proven_object, proven_text
from sysbackup.errors import CatalogUnusable
from sysbackup.model import Lock

_KEPT = 60  # days that an object is known whose lock has ended


class SqliteCatalog:
    """See `interface.Catalog`: the one at `path`, made where there is none; with `read_only` nothing is written."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._connection = Connection(path, catalog_file.read_only if read_only else catalog_file.opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def begin(self, bucket: str, host: str, promise: Lock, now: datetime, *, doubting: bool = False) -> "SqliteSession":
        """See `interface.Catalog`."""
        with self._connection.held() as db:
            known = db.execute("SELECT name FROM bucket").fetchone()
            if known is None:
                if db.execute("SELECT 1 FROM objects LIMIT 1").fetchone() is not None:
                    raise damaged("bucket")  # what it knows may be of any other
                db.execute("INSERT INTO bucket VALUES (?)", (bucket,))
            elif known[0] != bucket:
                raise CatalogUnusable(f"it is about the bucket {known[0]}, not about {bucket}")
            db.execute("UPDATE objects SET news = 1 WHERE news = 2")
        self._connection.begin_notes()
        places = Places()
        with self._connection.transaction() as db:
            places.hints.catch_up(db)
        return SqliteSession(self._connection, host, places, Reliance(promise, doubting), now)

    def info(self) -> Info:
        """Counts over the whole catalog, whose objects are proven: there are far fewer of them than of contents."""
        with self._connection.held() as db:
            hosts: Counter[str] = Counter()
            ends: list[int] = []
            stored = 0
            for row in (proven_object(*values) for values in db.execute(f"SELECT {OBJECT} FROM objects")):
                hosts[row.host] += 1
                ends.append(row.until)
                stored += row.size
            bucket = db.execute("SELECT name FROM bucket").fetchone()
            return Info(
                len(ends),
                db.execute("SELECT coalesce(sum(count), 0) FROM pieces").fetchone()[0],
                db.execute("SELECT coalesce(sum(length(entries)), 0) FROM files").fetchone()[0] // ENTRY.size,
                stored,
                (datetime.fromtimestamp(min(ends), UTC), datetime.fromtimestamp(max(ends), UTC)) if ends else None,
                dict(hosts),
                db.execute("SELECT count(*) FROM objects WHERE news > 0").fetchone()[0],
                None if bucket is None else proven_text(bucket[0]),
            )


class SqliteSession:
    """What one run knows and finds out; see `interface.Session`. Made by `SqliteCatalog.begin`."""

    def __init__(self, connection: Connection, host: str, places: Places, reliance: Reliance, now: datetime) -> None:
        self._connection = connection
        self._places = places
        questions = Questions(places, reliance, now, noted=True)
        self.contents = KnownContents(connection, host, places, questions)
        self.files = KnownFiles(connection, questions)
        self.renewals = DueRenewals(connection, places, reliance)
        self.indexes = ReadIndexes(connection, host, places)
        self.presence = BucketPresence(connection)

    def tidy(self, now: datetime) -> None:
        """See `interface.Session`."""
        with self._connection.transaction() as db:
            self.files.tidy(db, now)
            objects.forget_where(db, "until < ?", ((int(now.timestamp()) // DAY - _KEPT) * DAY,))
            self._places.hints.tidy(db)
            db.execute("DELETE FROM run.used")
            db.execute("DELETE FROM run.leaving")
            db.execute("DELETE FROM run.made")

    def next_lock_end(self, now: datetime) -> datetime | None:
        """See `interface.Session`."""
        with self._connection.held() as db:
            query = f"SELECT {OBJECT} FROM objects WHERE until > ? AND mode != 'none' ORDER BY until LIMIT 1"
            found = db.execute(query, (int(now.timestamp()),)).fetchone()
            return None if found is None else proven_object(*found).stored.lock.until
