"""Catalogs of versions 1 and 2, whose rows were one for each content and each file, written anew."""

import os
import sqlite3
import struct
import zlib
from collections import defaultdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sysbackup.catalog import blocks, pieces
from sysbackup.catalog.hints import Hints
from sysbackup.catalog.rows import ObjectRow, damaged
from sysbackup.model import FileState, Lock, LockMode, Member, Span

_SUM = "    sum INTEGER NOT NULL,        -- of the row, see `rows`: over all but `news` and `seen`\n"
_CENSUS = """
CREATE TABLE census (
    key TEXT NOT NULL            -- behind which the next look at what is in the bucket begins
);"""
_TABLES = f"""{_CENSUS}
CREATE TABLE objects (
{_SUM}    id INTEGER PRIMARY KEY,
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
CREATE TABLE contents (
{_SUM}    sha BLOB PRIMARY KEY,        -- 32 bytes
    object INTEGER NOT NULL,
    start INTEGER,               -- of the member in its pack; NULL where the object is the content
    length INTEGER,
    size INTEGER NOT NULL        -- of the content; -1: not known
) WITHOUT ROWID;
CREATE INDEX contents_object ON contents (object);
CREATE TABLE files (
{_SUM}    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,      -- nanoseconds
    ctime INTEGER NOT NULL,
    sha BLOB NOT NULL,
    seen INTEGER NOT NULL,       -- days since 1970
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

_BEFORE_SUMS = _TABLES.replace(_SUM, "")

TABLES = {1: (_BEFORE_SUMS, _BEFORE_SUMS.replace(_CENSUS, "")), 2: (_TABLES,)}
"""What catalogs of earlier versions declare, to the letter: version 1 had no checksums, and at first no census."""

_AT_ONCE = 2000
_DIGEST = 32

_FILE = struct.Struct("<5q")
_CONTENT = struct.Struct("<q??qqq")


def copy(db: sqlite3.Connection, earlier: Path) -> None:
    """
    Fill the empty tables of `db` from the catalog of an earlier version at `earlier`.

    What lies in no object is of no use to anybody. SQLite's errors come through; `Damaged`
    where a row does not fit its checksum or, without one, cannot be what was written.
    """
    db.execute("ATTACH ? AS earlier", (f"file:{quote(os.fsencode(earlier))}?mode=ro",))
    summed = db.execute("PRAGMA earlier.user_version").fetchone()[0] > 1
    checksum = "sum" if summed else "NULL"
    db.execute("BEGIN")
    _copy_objects(db, checksum)
    hints = Hints()
    hints.catch_up(db)
    hints.settle(db, whole=True)
    _copy_files(db, checksum)
    db.execute("INSERT INTO main.indexes SELECT * FROM earlier.indexes")
    db.execute("INSERT INTO main.bucket SELECT * FROM earlier.bucket")
    if db.execute("SELECT 1 FROM earlier.sqlite_master WHERE name = 'census'").fetchone() is not None:
        db.execute("INSERT INTO main.census SELECT * FROM earlier.census")
    db.execute("COMMIT")
    db.execute("DETACH earlier")


def _copy_objects(db: sqlite3.Connection, checksum: str) -> None:
    columns = "id, key, version, size, mode, until, encoding, host, checked"
    number = 1
    for *values, news, expected in db.execute(f"SELECT {columns}, news, {checksum} FROM earlier.objects ORDER BY id"):
        row = _object(*values)
        if expected is not None and row.sum != expected:
            raise damaged("objects")
        db.execute(
            f"INSERT INTO main.objects ({columns}, news, sum) VALUES ({', '.join('?' * 11)})", (*row, news, row.sum)
        )
        contents = db.execute(
            f"SELECT sha, object, start, length, size, {checksum} FROM earlier.contents"
            " WHERE object = ? ORDER BY start",
            (row.number,),
        )
        identity = row.identity
        made = pieces.made(row, [_content(identity, *content) for content in contents], number)
        pieces.write(db, row, made)
        number += len(made)


def _copy_files(db: sqlite3.Connection, checksum: str) -> None:
    rows = db.execute(f"SELECT device, inode, size, mtime, ctime, sha, seen, {checksum} FROM earlier.files")
    while some := list(islice(rows, _AT_ONCE)):
        by_day: defaultdict[int, list[FileState]] = defaultdict(list)
        for *row, seen, expected in some:
            if not isinstance(seen, int):
                raise damaged("files")
            by_day[seen].append(_file(expected, *row))
        for seen, states in by_day.items():
            blocks.remember(db, states, seen)


def _file(expected: Any, *row: Any) -> FileState:
    *numbers, sha = row
    try:
        checksum = zlib.crc32(_FILE.pack(*numbers) + sha)
    except (struct.error, TypeError):
        raise damaged("files") from None
    if len(sha) != _DIGEST or expected not in (None, checksum):
        raise damaged("files")
    device, inode, size, mtime, ctime = numbers
    return FileState(device, blocks.unsigned(inode), size, mtime, ctime, sha)


def _object(*values: Any) -> ObjectRow:
    row = ObjectRow(*values)
    try:
        Lock(LockMode(row.mode), datetime.fromtimestamp(row.until, UTC))
    except (TypeError, ValueError, OverflowError, OSError):
        raise damaged("objects") from None
    texts, numbers = (row.key, row.version, row.encoding or "", row.host), (row.size, row.until, row.checked)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
        raise damaged("objects")
    return row


def _content(identity: int, sha: Any, number: Any, start: Any, length: Any, size: Any, expected: Any) -> Member:
    try:
        known = _CONTENT.pack(number, start is None, length is None, start or 0, length or 0, size)
        checksum = zlib.crc32(known + sha, identity)
    except (struct.error, TypeError):
        raise damaged("contents") from None
    if len(sha) != _DIGEST or (start is None) != (length is None) or expected not in (None, checksum):
        raise damaged("contents")
    return Member(sha, size, None if start is None else Span(start, length))
