"""
What one run notes for itself: a database of its own beside the catalog's, gone when the run is.

Not SQLite's temporary tables: these would go to whatever directory SQLite finds for
them (sqlite.org/tempfiles.html), which need not have the room, or be writable at all.
"""

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from sysbackup.disk.ownership import leave_to_owner

# Half of it is of no use to anybody, and a new run makes it anew: nothing need be safe from a power cut.
_ATTACHED = """
PRAGMA run.locking_mode = EXCLUSIVE;
PRAGMA run.journal_mode = MEMORY;
PRAGMA run.synchronous = OFF;
PRAGMA run.secure_delete = OFF;  -- else what a table held that is emptied would go into the journal, in memory
CREATE TABLE run.used (          -- contents that the run reuses and that need a look before its end
    sha BLOB PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE run.leaving (       -- packs hardly used any more, whose living contents the run stores anew
    object INTEGER PRIMARY KEY
);
"""


def notes_path(catalog: Path) -> Path:
    """Where they lie while the run goes on; what a killed run left there the next one takes away."""
    return catalog.with_name(f"{catalog.name}.run")


def begin(db: sqlite3.Connection, catalog: Path) -> None:
    """Nothing is noted yet: tables `run.used` and `run.leaving`, and room for more, on this connection."""
    if any(name == "run" for _, name, _ in db.execute("PRAGMA database_list").fetchall()):
        db.execute("DETACH run")
    path = notes_path(catalog)
    end(catalog)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        leave_to_owner(fd, path.parent)
    finally:
        os.close(fd)
    db.execute("ATTACH ? AS run", (f"file:{quote(os.fsencode(path))}",))
    db.executescript(_ATTACHED)


def use(db: sqlite3.Connection, shas: Iterable[bytes]) -> None:
    """The run reuses these contents, which need a look before its end."""
    db.executemany("INSERT OR IGNORE INTO run.used VALUES (?)", ((sha,) for sha in shas))


def end(catalog: Path) -> None:
    """They are of no use any more."""
    notes_path(catalog).unlink(missing_ok=True)
