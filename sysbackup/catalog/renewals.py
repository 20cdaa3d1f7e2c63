"""Which reused objects a run must see to before it may promise what they hold."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sysbackup.catalog import objects, run_notes
from sysbackup.catalog.connection import Connection, select
from sysbackup.catalog.interface import Due
from sysbackup.catalog.needs import is_list, needed
from sysbackup.catalog.pieces import PLACES, members_of, of_object
from sysbackup.catalog.places import Place, Places
from sysbackup.catalog.reliance import Reliance
from sysbackup.catalog.rows import OBJECT, damaged, proven_object
from sysbackup.formats import keys
from sysbackup.model import Lock, Member

_PAGE = 20


class DueRenewals:
    """See `interface.Renewals`."""

    def __init__(self, connection: Connection, places: Places, reliance: Reliance) -> None:
        self._connection = connection
        self._places = places
        self._reliance = reliance

    def collect(self) -> int:
        """See `interface.Renewals`."""
        with self._connection.held() as db:
            db.execute("DROP TABLE IF EXISTS run.due")
            db.execute("DROP TABLE IF EXISTS run.counted")
            db.execute("CREATE TABLE run.due (object INTEGER PRIMARY KEY, bytes INTEGER NOT NULL)")
            db.execute("CREATE TABLE run.counted (piece INTEGER PRIMARY KEY, places BLOB NOT NULL)")
        note = 0
        while True:
            # others have their turn in between
            with self._connection.transaction() as db:
                if (found := run_notes.used_after(db, note)) is None:
                    number: int = db.execute("SELECT count(*) FROM run.due").fetchone()[0]
                    return number
                note, shas = found
                self._count(db, self._places.find(db, shas).values())

    def _count(self, db: sqlite3.Connection, used: Collection[Place]) -> None:
        """Add to `run.due` what is used of objects that fall short, each content once."""
        holders = {holder.number: holder for _, holder, _, _ in used}
        short = {number for number, holder in holders.items() if self._reliance.short(holder)}
        by_piece: defaultdict[int, list[Place]] = defaultdict(list)
        for place in used:
            if place[1].number in short or is_list(place[1]):
                by_piece[place[2].number].append(place)
        counted = dict(select(db, "SELECT piece, places FROM run.counted WHERE piece IN ({})", list(by_piece)))
        sums: Counter[int] = Counter()
        for number, places in by_piece.items():
            before = mask = int.from_bytes(counted.get(number, b""), "little")
            for _, holder, piece, ref in places:
                bit = 1 << (ref & (1 << PLACES) - 1)
                if not before & bit:
                    span = piece.span(ref)
                    if holder.number in short:
                        sums[holder.number] += span.length if span else holder.size
                    for row, size in needed(db, holder):
                        if self._reliance.lapses(row):
                            sums[row.number] += size
                mask |= bit
            counted[number] = mask.to_bytes(16, "little")
        db.executemany("INSERT OR REPLACE INTO run.counted VALUES (?, ?)", counted.items())
        db.executemany(
            "INSERT INTO run.due VALUES (?, ?) ON CONFLICT (object) DO UPDATE SET bytes = bytes + excluded.bytes",
            sums.items(),
        )

    def due(self) -> Iterator[list[Due]]:
        """See `interface.Renewals`."""
        last = -1
        while True:
            with self._connection.held() as db:
                rows = db.execute(
                    f"SELECT {OBJECT}, id IN (SELECT object FROM run.leaving), bytes"
                    " FROM run.due JOIN objects ON id = object WHERE id > ? ORDER BY id LIMIT ?",
                    (last, _PAGE),
                ).fetchall()
                if not rows:
                    return
                if rows[-1][0] <= last:  # an order that is none would have no end
                    raise damaged("objects")
                last = rows[-1][0]
                page = [_due(db, *row) for row in rows]
            yield page

    def renewed(self, number: int, lock: Lock, *, checked: bool) -> None:
        """See `interface.Renewals`."""
        until = int(lock.until.timestamp())
        with self._connection.held() as db:
            row = objects.numbered(db, number)
            if row is None:
                return
            checked = bool(row.checked) or checked
            objects.rewrite(db, row._replace(mode=lock.mode.value, until=until, checked=int(checked)))
            # of what lists need, a lost catalog is to know by our own word that it was proven
            if row.until < until or (row.checked < checked and keys.is_stream_pack(row.key)):
                db.execute("UPDATE objects SET news = 1 WHERE id = ?", (number,))

    def leave(self, number: int) -> None:
        """See `interface.Renewals`."""
        with self._connection.held() as db:
            db.execute("INSERT OR IGNORE INTO run.leaving VALUES (?)", (number,))

    def forget(self, numbers: Iterable[int]) -> None:
        """See `interface.Renewals`."""
        with self._connection.transaction() as db:
            objects.forget(db, numbers)

    def forget_host(self, host: str) -> None:
        """See `interface.Renewals`."""
        with self._connection.transaction() as db:
            objects.forget_where(db, "host = ? AND checked = 0", (host,))

    def reencoded(self, number: int, encoding: str | None) -> None:
        """See `interface.Renewals`."""
        with self._connection.held() as db:
            row = objects.numbered(db, number)
            if row is not None:
                objects.rewrite(db, row._replace(encoding=encoding))

    def vouch(self, *, believing: bool) -> None:
        """See `interface.Renewals`."""
        query = f"SELECT {OBJECT} FROM objects JOIN run.made ON id = object WHERE checked = 0"
        with self._connection.transaction() as db:
            for columns in db.execute(query).fetchall():
                row = proven_object(*columns)
                if believing or all(found.checked for found, _ in needed(db, row)):
                    objects.rewrite(db, row._replace(checked=1))
                    db.execute("UPDATE objects SET news = 1 WHERE id = ?", (row.number,))

    def members(self, number: int) -> list[Member]:
        """See `interface.Renewals`."""
        with self._connection.held() as db:
            row = objects.numbered(db, number)
            return [] if row is None else members_of(db, row)


def _due(db: sqlite3.Connection, *columns: Any) -> Due:
    row = proven_object(*columns[:-2])
    leaving, used = columns[-2:]
    ends = [member.span.end for piece in of_object(db, row) for member in piece.all() if member.span]
    holds = max(ends, default=row.size)
    return Due(row.number, row.stored, row.encoding, row.host, bool(row.checked), bool(leaving), used, holds)
