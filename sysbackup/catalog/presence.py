"""Which objects must be in the bucket if what the catalog knows is so, and where the last look at them ended."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from sysbackup.catalog.connection import Connection
from sysbackup.catalog.interface import KnownObject, Named
from sysbackup.catalog.rows import OBJECT, damaged, proven_object

_AT_ONCE = 500


class BucketPresence:
    """See `interface.Presence`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last = -1

    def turned_to(self) -> str:
        """See `interface.Presence`."""
        with self._connection.held() as db:
            row = db.execute("SELECT key FROM census").fetchone()
        return "" if row is None else str(row[0])

    def turn_to(self, key: str) -> None:
        """See `interface.Presence`."""
        with self._connection.transaction() as db:
            db.execute("DELETE FROM census")
            db.execute("INSERT INTO census VALUES (?)", (key,))

    def any_known(self, prefix: str) -> bool:
        """See `interface.Presence`."""
        with self._connection.held() as db:
            query = "SELECT 1 FROM objects WHERE key > ? AND key < ? LIMIT 1"
            return db.execute(query, (prefix, prefix + "\U0010ffff")).fetchone() is not None

    def begin(self) -> None:
        """See `interface.Presence`."""
        with self._connection.held() as db:
            db.execute("DROP TABLE IF EXISTS run.met")
            db.execute("CREATE TABLE run.met (object INTEGER PRIMARY KEY)")
            # numbers only grow while nothing is forgotten: what comes later may have missed the listing
            self._last = db.execute("SELECT coalesce(max(id), -1) FROM objects").fetchone()[0]

    def meet(self, found: Iterable[Named]) -> None:
        """See `interface.Presence`."""
        with self._connection.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO run.met SELECT id FROM objects WHERE key = ? AND version = ?", found)

    def unmet(self, after: str, before: str) -> Iterator[list[KnownObject]]:
        """See `interface.Presence`."""
        last = -1
        while True:
            with self._connection.held() as db:
                rows = db.execute(
                    f"SELECT {OBJECT} FROM objects"
                    " WHERE key > ? AND key < ? AND id > ? AND id <= ? AND id NOT IN (SELECT object FROM run.met)"
                    " ORDER BY id LIMIT ?",
                    (after, before, last, self._last, _AT_ONCE),
                ).fetchall()
            if not rows:
                return
            if rows[-1][0] <= last:  # an order that is none would have no end
                raise damaged("objects")
            last = rows[-1][0]
            # a key that was damaged is not in the bucket either, which is no reason to raise an alarm
            yield [proven_object(*row).known for row in rows]

    def one_of_each_host(self, now: datetime, most: int) -> list[str]:
        """See `interface.Presence`."""
        with self._connection.held() as db:
            hosts = [r[0] for r in db.execute("SELECT DISTINCT host FROM objects ORDER BY random() LIMIT ?", (most,))]
            found = (
                db.execute(
                    "SELECT key FROM objects WHERE host = ? AND until > ? ORDER BY random() LIMIT 1",
                    (host, int(now.timestamp())),
                ).fetchone()
                for host in hosts
            )
            return [str(row[0]) for row in found if row is not None]
