"""The catalog's file: opened, made where there is none, set aside where it is damaged or foreign."""

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import structlog

from sysbackup.catalog.rows import CatalogUnusable, ObjectRow, content_sum, file_sum
from sysbackup.owning import leave_to_owner

log = structlog.get_logger()

# sqlite.org/pragma.html, application_id: "sbkC"
APPLICATION = 0x73626B43
VERSION = 2

# In catalogs made before there was a census it is added.
_CENSUS = """
CREATE TABLE IF NOT EXISTS census (
    key TEXT NOT NULL            -- behind which the next look at what is in the bucket begins
);
"""

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
{_CENSUS}
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    version TEXT NOT NULL,       -- '' on stores without versions
    size INTEGER NOT NULL,       -- of the body
    mode TEXT NOT NULL,
    until INTEGER NOT NULL,      -- of the lock, seconds since 1970
    encoding TEXT,
    host TEXT NOT NULL,          -- whose index, or whose run, told us of it
    checked INTEGER NOT NULL,    -- 1: ours, or its contents were compared with their hashes
    news INTEGER NOT NULL,       -- 1: stored or renewed by us, in no index yet; 2: in the one being published
    sum INTEGER NOT NULL,        -- see `rows`, over all but `news`
    UNIQUE (key, version)
);
CREATE INDEX objects_news ON objects (news) WHERE news > 0;
CREATE TABLE contents (
    sha BLOB PRIMARY KEY,        -- 32 bytes
    object INTEGER NOT NULL,
    start INTEGER,               -- of the member in its pack; NULL where the object is the content
    length INTEGER,
    size INTEGER NOT NULL,       -- of the content; -1: not known
    sum INTEGER NOT NULL         -- see `rows`
) WITHOUT ROWID;
CREATE INDEX contents_object ON contents (object);
CREATE TABLE files (
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,      -- nanoseconds
    ctime INTEGER NOT NULL,
    sha BLOB NOT NULL,
    seen INTEGER NOT NULL,       -- days since 1970
    sum INTEGER NOT NULL,        -- see `rows`, over all but `seen`
    PRIMARY KEY (device, inode)
) WITHOUT ROWID;
CREATE TABLE used (              -- contents that this run reuses and that need a look before its end
    sha BLOB PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE leaving (           -- packs hardly used any more, whose living contents this run stores anew
    object INTEGER PRIMARY KEY
);
CREATE TABLE indexes (
    host TEXT PRIMARY KEY,
    key TEXT NOT NULL,           -- the last index object of that host that was read or published
    until INTEGER NOT NULL       -- of its lock, where it is our own; else 0
) WITHOUT ROWID;
CREATE TABLE bucket (
    name TEXT PRIMARY KEY        -- the one bucket that all this is about
) WITHOUT ROWID;
"""


def opened(path: Path) -> sqlite3.Connection:
    """
    The catalog at `path`, usable by any thread under the caller's lock; made where there is none.

    One that is damaged, foreign or of another version is renamed, with a
    warning, and a new one made. sqlite3.Error where the disk does not let us.
    """
    if path.exists() and (reason := _unusable(path)) is not None:
        set_aside(path, reason)
    fresh = not path.exists()
    if fresh:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        leave_to_owner(fd, path.parent)
        os.close(fd)
    db = _connected(path)
    db.executescript(f"BEGIN; {_SCHEMA if fresh else _CENSUS} COMMIT;")
    return db


def read_only(path: Path) -> sqlite3.Connection:
    """
    The catalog at `path` for looking at, whoever else may be writing to it.

    `CatalogUnusable` where it is none of ours; sqlite3.Error where it cannot be opened.
    """
    db = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, check_same_thread=False, timeout=30)
    try:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if (application, version) != (APPLICATION, VERSION):
            raise CatalogUnusable(f"{path} is no catalog of this sysbackup: the next run sets it aside")
        if (damage := _damage(db)) is not None:
            raise CatalogUnusable(f"{path} is damaged ({damage}): the next run sets it aside")
    except BaseException:
        db.close()
        raise
    return db


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # A power cut may cost the last transactions; what they held is stored once more, no more than that.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -16384")  # KiB
    except BaseException:
        db.close()
        raise
    return db


def _unusable(path: Path) -> str | None:
    """Why a file is no catalog of ours; None where it is one."""
    try:
        db = _connected(path)
    except sqlite3.DatabaseError as exc:
        if isinstance(exc, sqlite3.OperationalError):
            raise
        return str(exc)
    try:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION:
            return "it was not made by sysbackup"
        if version not in (1, VERSION):
            return f"it has version {version}, this sysbackup writes version {VERSION}"
        for table in ("objects", "contents", "files", "used", "leaving", "indexes", "bucket"):
            db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
        if (damage := _damage(db)) is None and version == 1:
            _take_over(db)
        return damage
    except sqlite3.OperationalError as exc:
        if "no such" not in str(exc) and "decode" not in str(exc):
            raise  # a busy or failing disk says nothing about the file
        return str(exc)
    except sqlite3.DatabaseError as exc:
        return str(exc)
    finally:
        db.close()


def _damage(db: sqlite3.Connection) -> str | None:
    """
    What a look at every page finds wrong; None where nothing is.

    A page that was cut off or overwritten need not trouble SQLite: it may read
    as rows that nobody wrote, with NULL where there is no NULL, and such a row
    must not say where a content lies. Measured: 0.4 s for the 167 MiB of
    1,000,000 files, whose run takes 37 s.
    """
    said: str = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    return None if said == "ok" else said


def _take_over(db: sqlite3.Connection) -> None:
    """Give the rows of a catalog of version 1 their checksums, all or none."""
    db.create_function("object_sum", 9, lambda *row: ObjectRow(*row).sum, deterministic=True)
    db.create_function("content_sum", 5, content_sum, deterministic=True)
    db.create_function("file_sum", 6, file_sum, deterministic=True)
    db.execute("BEGIN IMMEDIATE")
    try:
        for table, checksum in (
            ("objects", "object_sum(id, key, version, size, mode, until, encoding, host, checked)"),
            ("contents", "content_sum(sha, object, start, length, size)"),
            ("files", "file_sum(device, inode, size, mtime, ctime, sha)"),
        ):
            db.execute(f"ALTER TABLE {table} ADD COLUMN sum INTEGER NOT NULL DEFAULT -1")
            db.execute(f"UPDATE {table} SET sum = {checksum}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def set_aside(path: Path, reason: str) -> None:
    """Rename a catalog that cannot be used, so that a new one takes its place; of those before it none is kept."""
    for earlier in path.parent.glob(f"{path.name}.unusable-*"):
        earlier.unlink()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    aside = path.with_name(f"{path.name}.unusable-{stamp}")
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    path.rename(aside)
    log.warning(
        "catalog.set_aside",
        path=str(aside),
        reason=reason,
        hint="a new one is built from the bucket's index; the old file can be deleted",
    )
