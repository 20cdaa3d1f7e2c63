"""What the catalog learns from indexes, and what it has to publish."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from sysbackup.catalog import objects
from sysbackup.catalog.connection import Connection
from sysbackup.catalog.needs import needed
from sysbackup.catalog.pieces import members_of
from sysbackup.catalog.places import Places
from sysbackup.catalog.rows import OBJECT, ObjectRow, damaged, proven_object, proven_text
from sysbackup.formats import chunk_list
from sysbackup.formats.index import Indexed
from sysbackup.model import Member


class ReadIndexes:
    """See `interface.Indexes`; `own` is the host whose run it is."""

    def __init__(self, connection: Connection, own: str, places: Places) -> None:
        self._connection = connection
        self._places = places
        self._own = own

    def learn(self, host: str, said: Iterable[Indexed], now: datetime, *, doubting: bool = False) -> int:
        """See `interface.Indexes`."""
        new = 0
        with self._connection.transaction() as db:
            for found in said:
                new += _learn(db, self._places, host, found, int(now.timestamp()), doubting=doubting)
        return new

    def last_read(self) -> dict[str, str]:
        """See `interface.Indexes`."""
        with self._connection.held() as db:
            return {proven_text(host): proven_text(key) for host, key in db.execute("SELECT host, key FROM indexes")}

    def read_up_to(self, keys: Mapping[str, str]) -> None:
        """See `interface.Indexes`."""
        with self._connection.held() as db:
            db.executemany(
                "INSERT INTO indexes VALUES (?, ?, 0) ON CONFLICT (host) DO UPDATE SET key = excluded.key, until = 0"
                " WHERE excluded.key > key",
                list(keys.items()),
            )

    def still_locked(self, now: datetime) -> str | None:
        """See `interface.Indexes`."""
        with self._connection.held() as db:
            row = db.execute(
                "SELECT key FROM indexes WHERE host = ? AND until > ?", (self._own, int(now.timestamp()))
            ).fetchone()
        return None if row is None else proven_text(row[0])

    def restrict(self, allowed: Callable[[str], bool]) -> list[str]:
        """See `interface.Indexes`."""
        with self._connection.held() as db:
            hosts = {proven_text(row[0]) for row in db.execute("SELECT DISTINCT host FROM objects")}
            hosts |= {proven_text(row[0]) for row in db.execute("SELECT host FROM indexes")}
            dropped = sorted(host for host in hosts if not allowed(host))
            for host in dropped:
                objects.forget_where(db, "host = ?", (host,))
                db.execute("DELETE FROM indexes WHERE host = ?", (host,))
        if dropped:
            self.forget_unproven()
        return dropped

    def unproven(self) -> bool:
        """See `interface.Indexes`."""
        with self._connection.held() as db:
            return db.execute("SELECT 1 FROM objects WHERE checked = 0 LIMIT 1").fetchone() is not None

    def forget_unproven(self) -> None:
        """See `interface.Indexes`."""
        with self._connection.held() as db:
            objects.forget_where(db, "checked = 0")
            db.execute("DELETE FROM indexes WHERE host != ?", (self._own,))

    def begin_publishing(self) -> int:
        """See `interface.Indexes`."""
        with self._connection.held() as db:
            # An object whose contents are relied on elsewhere by now is of no use to anybody.
            db.execute("UPDATE objects SET news = 2 * (id IN (SELECT object FROM pieces)) WHERE news > 0")
            number: int = db.execute("SELECT count(*) FROM objects WHERE news = 2").fetchone()[0]
            return number

    def news(self) -> Iterator[Indexed]:
        """See `interface.Indexes`."""
        last = -1
        while True:
            with self._connection.held() as db:
                found = db.execute(
                    f"SELECT {OBJECT} FROM objects WHERE news = 2 AND id > ? ORDER BY id LIMIT 1", (last,)
                ).fetchone()
                if found is None:
                    return
                row = proven_object(*found)
                if row.number <= last:  # an order that is none would have no end
                    raise damaged("objects")
                last = row.number
                held = tuple(members_of(db, row))
                needs = tuple((found.key, found.version, size) for found, size in needed(db, row))
            # What nobody has checked stays the word of the host that we have it from.
            teller = None if row.checked else row.host
            yield Indexed(row.stored, row.encoding, held, teller, needs=needs)

    def published(self, key: str, until: datetime | None) -> None:
        """See `interface.Indexes`."""
        ends = int(until.timestamp()) if until else 0
        with self._connection.held() as db:
            db.execute("UPDATE objects SET news = 0 WHERE news = 2")
            db.execute("INSERT OR REPLACE INTO indexes VALUES (?, ?, ?)", (self._own, key, ends))


def _learn(db: sqlite3.Connection, places: Places, host: str, found: Indexed, present: int, *, doubting: bool) -> int:
    """Take in one object; returns how many of its contents were new."""
    own, known = found.sealed, objects.known(db, found.stored.key, found.stored.version)
    if found.encoding == chunk_list.NAME and not own:
        return 0  # nobody else can say of what a list is, but by reading all of it
    if known is not None and doubting and not own:
        return 0
    new, fresh = 0, list[Member]()
    if own or known is None or not known.checked:
        at = places.find(db, {content.sha for content in found.contents})
        new = len({content.sha for content in found.contents} - at.keys())
        fresh = [c for c in found.contents if c.sha not in at or _better(found, at[c.sha][1], present)]
    if fresh or own or known is not None:  # what is ours a list may need, wherever else its contents lie by now
        # what is to be proven is held against who published it, whoever is said to have told of it
        teller = host if doubting else found.teller or host
        needs = {(key, version): size for key, version, size in found.needs}
        objects.enter(
            db, places, found.stored, found.encoding, fresh, host=teller, checked=own, news=False, needs=needs
        )
    return new


def _better(found: Indexed, at: ObjectRow, present: int) -> bool:
    """Whether a content that lies in `at` is better known to lie in what was found."""
    stored = found.stored
    if found.sealed and (not at.checked or (at.key, at.version) == (stored.key, stored.version or "")):
        return True
    return at.until < present and at.until < int(stored.lock.until.timestamp())
