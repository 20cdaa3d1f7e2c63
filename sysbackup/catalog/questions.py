"""Which contents are stored and where, which files are unchanged: asked of a connection, noted nowhere."""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime

from sysbackup.catalog.connection import select
from sysbackup.catalog.lookup import Stored, Unchanged
from sysbackup.catalog.reliance import Reliance
from sysbackup.catalog.rows import CONTENT, OBJECT, ObjectRow, damaged, file_sum, proven_object, proven_span
from sysbackup.model import FileState, Location

EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # SHA-256 of nothing

DAY = 86_400
_FRESH = 7  # days after which it is to be noted that a file was met

STAYING = " AND object NOT IN (SELECT object FROM run.leaving)"
"""SQL that is true of contents which are not to be stored anew, where a run's notes are at hand."""

_MASK = (1 << 64) - 1
_HALF = 1 << 63


class Questions:
    """
    What a run that relies on what `reliance` says, and began `now`, may ask.

    With `kept` what it does not want is left out of contents and files (`STAYING`).
    """

    def __init__(self, reliance: Reliance, now: datetime, kept: str = "") -> None:
        self.today = int(now.timestamp()) // DAY
        self._reliance = reliance
        self._stored = (
            f"SELECT sha, {reliance.short} FROM contents JOIN objects ON id = object WHERE sha IN ({{}}){kept}"
        )
        self._unchanged = (
            f"SELECT device, inode, files.size, mtime, ctime, files.sha, files.sum, seen, objects.id, {reliance.short}"
            f" FROM files LEFT JOIN contents ON contents.sha = files.sha{kept} LEFT JOIN objects ON id = object"
            " WHERE device = {} AND inode IN ({{}})"
        )

    def stored(self, db: sqlite3.Connection, shas: Iterable[bytes]) -> Stored:
        """See `Lookup`."""
        found, used = set(), []
        for sha, short in select(db, self._stored, list(shas)):
            found.add(sha)
            if short:
                used.append(sha)
        return Stored(found, used)

    def unchanged(self, db: sqlite3.Connection, states: Sequence[FileState]) -> Unchanged:
        """See `Lookup`."""
        found = Unchanged({}, [], [])
        # A new catalog need not be asked what each file looked like.
        if db.execute("SELECT 1 FROM files LIMIT 1").fetchone() is None:
            return found
        asked = {(s.device, s.inode): s for s in states}
        for device in {s.device for s in states}:
            inodes = [signed(s.inode) for s in states if s.device == device]
            for *row, checksum, seen, stored, short in select(db, self._unchanged.format(signed(device)), inodes):
                if file_sum(*row) != checksum:
                    raise damaged("files")
                _, inode, size, mtime, ctime, sha = row
                state = asked.get((device, inode & _MASK))
                if state is None:
                    raise damaged("files")
                if (size, mtime, ctime) != (state.size, signed(state.mtime), signed(state.ctime)):
                    continue
                if stored is None and sha != EMPTY:
                    continue
                named = (device, state.inode)
                found.shas[named] = sha
                if short:
                    found.used.append(sha)
                if not isinstance(seen, int) or seen < self.today - _FRESH:
                    found.met.append(named)
        return found

    def locate(
        self, db: sqlite3.Connection, shas: Iterable[bytes], *, promised: bool, kept: str = ""
    ) -> dict[bytes, Location]:
        """See `Contents`."""
        found = {}
        holders: dict[int, tuple[ObjectRow, int]] = {}
        query = f"SELECT {CONTENT}, {OBJECT} FROM contents JOIN objects ON id = object WHERE sha IN ({{}}){kept}"
        for columns in select(db, query, list(set(shas))):
            if columns[1] not in holders:
                row = proven_object(*columns[6:])
                if promised and not self._reliance.holds(row):
                    raise damaged("used")
                holders[columns[1]] = row, row.identity
            row, identity = holders[columns[1]]
            span = proven_span(identity, *columns[:6])
            found[columns[0]] = Location(row.key, row.version or None, span, row.encoding)
        return found


def signed(number: int) -> int:
    """
    A number as SQLite's integers hold it, which have 64 bits with a sign.

    Inode numbers have none; a file's time in nanoseconds has more from the year 2262 on.
    """
    return number if -_HALF <= number < _HALF else ((number + _HALF) & _MASK) - _HALF
