"""Objects and their contents written down, changed and forgotten, row by row."""

import sqlite3
from collections.abc import Iterable, Sequence

from sysbackup.catalog.interface import NO_NEEDS, Needs
from sysbackup.catalog.needs import in_need_of
from sysbackup.catalog.pieces import members_of
from sysbackup.catalog.places import Places
from sysbackup.catalog.reliance import FIRMNESS
from sysbackup.catalog.rows import OBJECT, ObjectRow, proven_object
from sysbackup.model import Lock, LockMode, Member, StoredObject


def known(db: sqlite3.Connection, key: str, version: str | None) -> ObjectRow | None:
    """The row of an object; None where it is not known."""
    row = db.execute(f"SELECT {OBJECT} FROM objects WHERE key = ? AND version = ?", (key, version or "")).fetchone()
    return None if row is None else proven_object(*row)


def numbered(db: sqlite3.Connection, number: int) -> ObjectRow | None:
    """The row of that number; None where the object was forgotten meanwhile, with its host."""
    row = db.execute(f"SELECT {OBJECT} FROM objects WHERE id = ?", (number,)).fetchone()
    return None if row is None else proven_object(*row)


def enter(
    db: sqlite3.Connection,
    places: Places,
    stored: StoredObject,
    encoding: str | None,
    contents: Sequence[Member],
    *,
    host: str,
    checked: bool,
    news: bool,
    needs: Needs = NO_NEEDS,
) -> bool:
    """
    Write down an object and its contents, in a transaction of the caller's.

    `checked`: we know it for ourselves. What others said of the object before, of its
    lock too, is forgotten then; returns whether they had named a content that is not in it, or not there.
    A list of chunks is not taken where it `needs` what is not known: that is refuted, too. One that
    we have just made (`news`) is no truer than what it needs: see `interface.Renewals.vouch`.
    """
    wanted = [(found, size) for named, size in needs.items() if (found := known(db, *named)) is not None]
    if len(wanted) < len(needs):
        return True
    proven = checked and (not news or all(found.checked for found, _ in wanted))
    refuted = proven and _forget_hearsay(db, stored, contents)
    row = known(db, stored.key, stored.version)
    if row is None:
        row = _add(db, stored, encoding, host=host, checked=proven, news=news)
    else:
        rewrite(db, _later(row, stored.lock))
        if news:
            db.execute("UPDATE objects SET news = 1 WHERE id = ?", (row.number,))
    if checked and not proven:
        db.execute("INSERT OR IGNORE INTO run.made VALUES (?)", (row.number,))
    places.put(db, row, contents, sorted((found.number, size) for found, size in wanted))
    return refuted


def _forget_hearsay(db: sqlite3.Connection, stored: StoredObject, contents: Sequence[Member]) -> bool:
    row = known(db, stored.key, stored.version)
    if row is None or row.checked:
        return False
    told = {(member.sha, member.span) for member in members_of(db, row)}
    forget(db, [row.number])
    return not told <= {(member.sha, member.span) for member in contents}


def _add(
    db: sqlite3.Connection, stored: StoredObject, encoding: str | None, *, host: str, checked: bool, news: bool
) -> ObjectRow:
    values = (
        stored.key,
        stored.version or "",
        stored.size,
        stored.lock.mode.value,
        int(stored.lock.until.timestamp()),
        encoding,
        host,
        int(checked),
    )
    cursor = db.execute(
        "INSERT INTO objects (key, version, size, mode, until, encoding, host, checked, news, sum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (*values, int(news)),
    )
    assert cursor.lastrowid is not None
    row = ObjectRow(cursor.lastrowid, *values)
    db.execute("UPDATE objects SET sum = ? WHERE id = ?", (row.sum, row.number))
    # the number may have been that of an object which this run has left, and which then was gone
    db.execute("DELETE FROM run.leaving WHERE object = ?", (row.number,))
    db.execute("DELETE FROM run.made WHERE object = ?", (row.number,))
    return row


def _later(row: ObjectRow, lock: Lock) -> ObjectRow:
    """
    A row under the later and the firmer of two locks: of two things said of one version's lock both are true.

    `none` is no lock at all, whatever date comes with it (that is until when a run
    with `lock_mode = none` would have liked one).
    """
    before, until = LockMode(row.mode), int(lock.until.timestamp())
    if (before is LockMode.NONE) is (lock.mode is LockMode.NONE):
        until = max(row.until, until)
    elif lock.mode is LockMode.NONE:
        until = row.until
    return row._replace(mode=max(before, lock.mode, key=FIRMNESS.index).value, until=until)


def rewrite(db: sqlite3.Connection, row: ObjectRow) -> None:
    """Write down what may change of an object that is known."""
    db.execute(
        "UPDATE objects SET mode = ?, until = ?, encoding = ?, checked = ?, sum = ? WHERE id = ?",
        (row.mode, row.until, row.encoding, row.checked, row.sum, row.number),
    )


def forget(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """These objects, and what they held, are not known any more."""
    gone = set(numbers)
    while gone:
        lists = in_need_of(db, gone)
        db.executemany("DELETE FROM pieces WHERE object = ?", ((number,) for number in gone))
        db.executemany("DELETE FROM objects WHERE id = ?", ((number,) for number in gone))
        gone = lists - gone


def forget_where(db: sqlite3.Connection, condition: str, values: Sequence[object] = ()) -> None:
    """The same for all objects of which an SQL condition of ours is true."""
    forget(db, [number for (number,) in db.execute(f"SELECT id FROM objects WHERE {condition}", values).fetchall()])
