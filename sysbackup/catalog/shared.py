"""What the catalog learns from indexes, and what it has to publish."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sysbackup.catalog.known import Catalog
from sysbackup.catalog.renewal import contents
from sysbackup.catalog.rows import OBJECT, ObjectRow, damaged, proven_object, proven_text
from sysbackup.formats.index import Indexed
from sysbackup.model import StoredObject


def learn(catalog: Catalog, host: str, objects: Iterable[Indexed], now: datetime, *, doubting: bool = False) -> int:
    """
    Take in what an index of `host` says; returns how many contents were new.

    Known contents stay where they are, unless the lock of their object has
    ended and the new one's ends later. An object known already gets the later
    of both locks, but not with `doubting`: then another host's word changes
    nothing about it. What is in an object that we stored or checked ourselves,
    no other host can tell us. Where it passes on another host's word (`teller`), it
    is that host's, but with `doubting`.
    """
    new = 0
    present = int(now.timestamp())
    with catalog.held() as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            for found in objects:
                own, checked = found.sealed, _checked(db, found.stored)
                if checked is not None and doubting and not own:
                    continue
                fresh = []
                if own or not checked:
                    named = found.stored.key, found.stored.version or ""
                    until = int(found.stored.lock.until.timestamp())
                    for content in found.contents:
                        at = _holder(db, content.sha)
                        if at is None:
                            new += 1
                        elif own and (not at.checked or (at.key, at.version) == named):
                            pass
                        elif at.until >= present or at.until >= until:
                            continue
                        fresh.append(content)
                if fresh or checked is not None:
                    catalog.enter(
                        found.stored,
                        found.encoding,
                        fresh,
                        # what is to be proven is held against who published it, whoever is said to have told of it
                        host=host if doubting else found.teller or host,
                        checked=own,
                        news=False,
                    )
        except BaseException:
            if db.in_transaction:  # a full disk has ended it already
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
    return new


def _checked(db: sqlite3.Connection, stored: StoredObject) -> bool | None:
    """Whether a known object was stored or checked by us; None where it is not known."""
    query = f"SELECT {OBJECT} FROM objects WHERE key = ? AND version = ?"
    row = db.execute(query, (stored.key, stored.version or "")).fetchone()
    return None if row is None else bool(proven_object(*row).checked)


def _holder(db: sqlite3.Connection, sha: bytes) -> ObjectRow | None:
    """The object in which a content lies; None where it is not known."""
    row = db.execute(f"SELECT {OBJECT} FROM contents JOIN objects ON id = object WHERE sha = ?", (sha,)).fetchone()
    return None if row is None else proven_object(*row)


def last_read(catalog: Catalog) -> dict[str, str]:
    """By host, the key of the last index that was read."""
    with catalog.held() as db:
        return {proven_text(host): proven_text(key) for host, key in db.execute("SELECT host, key FROM indexes")}


def read_up_to(catalog: Catalog, keys: Mapping[str, str]) -> None:
    """These indexes, by host, and those before them need not be read again."""
    with catalog.held() as db:
        db.executemany(
            "INSERT INTO indexes VALUES (?, ?, 0) ON CONFLICT (host) DO UPDATE SET key = excluded.key, until = 0"
            " WHERE excluded.key > key",
            list(keys.items()),
        )


def still_locked(catalog: Catalog, host: str, now: datetime) -> str | None:
    """The key of an index that this catalog's own run published and that must still be there; None if there is none."""
    with catalog.held() as db:
        row = db.execute(
            "SELECT key FROM indexes WHERE host = ? AND until > ?", (host, int(now.timestamp()))
        ).fetchone()
    return None if row is None else proven_text(row[0])


def restrict(catalog: Catalog, allowed: Callable[[str], bool]) -> list[str]:
    """
    Forget what came from hosts that are not allowed any more; returns their names.

    They may have said it by way of others, or in the name of others: so all that
    nobody has checked is forgotten with them, and other hosts' indexes count as unread.
    """
    with catalog.held() as db:
        hosts = {proven_text(row[0]) for row in db.execute("SELECT DISTINCT host FROM objects")}
        hosts |= {proven_text(row[0]) for row in db.execute("SELECT host FROM indexes")}
        dropped = sorted(host for host in hosts if not allowed(host))
        for host in dropped:
            db.execute("DELETE FROM contents WHERE object IN (SELECT id FROM objects WHERE host = ?)", (host,))
            db.execute("DELETE FROM objects WHERE host = ?", (host,))
            db.execute("DELETE FROM indexes WHERE host = ?", (host,))
    if dropped:
        forget_unproven(catalog)
    return dropped


def unproven(catalog: Catalog) -> bool:
    """Whether anything in the catalog is a word that nobody has compared with the bytes."""
    with catalog.held() as db:
        return db.execute("SELECT 1 FROM objects WHERE checked = 0 LIMIT 1").fetchone() is not None


def forget_unproven(catalog: Catalog) -> None:
    """Forget what nobody has compared with the bytes, and count the indexes of other hosts as unread."""
    with catalog.held() as db:
        db.execute("DELETE FROM contents WHERE object IN (SELECT id FROM objects WHERE checked = 0)")
        db.execute("DELETE FROM objects WHERE checked = 0")
        db.execute("DELETE FROM indexes WHERE host != ?", (catalog.own,))


def begin_publishing(catalog: Catalog) -> int:
    """Choose what the next index is to hold; returns how many objects that is."""
    with catalog.held() as db:
        # An object whose contents are relied on elsewhere by now is of no use to anybody.
        db.execute("UPDATE objects SET news = 2 * (id IN (SELECT object FROM contents)) WHERE news > 0")
        number: int = db.execute("SELECT count(*) FROM objects WHERE news = 2").fetchone()[0]
        return number


def news(catalog: Catalog) -> Iterator[Indexed]:
    """What `begin_publishing` chose."""
    last = -1
    while True:
        with catalog.held() as db:
            found = db.execute(
                f"SELECT {OBJECT} FROM objects WHERE news = 2 AND id > ? ORDER BY id LIMIT 1", (last,)
            ).fetchone()
        if found is None:
            return
        row = proven_object(*found)
        if row.number <= last:  # an order that is none would have no end
            raise damaged("objects")
        last = row.number
        # What nobody has checked stays the word of the host that we have it from.
        teller = None if row.checked else row.host
        yield Indexed(row.stored, row.encoding, tuple(contents(catalog, last)), teller)


def published(catalog: Catalog, host: str, key: str, until: datetime | None) -> None:
    """The store has confirmed an index with what `begin_publishing` chose; what came since is yet to be."""
    with catalog.held() as db:
        db.execute("UPDATE objects SET news = 0 WHERE news = 2")
        db.execute(
            "INSERT OR REPLACE INTO indexes VALUES (?, ?, ?)", (host, key, int(until.timestamp()) if until else 0)
        )


@dataclass(frozen=True, slots=True)
class Info:
    """What is in a catalog; `stored` in bytes, `locks` from the first to the last end."""

    objects: int
    contents: int
    files: int
    stored: int
    locks: tuple[datetime, datetime] | None
    hosts: dict[str, int]
    unpublished: int
    bucket: str | None


def info(catalog: Catalog) -> Info:
    """Counts over the whole catalog, whose objects are proven: there are far fewer of them than of contents."""
    with catalog.held() as db:
        hosts: Counter[str] = Counter()
        ends: list[int] = []
        stored = 0
        for row in (proven_object(*values) for values in db.execute(f"SELECT {OBJECT} FROM objects")):
            hosts[row.host] += 1
            ends.append(row.until)
            stored += row.size
        bucket = db.execute("SELECT name FROM bucket").fetchone()
        return Info(
            len(ends),
            db.execute("SELECT count(*) FROM contents").fetchone()[0],
            db.execute("SELECT count(*) FROM files").fetchone()[0],
            stored,
            (datetime.fromtimestamp(min(ends), UTC), datetime.fromtimestamp(max(ends), UTC)) if ends else None,
            dict(hosts),
            db.execute("SELECT count(*) FROM objects WHERE news > 0").fetchone()[0],
            None if bucket is None else proven_text(bucket[0]),
        )
