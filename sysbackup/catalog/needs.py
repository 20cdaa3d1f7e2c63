"""
What lists of chunks need: the objects in which the chunks lie.

A list is worth nothing without them. It falls short where one of them does, is left
where one of them is, and forgotten with it.
"""

import sqlite3
from collections.abc import Sequence

from sysbackup.catalog.connection import select
from sysbackup.catalog.pieces import of_object
from sysbackup.catalog.rows import OBJECT, ObjectRow, damaged, proven_object
from sysbackup.formats import chunk_list


def is_list(row: ObjectRow) -> bool:
    """Whether an object is a list of chunks."""
    return row.encoding == chunk_list.NAME


def needed(db: sqlite3.Connection, row: ObjectRow) -> list[tuple[ObjectRow, int]]:
    """The objects that a list needs, each proven, and how many of their bytes; none for what is no list."""
    if not is_list(row):
        return []
    wanted = dict(need for piece in of_object(db, row) for need in piece.needs())
    found = select(db, f"SELECT {OBJECT} FROM objects WHERE id IN ({{}})", list(wanted))
    rows = {found.number: found for found in (proven_object(*columns) for columns in found)}
    if rows.keys() != wanted.keys():
        raise damaged("pieces")  # with the object, its list would have been forgotten
    return [(rows[number], size) for number, size in sorted(wanted.items())]


def without_their_needs(db: sqlite3.Connection) -> Sequence[int]:
    """The lists that need an object which is not known any more."""
    found = db.execute(f"SELECT {OBJECT} FROM objects WHERE encoding = ?", (chunk_list.NAME,)).fetchall()
    lacking = []
    for row in (proven_object(*columns) for columns in found):
        wanted = {number for piece in of_object(db, row) for number, _ in piece.needs()}
        if wanted - {number for (number,) in select(db, "SELECT id FROM objects WHERE id IN ({})", [*wanted])}:
            lacking.append(row.number)
    return lacking
