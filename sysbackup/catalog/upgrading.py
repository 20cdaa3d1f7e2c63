"""The rows of a catalog of version 1, which had no checksums, written anew with them."""

import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sysbackup.catalog import rows
from sysbackup.model import Lock, LockMode

# What lies in no object is of no use to anybody.
_COPY = """
INSERT INTO main.objects
    SELECT object_sum(id, key, version, size, mode, until, encoding, host, checked), * FROM earlier.objects;
INSERT INTO main.contents
    SELECT content_sum(key, version, sha, object, start, length, contents.size), contents.*
    FROM earlier.contents AS contents CROSS JOIN earlier.objects ON id = object;
INSERT INTO main.files SELECT file_sum(device, inode, size, mtime, ctime, sha), * FROM earlier.files;
INSERT INTO main.indexes SELECT * FROM earlier.indexes;
INSERT INTO main.bucket SELECT * FROM earlier.bucket;
"""


def copy(db: sqlite3.Connection, earlier: Path) -> None:
    """
    Fill the empty tables of `db` from the catalog of version 1 at `earlier`, row by row.

    SQLite's errors come through; a value that no such row can hold is one of
    them (SQLITE_ERROR).
    """
    for name, function in _SUMS.items():
        db.create_function(name, -1, function, deterministic=True)
    db.execute("ATTACH ? AS earlier", (f"file:{quote(os.fsencode(earlier))}?mode=ro",))
    db.executescript(f"BEGIN; {_COPY} COMMIT;")
    db.execute("DETACH earlier")


def _object_sum(*values: Any) -> int:
    row = rows.ObjectRow(*values)
    Lock(LockMode(row.mode), datetime.fromtimestamp(row.until, UTC))
    if not all(isinstance(text, str) for text in (row.key, row.version, row.encoding or "", row.host)):
        raise TypeError
    if not all(isinstance(number, int) for number in (row.size, row.until, row.checked)):
        raise TypeError
    return row.sum


def _content_sum(key: str, version: str, *values: Any) -> int:
    sha, _, start, length, _ = values
    if (start is None) != (length is None):
        raise ValueError(start, length)
    return _of_digest(sha, rows.content_sum(rows.identity(key, version), *values))


def _file_sum(*values: Any) -> int:
    return _of_digest(values[-1], rows.file_sum(*values))


def _of_digest(sha: bytes, checksum: int) -> int:
    if checksum == rows.NEVER or len(sha) != 32:
        raise ValueError(sha)
    return checksum


# Called by SQLite, which turns whatever they raise into an error of the statement.
_SUMS: dict[str, Callable[..., int]] = {
    "object_sum": _object_sum,
    "content_sum": _content_sum,
    "file_sum": _file_sum,
}
