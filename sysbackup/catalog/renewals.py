"""Which reused objects a run must see to before it may promise what they hold."""

from collections.abc import Iterable, Iterator
from typing import Any

from sysbackup.catalog import objects
from sysbackup.catalog.connection import Connection
from sysbackup.catalog.interface import Due
from sysbackup.catalog.reliance import Reliance
from sysbackup.catalog.rows import CONTENT, OBJECT, damaged, proven_content, proven_object
from sysbackup.model import Lock, Member

_PAGE = 500


class DueRenewals:
    """See `interface.Renewals`."""

    def __init__(self, connection: Connection, reliance: Reliance) -> None:
        self._connection = connection
        self._reliance = reliance

    def collect(self) -> int:
        """See `interface.Renewals`."""
        with self._connection.held() as db:
            db.execute("DROP TABLE IF EXISTS run.due")
            db.execute(
                "CREATE TABLE run.due AS SELECT object, sum(coalesce(length, objects.size)) AS bytes FROM run.used"
                # CROSS JOIN: what is used is looked up, the catalog is not searched for it: sqlite.org/optoverview.html
                " CROSS JOIN contents ON contents.sha = used.sha CROSS JOIN objects ON id = object"
                f" WHERE {self._reliance.short} GROUP BY object"
            )
            number: int = db.execute("SELECT count(*) FROM run.due").fetchone()[0]
            return number

    def due(self) -> Iterator[list[Due]]:
        """See `interface.Renewals`."""
        last = -1
        while True:
            with self._connection.held() as db:
                rows = db.execute(
                    f"SELECT {OBJECT}, id IN (SELECT object FROM run.leaving), bytes,"
                    " coalesce((SELECT max(start + length) FROM contents WHERE object = id), objects.size) FROM run.due"
                    " JOIN objects ON id = object WHERE id > ? ORDER BY id LIMIT ?",
                    (last, _PAGE),
                ).fetchall()
            if not rows:
                return
            if rows[-1][0] <= last:  # an order that is none would have no end
                raise damaged("objects")
            last = rows[-1][0]
            yield [_due(*row) for row in rows]

    def renewed(self, number: int, lock: Lock, *, checked: bool) -> None:
        """See `interface.Renewals`."""
        until = int(lock.until.timestamp())
        with self._connection.held() as db:
            row = objects.numbered(db, number)
            if row is None:
                return
            checked = bool(row.checked) or checked
            objects.rewrite(db, row._replace(mode=lock.mode.value, until=until, checked=int(checked)))
            if row.until < until:
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

    def members(self, number: int) -> list[Member]:
        """See `interface.Renewals`."""
        return members(self._connection, number)


def members(connection: Connection, number: int) -> list[Member]:
    """The contents of one object that are known, by offset; none where it was forgotten meanwhile."""
    with connection.held() as db:
        row = objects.numbered(db, number)
        if row is None:
            return []
        found = db.execute(f"SELECT {CONTENT} FROM contents WHERE object = ? ORDER BY start", (number,)).fetchall()
        identity = row.identity
        return [proven_content(identity, *columns) for columns in found]


def _due(*columns: Any) -> Due:
    row = proven_object(*columns[:10])
    leaving, used, holds = columns[10:]
    if not isinstance(used, int) or not isinstance(holds, int):
        raise damaged("contents")
    return Due(row.number, row.stored, row.encoding, row.host, bool(row.checked), bool(leaving), used, holds)
