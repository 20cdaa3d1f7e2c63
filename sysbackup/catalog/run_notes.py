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

_SHA = 32

# Half of it is of no use to anybody, and a new run makes it anew: nothing need be safe from a power cut.
_ATTACHED = """
PRAGMA run.locking_mode = EXCLUSIVE;
PRAGMA run.journal_mode = MEMORY;
PRAGMA run.synchronous = OFF;
PRAGMA run.secure_delete = OFF;  -- else what a table held that is emptied would go into the journal, in memory
CREATE TABLE run.used (          -- contents that the run reuses and that need a look before its end
    number INTEGER PRIMARY KEY,
    shas BLOB NOT NULL           -- some, one behind the other, in whatever order and as often as they were met
);
CREATE TABLE run.leaving (       -- packs hardly used any more, whose living contents the run stores anew
    object INTEGER PRIMARY KEY
);
CREATE TABLE run.made (          -- lists of chunks of the run's own that need what nobody has proven yet
    object INTEGER PRIMARY KEY
);
"""


def notes_path(catalog: Path) -> Path:
    """Where they lie while the run goes on; what a killed run left there the next one takes away."""
    return catalog.with_name(f"{catalog.name}.run")


def begin(db: sqlite3.Connection, catalog: Path) -> None:
    """Nothing is noted yet: tables `run.used`, `run.leaving` and `run.made`, and room for more, on this connection."""
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
    if some := b"".join(shas):
        db.execute("INSERT INTO run.used (shas) VALUES (?)", (some,))


def used_after(db: sqlite3.Connection, number: int) -> tuple[int, set[bytes]] | None:
    """The first note of what the run reuses behind the one of that number; None where there is none."""
    row = db.execute("SELECT number, shas FROM run.used WHERE number > ? LIMIT 1", (number,)).fetchone()
    if row is None:
        return None
    return row[0], {row[1][at : at + _SHA] for at in range(0, len(row[1]), _SHA)}


def end(catalog: Path) -> None:
    """They are of no use any more."""
    notes_path(catalog).unlink(missing_ok=True)
