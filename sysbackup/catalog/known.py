"""
The catalog: what is stored, until when, and what each file looked like.

A cache in SQLite, in the cache directory. Only what the store has confirmed is
written here, so whoever finds a content in it may name it in a manifest, once
the lock of its object has been seen to. Looked up and written in batches;
threads share one connection under a lock (SQLite serialises them anyway).
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from sysbackup.catalog import schema
from sysbackup.catalog.rows import (
    CONTENT,
    OBJECT,
    CatalogUnusable,
    Damaged,
    ObjectRow,
    content_sum,
    damaged,
    file_sum,
    proven_content,
    proven_object,
)
from sysbackup.errors import SpoolError
from sysbackup.formats.pack import Packed
from sysbackup.model import Location, Lock, LockMode, StoredObject

EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # SHA-256 of nothing

_AT_ONCE = 500  # values in one IN (...): SQLite's oldest limit is 999
_DAY = 86_400

# Modes that keep at least what each mode promises (S3: COMPLIANCE cannot be lifted, GOVERNANCE by few).
_AS_FIRM = {
    LockMode.COMPLIANCE: "('COMPLIANCE')",
    LockMode.GOVERNANCE: "('COMPLIANCE', 'GOVERNANCE')",
    LockMode.NONE: "('COMPLIANCE', 'GOVERNANCE', 'none')",
}

# From the least firm to the firmest.
_FIRMNESS = (LockMode.NONE, LockMode.GOVERNANCE, LockMode.COMPLIANCE)


class FileState(NamedTuple):
    """What must stay the same for a file to count as unchanged (design, rule 7), and its content."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int
    sha: bytes = b""


class Catalog:
    """
    What is known. All methods may be called by any thread; none blocks for long.

    `begin` says what a run promises; from then on every content that the run
    reuses although its object's lock ends earlier, or nobody has compared it
    with its hash, is noted as used. `SpoolError` where the disk is full or the
    file cannot be written; with `read_only` nothing ever is. `CatalogUnusable` where it is damaged: as a database,
    or in a row that is needed.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._pending: set[bytes] = set()
        # whether a claim was given back: others may have counted on it
        self.unfulfilled = False
        # whether what somebody had said of an object turned out to be false when we stored it: this run may have
        # counted on that
        self.refuted = False
        self._short = "0"
        self._promise = Lock(LockMode.NONE, datetime.fromtimestamp(0, UTC))
        self._doubting = False
        self._own = ""
        self._today = 0
        self._seen: list[tuple[int, int, int]] = []
        with self._trouble():
            self._db = schema.read_only(path) if read_only else schema.opened(path)
            # A new catalog need not be asked 100,000 times what a file looked like.
            self._knows_files = self._db.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def begin(self, bucket: str, host: str, promise: Lock, now: datetime, *, doubting: bool = False) -> None:
        """
        A run of `host` into `bucket` (with its store's address) begins that promises until `promise`.

        With `doubting`, reused contents of other hosts that nobody has checked are
        noted as used too. `CatalogUnusable` where this is another bucket's catalog.
        """
        until = int(promise.until.timestamp())
        self._promise = promise
        self._short = f"(until < {until} OR mode NOT IN {_AS_FIRM[promise.mode]}"
        # what nobody has compared; and what has no version id, since anybody who may write may replace that
        self._short += " OR checked = 0" if doubting else ""
        self._short += ")" if promise.mode is LockMode.NONE else " OR version = '')"
        self._doubting = doubting
        self._own = host
        self._today = int(now.timestamp()) // _DAY
        with self.held() as db:
            known = db.execute("SELECT name FROM bucket").fetchone()
            if known is None:
                if db.execute("SELECT 1 FROM objects LIMIT 1").fetchone() is not None:
                    raise damaged("bucket")  # what it knows may be of any other
                db.execute("INSERT INTO bucket VALUES (?)", (bucket,))
            elif known[0] != bucket:
                raise CatalogUnusable(f"it is about the bucket {known[0]}, not about {bucket}")
            db.execute("DELETE FROM used")
            db.execute("DELETE FROM leaving")
            db.execute("UPDATE objects SET news = 1 WHERE news = 2")

    # ---- contents

    def claim(self, shas: Iterable[bytes]) -> set[bytes]:
        """
        Those of the contents that the caller is to store: neither stored nor claimed by another.

        Whoever claims a content must `confirm` or `release` it.
        """
        with self.held() as db:
            wanted = set(shas) - self._pending
            used = []
            rows = _select(
                db,
                f"SELECT sha, {self._short} FROM contents JOIN objects ON id = object WHERE sha IN ({{}})"
                " AND object NOT IN (SELECT object FROM leaving)",
                list(wanted),
            )
            for sha, short in rows:
                wanted.discard(sha)
                if short:
                    used.append((sha,))
            db.executemany("INSERT OR IGNORE INTO used VALUES (?)", used)
            self._pending |= wanted
            return wanted

    def release(self, sha: bytes) -> None:
        """Give a claim back unfulfilled."""
        with self._lock:
            self._pending.discard(sha)
            self.unfulfilled = True

    def confirm(self, stored: StoredObject, encoding: str | None, contents: Sequence[Packed]) -> None:
        """The store has confirmed an object with these contents; for a content of its own `length` is 0."""
        with self.held() as db, _transaction(db):
            self.enter(stored, encoding, contents, host=self._own, checked=True, news=True)
            self._pending.difference_update(c.sha for c in contents)

    def enter(
        self,
        stored: StoredObject,
        encoding: str | None,
        contents: Sequence[Packed],
        *,
        host: str,
        checked: bool,
        news: bool,
    ) -> None:
        """
        Write down an object and its contents; for `confirm` and `catalog.shared`, inside `held`.

        `checked`: we know it for ourselves. What others said of the object before,
        of its lock too, is forgotten then.
        """
        db = self._db
        if checked:
            said = (stored.key, stored.version or "")
            which = "key = ? AND version = ? AND checked = 0"
            theirs = f"FROM contents WHERE object = (SELECT id FROM objects WHERE {which})"
            told = {row[0] for row in db.execute(f"SELECT sha {theirs}", said)}
            self.refuted |= not told <= {c.sha for c in contents}
            db.execute(f"DELETE {theirs}", said)
            db.execute(f"DELETE FROM objects WHERE {which}", said)
        query = f"SELECT {OBJECT} FROM objects WHERE key = ? AND version = ?"
        known = db.execute(query, (stored.key, stored.version or "")).fetchone()
        if known is None:
            row = self._add(stored, encoding, host=host, checked=checked, news=news)
        else:
            row = proven_object(*known)
            rewrite(db, _later(row, stored.lock))
            if news:
                db.execute("UPDATE objects SET news = 1 WHERE id = ?", (row.number,))
        identity = row.identity
        rows = ((c.sha, row.number, c.offset if c.length else None, c.length or None, c.size) for c in contents)
        db.executemany(
            "INSERT OR REPLACE INTO contents (sha, object, start, length, size, sum) VALUES (?, ?, ?, ?, ?, ?)",
            ((*values, content_sum(identity, *values)) for values in rows),
        )

    def _add(self, stored: StoredObject, encoding: str | None, *, host: str, checked: bool, news: bool) -> ObjectRow:
        cursor = self._db.execute(
            "INSERT INTO objects (key, version, size, mode, until, encoding, host, checked, news, sum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                stored.key,
                stored.version or "",
                stored.size,
                stored.lock.mode.value,
                int(stored.lock.until.timestamp()),
                encoding,
                host,
                int(checked),
                int(news),
            ),
        )
        number = cursor.lastrowid
        assert number is not None
        row = ObjectRow(
            number,
            stored.key,
            stored.version or "",
            stored.size,
            stored.lock.mode.value,
            int(stored.lock.until.timestamp()),
            encoding,
            host,
            int(checked),
        )
        self._db.execute("UPDATE objects SET sum = ? WHERE id = ?", (row.sum, number))
        return row

    def locate(self, shas: Iterable[bytes], *, leaving: bool = True, promised: bool = False) -> dict[bytes, Location]:
        """
        Where the contents lie, each row proven; those that are not stored are missing from the answer.

        Without `leaving`, so are those that are to be stored anew. With `promised`
        (a manifest is written from it) their objects must be locked for as long as
        the run promises, named by a version where it promises anything, and compared
        where that is asked for: `CatalogUnusable` where one is not, or a row is damaged.
        """
        kept = "" if leaving else " AND object NOT IN (SELECT object FROM leaving)"
        found = {}
        objects: dict[int, tuple[ObjectRow, int]] = {}
        with self.held() as db:
            rows = _select(
                db,
                f"SELECT {CONTENT}, {OBJECT} FROM contents JOIN objects ON id = object WHERE sha IN ({{}}){kept}",
                list(set(shas)),
            )
            for columns in rows:
                if columns[1] not in objects:
                    row = proven_object(*columns[6:])
                    if promised and not self._fulfils(row):
                        raise damaged("used")
                    objects[columns[1]] = row, row.identity
                row, identity = objects[columns[1]]
                sha, _, start, length, _ = proven_content(identity, *columns[:6])
                found[sha] = Location(row.key, row.version or None, start, length, row.encoding)
        return found

    def _fulfils(self, row: ObjectRow) -> bool:
        """Whether a manifest of this run may rely on an object."""
        named = bool(row.version) or self._promise.mode is LockMode.NONE
        return named and bool(row.checked or not self._doubting) and row.stored.lock.covers(self._promise)

    # ---- files

    def unchanged(self, states: Sequence[FileState]) -> dict[tuple[int, int], bytes]:
        """
        The contents of those files that are as they were and whose content is stored.

        By (device, inode); the states' own `sha` is not looked at.
        """
        found: dict[tuple[int, int], bytes] = {}
        if not self._knows_files:
            return found
        asked = {(s.device, s.inode): s for s in states}
        query = (
            f"SELECT device, inode, files.size, mtime, ctime, files.sha, files.sum, seen, objects.id, {self._short}"
            " FROM files"
            " LEFT JOIN contents ON contents.sha = files.sha AND object NOT IN (SELECT object FROM leaving)"
            " LEFT JOIN objects ON id = object"
            " WHERE device = {} AND inode IN ({{}})"
        )
        with self.held() as db:
            used = []
            for device in {s.device for s in states}:
                inodes = [s.inode for s in states if s.device == device]
                for *row, checksum, seen, stored, short in _select(
                    db, query.format(_signed(device)), [_signed(i) for i in inodes]
                ):
                    if file_sum(*row) != checksum:
                        raise damaged("files")
                    _, inode, size, mtime, ctime, sha = row
                    state = asked.get((device, inode & _MASK))
                    if state is None:
                        raise damaged("files")
                    if (size, mtime, ctime) != (state.size, _signed(state.mtime), _signed(state.ctime)):
                        continue
                    if stored is None and sha != EMPTY:
                        continue
                    found[device, state.inode] = sha
                    if short:
                        used.append((sha,))
                    if not isinstance(seen, int) or seen < self._today - 7:
                        self._seen.append((self._today, _signed(device), inode))
            db.executemany("INSERT OR IGNORE INTO used VALUES (?)", used)
            if len(self._seen) > 5000:
                self._write_seen(db)
        return found

    def remember(self, states: Sequence[FileState]) -> None:
        """What files looked like when they were read; the same inodes' earlier states are forgotten."""
        with self.held() as db, _transaction(db):
            self._knows_files = True
            db.executemany(
                "INSERT OR REPLACE INTO files (device, inode, size, mtime, ctime, sha, seen, sum)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                ((*row, self._today, file_sum(*row)) for row in map(_kept, states)),
            )

    def tidy(self, now: datetime) -> None:
        """At a run's end: forget files not met for 60 days, and objects whose locks ended 60 days ago."""
        day = int(now.timestamp()) // _DAY
        with self.held() as db, _transaction(db):
            self._write_seen(db)
            db.execute("DELETE FROM files WHERE seen < ?", (day - 60,))
            db.execute(
                "DELETE FROM contents WHERE object IN (SELECT id FROM objects WHERE until < ?)",
                ((day - 60) * _DAY,),
            )
            db.execute("DELETE FROM objects WHERE until < ?", ((day - 60) * _DAY,))
            db.execute("DELETE FROM used")
            db.execute("DELETE FROM leaving")

    def next_lock_end(self, now: datetime) -> datetime | None:
        """The first end of a lock that is still in force; None where nothing is locked."""
        with self.held() as db:
            query = f"SELECT {OBJECT} FROM objects WHERE until > ? AND mode != 'none' ORDER BY until LIMIT 1"
            found = db.execute(query, (int(now.timestamp()),)).fetchone()
            return None if found is None else proven_object(*found).stored.lock.until

    def _write_seen(self, db: sqlite3.Connection) -> None:
        db.executemany("UPDATE files SET seen = ? WHERE device = ? AND inode = ?", self._seen)
        self._seen.clear()

    # ---- for the catalog's other modules

    @contextmanager
    def held(self) -> Iterator[sqlite3.Connection]:
        """The connection, held against other threads; SQLite's errors are translated."""
        with self._lock, self._trouble():
            yield self._db

    @property
    def own(self) -> str:
        """The host whose run it is."""
        return self._own

    @property
    def short(self) -> str:
        """SQL that is true of objects that this run must see to before it may rely on them."""
        return self._short

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except Damaged as exc:
            raise CatalogUnusable(f"the catalog {self.path} is damaged: {exc}") from exc
        except (*schema.SqlError, OSError) as exc:
            if not isinstance(exc, OSError) and (damage := schema.damage_in(exc)) is not None:
                raise CatalogUnusable(f"the catalog {self.path} is damaged: {damage}") from exc
            raise SpoolError(
                f"cannot use the catalog {self.path}: {exc}. What was stored is safe; make room in its"
                " directory, or delete the file: it is only a cache"
            ) from exc


_MASK = (1 << 64) - 1
_HALF = 1 << 63


def _signed(number: int) -> int:
    """
    A number as SQLite's integers hold it, which have 64 bits with a sign.

    Inode numbers have none; a file's time in nanoseconds has more from the year 2262 on.
    """
    return number if -_HALF <= number < _HALF else ((number + _HALF) & _MASK) - _HALF


def _kept(state: FileState) -> tuple[int, int, int, int, int, bytes]:
    device, inode, size, mtime, ctime, sha = state
    return _signed(device), _signed(inode), size, _signed(mtime), _signed(ctime), sha


def _select(db: sqlite3.Connection, query: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows of a query with one IN ({}), for however many values."""
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        # whole: a cursor that is left in the middle, where a row is damaged, would outlive the connection
        yield from db.execute(query.format(",".join("?" * len(some))), some).fetchall()


def _later(row: ObjectRow, lock: Lock) -> ObjectRow:
    """
    A row under the later and the firmer of two locks: of two things said of one version's lock both are true.

    `none` is no lock at all, whatever date comes with it (that is until when a run
    with `lock_mode = none` would have liked one).
    """
    known, until = LockMode(row.mode), int(lock.until.timestamp())
    if (known is LockMode.NONE) is (lock.mode is LockMode.NONE):
        until = max(row.until, until)
    elif lock.mode is LockMode.NONE:
        until = row.until
    return row._replace(mode=max(known, lock.mode, key=_FIRMNESS.index).value, until=until)


def rewrite(db: sqlite3.Connection, row: ObjectRow) -> None:
    """Write down what may change of an object that is known."""
    db.execute(
        "UPDATE objects SET mode = ?, until = ?, encoding = ?, checked = ?, sum = ? WHERE id = ?",
        (row.mode, row.until, row.encoding, row.checked, row.sum, row.number),
    )


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
