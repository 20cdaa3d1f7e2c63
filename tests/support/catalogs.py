"""Catalogs of a few packs, the runs that fill them, and catalogs as earlier versions made them."""

import hashlib
import os
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sysbackup.catalog.blocks import ENTRY
from sysbackup.catalog.interface import Catalog, Session
from sysbackup.catalog.pieces import PIECE, Piece
from sysbackup.formats import keys
from sysbackup.formats.index import Indexed
from sysbackup.model import Lock, LockMode, Member, Span, StoredObject

NOW = datetime(2026, 11, 23, 4, 15, tzinfo=UTC)

# As sysbackup made it before there were checksums.
_VERSION_1 = """
PRAGMA application_id = 1935829827;
PRAGMA user_version = 1;
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
    UNIQUE (key, version)
);
CREATE INDEX objects_news ON objects (news) WHERE news > 0;
CREATE TABLE contents (
    sha BLOB PRIMARY KEY,        -- 32 bytes
    object INTEGER NOT NULL,
    start INTEGER,               -- of the member in its pack; NULL where the object is the content
    length INTEGER,
    size INTEGER NOT NULL        -- of the content; -1: not known
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
# And with them.
_VERSION_2 = re.sub(
    r"(CREATE TABLE (?:objects|contents|files) \(\n)",
    r"\1    sum INTEGER NOT NULL,        -- of the row, see `rows`: over all but `news` and `seen`\n",
    _VERSION_1.replace("user_version = 1", "user_version = 2"),
)
_CENSUS = """
CREATE TABLE IF NOT EXISTS census (
    key TEXT NOT NULL            -- behind which the next look at what is in the bucket begins
);
"""


def until(days: float, mode: LockMode = LockMode.GOVERNANCE) -> Lock:
    return Lock(mode, NOW + timedelta(days=days))


def sha(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def pack(name: str, lock: Lock, size: int = 10_000) -> StoredObject:
    return StoredObject(keys.pack_key(sha(name)), f"version of {name}", size, lock)


def members(*names: object) -> list[Member]:
    """Contents in a pack, 100 bytes each, one after the other."""
    return [Member(sha(name), 250, Span(100 * n, 100)) for n, name in enumerate(names)]


def unknown(session: Session, shas: Iterable[bytes]) -> set[bytes]:
    """Those of the contents that are to be stored, if anybody needs them."""
    asked = {*shas}
    stored = session.contents.stored(asked)
    assert stored <= asked
    return asked - stored


def confirmed(session: Session, stored: StoredObject, *names: object) -> None:
    """A pack with these contents is stored."""
    assert len(unknown(session, map(sha, names))) == len(names)
    session.contents.confirm(stored, "gzip", members(*names))


def began(
    catalog: Catalog, days: float = 14, mode: LockMode = LockMode.GOVERNANCE, *, doubting: bool = False
) -> Session:
    """A run begins now that promises that long."""
    return catalog.begin("bucket", "alpha", until(days, mode), NOW, doubting=doubting)


def due(session: Session) -> dict[str, int]:
    """The objects that a run has to see to, and how many of their bytes it uses."""
    session.renewals.collect()
    return {found.stored.version or "": found.used for page in session.renewals.due() for found in page}


def news(session: Session) -> list[Indexed]:
    """What the next index tells."""
    session.indexes.begin_publishing()
    return [*session.indexes.news()]


def held(path: Path) -> list[tuple[str, str | None, Member]]:
    """What the catalog at `path` knows of contents: the key and the encoding of the object, and the content in it."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(f"SELECT key, encoding, {PIECE} FROM pieces JOIN objects ON objects.id = object").fetchall()
    return [(key, encoding, member) for key, encoding, *piece, _ in rows for member in Piece(*piece).all()]


def of_version(path: Path, version: int, *, census: bool = True) -> Path:
    """The same catalog as sysbackup made it when it had a row for each content and each file."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    earlier = path.with_name("earlier")
    with closing(sqlite3.connect(earlier, isolation_level=None)) as db:
        db.executescript((_VERSION_1 if version == 1 else _VERSION_2) + _CENSUS * census)
        db.execute("ATTACH ? AS new", (str(path),))
        for table in ("indexes", "bucket", *["census"] * census):
            db.execute(f"INSERT INTO main.{table} SELECT * FROM new.{table}")
        for table, rows in (("objects", _objects(db)), ("contents", _contents(db)), ("files", _files(db))):
            for checksum, *row in rows:
                values = row if version == 1 else [checksum, *row]
                db.execute(f"INSERT INTO main.{table} VALUES ({', '.join('?' * len(values))})", values)
        db.execute("DETACH new")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("INSERT INTO used VALUES (x'00')")
    os.replace(earlier, path)
    return path


def _objects(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    columns = "sum, id, key, version, size, mode, until, encoding, host, checked, news"
    return db.execute(f"SELECT {columns} FROM new.objects").fetchall()


def _contents(db: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    rows = db.execute(f"SELECT key, version, {PIECE} FROM new.pieces AS pieces JOIN new.objects AS o ON o.id = object")
    for key, version, *columns, _ in rows.fetchall():
        piece = Piece(*columns)
        identity = zlib.crc32(f"{key}\0{version}".encode())
        for sha, size, span in piece.all():
            start, length = span or (None, None)
            known = struct.pack("<q??qqq", piece.object, span is None, span is None, start or 0, length or 0, size)
            yield zlib.crc32(known + sha, identity), sha, piece.object, start, length, size


def _files(db: sqlite3.Connection) -> Iterator[tuple[object, ...]]:
    shas = {sha[:16]: sha for _, sha, *_ in _contents(db)}
    for device, block, entries in db.execute("SELECT device, block, entries FROM new.files").fetchall():
        for last, size, mtime, ctime, key, seen in ENTRY.iter_unpack(entries):
            row = (device, 16 * block + last, size, mtime, ctime)
            yield zlib.crc32(struct.pack("<5q", *row) + shas[key]), *row, shas[key], seen
