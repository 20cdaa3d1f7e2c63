"""
What the catalog's file is made of, and whether one is ours.

Loaded by every process that looks into it: nothing here logs.
"""

import os
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from urllib.parse import quote

from sysbackup.catalog import upgrading
from sysbackup.errors import CatalogUnusable

# sqlite.org/pragma.html, application_id: "sbkC"
APPLICATION = 0x73626B43
VERSION = 3

# Not a letter of it may change, comments included: a file is known by it.
_TABLES = """
CREATE TABLE census (
    key TEXT NOT NULL            -- behind which the next look at what is in the bucket begins
);
CREATE TABLE objects (
    sum INTEGER NOT NULL,        -- of the row, see `rows`: over all but `news`
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
    UNIQUE (key, version)
);
CREATE INDEX objects_news ON objects (news) WHERE news > 0;
CREATE TABLE pieces (            -- see `pieces`
    sum INTEGER NOT NULL,
    id INTEGER PRIMARY KEY,
    object INTEGER NOT NULL,
    count INTEGER NOT NULL,      -- of the contents in it
    members BLOB NOT NULL
);
CREATE INDEX pieces_object ON pieces (object);
CREATE TABLE hints (             -- see `hints`
    bucket INTEGER PRIMARY KEY,
    hints BLOB NOT NULL
);
CREATE TABLE hinted (
    sum INTEGER NOT NULL,
    bits INTEGER NOT NULL,       -- of a digest that choose the bucket
    start INTEGER NOT NULL,      -- byte of a digest from which on hints go by it
    up_to INTEGER NOT NULL       -- the last piece of which there are hints
);
CREATE TABLE files (             -- see `blocks`
    sum INTEGER NOT NULL,
    device INTEGER NOT NULL,
    block INTEGER NOT NULL,
    oldest INTEGER NOT NULL,     -- days since 1970: when the one of them was met that was not met for longest
    entries BLOB NOT NULL,
    PRIMARY KEY (device, block)
) WITHOUT ROWID;
CREATE TABLE indexes (
    host TEXT PRIMARY KEY,
    key TEXT NOT NULL,           -- the last index object of that host that was read or published
    until INTEGER NOT NULL       -- of its lock, where it is our own; else 0
) WITHOUT ROWID;
CREATE TABLE bucket (
    name TEXT PRIMARY KEY        -- the one bucket that all this is about
) WITHOUT ROWID;
"""

SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
{_TABLES}
"""


def beside(path: Path) -> sqlite3.Connection:
    """
    The catalog at `path` for looking things up, beside the run that has opened it, and thus looked it over.

    `CatalogUnusable` where it is none of ours; sqlite3.Error where it cannot be opened.
    """
    db = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, isolation_level=None, timeout=30)
    try:
        if (reason := foreign(db)) is not None or version_of(db) != VERSION:
            raise CatalogUnusable(f"{path} is not the catalog of this run: {reason or 'it is of an earlier version'}")
        db.execute("PRAGMA cache_size = -8192")  # KiB
    except BaseException:
        db.close()
        raise
    return db


def version_of(db: sqlite3.Connection) -> int:
    """The version of the file, as it says itself."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def foreign(db: sqlite3.Connection) -> str | None:
    """Why a database is no catalog of a version that we know, to the letter of its schema; None where it is one."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        return "it was not made by sysbackup"
    version = version_of(db)
    if version not in (*upgrading.TABLES, VERSION):
        return f"it has version {version}, this sysbackup writes version {VERSION}"
    # Another letter gives a column another name or type, and its values another order.
    return None if _declared(db) in _expected(version) else "its tables are not as they were made"


def _declared(db: sqlite3.Connection) -> set[tuple[object, ...]]:
    # SQLite keeps the statements as they were given (sqlite.org/schematab.html).
    return set(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall())


@cache
def _expected(version: int) -> list[set[tuple[object, ...]]]:
    """What a catalog of that version may declare."""
    found = []
    for tables in upgrading.TABLES.get(version, (_TABLES,)):
        with closing(sqlite3.connect(":memory:")) as db:
            db.executescript(tables)
            found.append(_declared(db))
    return found
