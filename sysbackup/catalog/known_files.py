"""What each file looked like when it was read (rule 7)."""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime

from sysbackup.catalog import blocks, run_notes
from sysbackup.catalog.connection import Connection
from sysbackup.catalog.questions import DAY, Questions
from sysbackup.model import FileState

_KEPT = 60  # days that a file is remembered that no run has met
_NOTED = 5000  # files that were met and wait for that to be written


class KnownFiles:
    """See `interface.Files`."""

    def __init__(self, connection: Connection, questions: Questions) -> None:
        self._connection = connection
        self._questions = questions
        self._met: list[tuple[int, int]] = []

    def unchanged(self, states: Sequence[FileState]) -> dict[tuple[int, int], bytes]:
        """See `interface.Files`."""
        with self._connection.held() as db:
            found = self._questions.unchanged(db, states)
            run_notes.use(db, found.used)
        self.met(found.met)
        return found.shas

    def any(self) -> bool:
        """See `interface.Files`."""
        with self._connection.held() as db:
            return db.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None

    def met(self, files: Iterable[tuple[int, int]]) -> None:
        """See `interface.Files`."""
        with self._connection.held():
            self._met += files
            many = len(self._met) > _NOTED
        if many:
            with self._connection.transaction() as db:
                self._write_met(db)

    def remember(self, states: Sequence[FileState]) -> None:
        """See `interface.Files`."""
        with self._connection.transaction() as db:
            blocks.remember(db, states, self._questions.today)

    def tidy(self, db: sqlite3.Connection, now: datetime) -> None:
        """Write down which files were met, and forget those not met for long."""
        self._write_met(db)
        blocks.forget_before(db, int(now.timestamp()) // DAY - _KEPT)

    def _write_met(self, db: sqlite3.Connection) -> None:
        blocks.met(db, self._met, self._questions.today)
        self._met.clear()
