"""What each file looked like when it was read (rule 7)."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from sysbackup.catalog.connection import Connection, select
from sysbackup.catalog.reliance import Reliance
from sysbackup.catalog.rows import damaged, file_sum
from sysbackup.model import FileState

EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # SHA-256 of nothing

DAY = 86_400
_KEPT = 60  # days that a file is remembered that no run has met
_FRESH = 7  # days after which it is noted that one was met
_NOTED = 5000  # such notes that wait to be written

_MASK = (1 << 64) - 1
_HALF = 1 << 63


class KnownFiles:
    """See `interface.Files`."""

    def __init__(self, connection: Connection, reliance: Reliance, now: datetime) -> None:
        self._connection = connection
        self._today = int(now.timestamp()) // DAY
        self._seen: list[tuple[int, int, int]] = []
        self._unchanged = (
            f"SELECT device, inode, files.size, mtime, ctime, files.sha, files.sum, seen, objects.id, {reliance.short}"
            " FROM files"
            " LEFT JOIN contents ON contents.sha = files.sha AND object NOT IN (SELECT object FROM run.leaving)"
            " LEFT JOIN objects ON id = object"
            " WHERE device = {} AND inode IN ({{}})"
        )
        with connection.held() as db:
            # A new catalog need not be asked 100,000 times what a file looked like.
            self._any = db.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None

    def unchanged(self, states: Sequence[FileState]) -> dict[tuple[int, int], bytes]:
        """See `interface.Files`."""
        found: dict[tuple[int, int], bytes] = {}
        if not self._any:
            return found
        asked = {(s.device, s.inode): s for s in states}
        with self._connection.held() as db:
            used = []
            for device in {s.device for s in states}:
                inodes = [s.inode for s in states if s.device == device]
                for *row, checksum, seen, stored, short in select(
                    db, self._unchanged.format(_signed(device)), [_signed(i) for i in inodes]
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
                    if not isinstance(seen, int) or seen < self._today - _FRESH:
                        self._seen.append((self._today, _signed(device), inode))
            db.executemany("INSERT OR IGNORE INTO run.used VALUES (?)", used)
            if len(self._seen) > _NOTED:
                self._write_seen(db)
        return found

    def remember(self, states: Sequence[FileState]) -> None:
        """See `interface.Files`."""
        with self._connection.transaction() as db:
            self._any = True
            db.executemany(
                "INSERT OR REPLACE INTO files (device, inode, size, mtime, ctime, sha, seen, sum)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                ((*row, self._today, file_sum(*row)) for row in map(_kept, states)),
            )

    def tidy(self, db: sqlite3.Connection, now: datetime) -> None:
        """Write down which files were met, and forget those not met for long."""
        self._write_seen(db)
        db.execute("DELETE FROM files WHERE seen < ?", (int(now.timestamp()) // DAY - _KEPT,))

    def _write_seen(self, db: sqlite3.Connection) -> None:
        db.executemany("UPDATE files SET seen = ? WHERE device = ? AND inode = ?", self._seen)
        self._seen.clear()


def _signed(number: int) -> int:
    """
    A number as SQLite's integers hold it, which have 64 bits with a sign.

    Inode numbers have none; a file's time in nanoseconds has more from the year 2262 on.
    """
    return number if -_HALF <= number < _HALF else ((number + _HALF) & _MASK) - _HALF


def _kept(state: FileState) -> tuple[int, int, int, int, int, bytes]:
    device, inode, size, mtime, ctime, sha = state
    return _signed(device), _signed(inode), size, _signed(mtime), _signed(ctime), sha
