"""Which objects must be in the bucket if what the catalog knows is so, and where the last look at them ended."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from sysbackup.catalog.known import Catalog
from sysbackup.catalog.rows import OBJECT, ObjectRow, damaged, proven_object

_AT_ONCE = 500

Named = tuple[str, str]
"""Key and version id of an object; the latter "" on stores without versions."""


def turned_to(catalog: Catalog) -> str:
    """The key behind which the next look begins; "" at the beginning."""
    with catalog.held() as db:
        row = db.execute("SELECT key FROM census").fetchone()
    return "" if row is None else str(row[0])


def turn_to(catalog: Catalog, key: str) -> None:
    """The next look begins behind this key."""
    with catalog.held() as db:
        db.execute("DELETE FROM census")
        db.execute("INSERT INTO census VALUES (?)", (key,))


def any_known(catalog: Catalog, prefix: str) -> bool:
    """Whether any object under a prefix is known."""
    with catalog.held() as db:
        query = "SELECT 1 FROM objects WHERE key > ? AND key < ? LIMIT 1"
        return db.execute(query, (prefix, prefix + "\U0010ffff")).fetchone() is not None


def begin(catalog: Catalog) -> None:
    """Nothing has been met yet."""
    with catalog.held() as db:
        db.execute("DROP TABLE IF EXISTS temp.met")
        db.execute("CREATE TEMP TABLE met (object INTEGER PRIMARY KEY)")


def meet(catalog: Catalog, found: Iterable[Named]) -> None:
    """These objects are in the bucket."""
    with catalog.held() as db:
        db.execute("BEGIN")
        db.executemany("INSERT OR IGNORE INTO met SELECT id FROM objects WHERE key = ? AND version = ?", found)
        db.execute("COMMIT")


def unmet(catalog: Catalog, after: str, before: str) -> Iterator[list[ObjectRow]]:
    """The objects with keys in (`after`, `before`) that were not met, some at a time."""
    last = -1
    while True:
        with catalog.held() as db:
            rows = db.execute(
                f"SELECT {OBJECT} FROM objects"
                " WHERE key > ? AND key < ? AND id > ? AND id NOT IN (SELECT object FROM met) ORDER BY id LIMIT ?",
                (after, before, last, _AT_ONCE),
            ).fetchall()
        if not rows:
            return
        if rows[-1][0] <= last:  # an order that is none would have no end
            raise damaged("objects")
        last = rows[-1][0]
        # a key that was damaged is not in the bucket either, which is no reason to raise an alarm
        yield [proven_object(*row) for row in rows]


def one_of_each_host(catalog: Catalog, now: datetime, most: int) -> list[str]:
    """The keys of some objects in force, one of each host at the most, chosen by chance."""
    with catalog.held() as db:
        hosts = [row[0] for row in db.execute("SELECT DISTINCT host FROM objects ORDER BY random() LIMIT ?", (most,))]
        found = (
            db.execute(
                "SELECT key FROM objects WHERE host = ? AND until > ? ORDER BY random() LIMIT 1",
                (host, int(now.timestamp())),
            ).fetchone()
            for host in hosts
        )
        return [str(row[0]) for row in found if row is not None]


def forget(catalog: Catalog, numbers: Iterable[int]) -> None:
    """These objects are not in the bucket: nothing that they held counts as stored."""
    gone = [(number,) for number in numbers]
    with catalog.held() as db:
        db.executemany("DELETE FROM contents WHERE object = ?", gone)
        db.executemany("DELETE FROM objects WHERE id = ?", gone)
