"""Which reused objects a run must see to before it may promise what they hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sysbackup.catalog.known import Catalog, rewrite
from sysbackup.catalog.rows import CONTENT, OBJECT, damaged, proven_content, proven_object
from sysbackup.formats.pack import Packed
from sysbackup.model import Lock, StoredObject

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Due:
    """
    One object that is reused although its lock ends too early, or nobody has checked it.

    `leaving`: its living contents were to be stored anew, and some could not be
    read again, so it must stay after all. `used` is how many of the bytes that its
    contents take (`holds`: without a pack's list) the run refers to.
    """

    number: int
    stored: StoredObject
    encoding: str | None
    host: str
    checked: bool
    leaving: bool
    used: int
    holds: int


def collect(catalog: Catalog) -> int:
    """Set down which objects are due now, and how many they are; `due` then pages through them."""
    with catalog.held() as db:
        db.execute("DROP TABLE IF EXISTS temp.due")
        db.execute(
            "CREATE TEMP TABLE due AS SELECT object, sum(coalesce(length, objects.size)) AS bytes FROM used"
            # CROSS JOIN: what is used is looked up, the catalog is not searched for it (sqlite.org/optoverview.html)
            " CROSS JOIN contents ON contents.sha = used.sha CROSS JOIN objects ON id = object"
            f" WHERE {catalog.short} GROUP BY object"
        )
        number: int = db.execute("SELECT count(*) FROM due").fetchone()[0]
        return number


def due(catalog: Catalog) -> Iterator[list[Due]]:
    """The objects that `collect` found, in pages."""
    last = -1
    while True:
        with catalog.held() as db:
            rows = db.execute(
                f"SELECT {OBJECT}, id IN (SELECT object FROM leaving), bytes,"
                " coalesce((SELECT max(start + length) FROM contents WHERE object = id), objects.size) FROM due"
                " JOIN objects ON id = object WHERE id > ? ORDER BY id LIMIT ?",
                (last, _PAGE),
            ).fetchall()
        if not rows:
            return
        if rows[-1][0] <= last:  # an order that is none would have no end
            raise damaged("objects")
        last = rows[-1][0]
        yield [_due(*row) for row in rows]


def _due(*columns: Any) -> Due:
    row = proven_object(*columns[:10])
    leaving, used, holds = columns[10:]
    if not isinstance(used, int) or not isinstance(holds, int):
        raise damaged("contents")
    return Due(row.number, row.stored, row.encoding, row.host, bool(row.checked), bool(leaving), used, holds)


def renewed(catalog: Catalog, number: int, lock: Lock, *, checked: bool) -> None:
    """The store has confirmed that an object's lock is this now; `checked` if its contents were compared as well."""
    until = int(lock.until.timestamp())
    with catalog.held() as db:
        if (known := db.execute(f"SELECT {OBJECT} FROM objects WHERE id = ?", (number,)).fetchone()) is None:
            return  # forgotten meanwhile, with its host
        row = proven_object(*known)
        rewrite(db, row._replace(mode=lock.mode.value, until=until, checked=max(row.checked, int(checked))))
        if row.until < until:
            db.execute("UPDATE objects SET news = 1 WHERE id = ?", (number,))


def leave(catalog: Catalog, number: int) -> None:
    """From now on what an object holds is to be stored anew; until that has happened, it still counts as stored."""
    with catalog.held() as db:
        db.execute("INSERT OR IGNORE INTO leaving VALUES (?)", (number,))


def forget(catalog: Catalog, number: int) -> None:
    """An object is gone, or not to be relied on any more: nothing it held counts as stored."""
    with catalog.held() as db:
        db.execute("DELETE FROM contents WHERE object = ?", (number,))
        db.execute("DELETE FROM objects WHERE id = ?", (number,))


def reencoded(catalog: Catalog, number: int, encoding: str | None) -> None:
    """What stands for an object's contents turned out to be encoded like this."""
    with catalog.held() as db:
        known = db.execute(f"SELECT {OBJECT} FROM objects WHERE id = ?", (number,)).fetchone()
        if known is not None:
            rewrite(db, proven_object(*known)._replace(encoding=encoding))


def contents(catalog: Catalog, number: int) -> list[Packed]:
    """The contents of one object that are known, by offset; offset and length 0 in a content object."""
    with catalog.held() as db:
        known = db.execute(f"SELECT {OBJECT} FROM objects WHERE id = ?", (number,)).fetchone()
        if known is None:
            return []  # forgotten meanwhile, with its host
        rows = db.execute(f"SELECT {CONTENT} FROM contents WHERE object = ? ORDER BY start", (number,)).fetchall()
    identity = proven_object(*known).identity
    found = (proven_content(identity, *row) for row in rows)
    return [Packed(sha, start or 0, length or 0, size) for sha, _, start, length, size in found]


def forget_host(catalog: Catalog, host: str) -> None:
    """Nothing that came from a host's index counts as stored any more."""
    with catalog.held() as db:
        db.execute(
            "DELETE FROM contents WHERE object IN (SELECT id FROM objects WHERE host = ? AND checked = 0)", (host,)
        )
        db.execute("DELETE FROM objects WHERE host = ? AND checked = 0", (host,))
