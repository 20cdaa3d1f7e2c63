"""What each file looked like when it was read (rule 7)."""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime

from sysbackup.catalog import run_notes
from sysbackup.catalog.connection import Connection
from sysbackup.catalog.questions import DAY, Questions, signed
from sysbackup.catalog.rows import file_sum
from sysbackup.model import FileState

_KEPT = 60  # days that a file is remembered that no run has met
_NOTED = 5000  # files that were met and wait for that to be written


class KnownFiles:
    """See `interface.Files`."""

    def __init__(self, connection: Connection, questions: Questions) -> None:
        self._connection = connection
        self._questions = questions
        self._seen: list[tuple[int, int, int]] = []

    def unchanged(self, states: Sequence[FileState]) -> dict[tuple[int, int], bytes]:
        """See `interface.Files`."""
        with self._connection.held() as db:
            found = self._questions.unchanged(db, states)
            run_notes.use(db, found.used)
            self._note(db, found.met)
        return found.shas

    def met(self, files: Iterable[tuple[int, int]]) -> None:
        """See `interface.Files`."""
        with self._connection.held() as db:
            self._note(db, files)

    def remember(self, states: Sequence[FileState]) -> None:
        """See `interface.Files`."""
        today = self._questions.today
        with self._connection.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO files (device, inode, size, mtime, ctime, sha, seen, sum)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                ((*row, today, file_sum(*row)) for row in map(_kept, states)),
            )

    def tidy(self, db: sqlite3.Connection, now: datetime) -> None:
        """Write down which files were met, and forget those not met for long."""
        self._write_seen(db)
        db.execute("DELETE FROM files WHERE seen < ?", (int(now.timestamp()) // DAY - _KEPT,))

    def _note(self, db: sqlite3.Connection, met: Iterable[tuple[int, int]]) -> None:
        today = self._questions.today
        self._seen += [(today, signed(device), signed(inode)) for device, inode in met]
        if len(self._seen) > _NOTED:
            self._write_seen(db)

    def _write_seen(self, db: sqlite3.Connection) -> None:
        db.executemany("UPDATE files SET seen = ? WHERE device = ? AND inode = ?", self._seen)
        self._seen.clear()


def _kept(state: FileState) -> tuple[int, int, int, int, int, bytes]:
    device, inode, size, mtime, ctime, sha = state
    return signed(device), signed(inode), size, signed(mtime), signed(ctime), sha
